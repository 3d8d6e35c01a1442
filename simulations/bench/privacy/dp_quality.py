"""Quality of the factorisation under user-level differential privacy on MovieLens-1M, with the mechanism that ships.

All users are on one platform that adds the whole noise: what the sum over platforms of a secure sum carries. Strong
generalisation: 10 % of the users for validation, 10 % for test, never trained on; 80 % of a held-out user's items are
the history, Recall@20 is over the rest, all items ranked; δ = 1/n of the training users.

Run ``python -m simulations.bench.privacy.dp_quality [DATA]`` with the folder that has ``ml1m/`` (default: ``CROSSFED_DATA``).

How the defaults were chosen (``common/config/privacy.py``): by tree-structured Parzen search (optuna) and then by
coordinate search over the fields of :class:`common.config.privacy.TunedSetting`, for the Recall@20 of the *validation*
users of another random split (mean of 2 to 5 noise draws a trial), so about a tenth of the test users here were
validation users there. The clip norm is not tuned: far below all norms, it makes each user count by direction. Later the
denoising (ρ = 8 at every ε, no mixing with what was released), the ridge of folding in (twice what it was) and the kept
items at ε = 0.5 were chosen on the validation users of this split, of MovieLens-100K, MovieTweetings and courses
(``docs/decisions.md``). The search itself was not private; on other data the settings are constants.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, strong_generalisation
from client.scoring.evaluation import evaluate
from client.scoring.scorer import PopularityScorer, SolvedFactorScorer
from client.training.factory import make_trainer
from common.config.model import FactorizationConfig
from common.config.privacy import PrivacyConfig, TunedSetting, tuned_setting
from common.contributions.factors import UserLevelMechanism
from common.linalg import initial_item_factors
from common.privacy.plan import calibrate
from common.privacy.postprocess import (
    ReleasedSums,
    clamp_counts,
    from_grid,
    item_factors,
    item_weights,
    normalised_factors,
    project_psd,
    unpack_gram,
)
from simulations.bench.als import load_ml1m

EPSILONS = (0.5, 1.0, 3.0, 10.0)
METRICS = ("recall@20", "plain_recall@20", "ndcg@10")


def movie_attributes(data: Path) -> NDArray[np.float64]:
    """Genres (0/1) and twelve bumps over the year in the title, float64 ``[3706, 30]``, in the order of ``load_ml1m``."""
    rated = pl.read_parquet(data / "ml1m" / "ratings.parquet", columns=["item"])["item"].unique().sort()
    movies = pl.read_csv(data / "ml1m" / "movies.csv", columns=["item", "title", "genres"])
    rows = pl.DataFrame({"item": rated}).join(movies, on="item", how="left", maintain_order="left")
    genres = sorted({genre for listed in movies["genres"] for genre in listed.split("|")})
    flags = np.array(
        [[genre in (listed or "").split("|") for genre in genres] for listed in rows["genres"]], dtype=float
    )
    years = rows["title"].str.extract(r"\((\d{4})\)$").cast(pl.Float64).fill_null(1995.0).to_numpy()
    bumps = np.exp(-(((years[:, None] - np.linspace(1930, 2000, 12)) / 5) ** 2))
    return np.hstack([flags, 2 * bumps / bumps.sum(axis=1, keepdims=True)])


def train_privately(
    train: UserItemMatrix,
    epsilon: float,
    setting: TunedSetting,
    attributes: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Item factors ``[m, d]`` and released counts ``[m]``, (ε, 1/n)-DP for each user of ``train``.

    Args:
        train: all platforms' users.
        epsilon: target of the whole run.
        setting: what is trained and how; public.
        attributes: ``[m, a]`` or None.
        rng: draws the first item factors; noise is the system's.
    """
    parameters = setting.mechanism.model_dump()
    config = PrivacyConfig(
        epsilon=epsilon, delta=1 / train.n_users, user_bound=train.n_users, noise="per_platform", **parameters
    )
    plan = calibrate(config, n_users_bound=train.n_users, rounds=setting.rounds, platforms=1)
    mechanism = UserLevelMechanism(plan)
    counted = mechanism.counts(train.indptr, train.indices, n_items=train.n_items)
    counts, users = clamp_counts(from_grid(counted.arrays["counts"], counted.grid_steps["counts"]))
    weights = item_weights(
        counts,
        kept_items=setting.mechanism.kept_items,
        popularity_exponent=setting.mechanism.popularity_exponent,
    )
    kept = np.flatnonzero(weights)
    on_kept = train.select_items(kept)
    factors = initial_item_factors(train.n_items, setting.dimension, rng, 1.0).astype(np.float64)
    factors = normalised_factors(factors * (weights > 0)[:, None])
    trainer = make_trainer(_training(setting, setting.regularization))
    for server_round, noise in enumerate(plan.rounds, start=1):
        user_factors = trainer.solve_users(on_kept, factors[kept].astype(np.float32))
        released = mechanism.statistics(server_round, train.indptr, train.indices, user_factors, weights)
        sums = {name: from_grid(released.arrays[name], step) for name, step in released.grid_steps.items()}
        gram = project_psd(unpack_gram(sums["user_gram"], setting.dimension))
        factors = item_factors(
            ReleasedSums(
                counts=counts,
                users=users,
                item_vectors=sums["item_vectors"],
                item_sigma=noise.item_vectors.actual_sigma(1),
                user_gram=gram,
                catalogue_gram=gram,
            ),
            setting,
            attributes,
        )
    return factors.astype(np.float32), counts


def measure(factors: NDArray[np.float32], setting: TunedSetting, held_out: EvaluationSlice) -> dict[str, float]:
    """Means of :data:`METRICS` over the users of a slice, folded in with ``fold_in_regularization``."""
    kept = np.flatnonzero(factors.any(axis=1))
    trainer = make_trainer(_training(setting, setting.fold_in_regularization))
    users = trainer.solve_users(held_out.history.select_items(kept), factors[kept])
    values = evaluate(SolvedFactorScorer(users, factors), held_out, metrics=METRICS).values
    return {name: float(value.mean()) for name, value in values.items()}


def quality(
    data: Path, *, epsilon: float, draws: int = 5, seed: int = 0, use_attributes: bool = True, validate: bool = False
) -> dict[str, Any]:
    """Mean over noise draws of the test users' metrics, with standard deviation, and popularity's at the same ε."""
    split = strong_generalisation(
        load_ml1m(data), rng=np.random.default_rng(seed), validation_users=0.1, test_users=0.1
    )
    train = split.train.select_users(np.flatnonzero(split.train.row_lengths))
    held_out = only_users(split.validation if validate else split.test)
    attributes = movie_attributes(data) if use_attributes else None
    setting = tuned_setting(epsilon)
    runs, popularity = [], []
    for draw in range(draws):
        factors, counts = train_privately(train, epsilon, setting, attributes, np.random.default_rng(draw))
        runs.append(measure(factors, setting, held_out))
        popularity.append(evaluate(PopularityScorer(counts), held_out, metrics=METRICS).values["recall@20"].mean())
    return {
        "epsilon": epsilon,
        "delta": 1 / train.n_users,
        "draws": draws,
        **{name: round(float(np.mean([run[name] for run in runs])), 4) for name in METRICS},
        "recall@20_sd": round(float(np.std([run["recall@20"] for run in runs])), 4),
        "popularity_recall@20": round(float(np.mean(popularity)), 4),
    }


def quality_by_epsilon(data: Path) -> list[dict[str, Any]]:
    """:func:`quality` at every ε of :data:`EPSILONS`."""
    return [quality(data, epsilon=epsilon) for epsilon in EPSILONS]


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall under user-level privacy on MovieLens-1M")
    parser.add_argument("data", nargs="?", default=os.environ.get("CROSSFED_DATA"), help="folder that has ml1m/")
    parser.add_argument("--epsilon", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--no-attributes", action="store_true", help="without genres and years")
    parser.add_argument("--validate", action="store_true", help="measure validation users in place of test users")
    arguments = parser.parse_args()
    if arguments.data is None:
        sys.exit("name the data folder, or set CROSSFED_DATA")
    for epsilon in arguments.epsilon:
        result = quality(
            Path(arguments.data),
            epsilon=epsilon,
            draws=arguments.draws,
            seed=arguments.seed,
            use_attributes=not arguments.no_attributes,
            validate=arguments.validate,
        )
        print(json.dumps(result), flush=True)


def _training(setting: TunedSetting, regularization: float) -> FactorizationConfig:
    return FactorizationConfig(
        dimension=setting.dimension,
        regularization=regularization,
        unobserved_weight=setting.unobserved_weight,
    )


def only_users(held_out: EvaluationSlice) -> EvaluationSlice:
    """A slice whose matrices hold its users alone, in place of rows for everyone."""
    return EvaluationSlice(
        users=np.arange(len(held_out.users)),
        history=held_out.history.select_users(held_out.users),
        truth=held_out.truth.select_users(held_out.users),
    )


if __name__ == "__main__":
    main()
