"""A platform's finished deep model as the store keeps it: plain arrays; Keras is loaded when it first scores.

Content is folded into the item rows: what serves is a two-tower model whose item vectors are its rows, and the user
tower. So it serves as factors do, and needs none of the attributes it was trained on. Since an item's vector is a sum,
what each attribute's encoder adds to it is kept beside it, and a score can be attributed to attributes without encoders.
The encoders' weights are kept for exports alone: with them an item that came later has a vector from its attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.config.towers import TowerConfig
from common.contributions.tower_variables import ITEM_ROWS

if TYPE_CHECKING:
    from client.towers.attribution import Attribution
    from client.towers.scorer import TowerScorer
    from client.towers.served import ServedTower
    from client.towers.two_tower import TwoTower

_PART, _ENCODER, _SCALE = "item_part_", "encoder_", "scale_"
_KEPT_WITH = (_PART, _ENCODER, _SCALE)
USER_ROWS = "users_"
"""Begins the names of variables that have a row for each user."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TowerModel:
    """Item vectors and the user tower.

    Attributes:
        config: as trained; a model of an earlier version has none of its encoders.
        values: variables by name, shared and private; ``item_rows`` float32 ``[items, d]`` are the item vectors,
            ``item_part_ATTRIBUTE`` of the same shape what each encoder has added to them, ``encoder_NAME`` the encoders'
            variables, and ``scale_ATTRIBUTE`` float32 ``[2]`` mean and deviation of a number, which its encoder reads
            standardised.
        own: int32 ``[m_own]``: row of each own item.
        n_shared: m; the first m rows are the vocabulary's. 0 of a model that was trained at home: it has own items alone.
        n_users: n.
        profile: float32 ``[n, a]`` or None.
    """

    config: TowerConfig
    values: Mapping[str, NDArray[np.float32]]
    own: NDArray[np.int32]
    n_shared: int
    n_users: int
    profile: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, model: TwoTower, own: NDArray[np.int32]) -> TowerModel:
        """Return what is kept of a trained model."""
        from keras import ops

        from client.towers.served import encoded_parts

        vectors = ops.convert_to_numpy(model.item_vectors())
        user_tower = {
            name: np.asarray(variable).copy()
            for name, variable in {**model.shared, **model.private}.items()
            if name in model.user_tower_names
        }
        return cls(
            config=model.config,
            values={
                **user_tower,
                ITEM_ROWS: vectors,
                **{f"{_PART}{attribute}": part for attribute, part in encoded_parts(model).items()},
                **{f"{_ENCODER}{name}": np.asarray(model.shared[name]).copy() for name in model.encoder_names},
                **{f"{_SCALE}{attribute}": scale for attribute, scale in model.content.scales.items()},
            },
            own=own,
            n_shared=model.n_shared,
            n_users=model.n_users,
            profile=model.profile_values,
        )

    def of_users(self, rows: NDArray[np.integer]) -> TowerModel:
        """The same for the users of ``rows`` (int ``[k]``) alone, in that order."""
        values = {name: value[rows] if name.startswith(USER_ROWS) else value for name, value in self.values.items()}
        profile = None if self.profile is None else self.profile[rows]
        return replace(self, values=values, n_users=len(rows), profile=profile)

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """float32 ``[items, d]``."""
        return self.values[ITEM_ROWS]

    @property
    def variables(self) -> dict[str, NDArray[np.float32]]:
        """The variables alone, by name."""
        return {name: value for name, value in self.values.items() if not name.startswith(_KEPT_WITH)}

    @property
    def folded(self) -> TowerConfig:
        """The configuration of what serves: item vectors as rows, and no encoders."""
        return self.config.model_copy(update={"encoders": (), "item_ids": True, "id_dropout": 0.0})

    @property
    def encoder_values(self) -> dict[str, NDArray[np.float32]]:
        """The encoders' variables, by name."""
        return self._of_prefix(_ENCODER)

    @property
    def scales(self) -> dict[str, NDArray[np.float32]]:
        """float32 ``[2]`` by attribute: mean and deviation of a number."""
        return self._of_prefix(_SCALE)

    @property
    def item_parts(self) -> dict[str, NDArray[np.float32]]:
        """float32 ``[items, d]`` by attribute: its share of each item's vector; the rest is the item's own row."""
        return self._of_prefix(_PART)

    def _of_prefix(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        return {name.removeprefix(prefix): value for name, value in self.values.items() if name.startswith(prefix)}

    @cached_property
    def model(self) -> TwoTower:
        """The Keras model; made at first use."""
        from client.towers.features import ItemFeatures
        from client.towers.two_tower import TwoTower

        n_items = len(self.item_vectors)
        model = TwoTower(
            self.folded,
            ItemFeatures(n_items, ()),
            n_shared=n_items,
            n_users=self.n_users,
            profile=self.profile,
        )
        for name, variable in {**model.shared, **model.private}.items():
            variable.assign(self.values[name])
        return model

    def on_own(self) -> TowerScorer:
        """Scores the own catalogue; histories have own columns."""
        return self.scorer(self.own)

    def on_vocabulary(self) -> TowerScorer:
        """Scores the vocabulary; histories have its columns."""
        return self.scorer(np.arange(self.n_shared, dtype=np.int32))

    @cached_property
    def served(self) -> ServedTower:
        """The user tower for one history at a time; made at first use."""
        from client.towers.served import ServedTower

        return ServedTower(self.folded, self.values, self.n_users, self.profile)

    def user_vector(self, history: NDArray[np.integer], user: int | None) -> NDArray[np.float32]:
        """float32 ``[d]`` of one history of own columns, oldest first; ``user`` None is somebody unknown.

        A user who is unknown here has no embedding and no profile; with either in the model, those of nobody are zero.
        """
        return self.served.vector(self.item_vectors[self.own[history]], user)

    def attribution(
        self,
        history: NDArray[np.integer],
        user: int | None,
        item: NDArray[np.floating],
        parts: Mapping[str, NDArray[np.floating]],
    ) -> Attribution:
        """Return what ⟨user, item⟩ is made of, see :meth:`client.towers.served.ServedTower.attribution`."""
        return self.served.attribution(self.item_vectors[self.own[history]], user, item, parts)

    def scorer(self, rows: NDArray[np.int32]) -> TowerScorer:
        """Scores the model's ``rows``, −1 for what it does not have; histories have these columns."""
        from client.towers.scorer import TowerScorer

        return TowerScorer(self.model, rows)
