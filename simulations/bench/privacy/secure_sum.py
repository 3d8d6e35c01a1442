"""Secure sum against the plain float32 sum: error, bytes and time, side by side."""

from __future__ import annotations

import time

import numpy as np

from common.privacy.secure_sum import RingBits, RingConfig, RoundSpec, finest_step, local_federation


def bench_secure_sum(
    *,
    platforms: int = 10,
    values: int = 1_000_000,
    dropouts: int = 3,
    missing: int = 0,
    bits: RingBits = 40,
    max_abs: float = 10.0,
    seed: int = 0,
) -> dict[str, float]:
    """One round of ``platforms`` × ``values`` uniform values in ±``max_abs``, of which ``missing`` platforms drop out.

    40 bits are what the plan of ten platforms with at most 100,000 users each takes at ε ≤ 3
    (:func:`common.contributions.masked_rounds.secure_rounds`); fewer users take 32, more take 48.

    Returns:
        Times in seconds, each for the whole federation on one thread unless ``_per_platform``; ``max_error`` of the
        decoded sum against the float64 sum, also in grid steps; ``bytes_ratio`` of one masked message, header included,
        to the same vector in float32.
    """
    rng = np.random.default_rng(seed)
    names = [f"platform-{index:03d}" for index in range(platforms)]
    vectors = {name: rng.uniform(-max_abs, max_abs, values).astype(np.float32) for name in names}
    step = finest_step(bits, platforms, max_abs)
    spec = RoundSpec(label="bench", ring=RingConfig(bits=bits, max_abs_per_platform=int(max_abs / step)), noise_std=0.0)
    start = time.perf_counter()
    server, clients = local_federation(names, rounds=(spec,), dropouts=dropouts)
    times = {"enrol_s": time.perf_counter() - start}

    start = time.perf_counter()
    plain = np.zeros(values, dtype=np.float32)
    for vector in vectors.values():
        plain += vector
    times["plain_sum_s"] = time.perf_counter() - start

    start = time.perf_counter()
    units = {name: np.trunc(vector / step).astype(np.int64) for name, vector in vectors.items()}
    times["quantise_s"] = time.perf_counter() - start

    survivors = names[missing:]
    start = time.perf_counter()
    masked = {name: clients[name].mask(0, units[name], noise_std=0.0, context=bytes(32)) for name in survivors}
    times["mask_s"] = time.perf_counter() - start
    times["mask_per_platform_s"] = times["mask_s"] / len(survivors)

    start = time.perf_counter()
    current = server.open_round(0, values, bytes(32))
    for name, data in masked.items():
        current.add_masked(name, data)
    times["add_s"] = time.perf_counter() - start

    start = time.perf_counter()
    if dropouts:
        request = current.survivor_list()
        for name in survivors:
            current.add_survivor_reply(name, clients[name].answer_survivors(request))
        if missing:
            certificate = current.certificate()
            for name in survivors:
                current.add_survivor_reply(name, clients[name].answer_certificate(certificate))
    total = current.sum()
    times["unmask_s"] = time.perf_counter() - start

    exact = np.sum([vectors[name] for name in survivors], axis=0, dtype=np.float64)
    error = float(np.max(np.abs(total * step - exact)))
    return {
        **times,
        "platforms": platforms,
        "survivors": len(survivors),
        "values": values,
        "bits": bits,
        "step": step,
        "max_error": error,
        "max_error_steps": error / step,
        "bytes_ratio": len(masked[survivors[0]]) / (4 * values),
    }
