"""The factorisation against ``implicit``: time, memory, objective and quality, on the same data and splits.

Run ``python -m simulations.bench.als DATA [NAME]`` with the folder that has ``ml1m/ratings.parquet``; ``implicit`` and
``threadpoolctl`` come with the ``dev`` extra.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, leave_last_out, strong_generalisation
from client.scoring.evaluation import evaluate
from client.scoring.scorer import PopularityScorer, Scorer, SolvedFactorScorer
from client.scoring.topk import top_k
from client.training.factory import make_trainer
from client.training.fit import fit
from client.training.trainer import Trainer
from client.training.tuning import SearchSpace, tune_local
from common.config.model import FactorizationConfig
from common.metrics import judge, ndcg, plain_recall, recall

STRONG = FactorizationConfig(
    dimension=64, regularization=0.2045, regularization_exponent=0.5, unobserved_weight=0.6, iterations=16,
    solver="cg", cg_steps=4, init_scale=1.0,
)  # fmt: skip
"""The best mean over the validation users of three splits; the optimum is flat."""

LEAVE_ONE_OUT = STRONG.model_copy(
    update={
        "init_scale": 0.1,
        "regularization": 0.0074,
        "regularization_exponent": 1.0,
        "unobserved_weight": 0.5,
        "iterations": 16,
    }
    | {"recency_boost": 40.0, "recency_span": 4.0}
)
"""The best on each user's last but one interaction, which training did not see; what comes next hangs on the latest."""

LEAVE_ONE_OUT_PLAIN = LEAVE_ONE_OUT.model_copy(
    update={"regularization": 0.0047, "unobserved_weight": 0.3, "recency_boost": 0.0}
)
"""The best on the same without regard to the order of a history."""


def load_ml1m(data: Path) -> UserItemMatrix:
    """MovieLens-1M, all ratings as implicit positives, in each user's order; items are the 3,706 that were rated."""
    ratings = pl.read_parquet(data / "ml1m" / "ratings.parquet")
    items, columns = np.unique(ratings["item"].to_numpy(), return_inverse=True)
    users, rows = np.unique(ratings["user"].to_numpy(), return_inverse=True)
    return UserItemMatrix.from_entries(
        rows,
        columns,
        np.ones(len(rows), dtype=np.float32),
        ratings["seq"].fill_null(-1).to_numpy().astype(np.int64),
        n_users=len(users),
        n_items=len(items),
    )


def implicit_model(config: FactorizationConfig, *, threads: int = 2, **options: Any) -> Any:
    """``implicit``'s ALS with the same objective up to a factor.

    It minimises Σ c(1 − s)² over observed, Σ s² over other pairs and λ′ of both factors. With c = 1 + 1/α₀ and
    λ′ = λ(1 + α₀)/α₀ its minimisers are ours times √(1 + α₀), for ν = 0 and weights of 1.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    alpha = config.unobserved_weight
    return AlternatingLeastSquares(
        factors=config.dimension,
        regularization=config.regularization * (1 + alpha) / alpha,
        alpha=1 + 1 / alpha,
        iterations=config.iterations,
        num_threads=threads,
        **options,
    )


def one_blas_thread() -> AbstractContextManager[Any]:
    """One thread for matrix products, as ``implicit`` asks for: both contenders run threads of their own."""
    import_module("implicit.cpu.als")  # brings a BLAS of its own, which must be there to be limited
    limits: AbstractContextManager[Any] = import_module("threadpoolctl").threadpool_limits(1, "blas")
    return limits


def iteration_against_implicit(
    matrix: UserItemMatrix, *, iterations: int = 10, repeats: int = 5, config: FactorizationConfig | None = None
) -> dict[str, Any]:
    """Time and objective of each iteration, ours and ``implicit``'s in turn, from the same first factors.

    Only solving is timed on both sides: its callback excludes the transposition that ``implicit`` repeats at each call.

    Returns:
        ``ratio``: median over all pairs of our time divided by its; ``ratios``: the median of each repeat;
        ``seconds``: both medians; ``objective``: both, after each iteration; ``never_above``: whether ours is at
        most its at each one, to float32 rounding (1e-6): ours takes 2 preconditioned steps, its 3 plain ones.
    """
    config = config or FactorizationConfig(
        dimension=64, regularization=10.0, unobserved_weight=0.3, solver="cg", cg_steps=2, backend="numba"
    )
    trainer = make_trainer(config)
    times: list[list[tuple[float, float]]] = []
    with one_blas_thread():
        _paired_iterations(trainer, matrix, 1)  # compiles
        for _ in range(repeats):
            pairs, objectives = _paired_iterations(trainer, matrix, iterations)
            times.append(pairs)
    ours, theirs = np.array(times).reshape(-1, 2).T
    return {
        "ratio": float(np.median(ours / theirs)),
        "ratios": [float(np.median([a / b for a, b in pairs])) for pairs in times],
        "seconds": {"crossfed": float(np.median(ours)), "implicit": float(np.median(theirs))},
        "objective": {"crossfed": [a for a, _ in objectives], "implicit": [b for _, b in objectives]},
        "never_above": all(a <= b * (1 + 1e-6) for a, b in objectives),
    }


def _paired_iterations(
    trainer: Trainer, matrix: UserItemMatrix, iterations: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Per iteration (our seconds, its) and (our objective, its)."""
    config = trainer.config
    rng = np.random.default_rng(0)
    users = 0.01 * rng.random((matrix.n_users, config.dimension), dtype=np.float32)
    items = 0.01 * rng.random((matrix.n_items, config.dimension), dtype=np.float32)
    scale = np.float32(np.sqrt(1 + config.unobserved_weight))
    model = implicit_model(config.model_copy(update={"iterations": 1}))
    model.user_factors, model.item_factors = users * scale, items * scale
    ratings = sp.csr_matrix(matrix.csr())
    seconds, objectives = [], []

    def objective(u: NDArray[np.float32], v: NDArray[np.float32]) -> float:
        return trainer.objective(matrix, u, v) + trainer.item_penalty(matrix, v)

    for _ in range(iterations):
        took: list[float] = []
        model.fit(ratings, show_progress=False, callback=lambda _i, spent, _l: took.append(spent))  # noqa: B023
        start = time.perf_counter()
        users = trainer.solve_users(matrix, items, users)
        items = trainer.solve_items(matrix, users, items)
        seconds.append((time.perf_counter() - start, took[0]))
        theirs = objective(model.user_factors / scale, model.item_factors / scale)
        objectives.append((objective(users, items), theirs))
    return seconds, objectives


def strong_generalisation_quality(
    matrix: UserItemMatrix, *, seed: int = 0, tune: bool = False, budget: int = 36
) -> dict[str, Any]:
    """Recall@20 and NDCG@10 of test users never trained on (10 % validation, 10 % test, 80/20 fold-in, full ranking).

    ``recall@20`` divides by min(20, |T|) (Liang et al. 2018), as papers print it; ``plain_recall@20`` by |T|.

    Returns:
        ``crossfed``, ``implicit``, ``popularity``: test metrics; ``config``: ours. With ``tune`` both libraries are
        tuned on the same validation users, with the same number of candidates; else ours is :data:`STRONG` and
        ``implicit`` is left out.
    """
    split = strong_generalisation(matrix, rng=np.random.default_rng(seed), validation_users=0.1, test_users=0.1)
    train = split.train.select_users(np.flatnonzero(split.train.row_lengths))
    validation, test = _only_users(split.validation), _only_users(split.test)
    config, result = STRONG, {}
    if tune:
        judge_validation = _ranking_score(validation, "recall@20")
        config = tune_local(
            train, validation.history, judge_validation, np.random.default_rng(seed + 1), budget=budget,
            base=STRONG, space=SearchSpace(dimensions=(STRONG.dimension,)),
        ).config  # fmt: skip
        with one_blas_thread():
            result["implicit"] = _tuned_implicit(train, validation, test, np.random.default_rng(seed + 1), budget)
    trainer = make_trainer(config)
    items = fit(train, config, np.random.default_rng(seed), trainer=trainer).item_factors
    popularity = np.tile(train.item_counts().astype(np.float32)[:, None], 1)
    return {
        "crossfed": _ranking_metrics(trainer.solve_users(test.history, items), items, test),
        **result,
        "popularity": _ranking_metrics(np.ones((len(test.users), 1), dtype=np.float32), popularity, test),
        "config": config.model_dump(exclude_defaults=True),
    }


def _tuned_implicit(
    train: UserItemMatrix, validation: EvaluationSlice, test: EvaluationSlice, rng: np.random.Generator, budget: int
) -> dict[str, Any]:
    """``implicit`` at d = 64, its weight, regularisation and sweeps chosen among ``budget`` random candidates.

    All candidates run all sweeps: unlike ours, none is dropped early. Fold-in is its own exact ``recalculate_user``.
    """
    best: tuple[float, dict[str, float]] = (-1.0, {})
    metrics: dict[str, float] = {}
    ratings = sp.csr_matrix(train.csr())
    for _ in range(budget):
        config = FactorizationConfig(
            dimension=64,
            regularization=float(np.exp(rng.uniform(np.log(0.3), np.log(100)))),
            unobserved_weight=float(np.exp(rng.uniform(np.log(0.02), np.log(1.5)))),
            iterations=1,
        )
        model = implicit_model(config, random_state=int(rng.integers(2**31)))
        for iteration in range(16):
            model.fit(ratings, show_progress=False)
            if iteration + 1 not in (2, 4, 8, 16):
                continue
            value = _implicit_metrics(model, validation)["recall@20"]
            if value > best[0]:
                best = (value, config.model_dump(include={"regularization", "unobserved_weight"}))
                best[1]["iterations"] = iteration + 1
                metrics = _implicit_metrics(model, test)
    return {**metrics, "config": best[1]}


def _implicit_metrics(model: Any, held_out: EvaluationSlice) -> dict[str, float]:
    histories = sp.csr_matrix(held_out.history.csr())
    users = model.recalculate_user(np.arange(histories.shape[0]), histories)
    return _ranking_metrics(users, model.item_factors, held_out)


def leave_one_out_quality(
    matrix: UserItemMatrix, *, seed: int = 0, tune: bool = False, budget: int = 24, draws: int = 10
) -> dict[str, Any]:
    """HR@10 and NDCG@10 of each user's last interaction among 99 others; the one before it is for tuning.

    Returns:
        ``crossfed``, ``plain`` (all of a history weighs alike), ``popularity``: means over users and ``draws`` sets of
        negatives; ``config``: that of ``crossfed``.
    """
    split = leave_last_out(matrix, rng=np.random.default_rng(seed), validation_users_share=0.4)
    config = LEAVE_ONE_OUT
    if tune:
        validation = _only_users(split.validation)

        def score(users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
            return _sampled_metrics(SolvedFactorScorer(users, items), validation, seed + 2, 1)["ndcg@10"]

        space = SearchSpace(dimensions=(32, 64), recency_boosts=(0.0, 10.0, 40.0), recency_spans=(4.0, 10.0))
        config = tune_local(
            split.train, validation.history, score, np.random.default_rng(seed + 1), budget=budget,
            base=LEAVE_ONE_OUT, space=space,
        ).config  # fmt: skip
    test = _only_users(split.test)
    scorers: dict[str, Scorer] = {"popularity": PopularityScorer(split.test.history.item_counts().astype(np.float32))}
    for name, chosen in (("crossfed", config), ("plain", LEAVE_ONE_OUT_PLAIN)):
        fitted = fit(split.test.history, chosen, np.random.default_rng(seed))
        scorers[name] = SolvedFactorScorer(fitted.user_factors[split.test.users], fitted.item_factors)
    figures = {name: _sampled_metrics(scorer, test, seed + 3, draws) for name, scorer in scorers.items()}
    return {**figures, "config": config.model_dump(exclude_defaults=True)}


def _only_users(part: EvaluationSlice) -> EvaluationSlice:
    """The slice with the rows of its users alone."""
    rows = np.arange(len(part.users))
    return EvaluationSlice(rows, part.history.select_users(part.users), part.truth.select_users(part.users))


def _ranking_metrics(
    users: NDArray[np.float32], items: NDArray[np.float32], held_out: EvaluationSlice
) -> dict[str, float]:
    ranked, _ = top_k(users @ items.T, 20, held_out.history)
    judgement = judge(ranked, held_out.truth.indptr, held_out.truth.indices)
    values = {
        "recall@20": recall(judgement, 20),
        "plain_recall@20": plain_recall(judgement, 20),
        "ndcg@10": ndcg(judgement, 10),
    }
    return {name: float(np.nanmean(value)) for name, value in values.items()}


def _ranking_score(
    held_out: EvaluationSlice, metric: str
) -> Callable[[NDArray[np.float32], NDArray[np.float32]], float]:
    return lambda users, items: _ranking_metrics(users, items, held_out)[metric]


def _sampled_metrics(scorer: Scorer, held_out: EvaluationSlice, seed: int, draws: int) -> dict[str, float]:
    found = evaluate(
        scorer, held_out, metrics=("hr@10", "ndcg@10"), protocol="sampled-99", draws=draws,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return {name: float(np.mean(value)) for name, value in found.values.items()}


def _main(data: Path, names: list[str]) -> None:
    matrix = load_ml1m(data)
    entries: dict[str, Callable[[], dict[str, Any]]] = {
        "iteration": lambda: iteration_against_implicit(matrix),
        "strong": lambda: strong_generalisation_quality(matrix),
        "strong-tuned": lambda: strong_generalisation_quality(matrix, tune=True),
        "leave-one-out": lambda: leave_one_out_quality(matrix),
        "leave-one-out-tuned": lambda: leave_one_out_quality(matrix, tune=True),
    }
    for name in names or list(entries):
        print(json.dumps({name: entries[name]()}, indent=2), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
