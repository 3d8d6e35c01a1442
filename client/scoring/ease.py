"""Scores of items that a platform lacks, by ridge weights from the items that it has in common with others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from common.contributions.protocol import LINEAR_INPUTS, LINEAR_TARGETS, LINEAR_WEIGHTS
from common.errors import ContractError
from common.wire.exchange import Arrays


@dataclass(frozen=True, eq=False)
class LinearTransferScorer:
    """Σ_i B_ij over the items i of a user's history: how many like this user have j, where j can be had.

    A history's length scales all scores of a user alike, so it is not weighted here. An item without weights scores 0:
    nothing points to it.

    Attributes:
        inputs: int ``[s]``; vocabulary positions, unique.
        targets: int ``[t]``; vocabulary positions, unique.
        weights: float32 ``[s, t]``: B.
    """

    inputs: NDArray[np.integer]
    targets: NDArray[np.integer]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weights.shape != (len(self.inputs), len(self.targets)):
            raise ContractError(
                f"weights: {self.weights.shape} do not fit {len(self.inputs)} inputs and {len(self.targets)} targets"
            )
        if not np.isfinite(self.weights).all():
            raise ContractError("weights: must be finite")

    @classmethod
    def received(cls, arrays: Arrays, own_positions: NDArray[np.int32], n_items: int) -> LinearTransferScorer | None:
        """What the aggregator sent with the finish; None where nothing points to any item.

        Args:
            arrays: of the message, in the form that the contract declares.
            own_positions: int32 ``[m_own]``: position of each own item in the vocabulary, −1 where nobody shares it.
            n_items: m.

        Raises:
            ContractError: the weights do not lead from own items to items of others.
        """
        inputs, targets = arrays[LINEAR_INPUTS], arrays[LINEAR_TARGETS]
        for name, positions in ((LINEAR_INPUTS, inputs), (LINEAR_TARGETS, targets)):
            if (np.diff(positions) <= 0).any() or (len(positions) and not 0 <= positions[0] <= positions[-1] < n_items):
                raise ContractError(f"{name}: must be positions in the vocabulary, rising")
        if not np.isin(inputs, own_positions).all() or np.isin(targets, own_positions).any():
            raise ContractError(f"{LINEAR_WEIGHTS}: must lead from own items to items that this platform does not have")
        return cls(inputs, targets, arrays[LINEAR_WEIGHTS]) if len(inputs) and len(targets) else None

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]`` from histories in columns of the vocabulary."""
        own = histories.select_users(np.asarray(users)).select_items(self.inputs)
        ones = np.ones(own.nnz, dtype=np.float32)
        scores = np.zeros((len(users), histories.n_items), dtype=np.float32)
        scores[:, self.targets] = sp.csr_array((ones, own.indices, own.indptr), shape=(own.n_users, own.n_items)) @ (
            self.weights
        )
        return scores
