"""A deployed platform reads from its files what the simulated one has: every attribute, in any script."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from client.data.describe import describe_items
from client.data.described import Described
from client.data.items import catalogue_from_file
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from common.attributes import AttributeKind, Value, vector_of
from common.config.attributes import DescribeConfig
from common.config.data import ItemsConfig
from simulations.engine.deployment import write_files
from tests.support import item_table, random_matrix

KINDS: dict[str, AttributeKind] = {
    "item_id": "category", "topics": "categories", "price": "number", "blurb": "text", "cover": "vector"
}  # fmt: skip
ROWS: list[dict[str, Value]] = [
    {
        "item_id": 'A, "quoted" maker',
        "topics": ("war|peace", "café", "अ; ब"),
        "price": 0.1 + 0.2,
        "blurb": "two\nlines, 汉字 👩\u200d🚀",
        "cover": vector_of(np.array([0.1, -3e-5, 65504.0])),
    },
    {"item_id": "عربي", "cover": vector_of(np.array([1.0, 2.0, 3.0]))},
    {"price": 1e300, "blurb": "é"},
    {},
]


def test_all_that_is_told_of_items_comes_back_from_the_files(tmp_path: Path) -> None:
    keys = [f"shop:{n}" for n in range(4)]
    table = replace(item_table(keys), genres=(("Sci|Fi", "a"), (), ("b",), ()), further=Described.of_rows(KINDS, ROWS))
    matrix = random_matrix(np.random.default_rng(0), 5, 4)
    nothing = EvaluationSlice(np.zeros(0, dtype=np.int64), matrix, matrix.select_entries(np.zeros(matrix.nnz, bool)))
    data = TrainingData(
        user_ids=tuple("vwxyz"), items=table, train=matrix, validation=nothing, shared=np.ones(4, dtype=bool)
    )
    files = write_files(tmp_path, data, "shop")
    config = ItemsConfig(path=files.items, namespace="shop", genre_separator=files.genre_separator)
    read = catalogue_from_file(config, "here").items
    describe = {name: DescribeConfig.model_validate(own) for name, own in files.describe.items()}
    found, notes = describe_items(read, describe)
    assert notes == ()
    assert (found.keys, found.titles, found.genres) == (table.keys, table.titles, table.genres)
    assert (found.further.kinds, found.further.columns) == (table.further.kinds, table.further.columns)
