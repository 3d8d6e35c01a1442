"""Splits: complete, disjoint, and blind to the items that they hold out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.dataset import UserItemMatrix
from client.data.split import (
    Split,
    filter_by_training_counts,
    halve_per_user,
    hide_items,
    k_fold,
    leave_last_out,
    random_per_user,
    strong_generalisation,
)
from common.config.data import CleaningConfig
from common.errors import ConfigError, DataError

N_ITEMS = 40
Splitter = Callable[[UserItemMatrix, np.random.Generator], Split]

SPLITTERS: dict[str, Splitter] = {
    "random_per_user": lambda matrix, rng: random_per_user(matrix, rng=rng),
    "leave_last_out": lambda matrix, rng: leave_last_out(matrix, rng=rng),
    "strong_generalisation": lambda matrix, rng: strong_generalisation(
        matrix, rng=rng, validation_users=0.2, test_users=2
    ),
    "k_fold": lambda matrix, rng: next(k_fold(matrix, 3, rng)),
}
each_splitter = pytest.mark.parametrize("split", SPLITTERS.values(), ids=SPLITTERS)


def random_matrix(lengths: list[int], seed: int = 0) -> UserItemMatrix:
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(N_ITEMS)[:length] for length in lengths]).astype(np.int32)
    return UserItemMatrix(
        indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        indices=items,
        values=rng.random(len(items)).astype(np.float32),
        times=np.arange(len(items)),
        n_items=N_ITEMS,
    )


# Ten users who can be held out, so that every splitter has enough of them; more of any length beside.
matrices = st.builds(
    lambda lengths, seed: random_matrix([5, 2, 3, 9, 4, 2, 7, 30, 6, 8, *lengths], seed),
    st.lists(st.integers(0, 12), max_size=8),
    st.integers(0, 2**32 - 1),
)
seeds = st.integers(0, 2**32 - 1)


def entries(matrix: UserItemMatrix) -> list[tuple[int, int, float, int]]:
    return list(
        zip(
            matrix.entry_users().tolist(),
            matrix.indices.tolist(),
            matrix.values.tolist(),
            matrix.times.tolist(),
            strict=True,
        )
    )


def same(left: UserItemMatrix, right: UserItemMatrix) -> bool:
    return (
        left.n_items == right.n_items
        and left.indptr.tobytes() == right.indptr.tobytes()
        and left.indices.tobytes() == right.indices.tobytes()
        and left.values.tobytes() == right.values.tobytes()
        and left.times.tobytes() == right.times.tobytes()
    )


def relabel(matrix: UserItemMatrix, held_out: UserItemMatrix, seed: int) -> UserItemMatrix:
    """``matrix`` with the items of ``held_out`` replaced at random by others that the user has not."""
    rng = np.random.default_rng(seed)
    indices = matrix.indices.copy()
    for user in range(matrix.n_users):
        out = set(held_out.row(user).tolist())
        stay = set(matrix.row(user).tolist()) - out
        fresh = rng.permutation(sorted(set(range(N_ITEMS)) - stay))[: len(out)]
        start = matrix.indptr[user]
        places = [start + place for place, item in enumerate(matrix.row(user)) if int(item) in out]
        indices[places] = fresh
    return replace(matrix, indices=indices)


@each_splitter
@given(matrices, seeds)
def test_relabelling_test_items_changes_no_bit_of_training_data(
    split: Splitter, matrix: UserItemMatrix, seed: int
) -> None:
    before = split(matrix, np.random.default_rng(seed))
    changed = relabel(matrix, before.test.truth, seed)
    assert not same(changed, matrix)
    after = split(changed, np.random.default_rng(seed))
    assert same(after.train, before.train)
    assert same(after.test.history, before.test.history)
    assert same(after.validation.history, before.validation.history)
    assert same(after.validation.truth, before.validation.truth)
    assert after.test.users.tolist() == before.test.users.tolist()


@each_splitter
@given(matrices, seeds)
def test_relabelling_validation_items_changes_no_bit_of_training(
    split: Splitter, matrix: UserItemMatrix, seed: int
) -> None:
    before = split(matrix, np.random.default_rng(seed))
    after = split(relabel(matrix, before.validation.truth, seed), np.random.default_rng(seed))
    assert same(after.train, before.train)
    assert same(after.validation.history, before.validation.history)


@given(matrices, seeds)
def test_count_filters_do_not_see_what_is_held_out(matrix: UserItemMatrix, seed: int) -> None:
    cleaning = CleaningConfig(min_item_interactions=2, k_core=2)

    def split(data: UserItemMatrix) -> Split:
        return filter_by_training_counts(random_per_user(data, rng=np.random.default_rng(seed)), cleaning)

    unfiltered = random_per_user(matrix, rng=np.random.default_rng(seed))
    before, after = split(matrix), split(relabel(matrix, unfiltered.test.truth, seed))
    assert same(after.train, before.train)
    assert same(after.test.history, before.test.history)


@each_splitter
@given(matrices, seeds)
def test_parts_are_disjoint_and_history_never_holds_truth(split: Splitter, matrix: UserItemMatrix, seed: int) -> None:
    parts = split(matrix, np.random.default_rng(seed))
    train, validation, test = (set(entries(part)) for part in (parts.train, parts.validation.truth, parts.test.truth))
    assert not train & validation
    assert not train & test
    assert not validation & test
    for one in (parts.validation, parts.test):
        assert not set(entries(one.history)) & set(entries(one.truth))
        assert (one.history.n_users, one.history.n_items) == (matrix.n_users, matrix.n_items)
        assert one.truth.row_lengths[one.users].min(initial=1) >= 1
        assert one.history.row_lengths[one.users].min(initial=1) >= 1
        assert one.truth.nnz == one.truth.row_lengths[one.users].sum()
        assert one.users.dtype == np.int64
        assert (np.diff(one.users) > 0).all()


@each_splitter
@given(matrices, seeds)
def test_nothing_is_lost_and_rows_stay_in_order_of_time(split: Splitter, matrix: UserItemMatrix, seed: int) -> None:
    parts = split(matrix, np.random.default_rng(seed))
    all_parts = (
        *(parts.train, parts.validation.history, parts.validation.truth),
        *(parts.test.history, parts.test.truth),
    )
    union: set[tuple[int, int, float, int]] = set()
    for part in all_parts:
        union |= set(entries(part))
        assert all((np.diff(part.times[part.indptr[u] : part.indptr[u + 1]]) > 0).all() for u in range(part.n_users))
    assert union == set(entries(matrix))


@given(matrices, seeds)
def test_random_per_user_folds_test_users_in_on_all_that_is_not_test(matrix: UserItemMatrix, seed: int) -> None:
    parts = random_per_user(matrix, rng=np.random.default_rng(seed))
    assert set(entries(parts.test.history)) == set(entries(parts.train)) | set(entries(parts.validation.truth))
    assert same(parts.validation.history, parts.train)


def test_random_per_user_withholds_the_shares_asked_for() -> None:
    matrix = random_matrix([20] * 100 + [1] * 5 + [2] * 5 + [0])
    parts = random_per_user(
        matrix, rng=np.random.default_rng(1), test_share=0.2, validation_share=0.5, validation_users_share=0.4
    )
    assert parts.test.truth.row_lengths.tolist() == [4] * 100 + [0] * 5 + [1] * 5 + [0]
    assert set(parts.validation.truth.row_lengths[:100]) == {0, 8}
    assert 30 <= len(parts.validation.users) <= 44
    assert parts.train.row_lengths[100:105].tolist() == [1] * 5


def test_random_per_user_tests_every_entry_equally_often() -> None:
    matrix = random_matrix([10])
    rng = np.random.default_rng(3)
    often = sum(
        np.isin(matrix.indices, random_per_user(matrix, rng=rng).test.truth.indices).astype(int) for _ in range(2000)
    )
    # Binomial(2000, .2): the mean is 400, the standard deviation 17.9.
    assert (abs(often - 400) < 90).all()


def test_leave_last_out_takes_the_last_entry_and_the_one_before() -> None:
    matrix = random_matrix([4, 3, 2, 1, 0])
    parts = leave_last_out(matrix, rng=np.random.default_rng(0))
    assert [parts.test.truth.row(u).tolist() for u in range(5)] == [
        *(matrix.row(u)[-1:].tolist() for u in range(3)),
        *([], []),
    ]
    assert [parts.validation.truth.row(u).tolist() for u in range(5)] == [
        *(matrix.row(u)[-2:-1].tolist() for u in range(2)),
        *([], [], []),
    ]
    assert parts.train.row_lengths.tolist() == [2, 1, 1, 1, 0]
    assert parts.test.history.row_lengths.tolist() == [3, 2, 1, 1, 0]


def test_leave_last_out_validates_a_share_of_the_users() -> None:
    parts = leave_last_out(random_matrix([5] * 50), rng=np.random.default_rng(0), validation_users_share=0.2)
    assert (len(parts.validation.users), len(parts.test.users)) == (10, 50)


@given(matrices, seeds)
def test_strong_generalisation_keeps_users_apart(matrix: UserItemMatrix, seed: int) -> None:
    parts = strong_generalisation(matrix, rng=np.random.default_rng(seed), validation_users=3, test_users=4)
    validation, test = set(parts.validation.users.tolist()), set(parts.test.users.tolist())
    assert (len(validation), len(test)) == (3, 4)
    assert not validation & test
    held_out = validation | test
    assert parts.train.row_lengths[sorted(held_out)].sum() == 0
    for user in range(matrix.n_users):
        if user not in held_out:
            assert parts.train.row(user).tolist() == matrix.row(user).tolist()
    assert set(parts.test.history.entry_users().tolist()) == test


def test_strong_generalisation_folds_in_four_fifths() -> None:
    matrix = random_matrix([10] * 20)
    parts = strong_generalisation(matrix, rng=np.random.default_rng(0), validation_users=0.25, test_users=0.5)
    assert (len(parts.validation.users), len(parts.test.users)) == (5, 10)
    assert set(parts.test.history.row_lengths[parts.test.users]) == {8}
    assert set(parts.test.truth.row_lengths[parts.test.users]) == {2}


def test_strong_generalisation_says_that_there_are_too_few_users() -> None:
    with pytest.raises(DataError, match=r"cannot hold out 2 \+ 2 of 5 users: 3 have two interactions"):
        strong_generalisation(
            random_matrix([5, 5, 5, 1, 1]), rng=np.random.default_rng(0), validation_users=2, test_users=2
        )
    with pytest.raises(DataError, match="left to train on"):
        strong_generalisation(random_matrix([5, 5]), rng=np.random.default_rng(0), validation_users=1, test_users=1)


@given(matrices, seeds, st.integers(2, 6))
def test_k_fold_tests_each_entry_exactly_once(matrix: UserItemMatrix, seed: int, folds: int) -> None:
    tested = [
        entry for split in k_fold(matrix, folds, np.random.default_rng(seed)) for entry in entries(split.test.truth)
    ]
    expected = [entry for entry in entries(matrix) if matrix.row_lengths[entry[0]] >= 2]
    assert sorted(tested) == sorted(expected)


def test_k_fold_spreads_short_histories_over_the_folds() -> None:
    sizes = [len(split.test.users) for split in k_fold(random_matrix([2] * 300), 5, np.random.default_rng(0))]
    # Each of 300 users is in 2 of 5 folds: 120 expected, standard deviation 8.5.
    assert all(80 < size < 160 for size in sizes)


@given(matrices, st.lists(st.integers(0, N_ITEMS - 1), max_size=10))
def test_hiding_items_divides_the_entries(matrix: UserItemMatrix, items: list[int]) -> None:
    visible, hidden = hide_items(matrix, np.array(items, dtype=np.int64))
    assert set(hidden.indices.tolist()) <= set(items)
    assert not set(visible.indices.tolist()) & set(items)
    assert sorted(entries(visible) + entries(hidden)) == sorted(entries(matrix))


@given(matrices, seeds)
def test_halves_are_disjoint_and_equal_within_one(matrix: UserItemMatrix, seed: int) -> None:
    first, second = halve_per_user(matrix, np.random.default_rng(seed))
    assert sorted(entries(first) + entries(second)) == sorted(entries(matrix))
    assert abs(first.row_lengths - second.row_lengths).max(initial=0) <= 1


def test_neither_half_is_always_the_larger() -> None:
    first, second = halve_per_user(random_matrix([3] * 100), np.random.default_rng(0))
    assert 20 < (first.row_lengths > second.row_lengths).sum() < 80


def test_the_same_generator_gives_the_same_split() -> None:
    matrix = random_matrix([8] * 30)
    for split in SPLITTERS.values():
        left, right, other = (split(matrix, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert same(left.train, right.train)
        assert split is SPLITTERS["leave_last_out"] or not same(left.train, other.train)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused_by_name(share: float) -> None:
    matrix, rng = random_matrix([5] * 5), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="test_share"):
        random_per_user(matrix, rng=rng, test_share=share)
    with pytest.raises(ConfigError, match="fold_in_share"):
        strong_generalisation(matrix, rng=rng, validation_users=1, test_users=1, fold_in_share=share)
    with pytest.raises(ConfigError, match="folds"):
        k_fold(matrix, 1, rng)


def test_training_filters_measure_on_the_items_that_stay_only() -> None:
    lengths = [6] * 30
    split = random_per_user(random_matrix(lengths, seed=4), rng=np.random.default_rng(0))
    filtered = filter_by_training_counts(split, CleaningConfig(min_item_interactions=3))
    rare = np.flatnonzero(split.train.item_counts() < 3)
    assert len(rare) > 0
    assert filtered.train.item_counts()[rare].sum() == 0
    assert filtered.test.truth.item_counts()[rare].sum() == 0
    assert filtered.test.history.item_counts()[rare].sum() == 0
    assert filtered.train.item_counts()[split.train.item_counts() >= 3].min() >= 3


def test_one_user_and_one_item_can_be_split() -> None:
    one_user, one_item = random_matrix([4]), replace(random_matrix([1, 1, 1]), indices=np.zeros(3, np.int32), n_items=1)
    assert len(random_per_user(one_user, rng=np.random.default_rng(0)).test.users) == 1
    assert random_per_user(one_item, rng=np.random.default_rng(0)).train.nnz == 3
