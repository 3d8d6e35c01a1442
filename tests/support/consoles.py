"""A platform and an aggregator as files, for their consoles: after a private run, with recorded feedback and nasty texts."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import yaml

from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.versions.outcomes import ShownUsers
from common.config.loader import load_yaml_model
from common.deploy.roles import AggregatorConfig
from simulations.run import simulate
from simulations.scenarios.scenario import Scenario
from tests.support.registrations import registration

MARK = "3e7a"
"""In every user's id and nowhere else."""
NASTY = "<script>alert(1)</script> \u202e數字"
USERS, ITEMS = 200, 24


def platform_files(folder: Path) -> Path:
    """A platform's configuration, its state being what a private run of two platforms left it.

    Returns:
        The path of ``platform.yaml``.
    """
    rng = np.random.default_rng(5)
    odds = np.arange(1, ITEMS + 1) / np.arange(1, ITEMS + 1).sum()
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        items = rng.choice(ITEMS, 8, replace=False, p=odds)
        rows += [f"user-{user}-{MARK},{item},{1_700_000_000 + place}" for place, item in enumerate(items)]
    rows.append(f"user-1-{MARK},,1")  # no item: cleaning drops it
    (folder / "views.csv").write_text("\n".join(rows) + "\n")
    titles = [NASTY if item == 3 else f"Film {item}" for item in range(ITEMS)]
    lines = [f'{item},"{title}","[Drama, Comedy]"' for item, title in enumerate(titles)]
    (folder / "films.csv").write_text("\n".join(["item_id,title,genres", *lines]) + "\n")
    data = {
        "interactions": {"path": str(folder / "views.csv")},
        "items": {"path": str(folder / "films.csv"), "namespace": "film", "id_column": "item_id"},
    }
    plan = {
        "federation": "films",
        "rounds": 3,
        "model": {"dimension": 4},
        "privacy": {
            "mode": "user", "epsilon": 3, "user_bound": 5000, "noise": "per_platform", "minimum_users": 5, "budget": 9,
        },
    }  # fmt: skip
    scenario = {
        "partition": {"data": data, "platforms": {"cinema": 3, "forum": 1}, "common_items": 0.6},
        "plan": plan,
        "personalization": {"tuning_candidates": 1, "anchored": False},
        "cross": {"ceiling": False, "tune_beta": False},
    }
    simulate(Scenario.model_validate({"name": "console", **scenario}), folder / "run")
    home = folder / "cinema"
    home.mkdir()
    shutil.copytree(folder / "run" / "platforms" / "cinema", home / "state")
    config = {
        "name": "cinema",
        "plan": plan | {"platforms": 2},
        "aggregator": "films.example.org:9443",
        "data": data,
        "budget": 9,
        "recommender": {"port": 1},
        "supernode": {"port": 1},
    }
    (home / "platform.yaml").write_text(yaml.safe_dump(config))
    store = PlatformStore(home / "state" / "store")
    store.commit(store.load())
    with FeedbackLog(home / "state" / "store" / "feedback.log") as log:
        for event in range(4):
            log.record(
                f"e{event}", a_user(home / "platform.yaml"), f"film:{event}", 1.0, int(time.time()) - event * 86_400
            )
    split(store)
    return home / "platform.yaml"


def split(store: PlatformStore) -> None:
    """A split between the two versions, in which every other one of 40 users was shown a list by each."""
    store.experiments.begin("split", 1, 0.5)
    experiment = store.experiments.current()
    assert experiment is not None
    shown = ShownUsers(store.experiments.shown_path, experiment)
    for user in store.load().user_ids[:40]:
        shown.note(user, int(time.time()) - 3_600)


def a_user(config: Path) -> str:
    """One of the platform's users."""
    return PlatformStore(config.parent / "state" / "store").load().user_ids[0]


def aggregator_files(folder: Path) -> Path:
    """An aggregator's configuration with two admitted platforms, of which one is late, and runs that ended well and badly.

    Returns:
        The path of ``federation.yaml``.
    """
    from common.contributions.run_plan import read_plan
    from server.deploy.admission import AdmissionBook
    from server.deploy.provisioning import initialise

    plan = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})
    config = initialise(folder / "agg", plan, "films.example.org:9443", superlink_port=1).config
    book = AdmissionBook(load_yaml_model(config, AggregatorConfig).platforms)
    for name in ("cinema", "forum"):
        book.admit(registration(name), plan.federation)
    runs = folder / "agg" / "state" / "runs"
    record = {
        "round": 1, "seconds": 1.5, "bytes_up": 120_000, "bytes_down": 80_000, "objective": 12.5, "recall": None,
        "platforms": ["cinema", "forum"], "failed": {}, "phase": "factors",
    }  # fmt: skip
    late = record | {"round": 2, "platforms": ["cinema"], "failed": {"forum": "deadline"}}
    for name, state, error in (("run-1", "finished", None), ("run-2", "failed", f"forum did not answer {NASTY}")):
        (runs / name).mkdir(parents=True)
        status = {
            "format": 1, "name": name, "state": state, "process": 0, "started": "2026-11-01T10:00:00+00:00",
            "ended": "2026-11-01T11:00:00+00:00", "error": error, "rounds": [record, late],
            "answers": {"cinema": {"kind": "statistics", "round": 2, "code": "ok", "time": 1_793_527_200.0}},
            "connected": ["cinema"], "wanted": 2,
        }  # fmt: skip
        (runs / name / "status.json").write_text(json.dumps(status))
    return config
