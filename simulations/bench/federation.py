"""The federation itself: equal to pooled training, at what overhead, and with how many platforms."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from common.config.federation import FederationPlan
from common.contributions.run_plan import read_plan
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.checkpoint import CheckpointStore
from server.federation.exchange import SilentObserver
from server.federation.state import FederationState, RoundRecord
from server.strategy import FederatedFactorization
from simulations.bench.als import load_ml1m
from simulations.engine.datasets import SimulatedPlatform, undescribed_items, untested_platform
from simulations.engine.federate import inline_grid, make_agents, platforms_ahead, simulation_secret
from simulations.evaluation.pooled import PlatformMatrix, train_pooled
from simulations.scenarios.scenario import Scenario

Figures = dict[str, Any]


def equals_pooled(*, rounds: int = 5, sizes: Sequence[int] = (1, 3, 10), seed: int = 0) -> Figures:
    """Largest relative difference of item factors between the federation and training with all data in one place.

    Users are spread unevenly (platform k has a share ∝ 1/k), and each platform has two thirds of the items.
    """
    found = {}
    for platforms in sizes:
        parts = synthetic_platforms(platforms, users=600, items=300, per_user=20, seed=seed)
        plan = _plan(rounds=rounds, dimension=16)
        federated = _federate(parts, plan)
        pooled = train_pooled(_pool(parts), plan, simulation_secret(0))
        gap = np.linalg.norm(federated.item_parameters - pooled.item_parameters)
        found[f"P = {platforms}"] = float(gap / np.linalg.norm(pooled.item_parameters))
    return found


def overhead(data: Path, *, platforms: int = 4, rounds: int = 5, repeats: int = 3) -> Figures:
    """Seconds of an inline federation's rounds over those of pooled training with the same iterations, in turn.

    MovieLens-1M's users over the platforms, d = 64; ledgers, journals and checkpoints are written as in earnest. Once with one
    catalogue for all, and once with two thirds of it for each: then the last round solves every platform's items without it.
    """
    return {
        "one catalogue": _overhead(data, platforms=platforms, rounds=rounds, repeats=repeats, share=1.0),
        "two thirds each": _overhead(data, platforms=platforms, rounds=rounds, repeats=repeats, share=2 / 3),
    }


def _overhead(data: Path, *, platforms: int, rounds: int, repeats: int, share: float) -> Figures:
    parts = _parts_of_ml1m(data, platforms, share)
    plan = _plan(rounds=rounds, dimension=64)
    found: dict[str, list[float]] = {"wall": [], "cores": [], "pooled": [], "rounds": []}
    for _ in range(repeats + 1):
        before = time.perf_counter(), time.process_time()
        train_pooled(_pool(parts), plan, simulation_secret(0))
        pooled = time.perf_counter() - before[0], time.process_time() - before[1]
        clock = _RoundClock(time.process_time)
        rounds_of = _federate(parts, plan, clock).history
        wall = sum(record.seconds for record in rounds_of)
        found["wall"].append(wall / pooled[0])
        found["cores"].append(sum(clock.taken) / pooled[1])
        found["pooled"].append(pooled[0])
        found["rounds"].append(wall)
    # The first pair warms caches and compiled kernels up.
    return {
        "federation / pooled": float(np.median(found["wall"][1:])),
        "pairs": [round(ratio, 3) for ratio in found["wall"][1:]],
        "the same in seconds of a core": float(np.median(found["cores"][1:])),
        "seconds of pooled training, of the rounds": [
            float(np.median(found[name][1:])) for name in ("pooled", "rounds")
        ],
    }


def _parts_of_ml1m(data: Path, platforms: int, share: float) -> list[SimulatedPlatform]:
    """MovieLens-1M's users dealt out; each platform has ``share`` of the items."""
    matrix, rng = load_ml1m(data), np.random.default_rng(0)
    rows = np.array_split(rng.permutation(matrix.n_users), platforms)
    parts = []
    for index, part in enumerate(rows):
        items = np.sort(rng.choice(matrix.n_items, round(share * matrix.n_items), replace=False))
        keys = tuple(f"ml1m:{item}" for item in items)
        users = matrix.select_users(np.sort(part)).select_items(items)
        parts.append(untested_platform(f"p{index:02d}", users, undescribed_items(keys), "synthetic"))
    return parts


def many_platforms(*, platforms: int = 1000, rounds: int = 3) -> Figures:
    """Seconds a round beyond the platforms' own work, and peak memory, with platforms that answer ready statistics.

    A courier's decoding and encoding is the platform's work: in a deployment it runs there.
    """
    items, row = 2000, 16
    plan = _plan(rounds=rounds, dimension=row).model_copy(update={"platforms": platforms, "tolerance": 0.0})
    secret = simulation_secret(0)
    keys = [f"bench:{item}" for item in range(items)]
    digests = secret.digests(keys)
    agents = [_Ready(f"p{index:04d}", digests, row, secret.fingerprint, index) for index in range(platforms)]
    grid = inline_grid(agents)
    with tempfile.TemporaryDirectory(prefix="crossfed-bench-") as folder:
        clock = _RoundClock(lambda: grid.platform_seconds)
        strategy = FederatedFactorization(plan, CheckpointStore(Path(folder)), run_id="bench", observer=clock)
        strategy.train(grid)
    seconds = float(np.mean([record.seconds for record in strategy.state.history]))
    own = float(np.mean(clock.taken))
    return {
        "platforms": platforms,
        "seconds a round": seconds,
        "seconds a round beyond the platforms' work": seconds - own,
        "items a platform": 200,
        "peak memory GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


class _RoundClock(SilentObserver):
    """Notes how far a clock goes in each round, from the counts' answers on.

    Args:
        read: the clock, in seconds.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.taken: list[float] = []
        self._read = read
        self._before = 0.0

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if kind == "counts":
            self._before = self._read()

    def on_round(self, record: RoundRecord) -> None:
        now = self._read()
        self.taken.append(now - self._before)
        self._before = now


class _Ready:
    """A platform whose statistics are there already: 200 of the items."""

    def __init__(self, name: str, digests: NDArray[np.uint8], row: int, fingerprint: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.name = name
        self._fingerprint = fingerprint
        self._digests = digests[np.sort(rng.choice(len(digests), 200, replace=False))]
        self._row = row
        self._rng = rng

    def exchange(self, request: AgentRequest) -> AgentReply:
        arrays = self._arrays(request.kind)
        config = {"secret_fingerprint": self._fingerprint} if request.kind == "join" else {}
        return AgentReply(
            platform=self.name, kind=request.kind, server_round=request.server_round, config=config, arrays=arrays
        )

    def _arrays(self, kind: str) -> dict[str, NDArray[Any]]:
        m, row = len(self._digests), self._row
        if kind == "join":
            return {
                "digests": self._digests,
                "cards": np.zeros(0, dtype=np.uint8),
                "card_offsets": np.zeros(m + 1, dtype=np.int64),
                "feature_tokens": np.zeros(0, dtype=np.uint64),
                "feature_offsets": np.zeros(m + 1, dtype=np.int64),
                "identity": np.zeros(32, dtype=np.uint8),
            }
        if kind == "counts":
            return {"item_counts": np.ones(m), "totals": np.array([50.0, 500.0, 500.0])}
        if kind == "statistics":
            return {
                "gram": np.ones((m, row * (row + 1) // 2), dtype=np.float32) * 0.01,
                "rhs": self._rng.random((m, row), dtype=np.float32),
                "user_gram": np.eye(row),
                "objective": np.zeros(1),
                "evaluation": np.zeros(2),
            }
        return {}


def synthetic_platforms(platforms: int, *, users: int, items: int, per_user: int, seed: int) -> list[SimulatedPlatform]:
    """Platforms of uneven size whose users like items by Zipf's law; each has two thirds of the items."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, platforms + 1)
    counts = np.maximum(np.round(shares / shares.sum() * users), 2).astype(int)
    names = tuple(f"bench:{item}" for item in range(items))
    made = []
    for index, count in enumerate(counts):
        catalogue = np.sort(rng.choice(items, max(2, items * 2 // 3), replace=False))
        weights = 1 / (catalogue + 5.0)
        rows = [rng.choice(len(catalogue), per_user, replace=False, p=weights / weights.sum()) for _ in range(count)]
        entries = np.concatenate(rows)
        matrix = UserItemMatrix.from_entries(
            np.repeat(np.arange(count), per_user),
            entries,
            np.ones(len(entries)),
            np.arange(len(entries)),
            n_users=int(count),
            n_items=len(catalogue),
        )
        keys = tuple(names[item] for item in catalogue)
        made.append(untested_platform(f"p{index:02d}", matrix, undescribed_items(keys), "synthetic"))
    return made


def _plan(*, rounds: int, dimension: int) -> FederationPlan:
    return read_plan(
        {
            "federation": "bench",
            "rounds": rounds,
            "tolerance": 0.0,
            "evaluate_rounds": False,
            "model": {"dimension": dimension, "regularization": 1.0, "unobserved_weight": 0.5},
            "privacy": {"mode": "none"},
        }
    )


def _pool(parts: Sequence[SimulatedPlatform]) -> dict[str, PlatformMatrix]:
    return {part.name: PlatformMatrix.of(part.training) for part in parts}


def _federate(
    parts: Sequence[SimulatedPlatform], plan: FederationPlan, observer: SilentObserver | None = None
) -> FederationState:
    scenario = Scenario.model_construct(
        plan=plan, seed=0, personalization=Scenario.model_fields["personalization"].default
    )
    with tempfile.TemporaryDirectory(prefix="crossfed-bench-") as folder:
        agents = make_agents(parts, scenario, Path(folder) / "platforms", {})
        strategy = FederatedFactorization(
            plan, CheckpointStore(Path(folder) / "aggregator"), run_id="bench", observer=observer
        )
        with inline_grid(agents, ahead=platforms_ahead(scenario)) as grid:
            strategy.train(grid)
    return strategy.state
