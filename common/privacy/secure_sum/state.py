"""Encodes what a platform keeps of a run between two messages."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from common.privacy.secure_sum.roster import Roster
from common.privacy.secure_sum.transcript import make_advert
from common.privacy.secure_sum.wire import Advert, ShareBundle, WireModel

if TYPE_CHECKING:
    from common.privacy.secure_sum.identity import PlatformIdentity


class ClientState(WireModel):
    """All that a platform must not forget between two messages. Secret: it belongs in the platform's own store."""

    roster: Roster
    platform: str
    advert: Advert
    encryption_secret: Annotated[bytes, Field(repr=False)]
    """X25519; empty bytes once the others' envelopes are open, so that a later thief cannot open stored ones."""
    mask_secrets: Annotated[tuple[bytes, ...], Field(repr=False)]
    """X25519, one a round; empty bytes once its round is closed."""
    self_secrets: Annotated[tuple[bytes, ...], Field(repr=False)]
    adverts: tuple[Advert, ...] = ()
    bundle: ShareBundle | None = None
    """What was sent, so that a repeat sends the same bytes."""
    held: dict[str, tuple[tuple[bytes, bytes], ...]] = Field(default_factory=dict, repr=False)
    """Per dealer and round its (mask-key share, self-mask share); a pair of empty bytes once the round is closed."""
    round_index: int = -1
    """The round last masked; those before it are closed."""
    masked: bytes = b""
    """SHA-256 of the masked vector of ``round_index``."""
    accepted: tuple[str, ...] = ()
    """The one survivor list that this platform signed or unmasked in ``round_index``."""

    def masking(self, round_index: int, digest: bytes) -> ClientState:
        """The state after masking ``round_index``: what served the rounds before it is dropped."""

        def since(values: tuple[bytes, ...]) -> tuple[bytes, ...]:
            return tuple(value if index >= round_index else b"" for index, value in enumerate(values))

        held = {
            name: tuple(pair if index >= round_index else (b"", b"") for index, pair in enumerate(pairs))
            for name, pairs in self.held.items()
        }
        update = {
            "mask_secrets": since(self.mask_secrets),
            "self_secrets": since(self.self_secrets),
            "held": held,
            "round_index": round_index,
            "masked": digest,
            "accepted": (),
        }
        return self.model_copy(update=update)


def fresh_state(roster: Roster, platform: str, identity: PlatformIdentity) -> ClientState:
    """New secrets for every round of ``roster``, from the operating system's CSPRNG, and their signed advert."""
    rounds = range(len(roster.rounds))
    encryption_secret = secrets.token_bytes(32)
    mask_secrets = tuple(secrets.token_bytes(32) for _ in rounds)
    self_secrets = tuple(secrets.token_bytes(32) for _ in rounds) if roster.dropouts else ()
    return ClientState(
        roster=roster,
        platform=platform,
        advert=make_advert(
            roster,
            platform,
            identity,
            encryption_secret=encryption_secret,
            mask_secrets=mask_secrets,
            self_secrets=self_secrets,
        ),
        encryption_secret=encryption_secret,
        mask_secrets=mask_secrets,
        self_secrets=self_secrets,
    )
