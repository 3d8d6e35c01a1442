"""The two-tower model: item vectors from ids and content, user vectors from the recent history and what is private.

score(u, i) = ⟨user(u), item(i)⟩ (Covington et al. 2016; Yi et al. 2019). Which variables are shared is declared in
:func:`common.contributions.tower_variables.tower_variables`; the model is checked against it when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.towers.backends.functions import chosen_device
from client.towers.encoders import READER, ContentEncoder
from client.towers.features import ItemFeatures
from client.towers.sequence import SequenceEncoder
from common.config.towers import SequenceConfig, TowerConfig
from common.contributions.tower_variables import ITEM_ROWS, tower_variables
from common.errors import ContractError

PRIVATE_LAYERS = ("users", "profile", "adapter", "private_rows")
"""Layers whose variables never leave the platform."""


class TwoTower(keras.Model):  # type: ignore[misc]
    """One platform's copy of the deep model.

    Items are the vocabulary's m, and behind them those that the platform shares with nobody, whose rows are private.

    Args:
        config: of the plan.
        features: of all items, in that order.
        n_shared: m.
        n_users: of the platform.
        profile: float32 ``[n, a]``, users' profile attributes in numbers; None without.
        seed: of private variables and dropout.
        device: ``auto``, ``cpu``, ``gpu`` or ``gpu:1``, as in the factorisation's configuration; a platform on a CPU and
            one on a GPU train one model, each on what it has.

    Raises:
        ContractError: a variable is neither declared as shared nor of a private layer.
    """

    def __init__(
        self,
        config: TowerConfig,
        features: ItemFeatures,
        *,
        n_shared: int,
        n_users: int,
        profile: NDArray[np.float32] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        super().__init__(name="two_tower")
        self.device = chosen_device(device)
        # Seeds of its own: a serving process has other uses for the global generators.
        self._seed = seed
        self.config = config
        self.n_shared, self.n_items, self.n_users = n_shared, features.n_items, n_users
        self.profile_values = profile
        with keras.device(self.device):
            self._make_layers(config, features, profile)
            self._build()
        self.shared = self._check_declared()

    def _make_layers(self, config: TowerConfig, features: ItemFeatures, profile: NDArray[np.float32] | None) -> None:
        d = config.dimension
        if config.item_ids:
            self.item_rows = self.add_weight(shape=(self.n_shared, d), initializer=_normal(self._seed), name=ITEM_ROWS)
        self.private_rows = _Table(self.n_items - self.n_shared, d, "private_rows", _normal(self._seed))
        self.content = ContentEncoder(config, features)
        self.sequence = SequenceEncoder(config.sequence, d, self._seed)
        self.users = _Table(self.n_users if config.user_embedding else 0, d, "users", "zeros")
        self.profile = (
            keras.layers.Dense(d, kernel_initializer=_normal(self._seed), name="profile")
            if profile is not None and config.profile
            else None
        )
        self._profile = None if profile is None else ops.convert_to_tensor(profile)
        self.adapter = (
            keras.layers.Dense(d, use_bias=False, kernel_initializer="zeros", name="adapter")
            if config.adapter
            else None
        )

    def _build(self) -> None:
        """Call every layer once, so that all variables are there."""
        empty = ops.zeros((1, 2), dtype="int32") - 1
        self.user_vectors(ops.zeros(1, dtype="int32"), empty, ops.zeros(1, dtype="int32"), self.item_vectors())
        self.built = True

    def _check_declared(self) -> dict[str, keras.Variable]:
        declared = {variable.name: variable for variable in tower_variables(self.config)}
        shared, self.private = {}, {}
        for variable in self.trainable_variables:
            parts = variable.path.split("/")
            name = "_".join(part.removeprefix(READER) for part in parts if part not in _TRANSPARENT)
            if any(layer in parts for layer in PRIVATE_LAYERS):
                self.private[name] = variable
            elif name not in declared:
                raise ContractError(
                    f"variable {name!r} of the deep model is not declared: add it to "
                    f"common/contributions/tower_variables.py, or keep it in a private layer "
                    f"({', '.join(PRIVATE_LAYERS)}); nothing was sent"
                )
            elif tuple(variable.shape) != declared[name].full_shape(self.n_shared):
                raise ContractError(f"variable {name!r} of the deep model has another shape than is declared")
            else:
                shared[name] = variable
        missing = sorted(declared.keys() - shared.keys())
        if missing:
            raise ContractError(f"the deep model lacks the declared variable {missing[0]!r}")
        return {name: shared[name] for name in declared}

    @property
    def user_tower_names(self) -> frozenset[str]:
        """Names of the variables that user vectors are made of, besides item vectors."""
        items = self.encoder_names | {ITEM_ROWS}
        return frozenset((self.shared.keys() - items) | {name for name in self.private if "private_rows" not in name})

    @property
    def encoder_names(self) -> frozenset[str]:
        """Names of the variables of the attributes' encoders."""
        items = tower_variables(self.config.model_copy(update={"sequence": _NO_SEQUENCE}))
        return frozenset(variable.name for variable in items) - {ITEM_ROWS}

    def load(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the shared variables' values."""
        for name, variable in self.shared.items():
            variable.assign(values[name])

    def values(self) -> dict[str, NDArray[np.float32]]:
        """The shared variables' values, by name."""
        return {name: np.asarray(variable).copy() for name, variable in self.shared.items()}

    def item_vectors(self, hidden_ids: Any = None, training: bool = False) -> Any:
        """float32 ``[items, d]``: id row plus content.

        Args:
            hidden_ids: bool ``[items]``: items whose id row is left out, so that content learns to stand alone.
            training: whether dropout is on.
        """
        rows = self.private_rows.table
        if self.config.item_ids:
            rows = ops.concatenate([ops.convert_to_tensor(self.item_rows), rows], axis=0)
        else:
            rows = ops.concatenate([ops.zeros((self.n_shared, self.config.dimension)), rows], axis=0)
        if hidden_ids is not None:
            rows = ops.where(hidden_ids[:, None], 0.0, rows)
        return rows if self.content.empty else rows + self.content(training=training)

    def prefix_vectors(self, users: Any, items: Any, lengths: Any, vectors: Any, training: bool = False) -> Any:
        """User vectors after every item of a window.

        Args:
            users: int32 ``[b]``.
            items: int32 ``[b, L]``; −1 behind the history's end.
            lengths: int32 ``[b]``.
            vectors: float32 ``[items, d]``.
            training: whether dropout is on.

        Returns:
            float32 ``[b, L, d]``.
        """
        known = ops.cast(items >= 0, "float32")[:, :, None]
        read = ops.take(vectors, ops.maximum(items, 0), axis=0) * known
        silent = self.config.sequence.kind == "none"
        out = ops.zeros_like(read) if silent else self.sequence(read, lengths, training=training)
        return self._personal(out, users)

    def user_vectors(self, users: Any, items: Any, lengths: Any, vectors: Any) -> Any:
        """float32 ``[b, d]``: after the last item; of a user without history what is private of them, or zero."""
        out = self.prefix_vectors(users, items, lengths, vectors)
        last = ops.take_along_axis(out, ops.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
        nothing = self._personal(ops.zeros_like(last)[:, None], users)[:, 0]
        return ops.where((lengths > 0)[:, None], last, nothing)

    def _personal(self, out: Any, users: Any) -> Any:
        # User −1 is somebody unknown: without embedding and profile.
        known, rows = ops.cast(users >= 0, "float32")[:, None, None], ops.maximum(users, 0)
        if self.config.user_embedding:
            out = out + known * ops.take(self.users.table, rows, axis=0)[:, None]
        if self.profile is not None:
            # Chosen, not multiplied: what is read for nobody is another's row.
            told = self.profile(ops.take(self._profile, rows, axis=0))[:, None]
            out = out + ops.where(known > 0, told, ops.zeros_like(told))
        return out if self.adapter is None else out + self.adapter(out)


class _Table(keras.layers.Layer):  # type: ignore[misc]
    """Rows of a private embedding; none where there is nothing to embed."""

    def __init__(self, rows: int, width: int, name: str, initializer: Any) -> None:
        super().__init__(name=name)
        self.table: Any = ops.zeros((0, width))
        if rows:
            self.table = self.add_weight(shape=(rows, width), initializer=initializer, name="table")


_NO_SEQUENCE = SequenceConfig(kind="mean")
_TRANSPARENT = frozenset(("two_tower", "sequence", "content", "gru_cell"))


def _normal(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, 0.02, seed=seed)
