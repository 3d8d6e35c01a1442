"""A malicious aggregator, colluding platforms and platforms that do not keep to the protocol."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import SecureSumError
from common.privacy.secure_sum import (
    PlatformIdentity,
    RingConfig,
    Roster,
    RosterPolicy,
    RoundSpec,
    SecureSumClient,
    SecureSumServer,
    enrol_all,
    masks,
    shamir,
    wire,
)
from common.privacy.secure_sum.transcript import Transcript, make_advert

NAMES = [f"shop-{index:02d}" for index in range(10)]
SPEC = RoundSpec(label="statistics", ring=RingConfig(max_abs_per_platform=1 << 24), noise_std=2.0)
UNITS = np.arange(-50, 50)
TOLD, OTHER = bytes(32), bytes(31) + b"\x01"


class World:
    """Ten platforms, their identities and an aggregator that may do what it likes."""

    def __init__(self, names=NAMES, *, dropouts=3, colluders=1, rounds=(SPEC, SPEC), enrol=True):
        self.people = {name: PlatformIdentity.generate() for name in names}
        public = {name: one.public for name, one in self.people.items()}
        self.roster = Roster.agree(
            run_id="run", identities=public, colluders=colluders, dropouts=dropouts, rounds=rounds
        )
        pins = {name: one.fingerprint for name, one in self.people.items()}
        self.policy = RosterPolicy(fingerprints=pins, dropouts=dropouts, rounds=rounds)
        self.clients = {name: self.join(name) for name in names}
        self.server = SecureSumServer(self.roster)
        if enrol:
            enrol_all(self.server, self.clients)

    def join(self, name: str, roster: Roster | None = None) -> SecureSumClient:
        return SecureSumClient.join(
            roster or self.roster,
            platform=name,
            identity=self.people[name],
            policy=self.policy,
            save=lambda state: None,
        )

    def mask_all(self, index: int = 0, units: np.ndarray = UNITS, told=None) -> dict[str, bytes]:
        """``told``: by name, for those that are told something else."""
        contexts = dict.fromkeys(self.clients, TOLD) | (told or {})
        return {
            name: client.mask(index, units, noise_std=2.0, context=contexts[name])
            for name, client in self.clients.items()
        }


def survivors(names, index: int = 0) -> bytes:
    return wire.SurvivorList(round_index=index, survivors=tuple(names)).to_bytes()


def certificate(names, signatures: dict[str, bytes], index: int = 0) -> bytes:
    return wire.Certificate(round_index=index, survivors=tuple(names), signatures=signatures).to_bytes()


def signature_of(reply: bytes) -> bytes:
    parsed = wire.parse_survivor_reply(reply)
    assert isinstance(parsed, wire.SurvivorSignature)
    return parsed.signature


# survivor lists


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_every_platform_refuses_a_sum_over_too_few_platforms(count):
    world = World()
    world.mask_all()
    some = NAMES[:count]
    digest = world.server.transcript.survivors_digest(0, tuple(some))
    signatures = {name: world.people[name].sign(digest) for name in some}  # even if all of them signed
    for client in world.clients.values():
        with pytest.raises(SecureSumError, match="no sum over fewer than 7"):
            client.answer_survivors(survivors(some))
        with pytest.raises(SecureSumError, match="no sum over fewer than 7"):
            client.answer_certificate(certificate(some, signatures))


def test_a_second_overlapping_survivor_list_is_refused_in_every_order():
    full, eight, nine = NAMES, NAMES[:8], NAMES[:9]
    for first, second in itertools.permutations([full, eight, nine], 2):
        world = World()
        world.mask_all()
        client = world.clients[NAMES[0]]
        client.answer_survivors(survivors(first))
        with pytest.raises(SecureSumError, match="a second, different survivor list"):
            client.answer_survivors(survivors(second))
        digest = world.server.transcript.survivors_digest(0, tuple(second))
        signed = {name: world.people[name].sign(digest) for name in second}
        with pytest.raises(SecureSumError, match="a second, different survivor list"):
            client.answer_certificate(certificate(second, signed))
        client.answer_survivors(survivors(first))


@pytest.mark.parametrize(
    "names",
    [[*NAMES[:9], NAMES[8]], [*NAMES[1:9], NAMES[0]], [*NAMES[:9], "stranger"], NAMES[1:]],
    ids=["doubled", "unsorted", "foreign", "without this platform"],
)
def test_a_malformed_survivor_list_is_refused(names):
    world = World()
    world.mask_all()
    with pytest.raises(SecureSumError, match="survivor list"):
        world.clients[NAMES[0]].answer_survivors(survivors(names))


def test_a_partial_list_needs_threshold_signatures_over_that_list():
    world = World()
    world.mask_all()
    client, seven, other = world.clients[NAMES[0]], tuple(NAMES[:7]), tuple(NAMES[3:])
    signatures = {name: signature_of(world.clients[name].answer_survivors(survivors(seven))) for name in seven}
    assert world.roster.threshold == 6
    six = {name: signatures[name] for name in NAMES[1:7]}
    five = {name: signatures[name] for name in NAMES[1:6]}
    transcript = world.server.transcript

    def sign(name: str, digest: bytes) -> bytes:
        return world.people[name].sign(digest)

    bad_sixths = {
        "forged": {NAMES[6]: signatures[NAMES[5]]},
        "over another list": {NAMES[6]: sign(NAMES[6], transcript.survivors_digest(0, other))},
        "of another round": {NAMES[6]: sign(NAMES[6], transcript.survivors_digest(1, seven))},
        "of one not on the list": {NAMES[8]: sign(NAMES[8], transcript.survivors_digest(0, seven))},
        "none": {},
    }
    for extra in bad_sixths.values():
        with pytest.raises(SecureSumError, match="5 platforms signed"):
            client.answer_certificate(certificate(seven, {**five, **extra}))
    shares = wire.parse_survivor_reply(client.answer_certificate(certificate(seven, six)))
    assert isinstance(shares, wire.UnmaskShares)
    assert set(shares.self_mask_shares) == set(seven)
    assert set(shares.mask_key_shares) == set(NAMES[7:])


def test_a_different_partial_list_to_each_platform_unmasks_nothing():
    # Without signatures each platform's three missing would be those the aggregator chooses, and the sum that is left
    # would run over four honest platforms: five others can each be voted out by five of the nine honest ones.
    world = World()
    world.mask_all()
    out = NAMES[5:]
    votes = dict.fromkeys(out, 0)
    lists, signatures = {}, []
    for name in NAMES[1:]:
        chosen = sorted((n for n in out if n != name), key=lambda n: votes[n])[:3]
        for n in chosen:
            votes[n] += 1
        lists[name] = tuple(n for n in NAMES if n not in chosen)
    assert min(votes.values()) + world.roster.colluders >= world.roster.threshold
    for name, listed in lists.items():
        signatures.append((name, signature_of(world.clients[name].answer_survivors(survivors(listed)))))
    for name, listed in lists.items():
        with pytest.raises(SecureSumError, match="the aggregator may have shown others another list"):
            world.clients[name].answer_certificate(certificate(listed, dict(signatures)))


def test_a_round_that_this_platform_did_not_mask_last_is_not_unmasked():
    world = World()
    with pytest.raises(SecureSumError, match="not the round that this platform masked last"):
        world.clients[NAMES[0]].answer_survivors(survivors(NAMES))
    world.mask_all(0)
    world.mask_all(1)
    for index in (0, 2):
        with pytest.raises(SecureSumError, match="not the round that this platform masked last"):
            world.clients[NAMES[0]].answer_survivors(survivors(NAMES, index))


def test_without_dropouts_no_platform_answers_a_survivor_list():
    world = World(dropouts=0)
    world.mask_all()
    with pytest.raises(SecureSumError, match="no share exists"):
        world.clients[NAMES[0]].answer_survivors(survivors(NAMES))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_request_reveals_both_secrets_or_a_small_sum(data):
    """One colluder gives all it has and signs everything; the aggregator asks honest platforms in any order."""
    names = NAMES[:5]
    world = _five_platforms()
    colluder, honest = names[4], names[:4]
    lists = [tuple(names), *(tuple(n for n in names if n != gone) for gone in names)]
    signed: dict[tuple[str, ...], dict[str, bytes]] = {
        listed: {colluder: world.people[colluder].sign(world.server.transcript.survivors_digest(0, listed))}
        for listed in lists
    }
    self_helpers: dict[str, set[str]] = {name: set() for name in names}
    key_helpers: dict[str, set[str]] = {name: set() for name in names}
    clients = {
        name: SecureSumClient.from_state(client.to_state(), identity=world.people[name], save=lambda state: None)
        for name, client in world.clients.items()
    }
    for _ in range(data.draw(st.integers(4, 24))):
        name, listed = data.draw(st.sampled_from(honest)), data.draw(st.sampled_from(lists))
        for ask, message in (
            (clients[name].answer_survivors, survivors(listed)),
            (clients[name].answer_certificate, certificate(listed, signed[listed])),
        ):
            reply = _answer(ask, message)
            if isinstance(reply, wire.SurvivorSignature):
                signed[listed][name] = reply.signature
            elif reply is not None:
                for other in reply.self_mask_shares:
                    self_helpers[other].add(name)
                for other in reply.mask_key_shares:
                    key_helpers[other].add(name)
    threshold = world.roster.threshold
    open_self = {name for name in honest if len(self_helpers[name] | {colluder}) >= threshold}
    open_key = {name for name in honest if len(key_helpers[name] | {colluder}) >= threshold}
    assert not open_self & open_key
    if open_self | open_key == set(honest):
        assert len(open_self) >= world.roster.noise_sharers


_WORLD: list[World] = []


def _five_platforms() -> World:
    if not _WORLD:
        world = World(NAMES[:5], dropouts=1)
        world.mask_all()
        _WORLD.append(world)
    return _WORLD[0]


def _answer(ask: Callable[[bytes], bytes], message: bytes) -> wire.SurvivorReply | None:
    try:
        return wire.parse_survivor_reply(ask(message))
    except SecureSumError:
        return None


def test_a_revealed_key_of_one_round_tells_nothing_of_another():
    world = World(NAMES[:5], dropouts=1)
    states = [client._state for client in world.clients.values()]
    drawn = [secret for state in states for secret in (*state.mask_secrets, *state.self_secrets)]
    assert len(set(drawn)) == 5 * 2 * 2
    missing, transcript = world.clients[NAMES[4]]._state, world.server.transcript

    def mask_key(index: int, secret: bytes) -> bytes:
        return transcript.pair_mask(NAMES[0], NAMES[4], index, context=TOLD, secret=secret, secret_of=NAMES[4])[0]

    own = world.clients[NAMES[0]]._state.mask_secrets[1]
    right = transcript.pair_mask(NAMES[0], NAMES[4], 1, context=TOLD, secret=own, secret_of=NAMES[0])[0]
    assert mask_key(1, missing.mask_secrets[1]) == right
    assert mask_key(1, missing.mask_secrets[0]) != right


# broadcasts


def as_if_told_the_same(data: bytes) -> bytes:
    """Return what an aggregator that sent different things makes of a vector's header."""
    text, payload = wire.split_frame(data)
    header = wire.MaskedVectorHeader.from_header(text)
    return wire.frame(header.model_copy(update={"context": TOLD}), bytes(payload))


def unmasked_words(world: World, masked: dict[str, bytes], length: int) -> np.ndarray:
    """The ring's words after all masks that the aggregator can compute are taken away, all platforms being there."""
    current = world.server.open_round(0, length, TOLD)
    for name, data in masked.items():
        current.add_masked(name, as_if_told_the_same(data))
    if world.roster.dropouts:
        request = current.survivor_list()
        for name, client in world.clients.items():
            current.add_survivor_reply(name, client.answer_survivors(request))
        masks.add_streams(current._words, current._surviving_masks())
    return current._words


@pytest.mark.parametrize("dropouts", [0, 3])
@pytest.mark.parametrize("others", [NAMES[:1], NAMES[:5], NAMES[4:]], ids=["one", "half", "most"])
def test_platforms_told_different_things_add_up_to_uniform_words(dropouts, others):
    world, length = World(dropouts=dropouts), 1 << 14
    masked = world.mask_all(0, np.zeros(length, dtype=np.int64), dict.fromkeys(others, OTHER))
    words = unmasked_words(world, masked, length)
    cells = np.bincount(words.astype(np.uint64) >> np.uint64(8 * words.itemsize - 6), minlength=64)
    chi_squared = float(((cells - length / 64) ** 2 / (length / 64)).sum())
    assert 20 < chi_squared < 130, "63 degrees of freedom: outside with probability below 1e-6"


@pytest.mark.parametrize("dropouts", [0, 3])
def test_platforms_that_were_told_the_same_add_up_exactly(dropouts):
    world, units = World(dropouts=dropouts), np.arange(-500, 500)
    words = unmasked_words(world, world.mask_all(0, units, dict.fromkeys(NAMES, TOLD)), len(units))
    assert SPEC.ring.decode(words).tolist() == (10 * units).tolist()


def test_a_vector_for_another_broadcast_counts_its_platform_missing():
    world = World()
    masked = world.mask_all(told={NAMES[3]: OTHER})
    current = world.server.open_round(0, len(UNITS), TOLD)
    for name, data in masked.items():
        if name == NAMES[3]:
            with pytest.raises(SecureSumError, match="'shop-03': it answers another request or vocabulary"):
                current.add_masked(name, data)
        else:
            current.add_masked(name, data)
    request = current.survivor_list()
    for name in current.survivors:
        current.add_survivor_reply(name, world.clients[name].answer_survivors(request))
    signed = current.certificate()
    for name in current.survivors:
        current.add_survivor_reply(name, world.clients[name].answer_certificate(signed))
    assert current.sum().tolist() == (9 * UNITS).tolist()


def test_the_same_vector_is_not_masked_again_for_another_broadcast():
    world = World()
    client = world.clients[NAMES[0]]
    first = client.mask(0, UNITS, noise_std=2.0, context=TOLD)
    with pytest.raises(SecureSumError, match="another vector was masked"):
        client.mask(0, UNITS, noise_std=2.0, context=OTHER)
    assert client.mask(0, UNITS, noise_std=2.0, context=TOLD) == first


# keys, adverts, envelopes


def enrolment(adverts) -> bytes:
    return wire.Enrolment(adverts=tuple(adverts)).to_bytes()


def own_adverts(world: World) -> list[wire.Advert]:
    return [wire.Advert.from_bytes(world.clients[name].advertise()) for name in world.roster.names]


@pytest.mark.parametrize("field", ["encryption_key", "mask_keys", "commitments"])
def test_an_aggregator_in_the_middle_cannot_replace_a_key(field):
    world = World(NAMES[:5], dropouts=1, enrol=False)
    adverts = own_adverts(world)
    mallory = masks.public_key(b"m" * 32)
    forged = mallory if field == "encryption_key" else (mallory, mallory)
    adverts[1] = adverts[1].model_copy(update={field: forged})
    with pytest.raises(SecureSumError, match="not signed by its identity key"):
        world.clients[NAMES[0]].enrol(enrolment(adverts))
    with pytest.raises(SecureSumError, match="not signed by its identity key"):
        world.server.add_advert(NAMES[1], adverts[1].to_bytes())


def test_an_advert_of_another_identity_or_terms_is_refused():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    adverts = own_adverts(world)
    secrets = {"encryption_secret": b"e" * 32, "mask_secrets": (b"m" * 32,) * 2, "self_secrets": (b"s" * 32,) * 2}
    other_terms = world.roster.model_copy(update={"run_id": "another run"})
    forgeries = [
        make_advert(world.roster, NAMES[1], PlatformIdentity.generate(), **secrets),
        make_advert(other_terms, NAMES[1], world.people[NAMES[1]], **secrets),
        make_advert(world.roster, NAMES[2], world.people[NAMES[2]], **secrets).model_copy(
            update={"platform": NAMES[1]}
        ),
    ]
    for forged in forgeries:
        with pytest.raises(SecureSumError, match="not signed by its identity key"):
            world.clients[NAMES[0]].enrol(enrolment([adverts[0], forged, *adverts[2:]]))


def test_a_roster_of_the_aggregators_own_is_refused_before_any_key():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    mallory = PlatformIdentity.generate()
    public = {name: one.public for name, one in world.people.items()}

    def roster(**changes) -> Roster:
        terms = {"run_id": "r", "identities": public, "colluders": 1, "dropouts": 1, "rounds": (SPEC, SPEC), **changes}
        return Roster.agree(**terms)

    small = SPEC.model_copy(update={"ring": RingConfig(bits=24, max_abs_per_platform=1 << 18)})
    silent = SPEC.model_copy(update={"noise_std": 0.0})
    for bad in (
        roster(identities={**public, NAMES[3]: mallory.public}),
        roster(identities={**public, "sybil": mallory.public}),
        roster(rounds=(small, small)),
        roster(rounds=(silent, silent)),
        roster(rounds=(SPEC,)),
    ):
        with pytest.raises(SecureSumError, match="roster"):
            world.join(NAMES[0], bad)


def test_a_ring_changed_for_some_platforms_splits_the_enrolment():
    # Even a platform whose configuration allowed both rings would sign another digest.
    world = World(NAMES[:5], dropouts=1, enrol=False)
    wide = SPEC.model_copy(update={"ring": RingConfig(bits=40, max_abs_per_platform=1 << 24)})
    changed = world.roster.model_copy(update={"rounds": (wide, wide)})
    world.policy = world.policy.model_copy(update={"rounds": (wide, wide)})
    fooled = world.join(NAMES[1], changed)
    adverts = own_adverts(world)
    adverts[1] = wire.Advert.from_bytes(fooled.advertise())
    with pytest.raises(SecureSumError, match="that platform was given other terms"):
        world.clients[NAMES[0]].enrol(enrolment(adverts))


def test_adverts_of_an_earlier_enrolment_open_no_envelope():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    old = own_adverts(world)
    old_bundles = {}
    for name in NAMES[:5]:
        old_bundles[name] = wire.ShareBundle.from_bytes(world.clients[name].enrol(enrolment(old))).envelopes
    victim = world.join(NAMES[0])
    mixed = [wire.Advert.from_bytes(victim.advertise()), *old[1:]]
    victim.enrol(enrolment(mixed))
    replayed = {name: old_bundles[name][NAMES[0]] for name in NAMES[1:5]}
    with pytest.raises(SecureSumError, match="accepted other adverts"):
        victim.receive_shares(wire.Mailbag(envelopes=replayed).to_bytes())
    with pytest.raises(SecureSumError, match="shares are missing"):
        victim.mask(0, UNITS, noise_std=2.0, context=TOLD)


def test_a_second_enrolment_of_the_same_client_is_refused():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    adverts = own_adverts(world)
    client = world.clients[NAMES[0]]
    client.enrol(enrolment(adverts))
    with pytest.raises(SecureSumError, match="other adverts were accepted before"):
        client.enrol(enrolment(adverts[:4]))


@pytest.mark.parametrize("chosen", [[0, 1, 2], [1, 2, 3, 4], [0, 1, 1, 2, 3], [1, 0, 2, 3, 4]])
def test_a_short_doubled_or_unsorted_enrolment_is_refused(chosen):
    world = World(NAMES[:5], dropouts=1, enrol=False)
    adverts = own_adverts(world)
    with pytest.raises(SecureSumError, match="enrol"):
        world.clients[NAMES[0]].enrol(enrolment(adverts[index] for index in chosen))


def test_tampered_swapped_or_missing_envelopes_are_refused():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    adverts = own_adverts(world)
    bundles = {
        name: wire.ShareBundle.from_bytes(world.clients[name].enrol(enrolment(adverts))).envelopes for name in NAMES[:5]
    }
    right = {name: bundles[name][NAMES[0]] for name in NAMES[1:5]}
    flipped = bytearray(right[NAMES[1]])
    flipped[-1] ^= 1
    attacks = [
        {**right, NAMES[1]: bytes(flipped)},
        {**right, NAMES[1]: right[NAMES[2]]},
        {**right, NAMES[1]: bundles[NAMES[1]][NAMES[2]]},
        {**right, NAMES[1]: bundles[NAMES[0]][NAMES[1]]},  # its own envelope sent back
        {**right, NAMES[1]: b""},
    ]
    for envelopes in attacks:
        with pytest.raises(SecureSumError, match=f"shares from '{NAMES[1]}'"):
            world.clients[NAMES[0]].receive_shares(wire.Mailbag(envelopes=envelopes).to_bytes())
    del right[NAMES[4]]
    with pytest.raises(SecureSumError, match="not one envelope from each"):
        world.clients[NAMES[0]].receive_shares(wire.Mailbag(envelopes=right).to_bytes())
    with pytest.raises(SecureSumError, match="shares are missing"):
        world.clients[NAMES[0]].mask(0, UNITS, noise_std=2.0, context=TOLD)


def test_platforms_shown_different_keys_open_nothing_of_each_other():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    adverts = own_adverts(world)
    other = [*adverts[:2], wire.Advert.from_bytes(world.join(NAMES[2]).advertise()), *adverts[3:]]
    bundles = {
        name: wire.ShareBundle.from_bytes(world.clients[name].enrol(enrolment(shown))).envelopes
        for name, shown in ((NAMES[0], adverts), (NAMES[1], other), (NAMES[3], adverts), (NAMES[4], adverts))
    }
    received = {name: bundles[name][NAMES[0]] for name in (NAMES[1], NAMES[3], NAMES[4])}
    with pytest.raises(SecureSumError, match=f"shares from '{NAMES[1]}'.*accepted other adverts"):
        world.clients[NAMES[0]].receive_shares(wire.Mailbag(envelopes={**received, NAMES[2]: b"x" * 40}).to_bytes())


def test_envelopes_show_no_share_to_the_aggregator():
    world = World(NAMES[:5], dropouts=1)
    held = [part for name in NAMES[1:5] for pair in world.clients[NAMES[0]]._state.held[name] for part in pair]
    seen = b"".join(world.server._bundles[name].envelopes[NAMES[0]] for name in NAMES[1:5])
    assert len(held) == 16
    assert not any(share in seen for share in held)


# masking


def test_values_without_the_promised_noise_are_not_masked():
    client = World(NAMES[:5], dropouts=1).clients[NAMES[0]]
    for noise_std in (0.0, 1.99, -2.0, float("nan")):
        with pytest.raises(SecureSumError, match="less noise than the roster promises"):
            client.mask(0, UNITS, noise_std=noise_std, context=TOLD)
    for units in (UNITS.astype(float), UNITS.astype(np.int32), UNITS.reshape(2, -1), UNITS[:0]):
        with pytest.raises(SecureSumError, match="one-dimensional int64"):
            client.mask(0, units, noise_std=2.0, context=TOLD)
    client.mask(0, UNITS, noise_std=2.0, context=TOLD)


def test_a_replayed_or_unknown_round_is_refused():
    client = World(NAMES[:5], dropouts=1).clients[NAMES[0]]
    client.mask(1, UNITS, noise_std=2.0, context=TOLD)
    with pytest.raises(SecureSumError, match="round 0 is closed"):
        client.mask(0, UNITS, noise_std=2.0, context=TOLD)
    with pytest.raises(SecureSumError, match="another vector was masked"):
        client.mask(1, UNITS + 1, noise_std=2.0, context=TOLD)
    for index in (-1, 2):
        with pytest.raises(SecureSumError, match="has 2 rounds"):
            client.mask(index, UNITS, noise_std=2.0, context=TOLD)


def test_nothing_is_masked_before_enrolment():
    client = World(NAMES[:5], dropouts=1, enrol=False).clients[NAMES[0]]
    with pytest.raises(SecureSumError, match="not enrolled yet"):
        client.mask(0, UNITS, noise_std=2.0, context=TOLD)


def test_unmasked_values_spoil_the_sum_and_show_nobody_elses():
    world = World()
    masked = world.mask_all()
    header = wire.MaskedVectorHeader(platform=NAMES[0], round_index=0, context=TOLD, length=len(UNITS))
    masked[NAMES[0]] = wire.frame(header, SPEC.ring.pack(SPEC.ring.encode(UNITS)))
    current = world.server.open_round(0, len(UNITS), TOLD)
    for name, data in masked.items():
        current.add_masked(name, data)
    for name in NAMES:
        current.add_survivor_reply(name, world.clients[name].answer_survivors(current.survivor_list()))
    with pytest.raises(SecureSumError, match="one of them did not mask as agreed"):
        current.sum()


# what the aggregator notices, being honest for availability


def full_round(world: World):
    current = world.server.open_round(0, len(UNITS), TOLD)
    for name, data in world.mask_all().items():
        current.add_masked(name, data)
    return current


@pytest.mark.parametrize("part", ["self_mask_shares", "mask_key_shares"])
def test_an_altered_unmasking_share_is_noticed(part):
    world = World()
    current = world.server.open_round(0, len(UNITS), TOLD)
    for name in NAMES[:8]:
        current.add_masked(name, world.clients[name].mask(0, UNITS, noise_std=2.0, context=TOLD))
    for name in NAMES[:8]:
        current.add_survivor_reply(name, world.clients[name].answer_survivors(current.survivor_list()))
    for name in NAMES[:8]:
        reply = wire.UnmaskShares.from_bytes(world.clients[name].answer_certificate(current.certificate()))
        if name == NAMES[2]:
            shares = dict(getattr(reply, part))
            victim = sorted(shares)[0]
            altered = (int.from_bytes(shares[victim], "big") + 1) % shamir.PRIME
            shares[victim] = altered.to_bytes(33, "big")
            reply = reply.model_copy(update={part: shares})
        current.add_survivor_reply(name, reply.to_bytes())
    with pytest.raises(SecureSumError, match="altered"):
        current.sum()


def test_the_aggregator_refuses_forged_doubled_and_late_messages():
    world = World()
    data = world.clients[NAMES[0]].mask(0, UNITS, noise_std=2.0, context=TOLD)
    current = world.server.open_round(0, len(UNITS), TOLD)
    with pytest.raises(SecureSumError, match="in the name of"):
        current.add_masked(NAMES[1], data)
    current.add_masked(NAMES[0], data)
    with pytest.raises(SecureSumError, match="in already"):
        current.add_masked(NAMES[0], data)
    with pytest.raises(SecureSumError, match="answered round 1"):
        current.add_masked(NAMES[1], World().clients[NAMES[1]].mask(1, UNITS, noise_std=2.0, context=TOLD))
    with pytest.raises(SecureSumError, match="99 values"):
        current.add_masked(NAMES[1], world.clients[NAMES[1]].mask(0, UNITS[:99], noise_std=2.0, context=TOLD))
    for name in NAMES[2:9]:
        current.add_masked(name, world.clients[name].mask(0, UNITS, noise_std=2.0, context=TOLD))
    request = current.survivor_list()
    with pytest.raises(SecureSumError, match="after the survivor list"):
        current.add_masked(NAMES[9], world.clients[NAMES[9]].mask(0, UNITS, noise_std=2.0, context=TOLD))
    reply = world.clients[NAMES[2]].answer_survivors(request)
    with pytest.raises(SecureSumError, match="in the name of"):
        current.add_survivor_reply(NAMES[3], reply)
    forged = wire.SurvivorSignature(platform=NAMES[3], round_index=0, signature=signature_of(reply)).to_bytes()
    with pytest.raises(SecureSumError, match="not over this round's survivor list"):
        current.add_survivor_reply(NAMES[3], forged)


def test_the_aggregator_refuses_strangers_and_partial_bundles():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    server = world.server
    with pytest.raises(SecureSumError, match="still open"):
        server.open_round(0, 5, TOLD)
    stranger = World(["x", "y", "z"], dropouts=0, enrol=False).clients["x"]
    with pytest.raises(SecureSumError, match="not one key a round"):
        server.add_advert("x", stranger.advertise())
    for name in NAMES[:4]:
        server.add_advert(name, world.clients[name].advertise())
    adverts = server.enrolment()
    with pytest.raises(SecureSumError, match="after the enrolment"):
        server.add_advert(NAMES[4], world.clients[NAMES[4]].advertise())
    bundle = wire.ShareBundle.from_bytes(world.clients[NAMES[0]].enrol(adverts))
    partial = bundle.model_copy(update={"envelopes": {NAMES[1]: bundle.envelopes[NAMES[1]]}})
    with pytest.raises(SecureSumError, match="not one envelope for each"):
        server.add_shares(NAMES[0], partial.to_bytes())
    server.add_shares(NAMES[0], bundle.to_bytes())
    with pytest.raises(SecureSumError, match="enrol again without them"):
        server.mailbag(NAMES[1])
    with pytest.raises(SecureSumError, match="has 2 rounds"):
        server.open_round(2, 5, TOLD)


def test_a_transcript_tells_runs_platforms_and_every_key_apart():
    world = World(NAMES[:5], dropouts=1)
    adverts = world.server.transcript.adverts
    rejoined = wire.Advert.from_bytes(world.join(NAMES[2]).advertise())
    digests = {
        world.server.transcript.digest,
        World(NAMES[:5], dropouts=1).server.transcript.digest,
        Transcript(world.roster, adverts[:4]).digest,
        Transcript(world.roster, (*adverts[:2], rejoined, *adverts[3:])).digest,
    }
    assert len(digests) == 4


def test_a_platform_joins_only_with_its_own_identity_key():
    world = World(NAMES[:5], dropouts=1, enrol=False)
    with pytest.raises(SecureSumError, match="not this platform's own"):
        SecureSumClient.join(
            world.roster,
            platform=NAMES[0],
            identity=world.people[NAMES[1]],
            policy=world.policy,
            save=lambda state: None,
        )
