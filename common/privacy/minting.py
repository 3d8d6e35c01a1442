"""Where contributions come from. An import contract (``pyproject.toml``, "only mechanisms make contributions") lets the
mechanisms alone import this module: what egress accepts was clipped and noised by one of them, or marked as exact.

A mechanism that is added is added to that contract, where a reviewer sees it.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.privacy.contribution import _MINT, PrivatizedContribution, Release, ReleasedArray


def mint(
    *,
    kind: str,
    server_round: int,
    private: bool,
    arrays: Mapping[str, ReleasedArray],
    grid_steps: Mapping[str, float],
    masked: frozenset[str],
    releases: tuple[Release, ...],
) -> PrivatizedContribution:
    """Make a contribution; the arguments are its attributes."""
    return PrivatizedContribution(
        kind=kind,
        server_round=server_round,
        private=private,
        arrays=arrays,
        grid_steps=grid_steps,
        masked=masked,
        releases=releases,
        _mint=_MINT,
    )
