"""Lists of own and foreign items together: are they as good as what users really did says, and who is in them?

Films that a platform lacks in the simulation are films that its users have seen. A list of both is judged as though the
platform had them: of each user's interactions with them the same share is to be found as of those with own items, and the
others count as known.

.venv/bin/python -m simulations.bench.mixed quickstart [KEY=VALUE …]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.recommend.mixing import Mixing
from client.recommend.recommender import Recommender
from common.metrics import judge, per_user_metrics
from simulations.engine.datasets import SimulatedPlatform
from simulations.evaluation.measure import side_by_side
from simulations.run import simulate
from simulations.scenarios.scenario import load_scenario

Figures = dict[str, Any]
_K = 20
_DRAWS = 3
_MOST_USERS = 1500


def bench_mixed(name: str = "quickstart", overrides: list[str] | None = None) -> Figures:
    """Recall@20, NDCG@20 and the share of foreign items, calibrated and each scope standardised by itself."""
    scenario = load_scenario(name, ["price_at=[]", "cross.ceiling=false", *(overrides or [])])
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(scenario, Path(folder))
        stores = {agent.name: agent.store for agent in result.outcome.agents}
        return {
            platform.name: _platform(platform, Recommender(stores[platform.name].load()))
            for platform in result.platforms
            if platform.hidden is not None
        }


def _platform(platform: SimulatedPlatform, recommender: Recommender) -> Figures:
    users = np.sort(np.random.default_rng(0).permutation(platform.training.train.n_users)[:_MOST_USERS])
    hidden = _hidden(platform, recommender).select_users(users)
    test = platform.test.truth.select_users(users)
    known = recommender.model.histories.select_users(users)
    rows = np.unique(hidden.indices)
    # Test interactions are a share of all; of hidden ones the same share is to be found.
    share = test.nnz / max(test.nnz + known.nnz, 1)
    standing = {score: recommender.mixings[0].on_own_scale(score) for score in (0.0, 2.0, 4.0)}
    figures: Figures = {"verdict": recommender.model.verdict.name, "own_score_of_foreign_score": standing}
    foreign_items = len(rows) / (len(rows) + known.n_items)
    figures |= {"users": len(users), "foreign_share_of_items": foreign_items}
    for label, mixing in (("calibrated", recommender.mixings[0]), ("standardised", Mixing())):
        drawn = [_lists(recommender, mixing, users, test, hidden, rows, share, draw) for draw in range(_DRAWS)]
        figures[label] = {name: float(np.mean([each[name] for each in drawn])) for name in drawn[0]}
    return figures


def _hidden(platform: SimulatedPlatform, recommender: Recommender) -> UserItemMatrix:
    """Interactions with hidden items in rows of the cross scope, for every user."""
    assert platform.hidden is not None
    row_of = recommender.cross.rows
    places = np.array([row_of.get(key, -1) for key in platform.hidden.keys], dtype=np.int32)
    interactions = platform.hidden.interactions
    kept = interactions.select_entries(places[interactions.indices] >= 0)
    return UserItemMatrix(kept.indptr, places[kept.indices], kept.values, kept.times, len(recommender.cross.linear))


def _lists(
    recommender: Recommender,
    mixing: Mixing,
    users: NDArray[np.int64],
    test: UserItemMatrix,
    hidden: UserItemMatrix,
    rows: NDArray[np.integer],
    share: float,
    draw: int,
) -> dict[str, float]:
    """Means over users who have something to find."""
    model, m_own = recommender.model, recommender.model.histories.n_items
    to_find = np.random.default_rng([draw, 1]).random(hidden.nnz) < share
    truth = side_by_side(test, hidden.select_entries(to_find))
    seen_there = hidden.select_entries(~to_find)
    candidates = np.zeros(hidden.n_items, dtype=np.bool_)
    candidates[rows] = True
    ranked = np.full((len(users), _K), -1, dtype=np.int32)
    for place, user in enumerate(users.tolist()):
        prepared = recommender.prepare(recommender.history_of(model.user_ids[user]))
        allowed = candidates.copy()
        allowed[seen_there.indices[seen_there.indptr[place] : seen_there.indptr[place + 1]]] = False
        own = recommender.own.best(
            prepared.query("own"), _K, excluded=prepared.history.columns, allowed=None, context=prepared.context
        )
        cross = recommender.cross.best(prepared.query("cross"), _K, excluded=None, allowed=allowed)
        listed = [(score, row) for row, score in own]
        listed += [(mixing.on_own_scale(score), m_own + row) for row, score in cross]
        best = sorted(listed, key=lambda item: -item[0])[:_K]
        ranked[place, : len(best)] = [row for _, row in best]
    asked = truth.row_lengths > 0
    values = per_user_metrics(
        judge(ranked[asked], *_rows_of(truth.select_users(np.flatnonzero(asked)))), ("recall@20", "ndcg@20")
    )
    return {
        **{name: float(each.mean()) for name, each in values.items()},
        "foreign_share_of_lists": float((ranked >= m_own).sum() / (ranked >= 0).sum()),
        "foreign_share_of_truth": float((truth.indices >= m_own).mean()),
    }


def _rows_of(truth: UserItemMatrix) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return truth.indptr, truth.indices


def main(arguments: list[str]) -> None:
    """Print the figures of a scenario, the quickstart unless named."""
    name, overrides = (arguments[0], arguments[1:]) if arguments else ("quickstart", [])
    print(json.dumps(bench_mixed(name, overrides), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
