"""Says what the recommender is asked and what it answers, as plain values: shared by service, client library and CLI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scope = Literal["own", "cross", "all"]


@dataclass(frozen=True, slots=True)
class AttributeCondition:
    """Holds what an item's described attribute must be; every part that is given must hold.

    Attributes:
        attribute: by name, as the plan has it; ``genres`` is one.
        any_of: at least one of these values; letter case does not matter.
        none_of: none of these. An item of which nothing is told has none.
        at_least, at_most: of a number. An item of which nothing is told passes neither.
    """

    attribute: str
    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items may be recommended; every condition that is given must hold.

    Attributes:
        any_genres: at least one of these genres; letter case does not matter.
        no_genres: none of these.
        key_prefixes: the key begins with one of these (``imdb:``).
        platforms: at least one of these platforms has the item.
        attributes: conditions on described attributes.
    """

    any_genres: tuple[str, ...] = ()
    no_genres: tuple[str, ...] = ()
    key_prefixes: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    attributes: tuple[AttributeCondition, ...] = ()


NO_FILTER = ItemFilter()


@dataclass(frozen=True, eq=False)
class Bars:
    """Holds what may not be listed, whatever a request's filter says.

    Attributes:
        own, cross: int rows of each scope that may not, or None.
        only_own, only_cross: bool masks ``[m]`` of the only ones that may, or None.
    """

    own: NDArray[np.integer] | None = None
    cross: NDArray[np.integer] | None = None
    only_own: NDArray[np.bool_] | None = None
    only_cross: NDArray[np.bool_] | None = None

    def of(self, scope: str) -> tuple[NDArray[np.integer] | None, NDArray[np.bool_] | None]:
        """Rows that may not, and the mask of those that may, of ``own`` or ``cross``."""
        return (self.own, self.only_own) if scope == "own" else (self.cross, self.only_cross)


NO_BARS = Bars()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item that may be listed: its scope (``own`` or ``cross``), its row there, its score on the list's scale."""

    scope: str
    row: int
    score: float


@dataclass(frozen=True, eq=False)
class Brought:
    """Holds what a person brought from other platforms, as it ranks items (:mod:`client.passport.use`).

    Attributes:
        scores: float32 ``[m_own]``, standardised.
        balance: b: beside a history of n own items it has the weight b/(b + n).
        platforms: that issued it.
        factor: float32 ``[row]``: prior mean of the person's factor over the shared items, which ranks those that only others
            have; or None.
    """

    scores: NDArray[np.float32]
    balance: float
    platforms: tuple[str, ...]
    factor: NDArray[np.float32] | None = None

    def share(self, length: int) -> float:
        """Its weight beside a history of ``length`` own items."""
        return 1.0 if length == 0 else self.balance / (self.balance + length)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a list.

    Attributes:
        key, title, genres: of the item, as its card says; a digest-only item has an empty key.
        score: comparable within one list only, where both scopes stand in it on the own items' scale; of similar items
            the cosine.
        platforms: who has the item, this platform first where it does.
        attributes: its further categories and numbers by name, where they are told.
    """

    key: str
    title: str
    genres: tuple[str, ...]
    score: float
    platforms: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...] | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contribution:
    """Holds what one item of the history added to a score."""

    key: str
    title: str
    amount: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Holds what the item has in common with the history: a value that is more frequent there than in the catalogue.

    Attributes:
        attribute, value: as described; of a number ``LOWEST to HIGHEST`` of the platform's items near it.
        count: items of the history that have it.
        of: items of the history.
    """

    attribute: str
    value: str
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class ModelShare:
    """Holds what one model added to a score.

    Attributes:
        weight: w of z(local) + w·z(shared), β of log popularity.
        amount: in the score's units.
    """

    weight: float
    amount: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item has its score: score = Σ contributions + others + item_bias + popularity = Σ models' amounts.

    Attributes:
        key, title: of the item explained.
        score: as in a recommendation of the item's own scope.
        contributions: of the history's items, largest absolute amount first.
        others: sum of the contributions that are not listed.
        item_bias: what the item adds by itself: its bias (explicit feedback), its attributes and own row (deep model); and what
            a passport adds.
        popularity: the part of popularity.
        decided_by: ``local``, ``shared``, ``blend``, ``anchored``, ``towers``, ``ranker``, ``popularity``, or
            ``tower_blend``: the deep model beside the platform's own, and for other platforms' items beside the shared one.
            What the ``ranker`` moved an item by, in a list without filters, is part of its ``item_bias``.
        models: share of each model that took part.
        attributes: the deep model's share of ``item_bias`` by attribute; ``id`` is the item's own row.
        passports: platforms from which the person brought what took part; its amount is that of the model ``passport``.
        reasons: what the item has in common with the history, the most telling first. They are true of the descriptions; how
            much an attribute moved the score is the amount of the model of its name, where one took part.
    """

    key: str
    title: str
    score: float
    contributions: tuple[Contribution, ...]
    others: float
    item_bias: float
    popularity: float
    decided_by: str
    models: Mapping[str, ModelShare]
    attributes: Mapping[str, float] = field(default_factory=dict)
    passports: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedbackReceipt:
    """That an event is on disk.

    Attributes:
        sequence: its position in the log.
        duplicate: it had been recorded before; nothing was added.
        reflected: the serving model knows the item, so that recommendations take it into account from now on.
        variant: ``current`` or ``challenger`` while users are split between two versions, else empty.
    """

    sequence: int
    duplicate: bool
    reflected: bool
    variant: str = ""
