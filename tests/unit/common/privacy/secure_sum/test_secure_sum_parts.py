"""The parts of the secure sum one by one: ring, secret sharing, keystreams, identities, rosters, messages."""

from __future__ import annotations

import random
import stat
from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SecureSumError
from common.privacy.secure_sum import (
    PlatformIdentity,
    RingConfig,
    Roster,
    RosterPolicy,
    RoundSpec,
    finest_step,
    fingerprint,
    masks,
    most_dropouts,
    shamir,
    wire,
)

RING = RingConfig(bits=32, max_abs_per_platform=1 << 20)
SPEC = RoundSpec(label="statistics", ring=RING, noise_std=3.0)


def identities(count: int) -> dict[str, PlatformIdentity]:
    return {f"shop-{index:02d}": PlatformIdentity.generate() for index in range(count)}


def roster_of(people: dict[str, PlatformIdentity], **changes: object) -> Roster:
    terms: dict[str, object] = {"run_id": "run-1", "colluders": 1, "dropouts": 0, "rounds": (SPEC,), **changes}
    return Roster.agree(identities={name: one.public for name, one in people.items()}, **terms)  # type: ignore[arg-type]


# ring


@given(
    bits=st.sampled_from([16, 24, 32, 40, 48, 56]),
    platforms=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 50),
)
@settings(deadline=None)
def test_the_ring_sum_is_the_integer_sum_within_the_bound(bits, platforms, seed, length):
    bound = (1 << (bits - 2)) // platforms
    ring = RingConfig(bits=bits, max_abs_per_platform=bound)
    ring.check_platforms(platforms)
    generator = random.Random(seed)
    extremes = [-bound, bound, 0]
    rows = [
        [generator.choice([*extremes, generator.randint(-bound, bound)]) for _ in range(length)]
        for _ in range(platforms)
    ]
    total = np.zeros(length, dtype=ring.dtype)
    for row in rows:
        packed = ring.pack(ring.encode(np.array(row, dtype=np.int64)))
        assert len(packed) == length * bits // 8
        total += ring.unpack(packed, length)
    assert ring.decode(total).tolist() == [sum(column) for column in zip(*rows, strict=True)]


@given(bits=st.sampled_from([16, 24, 32, 40, 48, 56]), value=st.integers(-(2**62), 2**62))
@settings(deadline=None)
def test_ring_decodes_the_centred_representative(bits, value):
    ring = RingConfig(bits=bits, max_abs_per_platform=1)
    modulus = 1 << bits
    expected = (value + modulus // 2) % modulus - modulus // 2
    assert ring.decode(ring.encode(np.array([value]))).tolist() == [expected]


def test_ring_refuses_a_bound_whose_sum_could_wrap():
    RingConfig(bits=32, max_abs_per_platform=(1 << 30) // 10).check_platforms(10)
    with pytest.raises(SecureSumError, match="coarser grid step"):
        RingConfig(bits=32, max_abs_per_platform=(1 << 30) // 10 + 1).check_platforms(10)
    with pytest.raises(SecureSumError):
        RingConfig(bits=32, max_abs_per_platform=(1 << 30) + 1)


def test_the_ring_covers_signal_and_the_exact_gaussian_tail():
    from mpmath import erfc as mp_erfc
    from mpmath import mp, mpf
    from mpmath import sqrt as mp_sqrt

    mp.dps = 30
    ring = RingConfig.from_public_bounds(
        platforms=10, users_per_platform=1000, max_abs_per_user=40, noise_std=500.0, coordinates=10**6
    )
    tail = ring.max_abs_per_platform - 40_000
    assert 500 < tail < 500 * 20
    # P[any of 10 · 10^6 normals beyond the tail], by the union bound on the exact tail.
    assert mpf(10**7) * mp_erfc(mpf(tail) / 500 / mp_sqrt(2)) < mpf(2) ** -40
    with pytest.raises(SecureSumError, match="could wrap"):
        RingConfig.from_public_bounds(
            bits=16, platforms=10, users_per_platform=1000, max_abs_per_user=40, noise_std=1.0, coordinates=10
        )


def test_ring_bound_covers_the_heavier_skellam_tail():
    from mpmath import besseli, exp, mp, mpf

    mp.dps = 30
    variance, coordinates, failure = 100, 1000, 1e-100
    ring = RingConfig.from_public_bounds(
        platforms=3,
        users_per_platform=1,
        max_abs_per_user=1,
        noise_std=variance**0.5,
        coordinates=coordinates,
        failure_probability=failure,
    )
    tail = ring.max_abs_per_platform - 1
    beyond = sum(exp(-mpf(variance)) * besseli(k, variance) for k in range(tail + 1, tail + 200))
    assert 3 * coordinates * 2 * beyond < failure


@given(st.integers(2, 200), st.floats(1e-3, 1e6), st.sampled_from([32, 40, 48]))
@settings(deadline=None)
def test_finest_step_fits_the_ring_and_half_of_it_does_not(platforms, max_abs, bits):
    step = finest_step(bits, platforms, max_abs)
    RingConfig(bits=bits, max_abs_per_platform=int(max_abs / step) + 1).check_platforms(platforms)
    with pytest.raises(SecureSumError):
        RingConfig(bits=bits, max_abs_per_platform=int(max_abs / (step / 4)) + 1).check_platforms(platforms)


def test_ring_refuses_a_vector_of_another_length():
    with pytest.raises(SecureSumError, match="same vocabulary"):
        RING.unpack(bytes(12), 4)


# secret sharing


def test_shamir_prime_is_prime_and_the_smallest_above_256_bits():
    def probably_prime(number: int) -> bool:
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for _ in range(40):
            power = pow(random.randrange(2, number - 1), odd, number)
            if power in (1, number - 1):
                continue
            if not any((power := pow(power, 2, number)) == number - 1 for _ in range(twos - 1)):
                return False
        return True

    assert [n for n in range(2**256 + 1, shamir.PRIME + 1) if probably_prime(n)] == [shamir.PRIME]


@given(secret=st.binary(min_size=32, max_size=32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_shamir_any_threshold_shares_give_the_secret_back(secret, data):
    count = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, count))
    shares = shamir.split(secret, range(1, count + 1), threshold)
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert shamir.combine({point: shares[point] for point in chosen}, threshold) == secret
    with pytest.raises(SecureSumError, match="shares where"):
        shamir.combine({point: shares[point] for point in chosen[1:]}, threshold)


def test_shamir_combine_agrees_with_lagrange_over_the_rationals():
    coefficients = [123456789, 987, 654]  # f(0) = 123456789, small enough for no reduction
    shares = {x: sum(c * x**k for k, c in enumerate(coefficients)) for x in (2, 5, 9)}
    expected = Fraction(0)
    for x, y in shares.items():
        term = Fraction(y)
        for other in shares:
            if other != x:
                term *= Fraction(-other, x - other)
        expected += term
    assert expected == 123456789
    packed = {x: y.to_bytes(33, "big") for x, y in shares.items()}
    assert int.from_bytes(shamir.combine(packed, 3), "big") == 123456789


def test_shamir_shares_below_the_threshold_tell_nothing():
    from scipy.stats import ks_2samp

    low, high = bytes(32), b"\x55" * 32

    def first_shares(secret: bytes) -> list[float]:
        return [int.from_bytes(shamir.split(secret, [1, 2], 2)[1], "big") / shamir.PRIME for _ in range(2000)]

    assert ks_2samp(first_shares(low), first_shares(high)).pvalue > 1e-6


# keystreams


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("length", [1, 5, 70_000, 131_072])
def test_streams_are_aes_256_counter_mode_and_cancel(dtype, length):
    key, other = sha256(b"a").digest(), sha256(b"b").digest()
    words = np.arange(length, dtype=dtype)
    before = words.copy()
    masks.add_streams(words, [(key, 1)])
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    expected = np.frombuffer(encryptor.update(bytes(before.nbytes)), dtype=dtype)
    np.testing.assert_array_equal(words, before + expected)
    masks.add_streams(words, [(other, -1), (key, -1), (other, 1)])
    np.testing.assert_array_equal(words, before)


def test_pair_keys_agree_and_differ_by_round_broadcast_and_pair():
    mine, theirs = sha256(b"mine").digest(), sha256(b"theirs").digest()
    terms = {"transcript": b"t", "round_index": 0, "context": b"c", "pair": ("a", "b")}
    key = masks.pair_key(mine, masks.public_key(theirs), **terms)
    assert key == masks.pair_key(theirs, masks.public_key(mine), **terms)
    changed = [{"transcript": b"u"}, {"round_index": 1}, {"context": b"d"}, {"pair": ("a", "c")}]
    others = {masks.pair_key(mine, masks.public_key(theirs), **{**terms, **change}) for change in changed}
    assert len(others | {key}) == 5


def test_a_low_order_public_key_is_refused():
    with pytest.raises(SecureSumError, match="X25519"):
        masks.agree(sha256(b"mine").digest(), bytes(32), b"context")


def test_bind_separates_lists_that_concatenate_alike():
    assert (
        len(
            {
                masks.bind("p", b"ab", b"c"),
                masks.bind("p", b"a", b"bc"),
                masks.bind("p", b"abc"),
                masks.bind("pa", b"bc"),
            }
        )
        == 4
    )


# identities


def test_identity_file_is_private_and_loads_back(tmp_path):
    path = tmp_path / "identity.pem"
    created = PlatformIdentity.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PlatformIdentity.load(path).public == created.public
    with pytest.raises(SecureSumError, match="exists already"):
        PlatformIdentity.create(path)
    path.chmod(0o640)
    with pytest.raises(SecureSumError, match="chmod 600"):
        PlatformIdentity.load(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(SecureSumError, match="Ed25519"):
        PlatformIdentity.load(path)
    with pytest.raises(SecureSumError, match="create one first"):
        PlatformIdentity.load(tmp_path / "absent.pem")


def test_fingerprint_is_forty_hex_digits_of_sha256_in_groups_of_four():
    text = fingerprint(b"k" * 32)
    assert text.replace(" ", "") == sha256(b"k" * 32).hexdigest()[:40]
    assert [len(group) for group in text.split(" ")] == [4] * 10


def test_identity_does_not_show_its_key():
    assert "PrivateKey" not in repr(PlatformIdentity.generate())


# rosters


@given(platforms=st.integers(3, 40), colluders=st.integers(1, 12), dropouts=st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_roster_exists_exactly_where_a_threshold_does(platforms, colluders, dropouts):
    thresholds = [t for t in range(1, platforms + 1) if 2 * t > platforms + colluders and t <= platforms - dropouts]
    keys = {f"p{index:02d}": sha256(bytes([index])).digest() for index in range(platforms)}
    terms = {"run_id": "r", "identities": keys, "colluders": colluders, "dropouts": dropouts, "rounds": (SPEC,)}
    if thresholds and platforms - colluders - dropouts >= 2:
        roster = Roster.agree(**terms)
        assert roster.threshold == thresholds[0]
        assert dropouts <= most_dropouts(platforms, colluders)
        assert roster.noise_sharers == platforms - colluders - dropouts
    else:
        with pytest.raises(SecureSumError):
            Roster.agree(**terms)


def test_three_platforms_tolerate_no_dropout_and_are_told_so():
    people = identities(3)
    assert "no dropout is tolerated" in roster_of(people).describe()
    with pytest.raises(SecureSumError, match=r"to 0 at most"):
        roster_of(people, dropouts=1)


def test_ten_platforms_describe_threshold_messages_and_noise():
    text = roster_of(identities(10), dropouts=3).describe()
    assert "up to 3 may be missing" in text
    assert "6 must help" in text
    assert "sigma/sqrt(6)" in text
    assert "2 a round, 3 when one is missing" in text


def test_two_platforms_are_refused():
    with pytest.raises(SecureSumError, match="per_platform"):
        roster_of(identities(2))


def test_a_threshold_of_half_of_platforms_and_colluders_is_refused():
    roster = roster_of(identities(5))
    assert roster.threshold == 4
    with pytest.raises(SecureSumError, match="more than half"):
        Roster.from_bytes(roster.model_copy(update={"threshold": 3}).to_bytes())
    with pytest.raises(SecureSumError, match="at most"):
        Roster.from_bytes(roster.model_copy(update={"threshold": 6}).to_bytes())


def test_a_sum_over_one_honest_platform_is_refused():
    with pytest.raises(SecureSumError, match="one honest platform"):
        roster_of(identities(3), colluders=2)


def test_roster_ring_must_hold_the_sum_of_all_platforms():
    tight = RoundSpec(label="statistics", ring=RingConfig(max_abs_per_platform=1 << 30), noise_std=1.0)
    with pytest.raises(SecureSumError, match="could wrap"):
        roster_of(identities(3), rounds=(tight,))


def test_every_field_of_a_roster_changes_its_digest():
    people = identities(10)
    base = roster_of(people)
    other_ring = SPEC.model_copy(update={"ring": RingConfig(bits=40, max_abs_per_platform=1 << 20)})
    other_bound = SPEC.model_copy(update={"ring": RingConfig(bits=32, max_abs_per_platform=1 << 21)})
    changed = [
        roster_of(people, run_id="run-2"),
        roster_of(people, colluders=3),
        roster_of(people, dropouts=1),
        base.model_copy(update={"threshold": base.threshold + 1}),
        roster_of(people, rounds=(SPEC, SPEC)),
        *(
            roster_of(people, rounds=(spec,))
            for spec in (
                other_ring,
                other_bound,
                SPEC.model_copy(update={"label": "x"}),
                SPEC.model_copy(update={"noise_std": 2.0}),
            )
        ),
        roster_of({**people, "shop-00": PlatformIdentity.generate()}),
    ]
    assert len({roster.digest for roster in [base, *changed]}) == len(changed) + 1
    assert Roster.from_bytes(base.to_bytes()).digest == base.digest


def test_the_policy_refuses_all_departures_from_its_configuration():
    people = identities(10)
    pins = {name: one.fingerprint for name, one in people.items()}
    policy = RosterPolicy(fingerprints=pins, colluders=2, dropouts=2, minimum_platforms=8, rounds=(SPEC,))
    policy.check(roster_of(people, colluders=2, dropouts=2))
    policy.check(roster_of(people, colluders=3, dropouts=1))
    quiet = SPEC.model_copy(update={"noise_std": 2.9})
    wide = SPEC.model_copy(update={"ring": RingConfig(bits=40, max_abs_per_platform=1 << 20)})
    loose = SPEC.model_copy(update={"ring": RingConfig(bits=32, max_abs_per_platform=(1 << 20) + 9)})
    refused = {
        "identity key of 'shop-00'": roster_of({**people, "shop-00": PlatformIdentity.generate()}, colluders=2),
        "identity key of 'stranger'": roster_of({**people, "stranger": PlatformIdentity.generate()}, colluders=2),
        "asks for at least 8": roster_of(dict(list(people.items())[:7]), colluders=2),
        "1 colluders": roster_of(people, colluders=1),
        "3 dropouts": roster_of(people, colluders=2, dropouts=3),
        r"rounds: 2": roster_of(people, colluders=2, rounds=(SPEC, SPEC)),
        r"rounds\[0\]": roster_of(people, colluders=2, rounds=(quiet,)),
        r"rounds\[0\]: label": roster_of(people, colluders=2, rounds=(loose,)),
        r"rounds\[0\]: label, ring": roster_of(people, colluders=2, rounds=(wide,)),
    }
    for message, roster in refused.items():
        with pytest.raises(SecureSumError, match=message):
            policy.check(roster)


# messages


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_parsed_or_refused_with_a_secure_sum_error(data):
    for parse in (wire.Advert.from_bytes, wire.Certificate.from_bytes, wire.parse_survivor_reply, Roster.from_bytes):
        with pytest.raises(SecureSumError):
            parse(data)


def test_a_malformed_message_is_refused_without_quoting_it():
    share = b"s" * 33
    message = wire.UnmaskShares(platform="a", round_index=0, self_mask_shares={"a": share}, mask_key_shares={})
    data = message.to_bytes()
    assert wire.parse_survivor_reply(data) == message
    import base64

    encoded = base64.urlsafe_b64encode(share)
    assert encoded in data
    broken = data.replace(encoded, encoded[:-4])
    broken = (len(broken) - 4).to_bytes(4, "big") + broken[4:]
    with pytest.raises(SecureSumError, match=r"malformed at unmask\.self_mask_shares") as refusal:
        wire.parse_survivor_reply(broken)
    assert encoded[:8].decode() not in str(refusal.value)
    with pytest.raises(SecureSumError, match="cut short"):
        wire.parse_survivor_reply(data[:-1])
    with pytest.raises(SecureSumError, match="after its end"):
        wire.UnmaskShares.from_bytes(data + b"x")
