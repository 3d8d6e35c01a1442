"""Fields of a request, checked; each error names its field."""

from __future__ import annotations

import math
import time
from typing import Final

from client.data.reading.identifiers import LONGEST
from client.data.recorded import EventRules, problem_of_time
from client.recommend.answers import AttributeCondition, ItemFilter, Scope
from client.steering.steering import AS_CONFIGURED, Steering
from common.errors import ContractError
from common.proto import recommender_pb2 as pb

_MAX_FILTER: Final = 100
_MAX_KEYS: Final = 10_000
_SCOPES: Final[dict[int, Scope]] = {
    pb.SCOPE_UNSPECIFIED: "all",
    pb.SCOPE_OWN: "own",
    pb.SCOPE_CROSS: "cross",
    pb.SCOPE_ALL: "all",
}


def text_of(name: str, text: str) -> str:
    if not text or len(text) > LONGEST:
        raise ContractError(f"{name}: must have 1 … {LONGEST} characters")
    return text


def value_of(item: pb.HistoryItem | pb.RecordFeedbackRequest, rules: EventRules) -> float:
    return rules.value_of(item.value if item.HasField("value") else None)


def time_of(request: pb.RecordFeedbackRequest) -> int:
    if not request.HasField("time"):
        return int(time.time())
    if problem := problem_of_time(request.time):
        raise ContractError(f"time: {problem}")
    return request.time


def scope_of(scope: int) -> Scope:
    if scope not in _SCOPES:
        raise ContractError("scope: must be SCOPE_OWN, SCOPE_CROSS or SCOPE_ALL")
    return _SCOPES[scope]


def filter_of(request: pb.RecommendRequest | pb.RecommendForHistoryRequest | pb.SimilarItemsRequest) -> ItemFilter:
    given = request.filter
    lists = [tuple(names) for names in (given.any_genres, given.no_genres, given.key_prefixes, given.platforms)]
    asked = [tuple(names) for one in given.attributes for names in ((one.attribute,), one.any_of, one.none_of)]
    if sum(map(len, (*lists, *asked))) > _MAX_FILTER:
        raise ContractError(f"filter: at most {_MAX_FILTER} conditions in all")
    for names in (*lists, *asked):
        for name in names:
            text_of("filter", name)
    any_genres, no_genres, prefixes, platforms = lists
    return ItemFilter(any_genres, no_genres, prefixes, platforms, tuple(_condition(one) for one in given.attributes))


def _condition(given: pb.AttributeCondition) -> AttributeCondition:
    bounds = [getattr(given, name) if given.HasField(name) else None for name in ("at_least", "at_most")]
    if any(bound is not None and not math.isfinite(bound) for bound in bounds):
        raise ContractError("filter.attributes: at_least and at_most must be finite")
    return AttributeCondition(given.attribute, tuple(given.any_of), tuple(given.none_of), *bounds)


def steering_of(request: pb.RecommendRequest | pb.RecommendForHistoryRequest) -> Steering:
    if not request.HasField("steering"):
        return AS_CONFIGURED
    given = request.steering
    for name, keys in (("allow_keys", given.allow_keys), ("deny_keys", given.deny_keys)):
        if len(keys) > _MAX_KEYS:
            raise ContractError(f"steering.{name}: at most {_MAX_KEYS} items")
        for key in keys:
            text_of(f"steering.{name}", key)
    return Steering(
        tuple(given.allow_keys),
        tuple(given.deny_keys),
        _share("foreign_share", given.foreign_share if given.HasField("foreign_share") else None),
        _share("diversity", given.diversity if given.HasField("diversity") else None),
        _share("novelty", given.novelty if given.HasField("novelty") else None),
    )


def _share(name: str, value: float | None) -> float | None:
    # NaN lies nowhere.
    if value is not None and not 0 <= value <= 1:
        raise ContractError(f"steering.{name}: must lie in 0 … 1")
    return value
