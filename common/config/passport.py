"""Whether a platform issues and redeems passports, and what is in those that it issues."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.base import FrozenModel

PassportKind = Literal["factor", "tastes", "profile", "texts"]


class PassportConfig(FrozenModel):
    """``passport`` of ``platform.yaml``. Off unless you turn it on: docs/passport.md says what a person consents to."""

    issue: bool = False
    """Whether this platform issues passports to its users."""
    redeem: bool = False
    """Whether it redeems those of pinned platforms."""
    contents: Annotated[tuple[PassportKind, ...], Field(min_length=1)] = ("tastes", "profile")
    """What is put into a passport where it can be made: factor (in the space of the federation's shared items), tastes (over
    genres, years and described attributes), profile (in this platform's own basis, for platforms without any item in common),
    texts (the mean of what is written about the history's items, by the encoder of ``plan.text``)."""
    dimension: Annotated[int, Field(ge=1, le=512)] = 64
    """Numbers of a profile, when this platform's basis is made; a basis that is there keeps its own. More numbers tell the
    receiver more of the history's items, and hardly more of the person's tastes (docs/passport.md)."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """ε of local differential privacy for the profile (δ = 1e-6), for each passport; null: no noise. A passport with noise
    holds the profile alone, since nothing else in it would be noised."""
    valid_days: Annotated[int, Field(ge=1, le=3650, json_schema_extra={"unit": "days"})] = 90
    """How long a passport can be redeemed, and what it brought be used."""
    issues_per_day: Annotated[int, Field(ge=1)] = 3
    """Passports that one user may be issued within 24 hours."""
    redeems_per_day: Annotated[int, Field(ge=1)] = 3
    """Passports that one user may redeem within 24 hours."""
