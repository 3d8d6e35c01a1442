"""Splits for training, choosing and measuring. None of them knows the future.

Guarantees: which entries are held out depends on the lengths of the rows, the order within them and the generator,
never on which items they are. So with the held-out items relabelled, training and history are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.filters import fit_count_filters
from common.config.data import CleaningConfig
from common.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class EvaluationSlice:
    """Holds what a measurement is made on.

    Attributes:
        users: int64 ``[k]``, ascending: the rows that are measured.
        history: n × m; what may be known of a user when recommending.
        truth: n × m; what was held out. Empty rows for users who are not in ``users``.
    """

    users: NDArray[np.int64]
    history: UserItemMatrix
    truth: UserItemMatrix

    @property
    def comes_later(self) -> bool:
        """Whether, of each measured user, nothing that was held out is older than anything in the history."""
        of_users = np.isin(self.history.entry_users(), self.users)
        newest = np.full(self.history.n_users, np.iinfo(np.int64).min)
        np.maximum.at(newest, self.history.entry_users()[of_users], self.history.times[of_users])
        return bool((self.truth.times >= newest[self.truth.entry_users()]).all())


@dataclass(frozen=True, eq=False)
class Split:
    """Disjoint parts of one n × m matrix.

    Attributes:
        train: n × m; what models are trained on. Users who are held out have empty rows.
        validation: for choices: tuning, early stop, verdict.
        test: for measuring, after all choices are made.
    """

    train: UserItemMatrix
    validation: EvaluationSlice
    test: EvaluationSlice


def random_per_user(
    matrix: UserItemMatrix,
    *,
    rng: np.random.Generator,
    test_share: float = 0.2,
    validation_share: float | None = None,
    validation_users_share: float = 0.3,
) -> Split:
    """Withhold a random share of every user's entries for test, and of what remains of some users for validation.

    At least one entry is withheld of each user who has two, and at least one is left to every user.

    Args:
        matrix: all entries.
        rng: decides.
        test_share: of each user's entries, in (0, 1).
        validation_share: of what remains of the validation users' entries; None: as ``test_share``.
        validation_users_share: the part of the users who take part in validation, in [0, 1].

    Raises:
        ConfigError: a share is out of range.
    """
    validation_share = test_share if validation_share is None else validation_share
    _check_share("test_share", test_share)
    _check_share("validation_share", validation_share)
    test_counts = _held_out_counts(matrix.row_lengths, test_share)
    rank = _random_ranks(matrix, rng)
    validation_counts = _validation_counts(
        matrix.row_lengths - test_counts, validation_share, validation_users_share, rng
    )
    users = matrix.entry_users()
    in_test = rank < test_counts[users]
    in_validation = ~in_test & (rank < (test_counts + validation_counts)[users])
    return _folded_in(matrix, in_validation, in_test)


def leave_last_out(matrix: UserItemMatrix, *, rng: np.random.Generator, validation_users_share: float = 1.0) -> Split:
    """Test on each user's last entry, validate on the one before it.

    A user needs two entries to be tested and three to take part in validation.

    Args:
        matrix: all entries, in order of time within each row.
        rng: chooses the validation users where ``validation_users_share`` is below 1.
        validation_users_share: the part of the users who take part in validation, in [0, 1].

    Raises:
        ConfigError: the share is out of range.
    """
    lengths = matrix.row_lengths
    users = matrix.entry_users()
    from_end = matrix.entries_after()
    validated = (lengths >= 3) & _choose_users(matrix.n_users, validation_users_share, rng)
    in_test = (from_end == 0) & (lengths >= 2)[users]
    in_validation = (from_end == 1) & validated[users]
    return _folded_in(matrix, in_validation, in_test)


def strong_generalisation(
    matrix: UserItemMatrix,
    *,
    rng: np.random.Generator,
    validation_users: int | float,
    test_users: int | float,
    fold_in_share: float = 0.8,
) -> Split:
    """Train on some users; fold in and measure others (Liang et al. 2018, section 4.1; Marlin 2004).

    Args:
        matrix: all entries.
        rng: decides.
        validation_users: how many (int) or which part of all users (float in [0, 1]) to validate on.
        test_users: the same, to test on. Only users with two entries or more are chosen.
        fold_in_share: the part of a held-out user's entries that becomes history; the rest is truth, one at least.

    Raises:
        ConfigError: a share is out of range.
        DataError: fewer users have two entries than are to be held out, or none would be left to train on.
    """
    _check_share("fold_in_share", fold_in_share)
    n_validation = _user_count("validation_users", validation_users, matrix.n_users)
    n_test = _user_count("test_users", test_users, matrix.n_users)
    eligible = rng.permutation(np.flatnonzero(matrix.row_lengths >= 2))
    if n_validation + n_test > len(eligible) or n_validation + n_test >= matrix.n_users:
        raise DataError(
            f"strong generalisation cannot hold out {n_validation} + {n_test} of {matrix.n_users} users: "
            f"{len(eligible)} have two interactions or more, and one must be left to train on; ask for fewer"
        )
    rank = _random_ranks(matrix, rng)
    users = matrix.entry_users()
    is_truth = rank < _held_out_counts(matrix.row_lengths, 1 - fold_in_share)[users]
    validation = np.sort(eligible[:n_validation])
    test = np.sort(eligible[n_validation : n_validation + n_test])
    held_out = np.zeros(matrix.n_users, dtype=bool)
    held_out[validation] = held_out[test] = True
    return Split(
        train=matrix.select_entries(~held_out[users]),
        validation=_slice_of_users(matrix, validation, is_truth),
        test=_slice_of_users(matrix, test, is_truth),
    )


def k_fold(
    matrix: UserItemMatrix, folds: int, rng: np.random.Generator, *, validation_users_share: float = 0.3
) -> Iterator[Split]:
    """Random cross-validation per user: each entry of a user with two or more is tested exactly once.

    Args:
        matrix: all entries.
        folds: how many splits; each tests about 1/folds of every user's entries.
        rng: decides.
        validation_users_share: the part of the users of whom, in each fold, 1/folds of the rest is for validation.

    Raises:
        ConfigError: fewer than two folds, or a share out of range.
    """
    if folds < 2:
        raise ConfigError(f"split folds: cross-validation needs at least 2 (got {folds})")
    lengths = matrix.row_lengths
    users = matrix.entry_users()
    # A random first fold for each user, so that short histories do not all fall into the first folds.
    fold = (_random_ranks(matrix, rng) + rng.integers(folds, size=matrix.n_users)[users]) % folds
    fold[(lengths < 2)[users]] = folds
    validation_rank = rng.random(matrix.nnz)
    validated = _choose_users(matrix.n_users, validation_users_share, rng)

    def split(number: int) -> Split:
        in_test = fold == number
        rest = matrix.select_entries(~in_test)
        counts = np.where(validated, _held_out_counts(rest.row_lengths, 1 / folds), 0)
        in_validation = np.zeros(matrix.nnz, dtype=bool)
        in_validation[~in_test] = _ranks(rest, validation_rank[~in_test]) < counts[rest.entry_users()]
        return _folded_in(matrix, in_validation, in_test)

    return (split(number) for number in range(folds))


def hide_items(matrix: UserItemMatrix, items: NDArray[np.integer]) -> tuple[UserItemMatrix, UserItemMatrix]:
    """Divide the entries into those of other items (visible) and those of ``items`` (hidden); both stay n × m."""
    is_hidden = np.zeros(matrix.n_items, dtype=bool)
    is_hidden[items] = True
    hidden = is_hidden[matrix.indices]
    return matrix.select_entries(~hidden), matrix.select_entries(hidden)


def halve_per_user(matrix: UserItemMatrix, rng: np.random.Generator) -> tuple[UserItemMatrix, UserItemMatrix]:
    """Two random halves of each user's entries; of an odd number, chance says which half gets one more."""
    first_counts = (matrix.row_lengths + rng.integers(2, size=matrix.n_users)) // 2
    in_first = _random_ranks(matrix, rng) < first_counts[matrix.entry_users()]
    return matrix.select_entries(in_first), matrix.select_entries(~in_first)


def filter_by_training_counts(split: Split, cleaning: CleaningConfig) -> Split:
    """Apply ``min_item_interactions`` and ``k_core``, fitted on ``split.train`` alone.

    Items that fall out lose their entries everywhere. Users who fall out are not trained on, and are still measured on
    what they have. A user who keeps no history or no truth leaves the slice.
    """
    train = split.train
    items = np.ones(train.n_items, dtype=bool)
    for one in fit_count_filters(train, cleaning):
        train = train.select_entries(one.entries(train))
        items &= one.items

    def filtered(slice_: EvaluationSlice) -> EvaluationSlice:
        history, truth = (part.select_entries(items[part.indices]) for part in (slice_.history, slice_.truth))
        users = slice_.users[(history.row_lengths[slice_.users] > 0) & (truth.row_lengths[slice_.users] > 0)]
        measured = np.zeros(truth.n_users, dtype=bool)
        measured[users] = True
        return EvaluationSlice(users, history, truth.select_entries(measured[truth.entry_users()]))

    return Split(train, filtered(split.validation), filtered(split.test))


def _folded_in(matrix: UserItemMatrix, in_validation: NDArray[np.bool_], in_test: NDArray[np.bool_]) -> Split:
    """Train on what is in neither; at test time a user's history is all that is not test."""
    train = matrix.select_entries(~(in_validation | in_test))
    validation_truth, test_truth = matrix.select_entries(in_validation), matrix.select_entries(in_test)
    return Split(
        train=train,
        validation=EvaluationSlice(np.flatnonzero(validation_truth.row_lengths), train, validation_truth),
        test=EvaluationSlice(np.flatnonzero(test_truth.row_lengths), matrix.select_entries(~in_test), test_truth),
    )


def _slice_of_users(matrix: UserItemMatrix, users: NDArray[np.int64], is_truth: NDArray[np.bool_]) -> EvaluationSlice:
    chosen = np.zeros(matrix.n_users, dtype=bool)
    chosen[users] = True
    of_chosen = chosen[matrix.entry_users()]
    return EvaluationSlice(
        users, matrix.select_entries(of_chosen & ~is_truth), matrix.select_entries(of_chosen & is_truth)
    )


def _random_ranks(matrix: UserItemMatrix, rng: np.random.Generator) -> NDArray[np.int64]:
    """Each entry's place, from 0, in a random order of its row: int64 ``[nnz]``."""
    return _ranks(matrix, rng.random(matrix.nnz))


def _ranks(matrix: UserItemMatrix, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each entry's place, from 0, in its row in order of ``scores``: int64 ``[nnz]``."""
    order = np.lexsort((scores, matrix.entry_users()))
    ranks = np.empty(matrix.nnz, dtype=np.int64)
    ranks[order] = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], matrix.row_lengths)
    return ranks


def _held_out_counts(lengths: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The nearest count to ``share`` of each length, within [1, length − 1]; 0 where there are fewer than two."""
    counts = np.clip(np.floor(lengths * share + 0.5).astype(np.int64), 1, np.maximum(lengths - 1, 1))
    return np.where(lengths >= 2, counts, 0)


def _validation_counts(
    remaining: NDArray[np.int64], share: float, users_share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    return np.where(_choose_users(len(remaining), users_share, rng), _held_out_counts(remaining, share), 0)


def _choose_users(n_users: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    if not 0 <= share <= 1:
        raise ConfigError(f"split validation_users_share: must lie between 0 and 1 (got {share})")
    chosen = np.zeros(n_users, dtype=bool)
    chosen[rng.permutation(n_users)[: round(share * n_users)]] = True
    return chosen


def _user_count(name: str, wanted: int | float, n_users: int) -> int:
    if isinstance(wanted, float):
        if not 0 <= wanted <= 1:
            raise ConfigError(f"split {name}: a share must lie between 0 and 1 (got {wanted})")
        return round(wanted * n_users)
    if wanted < 0:
        raise ConfigError(f"split {name}: must not be negative (got {wanted})")
    return wanted


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"split {name}: must lie between 0 and 1 (got {share})")
