"""Measures what content and shared parameters carry: cold items, a platform that joins late, and what a training step costs.

python -m simulations.bench.transfer FOLDER cold late step
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.described import Described
from client.data.split import EvaluationSlice, leave_last_out
from client.scoring.evaluation import evaluate
from client.scoring.scorer import PopularityScorer, SolvedFactorScorer
from client.text.cache import VectorCache, user_cache
from client.text.registry import load_encoder
from client.text.vectors import text_vectors
from client.training.content import ContentItems, place_by_content
from client.training.fit import fit
from client.training.tuning import SearchSpace, tune_local
from common.attributes import LONGEST_TEXT
from common.config.model import FactorizationConfig
from common.config.text import TextConfig
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig, TowerTraining
from common.contributions.tower_variables import tower_variables
from simulations.bench.als import load_ml1m
from simulations.bench.sequence import SEQUENCE

COLD = TowerConfig(
    dimension=64,
    id_dropout=0.5,
    encoders=(
        EncoderConfig(attribute="genres", kind="multi_hot", buckets=64, width=32, length=8),
        EncoderConfig(attribute="title", kind="text", buckets=8192, width=32, length=24),
        EncoderConfig(attribute="year", kind="multi_hot", buckets=512, width=32, length=4),
        EncoderConfig(attribute="abstract", kind="multi_hot", buckets=16384, width=64, length=160),
    ),
    sequence=SequenceConfig(kind="mean", length=50),
    training=TowerTraining(batch_users=128, learning_rate=1e-3, negatives=0, rounds=30),
)


def ml1m_columns(data: Path) -> dict[str, list[Any]]:
    """Title, genres, decade and year, and the words of DBpedia's abstract, for the items of :func:`load_ml1m`."""
    rated = np.unique(pl.read_parquet(data / "ml1m" / "ratings.parquet")["item"].to_numpy())
    movies = pl.read_csv(data / "ml1m" / "movies.csv", schema_overrides={"imdb_id": pl.String})
    texts = pl.read_parquet(data / "movie_text" / "dbpedia_abstracts.parquet")
    abstracts = dict(zip(texts["imdb_id"].to_list(), texts["abstract"].to_list(), strict=True))
    by_item = {row["item"]: row for row in movies.iter_rows(named=True)}
    columns: dict[str, list[Any]] = {"title": [], "genres": [], "year": [], "abstract": [], "text": []}
    for item in rated.tolist():
        row = by_item.get(item)
        year = int(row["title"][-5:-1]) if row else 0
        columns["title"].append(row["title"] if row else None)
        columns["genres"].append(row["genres"].split("|") if row else None)
        columns["year"].append([f"y{year}", f"d{year // 10}", f"h{year // 5}"] if row else None)
        text = abstracts.get(row["imdb_id"] or "") or abstracts.get(f"tt{row['imdb_id']}") if row else None
        columns["text"].append(None if not text else text[:LONGEST_TEXT].strip())
        columns["abstract"].append(None if text is None else sorted(set(text.lower().split()))[:160])
    return columns


def cold_items(
    data: Path, *, share: float = 0.1, seed: int = 0, epochs: int = 20, report: Any = None
) -> dict[str, Any]:
    """Recall@20 among items that nobody has an interaction with in training.

    Half of the hidden items choose the number of passes and between the two ways (validation), the other half is scored
    once. The ways: the content encoders of the two-tower model, and factors of the warm items regressed on content.
    """
    from client.towers.features import ItemFeatures
    from client.towers.local_training import LocalTrainer
    from client.towers.scorer import TowerScorer
    from client.towers.two_tower import TwoTower

    matrix, columns = load_ml1m(data), ml1m_columns(data)
    rng = np.random.default_rng(seed)
    hidden = rng.permutation(matrix.n_items)[: int(2 * share * matrix.n_items)]
    chosen, scored = np.array_split(hidden, 2)
    warm = np.setdiff1d(np.arange(matrix.n_items), hidden)
    train = matrix.select_entries(np.isin(matrix.indices, warm))
    features = ItemFeatures.of(COLD.encoders, columns, matrix.n_items)
    model = TwoTower(COLD, features, n_shared=matrix.n_items, n_users=matrix.n_users, seed=seed)
    # A row that nobody trains is noise: cold items stand by their content alone.
    rows = model.values()["item_rows"]
    rows[hidden] = 0.0
    model.item_rows.assign(rows)
    trainer = LocalTrainer(
        model, train.select_items(warm), warm.astype(np.int32), COLD.training, np.random.default_rng(seed)
    )
    slices = {name: _cold_slice(matrix, train, items) for name, items in (("validation", chosen), ("test", scored))}
    every = np.arange(matrix.n_items, dtype=np.int32)
    best, best_values, curve = -1.0, model.values(), []
    for epoch in range(1, epochs + 1):
        trainer.train()
        recall = _recall(TowerScorer(model, every), slices["validation"], _mask(matrix, chosen))
        curve.append({"epoch": epoch, "recall@20": recall})
        if report is not None:
            report(curve[-1])
        if recall > best:
            best, best_values = recall, model.values()
    model.load(best_values)
    among, test = _mask(matrix, scored), slices["test"]
    plain, placed = _placed_factors(train, warm, columns, seed)
    of_factors = _recall(placed, slices["validation"], _mask(matrix, chosen))
    content = placed if of_factors > best else TowerScorer(model, every)
    figures = {
        "content": _recall(content, test, among),
        "towers": _recall(TowerScorer(model, every), test, among),
        "factors placed by content": _recall(placed, test, among),
        "factors placed by content, without text vectors": _recall(plain, test, among),
        "random": float(
            np.mean([_recall(PopularityScorer(rng.random(matrix.n_items)), test, among) for _ in range(5)])
        ),
        "popularity of genre": _recall(PopularityScorer(_genre_popularity(columns, train)), test, among),
        "validation, towers": best,
        "validation, factors placed by content": of_factors,
    }
    figures["content, hits / |truth|"] = _recall(content, test, among, "plain_recall@20")
    figures["random, hits / |truth|"] = _recall(
        PopularityScorer(rng.random(matrix.n_items)), test, among, "plain_recall@20"
    )
    figures["content / random"] = figures["content"] / figures["random"]
    figures["content / popularity of genre"] = figures["content"] / figures["popularity of genre"]
    return figures


def _placed_factors(
    train: UserItemMatrix, warm: NDArray[np.int64], columns: dict[str, list[Any]], seed: int
) -> tuple[SolvedFactorScorer, SolvedFactorScorer]:
    """The factorisation of :mod:`simulations.bench.als`, cold items placed without and with a text encoder."""
    config = FactorizationConfig(
        dimension=64, regularization=0.2, regularization_exponent=0.5, unobserved_weight=0.6, backend="numba"
    )
    fitted = fit(train.select_items(warm), config, np.random.default_rng(seed))
    items = np.zeros((train.n_items, 64), dtype=np.float32)
    items[warm] = fitted.item_factors
    abstracts = pl.DataFrame({"abstract": pl.Series(columns["abstract"], dtype=pl.List(pl.String))})
    titles, genres = [title or "" for title in columns["title"]], [of_item or () for of_item in columns["genres"]]
    plain = ContentItems(titles, genres, abstracts)
    told = Described({"abstract": "text"}, {"abstract": tuple(columns["text"])})
    texts = text_vectors(load_encoder(TextConfig()), VectorCache(user_cache()))
    rich = ContentItems(titles, genres, further=told, texts=texts)
    without, placed = (place_by_content(items, described) for described in (plain, rich))
    return SolvedFactorScorer(fitted.user_factors, without), SolvedFactorScorer(fitted.user_factors, placed)


def _genre_popularity(columns: dict[str, list[Any]], train: UserItemMatrix) -> NDArray[np.float64]:
    """Mean count of the warm items that have a genre, averaged over an item's genres."""
    counts = train.item_counts()
    of_genre: dict[str, list[int]] = {}
    for item, genres in enumerate(columns["genres"]):
        for genre in (genres or ()) if counts[item] else ():
            of_genre.setdefault(genre, []).append(int(counts[item]))
    means = {genre: float(np.mean(found)) for genre, found in of_genre.items()}
    return np.array([np.mean([means.get(g, 0.0) for g in genres]) if genres else 0.0 for genres in columns["genres"]])


def _cold_slice(matrix: UserItemMatrix, train: UserItemMatrix, items: NDArray[np.int64]) -> EvaluationSlice:
    truth = matrix.select_entries(np.isin(matrix.indices, items))
    users = np.flatnonzero((truth.row_lengths > 0) & (train.row_lengths > 0))
    return EvaluationSlice(users, train, truth)


def _mask(matrix: UserItemMatrix, items: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(matrix.n_items, dtype=np.bool_)
    mask[items] = True
    return mask


def _recall(scorer: Any, held_out: EvaluationSlice, among: NDArray[np.bool_], metric: str = "recall@20") -> float:
    measured = evaluate(scorer, held_out, metrics=(metric,), candidates=among, depth=20)
    return float(measured.values[metric].mean())


def late_platform(
    data: Path, *, users: int = 100, groups: int = 5, seed: int = 0, epochs: int = 30, report: Any = None
) -> dict[str, Any]:
    """HR@10, full ranking, leave-last-out: platforms of 100 users that join a trained federation, against training alone.

    Alone: a factorisation tuned as carefully as a platform's own model is, and a Transformer of its own; the better one
    on the groups' validation items counts. Joined: the shared Transformer as it is, and with an adapter trained at home.
    """
    from client.towers.features import ItemFeatures
    from client.towers.local_training import LocalTrainer
    from client.towers.scorer import TowerScorer
    from client.towers.two_tower import TwoTower

    matrix = load_ml1m(data)
    split = leave_last_out(matrix, rng=np.random.default_rng(seed))
    order = np.random.default_rng(seed).permutation(matrix.n_users)
    late = np.sort(order[: users * groups].reshape(groups, users), axis=1)
    early = np.sort(order[users * groups :])
    every = np.arange(matrix.n_items, dtype=np.int32)

    def fresh(n_users: int, config: TowerConfig = SEQUENCE) -> Any:
        return TwoTower(config, ItemFeatures(matrix.n_items, ()), n_shared=matrix.n_items, n_users=n_users, seed=seed)

    federation = fresh(len(early))
    trainer = LocalTrainer(
        federation, split.train.select_users(early), every, SEQUENCE.training, np.random.default_rng(seed)
    )
    trainer.train(epochs=epochs)
    shared = federation.values()
    with_adapter = SEQUENCE.model_copy(update={"adapter": True})
    sums: dict[str, list[float]] = {}
    for group in late:
        train = split.train.select_users(group)
        validation, test = _rows(split.validation, group), _rows(split.test, group)
        joined = fresh(users, with_adapter)
        joined.load(shared)
        home = LocalTrainer(joined, train, every, SEQUENCE.training, np.random.default_rng(seed))
        scorers: dict[str, Any] = {"shared": TowerScorer(_loaded(fresh(users), shared), every)}
        home.train_private()
        scorers["adapter"] = TowerScorer(joined, every)
        alone = fresh(users)
        LocalTrainer(alone, train, every, SEQUENCE.training, np.random.default_rng(seed)).train(epochs=epochs)
        scorers["transformer alone"] = TowerScorer(alone, every)
        factors = _tuned_factors(train, validation, seed)
        for name, scorer in scorers.items():
            sums.setdefault(f"{name}, validation", []).append(_hit_rate(scorer, validation))
            sums.setdefault(name, []).append(_hit_rate(scorer, test))
        sums.setdefault("factors alone", []).append(_hit_rate(factors(test), test))
        sums.setdefault("popularity alone", []).append(_hit_rate(PopularityScorer(train.item_counts()), test))
        if report is not None:
            report({name: float(np.mean(values)) for name, values in sums.items()})
    figures: dict[str, Any] = {name: float(np.mean(values)) for name, values in sums.items()}
    best_alone = max(value for name, value in figures.items() if name.endswith(" alone"))
    figures["adapter / best alone"] = figures["adapter"] / best_alone
    return figures


def _loaded(model: Any, values: Any) -> Any:
    model.load(values)
    return model


def _rows(held_out: EvaluationSlice, users: NDArray[np.int64]) -> EvaluationSlice:
    return EvaluationSlice(
        np.arange(len(users)), held_out.history.select_users(users), held_out.truth.select_users(users)
    )


def _hit_rate(scorer: Any, held_out: EvaluationSlice) -> float:
    return float(evaluate(scorer, held_out, metrics=("hr@10",), depth=10).values["hr@10"].mean())


def _tuned_factors(train: UserItemMatrix, validation: EvaluationSlice, seed: int) -> Any:
    def score(users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        return _hit_rate(SolvedFactorScorer(users, items), validation)

    base = FactorizationConfig(solver="cg")
    space = SearchSpace(recency_boosts=(0.0, 10.0, 40.0), recency_spans=(4.0, 10.0))
    tuned = tune_local(train, validation.history, score, np.random.default_rng(seed), budget=24, base=base, space=space)

    def of(held_out: EvaluationSlice) -> SolvedFactorScorer:
        fitted = fit(held_out.history, tuned.config, np.random.default_rng(seed))
        return SolvedFactorScorer(fitted.user_factors, fitted.item_factors)

    return of


def step_time(data: Path, *, steps: int = 5, pairs: int = 3) -> dict[str, Any]:
    """A batch of 512 users, length 50, d = 64: our step, and our private step, against Keras' own ``fit``."""
    from client.towers.features import ItemFeatures
    from client.towers.histories import training_windows
    from client.towers.local_training import LocalTrainer
    from client.towers.per_user_gradients import GradientComputer
    from client.towers.two_tower import TwoTower
    from common.contributions.updates import UpdateLayout, UpdateMechanism, UpdatePlan
    from simulations.examples.keras_baseline import seconds_a_step

    matrix = load_ml1m(data).select_users(np.arange(512))
    every = np.arange(matrix.n_items, dtype=np.int32)
    training = SEQUENCE.training.model_copy(update={"batch_users": 512})
    config = SEQUENCE.model_copy(update={"training": training})
    features = ItemFeatures(matrix.n_items, ())
    model = TwoTower(config, features, n_shared=matrix.n_items, n_users=512)
    trainer = LocalTrainer(model, matrix, every, training, np.random.default_rng(0))
    private = training.model_copy(update={"negatives": 100})
    computer = GradientComputer(model, matrix, every, private)
    plan = UpdatePlan.of(
        epsilon=1, delta=1e-5, clip_norm=1, noise_multiplier=1, sampling_rate=1, rounds=10**6, shares=1, masked=False
    )
    layout, mechanism = UpdateLayout(tower_variables(config), matrix.n_items), UpdateMechanism(plan)
    windows = training_windows(matrix, config.sequence.length, every, np.random.default_rng(0))

    def private_step() -> None:
        mechanism.update(
            1, n_users=512, layout=layout, gradients=lambda users: computer.gradients(users, public_seed=[0])
        )

    trainer.train()
    private_step()
    found = []
    for _ in range(pairs):
        plain = seconds_a_step(config, matrix.n_items, windows, steps)
        started = time.perf_counter()
        trainer.train(epochs=steps)
        ours = (time.perf_counter() - started) / steps
        started = time.perf_counter()
        private_step()
        found.append({"keras fit": plain, "ours": ours, "private": time.perf_counter() - started})
    return {
        "pairs": found,
        "ours / fit": float(np.median([f["ours"] / f["keras fit"] for f in found])),
        "private / fit": float(np.median([f["private"] / f["keras fit"] for f in found])),
    }


if __name__ == "__main__":
    folder, told = Path(sys.argv[1]), lambda line: print(json.dumps(line), flush=True)
    entries = {
        "cold": lambda: cold_items(folder, report=told),
        "late": lambda: late_platform(folder, report=told),
        "step": lambda: step_time(folder),
    }
    for name in sys.argv[2:]:
        print(json.dumps({name: entries[name]()}, indent=1), flush=True)
