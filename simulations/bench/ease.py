"""Cross-platform Recall@20 of the item-item model, of public attributes, of the factors, and of their blends.

Everything is chosen on the tuning run's hidden items (:mod:`simulations.evaluation.cross_weights`), never on those that
are scored. Exact sums (``mode: none``); from the repository's root:

    CROSSFED_DATA=FOLDER python -m simulations.bench.ease movies [TEXTS.parquet]

TEXTS is a table of ``imdb_id`` and ``abstract``: a further public attribute of the items, where there is one.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.personalization.described import DescribedItems
from client.scoring.attributes import fit_attribute_transfer
from client.scoring.demand import expected_demand
from client.scoring.ease import EasePart
from client.scoring.evaluation import gap_closed
from client.scoring.scorer import PopularityScorer, Scorer, z
from common.catalogue import FederationSecret
from common.config.ease import EaseConfig
from common.config.federation import FederationPlan
from server.aggregation.ease import transfer_weights
from server.federation.state import FederationState
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.engine.federate import simulation_secret
from simulations.evaluation.cross_weights import _choose, hide_further
from simulations.evaluation.ease import item_statistics
from simulations.evaluation.measure import (
    FIGURE_OF_MERIT,
    CrossPlatformTask,
    Evaluator,
    lookup,
    shared_model,
    train_ceiling,
)
from simulations.evaluation.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.scenarios.scenario import Scenario, load_scenario

CONFIGS = {
    f"weighting {a:g}, λ {ridge:g}": EaseConfig(regularization=ridge, user_weighting=a, kept_items=6000)
    for a, ridge in ((0.0, 100.0), (0.0, 300.0), (0.25, 10.0), (0.25, 30.0))
}
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
BETAS = (0.0, 0.5, 1.0)
_PARTS = ("factors", "linear", "attributes")
_TEXT_COLUMNS = 100


@dataclass(frozen=True, eq=False)
class Precomputed:
    """Scores of the candidates that were worked out before, whatever the histories are: float32 ``[n, c]``."""

    of_candidates: NDArray[np.float32]
    candidates: NDArray[np.bool_]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        scores = np.zeros((len(users), histories.n_items), dtype=np.float32)
        scores[:, self.candidates] = self.of_candidates[users]
        return scores


@dataclass(frozen=True, eq=False)
class Stage:
    """One trained federation and a platform's hidden items: the scored ones, or those of a tuning draw.

    Attributes:
        task: what is ranked.
        metric: Recall at 20, or at the same share of fewer candidates.
        linear: z-scores of the candidates by name of the configuration.
        factors, attributes: z-scores of the candidates, float32 ``[n, c]``.
        demand: float64 ``[c]``: logarithm of the expected demand.
    """

    task: CrossPlatformTask
    metric: str
    linear: Mapping[str, NDArray[np.float32]]
    factors: NDArray[np.float32]
    attributes: NDArray[np.float32]
    demand: NDArray[np.float64]

    def blend(self, config: str, weights: Sequence[float], beta: float) -> Scorer:
        """w_f z(factors) + w_l z(linear) + w_a z(attributes) + β·log demand."""
        parts = (self.factors, self.linear[config], self.attributes)
        total = np.broadcast_to(np.float32(beta) * self.demand.astype(np.float32), self.factors.shape).copy()
        for weight, part in zip(weights, parts, strict=True):
            if weight:
                total += np.float32(weight) * part
        return Precomputed(total, self.task.candidates)

    def merit(self, evaluator: Evaluator, scorer: Scorer, truth: UserItemMatrix | None = None) -> float:
        held_out: EvaluationSlice = self.task.slice_of(self.task.truth if truth is None else truth)
        measured = evaluator.per_user(scorer, held_out, self.task.candidates, (self.metric,))
        return float(measured.values[self.metric].mean())


class Texts:
    """TF-IDF of words, reduced by singular value decomposition; zero for an item without text."""

    def __init__(self, path: Path | None) -> None:
        self._of: dict[str, str] = {}
        if path is not None:
            table = pl.read_parquet(path)
            self._of = dict(zip(table["imdb_id"].to_list(), table["abstract"].to_list(), strict=True))

    def columns(self, keys: Sequence[str]) -> NDArray[np.float64] | None:
        """float64 ``[m, 101]``: the text's length and 100 components; None without texts."""
        if not self._of:
            return None
        words = [set(re.findall(r"\w+", self._of.get(key.removeprefix("imdb:"), "").lower())) for key in keys]
        frequency = Counter(word for own in words for word in own)
        texts = sum(bool(own) for own in words)
        common = sorted(word for word, count in frequency.items() if 3 <= count <= 0.3 * texts)
        place = {word: column for column, word in enumerate(common)}
        rows, columns = [], []
        for row, own in enumerate(words):
            found = [place[word] for word in own if word in place]
            rows += [row] * len(found)
            columns += found
        idf = np.log(texts / np.array([frequency[word] for word in place]))
        matrix = sp.csr_array((idf[columns], (rows, columns)), shape=(len(keys), len(place)))
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix = sp.diags_array(1 / np.maximum(norms, 1e-9)) @ matrix
        left, values, _ = svds(matrix, k=_TEXT_COLUMNS, v0=np.ones(min(matrix.shape)))
        lengths = np.log1p([len(own) for own in words])
        return np.column_stack([lengths, left * values])


def described_by_others(
    platform: SimulatedPlatform,
    platforms: Sequence[SimulatedPlatform],
    state: FederationState,
    secret: FederationSecret,
) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Keys, titles and genres over the vocabulary as the *other* platforms tell them; blank where none has the item."""
    size = len(state.vocabulary)
    keys, titles = [""] * size, [""] * size
    genres: list[tuple[str, ...]] = [()] * size
    for other in platforms:
        if other.name != platform.name:
            items = other.training.items
            for column, position in enumerate(lookup(items.keys, state.vocabulary, secret)):
                if position >= 0:
                    keys[position], titles[position] = items.keys[column], items.titles[column]
                    genres[position] = items.genres[column]
    return keys, titles, genres


def ease_scores(
    task: CrossPlatformTask, platforms: Sequence[SimulatedPlatform], state: FederationState, config: EaseConfig
) -> NDArray[np.float32]:
    """z-scores of the candidates, float32 ``[n, c]``, by the item-item model as a federation walks it."""
    statistics = item_statistics(platforms, state, config)
    solved = transfer_weights(statistics, state.vocabulary.owners, task.platform.name, config)
    return _candidate_scores(
        EasePart(solved.inputs, solved.targets, solved.weights, np.arange(len(task.foreign))), task
    )


def _candidate_scores(scorer: Scorer, task: CrossPlatformTask) -> NDArray[np.float32]:
    blocks = [
        z(scorer.scores(task.histories, users), task.foreign)[:, task.candidates]
        for users in np.array_split(np.arange(task.histories.n_users), 8)
    ]
    return np.concatenate(blocks)


def prepare(
    task: CrossPlatformTask,
    metric: str,
    platforms: Sequence[SimulatedPlatform],
    state: FederationState,
    plan: FederationPlan,
    secret: FederationSecret,
    texts: Texts,
) -> Stage:
    """Work out every part's scores."""
    platform = task.platform
    keys, titles, genres = described_by_others(platform, platforms, state, secret)
    own = PlatformMatrix.of(platform.training).matrix.item_counts()
    positions = state.vocabulary.owners[platform.name]
    foreign = state.item_counts.copy()
    foreign[positions] -= own
    attributes = texts.columns(keys)
    common = positions[foreign[positions] > 0]
    there = np.log1p(foreign)
    told = DescribedItems(titles, {"genres": genres}).columns(common)
    told = told if attributes is None else np.column_stack([told, attributes])
    features = np.column_stack([there, there**2, told])
    demand = expected_demand(own, foreign, positions, told)
    return Stage(
        task=task,
        metric=metric,
        linear={name: ease_scores(task, platforms, state, config) for name, config in CONFIGS.items()},
        factors=_candidate_scores(task.shared(shared_model(state, plan)), task),
        attributes=_candidate_scores(fit_attribute_transfer(task.histories, common, features), task),
        demand=np.log(np.maximum(demand[task.candidates], 1.0)),
    )


def tuning_stages(
    platforms: Sequence[SimulatedPlatform],
    target: SimulatedPlatform,
    scenario: Scenario,
    plan: FederationPlan,
    secret: FederationSecret,
    texts: Texts,
) -> list[Stage]:
    """One for each tuning draw of the scenario."""
    stages = []
    for draw in range(scenario.cross.tuning_draws):
        lost = _choose(platforms, scenario, draw)
        reduced = {platform.name: hide_further(platform, lost[platform.name]) for platform in platforms}
        pool = {name: PlatformMatrix.of(part.training) for name, (part, _) in reduced.items()}
        state = train_pooled(pool, plan, secret)
        task = CrossPlatformTask.of(*reduced[target.name], state, secret)
        share = len(task.platform.hidden.keys) if task.platform.hidden is not None else 1
        depth = min(20, max(1, round(20 * len(reduced[target.name][1].keys) / share)))
        metric = FIGURE_OF_MERIT.replace("20", str(depth))
        left = [part for part, _ in reduced.values()]
        stages.append(prepare(task, metric, left, state, plan, secret, texts))
    return stages


def best_config(stages: Sequence[Stage], evaluator: Evaluator) -> str:
    """The configuration of the item-item model that is best by itself on the tuning draws."""
    alone = {
        name: np.mean([stage.merit(evaluator, stage.blend(name, (0.0, 1.0, 0.0), 0.0)) for stage in stages])
        for name in CONFIGS
    }
    return max(alone, key=lambda name: alone[name])


def choose(
    stages: Sequence[Stage], evaluator: Evaluator, config: str, parts: Sequence[str], betas: Sequence[float]
) -> tuple[tuple[float, ...], float]:
    """Weights and β with the best mean over the tuning draws; the last of ``parts`` has weight 1."""
    grids = [(1.0,) if name == parts[-1] else WEIGHTS if name in parts else (0.0,) for name in _PARTS]
    tried = {
        (weights, beta): np.mean([stage.merit(evaluator, stage.blend(config, weights, beta)) for stage in stages])
        for weights, beta in product(product(*grids), betas)
    }
    return max(tried, key=lambda choice: tried[choice])


def ease_figures(name: str, texts: Texts) -> dict[str, object]:
    """Recall@20 over the hidden items and share of the gap closed, for each platform that has hidden items."""
    scenario = load_scenario(name, [])
    platforms = make_platforms(scenario)
    scenario = scenario.with_platforms(len(platforms))
    secret, plan, evaluator = simulation_secret(scenario.seed), without_privacy(scenario.plan), Evaluator(scenario)
    state = train_pooled({part.name: PlatformMatrix.of(part.training) for part in platforms}, plan, secret)
    report: dict[str, object] = {}
    for target in platforms:
        if target.hidden is None:
            continue
        task = CrossPlatformTask.of(target, target.hidden, state, secret)
        ceiling_model, half = train_ceiling(list(platforms), task, state, scenario, secret)
        scored = prepare(task, FIGURE_OF_MERIT, platforms, state, plan, secret, texts)
        stages = tuning_stages(platforms, target, scenario, plan, secret, texts)
        popularity = PopularityScorer(task.foreign_popularity)
        config = best_config(stages, evaluator)
        ends = [scored.merit(evaluator, scorer, half) for scorer in (popularity, task.shared(ceiling_model))]
        report[target.name] = {"popularity": scored.merit(evaluator, popularity), "ceiling_on_half": ends[1]} | {
            " + ".join(parts) + (" + demand" if len(betas) > 1 else ""): _figures(
                scored, evaluator, config, choose(stages, evaluator, config, parts, betas), half, ends
            )
            for parts in (("factors",), ("linear",), ("attributes",), ("factors", "linear"), _PARTS)
            for betas in ((0.0,), BETAS)
        }
    return report


def _figures(
    scored: Stage,
    evaluator: Evaluator,
    config: str,
    choice: tuple[tuple[float, ...], float],
    half: UserItemMatrix,
    ends: Sequence[float],
) -> dict[str, object]:
    weights, beta = choice
    scorer = scored.blend(config, weights, beta)
    return {
        "recall@20": scored.merit(evaluator, scorer),
        "gap_closed": gap_closed(scored.merit(evaluator, scorer, half), *ends),
        "linear": config if weights[1] else None,
        "weights": dict(zip(_PARTS, weights, strict=True)) | {"demand": beta},
    }


if __name__ == "__main__":
    started = time.perf_counter()
    figures = ease_figures(sys.argv[1], Texts(Path(sys.argv[2]) if len(sys.argv) > 2 else None))
    print(json.dumps(figures | {"seconds": round(time.perf_counter() - started)}, indent=1, ensure_ascii=False))
