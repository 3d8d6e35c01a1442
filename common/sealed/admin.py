"""The administrators' log of a role: who admitted, revoked, signed, started, hid, in entries chained by a keyed MAC.

An act is written down before it is done, so that nothing is done that is not written down; an entry says what was ordered, by
which user of which host, also where it was refused later. Nothing in it is of users of the platform. The chain is that of the
ledger (:mod:`common.sealed.log`): an entry that is edited, removed or added shows, unless it was somebody who has the key.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from common.deploy.console import PlainConsole, PlainTable, say_json
from common.files import make_folder
from common.sealed.log import Entry, SealedLog, load_key
from common.sealed.witness import FileWitness

ADMIN_LOG, _KEY, _HEAD = "admin.db", "admin.key", "admin.head"
_MEND = "restore the newest copy of it, of its key and of its head from a backup"


@dataclass(frozen=True, kw_only=True)
class Act:
    """One entry.

    Attributes:
        number: in order.
        time: ISO 8601 in UTC.
        who: user and host.
        act: what was ordered, a word or two.
        details: of it, by name.
    """

    number: int
    time: str
    who: str
    act: str
    details: Mapping[str, str]


class AdminLog:
    """The log of one role.

    Args:
        state: the role's private folder; made at the first entry.
    """

    def __init__(self, state: Path) -> None:
        self._state = state

    def record(self, act: str, **details: str) -> None:
        """Write down what is about to be done, durably.

        Raises:
            LedgerError: the log is damaged, edited or cut short, or cannot be written; the act must not be done.
        """
        make_folder(self._state, mode=0o700)
        log = self._log()
        if not log.exists():
            log.create({"event": "begun"})
        if not log.kept_heads():
            log.publish(lambda _: {})
        with log.writing() as writer:
            writer.append({"event": "act", "who": operator(), "act": act, "details": details})
        log.publish(lambda _: {})

    def acts(self) -> list[Act]:
        """All entries, the chain checked.

        Raises:
            LedgerError: names the first bad entry.
        """
        if not (self._state / ADMIN_LOG).exists() and not (self._state / _HEAD).exists():
            return []
        return [_act(entry) for entry in self._log().entries() if entry.content["event"] == "act"]

    def _log(self) -> SealedLog:
        witness = FileWitness(self._state / _HEAD)
        key = load_key(self._state / _KEY)
        return SealedLog(self._state / ADMIN_LOG, key=key, label="admin", witnesses=[witness], mend=_MEND)


def operator() -> str:
    """Who runs this process: the user, behind sudo the one who called it, and the host."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    caller = os.environ.get("SUDO_USER")
    return f"{user} (for {caller})@{socket.gethostname()}" if caller else f"{user}@{socket.gethostname()}"


def show_acts(state: Path, *, as_json: bool) -> None:
    """Print all entries, the newest last.

    Raises:
        LedgerError: names the first bad entry.
    """
    acts = AdminLog(state).acts()
    if as_json:
        say_json([asdict(one) for one in acts])
        return
    table = PlainTable("#", "time", "who", "act", "details")
    for one in acts:
        details = ", ".join(f"{name} {value}" for name, value in one.details.items() if value)
        table.add_row(str(one.number), one.time, one.who, one.act, details)
    PlainConsole().print(table)


def _act(entry: Entry) -> Act:
    content = entry.content
    return Act(
        number=entry.sequence, time=content["time"], who=content["who"], act=content["act"], details=content["details"]
    )
