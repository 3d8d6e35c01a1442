"""Scores of items that a platform lacks, by ridge weights from the items that it has in common with others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.scoring.part import Arrays as PartArrays
from client.scoring.part import Carried, Part, UserHistory, stored
from common.contributions.cooccurrence_kind import EASE_INPUTS, EASE_TARGETS, EASE_WEIGHTS
from common.errors import ContractError
from common.wire.exchange import Arrays


@stored("linear")
@dataclass(frozen=True, eq=False)
class EasePart(Part):
    """Σ_i B_ij over the items i of a user's history: how many like this user have j, where j can be had.

    A history's length scales all scores of a user alike, so it is not weighted here. An item without weights scores 0:
    nothing points to it.

    Attributes:
        inputs: int ``[s]``; vocabulary positions, rising.
        targets: int ``[t]``; vocabulary positions, rising.
        weights: float32 ``[s, t]``: B.
        scored: int ``[m]``: positions of the scope's items; histories have the vocabulary's columns.
    """

    inputs: NDArray[np.integer]
    targets: NDArray[np.integer]
    weights: NDArray[np.float32]
    scored: NDArray[np.integer]
    name: str = "linear"

    def __post_init__(self) -> None:
        if self.weights.shape != (len(self.inputs), len(self.targets)):
            raise ContractError(
                f"weights: {self.weights.shape} do not fit {len(self.inputs)} inputs and {len(self.targets)} targets"
            )
        if not np.isfinite(self.weights).all():
            raise ContractError("weights: must be finite")

    @classmethod
    def received(
        cls, arrays: Arrays, shared_positions: NDArray[np.int32], own_positions: NDArray[np.int32], n_items: int
    ) -> EasePart | None:
        """Return what the aggregator sent with the finish; None where nothing points to any item.

        Args:
            arrays: of the message, in the form that the contract declares.
            shared_positions: int32 ``[m_p]``: positions in the vocabulary of the items that this platform shares, which the
                aggregator knows; what is refused depends on these.
            own_positions: int32 ``[m_own]``: of all own items, −1 where nobody shares it. Weights for own items that this
                platform does not share are left out, and not refused: that it has them is its own affair.
            n_items: m.

        Raises:
            ContractError: the weights do not lead from shared items to items that this platform does not share.
        """
        inputs, targets = arrays[EASE_INPUTS], arrays[EASE_TARGETS]
        for name, positions in ((EASE_INPUTS, inputs), (EASE_TARGETS, targets)):
            if (np.diff(positions) <= 0).any() or (len(positions) and not 0 <= positions[0] <= positions[-1] < n_items):
                raise ContractError(f"{name}: must be positions in the vocabulary, rising")
        if not np.isin(inputs, shared_positions).all() or np.isin(targets, shared_positions).any():
            raise ContractError(f"{EASE_WEIGHTS}: must lead from items that this platform shares to others")
        foreign = ~np.isin(targets, own_positions)
        if not (len(inputs) and foreign.any()):
            return None
        weights = np.ascontiguousarray(arrays[EASE_WEIGHTS][:, foreign])
        return cls(inputs, targets[foreign], weights, np.arange(n_items))

    @cached_property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, s]``: the weights of the s inputs; 0 for an item that nothing points to."""
        items = np.zeros((len(self.scored), len(self.inputs)), dtype=np.float32)
        place = np.searchsorted(self.targets, self.scored).clip(max=len(self.targets) - 1)
        known = self.targets[place] == self.scored
        items[known] = self.weights[:, place[known]].T
        return items

    def at(self, rows: NDArray[np.integer]) -> EasePart:
        """The same over the items ``rows`` alone."""
        return replace(self, scored=self.scored[rows])

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[s]``: 1 for each input in the history; neither its order nor its values count."""
        factor = np.zeros(len(self.inputs))
        factor[self._read(history.columns)[1]] = 1.0
        return factor

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """The weight of each input in the history on the scored item; nothing else adds."""
        entries, inputs = self._read(history.columns)
        return Carried(entries, deviation[inputs], 0.0, {})

    def _read(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which entries of a history are inputs, and which: places in ``inputs``."""
        place = np.searchsorted(self.inputs, columns).clip(max=len(self.inputs) - 1)
        entries = np.flatnonzero(self.inputs[place] == columns)
        return entries, place[entries]

    def arrays(self) -> PartArrays:
        """Inputs, targets, weights, and the items that are scored."""
        return {"inputs": self.inputs, "targets": self.targets, "weights": self.weights, "scored": self.scored}

    @classmethod
    def of_arrays(cls, name: str, arrays: PartArrays) -> EasePart:
        """Take back :meth:`arrays`."""
        inputs, targets, weights, scored = (arrays[key] for key in ("inputs", "targets", "weights", "scored"))
        return cls(inputs, targets, weights, scored, name)
