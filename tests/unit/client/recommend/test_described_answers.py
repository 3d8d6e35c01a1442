"""A described attribute of items filters lists, is shown in them, and says what an item and a history have in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.described import Described
from client.personalization.described import ranked_items
from client.personalization.store import PlatformStore
from client.recommend.answers import AttributeCondition, ItemFilter, Recommendation
from client.recommend.explain import OwnValues
from client.recommend.filters import AttributeIndex
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.scoring.reranker import RankedItems
from common.config.serving import NeverListed, SteeringConfig
from common.errors import ContractError
from simulations.engine.random_model import random_platform_model
from tests.support.stores import described, model_of

MODEL = described(random_platform_model(np.random.default_rng(5)))
RECOMMENDER = Recommender(MODEL)


def listed(*conditions: AttributeCondition, scope: str = "all") -> list[Recommendation]:
    wanted = ItemFilter(attributes=conditions)
    return RECOMMENDER.recommend("user-1", 1000, scope, exclude_seen=False, wanted=wanted)  # type: ignore[arg-type]


def by_hand(item: Recommendation, condition: AttributeCondition) -> bool:
    told = item.attributes.get(condition.attribute, ())
    if isinstance(told, float):
        low, high = condition.at_least, condition.at_most
        return (low is None or told >= low) and (high is None or told <= high)
    if condition.at_least is not None or condition.at_most is not None:
        return False
    values = {value.casefold() for value in told}
    return (not condition.any_of or bool(values & set(condition.any_of))) and not values & set(condition.none_of)


@pytest.mark.parametrize(
    "condition",
    [
        AttributeCondition("maker", any_of=("maker 1",)),
        AttributeCondition("maker", none_of=("maker 1", "maker 2")),
        AttributeCondition("topics", any_of=("t0", "every"), none_of=("t1",)),
        AttributeCondition("year", at_least=1993.0),
        AttributeCondition("year", at_least=1992.0, at_most=1994.0),
        AttributeCondition("maker", any_of=("nobody",)),
    ],
)
def test_conditions_pass_what_they_pass_one_by_one(condition: AttributeCondition) -> None:
    everything = listed()
    kept = [item.key for item in everything if by_hand(item, condition)]
    assert [item.key for item in listed(condition)] == kept
    assert len(kept) < len(everything)


def test_genres_are_an_attribute_like_any_other() -> None:
    old = RECOMMENDER.recommend("user-1", 50, wanted=ItemFilter(any_genres=("drama",), no_genres=("war",)))
    new = RECOMMENDER.recommend(
        "user-1", 50, wanted=ItemFilter(attributes=(AttributeCondition("genres", ("DRAMA",), ("War",)),))
    )
    assert old == new != []


@pytest.mark.parametrize(
    "condition",
    [
        AttributeCondition("colour", any_of=("red",)),
        AttributeCondition("maker", at_least=1.0),
        AttributeCondition("year", any_of=("1990",)),
        AttributeCondition("blurb", any_of=("On 1",)),
        AttributeCondition("cover", at_most=3.0),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(condition: AttributeCondition) -> None:
    with pytest.raises(ContractError, match=f"filter.attributes: '{condition.attribute}' is none of"):
        listed(condition)


def test_an_attribute_that_only_others_tell_can_be_asked_of_both() -> None:
    own = MODEL.own.further.select(range(len(MODEL.own.keys)))
    fewer = Described({"year": "number"}, {"year": own.columns["year"]})
    recommender = Recommender(
        type(MODEL)(**{**vars(MODEL), "own": type(MODEL.own)(**{**vars(MODEL.own), "further": fewer})})
    )
    wanted = ItemFilter(attributes=(AttributeCondition("maker", any_of=("maker 1",)),))
    assert recommender.recommend("user-1", 100, "own", wanted=wanted) == []
    assert recommender.recommend("user-1", 100, "cross", wanted=wanted) != []


def test_reasons_are_values_that_the_history_has_more_often() -> None:
    history = RECOMMENDER.history_of("user-1")
    own, asked = MODEL.own.described, set()
    for key in [*MODEL.own.keys[:10], *(key for key in MODEL.vocabulary.keys if key)][:30]:
        why = RECOMMENDER.explain(history, key)
        for reason in why.reasons:
            if own.kinds[reason.attribute] == "number":
                low, _, high = reason.value.partition(" to ")
                numbers = own.numbers(reason.attribute)
                having = ((numbers >= float(low)) & (numbers <= float(high or low))).tolist()
            else:
                having = [reason.value in values for values in own.values(reason.attribute)]
            asked.add((own.kinds[reason.attribute], key in MODEL.own.keys))
            count = sum(having[column] for column in history.columns)
            assert (reason.count, reason.of) == (count, len(history.columns))
            assert count / len(history.columns) > sum(having) / len(having)
    assert RECOMMENDER.explain(RECOMMENDER.history_from([])[0], MODEL.own.keys[3]).reasons == ()
    assert asked >= {(kind, own) for kind in ("category", "categories", "number") for own in (True, False)}


NUMBERS = st.lists(st.floats(-1e9, 1e9) | st.none(), min_size=1, max_size=40)


@given(NUMBERS)
def test_every_number_is_in_one_eighth_and_eighths_are_alike(numbers: list[float | None]) -> None:
    own = Described({"price": "number"}, {"price": tuple(numbers)})
    found = OwnValues.of(own)
    assert [bool(one) for one in found.of_items["price"]] == [number is not None for number in numbers]
    ends = found.eighths["price"]
    assert len(ends) <= 8
    assert (ends[:, 0] <= ends[:, 1]).all()
    assert (ends[1:, 0] > ends[:-1, 1]).all()


def test_a_number_beyond_the_own_items_is_like_none_of_them() -> None:
    found = OwnValues.of(Described({"year": "number"}, {"year": (1950.0, 1990.0, None)}))
    one = Described({"year": "number"}, {"year": (2020.0,)})
    assert found.values(one) == {"year": ()}


VALUES = st.lists(st.tuples(st.text(min_size=1, max_size=3)), min_size=1, max_size=12)


@given(VALUES, st.data())
def test_reasons_hold_for_any_script(values: list[tuple[str, ...]], data: st.DataObject) -> None:
    own = Described({"maker": "category"}, {"maker": tuple(one[0] for one in values)})
    columns = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), max_size=8)), dtype=np.int32)
    here = Counter(values[column][0].casefold() for column in columns)
    for reason in OwnValues.of(own).in_common({"maker": values[0]}, columns):
        assert reason.count == here[values[0][0].casefold()] > 0


def test_a_ranker_reads_every_attribute_and_genres_as_ever() -> None:
    plain = random_platform_model(np.random.default_rng(5))
    counts = np.ones(len(plain.own.keys))
    of_old = RankedItems.of(counts, plain.own.genres, 64)
    assert (ranked_items(plain.own, counts, None, buckets=64).values == of_old.values).all()
    of_new = ranked_items(MODEL.own, counts, None, buckets=64).values
    assert ((of_new[:, :64] >= of_old.values).all(), of_new[:, :64].sum() > of_old.values.sum()) == (True, True)
    further = MODEL.own.further
    for name in ("year", "cover"):
        fewer = Described({name: further.kinds[name]}, {name: further.columns[name]})
        beside = ranked_items(replace(MODEL.own, further=fewer), counts, None, buckets=64).values[:, 64:]
        told = [value is not None for value in further.columns[name]]
        assert beside.any(axis=1).tolist() == told
        assert (np.linalg.norm(beside, axis=1) < 1 + 1e-6).all()
    with_texts = ranked_items(
        plain.own, counts, lambda texts: np.array([[len(t), len(t) ** 2 % 7] for t in texts], np.float32), buckets=64
    )
    assert with_texts.values[:, 64:].any()


def test_a_store_keeps_every_kind(tmp_path: Path) -> None:
    model = described(model_of())
    store = PlatformStore(tmp_path)
    store.commit(model)
    for kept, given_as in ((store.load().own, model.own), (store.load().vocabulary, model.vocabulary)):
        assert (kept.further.kinds, kept.further.columns) == (given_as.further.kinds, given_as.further.columns)


def test_an_index_without_attributes_filters_by_keys_alone() -> None:
    index = AttributeIndex(["a:1", ""], Described(), np.ones((2, 1), dtype=bool), ["here"])
    found = index.mask(ItemFilter(key_prefixes=("a:",)))
    assert found is not None
    assert found.tolist() == [True, False]


@pytest.mark.parametrize(
    "where",
    [
        {"maker": {"any_of": ["maker 1"]}},
        {"topics": {"none_of": ["T0"]}},
        {"year": {"at_most": 1992}},
        {"maker": {"any_of": ["maker 1"]}, "year": {"at_least": 1995}},
    ],
)
def test_rules_keep_any_attribute_out_of_own_and_foreign_lists(where: dict[str, dict[str, Any]]) -> None:
    def holds(item: Recommendation, name: str, rule: dict[str, Any]) -> bool:
        told = item.attributes.get(name, ())
        if isinstance(told, float):
            return bool(rule.get("at_least", told) <= told <= rule.get("at_most", told))
        values = {value.casefold() for value in told}
        wanted, barred = ({value.casefold() for value in rule.get(key, ())} for key in ("any_of", "none_of"))
        return (
            not {"at_least", "at_most"} & rule.keys() and (not wanted or bool(wanted & values)) and not barred & values
        )

    lists = ListMaker(SteeringConfig(never=NeverListed.model_validate({"where": where})))
    prepared = RECOMMENDER.prepare(RECOMMENDER.history_of("user-1"))
    shown = {item.key for item in lists.recommend(RECOMMENDER, prepared, 1000, exclude_seen=False)}
    everything = {item.key: item for item in listed()}
    out = {key for key, item in everything.items() if any(holds(item, name, rule) for name, rule in where.items())}
    assert shown == everything.keys() - out
    assert {MODEL.platform in everything[key].platforms for key in out} == {True, False}


def test_ten_thousand_values_in_every_script_filter_and_explain() -> None:
    scripts = ("Ursula", "厄休拉", "أورسولا", "उर्सुला", "U\u0308rsu\u0308la", "👩\u200d🚀", "Урсула")
    makers = tuple(f"{scripts[n % 7]} {n // 2}" for n in range(20_000))
    own = Described({"maker": "category"}, {"maker": tuple(None if n % 5 == 4 else makers[n] for n in range(20_000))})
    keys = [f"x:{n}" for n in range(20_000)]
    index = AttributeIndex(keys, own, np.ones((20_000, 1), dtype=bool), ["here"])
    values = OwnValues.of(own)
    for n in range(0, 20_000, 1_111):
        wanted = ItemFilter(attributes=(AttributeCondition("maker", any_of=(makers[n].upper(),)),))
        mask = index.mask(wanted)
        assert mask is not None
        assert np.flatnonzero(mask).tolist() == [at for at in (n,) if at % 5 != 4]
        item = Described({"maker": "category"}, {"maker": (makers[n],)})
        reasons = values.in_common(values.values(item), np.array([n, 3], dtype=np.int32))
        assert [reason.value for reason in reasons] == ([makers[n]] if n % 5 != 4 else [])
