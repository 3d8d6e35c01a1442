"""Holds what the aggregator knows between two rounds: everything that a checkpoint holds, and nothing of any user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.contributions.race_kind import stated
from common.contributions.run_plan import RunPlan
from common.contributions.tower_variables import SharedVariable, initial_values
from common.linalg import initial_item_factors
from common.wire.exchange import Json


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One server round as its observers see it.

    Attributes:
        round: 1, 2, …
        seconds: wall-clock seconds from the first message out to the new parameters.
        bytes_up, bytes_down: array bytes from and to all platforms.
        objective: the federation's objective at the parameters that the round *started* from; None where privacy
            forbids to know it.
        phase: what was trained: ``factors`` or ``towers``; ``linear`` for the item-item statistics, whose round is 0.
        recall: mean validation Recall@20 over the platforms' own users, or None as above.
        platforms: names of those that contributed.
        failed: error code by name of those that did not.
    """

    round: int
    seconds: float
    bytes_up: int
    bytes_down: int
    objective: float | None
    recall: float | None
    platforms: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)
    phase: str = "factors"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class TransferWeights:
    """B of one platform: weights of the item-item model (:mod:`server.aggregation.ease`).

    Attributes:
        inputs: int64 ``[s]``; vocabulary positions of own items, rising.
        targets: int64 ``[t]``; vocabulary positions of items that the platform lacks, rising.
        weights: float32 ``[s, t]``.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting that took part in a race.

    Attributes:
        model: its settings.
        scores: mean of Recall@20 and NDCG@20 over the platforms' validation users after 1, 2, … rounds.
    """

    model: FactorizationConfig
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The outcome of a race between settings.

    Attributes:
        model: the winner's settings.
        rounds: after which it was best.
        trials: all that took part, in their order.
    """

    model: FactorizationConfig
    rounds: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class FederationState:
    """The shared side of a federation after ``server_round`` rounds.

    Attributes:
        run_id: of the run; a resumed run keeps it.
        server_round: rounds completed.
        vocabulary: the m items.
        item_parameters: float32 ``[m, row]``: factors, and the bias in the last column for explicit feedback.
        item_counts: float64 ``[m]``: users who have each item, over all platforms (noisy under privacy).
        user_counts: users by platform (noisy under privacy).
        value_mean: μ, the mean rating; 0 for implicit feedback.
        history: one record a round.
        towers: the deep model's shared variables by name, float32; empty without one.
        tower_slots: the server optimiser's state by name, float64.
        tower_round: rounds of the deep model completed.
        choice: of a model that the plan leaves open; None before it is made, and where the plan fixes one.
        race_steps: steps of the race completed.
        linear: weights of the item-item model by platform; None before its statistics are gathered, and without one.
        results: of kinds of contributions without a field of their own here: arrays by name, by name of the kind.
    """

    run_id: str
    server_round: int
    vocabulary: Vocabulary
    item_parameters: NDArray[np.float32]
    item_counts: NDArray[np.float64]
    user_counts: dict[str, float] = field(default_factory=dict)
    value_mean: float = 0.0
    history: tuple[RoundRecord, ...] = ()
    towers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    tower_slots: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    tower_round: int = 0
    choice: ModelChoice | None = None
    race_steps: int = 0
    linear: Mapping[str, TransferWeights] | None = None
    results: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    def users_by_platform(self) -> tuple[float, ...]:
        """About how many users each platform has, in the order of the vocabulary's owners.

        Of a sum over platforms, which is all that a secure sum tells, each counts an equal share; so does a platform that has
        not sent its number yet, of the mean.
        """
        names = list(self.vocabulary.owners)
        told = [self.user_counts[name] for name in names if name in self.user_counts]
        total = sum(self.user_counts.values())
        mean = sum(told) / len(told) if told else total / max(len(names), 1)
        return tuple(float(self.user_counts.get(name, mean)) for name in names)

    @property
    def steps(self) -> int:
        """Everything that has a checkpoint of its own: rounds and steps of a race."""
        return self.race_steps + self.server_round + self.tower_round

    def plan_of(self, plan: FederationPlan) -> FederationPlan:
        """``plan`` with the model that was chosen, where it leaves it open."""
        return plan if self.choice is None else plan.with_model(self.choice.model)

    def stated_model(self) -> dict[str, Json]:
        """The chosen settings as requests state them; nothing where the plan fixes the model."""
        return {} if self.choice is None else stated(self.choice.model)

    @property
    def objectives(self) -> list[float]:
        return [record.objective for record in self.history if record.objective is not None]


def fresh_state(run_id: str, row: int) -> FederationState:
    """Before anyone has joined."""
    return FederationState(
        run_id=run_id,
        server_round=0,
        vocabulary=Vocabulary.empty(),
        item_parameters=np.zeros((0, row), dtype=np.float32),
        item_counts=np.zeros(0),
    )


def first_factors(n_items: int, plan: FederationPlan, known: int = 0) -> NDArray[np.float32]:
    """First rows of ``n_items`` items, float32 ``[n, row]``: they depend on the seed and on how many items were ``known``
    before; biases are zero.
    """
    model = plan.training
    rows = np.zeros((n_items, plan.row), dtype=np.float32)
    rng = np.random.default_rng([plan.seed, known])
    rows[:, : model.dimension] = initial_item_factors(n_items, model.dimension, rng, model.init_scale)
    return rows


def with_vocabulary(state: FederationState, vocabulary: Vocabulary, plan: FederationPlan) -> FederationState:
    """``state`` with rows for the items that ``vocabulary`` adds; the rows of known items are kept.

    A new item's factor depends on the plan's seed and on how many items were known before it, so that a run repeats; its
    bias starts at zero.
    """
    plan = state.plan_of(plan)
    known = len(state.item_parameters)
    added = first_factors(len(vocabulary) - known, plan, known)
    counts = np.concatenate([state.item_counts, np.zeros(len(added))])
    parameters = np.concatenate([state.item_parameters, added])
    return replace(
        state,
        vocabulary=vocabulary,
        item_parameters=parameters,
        item_counts=counts,
        towers=initial_values(RunPlan.of(plan).tower_variables, len(vocabulary), plan.seed, state.towers),
        tower_slots=grown_slots(state.tower_slots, RunPlan.of(plan).tower_variables, len(vocabulary)),
    )


def grown_slots(
    slots: Mapping[str, NDArray[np.float64]], variables: Sequence[SharedVariable], n_items: int
) -> dict[str, NDArray[np.float64]]:
    """The optimiser's state with zeros for the rows of new items."""
    with_rows = tuple(f"{moment}.{variable.name}" for variable in variables if variable.rows for moment in ("m", "v"))
    return {
        name: np.concatenate([slot, np.zeros((n_items - len(slot), *slot.shape[1:]))]) if name in with_rows else slot
        for name, slot in slots.items()
    }
