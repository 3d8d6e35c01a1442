"""Defines a blend's part: one class that ranks users in evaluation, answers requests in serving, and explains.

A subclass in one file is all that it takes to add a scorer: it says what a user is (:meth:`Part.factor`), what an item is
(:attr:`Part.items`), and what of a score came from which item of the history (:meth:`Part.carried`). A score that is no
such product is a :class:`DirectPart`. With :func:`stored` the class also comes back from the model store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError

if TYPE_CHECKING:
    from client.data.dataset import UserItemMatrix

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Carried:
    """A part's raw score for one item, taken apart: Σ amounts + own.

    Attributes:
        entries: int ``[k]``: the entries of the history that the part reads.
        amounts: float64 ``[k]``: what each of them adds.
        own: what the item adds by itself.
        attributes: ``own`` by attribute of the item, where it can be told; their sum is ``own`` to 0.1 %.
        brought: the part of ``own`` that comes from the history's prior.
    """

    entries: NDArray[np.intp]
    amounts: NDArray[np.float64]
    own: float
    attributes: Mapping[str, float]
    brought: float = 0.0


@dataclass(frozen=True, eq=False)
class UserHistory:
    """Holds what a part reads of a user.

    Attributes:
        columns: int32 ``[n]``: the history's items, oldest first.
        values: float32 ``[n]``: their weights or ratings.
        user: the platform's user that it belongs to; None: nobody that is known by more than the history.
        prior: float32 ``[row]``: mean of the user's factor over the federation's shared items, from elsewhere; or None.
    """

    columns: NDArray[np.int32]
    values: NDArray[np.float32]
    user: int | None = None
    prior: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, histories: UserItemMatrix, user: int) -> UserHistory:
        """Row ``user`` of a platform's histories."""
        entries = slice(histories.indptr[user], histories.indptr[user + 1])
        return cls(histories.indices[entries], histories.values[entries], user)


class Part(ABC):
    """One scorer of m items whose scores are products of a user's factor with the items' rows."""

    kind: ClassVar[str] = ""
    """What the store calls the class; set by :func:`stored`."""
    name: str
    """What explanations call the part; unique within a blend."""

    @property
    @abstractmethod
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, width]``."""

    @abstractmethod
    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[width]``: the user's side."""

    @abstractmethod
    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """Take apart ``factor @ deviation``, where ``deviation`` is row ``row`` of ``items`` minus their mean."""

    @abstractmethod
    def at(self, rows: NDArray[np.integer]) -> Self:
        """The same over the items ``rows`` alone; histories keep their columns."""

    def direct(self, history: UserHistory) -> NDArray[np.float64] | None:
        """float64 ``[m]`` where the scores are no product, else None."""
        return None

    def factors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, width]``: :meth:`factor` of the rows ``users``; to be overridden where a block is faster."""
        found = np.zeros((len(users), self.items.shape[1]))
        for place, user in enumerate(users):
            found[place] = self.factor(UserHistory.of(histories, int(user)))
        return found

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``: raw scores of the rows ``users`` (a :class:`~client.scoring.scorer.Scorer`)."""
        scores: NDArray[np.float32] = self.factors(histories, users).astype(np.float32) @ self.items.T
        return scores

    def arrays(self) -> Arrays:
        """Return what the store keeps of a part that is :func:`stored`; :meth:`of_arrays` takes it back."""
        raise ContractError(f"{type(self).__name__} is kept by the model that it belongs to, not by itself")

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> Self:
        """The part ``name`` of what :meth:`arrays` gave."""
        raise ContractError(f"{cls.__name__} is kept by the model that it belongs to, not by itself")


class DirectPart(Part):
    """A scorer whose scores are no products: each request computes them for all items."""

    @abstractmethod
    def direct(self, history: UserHistory) -> NDArray[np.float64] | None:
        """float64 ``[m]``: scores of a history."""

    @abstractmethod
    def added(self, row: int, history: UserHistory) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Entries int ``[k]`` of the history, and what each adds to the score of item ``row``: float64 ``[k]``."""

    def __len__(self) -> int:
        return len(self.items)

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[0]``."""
        return np.zeros(0)

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """Return what each entry adds; less the mean over all items, which counts as the item's own."""
        entries, amounts = self.added(row, history)
        scores = self.direct(history)
        return Carried(entries, amounts, 0.0 if scores is None else -float(scores.mean()), {})

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``."""
        found = np.zeros((len(users), len(self)), dtype=np.float32)
        for place, user in enumerate(users):
            scores = self.direct(UserHistory.of(histories, int(user)))
            found[place] = 0.0 if scores is None else scores
        return found


_STORED: dict[str, type[Part]] = {}
P = TypeVar("P", bound=Part)


def stored(kind: str) -> Callable[[type[P]], type[P]]:
    """Register a part that the model store keeps by its :meth:`Part.arrays`."""

    def register(part: type[P]) -> type[P]:
        if _STORED.setdefault(kind, part) is not part:
            raise ContractError(f"two scorers are stored as {kind!r}; give one another name")
        part.kind = kind
        return part

    return register


def stored_part(kind: str) -> type[Part]:
    """The class that is stored as ``kind``.

    Raises:
        KeyError: there is none.
    """
    return _STORED[kind]
