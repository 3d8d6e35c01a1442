"""All that a platform holds of one person, as one JSON document: for access and portability."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from client.data.recorded import EventRules
from client.passport.books import PASSPORTS_FILE
from client.person.places import Places, rows_of, set_aside_events
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.feedback_file import FeedbackEvent, read_log
from client.recommend.quarantine import quarantine_of
from client.sharding.person import rows_in_shards
from client.sharding.platform import catalogue_of
from client.towers.stored import USER_ROWS
from client.versions.experiment import ExperimentFile
from client.versions.outcomes import read_shown
from common.deploy.roles import PlatformConfig

FORMAT = "crossfed person export 1"
_NOT_HERE = (
    "Nothing of one person leaves this platform: sums over all users do, within the plan's privacy. Scores and factors are "
    "computed when they are asked for and are not kept. Ledger and journal hold no id."
)

Json = dict[str, Any]


def export_person(config: PlatformConfig, user: str) -> Json:
    """Return what is held of ``user``, an id in the form in which ids are compared.

    Raises:
        DataError: a file cannot be read.
        StoreError: a version, the log or the exclusion list cannot be read.
    """
    places = Places(config)
    excluded = places.book.current().of(user)
    return {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": config.name,
        "federation": config.plan.federation,
        "person": user,
        "left_out": None if excluded is None else asdict(excluded),
        "files": [
            {"file": table.section, "path": str(table.path), "rows": rows_of(table, column, user)}
            for table, column in places.user_files()
        ],
        "recorded_feedback": _feedback(places, user),
        "models": _models(places, user),
        "shards": _shards(config, user),
        "lists": places.lists.rows_of(user),
        "passports": _passports(places, user),
        "experiment": _experiment(places, user),
        "elsewhere": _NOT_HERE,
    }


def is_known(content: Json) -> bool:
    """Whether an export holds anything of the person."""
    rows = any(file["rows"] for name in ("files", "lists") for file in content[name])
    held = any(content[name] for name in ("recorded_feedback", "models", "shards"))
    return bool(rows or held or any(content["passports"].values()))


def _feedback(places: Places, user: str) -> list[Json]:
    log, aside = places.feedback_log, quarantine_of(places.feedback_log)
    events: list[tuple[FeedbackEvent, bool]] = []
    if log.exists():
        found = read_log(log, EventRules.of(places.config.data))
        events += ((event, False) for event in found.events)
    if aside.exists():
        events += ((event, True) for event in set_aside_events(aside))
    return [
        {name: value for name, value in asdict(event).items() if name != "user_id"} | {"set_aside": is_aside}
        for event, is_aside in events
        if event.user_id == user
    ]


def _shards(config: PlatformConfig, user: str) -> list[Json]:
    folder = config.training.shards
    return rows_in_shards(folder, user, catalogue_of(config).items.keys) if folder.exists() else []


def _models(places: Places, user: str) -> list[Json]:
    store = PlatformStore(places.store_folder)
    found = []
    for version in store.versions():
        model = store.load(version)
        if user in model.user_ids:
            found.append({"version": version} | _of_model(model, model.user_ids.index(user)))
    return found


def _of_model(model: PlatformModel, row: int) -> Json:
    entries = slice(model.histories.indptr[row], model.histories.indptr[row + 1])
    columns, values = model.histories.indices[entries], model.histories.values[entries]
    history = [
        {"item": model.own.keys[item], "title": model.own.titles[item], "value": float(value), "time": int(at)}
        for item, value, at in zip(columns, values, model.histories.times[entries], strict=True)
    ]
    towers = model.towers
    numbers: Json = {}
    if towers is not None:
        numbers = {name: _list(part[row]) for name, part in towers.values.items() if name.startswith(USER_ROWS)}
        numbers |= {} if towers.profile is None else {"profile": _list(towers.profile[row])}
    return {"history": history, "deep_model": numbers}


def _experiment(places: Places, user: str) -> Json | None:
    """Which version the person was shown, and since when, in the experiment that is going on."""
    file, tag = ExperimentFile(places.store_folder), places.shown_tag(user)
    found = [(variant, at) for variant, at, one in read_shown(file.shown_path) if one.hex() == tag]
    return None if not found else {"variant": found[0][0], "first_list": found[0][1]}


def _list(values: np.ndarray[Any, Any]) -> list[float]:
    return [float(value) for value in values]


def _passports(places: Places, user: str) -> Json:
    if not (places.config.state / PASSPORTS_FILE).exists():
        return {"receipts": [], "in_use": []}
    with places.passports() as books:
        receipts = books.receipts(user)
        in_use = books.redeemed(user)
    return {
        "receipts": [asdict(receipt) for receipt in receipts],
        "in_use": [{"serial": one.receipt.serial, "content": one.contents.encoded().hex()} for one in in_use],
    }
