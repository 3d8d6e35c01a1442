"""A redeemed passport changes what is served at home, and nothing that leaves the platform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.data.training import TrainingData
from client.passport.books import PASSPORTS_FILE, PassportBooks
from client.passport.contents import Basis, Contents, Profile
from client.passport.envelope import issue
from common.privacy.secure_sum import PlatformIdentity
from tests.support import Recorder, agents_of, federate, random_platforms, small_plan

_MARK = np.full(8, 0.3535, dtype=np.float32)


def _redeem(folder: Path, data: TrainingData) -> list[str]:
    """A passport for every user of a platform; their serials."""
    folder.mkdir(parents=True, exist_ok=True)
    identity, books, serials = PlatformIdentity.generate(), PassportBooks(folder), []
    receiver_key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for user in data.user_ids:
        contents = Contents(profile=Profile(Basis("shop/1", bytes(32)), _MARK))
        passport = issue(
            contents,
            issuer="shop",
            identity=identity,
            receiver="platform-0",
            receiver_key=receiver_key,
            not_before=0,
            expires=1 << 39,
        )
        books.record_redeem(passport, user, contents, per_day=1)
        serials.append(passport.serial)
    books.close()
    return serials


def _messages(platforms: dict[str, TrainingData], folder: Path) -> list[tuple[object, ...]]:
    """All that left, in order, message by message: kind, code, names, and every array's bytes.

    Of encrypted item cards, whose nonces are random, only the number of bytes.
    """
    recorders = [Recorder(agent) for agent in agents_of(platforms, small_plan(), folder)]
    federate(recorders, small_plan(), folder)
    return [
        (request.kind, reply.code, sorted((name, _content(name, array)) for name, array in reply.arrays.items()))
        for recorder in recorders
        for request, reply in recorder.seen
    ]


def _content(name: str, array: np.ndarray) -> bytes:
    return str(array.nbytes).encode() if name == "cards" else array.tobytes()


def test_messages_are_the_same_to_the_bit(tmp_path: Path) -> None:
    platforms = random_platforms(3, (12, 9, 6), validated=True)
    without = _messages(platforms, tmp_path / "without")
    folder = tmp_path / "with"
    serials = {name: _redeem(folder / "platforms" / name, data) for name, data in platforms.items()}
    with_passports = _messages(platforms, folder)

    assert len(without) > 6
    assert with_passports == without
    sent = repr(with_passports).encode() + b"".join(data for message in with_passports for _, data in message[2])
    assert _MARK.tobytes() not in sent
    assert not any(serial.encode() in sent for name in serials for serial in serials[name])
    # The passports did lie there while the federation ran.
    assert all((folder / "platforms" / name / PASSPORTS_FILE).exists() for name in platforms)
