"""The part of the privacy card that tells of passports: what a platform issues and redeems, and what one reveals.

What one reveals was measured on public data, once for all platforms: the figures below are those of docs/passport.md. None
is made from a platform's own data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from common.config.passport import PassportConfig

POPULARITY: Final = 0.28
"""Share of ten guesses that is right without any passport."""
PRECISION: Final[Mapping[str, Mapping[int, float]]] = {
    "factor": {16: 0.50, 64: 0.76},
    "tastes": {81: 0.43},
    "texts": {512: 0.91},
    "profile": {16: 0.51, 32: 0.63, 64: 0.76, 256: 0.96},
}
"""The same with a content of so many numbers (``crossfed-simulate audit --passport``)."""
WITH_NOISE: Final[Mapping[float, float]] = {128.0: 0.38, 32.0: 0.28, 8.0: 0.28}
"""The same by ε of a profile of 256 numbers."""

_PASSPORT = """
## Passports

What a person carries to another platform by their own wish is no part of the promise above: it leaves with the person, and no
platform sends it. This platform {issues}. It {redeems}.

- In a passport it issues: {contents}. It holds no interaction, and is sealed to the one platform that the person names.
- *What the receiver learns*: that the person uses this platform, and what the numbers say. {noise}
{measured}
- *Consent*: a receipt of who, what, for whom, when and until when is kept at both ends, {days} days long what was brought is
  used, and revoking makes the platform that redeemed it forget it and what it had learned from it.
- What a person brought changes what is recommended here, and nothing that this platform contributes to a federation.
"""


def passport_section(config: PassportConfig) -> str:
    """Return what is promised of passports, in Markdown; empty where the platform neither issues nor redeems any."""
    if not (config.issue or config.redeem):
        return ""
    plain = (
        "Without noise an attacker who has the histories of many other users of this platform can name many of a person's "
        "items; fewer numbers (passport.dimension) tell less."
    )
    noised = (
        f"Each profile is ε-differentially private with ε = {config.epsilon} (δ = 1e-6) for the whole history; the ε's of "
        "several passports of one person add up."
    )
    contents = ("profile",) if config.epsilon is not None else config.contents
    return _PASSPORT.format(
        issues=f"issues at most {config.issues_per_day} to a user a day" if config.issue else "issues none",
        redeems=f"redeems at most {config.redeems_per_day} of a user a day" if config.redeem else "redeems none",
        contents=", ".join(f"{name} ({config.dimension} numbers)" if name == "profile" else name for name in contents),
        noise=plain if config.epsilon is None else noised,
        measured=_measured(contents, config),
        days=config.valid_days,
    )


def _measured(contents: Iterable[str], config: PassportConfig) -> str:
    """A line of the card: what an attack reached on public data with contents like these."""
    found = [
        f"{share:.0%} with {kind} of {size} numbers" for kind in contents for size, share in PRECISION[kind].items()
    ]
    if config.epsilon is not None:
        found = [f"{share:.0%} with profiles under ε = {epsilon:g}" for epsilon, share in WITH_NOISE.items()]
    return (
        "- *Measured* on public data of 2,290 people, four in five of whose histories the attacker has: of ten items guessed,\n"
        f"  {POPULARITY:.0%} are in the history without a passport, {', '.join(found)}.\n"
        "  `crossfed-simulate audit --passport` measures it anew."
    )
