"""An aggregator's pages show public facts and charged values: they are the same whoever the platforms' users are.

Two worlds have the same catalogues and the same plan; one platform's users are others, and many more. Of times, which differ by
chance, nothing is compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.contributions.contributor import Contributor
from client.data.training import TrainingData
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model
from common.deploy.roles import AggregatorConfig
from common.errors import CrossfedError, DataError
from common.privacy.contribution import PrivatizedContribution
from common.web.console.serving import ConsoleServer
from server.console.places import aggregator_console
from server.deploy.provisioning import initialise
from server.deploy.runs import RunFolder
from tests.private_support import private_plan, private_platforms
from tests.support import agents_of, federate, random_matrix, stand_in, training_data
from tests.support.visits import ConsoleVisit

pytestmark = pytest.mark.usefixtures("one_thread")
MARK = "3e7a"
USERS = 1379
RUN = "run-1"
TIMES = {"seconds": 1.5, "time": 1_793_527_200.0, "started": "2026-11-01T10:00:00+00:00", "ended": None}


def other_users(platforms: Mapping[str, TrainingData]) -> dict[str, TrainingData]:
    """The same platforms with other users in place of the first one's: marked ones, and a number that is easy to find."""
    name, first = next(iter(platforms.items()))
    users = random_matrix(np.random.default_rng(8), USERS, len(first.items.keys))
    return {**platforms, name: training_data(first.items.keys, users, shared=first.shared, user_prefix=f"user-{MARK}")}


def break_down(_contributor: Contributor, *_request: Any) -> PrivatizedContribution:
    raise DataError(f"user-{MARK}-7 of {USERS} has a history that cannot be used")


def run(platforms: Mapping[str, TrainingData], plan: FederationPlan, folder: Path, *, broken: bool = False) -> str:
    """Return the text of an aggregator's pages after a run."""
    path = initialise(folder / "agg", plan, "films.example.org:9443", superlink_port=1).config
    recorded = RunFolder(load_yaml_model(path, AggregatorConfig).state, RUN)
    agents = agents_of(platforms, plan, folder)
    if broken:
        stand_in(agents[0], "statistics", break_down)
    try:
        with recorded.recorded():
            federate(agents, plan, folder, observer=recorded.observer())
    except CrossfedError:
        assert broken
    status = recorded.folder / "status.json"
    status.write_text(json.dumps(timeless(json.loads(status.read_text()))))
    with ConsoleServer(lambda port: aggregator_console(path, port)) as running:
        visit = ConsoleVisit(running)
        return "\n".join(visit.see(page) for page in ("/", "/runs", f"/runs?run={RUN}"))


def timeless(value: Any) -> Any:
    """The same with fixed values in place of times."""
    if isinstance(value, dict):
        return {key: TIMES.get(key, timeless(one)) for key, one in value.items()}
    return [timeless(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("noise", ["per_platform", "secure_sum"])
def test_pages_of_private_runs_do_not_depend_on_users(tmp_path: Path, noise: str, broken: bool) -> None:
    plan, platforms = private_plan(noise=noise, user_bound=2000), private_platforms()
    one = run(platforms, plan, tmp_path / "one", broken=broken)
    other = run(other_users(platforms), plan, tmp_path / "other", broken=broken)
    assert one == other
    assert MARK not in other
    assert str(USERS) not in other.replace(",", "")
    assert all(name in other for name in platforms)


def test_pages_without_privacy_name_no_user(tmp_path: Path) -> None:
    plan = private_plan(mode="none")
    for broken in (False, True):
        shown = run(other_users(private_platforms()), plan, tmp_path / str(broken), broken=broken)
        assert MARK not in shown
        assert str(USERS) not in shown.replace(",", "")
        assert "cannot be used" not in shown
