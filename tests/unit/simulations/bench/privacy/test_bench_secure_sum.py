"""The bench of the secure sum keeps to what the README says of it."""

from __future__ import annotations

from simulations.bench.privacy.secure_sum import bench_secure_sum


def test_errors_stay_below_a_step_and_bytes_below_1_3_of_float32() -> None:
    for missing in (0, 3):
        figures = bench_secure_sum(values=20_000, missing=missing)
        assert figures["survivors"] == 10 - missing
        assert 0 < figures["max_error_steps"] <= 10
        assert figures["bytes_ratio"] <= 1.3
