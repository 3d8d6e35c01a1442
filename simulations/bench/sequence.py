"""ML-1M, leave-last-out by order, full ranking: a Transformer over histories, pooled. Tuned on the item before the last.

python -m simulations.bench.sequence FOLDER [--test]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, Split, leave_last_out
from client.scoring.evaluation import evaluate
from common.catalogue import FederationSecret
from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.config.platform import PersonalizationConfig
from common.config.privacy import PrivacyConfig
from common.config.towers import SequenceConfig, TowerConfig, TowerPrivacy, TowerTraining
from server.federation.checkpoint import CheckpointStore
from server.federation.exchange import SilentObserver
from server.federation.state import RoundRecord
from server.strategy import FederatedFactorization
from simulations.bench.als import load_ml1m
from simulations.engine.datasets import undescribed_items, untested_platform
from simulations.engine.federate import inline_grid, make_agents, simulation_secret
from simulations.scenarios.noise import with_noise
from simulations.scenarios.scenario import Scenario

Report = Callable[[dict[str, float]], None]
METRICS = ("hr@10", "ndcg@10")
SEQUENCE = TowerConfig(
    dimension=64,
    sequence=SequenceConfig(kind="transformer", length=50, blocks=2, heads=2, dropout=0.2),
    training=TowerTraining(batch_users=128, learning_rate=1e-3, negatives=0, local_epochs=1.0, rounds=60),
)
FEDERATED = SEQUENCE.model_copy(
    # A quarter of the users a platform: smaller batches and two passes a round make up for averaging.
    update={"training": SEQUENCE.training.model_copy(update={"batch_users": 32, "local_epochs": 2.0})}
)
PRIVATE = SEQUENCE.model_copy(
    update={
        "sequence": SequenceConfig(kind="mean", length=50),
        "training": TowerTraining(rounds=100, negatives=100, aggregation="fedadam", server_learning_rate=0.01),
        "privacy": TowerPrivacy(share=0.9, sampling_rate=0.2, clip_norm=0.5),
    }
)


def pooled(
    matrix: UserItemMatrix,
    config: TowerConfig = SEQUENCE,
    *,
    seed: int = 0,
    look_every: int = 5,
    patience: int = 4,
    budget_s: float = 900.0,
    test: bool = True,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train until validation NDCG@10 has not risen for ``patience`` looks, or the time is over; test the best.

    Training sees neither of the two last items. The test history has the validation item, as everyone's (Kang & McAuley
    2018); the model is not trained on it.
    """
    from client.towers.features import ItemFeatures
    from client.towers.local_training import LocalTrainer
    from client.towers.scorer import TowerScorer
    from client.towers.two_tower import TwoTower

    split = leave_last_out(matrix, rng=np.random.default_rng(seed))
    rows = np.arange(matrix.n_items, dtype=np.int32)
    model = TwoTower(
        config, ItemFeatures(matrix.n_items, ()), n_shared=matrix.n_items, n_users=matrix.n_users, seed=seed
    )
    trainer = LocalTrainer(model, split.train, rows, config.training, np.random.default_rng(seed))
    best, best_values, looks, curve = -1.0, model.values(), 0, []
    started = time.perf_counter()
    for epoch in range(1, config.training.rounds + 1):
        result = trainer.train()
        if epoch % look_every:
            continue
        measured = _measure(TowerScorer(model, rows), split.validation)
        curve.append({"epoch": epoch, "seconds": time.perf_counter() - started, "loss": result.loss, **measured})
        if report is not None:
            report(curve[-1])
        looks = 0 if measured["ndcg@10"] > best else looks + 1
        if looks == 0:
            best, best_values = measured["ndcg@10"], model.values()
        if looks >= patience or time.perf_counter() - started > budget_s:
            break
    model.load(best_values)
    figures = {"validation_ndcg@10": best, "seconds": time.perf_counter() - started, "curve": curve}
    if test:
        figures["test"] = _measure(TowerScorer(model, rows), split.test)
    return figures


def federated(
    matrix: UserItemMatrix,
    config: TowerConfig = FEDERATED,
    *,
    platforms: int = 4,
    privacy: Mapping[str, Any] | None = None,
    seed: int = 0,
    look_every: int = 10,
    budget_s: float = 1800.0,
    test: bool = True,
    report: Report | None = None,
) -> dict[str, Any]:
    """The same, with the users spread at random over platforms that share every item, through agents and strategy.

    The round is chosen on validation, as in :func:`pooled`; under ``privacy`` it is the last one, as the plan says.
    """
    split = leave_last_out(matrix, rng=np.random.default_rng(seed))
    keys = tuple(f"movielens:{item}" for item in range(matrix.n_items))
    members = np.array_split(np.random.default_rng(seed).permutation(matrix.n_users), platforms)
    names = [f"p{number}" for number in range(platforms)]
    parts = [
        untested_platform(name, split.train.select_users(np.sort(users)), undescribed_items(keys), "MovieLens-1M")
        for name, users in zip(names, members, strict=True)
    ]
    plan = FederationPlan(
        rounds=1,
        platforms=platforms,
        model=FactorizationConfig(dimension=8, iterations=1),
        privacy=PrivacyConfig.model_validate(privacy or {"mode": "none"}),
        towers=config,
    )
    # The platforms are made above; agents look at plan, seed and personalisation alone.
    scenario = Scenario.model_construct(plan=plan, seed=seed, personalization=PersonalizationConfig())
    judge = _Judge(matrix, split, config, keys, simulation_secret(seed), look_every, report, budget_s)
    with tempfile.TemporaryDirectory(prefix="crossfed-bench-") as folder:
        agents = make_agents(parts, scenario, Path(folder) / "platforms", {})
        strategy = FederatedFactorization(
            plan, CheckpointStore(Path(folder) / "server"), run_id="bench", observer=judge
        )
        judge.strategy = strategy
        with suppress(_TimeIsOverError):
            strategy.train(inline_grid(agents))
    if plan.private:
        judge.look(strategy.state.tower_round)
    figures: dict[str, Any] = {
        "validation_ndcg@10": judge.best, "seconds": time.perf_counter() - judge.started, "curve": judge.curve,
    }  # fmt: skip
    if test:
        figures["test"] = _measure(judge.scorer(judge.best_values), split.test)
    return figures


class _TimeIsOverError(Exception):
    """The time of a bench is over."""


class _Judge(SilentObserver):
    """Measures the aggregator's model on validation as the rounds go by; keeps the best."""

    def __init__(
        self,
        matrix: UserItemMatrix,
        split: Split,
        config: TowerConfig,
        keys: Sequence[str],
        secret: FederationSecret,
        look_every: int,
        report: Report | None,
        budget_s: float,
    ) -> None:
        self.strategy: FederatedFactorization
        self.best, self.curve = -1.0, list[dict[str, float]]()
        self.best_values: Mapping[str, NDArray[np.float32]] = {}
        self.started = time.perf_counter()
        self._matrix, self._split, self._config = matrix, split, config
        self._digests = secret.digests(keys)
        self._look_every, self._report, self._budget_s = look_every, report, budget_s
        self._model: Any = None

    def on_round(self, record: RoundRecord) -> None:
        # The record of a round comes before the strategy's state is replaced: look at the rounds before it.
        done = self.strategy.state.tower_round
        if record.phase == "towers" and done and done % self._look_every == 0 and not self.strategy.plan.private:
            self.look(done)
            if time.perf_counter() - self.started > self._budget_s:
                raise _TimeIsOverError

    def look(self, done: int) -> None:
        values = self.strategy.state.towers
        measured = _measure(self.scorer(values), self._split.validation)
        self.curve.append({"round": done, "seconds": time.perf_counter() - self.started, **measured})
        if self._report is not None:
            self._report(self.curve[-1])
        if measured["ndcg@10"] > self.best:
            self.best, self.best_values = measured["ndcg@10"], values

    def scorer(self, values: Mapping[str, NDArray[np.float32]]) -> Any:
        from client.towers.features import ItemFeatures
        from client.towers.scorer import TowerScorer
        from client.towers.two_tower import TwoTower

        n = self._matrix.n_items
        if self._model is None:
            self._model = TwoTower(self._config, ItemFeatures(n, ()), n_shared=n, n_users=self._matrix.n_users)
        self._model.load(values)
        return TowerScorer(self._model, self.strategy.state.vocabulary.positions(self._digests))


def _measure(scorer: Any, held_out: EvaluationSlice) -> dict[str, float]:
    values: dict[str, NDArray[np.float64]] = evaluate(scorer, held_out, metrics=METRICS, depth=10).values
    return {name: float(found.mean()) for name, found in values.items()}


def bench_sequence(data: Path) -> dict[str, Any]:
    """The registry's entry: pooled, and over four platforms."""
    matrix = load_ml1m(data)
    return {"pooled": pooled(matrix), "federated": federated(matrix)}


def bench_private_sequence(data: Path) -> dict[str, Any]:
    """The registry's entry: four platforms at ε = 10 and 3, δ = 1/n, all of it spent on the deep model but a tenth."""
    matrix = load_ml1m(data)
    return {f"epsilon {epsilon:g}": private(matrix, epsilon) for epsilon in (10.0, 3.0)}


def bench_sequence_at_home(data: Path) -> dict[str, Any]:
    """The registry's entry: what one of the four platforms has at home for nothing, beside what ε buys them together."""
    matrix = load_ml1m(data)
    together = {f"federated, epsilon {epsilon:g}": private(matrix, epsilon) for epsilon in (10.0, 3.0)}
    return {"at home, epsilon 0": at_home(matrix), **together}


def at_home(matrix: UserItemMatrix, *, platforms: int = 4, seed: int = 0, **options: Any) -> dict[str, Any]:
    """The first of :func:`federated`'s platforms by itself, as ``towers.place: home`` trains: nothing leaves it."""
    users = np.array_split(np.random.default_rng(seed).permutation(matrix.n_users), platforms)[0]
    settings = SEQUENCE.training.model_copy(update={"batch_users": 32})
    config = SEQUENCE.model_copy(update={"training": settings})
    return pooled(matrix.select_users(np.sort(users)), config, seed=seed, **options)


def private(matrix: UserItemMatrix, epsilon: float, config: TowerConfig = PRIVATE, **options: Any) -> dict[str, Any]:
    """Four platforms under user-level privacy; the noise from the accountant."""
    privacy = {"mode": "user", "epsilon": epsilon, "user_bound": matrix.n_users, "delta": 1 / matrix.n_users}
    return federated(matrix, with_noise(config, epsilon=epsilon, delta=1 / matrix.n_users), privacy=privacy, **options)


if __name__ == "__main__":
    matrix = load_ml1m(Path(sys.argv[1]))
    told = lambda line: print(json.dumps(line), flush=True)  # noqa: E731
    entries = {
        "pooled": lambda: pooled(matrix, report=told),
        "federated": lambda: federated(matrix, report=told),
        "home": lambda: at_home(matrix, report=told),
        "private-10": lambda: private(matrix, 10.0, report=told),
        "private-3": lambda: private(matrix, 3.0, report=told),
    }
    for name in sys.argv[2:]:
        print(json.dumps({name: {k: v for k, v in entries[name]().items() if k != "curve"}}, indent=1), flush=True)
