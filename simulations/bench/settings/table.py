"""Makes the table of settings under privacy: which of a few settings serves a federation of some size best, at each ε.

    CROSSFED_DATA=FOLDER python -m simulations.bench.settings.table > simulations/bench/settings/table.jsonl

A line a cell: a public data set cut to a number of users, and an ε. Measured as in ``dp_quality``: one platform with all
of the noise, strong generalisation, Recall@20 of users who were not trained on, mean over noise draws. The
candidates are the settings found on MovieLens-1M for *another* ε (of a smaller federation noise hides more, as a smaller ε
does), then with more or fewer items kept, and with a smaller bound on a user. MovieLens-1M itself is not looked at here.

:data:`common.config.privacy.SETTINGS_TABLE` has of each cell the best ε to take settings of, and the rest where it is better
than that by more than chance would make it (:func:`row_of`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, strong_generalisation
from common.config.privacy import TunedSetting, reaching
from simulations.bench.privacy.dp_quality import measure, only_users, train_privately

EPSILONS = (1.0, 3.0, 10.0)
REACHES = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Candidates: the settings found for these times ε."""
DRAWS = 3
_HELD_OUT = 0.3
_CHANCE, _SMALL = 0.006, 0.02
"""A gain over another ε's settings as they are must exceed both: two standard errors of the draws, and 2 %."""
_MOST_ITEMS = 4000


@dataclass(frozen=True)
class Source:
    """A public data set: file, columns of user and item, and to how many users it is cut."""

    name: str
    path: str
    user: str
    item: str
    sizes: tuple[int, ...]


SOURCES = (
    Source("ml100k", "ml100k/ratings.parquet", "user", "item", (400, 943)),
    Source("movietweetings", "movietweetings_core/ratings.csv.gz", "user", "imdb_id", (1000, 2290)),
    Source("courses", "education/enrolments.parquet", "user", "item", (1500, 6000)),
    Source("records", "douban/music.parquet", "user", "item", (1500, 5000)),
    Source("books", "douban/book.parquet", "user", "item", (1500, 5000)),
)


def cells(data: Path) -> Iterator[dict[str, Any]]:
    """Every cell of the table: sizes, ε, the best candidate and what all reach."""
    for source in SOURCES:
        for users in source.sizes:
            matrix = load(data, source, users)
            split = strong_generalisation(
                matrix, rng=np.random.default_rng(0), validation_users=1, test_users=_HELD_OUT
            )
            train = split.train.select_users(np.flatnonzero(split.train.row_lengths))
            for epsilon in EPSILONS:
                yield _cell(source.name, train, only_users(split.test), epsilon)


def row_of(cell: dict[str, Any]) -> tuple[int, int, float, float, float, float, float]:
    """The table's row of a cell."""
    reached = cell["recall@20"]
    plain = max((key for key in reached if "," not in key), key=lambda key: reached[key])
    best = cell["chosen"]
    if reached[best] - reached[plain] < max(_CHANCE, _SMALL * reached[plain]):
        best = plain
    reach, _, change = best.partition(", ")
    named, _, factor = change.partition(" ")
    kept_items = float(factor) if named == "items" else 1.0
    bound = float(factor) if named == "bound" else 1.0
    sizes = cell["users"], cell["items"], cell["history"], cell["epsilon"]
    return *sizes, float(reach), kept_items, bound


def load(data: Path, source: Source, users: int) -> UserItemMatrix:
    """A source's interactions of ``users`` users drawn at random, with the items that most have."""
    path = data / source.path
    rows = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    user, item = rows[source.user].to_numpy(), rows[source.item].to_numpy()
    drawn = np.random.default_rng(5).permutation(np.unique(user))[:users]
    here = np.isin(user, drawn)
    names, counts = np.unique(item[here], return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")[:_MOST_ITEMS]]
    here &= np.isin(item, kept)
    return _matrix(user[here], item[here])


def _matrix(user: NDArray[Any], item: NDArray[Any]) -> UserItemMatrix:
    names, rows = np.unique(user, return_inverse=True)
    items, columns = np.unique(item, return_inverse=True)
    pairs = np.unique(rows.astype(np.int64) * len(items) + columns)
    rows, columns = np.divmod(pairs, len(items))
    ones = np.ones(len(pairs), dtype=np.float32)
    return UserItemMatrix.from_entries(
        rows, columns, ones, np.zeros(len(pairs), dtype=np.int64), n_users=len(names), n_items=len(items)
    )


def _cell(name: str, train: UserItemMatrix, held_out: EvaluationSlice, epsilon: float) -> dict[str, Any]:
    reached: dict[str, float] = {}
    tried: dict[str, TunedSetting] = {}

    def look(key: str, setting: TunedSetting) -> None:
        tried[key] = setting
        draws = [train_privately(train, epsilon, setting, None, np.random.default_rng(k))[0] for k in range(DRAWS)]
        reached[key] = round(float(np.mean([measure(f, setting, held_out)["recall@20"] for f in draws])), 4)

    for reach in REACHES:
        look(f"{reach:g}", reaching(reach * epsilon))
    best = max(reached, key=lambda key: reached[key])
    look(f"{best}, items 2", changed(tried[best], kept_items=2.0))
    look(f"{best}, items 0.5", changed(tried[best], kept_items=0.5))
    look(f"{best}, bound 0.3", changed(tried[best], max_count_contribution=0.3))
    return {
        "source": name,
        "users": train.n_users,
        "items": train.n_items,
        "history": round(train.nnz / train.n_users, 1),
        "epsilon": epsilon,
        "chosen": max(reached, key=lambda key: reached[key]),
        "recall@20": reached,
    }


def changed(setting: TunedSetting, **times: float) -> TunedSetting:
    """``setting`` with parameters of its mechanism multiplied."""
    mechanism = setting.mechanism
    update = {name: type(getattr(mechanism, name))(getattr(mechanism, name) * factor) for name, factor in times.items()}
    return setting.model_copy(update={"mechanism": mechanism.model_copy(update=update)})


if __name__ == "__main__":
    folder = os.environ.get("CROSSFED_DATA")
    if folder is None:
        sys.exit("set CROSSFED_DATA to the folder of the research data")
    for cell in cells(Path(folder)):
        print(json.dumps(cell), flush=True)
