"""The bench of passports on two small platforms: its figures are those of people it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from simulations.bench import passport, passport_serving

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 users of four tastes, with 12 of 40 items on each of two platforms."""
    rng = np.random.default_rng(0)
    (tmp_path / "douban").mkdir()
    for name in ("music", "book"):
        rows = []
        for user in range(300):
            weights = np.where(np.arange(40) % 4 == user % 4, 6.0, 1.0)
            rows += [(user, item) for item in rng.choice(40, size=12, replace=False, p=weights / weights.sum())]
        table = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32}, orient="row")
        table.write_parquet(tmp_path / "douban" / f"{name}.parquet")
    return tmp_path


def test_bridge_helps_with_many_and_never_hurts_with_few(folder: Path) -> None:
    lines = passport.bench_bridge(folder, cold=100, draws={200: 1, 10: 1})
    found = {(line["pair"], line["holders"]): line["over popularity"] for line in lines}
    assert len(found) == 4
    for (_, holders), ratio in found.items():
        assert ratio > 1.05 if holders == 200 else ratio == 1.0


def test_attack_is_strong_without_noise_and_weak_with_it(folder: Path) -> None:
    for line in passport.bench_attack(folder, cold=100, epsilons=(None, 1.0)):
        if line["epsilon"] is None:
            assert line["precision"] > 1.2 * line["popularity"]
        else:
            assert line["precision"] < 1.2 * line["popularity"]


def test_noise_costs_what_the_bridge_brings(folder: Path) -> None:
    for line in passport.bench_epsilon(folder, cold=100, holders=200, epsilons=(None, 1.0)):
        assert (line["over popularity"] > 1.05) == (line["epsilon"] is None)


def test_latencies_are_of_calls_that_were_answered() -> None:
    figures = passport_serving.bench_passports(rate=40, seconds=0.25, items=120, users=60, holders=5)
    for call in ("issue", "redeem", "recommend", "recommend for passport"):
        assert figures[call]["failures"] == 0, figures
        assert 0 < figures[call]["p50_ms"] <= figures[call]["p99_ms"]
