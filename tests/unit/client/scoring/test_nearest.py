"""Scores by nearest texts against the sum written out."""

from __future__ import annotations

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.scoring.described.nearest import fit_nearest
from common.errors import ContractError


def unit(n: int, d: int, seed: int) -> np.ndarray:
    raw = np.random.default_rng(seed).normal(size=(n, d))
    raw[::5] = 0  # no text
    return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9)


def histories(n: int, h: int) -> UserItemMatrix:
    rng = np.random.default_rng(3)
    users, items = np.nonzero(rng.random((n, h)) < 0.2)
    return UserItemMatrix.from_entries(
        users, items, rng.random(len(users)) * 5, rng.integers(0, 9, len(users)), n_users=n, n_items=h
    )


def written_out(has: UserItemMatrix, user: int, own: np.ndarray, items: np.ndarray, kept: int) -> np.ndarray:
    total = np.zeros(len(items))
    for i in has.row(user):
        near = np.array([max(float(own[i] @ item), 0.0) ** 3 for item in items])
        least = np.sort(near)[-kept] if kept < len(near) else 0.0
        total += np.where(near >= least, near, 0.0)
    return np.log(1 + total)


@pytest.mark.parametrize("kept", [1, 4, 30, 500])
def test_scores_are_the_sum_over_the_history(kept: int) -> None:
    own, items, has = unit(40, 6, 1), unit(30, 6, 2), histories(9, 40)
    users = np.array([3, 0, 8])
    scores = fit_nearest(own, items, neighbours=kept).scores(has, users)
    expected = [written_out(has, int(user), own, items, kept) for user in users]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores.dtype == np.float32


def test_nobody_without_history_or_texts_gets_a_score() -> None:
    has = histories(4, 40)
    nobody = has.select_entries(np.zeros(has.nnz, dtype=bool))
    assert not fit_nearest(unit(40, 6, 1), unit(30, 6, 2)).scores(nobody, np.arange(4)).any()
    assert not fit_nearest(np.zeros((40, 6)), unit(30, 6, 2)).scores(has, np.arange(4)).any()


@pytest.mark.parametrize(("h", "m"), [(40, 0), (0, 30)])
def test_no_items_and_no_columns_are_no_error(h: int, m: int) -> None:
    has = histories(4, 40).select_items(np.arange(h))
    scores = fit_nearest(unit(40, 6, 1)[:h], unit(30, 6, 2)[:m]).scores(has, np.arange(4))
    assert scores.shape == (4, m)


def test_histories_in_other_columns_are_refused() -> None:
    with pytest.raises(ContractError, match="41 columns"):
        fit_nearest(unit(40, 6, 1), unit(30, 6, 2)).scores(histories(4, 41), np.arange(4))
    with pytest.raises(ContractError, match="6 and of 5"):
        fit_nearest(unit(40, 6, 1), unit(30, 5, 2))
