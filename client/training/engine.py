"""Sums over a platform's users: a :class:`UserSum` says what is summed, an :class:`Engine` knows where the users are.

Whatever a platform contributes of its factorisation is such a sum, so one process that holds all users and a cluster that
streams them from disk are two engines of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from client.data.recorded import bounded_weights
from client.training.factory import make_kernels, make_row_kernels, make_trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from client.data.split import EvaluationSlice
    from client.data.training import TrainingData
    from client.training.kernels.systems import Kernels
    from client.training.trainer import Trainer
    from common.config.model import FactorizationConfig

Sums: TypeAlias = Mapping[str, "NDArray[Any]"]
"""Arrays by name, each of which is added up over users."""


class UserBlock:
    """Some of a platform's users: their training interactions and their part of the validation slice.

    Args:
        train: n users × m_own items.
        validation: of the same users.
        shared_columns: int64 ``[m_p]``; the columns of the items that the platform shares.
        kernels: makes the kernels for a model; with True those that solve each user alone, as what is noised needs.
    """

    def __init__(
        self,
        train: UserItemMatrix,
        validation: EvaluationSlice,
        shared_columns: NDArray[np.int64],
        kernels: Callable[[FactorizationConfig, bool], Kernels] | None = None,
    ) -> None:
        self._train = train
        self.validation = validation
        self.shared_columns = shared_columns
        self._kernels = _kernels_here if kernels is None else kernels
        self._trainers: dict[bool, tuple[FactorizationConfig, float, Kernels, Trainer]] = {}

    @cached_property
    def shared(self) -> UserItemMatrix:
        """N × m_p: the interactions with shared items."""
        return self._train.select_items(self.shared_columns)

    @cached_property
    def bounded(self) -> UserItemMatrix:
        """The same with weights within their bounds; without a user where nothing is shared."""
        shared = replace(self.shared, values=bounded_weights(self.shared.values))
        return shared if len(self.shared_columns) else shared.select_users(np.zeros(0, dtype=np.int64))

    def trainer(self, model: FactorizationConfig, global_mean: float = 0.0, *, alone: bool = False) -> Trainer:
        """The trainer of ``model``, the same one as long as it is asked for: it keeps the matrix by columns.

        Args:
            model: the hyperparameters.
            global_mean: μ of explicit feedback.
            alone: whether each user is solved by itself, as what is noised must be.
        """
        return self._solver(model, global_mean, alone)[1]

    def solver(self, model: FactorizationConfig) -> str:
        """Make ready to solve each user alone, and return the name of the kernels that will."""
        return self._solver(model, 0.0, True)[0].name

    def _solver(self, model: FactorizationConfig, global_mean: float, alone: bool) -> tuple[Kernels, Trainer]:
        kept = self._trainers.get(alone)
        if kept is None or kept[:2] != (model, global_mean):
            kernels = self._kernels(model, alone)
            kept = model, global_mean, kernels, make_trainer(model, global_mean=global_mean, kernels=kernels)
            self._trainers[alone] = kept
        return kept[2:]


def _kernels_here(model: FactorizationConfig, alone: bool) -> Kernels:
    return make_row_kernels(model) if alone else make_kernels(model)


class UserSum(Protocol):
    """Names a sum. Engines that run elsewhere send it there, so it can be pickled and holds nothing of a user."""

    def of(self, users: UserBlock) -> Sums:
        """The sum over ``users`` alone. Names, shapes and types of the arrays do not depend on who they are."""
        ...


class Engine(Protocol):
    """Where a platform's users are summed over.

    Guarantees:
        Sums of whole numbers are exact, so they are the same to the bit however users are divided. Sums of floats are the
        same to the bit each time that one engine has the same data, whichever part is done first; two engines agree to
        rounding.
    """

    @property
    def n_users(self) -> int:
        """How many users the platform has; shards count those, too, who have been left out since they were made."""
        ...

    def solver(self, model: FactorizationConfig) -> str:
        """Make ready to solve users one by one, and return the name of the kernels that will.

        Raises:
            ConfigError: they cannot be used.
        """
        ...

    def sum(self, what: UserSum) -> Sums:
        """``what`` over all users."""
        ...


class LocalEngine:
    """All users in this process, as one block.

    Args:
        data: the platform's.
    """

    def __init__(self, data: TrainingData) -> None:
        self.users = UserBlock(data.train, data.validation, data.shared_columns)

    @property
    def n_users(self) -> int:
        return self.users.shared.n_users

    def solver(self, model: FactorizationConfig) -> str:
        return self.users.solver(model)

    def sum(self, what: UserSum) -> Sums:
        return what.of(self.users)
