"""The privacy budget of one platform: what may still be released about its users, over all runs and restarts.

The order is always: reserve a whole run, then charge each contribution *before* it is made, then release it. A charge
is on disk, and its head with the witnesses, when :meth:`BudgetLedger.charge` returns; so whatever happens afterwards,
the ledger has counted at least what has left. How charges add up is in :mod:`client.privacy.account`, how entries are
protected in :mod:`common.sealed.log`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from client.privacy.account import Account, Charge, RunAccount, charge_of
from client.privacy.budget import Plan, SubsampledBudget, release_to_json
from client.privacy.spend import Spend, spend_of
from common.errors import LedgerError, PrivacyError
from common.privacy.contribution import Release
from common.privacy.lifetime import Amounts, BudgetPolicy
from common.sealed.log import Entry, SealedLog, load_key
from common.sealed.witness import FileWitness, Head, HeadWitness

_log = getLogger(__name__)

LEDGER_FILE, KEY_FILE, HEAD_FILE = "ledger.db", "ledger.key", "ledger.head"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass(frozen=True)
class Receipt:
    """Proof that a contribution was charged; egress asks for it. ``sequence`` and ``mac`` name the ledger's entry."""

    run_id: str
    server_round: int
    releases: tuple[Release, ...]
    request_digest: str
    sequence: int
    mac: str


class BudgetLedger:
    """One platform's ledger, shared by all its processes and threads.

    Guarantees (each with a test of that name in ``test_ledger.py``): a charge is durable before it returns;
    two processes cannot both spend the last of the budget; an identical request is charged once; spend never shrinks;
    editing, truncating, deleting or rolling back the file shows; the clock does not matter.
    """

    def __init__(self, log: SealedLog) -> None:
        self._log = log

    @classmethod
    def open(
        cls, directory: Path, policy: BudgetPolicy | None = None, *, witnesses: Sequence[HeadWitness] = ()
    ) -> BudgetLedger:
        """Open the ledger in ``directory``, or make it if there never was one.

        Args:
            directory: holds ``ledger.db``, ``ledger.key`` and ``ledger.head``; all mode 0600.
            policy: the platform's lifetime budget; a change is recorded as an entry. None: as recorded.
            witnesses: further places that keep the head, the model store above all.

        Raises:
            LedgerError: the ledger is missing although a head is kept, damaged, edited, rolled back or open to others.
        """
        if policy is None and not any((directory / name).exists() for name in (LEDGER_FILE, HEAD_FILE)):
            raise LedgerError(
                f"{directory.name!r} holds no ledger; one is made when a platform first joins a federation"
            )
        log = _open_log(directory, witnesses)
        if policy is not None and not log.exists() and not log.kept_heads():
            log.create({"event": "opened", "policy": asdict(policy)})
        ledger = cls(log)
        ledger._adopt(policy)
        return ledger

    @classmethod
    def restore(
        cls, directory: Path, policy: BudgetPolicy | None = None, *, witnesses: Sequence[HeadWitness] = ()
    ) -> BudgetLedger:
        """Go on with an old copy of the ledger, or with none, counting as spent whatever the kept heads say was spent.

        Open runs are closed and forfeit what they had reserved. The loss stays visible as an entry.

        Args:
            directory: as in :meth:`open`.
            policy: the platform's lifetime budget. None: as the copy has it recorded.
            witnesses: as in :meth:`open`.

        Raises:
            LedgerError: the copy's chain is broken, a kept head was edited, or there is neither a copy nor a ``policy``.
        """
        log = _open_log(directory, witnesses)
        if policy is None and not log.exists():
            raise LedgerError(
                f"{directory.name!r} holds no copy of a ledger to take the lifetime budget from; state it (privacy restore "
                "--epsilon, --delta)"
            )
        first = {"event": "opened"} if policy is None else {"event": "opened", "policy": asdict(policy)}
        log.restore(first, _restored, _totals)
        ledger = cls(log)
        ledger._adopt(policy)
        return ledger

    def reserve(
        self,
        run_id: str,
        releases: Sequence[Release],
        *,
        epsilon: float | None,
        delta: float,
        subsampled: SubsampledBudget | None = None,
    ) -> None:
        """Set the whole plan of a run aside. Calling again with the same plan (after a restart) changes nothing.

        Open runs under which nothing was released give theirs back in the same step: a platform is in one run at a time,
        and the aggregator has gone on to another. Nothing can be charged to them any more unless they join again. A run
        that has released something keeps its reservation until it is closed.

        Args:
            run_id: unique over all federations.
            releases: everything the run means to release.
            epsilon: the run's own budget; None only for ``mode: none``.
            delta: the run's δ, declared by the federation.
            subsampled: (ε, δ) of all subsampled releases of the plan, from a PRV accountant.

        Raises:
            BudgetExceededError: the plan fits the run's own or the lifetime budget not as a whole; nothing is reserved.
            PrivacyError: the plan contradicts itself, or the run was reserved before with another plan.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise PrivacyError("a run id must be 1 to 128 letters, digits or any of . : - _")
        plan = Plan(tuple(releases), epsilon, delta, subsampled)
        with self._log.writing() as writer:
            account = Account(writer.entries)
            known = account.runs.get(run_id)
            if known is None or known.returned:
                for unused in [run for run in account.runs.values() if run.unused]:
                    unused.closed = unused.returned = True
                    writer.append({"event": "returned", "run_id": unused.run_id})
                run = account.runs[run_id] = RunAccount(run_id, plan)
                run.check_fits(plan.releases)
                account.check_lifetime(plan.releases, run_id)
                writer.append({"event": "reserved", "run_id": run_id, "plan": plan.to_json()})
                if epsilon is None:
                    _log.warning(
                        "run %s is NOT PRIVATE (privacy.mode: none): exact sums over users leave this platform, and whoever "
                        "sees them can tell who is among them; the ledger marks its data as spent without bound",
                        run_id,
                    )
            elif not known.plan.agrees_with(plan):
                raise PrivacyError(f"run {run_id!r} was reserved with another plan; give the new plan a new run id")
        self._log.publish(_totals)

    def charge(
        self,
        run_id: str,
        server_round: int,
        releases: Sequence[Release],
        request_digest: str,
        vocabulary: str | None = None,
    ) -> Receipt:
        """Charge one contribution; committed, and its head kept by every witness, when this returns.

        A request identical in run, round, digest and releases returns the earlier receipt and costs nothing: whoever
        holds that receipt may only send again the bytes that left under it, if any did. Everything else is a new
        charge.

        Args:
            run_id: a run that was reserved and not closed.
            server_round: as in the request.
            releases: all that the contribution will reveal.
            request_digest: SHA-256, hex, of all that determines the request: broadcast, roster, options.
            vocabulary: SHA-256, hex, of the vocabulary that it rests on, kept with the charge; None: none.

        Raises:
            BudgetExceededError: the run's own or the lifetime budget does not cover it; nothing was charged.
            PrivacyError: the run is unknown or closed, or an argument is malformed.
            LedgerError: the ledger cannot be trusted; nothing may be released.
            StoreError: the ledger or a head cannot be written; nothing may be released.
        """
        if not _DIGEST.fullmatch(request_digest) or server_round < 0 or not releases:
            raise PrivacyError("a charge needs releases, a round of at least 0 and a SHA-256 digest in hex")
        wanted = tuple(releases)
        with self._log.writing() as writer:
            account = Account(writer.entries)
            run = account.runs.get(run_id)
            if run is None:
                raise PrivacyError(f"run {run_id!r} has reserved nothing in this ledger")
            if run.returned:
                raise PrivacyError(
                    f"run {run_id!r} gave its reservation back when another run joined; it must join again first"
                )
            if run.closed:
                raise PrivacyError(f"run {run_id!r} is closed; start a new run to release more")
            receipt = _receipt_for(run, server_round, wanted, request_digest)
            if receipt is None:
                run.check_fits(wanted)
                entry = writer.append(
                    {
                        "event": "charged",
                        "run_id": run_id,
                        "round": server_round,
                        "releases": [release_to_json(release) for release in wanted],
                        "request_digest": request_digest,
                    }
                    | ({} if vocabulary is None else {"vocabulary": vocabulary})
                )
                run.charges.append(charge_of(entry))
                # An exception from here on undoes the entry: the transaction is rolled back.
                account.check_lifetime(wanted, run_id)
                receipt = _receipt(run, run.charges[-1])
        self._log.publish(_totals)
        return receipt

    def close(self, run_id: str, finish: str | None = None) -> None:
        """End a run: what it reserved and did not use may be used by others. Closing twice changes nothing.

        ``finish`` is the digest of the request that ended it, which alone may be answered again.
        """
        with self._log.writing() as writer:
            run = Account(writer.entries).runs.get(run_id)
            if run is None:
                raise PrivacyError(f"run {run_id!r} has reserved nothing in this ledger")
            if run.returned or not run.closed:
                writer.append({"event": "closed", "run_id": run_id} | ({} if finish is None else {"finish": finish}))
        self._log.publish(_totals)

    def run(self, run_id: str) -> RunAccount | None:
        """Return what one run has reserved, spent and come to; None unless it reserved something here."""
        return Account(self._log.entries()).runs.get(run_id)

    def confirm(self, receipt: Receipt) -> None:
        """Raises LedgerError: this ledger has made no such charge, or its run is closed."""
        run = Account(self._log.entries()).runs.get(receipt.run_id)
        if run is None or receipt not in (_receipt(run, charge) for charge in run.charges):
            raise LedgerError("the receipt names a charge that this ledger has not made")
        if run.closed:
            raise LedgerError(f"run {run.run_id!r} is closed: nothing more may leave under its receipts")

    def spend(self, cost: Amounts | None = None) -> Spend:
        """Return what is spent and left, per run and release. Raises LedgerError as :meth:`verify` does.

        Args:
            cost: of a run, for the number of runs that are left; the newest run's unless given.
        """
        entries = self._log.entries()
        account = Account(entries)
        return spend_of(account, self._log.seal(entries, account.totals()), cost)

    def verify(self) -> int:
        """Check every entry, the chain and the kept heads; the number of entries.

        Raises:
            LedgerError: names the first bad entry.
        """
        return len(self._log.entries())

    def entries(self) -> list[Entry]:
        return self._log.entries()

    def head(self) -> Head:
        """The newest head, sealed, for peers to keep."""
        entries = self._log.entries()
        return self._log.seal(entries, _totals(entries))

    def check_head(self, head: Head) -> None:
        """Raises LedgerError: a head that a peer kept is not part of this ledger: it was rolled back or replaced."""
        self._log.check_head(head, self._log.entries())

    def _adopt(self, policy: BudgetPolicy | None) -> None:
        """Record the platform's policy if it changed, and tell the witnesses where the log is."""
        with self._log.writing() as writer:
            if policy is not None and Account(writer.entries).policy != policy:
                writer.append({"event": "policy", "policy": asdict(policy)})
        self._log.publish(_totals)


def _open_log(directory: Path, witnesses: Sequence[HeadWitness]) -> SealedLog:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = [FileWitness(directory / HEAD_FILE), *witnesses]
    if (directory / LEDGER_FILE).exists() and not (directory / KEY_FILE).exists():
        raise LedgerError(f"{KEY_FILE} is missing: put it back from a backup, nothing else can vouch for the ledger")
    return SealedLog(directory / LEDGER_FILE, key=load_key(directory / KEY_FILE), label="ledger", witnesses=kept)


def _totals(entries: Sequence[Entry]) -> dict[str, float]:
    return Account(entries).totals()


def _restored(entries: Sequence[Entry], heads: Sequence[Head]) -> dict[str, Any]:
    """The entry of a restore: by how much the kept heads exceed what the copy accounts for."""
    totals = Account(entries).totals()
    lost = {name: max([0.0, *(head.totals.get(name, 0.0) - value for head in heads)]) for name, value in totals.items()}
    return {"event": "restored", "lost": lost}


def _receipt(run: RunAccount, charge: Charge) -> Receipt:
    return Receipt(run.run_id, charge.server_round, charge.releases, charge.request_digest, charge.sequence, charge.mac)


def _receipt_for(run: RunAccount, server_round: int, releases: tuple[Release, ...], digest: str) -> Receipt | None:
    for charge in run.charges:
        if (charge.server_round, charge.releases, charge.request_digest) == (server_round, releases, digest):
            return _receipt(run, charge)
    return None
