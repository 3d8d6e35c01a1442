"""Measures what a passport brings to people who are new on a platform: their history there is hidden altogether.

Holders, with a history on both platforms, carry passports as in a deployment: contents from the issuing platform's model,
bridge and weights learned at the receiving one. The newcomers are then ranked for as the recommender would, and judged by what
they did. The same people with some own interactions and no passport tell how many a passport is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.passport.basis import ProfileBasis
from client.passport.books import Receipt, Redeemed
from client.passport.contents import Contents
from client.passport.making import ContentsMaker
from client.passport.spaces import text_space
from client.passport.use import PassportUse, Spaces
from client.personalization.platform_model import PlatformModel
from client.recommend.recommender import History, Recommender
from common.config.passport import PassportConfig
from common.errors import PassportError
from simulations.engine.datasets import SimulatedPlatform
from simulations.engine.federate import scenario_texts
from simulations.engine.persons import People
from simulations.evaluation.measure import FIGURE_OF_MERIT, Block, Evaluator
from simulations.scenarios.scenario import Scenario
from simulations.scenarios.sources import PassportSource

_TRUTH = 5
"""Interactions beyond the own ones that a person must have, to be judged with them."""


@dataclass(frozen=True, eq=False)
class _Traveller:
    """A person with a passport.

    Attributes:
        person: who.
        redeemed: what the receiving platform has of it.
    """

    person: str
    redeemed: Redeemed

    def with_kind(self, kind: str) -> _Traveller | None:
        """With that content alone; None without it."""
        content = getattr(self.redeemed.contents, kind)
        if content is None:
            return None
        return replace(self, redeemed=replace(self.redeemed, contents=Contents(**{kind: content})))


def measure_passports(
    evaluator: Evaluator, platforms: Sequence[SimulatedPlatform], models: Mapping[str, PlatformModel]
) -> list[Block]:
    """A block for each pair of platforms with people in common, of whom some are new at the second.

    Args:
        evaluator: of a scenario with passports.
        platforms: their data.
        models: what each platform serves.
    """
    config = evaluator.scenario.passport or PassportSource()
    recommenders = {platform.name: Recommender(models[platform.name]) for platform in platforms}
    spaces = _text_spaces(evaluator.scenario)
    blocks = []
    for there in platforms:
        office = _Office(there.name, models[there.name], config, there.test, spaces)
        for here in platforms:
            if here is not there and here.people is not None and there.people is not None:
                pair = _Pair(evaluator, config, office, there.people, here.people, recommenders[here.name])
                blocks += pair.blocks(here.name)
    return blocks


class _Office:
    """Issues passports as a platform does, without keys and receipts."""

    def __init__(
        self,
        name: str,
        model: PlatformModel,
        config: PassportSource,
        test: EvaluationSlice,
        spaces: Spaces | None,
    ) -> None:
        self.name, self.spaces = name, spaces
        self.model, self.test = model, test
        self._config = PassportConfig(contents=config.contents, dimension=config.dimension, epsilon=config.epsilon)
        basis = ProfileBasis.fit(model.histories, model.own.keys, f"{name}/1", dimension=config.dimension)
        texts = spaces(model.own) if spaces is not None and "texts" in config.contents else None
        self._maker = ContentsMaker(model, basis, texts)

    def traveller(self, person: str, row: int, account: str) -> _Traveller | None:
        """Of the user ``row`` to ``account`` elsewhere; None where nothing is known of the user."""
        try:
            contents = self._maker.make(_history(self.model.histories, row), self._config, None)
        except PassportError:
            return None
        receipt = Receipt(f"{row:032x}", "redeemed", account, self.name, contents.kinds, 0, 1 << 39)
        return _Traveller(person, Redeemed(receipt, contents))


class _Pair:
    """From one platform to another.

    Args:
        evaluator: measures.
        config: of the scenario.
        office: the issuing platform.
        there, here: who the users of the two are.
        recommender: the receiving platform's.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        config: PassportSource,
        office: _Office,
        there: People,
        here: People,
        recommender: Recommender,
    ) -> None:
        self._ruler, self._config, self._office, self._recommender = evaluator, config, office, recommender
        rows = self._rows = {person: row for row, person in enumerate(there.users)}
        users = dict(zip(here.users, recommender.model.user_ids, strict=True))
        both = [(person, rows[person], user) for person, user in users.items() if person in rows]
        self._holders = [one for one in (office.traveller(*each) for each in both) if one is not None]
        new = [
            (row, office.traveller(person, rows[person], "")) for row, person in enumerate(here.cold) if person in rows
        ]
        kept = [(row, one) for row, one in new if one is not None and here.hidden.row_lengths[row] > 0]
        self._cold = [one for _, one in kept]
        self._truth = here.hidden.select_users(np.array([row for row, _ in kept], dtype=np.int64))

    def blocks(self, here: str) -> list[Block]:
        """One, or none where nobody is new."""
        if not self._cold:
            return []
        use = self._learned(self._holders)
        popularity = self._measured(None, self._truth, 0)
        brought = self._measured((use, self._cold), self._truth, 0)
        own = self._with_own(use)
        block: Block = {
            "from": self._office.name,
            "to": here,
            "holders": len(self._holders),
            "cold": len(self._cold),
            "popularity": self._ruler.block(popularity),
            "passport": self._ruler.block(brought),
            "over_popularity": _ratio(brought, popularity),
            "passport_minus_popularity": self._ruler.difference(brought, popularity),
            "kinds": self._by_kind(use, popularity),
            "with_holders": self._by_holders(popularity),
            "cross": self._cross(use),
            "own": own,
            "worth": _worth(own),
        }
        return [block]

    def _cross(self, use: PassportUse) -> Block | None:
        """Of items that only the issuing platform has: what the person did there and the passport does not know."""
        rows = np.array([self._rows[one.person] for one in self._cold])
        keys = {key: column for column, key in enumerate(self._office.model.own.keys)}
        items = self._recommender.cross.items.keys
        columns = np.array([keys.get(key, -1) for key in items])
        if not len(columns) or (columns < 0).any():
            return None
        known = self._office.model.histories.select_users(rows).select_items(columns)
        truth = self._office.test.truth.select_users(rows).select_items(columns)
        slice_ = EvaluationSlice(np.arange(len(rows)), known, truth)
        popularity = self._ruler.per_user(_CrossScorer(self._recommender, None, self._cold), slice_)
        brought = self._ruler.per_user(_CrossScorer(self._recommender, use, self._cold), slice_)
        return {
            "people": len(brought.users),
            "popularity": _mean(popularity),
            "passport": _mean(brought),
            "difference": self._ruler.difference(brought, popularity)[FIGURE_OF_MERIT],
        }

    def _learned(self, holders: Sequence[_Traveller]) -> PassportUse:
        use = PassportUse(self._recommender, self._office.spaces)
        use.learn([one.redeemed for one in holders])
        return use

    def _by_kind(self, use: PassportUse, popularity: Any) -> dict[str, float | None]:
        """Over popularity, of each content alone; those who lack it have popularity."""
        ratios: dict[str, float | None] = {}
        for kind in self._config.contents:
            alone = [one.with_kind(kind) for one in self._cold]
            if any(one is not None for one in alone):
                ratios[kind] = _ratio(self._measured((use, alone), self._truth, 0), popularity)
        return ratios

    def _by_holders(self, popularity: Any) -> dict[str, float | None]:
        """Over popularity, with fewer holders."""
        ratios: dict[str, float | None] = {}
        order = np.random.default_rng(self._ruler.scenario.seed).permutation(len(self._holders))
        for count in self._config.holders:
            use = self._learned([self._holders[place] for place in order[:count]])
            ratios[str(count)] = _ratio(self._measured((use, self._cold), self._truth, 0), popularity)
        return ratios

    def _with_own(self, use: PassportUse) -> list[Block]:
        """By number of own interactions: what is found of the later ones, by those alone, a passport alone, and both."""
        found: list[Block] = []
        for given in self._config.own_interactions:
            enough = np.flatnonzero(self._truth.row_lengths >= given + _TRUTH)
            if not len(enough):
                continue
            truth, mine = self._truth.select_users(enough), (use, [self._cold[row] for row in enough])
            found.append(
                {
                    "own": given,
                    "people": len(enough),
                    "popularity": _mean(self._measured(None, truth, 0, given)),
                    "without": _mean(self._measured(None, truth, given, given)),
                    "passport": _mean(self._measured(mine, truth, 0, given)),
                    "both": _mean(self._measured(mine, truth, given, given)),
                }
            )
        return found

    def _measured(
        self,
        passports: tuple[PassportUse, Sequence[_Traveller | None]] | None,
        truth: UserItemMatrix,
        given: int,
        later_than: int = 0,
    ) -> Any:
        """Per user: what is found of ``truth`` after the first ``later_than`` interactions, given the first ``given``."""
        place = np.arange(truth.nnz) - np.repeat(truth.indptr[:-1], truth.row_lengths)
        rest = truth.select_entries(place >= later_than)
        nothing = truth.select_entries(place < 0)
        slice_ = EvaluationSlice(np.arange(truth.n_users), nothing, rest)
        scorer = _NewcomerScorer(self._recommender, passports, truth, given, later_than)
        return self._ruler.per_user(scorer, slice_)


@dataclass(frozen=True, eq=False)
class _NewcomerScorer:
    """Own items as the recommender scores them for people of whom it knows a passport, some interactions, or both.

    Attributes:
        recommender: of the receiving platform.
        passports: what was learned there, and who brings what; None: nobody brings anything.
        truth: n × m; all of their interactions, oldest first.
        given: how many are known.
        unranked: how many are not ranked: the same for all that are compared.
    """

    recommender: Recommender
    passports: tuple[PassportUse, Sequence[_Traveller | None]] | None
    truth: UserItemMatrix
    given: int
    unranked: int

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``."""
        return np.stack([self._of(int(user)) for user in users])

    def _of(self, row: int) -> NDArray[np.float32]:
        brought = None
        if self.passports is not None:
            use, people = self.passports
            mine = people[row]
            brought = None if mine is None else use.brought([mine.redeemed])
        columns, values = self.truth.row(row), self.truth.values[self.truth.indptr[row] : self.truth.indptr[row + 1]]
        known = History(columns[: self.given], values[: self.given], np.zeros(0, dtype=np.int32))
        scores = self.recommender.own_scores(self.recommender.prepare(known, brought)).copy()
        scores[columns[: self.unranked]] = scores.min() - 1
        return scores


@dataclass(frozen=True, eq=False)
class _CrossScorer:
    """The others' items as the recommender scores them for newcomers, with their passports or without."""

    recommender: Recommender
    use: PassportUse | None
    people: Sequence[_Traveller]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``."""
        nothing = History(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int32))
        found = []
        for user in users:
            brought = None if self.use is None else self.use.brought([self.people[int(user)].redeemed])
            prepared = self.recommender.prepare(nothing, brought)
            found.append(self.recommender.cross.scored(prepared.query("cross")))
        return np.stack(found)


def _text_spaces(scenario: Scenario) -> Spaces | None:
    plan, texts = scenario.plan.text, scenario_texts(scenario)
    return None if plan is None or texts is None else partial(text_space, plan, texts)


def _history(histories: UserItemMatrix, row: int) -> History:
    entries = slice(histories.indptr[row], histories.indptr[row + 1])
    return History(histories.indices[entries], histories.values[entries], np.zeros(0, dtype=np.int32), user=row)


def _mean(measured: Any) -> float:
    return float(measured.values[FIGURE_OF_MERIT].mean())


def _ratio(measured: Any, popularity: Any) -> float | None:
    base = _mean(popularity)
    return _mean(measured) / base if base else None


def _worth(own: Sequence[Mapping[str, Any]]) -> float | None:
    """How many own interactions find as much as the passport alone, between those tried; None where none of them does."""
    before, ahead = 0.0, None
    for point in own:
        gain = point["passport"] - point["without"]
        if gain <= 0:
            share = 1.0 if ahead is None else ahead / (ahead - gain)
            return float(before + share * (point["own"] - before))
        before, ahead = point["own"], gain
    return None
