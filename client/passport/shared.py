"""The space of the federation's shared item factors, as one platform has it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from client.passport.contents import Basis
from client.personalization.platform_model import PlatformModel
from client.scoring.fold_in import FoldIn


def shared_basis(model: PlatformModel) -> Basis:
    """Its round and digest: the same on every platform that took part in the round."""
    parameters = np.ascontiguousarray(model.shared.item_parameters, dtype=">f4")
    digest = hashlib.sha256(b"crossfed shared factors v1\0" + parameters.tobytes()).digest()
    return Basis(f"round {model.server_round}", digest)


def shared_fold_in(model: PlatformModel) -> FoldIn:
    """Folds histories into the shared factors; the own items among them count as the catalogue."""
    return model.shared.restricted(model.own_positions[model.own_positions >= 0])


def shared_rows(model: PlatformModel) -> NDArray[np.int32]:
    """int32 ``[m_own]``: each own item's row in :func:`shared_fold_in`, −1 where nobody shares it."""
    known = model.own_positions >= 0
    return np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
