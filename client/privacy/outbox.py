"""Charge, make, send: the order in which a contribution leaves, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from client.privacy.account import RunAccount
from client.privacy.budget import SubsampledBudget
from client.privacy.card import PlatformSpend
from client.privacy.egress import EgressContract, EgressGuard, FieldSpec, ReplySpec
from client.privacy.journal import EgressJournal
from client.privacy.ledger import BudgetLedger, Receipt
from client.privacy.secure_sum.masking import MaskedContribution
from common.config.federation import FederationPlan
from common.contributions.protocol import contribution_specs, open_sizes, reply_specs
from common.errors import CrossfedError, FailedContributionError, LedgerError, SecureSumError, StoreError, told_of
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.lifetime import UNCLAIMED_DELTA, BudgetPolicy, subsampled_share
from common.sealed.witness import FileWitness
from common.wire.exchange import AgentRequest, Arrays, Json, digest_of

_log = getLogger(__name__)

_REPLY_FIELDS: Mapping[str, tuple[FieldSpec, ...]] = {"join": (FieldSpec("secret_fingerprint", "text", 32),)}


def egress_contract(plan: FederationPlan) -> EgressContract:
    """The federation's contract as the guard reads it: what is derived from interactions, and what is not."""
    return EgressContract(
        contributions=contribution_specs(plan),
        replies=tuple(ReplySpec(spec, _REPLY_FIELDS.get(spec.kind, ())) for spec in reply_specs()),
    )


def witnesses(folder: Path) -> tuple[FileWitness, FileWitness]:
    """The heads of ledger and journal that ``folder`` keeps."""
    return FileWitness(folder / "ledger.head"), FileWitness(folder / "egress.head")


def subsampled_budget(plan: FederationPlan) -> SubsampledBudget | None:
    """(ε, δ) of the deep model's releases; each agent has checked with its accountant that they keep to it."""
    share = subsampled_share(plan)
    return SubsampledBudget(share * plan.privacy.epsilon, share * plan.delta) if share else None


class Outbox:
    """A platform's ledger and egress guard, used in the one order that is safe.

    Args:
        folder: the platform's private folder; holds ledger and journal.
        policy: the platform's lifetime budget.
        plan: says what may leave.
        witness_folder: another place that keeps the heads of both, so that putting back old copies of the private folder
            shows; the model store's.
    """

    def __init__(self, folder: Path, policy: BudgetPolicy, plan: FederationPlan, witness_folder: Path) -> None:
        witness_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ledger_witness, journal_witness = witnesses(witness_folder)
        self.ledger = BudgetLedger.open(folder, policy, witnesses=[ledger_witness])
        self.journal = EgressJournal(folder, self.ledger, witnesses=[journal_witness])
        self._guard = EgressGuard(egress_contract(plan), self.journal, self.ledger)

    def reserve(self, run_id: str, releases: Sequence[Release], plan: FederationPlan) -> None:
        """Set a whole run's budget aside before its first release.

        Raises:
            BudgetExceededError: it does not fit; nothing is reserved.
        """
        if plan.private:
            self.ledger.reserve(
                run_id, releases, epsilon=plan.privacy.epsilon, delta=plan.delta, subsampled=subsampled_budget(plan)
            )
        else:
            self.ledger.reserve(run_id, releases, epsilon=None, delta=UNCLAIMED_DELTA)

    def close(self, run_id: str, finish: str | None = None) -> None:
        """End a run: what it had reserved and not used is free again, and nothing more may leave under it.

        ``finish``: digest of the request that ended it.
        """
        self.ledger.close(run_id, finish)

    def run(self, run_id: str) -> RunAccount | None:
        """Where a run stands, by what it has paid; None where it was never joined."""
        return self.ledger.run(run_id)

    def charge(self, request: AgentRequest, releases: Sequence[Release], vocabulary: bytes | None = None) -> Receipt:
        """Pay for the answer to ``request``, durably. The same request again is not charged; another of its round is.

        ``vocabulary`` is the digest of the one that the answer rests on.

        Raises:
            BudgetExceededError: the budget does not cover it; nothing was charged.
        """
        told = None if vocabulary is None else vocabulary.hex()
        return self.ledger.charge(request.run_id, request.server_round, releases, digest_of(request), told)

    def replay(self, receipt: Receipt) -> Arrays | None:
        """Return what has left before under ``receipt``, the same bytes; None where nothing has.

        Raises:
            EgressRefusedError: it has left, and its bytes are no longer kept.
        """
        return self._guard.replay(receipt)

    @contextmanager
    def one_attempt(self, receipt: Receipt) -> Iterator[None]:
        """Make and send what ``receipt`` has paid for; an attempt that fails is a private run's last.

        Whether a contribution can be made may depend on the data, whatever was done to rule that out. Noise in its place would
        not hide it, as a sum without its users is far from one with them. So a private run ends here, whatever went wrong: one
        bit may leave, once for a run that was paid for, under one code. Without privacy the platform misses that round.

        Raises:
            LedgerError, StoreError: the books or the disk; nothing left.
            SecureSumError: the round's masks are used up; nothing left.
            FailedContributionError: it could not be made, or is not what the contract declares; a private run is closed.
        """
        try:
            yield
        except (LedgerError, StoreError, SecureSumError):
            # Of the machine and of the run: the same for whatever data. Asked again, it may well succeed.
            raise
        except Exception as error:
            if all(release.mechanism == "none" for release in receipt.releases):
                raise FailedContributionError(f"{told_of(error)}; this platform is left out of the round") from error
            self.ledger.close(receipt.run_id)
            raise FailedContributionError(
                f"{told_of(error)}; this platform takes no further part in the run"
            ) from error

    def send(
        self,
        contribution: PrivatizedContribution | MaskedContribution,
        kind: str,
        sizes: Mapping[str, int],
        receipt: Receipt,
    ) -> Arrays:
        """Let a contribution of ``kind`` out, which ``receipt`` has paid for.

        Raises:
            EgressRefusedError: nothing left.
        """
        sizes = {**sizes, **open_sizes(contribution.arrays)}
        return self._guard.send(contribution, kind=kind, sizes=sizes, receipt=receipt)

    def reply(
        self, kind: str, arrays: Arrays, fields: Mapping[str, Json], sizes: Mapping[str, int]
    ) -> tuple[Arrays, dict[str, Any]]:
        """Let out an answer that holds nothing derived from interactions."""
        return self._guard.reply(kind, arrays, dict(fields), {**sizes, **open_sizes(arrays)})

    def spend(self) -> PlatformSpend:
        """Return what was charged and what left, for the privacy card."""
        return PlatformSpend.of(self.ledger.spend(), [dict(entry.content) for entry in self.journal.entries()])

    def refuse(self, kind: str, error: CrossfedError) -> str:
        """The code that answers a request that failed; journaled unless ledger or journal are what is broken."""
        try:
            return self._guard.refusal(kind, error)
        except (LedgerError, StoreError) as broken:
            _log.error("the refusal of %s is in no journal: %s", kind, broken)
            return error.code
