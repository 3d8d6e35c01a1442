"""Fields of a request, checked; each error names its field."""

from __future__ import annotations

import time
from typing import Final

from client.data.reading.identifiers import LONGEST
from client.data.recorded import EventRules, problem_of_time
from client.recommend.answers import ItemFilter, Scope
from common.errors import ContractError
from common.proto import recommender_pb2 as pb

_MAX_FILTER: Final = 100
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
    if sum(map(len, lists)) > _MAX_FILTER:
        raise ContractError(f"filter: at most {_MAX_FILTER} conditions in all")
    for names in lists:
        for name in names:
            text_of("filter", name)
    return ItemFilter(*lists)
