"""Profiles and the bridge: better than popularity where there is something to learn, popularity where there is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.described import Described
from client.passport.basis import BASIS_FILE, ProfileBasis
from client.passport.bridge import FEWEST_HOLDERS, fit_bridge, recall_at
from client.passport.contents import Contents, Tastes
from client.passport.noise import noise_deviation, noised
from client.passport.spaces import AttributeSpace
from common.attributes import AttributeKind, Value
from common.errors import StoreError

pytestmark = pytest.mark.usefixtures("one_thread")
_GROUPS = 4


def _matrix(rows: list[list[int]], m: int) -> UserItemMatrix:
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    indices = np.concatenate([*map(np.array, rows), np.zeros(0)]).astype(np.int32)
    ones = np.ones(len(indices), dtype=np.float32)
    return UserItemMatrix(indptr, indices, ones, np.arange(len(indices), dtype=np.int64), m)


def _two_worlds(users: int, *, linked: bool, seed: int = 0) -> tuple[UserItemMatrix, UserItemMatrix]:
    """Histories on two platforms without an item in common; linked: a user is of the same group on both."""
    rng = np.random.default_rng(seed)
    there, here = rng.integers(_GROUPS, size=users), rng.integers(_GROUPS, size=users)
    if linked:
        here = there

    def world(groups: np.ndarray, m: int) -> UserItemMatrix:
        of_item = np.arange(m) % _GROUPS
        rows = []
        for group in groups:
            weights = np.where(of_item == group, 4.0, 1.0) / (1 + np.arange(m)) ** 0.3
            rows.append(rng.choice(m, size=12, replace=False, p=weights / weights.sum()).tolist())
        return _matrix(rows, m)

    return world(there, 80), world(here, 120)


def _basis(histories: UserItemMatrix) -> ProfileBasis:
    keys = [f"there:{item}" for item in range(histories.n_items)]
    return ProfileBasis.fit(histories, keys, "there/1", dimension=16)


def test_profile_is_the_scaled_sum_of_item_vectors() -> None:
    there, _ = _two_worlds(50, linked=True)
    basis = _basis(there)
    own = [f"there:{item}" for item in there.row(3)]
    total = sum(basis.vectors[basis.rows[key]].astype(float) for key in own)
    profile = basis.profile([*own, "unknown:1"])
    assert profile is not None
    np.testing.assert_allclose(profile, total / np.linalg.norm(total), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(basis.profiles(there)[3], profile, rtol=1e-5, atol=1e-6)
    assert basis.profile(["unknown:1"]) is None


def test_basis_spans_what_exact_svd_spans() -> None:
    there, _ = _two_worlds(200, linked=True)
    basis = _basis(there)
    dense = there.csr().toarray()
    scaled = dense / np.sqrt(dense.sum(axis=1, keepdims=True)) / np.sqrt(dense.sum(axis=0))
    exact = np.linalg.svd(scaled)[2][:4].T
    mine = basis.vectors[:, :4] * np.sqrt(dense.sum(axis=0))[:, None]
    assert np.linalg.svd(exact.T @ mine)[1].min() > 0.99


def test_basis_is_the_same_twice_and_survives_the_disk(tmp_path: Path) -> None:
    there, _ = _two_worlds(50, linked=True)
    basis = _basis(there)
    assert _basis(there).basis == basis.basis
    assert ProfileBasis.load(tmp_path) is None
    basis.save(tmp_path)
    loaded = ProfileBasis.load(tmp_path)
    assert loaded is not None
    assert loaded.basis == basis.basis
    (tmp_path / BASIS_FILE).write_bytes(b"no archive")
    with pytest.raises(StoreError, match="damaged"):
        ProfileBasis.load(tmp_path)


def test_bridge_beats_popularity_for_people_it_has_not_seen() -> None:
    there, here = _two_worlds(400, linked=True)
    profiles = _basis(there).profiles(there)
    cold, known = np.arange(100), np.arange(100, 400)
    everybody = here.select_users(known)
    fitted = fit_bridge(profiles[known], everybody, everybody, np.random.default_rng(0))
    assert fitted.bridge is not None
    assert fitted.gain.lower > 0

    truth = here.select_users(cold)
    share = np.tile(everybody.item_counts().astype(np.float32), (len(cold), 1))
    popular = recall_at(share, truth.indptr, truth.indices, 20).mean()
    bridged = recall_at(fitted.bridge.scores(profiles[cold]), truth.indptr, truth.indices, 20).mean()
    assert bridged > 1.15 * popular


@pytest.mark.parametrize("holders", [0, 1, FEWEST_HOLDERS - 1, FEWEST_HOLDERS, 150])
def test_unlinked_profiles_leave_popularity(holders: int) -> None:
    there, here = _two_worlds(150, linked=False)
    some = np.arange(holders)
    profiles = _basis(there).profiles(there)[some]
    fitted = fit_bridge(profiles, here.select_users(some), here, np.random.default_rng(0))
    assert fitted.holders == holders
    assert fitted.bridge is None


def test_hostile_holder_cannot_break_the_bridge() -> None:
    there, here = _two_worlds(100, linked=True)
    profiles = _basis(there).profiles(there)
    profiles[0] = 1000.0
    fitted = fit_bridge(profiles, here, here, np.random.default_rng(0))
    assert fitted.bridge is None or np.isfinite(fitted.bridge.weights).all()


def test_recall_counts_truth_beyond_the_columns() -> None:
    scores = np.array([[3, 2, 1], [1, 2, 3]], dtype=np.float32)
    found = recall_at(scores, np.array([0, 1, 2]), np.array([0, 0]), 2, lengths=np.array([2, 1]))
    assert found.tolist() == [0.5, 0.0]


def test_tastes_are_over_genres_and_decades() -> None:
    items = ItemDescriptions(
        keys=("a", "b", "c", "d"),
        titles=("A (1994)", "B (1999)", "C (2004)", "D"),
        genres=(("Drama",), ("drama", "War"), ("Comedy",), ()),
    )
    space = AttributeSpace(items)
    tastes = space.tastes(np.array([0, 1]))
    assert tastes is not None
    weights = dict(tastes.weights)
    assert weights["genre:drama"] == 0.5
    assert weights["genre:comedy"] == -0.25
    assert weights["year:1990"] == 0.5
    assert [name for name, _ in tastes.weights] == sorted(weights)
    assert space.tastes(np.array([3])) is None
    assert space.tastes(np.zeros(0, dtype=int)) is None
    assert np.argsort(-space.scores(tastes))[:2].tolist() in ([0, 1], [1, 0])
    assert not space.scores(Tastes((("genre:opera", 1.0),))).any()


def test_tastes_are_over_any_attribute_that_has_names() -> None:
    kinds: dict[str, AttributeKind] = {"maker": "category", "price": "number", "blurb": "text", "cover": "vector"}
    told: list[dict[str, Value]] = [
        {"maker": "Le Guin", "price": 12.94, "blurb": "words", "cover": b"\x00\x3c"},
        {"maker": "le guin ", "price": 13.0},
        {"maker": "界" * 30},
        {},
    ]
    plain = ItemDescriptions(keys=tuple("abcd"), titles=("",) * 4, genres=((),) * 4)
    space = AttributeSpace(replace(plain, further=Described.of_rows(kinds, told)))
    assert space.names == ("maker:le guin", "price~12.9", "price~13")
    tastes = space.tastes(np.array([0, 1]))
    assert tastes is not None
    assert dict(tastes.weights) == {"maker:le guin": 0.5, "price~12.9": 0.25, "price~13": 0.5}
    assert space.scores(tastes).argmin() in (2, 3)
    assert AttributeSpace(plain).names == ()


def test_tastes_with_long_names_leave_room_in_a_passport() -> None:
    makers = tuple(f"{n:03} {'m' * 54}" for n in range(200))
    kinds: dict[str, AttributeKind] = {"maker": "category"}
    items = ItemDescriptions(
        keys=makers,
        titles=("",) * 200,
        genres=((),) * 200,
        further=Described.of_rows(kinds, [{"maker": maker} for maker in makers]),
    )
    space = AttributeSpace(items)
    tastes = space.tastes(np.arange(5))
    assert tastes is not None
    assert 2000 < len(tastes.encoded()) <= 3074
    assert Contents.decoded(Contents(tastes=tastes).encoded()).tastes == tastes
    had = {f"maker:{maker}" for maker in makers[:5]} & set(space.names)
    assert had <= set(dict(tastes.weights))


def test_noise_is_what_epsilon_asks_for() -> None:
    profile = np.zeros(5_000, dtype=np.float32)
    profile[0] = 1.0
    sigma = noise_deviation(8.0)
    noisy = noised(profile, 8.0)
    assert 0.97 * sigma < noisy[1:].std() < 1.05 * sigma
    assert not np.array_equal(noisy, noised(profile, 8.0))
    # Against the classical bound, which is only good up to ε = 1 and never below the exact one there.
    assert noise_deviation(1.0) <= 2.0 * np.sqrt(2 * np.log(1.25 / 1e-6))
    assert noise_deviation(32.0) < sigma
