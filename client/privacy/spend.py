"""A ledger's account as a report: what is spent, what is reserved, what is left."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from client.privacy.account import Account, Charge, RunAccount
from client.privacy.budget import mu_squared
from common.privacy.gdp import epsilon_from_mu
from common.privacy.lifetime import Amounts, BudgetPolicy
from common.sealed.witness import Head


@dataclass(frozen=True)
class RunSpend:
    """Holds what one run planned and spent.

    Attributes:
        closed: nothing more can be charged to it.
        returned: closed because another run joined before this one had released anything; it may join again.
        holds: closing it would give something back.
        epsilon_budget: its own ε, None for no limit (``mode: none``); ``delta`` its δ.
        mu: of its Gaussian releases so far; ``mu_planned`` of all that it planned.
        subsampled_epsilon: what it reserved for subsampled releases, counted from its start; ``subsampled_delta``
            likewise.
        epsilon: of all that it has spent, at ``delta``; None for without bound.
        charges: in the order in which they were made.
    """

    run_id: str
    closed: bool
    returned: bool
    holds: bool
    epsilon_budget: float | None
    delta: float
    mu: float
    mu_planned: float
    subsampled_epsilon: float
    subsampled_delta: float
    epsilon: float | None
    charges: tuple[Charge, ...]


@dataclass(frozen=True)
class Left:
    """Holds what the next run finds, after reservations under which something was released; None stands for no limit.

    Attributes:
        mu: what further full-participation releases may reach together.
        epsilon: of one run that used up ``mu``, at the Gaussian part of the lifetime δ. (ε's do not add up: spent and
            left together exceed the budget.)
        subsampled_epsilon: what further reservations may add to; ``subsampled_delta`` likewise.
        runs: how many further runs fit, each as large as the platform's plan, or else as its newest run; one that has joined
            and released nothing is among them. None also where neither is known.
    """

    mu: float | None
    epsilon: float | None
    subsampled_epsilon: float | None
    subsampled_delta: float | None
    runs: int | None


@dataclass(frozen=True)
class Spend:
    """The whole ledger.

    Attributes:
        policy: the lifetime budget.
        runs: in the order of their reservations.
        mu: of all Gaussian releases so far; ``mu_committed`` with what open runs have reserved.
        epsilon: of everything so far at ``policy.delta``; None once data was released without noise.
        left: for the next run.
        lost_mu: the part of ``mu`` in entries that a restore could not bring back.
        head: the ledger's newest head.
    """

    policy: BudgetPolicy
    runs: tuple[RunSpend, ...]
    mu: float
    mu_committed: float
    epsilon: float | None
    left: Left
    lost_mu: float
    head: Head

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; no infinities."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return content


def spend_of(account: Account, head: Head, cost: Amounts | None = None) -> Spend:
    """Report on ``account``, whose log stands at ``head``; runs that are left cost ``cost`` each, or as the newest."""
    policy, totals = account.policy, account.totals()
    runs = tuple(_run_spend(run) for run in account.runs.values())
    forfeited = math.fsum(r.committed_mu_squared - r.spent_mu_squared for r in account.runs.values() if r.forfeited)
    lost = account.lost["mu_squared"] + forfeited
    mu = math.sqrt(math.fsum([lost, *(run.spent_mu_squared for run in account.runs.values())]))
    # With no limit there is no split to keep to, so all of δ is the Gaussian family's.
    gaussian_delta = policy.gaussian_delta if policy.epsilon is not None else policy.delta
    return Spend(
        policy=policy,
        runs=runs,
        mu=mu,
        mu_committed=math.sqrt(totals["mu_squared"]),
        epsilon=None if account.unbounded else _epsilon(mu, gaussian_delta) + totals["subsampled_epsilon"],
        left=_left(account, cost or _newest_cost(account)),
        lost_mu=math.sqrt(lost),
        head=head,
    )


def _left(account: Account, cost: Amounts | None) -> Left:
    policy, left = account.policy, account.left()
    if policy.epsilon is None:
        return Left(None, None, None, None, None)
    mu = math.sqrt(left.mu_squared)
    return Left(
        mu=mu,
        epsilon=_epsilon(mu, policy.gaussian_delta),
        subsampled_epsilon=left.subsampled_epsilon,
        subsampled_delta=left.subsampled_delta,
        runs=None if cost is None else left.pays_for(cost),
    )


def _newest_cost(account: Account) -> Amounts | None:
    plans = [run.plan for run in account.runs.values()]
    if not plans:
        return None
    reserved = plans[-1].subsampled
    return Amounts(mu_squared(plans[-1].releases), *((reserved.epsilon, reserved.delta) if reserved else ()))


def _run_spend(run: RunAccount) -> RunSpend:
    epsilon, delta = run.committed_subsampled
    mu = math.sqrt(run.spent_mu_squared)
    return RunSpend(
        run_id=run.run_id,
        closed=run.closed,
        returned=run.returned,
        holds=run.holds,
        epsilon_budget=run.plan.epsilon,
        delta=run.plan.delta,
        mu=mu,
        mu_planned=math.sqrt(mu_squared(run.plan.releases)),
        subsampled_epsilon=epsilon,
        subsampled_delta=delta,
        epsilon=None if run.unbounded else _epsilon(mu, run.plan.delta - delta) + epsilon,
        charges=tuple(run.charges),
    )


def _epsilon(mu: float, delta: float) -> float:
    return epsilon_from_mu(mu, delta) if mu > 0 else 0.0
