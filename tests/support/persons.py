"""A platform that holds something of two persons everywhere where a platform holds anything."""

from __future__ import annotations

import gzip
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from client.contributions.run_file import TOWERS_FILE
from client.keys import KeyFolder, make_keys
from client.passport.books import PassportBooks
from client.passport.contents import Basis, Contents, Profile
from client.passport.envelope import issue
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from client.recommend.quarantine import quarantine_of
from common.deploy.roles import PlatformConfig
from common.privacy.secure_sum import PlatformIdentity
from tests.support.platform_files import config as platform_config
from tests.support.stores import model_of

ANNA, BERND = "anna-zephyrine-4711", "bernd-quixotic-0815"


def platform_with_persons(folder: Path) -> PlatformConfig:
    """Files, feedback, two versions, passports of both; and of Anna what a crash left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    platform = platform_config(folder, keys=folder / "keys", pins=folder / "pins.json")
    with (folder / "views.csv").open("a") as file:
        file.writelines(f"{user},{item}\n" for user in (f" {ANNA} ", BERND) for item in (0, 2))
    with (folder / "users.csv").open("a") as file:
        file.write(f"{ANNA},none\n{BERND},55\n")
    make_keys(KeyFolder(platform.keys), folder / "node.key")
    store = PlatformStore(platform.state / "store")
    model = replace(model_of(), user_ids=(ANNA, BERND, "c"))
    store.commit(model)
    store.commit(model)
    log = store.root / FEEDBACK_LOG
    with FeedbackLog(log) as feedback:
        for number, user in enumerate((ANNA, BERND, ANNA)):
            feedback.record(f"e{number}", user, f"imdb:{number}", 1.0, 1_700_000_000 + number)
    quarantine_of(log).write_bytes(b"value: is none\t" + log.read_bytes().splitlines()[1] + b"\n")
    (store.root / f".{FEEDBACK_LOG}.killed").write_bytes(ANNA.encode())
    unfinished = store.root / "versions" / ".000003.unfinished"
    unfinished.mkdir()
    (unfinished / "manifest.json").write_text(ANNA)
    (store.root / "versions" / "000001" / ".manifest.json.killed").write_text(ANNA)
    (store.root / TOWERS_FILE).write_bytes(b"numbers of an ended run")
    _redeem(platform)
    return platform


def holding(folder: Path, user: str) -> list[str]:
    """Files below ``folder`` in which the bytes of an id are, names included: in any encoding, packed files unpacked."""
    wanted = [user.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if user in path.name or (path.is_file() and any(word in part for part in _contents(path) for word in wanted))
    ]


def _contents(path: Path) -> list[bytes]:
    found = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    elif found[0][:2] == b"\x1f\x8b":
        found.append(gzip.decompress(found[0]))
    elif found[0][:4] == b"PAR1":
        found += [str(pl.read_parquet(path).rows()).encode()]
    return found


def _redeem(platform: PlatformConfig) -> None:
    books, contents = (
        PassportBooks(platform.state),
        Contents(profile=Profile(Basis("shop/1", bytes(32)), np.ones(4, "f4"))),
    )
    for user in (ANNA, BERND):
        passport = issue(
            contents,
            issuer="shop",
            identity=PlatformIdentity.generate(),
            receiver=platform.name,
            receiver_key=KeyFolder(platform.keys).sealing_public(),
            not_before=0,
            expires=1 << 39,
        )
        books.record_redeem(passport, user, contents, per_day=1)
    books.close()
