"""The deep model at the aggregator: platforms' updates in, new shared variables out. No TensorFlow.

Encoder weights (the transfer parameters) are combined by Flower's own strategies, which get them as the messages that
they expect: FedAvg (McMahan et al. 2017), FedAdam (Reddi et al. 2021), coordinate-wise median and trimmed mean (Yin et
al. 2018); FedProx (Li et al. 2020) is FedAvg here and a proximal term on the platforms. Flower's strategies know nothing
of sparse rows, so item rows are averaged here: each with the weight of the platforms that trained it.

Under privacy the aggregator has one noisy sum of clipped gradients and takes a step of Adam along it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from logging import WARNING, getLogger

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedTrimmedAvg
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.config.towers import TowerConfig
from common.contributions.run_plan import RunPlan
from common.contributions.update_kind import EXAMPLES, LOSS, ROW_POSITIONS, ROW_WEIGHTS
from common.contributions.updates import UPDATE, decoded
from common.wire.exchange import Arrays, Json
from server.aggregation.phase import Phase, Question, Step
from server.aggregation.stopping import towers_settled
from server.federation.collect import Contribution
from server.federation.state import FederationState

_WEIGHT = "num-examples"
_BETA1, _BETA2 = 0.9, 0.99
_TAU = 1e-3
_ADAM_EPSILON = 1e-8


class UpdatePhase(Phase):
    """Shared variables out, platforms' updates back, combined; after the factorisation has settled."""

    record = "towers"

    def due(self, state: FederationState, present: Collection[str]) -> bool:
        return not towers_settled(self.plan, state)

    def question(self, state: FederationState) -> Question:
        tower_round = state.tower_round + 1
        config: dict[str, Json] = {"tower_round": tower_round}
        return Question(server_round=self.plan.server_rounds + tower_round, config=config, arrays=state.towers)

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        step = aggregate_towers(self.plan, state, contributions)
        after = replace(step.state, tower_round=state.tower_round + 1)
        return Step(state=after, platforms=step.platforms, objective=step.loss)

    def did(self, question: Question) -> str:
        return f"contributed to round {question.config['tower_round']} of the deep model"

    def final(self, state: FederationState) -> Arrays:
        return state.towers


@dataclass(frozen=True, eq=False)
class TowerStep:
    """Holds what a round of the deep model came to.

    Attributes:
        state: with new variables; unchanged where nobody contributed.
        platforms: who contributed.
        loss: mean over the users, at the parameters after local training; None where privacy forbids to know it.
    """

    state: FederationState
    platforms: tuple[str, ...]
    loss: float | None


def aggregate_towers(plan: FederationPlan, state: FederationState, contributions: Iterable[Contribution]) -> TowerStep:
    """One round: exact updates are averaged, a noisy sum is followed."""
    assert plan.towers is not None
    return (_private_step if plan.private else _average)(plan, plan.towers, state, contributions)


def _average(
    plan: FederationPlan, towers: TowerConfig, state: FederationState, contributions: Iterable[Contribution]
) -> TowerStep:
    dense = [variable.name for variable in RunPlan.of(plan).tower_variables if not variable.rows]
    rows = next((variable.name for variable in RunPlan.of(plan).tower_variables if variable.rows), None)
    # The strategies stack what they combine; item rows, the bulk, are folded in one platform at a time.
    replies: list[Message] = []
    total = _RowMean(state.towers[rows]) if rows else None
    platforms: list[str] = []
    losses = np.zeros(2)
    for part in contributions:
        weight = float(part.arrays[EXAMPLES][0])
        losses += weight * float(part.arrays[LOSS][0]), weight
        platforms += part.platforms
        if weight > 0:
            # A platform without anybody to train on says nothing of encoders, not even to a median.
            replies.append(_message({name: part.arrays[name] for name in dense}, weight))
        if total is not None and rows:
            positions = part.positions[part.arrays[ROW_POSITIONS]]
            total.add(positions, part.arrays[rows], part.arrays[ROW_WEIGHTS])
    if not platforms:
        return TowerStep(state, (), None)
    values: dict[str, NDArray[np.float32]] = dict(state.towers)
    slots: dict[str, NDArray[np.float64]] = dict(state.tower_slots)
    if dense and replies:
        combined, slots = _combine(towers, state, dense, replies)
        values |= combined
    if total is not None and rows:
        values[rows] = total.mean()
    loss = float(losses[0] / losses[1]) if losses[1] else None
    return TowerStep(replace(state, towers=values, tower_slots=slots), tuple(platforms), loss)


def _combine(
    towers: TowerConfig, state: FederationState, names: list[str], replies: list[Message]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float64]]]:
    """Flower's strategy over the platforms' dense variables, and its state after the round."""
    strategy = _strategy(towers)
    if isinstance(strategy, FedAdam):
        strategy.current_arrays = {name: state.towers[name] for name in names}
        if state.tower_slots:
            strategy.m_t = {name: state.tower_slots[f"m.{name}"] for name in names}
            strategy.v_t = {name: state.tower_slots[f"v.{name}"] for name in names}
    with _quiet():
        arrays, _ = strategy.aggregate_train(state.tower_round + 1, replies)
    assert arrays is not None
    values = {name: arrays[name].numpy().astype(np.float32) for name in names}
    if not isinstance(strategy, FedAdam):
        return values, {}
    slots = {f"m.{name}": value for name, value in (strategy.m_t or {}).items()}
    slots |= {f"v.{name}": value for name, value in (strategy.v_t or {}).items()}
    return values, {name: np.asarray(value, dtype=np.float64) for name, value in slots.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower's strategies log at every round what our own observer says."""
    logger = getLogger("flwr")
    level = logger.level
    logger.setLevel(WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _strategy(towers: TowerConfig) -> FedAvg:
    training = towers.training
    match training.aggregation:
        case "fedadam":
            return FedAdam(
                weighted_by_key=_WEIGHT, eta=training.server_learning_rate, beta_1=_BETA1, beta_2=_BETA2, tau=_TAU
            )
        case "median":
            return FedMedian(weighted_by_key=_WEIGHT)
        case "trimmed_mean":
            return FedTrimmedAvg(weighted_by_key=_WEIGHT)
        case "fedavg" | "fedprox":
            return FedAvg(weighted_by_key=_WEIGHT)


def _message(arrays: Mapping[str, NDArray[np.float32]], weight: float) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
            "metrics": MetricRecord({_WEIGHT: weight}),
        }
    )
    return Message(content=content, dst_node_id=0, message_type="train")


class _RowMean:
    """Σ_p w_pi·v_pi / Σ_p w_pi for every item that somebody trained; the others keep their row."""

    def __init__(self, before: NDArray[np.float32]) -> None:
        self._before = before
        self._sum = np.zeros(before.shape)
        self._weight = np.zeros(len(before))

    def add(self, positions: NDArray[np.int32], rows: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        self._sum[positions] += weights[:, None].astype(np.float64) * rows
        self._weight[positions] += weights

    def mean(self) -> NDArray[np.float32]:
        trained = self._weight > 0
        rows = self._before.copy()
        rows[trained] = self._sum[trained] / self._weight[trained, None]
        return rows


def _private_step(
    plan: FederationPlan, towers: TowerConfig, state: FederationState, contributions: Iterable[Contribution]
) -> TowerStep:
    """Adam (Kingma & Ba 2015) along the noisy mean gradient; all of it post-processing of the released sum.

    The denominator is public: q times the bound on users says nothing that the plan does not (soundness: batch sizes stay
    private). Adam's step does not depend on its scale beyond ε.
    """
    updates, layout = RunPlan.of(plan).update_plan(), RunPlan.of(plan).update_layout(len(state.vocabulary))
    total = np.zeros(layout.size, dtype=np.int64)
    platforms: set[str] = set()
    for part in contributions:
        platforms.update(part.platforms)
        if UPDATE in part.arrays:
            total += part.arrays[UPDATE]
    if not platforms:
        return TowerStep(state, (), None)
    # In units of the clip norm: gradients of every plan have one scale.
    gradients = decoded(total, updates, layout)
    step = state.tower_round + 1
    correction = np.sqrt(1 - _BETA2**step) / (1 - _BETA1**step)
    values, slots = dict(state.towers), dict(state.tower_slots)
    for name, gradient in gradients.items():
        scaled = gradient / updates.noise.sigma
        m = _BETA1 * slots.get(f"m.{name}", np.zeros(gradient.shape)) + (1 - _BETA1) * scaled
        v = _BETA2 * slots.get(f"v.{name}", np.zeros(gradient.shape)) + (1 - _BETA2) * np.square(scaled)
        slots[f"m.{name}"], slots[f"v.{name}"] = m, v
        moved = towers.training.server_learning_rate * correction * m / (np.sqrt(v) + _ADAM_EPSILON)
        values[name] = (state.towers[name] - moved).astype(np.float32)
    return TowerStep(replace(state, towers=values, tower_slots=slots), tuple(sorted(platforms)), None)
