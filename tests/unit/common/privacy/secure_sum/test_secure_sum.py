"""Whole rounds of the secure sum: exact sums, dropouts, restarts, and what a masked vector looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

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
    local_federation,
    run_round,
    wire,
)

BOUND = 1 << 24
TEN = [f"shop-{index:02d}" for index in range(10)]
TOLD = bytes(32)


def spec(bits: int = 32, noise_std: float = 0.0) -> RoundSpec:
    return RoundSpec(label="statistics", ring=RingConfig(bits=bits, max_abs_per_platform=BOUND), noise_std=noise_std)


def vectors(names: list[str], length: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-BOUND, BOUND, length, endpoint=True) for name in names}


def exact(inputs: dict[str, np.ndarray], names: list[str]) -> list[int]:
    return [sum(int(inputs[name][k]) for name in names) for k in range(len(inputs[names[0]]))]


@pytest.mark.parametrize("bits", [32, 40])
@pytest.mark.parametrize(("dropouts", "messages"), [(0, 1), (3, 2)])
def test_sum_is_exact_and_takes_the_stated_messages(bits, dropouts, messages):
    server, clients = local_federation(TEN, rounds=(spec(bits),), dropouts=dropouts)
    inputs = vectors(TEN)
    result = run_round(server, clients, inputs)
    assert result.total.dtype == np.int64
    assert result.total.tolist() == exact(inputs, TEN)
    assert result.messages == messages
    assert result.upload_bytes < 1000 * bits // 8 + 200


@given(
    platforms=st.integers(3, 9),
    colluders=st.integers(1, 2),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_the_survivors_sum_is_exact_for_any_roster_and_allowed_losses(platforms, colluders, data):
    names = [f"p{index}" for index in range(platforms)]
    most = max(0, min((platforms - colluders - 1) // 2, platforms - colluders - 2))
    if platforms - colluders < 2:
        return
    dropouts = data.draw(st.integers(0, most))
    server, clients = local_federation(names, rounds=(spec(), spec()), colluders=colluders, dropouts=dropouts)
    for index in range(2):
        gone = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=dropouts))
        lost_at = {
            name: data.draw(st.sampled_from(["before masking", "masking", "upload", "signature"])) for name in gone
        }
        inputs = vectors(names, length=7, seed=index)
        result = run_round(server, clients, inputs, round_index=index, lost_at=lost_at)
        expected = [name for name in names if lost_at.get(name) not in ("before masking", "masking")]
        assert list(result.survivors) == expected
        assert result.total.tolist() == exact(inputs, expected)


@pytest.mark.parametrize("step", ["before masking", "masking"])
def test_three_of_ten_lost_before_sending_leave_the_sum_of_seven(step):
    server, clients = local_federation(TEN, rounds=(spec(),), dropouts=3)
    inputs = vectors(TEN)
    result = run_round(server, clients, inputs, lost_at=dict.fromkeys(("shop-02", "shop-05", "shop-09"), step))
    seven = [name for name in TEN if name not in ("shop-02", "shop-05", "shop-09")]
    assert result.total.tolist() == exact(inputs, seven)
    assert result.messages == 3


def test_three_of_ten_lost_after_sending_are_in_the_sum_of_ten():
    server, clients = local_federation(TEN, rounds=(spec(),), dropouts=3)
    inputs = vectors(TEN)
    result = run_round(server, clients, inputs, lost_at=dict.fromkeys(("shop-02", "shop-05", "shop-09"), "upload"))
    assert result.total.tolist() == exact(inputs, TEN)
    assert result.messages == 2


def test_more_losses_than_allowed_end_the_round():
    server, clients = local_federation(TEN, rounds=(spec(),), dropouts=3)
    with pytest.raises(SecureSumError, match="no sum over fewer than 7"):
        run_round(server, clients, vectors(TEN), lost_at=dict.fromkeys(TEN[:4], "masking"))


def test_too_few_helpers_end_the_round():
    server, clients = local_federation(TEN, rounds=(spec(),), dropouts=3)
    with pytest.raises(SecureSumError, match="5 shares where 6"):
        run_round(server, clients, vectors(TEN), lost_at=dict.fromkeys(TEN[:5], "upload"))


def test_too_few_signatures_end_the_round():
    server, clients = local_federation(TEN, rounds=(spec(),), dropouts=3)
    lost_at = {TEN[0]: "masking", **dict.fromkeys(TEN[1:5], "upload")}
    with pytest.raises(SecureSumError, match="5 platforms signed"):
        run_round(server, clients, vectors(TEN), lost_at=lost_at)


def test_a_roster_without_dropouts_gives_no_partial_sum():
    server, clients = local_federation(TEN[:3], rounds=(spec(),))
    with pytest.raises(SecureSumError, match="tolerates no dropout"):
        run_round(server, clients, vectors(TEN), lost_at={TEN[0]: "masking"})


def test_a_platform_missing_at_enrolment_is_a_dropout_every_round():
    server, clients, _ = joined(TEN, dropouts=3)
    present = {name: client for name, client in clients.items() if name not in TEN[:2]}
    enrol_all(server, present)
    inputs = vectors(TEN)
    result = run_round(server, present, inputs)
    assert result.messages == 2  # all that enrolled are in
    assert result.total.tolist() == exact(inputs, TEN[2:])
    server, clients, _ = joined(TEN, dropouts=3)
    with pytest.raises(SecureSumError, match="needs at least 7"):
        enrol_all(server, {name: clients[name] for name in TEN[:6]})


def joined(names, *, dropouts=0, rounds=None, saved=None):
    """A server, clients that have joined but not enrolled, and what is needed to restore them."""
    rounds = rounds or (spec(),)
    people = {name: PlatformIdentity.generate() for name in names}
    public = {name: one.public for name, one in people.items()}
    roster = Roster.agree(run_id="run", identities=public, colluders=1, dropouts=dropouts, rounds=rounds)
    pins = {name: one.fingerprint for name, one in people.items()}
    policy = RosterPolicy(fingerprints=pins, dropouts=dropouts, rounds=rounds)
    saved = {} if saved is None else saved
    clients = {
        name: SecureSumClient.join(
            roster,
            platform=name,
            identity=one,
            policy=policy,
            save=lambda state, name=name: saved.update({name: state}),
        )
        for name, one in people.items()
    }
    return SecureSumServer(roster), clients, people


# what a masked vector looks like


def payload(masked: bytes) -> np.ndarray:
    return np.frombuffer(bytes(wire.split_frame(masked)[1]), dtype=np.uint8)


@pytest.mark.parametrize("dropouts", [0, 1])
def test_masked_vectors_look_uniform_and_unrelated(dropouts):
    length = 50_000
    zeros = np.zeros(length, dtype=np.int64)
    seen = []
    for _ in range(2):
        _, clients = local_federation(TEN[:4], rounds=(spec(), spec()), dropouts=dropouts)
        seen += [
            payload(clients[name].mask(index, zeros, noise_std=0, context=TOLD))
            for index in range(2)
            for name in TEN[:2]
        ]
    for octets in seen:
        assert chisquare(np.bincount(octets, minlength=256)).pvalue > 1e-7
        assert kstest(octets.view("<u4") / 2**32, "uniform").pvalue > 1e-7
    for index, octets in enumerate(seen):
        for other in seen[index + 1 :]:
            difference = octets.view("<u4") - other.view("<u4")
            assert chisquare(np.bincount(difference.view(np.uint8), minlength=256)).pvalue > 1e-7


def test_the_uniformity_tests_reject_an_unmasked_vector():
    octets = np.random.default_rng(0).normal(0, 1e4, 50_000).astype("<i4").view(np.uint8)
    assert chisquare(np.bincount(octets, minlength=256)).pvalue < 1e-7
    assert kstest(octets.view("<u4") / 2**32, "uniform").pvalue < 1e-7


def test_sums_of_some_vectors_still_look_uniform():
    _, clients = local_federation(TEN[:5], rounds=(spec(),), dropouts=1)
    zeros = np.zeros(50_000, dtype=np.int64)
    masked = [payload(clients[name].mask(0, zeros, noise_std=0, context=TOLD)).view("<u4") for name in TEN[:5]]
    for count in range(1, 6):  # even all five: their self-masks are still on
        total = np.sum(masked[:count], axis=0, dtype="<u4")
        assert chisquare(np.bincount(total.view(np.uint8), minlength=256)).pvalue > 1e-7


# restarts


def test_restarts_between_any_two_messages_finish_the_rounds():
    saved: dict[str, bytes] = {}
    server, clients, people = joined(TEN[:5], dropouts=1, rounds=(spec(), spec()), saved=saved)

    def restart() -> None:
        for name in clients:
            clients[name] = SecureSumClient.from_state(
                saved[name], identity=people[name], save=lambda state, name=name: saved.update({name: state})
            )

    for name in clients:
        restart()
        server.add_advert(name, clients[name].advertise())
    for name in clients:
        restart()
        server.add_shares(name, clients[name].enrol(server.enrolment()))
    server = SecureSumServer.from_state(server.to_state())
    for name in clients:
        restart()
        clients[name].receive_shares(server.mailbag(name))
    for index in range(2):
        inputs = vectors(TEN[:5], seed=index)
        current = server.open_round(index, 1000, TOLD)
        for name in TEN[:4]:
            restart()
            current.add_masked(name, clients[name].mask(index, inputs[name], noise_std=0, context=TOLD))
        for name in TEN[:4]:
            restart()
            current.add_survivor_reply(name, clients[name].answer_survivors(current.survivor_list()))
        for name in TEN[:4]:
            restart()
            current.add_survivor_reply(name, clients[name].answer_certificate(current.certificate()))
        assert current.sum().tolist() == exact(inputs, TEN[:4])
        assert current.sum().tolist() == exact(inputs, TEN[:4])


def test_repeats_get_identical_bytes_also_after_a_restart():
    saved: dict[str, bytes] = {}
    server, clients, people = joined(TEN[:5], dropouts=1, saved=saved)
    enrol_all(server, clients)
    name = TEN[0]
    inputs = vectors(TEN[:5])
    current = server.open_round(0, 1000, TOLD)
    for platform, client in clients.items():
        current.add_masked(platform, client.mask(0, inputs[platform], noise_std=0, context=TOLD))
    before = clients[name]
    after = SecureSumClient.from_state(saved[name], identity=people[name], save=lambda state: None)
    for ask in (
        lambda client: client.advertise(),
        lambda client: client.enrol(server.enrolment()),
        lambda client: client.mask(0, inputs[name], noise_std=0, context=TOLD),
        lambda client: client.answer_survivors(current.survivor_list()),
    ):
        assert ask(before) == ask(before) == ask(after)
    after.receive_shares(server.mailbag(name))


def test_a_second_vector_under_the_same_masks_is_refused():
    saved: dict[str, bytes] = {}
    server, clients, people = joined(TEN[:3], saved=saved)
    enrol_all(server, clients)
    units = np.arange(10)
    clients[TEN[0]].mask(0, units, noise_std=0, context=TOLD)
    restarted = SecureSumClient.from_state(saved[TEN[0]], identity=people[TEN[0]], save=lambda state: None)
    for client in (clients[TEN[0]], restarted):
        for other in (units + 1, units[:9], np.arange(11)):
            with pytest.raises(SecureSumError, match="another vector was masked"):
                client.mask(0, other, noise_std=0, context=TOLD)


def test_nothing_leaves_when_the_state_cannot_be_saved():
    server, clients, people = joined(TEN[:5], dropouts=1)
    enrol_all(server, clients)

    def full_disk(state: bytes) -> None:
        raise OSError("disk full")

    name = TEN[0]
    state = clients[name].to_state()
    broken = SecureSumClient.from_state(state, identity=people[name], save=full_disk)
    with pytest.raises(OSError, match="disk full"):
        broken.mask(0, np.arange(10), noise_std=0, context=TOLD)
    assert broken.to_state() == state
    current = server.open_round(0, 10, TOLD)
    for platform in TEN[:4]:
        current.add_masked(platform, clients[platform].mask(0, np.arange(10), noise_std=0, context=TOLD))
    broken = SecureSumClient.from_state(clients[name].to_state(), identity=people[name], save=full_disk)
    with pytest.raises(OSError, match="disk full"):
        broken.answer_survivors(current.survivor_list())


def test_a_closed_rounds_secrets_are_dropped_from_the_state():
    import json

    _, clients = local_federation(TEN[:5], rounds=(spec(), spec(), spec()), dropouts=1)
    client = clients[TEN[0]]
    before = json.loads(client.to_state())
    assert before["encryption_secret"] == ""
    client.mask(1, np.arange(10), noise_std=0, context=TOLD)
    text = client.to_state().decode()
    pairs = [pair for shares in before["held"].values() for pair in shares[:1]]
    for secret in (before["mask_secrets"][0], before["self_secrets"][0], *(share for pair in pairs for share in pair)):
        assert len(secret) >= 43
        assert secret not in text
    assert before["mask_secrets"][1] in text
    with pytest.raises(SecureSumError, match="closed"):
        client.mask(0, np.arange(10), noise_std=0, context=TOLD)


def test_a_state_shows_no_secret_and_belongs_to_one_identity():
    server, clients, people = joined(TEN[:5], dropouts=1)
    enrol_all(server, clients)
    client = clients[TEN[0]]
    shown = repr(client._state)
    assert "mask_secrets" not in shown
    assert "self_secrets" not in shown
    assert "held" not in shown
    with pytest.raises(SecureSumError, match="another identity"):
        SecureSumClient.from_state(client.to_state(), identity=people[TEN[1]], save=lambda state: None)
    with pytest.raises(SecureSumError, match="saved state"):
        SecureSumClient.from_state(client.to_state()[:-1], identity=people[TEN[0]], save=lambda state: None)


def test_an_aggregator_restarted_in_a_round_gets_the_same_vectors():
    server, clients = local_federation(TEN[:5], rounds=(spec(),), dropouts=1)
    inputs = vectors(TEN[:5])
    lost = server.open_round(0, 1000, TOLD)
    first = {name: client.mask(0, inputs[name], noise_std=0, context=TOLD) for name, client in clients.items()}
    lost.add_masked(TEN[0], first[TEN[0]])
    restarted = SecureSumServer.from_state(server.to_state())
    assert run_round(restarted, clients, inputs).total.tolist() == exact(inputs, TEN[:5])


# the figures
