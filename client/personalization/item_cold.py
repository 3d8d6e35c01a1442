"""Weights of cross-platform scorers from item-cold validation: the platform hides some of its own common items from itself.

Items that the platform has and others have, too, are dealt out to folds. A fold's items are taken out of histories, every
scorer is fitted again without them, and then ranks them: who really had one is known. So it works in a deployment as in a
simulation, releases nothing, and never looks at what users did with items that the platform lacks. A conditional logit
over the folds' items says how the scorers weigh (:mod:`client.training.choice`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.personalization.cross_parts import NEAR_FACTORS, TASTES_BY_FACTORS, CrossParts
from client.personalization.platform_model import CrossVerdict
from client.scoring.blend import Blend
from client.scoring.described.prior import PriorPart
from client.scoring.factors import FactorModel
from client.scoring.part import Part
from client.scoring.scorer import z
from client.training.choice import FEWEST_USERS, LONGEST_LIST, Fold, Found, conditional_logit, found_in, users_asked
from common.metrics import PairedInterval

_FOLDS = 5
_DEALS = 4
"""How often items are dealt out, at most: in which fold an item is, with which others, is chance that more deals take out."""
_CERTAIN = 0.999
"""Coverage of an interval of one deal that no further one would move across 0."""
_FEWEST_ITEMS = 25
"""Common items, below which no weights can be told from luck."""
_ADMITTED = 0.6
"""Coverage of the interval by which other scorers or weights must make the blend better: as of the verdict on own items."""
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Of a blend in what ranks, beside none of it; the rest is popularity."""
_AS_TOLD = "popularity as told"


def choose_blend(
    data: CrossParts,
    shared: FactorModel,
    without_own: NDArray[np.float32] | None,
    rng: np.random.Generator,
    *,
    level: float,
) -> tuple[Blend, CrossVerdict] | None:
    """Return what ranks the others' items, weighed on own ones: popularity and as much of a blend as is surely better.

    A little of a blend brings much of its gain and moves few items: it is surer than all of it. So that share ranks whose gain
    over popularity has the highest lower end; none of it where no share's is above 0.

    Args:
        data: what scorers are fitted on.
        shared: the federation's factors, over the vocabulary.
        without_own: float32 ``[m, row]``: item parameters; own users have no say in those of own items. With their say in
            them the shared factors would look better than they are: None leaves these out.
        rng: deals items and users out to folds.
        level: coverage of the two-sided interval whose lower end counts: of prediction, for as many items as only others
            have. Few of them can be ranked worse by a blend that is better in the mean.

    Returns:
        None where the platform has too little in common with others to validate on.
    """
    common = int(data.others[data.own].sum())
    if common < _FEWEST_ITEMS:
        return None
    foreign = max(int(data.others.sum()) - common, 1)
    depth, ahead = LONGEST_LIST / foreign, common / foreign
    popularity = data.popularity()
    dealt = _dealt(data, shared, without_own, rng, depth, ahead)
    users = np.unique(np.concatenate([fold.users for fold in dealt.folds] or [np.zeros(0, int)]))
    if len(users) < FEWEST_USERS:
        return None
    hedge = _hedged(dealt, _admitted(dealt, depth), popularity, depth, level, ahead)
    verdict = CrossVerdict(
        name="blend" if hedge.share else "popularity",
        metric=f"recall@{LONGEST_LIST}",
        users=len(users),
        popularity_mean=hedge.popular.recall,
        chosen_mean=(hedge.found if hedge.share else hedge.popular).recall,
        interval=(hedge.interval.lower, hedge.interval.upper),
        share=hedge.share,
    )
    if not hedge.share:
        return Blend(weights={popularity.name: 1.0}, parts=(popularity,)), verdict
    weight_of = {name: hedge.share * float(weight) for name, weight in hedge.blend.items()}
    parts = _named(data.fitted(data.own, data.histories, shared, without_own), list(weight_of))
    blend = _blend(parts, np.array([weight_of[part.name] for part in parts]))
    beside = (1.0 - hedge.share) * hedge.weight
    return blend.with_part(replace(popularity, name=_AS_TOLD), beside) if beside > 0 else blend, verdict


_Scores = list[list[NDArray[np.float32]]]
"""Of each deal's folds, float32 ``[u, c]``."""


@dataclass(frozen=True, eq=False)
class _Dealt:
    """Holds folds of one deal or several.

    Attributes:
        deals: the folds of each.
        names: of the k scorers.
    """

    deals: list[list[Fold]]
    names: list[str]

    @property
    def folds(self) -> list[Fold]:
        """Those of all deals."""
        return [fold for folds in self.deals for fold in folds]

    def of_scorers(self, names: Sequence[str]) -> _Dealt:
        """The same with the scorers ``names`` alone."""
        kept = [place for place, name in enumerate(self.names) if name in names]
        deals = [[fold.of_scorers(kept) for fold in folds] for folds in self.deals]
        return _Dealt(deals, [self.names[place] for place in kept])

    def found_by(self, scores: Callable[[Fold], NDArray[np.float32]], depth: float) -> Found:
        """Find by ``scores``, float32 ``[u, c]`` of a fold."""
        return self.found_in([[scores(fold) for fold in folds] for folds in self.deals], depth)

    def found_in(self, scores: _Scores, depth: float) -> Found:
        """Find by ``scores`` of every fold."""
        return Found.mean([found_in(folds, one, depth) for folds, one in zip(self.deals, scores, strict=True)])

    def judged(self, depth: float) -> _Judged:
        """Weights of all folds, and what each fold's users find by weights that its items had no say in."""
        weights = conditional_logit(self.folds)
        scores = [
            [
                fold.features
                @ conditional_logit([other for other in folds if other is not fold], start=weights).astype(np.float32)
                for fold in folds
            ]
            for folds in self.deals
        ]
        return _Judged(self.names, weights, scores, self.found_in(scores, depth))


@dataclass(frozen=True, eq=False)
class _Judged:
    """Holds a blend's scorers, their weights, and how it ranked items that had no say in them, and what that found."""

    names: list[str]
    weights: NDArray[np.float64]
    scores: _Scores
    found: Found


@dataclass(frozen=True, eq=False)
class _Hedge:
    """Holds how much of a blend ranks beside popularity.

    Attributes:
        share: of the blend; 0 where popularity ranks alone.
        blend: weights by name, of all of the blend.
        weight: of popularity where it ranks alone.
        found: what the share of the blend that is surest finds, chosen or not.
        popular: what popularity finds.
        interval: of the difference.
    """

    share: float
    blend: dict[str, float]
    weight: float
    found: Found
    popular: Found
    interval: PairedInterval


def _hedged(dealt: _Dealt, judged: _Judged, popularity: PriorPart, depth: float, level: float, ahead: float) -> _Hedge:
    """Choose the share of a blend whose gain over popularity has the highest lower end."""
    told = [[z(_everyone(popularity.of_items, fold)) for fold in folds] for folds in dealt.deals]
    alone = zip(dealt.folds, [scores for folds in told for scores in folds], strict=True)
    weight = float(conditional_logit([replace(fold, features=scores[..., None]) for fold, scores in alone])[0])
    popular = dealt.found_by(lambda fold: _everyone(popularity.of_items, fold), depth)

    def mixed(share: float) -> tuple[float, Found, PairedInterval]:
        if share == 1.0:
            found = judged.found
        else:
            scores = [
                [share * blend + (1.0 - share) * weight * prior for blend, prior in zip(*fold, strict=True)]
                for fold in zip(judged.scores, told, strict=True)
            ]
            found = dealt.found_in(scores, depth)
        return share, found, found.above(popular, level, ahead)

    share, found, interval = max(map(mixed, _SHARES), key=lambda one: one[2].lower)
    blend = dict(zip(judged.names, judged.weights.tolist(), strict=True))
    return _Hedge(share if interval.lower > 0 else 0.0, blend, weight, found, popular, interval)


def _dealt(
    data: CrossParts,
    shared: FactorModel,
    without_own: NDArray[np.float32] | None,
    rng: np.random.Generator,
    depth: float,
    ahead: float,
) -> _Dealt:
    """Folds of one deal where that leaves no doubt whether a blend or popularity is better, else of four.

    A deal costs as much as fitting all scorers five times. Where gains are small, what one deal finds is chance in good part.
    """
    first = _folds(data, shared, without_own, rng)
    if len(first.deals[0]) < 2:
        return _Dealt([], first.names)
    popularity = data.popularity()
    popular = first.found_by(lambda fold: _everyone(popularity.of_items, fold), depth)
    sure = first.judged(depth).found.above(popular, _CERTAIN, ahead)
    if sure.lower > 0 or sure.upper < 0:
        return first
    further = (_folds(data, shared, without_own, rng) for _ in range(_DEALS - 1))
    every = [first, *(dealt for dealt in further if len(dealt.deals[0]) > 1)]
    names = [name for name in first.names if all(name in other.names for other in every)]
    return _Dealt([dealt.of_scorers(names).deals[0] for dealt in every], names)


def _admitted(dealt: _Dealt, depth: float) -> _Judged:
    """The blend that is judged against popularity.

    Some scorers are left out where the blend is not surely better with them: parts of one market gain by near factors, and
    separate catalogues did not; with tastes by factors it is the other way round.
    """
    asked = ({NEAR_FACTORS}, set(TASTES_BY_FACTORS))
    names = [name for name in dealt.names if not any(name in group for group in asked)]
    chosen = dealt.of_scorers(names)
    judged = chosen.judged(depth)
    for group in asked:
        if group <= set(dealt.names):
            more = dealt.of_scorers([*chosen.names, *group])
            with_group = more.judged(depth)
            if with_group.found.above(judged.found, _ADMITTED).lower > 0:
                chosen, judged = more, with_group
    return judged


def _everyone(of_items: NDArray[np.float32], fold: Fold) -> NDArray[np.float32]:
    """float32 ``[u, c]``: scores that are the same for all."""
    return np.broadcast_to(of_items[fold.items], fold.truth.shape)


_Fitted = tuple[list[Part], NDArray[np.integer], UserItemMatrix, NDArray[np.integer], UserItemMatrix]
"""Scorers of a fold, its hidden items, histories without them, users who had some, and which."""


def _folds(
    data: CrossParts, shared: FactorModel, without_own: NDArray[np.float32] | None, rng: np.random.Generator
) -> _Dealt:
    """Return the folds of one deal that have users, with the scorers that all folds have."""
    common = data.own[data.others[data.own]]
    of_fold, fitted = rng.permutation(len(common)) % _FOLDS, list[_Fitted]()
    for number in range(_FOLDS):
        hidden = common[of_fold == number]
        truth = data.histories.select_items(hidden)
        users = np.flatnonzero(truth.row_lengths)
        users = np.sort(rng.permutation(users)[: users_asked(len(hidden))])
        mask = np.zeros(data.histories.n_items, dtype=np.bool_)
        mask[hidden] = True
        left = data.histories.select_entries(~mask[data.histories.indices])
        known = shared
        if without_own is not None:
            known = replace(shared, item_parameters=shared.with_rows(hidden, without_own[hidden]))
        parts = _judged(data.fitted(np.setdiff1d(data.own, hidden), left, known, without_own), without_own)
        fitted.append((parts, hidden, left, users, truth))
    # Some scorers want attributes that occur together, which the items left of a fold need not have.
    everywhere = set.intersection(*({part.name for part in parts} for parts, *_ in fitted))
    names = [part.name for part in fitted[0][0] if part.name in everywhere]
    folds = []
    for parts, items, histories, judging, having in fitted:
        if len(judging):
            features = _standardised(_named(parts, names), items, histories, judging)
            folds.append(Fold(features, _dense(having.select_users(judging)), judging, items))
    return _Dealt([folds], names)


def _named(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    return [part for part in parts if part.name in names]


def _judged(parts: Sequence[Part], without_own: NDArray[np.float32] | None) -> list[Part]:
    """Those that own items can tell the worth of."""
    return [part for part in parts if without_own is not None or part.name not in {"shared", NEAR_FACTORS}]


def _standardised(
    parts: Sequence[Part], hidden: NDArray[np.integer], histories: UserItemMatrix, users: NDArray[np.integer]
) -> NDArray[np.float32]:
    return np.stack([z(part.at(hidden).scores(histories, users)) for part in parts], axis=-1)


def _dense(matrix: UserItemMatrix) -> NDArray[np.bool_]:
    dense = np.zeros((matrix.n_users, matrix.n_items), dtype=np.bool_)
    dense[matrix.entry_users(), matrix.indices] = True
    return dense


def _blend(parts: Sequence[Part], weights: NDArray[np.float64]) -> Blend:
    """The parts that weigh anything; shared factors are the platform model's own."""
    kept = [(part, float(weight)) for part, weight in zip(parts, weights, strict=True) if weight > 0]
    return Blend(
        weights={part.name: weight for part, weight in kept},
        parts=tuple(part for part, _ in kept if part.name != "shared"),
    )
