"""Histories guessed from passports: a profile without noise tells much, one with noise no more than popularity."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from simulations.audit import passport
from simulations.audit.passport import Attack, Guessed, passport_test, precision_of
from simulations.audit.tables import passport_table
from tests.support import matrix

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def histories():  # type: ignore[no-untyped-def]
    """Users of two tastes, each with eight of 24 items, 9 in 10 of their own taste."""
    rng, rows = np.random.default_rng(0), []
    for user in range(200):
        weights = np.where(np.arange(24) % 2 == user % 2, 9.0, 1.0)
        rows.append(rng.choice(24, size=8, replace=False, p=weights / weights.sum()).tolist())
    return matrix(rows, 24)


def test_contents_that_are_the_history_give_it_away(histories) -> None:  # type: ignore[no-untyped-def]
    rows = np.arange(200)
    attack = Attack(histories, rows[:50], rows[50:])
    whole = attack.by("profile", histories.csr().toarray(), None)
    assert whole.precision == pytest.approx(0.8)  # eight of ten guesses can be right, and all are
    assert whole.recall == 1.0
    nothing = attack.by("profile", np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32), None)
    assert nothing.precision < attack.by_popularity().precision + 0.05
    taste = attack.by("tastes", np.eye(2, dtype=np.float32)[rows % 2], None)
    assert attack.by_popularity().precision < taste.precision < whole.precision


def test_precision_is_hits_over_ten(histories) -> None:  # type: ignore[no-untyped-def]
    scores = np.tile(-np.arange(24, dtype=np.float32), (200, 1))
    expected = [len(set(histories.row(row).tolist()) & set(range(10))) / 10 for row in range(200)]
    np.testing.assert_allclose(precision_of(scores, histories), expected)


class _Letters:
    """Counts six letters of a text."""

    name, digest, dimension, longest = "letters", "ab" * 32, 6, 100

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[1 + text.count(letter) for letter in "aeilrs"] for text in texts], dtype=np.float32)


def test_attack_names_every_kind_beside_popularity() -> None:
    report = passport_test(dimensions=(4, 8, 64), factors=(4, 8), epsilons=(1.0,), rounds=2, encoder=_Letters())
    found = {(one.kind, one.numbers, one.epsilon): one for one in report.guessed}
    assert list(found) == [
        ("factor", 4, None), ("factor", 8, None), ("tastes", 81, None), ("texts", 6, None), ("profile", 4, None),
        ("profile", 8, None), ("profile", 64, None), ("profile", 64, 1.0),
    ]  # fmt: skip
    popular = report.popularity.precision
    assert found["profile", 64, None].precision > 1.3 * popular
    assert found["profile", 64, 1.0].precision < 1.1 * popular
    console = Console(width=120, record=True)
    console.print(passport_table(report))
    shown = console.export_text()
    assert "popularity" in shown
    assert f"{popular:.3f}" in shown


def test_table_shows_noise_and_its_absence() -> None:
    one = Guessed(kind="profile", numbers=16, epsilon=None, precision=0.5, recall=0.25)
    report = passport.PassportReport(attacked=2, known=8, popularity=one, guessed=(one,))
    assert passport_table(report).row_count == 2
