"""Chooses the popularity weight β on items hidden for the purpose, in a training run that is thrown away.

Only training and validation interactions are used; the scored hidden interactions are not looked at. Items are hidden
the way the scenario hides its own, so that what is found is what is scored: of a partitioned data set an item that is
chosen stays on one platform alone, of separate platforms only those lose items that lose some in the scenario.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.data.items import select_items
from client.data.split import EvaluationSlice
from client.recommend.demand import expected_demand
from common.catalogue import FederationSecret
from server.state import FederationState
from simulations.datasets import HiddenItems, SimulatedPlatform
from simulations.measure import FIGURE_OF_MERIT, CrossGround, Ruler, lookup, shared_model
from simulations.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.scenario import Scenario


def tune_betas(
    platforms: Sequence[SimulatedPlatform], scenario: Scenario, secret: FederationSecret
) -> dict[str, float]:
    """β of each platform that has hidden items: the same for all, the best on average over platforms and draws.

    One platform's slice is small and its best β mostly luck, as is that of one draw of hidden items; a gain counts in
    proportion to what the platform reaches without popularity. Fewer items are hidden here than in the scenario, and
    finding 20 of few is easy, so the list is cut at the same share of the candidates as Recall@20 is in the scenario.
    """
    draws = [_gains(platforms, scenario, secret, draw) for draw in range(scenario.cross.tuning_draws)]
    curves = [gain for gains in draws for gain in gains.values()]
    if not curves:
        return {}
    best = scenario.cross.betas[int(np.argmax(np.mean(curves, axis=0)))]
    return dict.fromkeys(draws[0], best)


def _gains(
    platforms: Sequence[SimulatedPlatform], scenario: Scenario, secret: FederationSecret, draw: int
) -> dict[str, NDArray[np.float64]]:
    """By platform, for each β: the metric relative to the shared factors alone, with one draw of hidden items."""
    lost = _choose(platforms, scenario, draw)
    tuning = {platform.name: hide_further(platform, lost[platform.name]) for platform in platforms}
    pool = {name: PlatformMatrix.of(reduced.training) for name, (reduced, _) in tuning.items()}
    plan = without_privacy(scenario.plan)
    state = train_pooled(pool, plan, secret)
    model, ruler = shared_model(state, plan), Ruler(scenario)
    gains = {}
    for platform in platforms:
        reduced, hidden = tuning[platform.name]
        if platform.hidden is None or not hidden.interactions.nnz:
            continue
        ground = CrossGround.of(reduced, hidden, state, secret)
        if not scenario.plan.private:
            ground = replace(ground, demand=_demand(reduced, platforms, state, secret))
        depth = max(1, round(20 * len(hidden.keys) / len(platform.hidden.keys)))
        metric = FIGURE_OF_MERIT.replace("20", str(min(depth, 20)))
        held_out = ground.slice_of(ground.truth)
        scores = np.array(
            [
                ruler.per_user(ground.blended(model, beta), held_out, ground.candidates, (metric,))
                .values[metric]
                .mean()
                for beta in (0.0, *scenario.cross.betas)
            ]
        )
        gains[platform.name] = scores[1:] / max(scores[0], 1e-9)
    return gains


def _choose(platforms: Sequence[SimulatedPlatform], scenario: Scenario, draw: int) -> Mapping[str, set[str]]:
    """Keys of the items that each platform loses."""
    rng = np.random.default_rng([scenario.seed, 22, draw])
    owners = Counter(key for platform in platforms for key in PlatformMatrix.of(platform.training).keys)
    common = sorted(key for key, count in owners.items() if count > 1)
    chosen = [common[i] for i in rng.permutation(len(common))[: round(scenario.cross.tuning_share * len(common))]]
    if scenario.partition is None:
        return {platform.name: set(chosen) if platform.hidden is not None else set() for platform in platforms}
    users = np.array([platform.training.train.n_users for platform in platforms], dtype=np.float64)
    stays = rng.choice(len(platforms), size=len(chosen), p=users / users.sum())
    return {
        platform.name: {key for key, owner in zip(chosen, stays, strict=True) if owner != index}
        for index, platform in enumerate(platforms)
    }


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


def _demand(
    platform: SimulatedPlatform,
    platforms: Sequence[SimulatedPlatform],
    state: FederationState,
    secret: FederationSecret,
) -> NDArray[np.float64]:
    """Expected demand as the platform itself works it out: its own titles and genres where it has the item, else others'."""
    vocabulary = state.vocabulary
    titles: list[str] = [""] * len(vocabulary)
    genres: list[tuple[str, ...]] = [()] * len(vocabulary)
    others_first = sorted(platforms, key=lambda other: other.name, reverse=True)
    for described in (*others_first, platform):
        items = described.training.items
        for column, position in enumerate(lookup(items.keys, vocabulary, secret)):
            if position >= 0:
                titles[position], genres[position] = items.titles[column], items.genres[column]
    own = PlatformMatrix.of(platform.training).matrix.item_counts()
    common = vocabulary.owners[platform.name]
    others = state.item_counts.copy()
    others[common] -= own
    return expected_demand(own, others, common, titles, genres)
