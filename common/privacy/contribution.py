"""Defines contributions: arrays that a privacy mechanism made, and the releases that its ledger must charge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError

ReleasedArray: TypeAlias = NDArray[np.int64] | NDArray[np.floating]
ReleaseMechanism = Literal["none", "gaussian", "subsampled-gaussian"]

_MINT = object()


@dataclass(frozen=True, kw_only=True)
class Release:
    """One entry for the privacy ledger.

    Attributes:
        kind: what was released, by one of its kind's names (``ContributionKind.released``).
        mechanism: ``none`` spends without bound.
        noise_multiplier: σ / L2 sensitivity of what the recipient can see (the whole sum under secure summation); 0 for
            ``none``.
        sampling_rate: probability with which each user takes part in a step; 1 for full participation.
        steps: how many times the mechanism ran.
    """

    kind: str
    mechanism: ReleaseMechanism
    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        noisy = self.mechanism != "none"
        if not (np.isfinite(self.noise_multiplier) and (self.noise_multiplier > 0) == noisy):
            raise PrivacyError(f"release {self.kind!r}: noise_multiplier {self.noise_multiplier} is impossible")
        if not 0 < self.sampling_rate <= 1 or self.steps < 1:
            raise PrivacyError(f"release {self.kind!r}: sampling_rate must lie in (0, 1] and steps be at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivatizedContribution:
    """The only type, with what masking makes of it, that egress accepts as a contribution.

    Mechanisms alone make one (:mod:`common.privacy.minting`), by an import contract.

    Arrays are taken over and made read-only, not copied: what leaves is a copy that egress takes.

    Attributes:
        kind: which request of the contract it answers.
        server_round: 0 for what is released before the first round.
        private: False for ``mode: none``: the arrays are exact.
        arrays: by name. Under privacy int64 numbers of grid steps, else floats.
        grid_steps: by name, what one integer step is worth; empty when not private.
        masked: names of arrays that hold only this platform's *share* of the noise. They may leave it in no other form
            than masked for the secure sum.
        releases: what the ledger charges before anything leaves.
    """

    kind: str
    server_round: int
    private: bool
    arrays: Mapping[str, ReleasedArray]
    grid_steps: Mapping[str, float]
    masked: frozenset[str]
    releases: tuple[Release, ...]
    _mint: object = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._mint is not _MINT:
            raise PrivacyError("a contribution is made by a privacy mechanism only; use common.contributions.factors")
        object.__setattr__(self, "_mint", None)
        arrays = {name: _read_only(array) for name, array in self.arrays.items()}
        object.__setattr__(self, "arrays", MappingProxyType(arrays))
        object.__setattr__(self, "grid_steps", MappingProxyType(dict(self.grid_steps)))

    def __reduce__(self) -> str:
        raise PrivacyError("a contribution cannot be pickled: egress encodes it")


def _read_only(array: ReleasedArray) -> ReleasedArray:
    """The array itself if it owns its memory, a copy of a view, whose memory someone else may write."""
    taken = array if array.flags.owndata else array.copy()
    taken.flags.writeable = False
    return taken
