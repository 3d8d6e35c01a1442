"""The recommender's messages as JSON: the fields of ``recommender.proto`` by their names, checked before anything sees them.

Strict: no text for a number, no NaN, no field that there is not. Limits that depend on the platform are the service's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.proto import recommender_pb2 as pb

ScopeName = Literal["own", "cross", "all"]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_SCOPES = {"own": pb.SCOPE_OWN, "cross": pb.SCOPE_CROSS, "all": pb.SCOPE_ALL}
_SHOWN = 3
_LONGEST_NAME = 40


class Message(BaseModel):
    """The base of all; field docstrings become descriptions of the OpenAPI page."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        from_attributes=True,
        use_attribute_docstrings=True,
    )

    def fields(self) -> dict[str, Any]:
        """As a protobuf message takes them: what is not given is left out."""
        given = self.model_dump(exclude_none=True)
        return given | {"scope": _SCOPES[given["scope"]]} if "scope" in given else given


class AttributeCondition(Message):
    """Holds what an item's described attribute must be. Every part that is given must hold."""

    attribute: str
    """By name, as the federation's plan has it; "genres" is one."""
    any_of: tuple[str, ...] = ()
    """At least one of these values (letter case does not matter)."""
    none_of: tuple[str, ...] = ()
    """None of these. An item of which nothing is told has none."""
    at_least: float | None = None
    """Of a number. An item of which nothing is told does not pass."""
    at_most: float | None = None
    """Of a number, likewise."""


class ItemFilter(Message):
    """Every condition that is given must hold."""

    any_genres: tuple[str, ...] = ()
    """At least one of these genres (letter case does not matter)."""
    no_genres: tuple[str, ...] = ()
    """None of these genres."""
    key_prefixes: tuple[str, ...] = ()
    """The key begins with one of these, as in "imdb:"."""
    platforms: tuple[str, ...] = ()
    """At least one of these platforms has the item."""
    attributes: tuple[AttributeCondition, ...] = ()
    """On described attributes."""


class Steering(Message):
    """How a list is made beyond its order by score; what is not given is as the platform has configured it."""

    allow_keys: tuple[str, ...] = ()
    """Only these items may be listed; none given: all."""
    deny_keys: tuple[str, ...] = ()
    """These may not."""
    foreign_share: float | None = None
    """Share of items that only other platforms have, 0 to 1, in a list of both scopes."""
    diversity: float | None = None
    """0 to 1: how much being unlike the items listed before counts beside the score."""
    novelty: float | None = None
    """0 to 1: how much being little known counts beside the score."""


class HistoryItem(Message):
    """An item that a person had."""

    item_key: str
    """Its key, as in "imdb:0114709"."""
    value: float | None = None
    """A weight, or a rating where the platform's data are ratings."""


class _Listing(Message):
    """Holds what every request for a list may say."""

    k: Int32 = 10
    """How many items."""
    scope: ScopeName = "all"
    """own: this platform's items; cross: items that only other platforms have; all: both in one list."""
    filter: ItemFilter | None = None
    """Which items may be listed."""


class _SteeredListing(_Listing):
    """Holds what every request for recommendations may say."""

    steering: Steering | None = None
    """How the list is made beyond its order by score."""


class RecommendRequest(_SteeredListing):
    """The best items for a known user."""

    user_id: str
    """A user of this platform. In the body, so that no log of addresses ever holds one."""
    exclude_seen: bool = True
    """Whether items of the user's history are left out."""


class RecommendForHistoryRequest(_SteeredListing):
    """The best items for a history: a new or anonymous person, of whom nothing is kept."""

    history: tuple[HistoryItem, ...]
    """Oldest first."""
    exclude_seen: bool = True
    """Whether items of the history are left out."""


class SimilarItemsRequest(_Listing):
    """The items most like an item."""

    item_key: str
    """The key of the item."""


class ExplainRequest(Message):
    """Why an item has its score, for a known user or else for a history."""

    item_key: str
    """The key of the item."""
    user_id: str | None = None
    """A user of this platform; or else give a history."""
    history: tuple[HistoryItem, ...] = ()
    """Oldest first."""
    limit: Int32 = 0
    """The largest contributions to list; 0: all."""


class FeedbackRequest(Message):
    """A user had an item."""

    event_id: str
    """Chosen by the caller, unique per event: the same id again is the same event."""
    user_id: str
    """Whose event it is; need not be known yet."""
    item_key: str
    """The key of the item; need not be known yet."""
    value: float | None = None
    """The event's weight, or its rating; unless given, what an event without one is. Explicit feedback needs it."""
    time: Int64 | None = None
    """Seconds (not milliseconds) since 1970; the time of arrival unless given."""


class IssuePassportRequest(Message):
    """A passport for a user to carry to another platform."""

    user_id: str
    """A user of this platform."""
    receiver: str
    """A platform that this one has pinned."""
    account: str | None = None
    """The user's account there; unless given, the passport is good for the first for which it is redeemed."""


class RedeemPassportRequest(Message):
    """Redeem what a user brought."""

    user_id: str
    """The user's account here."""
    passport: str
    """Its text."""


class RecommendForPassportRequest(_SteeredListing):
    """For a person without an account: nothing is kept."""

    passport: str
    """Its text."""


class Answer(Message):
    """The base of all answers: read off protobuf messages."""

    model_config = ConfigDict(strict=False)


class ModelVersion(Answer):
    """Names the model that answered."""

    version: int
    """Number of the version in the platform's store."""
    server_round: int
    """Server round of its shared parameters."""


class AttributeValue(Answer):
    """Values of a category, or a number."""

    values: tuple[str, ...]
    """Of a category, or of several."""
    number: float | None
    """Of a number; null of categories."""

    @model_validator(mode="before")
    @classmethod
    def _told(cls, given: object) -> object:
        if isinstance(given, pb.AttributeValue):
            return {"values": tuple(given.values), "number": given.number if given.HasField("number") else None}
        return given


class ListedItem(Answer):
    """An item of a list."""

    key: str
    """Its key."""
    title: str
    """As its card says."""
    genres: tuple[str, ...]
    """As its card says."""
    score: float
    """Higher is better; comparable within one list only. Of similar items the cosine."""
    platforms: tuple[str, ...]
    """Who has the item, this platform first where it does."""
    attributes: dict[str, AttributeValue]
    """Further categories and numbers that are told of it, by name."""


class RecommendReply(Answer):
    """Best first; fewer than k where the scope has fewer."""

    items: tuple[ListedItem, ...]
    """The list."""
    model: ModelVersion
    """What made it."""
    ignored_keys: tuple[str, ...]
    """Keys of the request's history that the model does not know and that played no part."""
    passports: tuple[str, ...]
    """Platforms from which the person brought a passport that took part."""
    variant: str
    """``current`` or ``challenger`` while users are split between two versions, else empty."""


class SimilarItemsReply(Answer):
    """Most alike first."""

    items: tuple[ListedItem, ...]
    """The list."""
    model: ModelVersion
    """What made it."""


class Contribution(Answer):
    """Holds what one item of the history added to a score."""

    item_key: str
    """The item."""
    title: str
    """Its title."""
    amount: float
    """What it added."""


class ModelShare(Answer):
    """Holds what one model added to a score."""

    model: str
    """Its name."""
    weight: float
    """Its weight in the score."""
    amount: float
    """The amounts of all models sum to the score."""


class Reason(Answer):
    """A value that the item and the history have in common, more frequent in the history than in the catalogue."""

    attribute: str
    """By name."""
    value: str
    """As described."""
    count: int
    """Items of the history that have it."""
    of: int
    """All items of the history."""


class ExplainReply(Answer):
    """score = sum of contributions + others + item_bias + popularity = sum of the models' amounts."""

    item_key: str
    """The item."""
    title: str
    """Its title."""
    score: float
    """As a list of the item's own scope gives it."""
    contributions: tuple[Contribution, ...]
    """Largest absolute amount first."""
    others: float
    """Sum of the contributions beyond the limit."""
    item_bias: float
    """What the item adds by itself."""
    popularity: float
    """The part of popularity."""
    decided_by: str
    """What ranks items of this scope."""
    models: tuple[ModelShare, ...]
    """The share of each model."""
    model: ModelVersion
    """The version that answered."""
    attributes: dict[str, float]
    """The deep model's share of item_bias by attribute of the item."""
    passports: tuple[str, ...]
    """Platforms from which the person brought a passport that took part."""
    reasons: tuple[Reason, ...]
    """What the item has in common with the history, the most telling first."""


class FeedbackReply(Answer):
    """The event is on disk."""

    sequence: int
    """Position in the log."""
    duplicate: bool
    """The event had been recorded before; nothing was added."""
    reflected: bool
    """Whether the serving model knows the item, so that lists take the event into account from now on."""
    variant: str
    """As in lists: what this user is shown now."""


class PassportReceipt(Answer):
    """Holds what a person consented to, as both ends keep it."""

    serial: str
    """Hex."""
    platform: str
    """The other platform: the receiver of an issued passport, the issuer of a redeemed one."""
    kinds: tuple[str, ...]
    """What it holds."""
    at: int
    """Seconds since 1970: from then on."""
    until: int
    """Seconds since 1970: until then."""


class IssuePassportReply(Answer):
    """The passport and its receipt."""

    text: str
    """For a file or a QR code."""
    receipt: PassportReceipt
    """What was consented to."""


class RedeemPassportReply(Answer):
    """It is part of the next recommendation."""

    receipt: PassportReceipt
    """What was consented to."""
    duplicate: bool
    """It had been redeemed for this user before; nothing was added."""


class Refusal(Answer):
    """Why a request was not answered."""

    code: str
    """The name of a gRPC status."""
    message: str
    """Names the field at fault; holds no user id."""


class Refused(Answer):
    """The body of every answer but 200."""

    error: Refusal
    """What was wrong."""


def problem_of(error: ValidationError) -> str:
    """Return what is wrong with a body, by field and without a value of it."""
    said = []
    for one in error.errors(include_url=False, include_input=False, include_context=False)[:_SHOWN]:
        place = [str(part) for part in one["loc"]]
        if one["type"] == "extra_forbidden" and not _is_name(place[-1]):
            place[-1] = "?"
        known = "there is no such field" if one["type"] == "extra_forbidden" else one["msg"]
        said.append(f"{'.'.join(place) or 'body'}: {known}")
    return "; ".join(said)


def _is_name(text: str) -> bool:
    """Whether it looks like a mistyped field, and not like something of a person's."""
    return len(text) <= _LONGEST_NAME and text.replace("_", "").isalpha() and text.isascii()
