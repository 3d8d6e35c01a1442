"""Chooses the weights of cross-platform scores on items hidden for the purpose, in a run that is thrown away: those of
public attributes, the item-item model and popularity.

Only training and validation interactions are used; the scored hidden interactions are not looked at. Items are hidden
the way the scenario hides its own, so that what is found is what is scored: of a partitioned data set an item that is
chosen stays on one platform alone, of separate platforms only those lose items that lose some in the scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.items import select_items
from client.data.split import EvaluationSlice
from client.personalization.other_catalogues import OtherCatalogues
from client.scoring.ease import EasePart
from client.scoring.factors import FactorModel
from client.scoring.part import Part
from client.scoring.scorer import Scorer
from client.scoring.topk import block_rows
from common.catalogue import FederationSecret
from simulations.engine.datasets import HiddenItems, SimulatedPlatform
from simulations.evaluation.ease import ease_of, item_statistics
from simulations.evaluation.measure import FIGURE_OF_MERIT, CrossPlatformTask, Evaluator, shared_model
from simulations.evaluation.other_catalogues import other_catalogues_of
from simulations.evaluation.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.scenarios.scenario import Scenario


def tune_weights(
    platforms: Sequence[SimulatedPlatform],
    scenario: Scenario,
    secret: FederationSecret,
    *,
    choose: Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[int, ...]] | None = None,
) -> dict[str, dict[str, float]]:
    """α, β and κ of each platform that has hidden items: the same for all, as they do best over platforms and draws.

    One platform's slice is small and its best weights mostly luck, as are those of one draw of hidden items; a gain counts
    in proportion to what the platform reaches by the shared factors alone, and to its users. Fewer items are hidden here
    than in the scenario, and finding 20 of few is easy, so the list is cut at the same share of the candidates as
    Recall@20 is in the scenario.

    ``choose`` takes the gains of all slices and settings and their weights, as :func:`smallest_of_the_best` does, which
    chooses unless it is given.
    """
    draws = [_gains(platforms, scenario, secret, draw) for draw in range(scenario.cross.tuning_draws)]
    users = {platform.name: float(platform.training.train.n_users) for platform in platforms}
    names = [name for gains in draws for name in gains]
    if not names:
        return {}
    grids = np.array([grid for gains in draws for grid in gains.values()])
    weights = np.array([users[name] for name in names])
    linear, row, column = (choose or smallest_of_the_best)(grids, weights)
    best = {"attribute_weight": _attribute_weights(scenario)[row], "beta": scenario.cross.betas[column]}
    if scenario.plan.linear is not None:
        best["linear_weight"] = scenario.cross.linear_weights[linear]
    return dict.fromkeys(names, best)


def smallest_of_the_best(grids: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[int, ...]:
    """Place along each axis of the smallest setting that is within one standard error of the best.

    The one-standard-error rule (Breiman et al. 1984, section 3.4.3), on differences paired with the best: what is added to
    the shared factors has to show that it helps.

    Args:
        grids: float64 ``[k, …]``: gains of k slices, settings growing along all other axes.
        weights: float64 ``[k]``, above 0: how much each slice counts.
    """
    share = weights / weights.sum()
    mean = np.tensordot(share, grids, 1)
    best = grids.reshape(len(grids), -1)[:, int(np.argmax(mean))]
    lost = best.reshape(-1, *[1] * mean.ndim) - grids
    loss = np.tensordot(share, lost, 1)
    # Of n equal slices the variance of the mean is that of one slice over n - 1.
    n = 1.0 / float(np.square(share).sum())
    error = np.sqrt(np.tensordot(share, np.square(lost - loss), 1) / max(n - 1.0, 1e-9)) if len(grids) > 1 else 0.0
    places = np.nonzero(loss <= error)
    smallest = np.lexsort((*reversed(places), np.sum(places, axis=0)))[0]
    return tuple(int(place[smallest]) for place in places)


def _attribute_weights(scenario: Scenario) -> tuple[float, ...]:
    return scenario.cross.attribute_weights if scenario.personalization.attributes else (0.0,)


def _gains(
    platforms: Sequence[SimulatedPlatform], scenario: Scenario, secret: FederationSecret, draw: int
) -> dict[str, NDArray[np.float64]]:
    """By platform, for each κ, α and β: the metric over that of the shared factors alone, with one draw of hidden items."""
    lost = _choose(platforms, scenario, draw)
    tuning = {platform.name: hide_further(platform, lost[platform.name]) for platform in platforms}
    left = [reduced for reduced, _ in tuning.values()]
    plan = without_privacy(scenario.plan)
    state = train_pooled({reduced.name: PlatformMatrix.of(reduced.training) for reduced in left}, plan, secret)
    linear, gains = scenario.plan.linear, {}
    statistics = {} if linear is None else item_statistics(left, state, linear)
    for platform in platforms:
        reduced, hidden = tuning[platform.name]
        if platform.hidden is None or not hidden.interactions.nnz:
            continue
        task = CrossPlatformTask.of(reduced, hidden, state, secret)
        depth = max(1, round(20 * len(hidden.keys) / len(platform.hidden.keys)))
        metric = FIGURE_OF_MERIT.replace("20", str(min(depth, 20)))
        view = other_catalogues_of(reduced, left, state, secret, plan=plan)
        item_item = None if linear is None else ease_of(platform.name, statistics, state, linear)
        gains[platform.name] = _grid(task, shared_model(state, plan), view, item_item, scenario, metric)
    return gains


def _grid(
    task: CrossPlatformTask,
    model: FactorModel,
    view: OtherCatalogues,
    item_item: EasePart | None,
    scenario: Scenario,
    metric: str,
) -> NDArray[np.float64]:
    """float64 ``[kappas, alphas, betas]``: the metric over that of the shared factors alone."""
    candidates = np.flatnonzero(task.candidates)
    held_out = task.slice_of(task.truth)
    narrow = replace(held_out, history=held_out.history.select_items(candidates))
    narrow = replace(narrow, truth=held_out.truth.select_items(candidates))
    everything = np.ones(len(candidates), dtype=np.bool_)
    popularity = np.log(np.maximum(view.demand(task.platform.training)[candidates], 1.0)).astype(np.float32)
    evaluator = Evaluator(scenario)

    def merit(scores: NDArray[np.float32]) -> float:
        measured = evaluator.per_user(_Known(scores), narrow, everything, (metric,))
        return float(measured.values[metric].mean())

    shared, attributes = task.shared(model), view.attributes(task.platform.training)

    def blend(kappa: float, alpha: float) -> NDArray[np.float32]:
        others: list[tuple[Part, float]] = [(attributes, alpha)] if alpha > 0 else []
        others += [(item_item, kappa)] if item_item is not None and kappa > 0 else []
        return _scores_of(task.scorer([(shared, 1.0), *others], task.foreign_popularity, 0.0), held_out, candidates)

    alone = merit(blend(0.0, 0.0))
    kappas = (0.0,) if scenario.plan.linear is None else scenario.cross.linear_weights
    grid = [
        [[merit(base + np.float32(beta) * popularity) for beta in scenario.cross.betas] for base in row]
        for row in ((blend(kappa, alpha) for alpha in _attribute_weights(scenario)) for kappa in kappas)
    ]
    return np.array(grid) / max(alone, 1e-9)


def _scores_of(scorer: Scorer, held_out: EvaluationSlice, candidates: NDArray[np.intp]) -> NDArray[np.float32]:
    """float32 ``[n, c]``: of the slice's users; 0 for others."""
    scores = np.zeros((held_out.history.n_users, len(candidates)), dtype=np.float32)
    step = block_rows(held_out.history.n_items)
    for start in range(0, len(held_out.users), step):
        users = held_out.users[start : start + step]
        scores[users] = scorer.scores(held_out.history, users)[:, candidates]
    return scores


@dataclass(frozen=True, eq=False)
class _Known:
    """Scores that were worked out before: float32 ``[n, c]``."""

    of_users: NDArray[np.float32]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.of_users[users]
        return scores


def _choose(platforms: Sequence[SimulatedPlatform], scenario: Scenario, draw: int) -> Mapping[str, set[str]]:
    """Keys of the items that each platform loses."""
    rng = np.random.default_rng([scenario.seed, 22, draw])
    owners: dict[str, list[str]] = {}
    for platform in platforms:
        for key in PlatformMatrix.of(platform.training).keys:
            owners.setdefault(key, []).append(platform.name)
    common = sorted(key for key, names in owners.items() if len(names) > 1)
    chosen = [common[i] for i in rng.permutation(len(common))[: round(scenario.cross.tuning_share * len(common))]]
    lost: dict[str, set[str]] = {platform.name: set() for platform in platforms}
    if scenario.partition is None:
        losing = {platform.name for platform in platforms if platform.hidden is not None}
    else:
        losing = set(lost)
        users = np.array([platform.training.train.n_users for platform in platforms], dtype=np.float64)
        stays = rng.choice(len(platforms), size=len(chosen), p=users / users.sum())
    for place, key in enumerate(chosen):
        names = owners[key]
        keeper = names[place % len(names)] if scenario.partition is None else platforms[stays[place]].name
        # What nobody has any more could not be recommended to anybody.
        alone = losing.issuperset(names)
        spared = (keeper if keeper in names else names[place % len(names)]) if alone else None
        for name in names:
            if name in losing and name != spared:
                lost[name].add(key)
    return lost


def hide_further(platform: SimulatedPlatform, lost: set[str]) -> tuple[SimulatedPlatform, HiddenItems]:
    """The platform without the items ``lost``, and what its users did with those of them that it had."""
    training, validation = platform.training, platform.training.validation
    hidden = np.array([key in lost for key in training.items.keys], dtype=np.bool_)
    kept, chosen = np.flatnonzero(~hidden), np.flatnonzero(hidden)
    reduced = replace(
        training,
        items=select_items(training.items, kept),
        train=training.train.select_items(kept),
        validation=EvaluationSlice(
            validation.users, validation.history.select_items(kept), validation.truth.select_items(kept)
        ),
        shared=training.shared[kept],
    )
    keys = tuple(training.items.keys[column] for column in chosen)
    return replace(platform, training=reduced), HiddenItems(keys, training.known.select_items(chosen))
