"""A contribution as it leaves under secure summation: what carries a share of the noise only, masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contributions.kind import MASKED, masked_name
from common.errors import PrivacyError
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.plan import LOG2_SHARE_STEPS
from common.privacy.secure_sum import SecureSumClient

_MINT = object()


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedContribution:
    """Holds what :func:`mask_contribution` made, and nothing else can make.

    Attributes:
        kind: ``masked_`` + the kind of the contribution.
        server_round: as in the contribution.
        private: always True: without noise there is no secure sum.
        arrays: ``masked`` uint8 ``[bytes]``, the secure sum's message; and the contribution's arrays that may leave
            unmasked.
        releases: the contribution's.
    """

    kind: str
    server_round: int
    private: bool
    arrays: Mapping[str, NDArray[Any]]
    releases: tuple[Release, ...]
    _mint: object = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._mint is not _MINT:
            raise PrivacyError("a masked contribution is made by mask_contribution only")
        object.__setattr__(self, "_mint", None)


def masked_units(contribution: PrivatizedContribution) -> NDArray[np.int64]:
    """int64 ``[n]``: all arrays that must be masked, end to end, in the order of their names."""
    return np.concatenate([contribution.arrays[name].ravel() for name in sorted(contribution.masked)]).astype(np.int64)


def mask_contribution(
    contribution: PrivatizedContribution, secure_sum: SecureSumClient, round_index: int, context: bytes
) -> MaskedContribution:
    """Mask all that may leave only masked.

    Args:
        contribution: of the user-level mechanism, with at least one array to mask.
        secure_sum: this platform's side of the run, enrolled.
        round_index: 0 for the first round of the roster.
        context: of :func:`common.contributions.broadcast.round_context`: what this platform was told.

    Raises:
        PrivacyError: the contribution has nothing to mask.
        SecureSumError: the secure sum refuses the round.
    """
    if not contribution.masked or not contribution.private:
        raise PrivacyError("this contribution carries its full noise or none: it has nothing to mask")
    # The mechanism's noise share is 2^16 grid steps, whatever a grid step is worth.
    message = secure_sum.mask(round_index, masked_units(contribution), noise_std=2.0**LOG2_SHARE_STEPS, context=context)
    open_arrays = {name: array for name, array in contribution.arrays.items() if name not in contribution.masked}
    return MaskedContribution(
        kind=masked_name(contribution.kind),
        server_round=contribution.server_round,
        private=True,
        arrays=MappingProxyType({**open_arrays, MASKED: np.frombuffer(message, np.uint8)}),
        releases=contribution.releases,
        _mint=_MINT,
    )
