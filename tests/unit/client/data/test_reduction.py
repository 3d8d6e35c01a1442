from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.cleaning import load_platform_data
from client.data.dataset import ItemTable
from client.data.reduction import Basis, fit_basis, reduce_attributes
from client.towers.features import ItemFeatures
from common.config.data import DataConfig, ReductionConfig
from common.config.towers import EncoderConfig
from common.errors import ConfigError, DataError, StoreError


def table(**columns: Any) -> ItemTable:
    frame = pl.DataFrame(columns)
    keys = tuple(f"item:{row}" for row in range(frame.height))
    return ItemTable(keys, keys, ((),) * len(keys), frame)


def components(items: ItemTable, config: ReductionConfig) -> np.ndarray:
    reduced, _ = reduce_attributes(items, config)
    return np.array([[np.nan] * config.components if row is None else row for row in reduced.attributes[config.name]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(["pca", "svd"]))
def test_components_are_those_of_a_full_svd_of_the_table(seed: int, width: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(30, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width) * 5
    config = ReductionConfig.model_validate({"components": width - 1, "method": method})
    standard = (values - values.mean(axis=0)) / values.std(axis=0) if method == "pca" else values
    left, singular, _ = np.linalg.svd(standard, full_matrices=False)
    basis = fit_basis(values, [f"c{i}" for i in range(width)], [1] * width, config)
    expected = left[:, :-1] * singular[:-1]
    found = basis.project(values)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6 * singular[0])
    np.testing.assert_allclose(basis.share, singular[:-1] ** 2 / (singular**2).sum(), atol=1e-9)
    largest = np.take_along_axis(basis.axes, np.abs(basis.axes).argmax(axis=0)[None], axis=0)
    assert (largest > 0).all()


def test_numeric_columns_become_one_column_of_components() -> None:
    items = table(year=[1999, 2001, 2010, 2020], price=[1.0, 2.0, 8.0, 9.0], colour=["red", "blue", "red", None])
    reduced, note = reduce_attributes(items, ReductionConfig(components=1))
    assert reduced.attributes.columns == ["colour", "components"]
    assert reduced.attributes["components"].list.len().to_list() == [1] * 4
    assert "2 numeric columns were reduced to 1 components" in note


def test_the_encoder_of_vectors_reads_what_was_reduced() -> None:
    items = table(a=[1.0, 2.0, None, 4.0], b=[2.0, 1.0, None, 3.0])
    reduced, _ = reduce_attributes(items, ReductionConfig(components=2))
    encoder = EncoderConfig(attribute="components", kind="vector", width=2)
    columns = {"components": reduced.attributes["components"].to_list()}
    (feature,) = ItemFeatures.of([encoder], columns, 4).features
    assert feature.present.tolist() == [True, True, False, True]
    assert feature.values.shape == (4, 2)


def test_a_missing_number_is_the_mean_and_all_missing_no_components() -> None:
    items = table(a=[1.0, 2.0, 3.0, 6.0, None, None], b=[1.0, 0.0, 2.0, 5.0, 7.0, None])
    found = components(items, ReductionConfig(components=1))
    assert np.isnan(found[5]).all()
    values = np.array([[1, 1], [2, 0], [3, 2], [6, 5], [np.nan, 7], [np.nan, np.nan]])
    basis = fit_basis(values, ["a", "b"], [1, 1], ReductionConfig(components=1))
    np.testing.assert_allclose(basis.mean, [3.0, 3.0])
    np.testing.assert_allclose(basis.scale, [np.std([1, 2, 3, 6]), np.std([1, 0, 2, 5, 7])])
    np.testing.assert_allclose(found[4], basis.project(np.array([[3.0, 7.0]]))[0], atol=1e-6)


def test_vectors_and_texts_of_numbers_are_numbers_too() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 5))
    config = ReductionConfig(components=3, columns=("v",), method="svd")
    as_lists = components(table(v=vectors.tolist()), config)
    as_text = components(table(v=[", ".join(map(repr, row)) for row in vectors.tolist()]), config)
    np.testing.assert_allclose(as_lists, as_text, atol=1e-6)
    # Distances are kept as well as three dimensions can: the Gram matrix is the best of rank 3.
    singular = np.linalg.svd(vectors, compute_uv=False)
    error = np.linalg.norm(vectors @ vectors.T - as_lists @ as_lists.T)
    np.testing.assert_allclose(error, np.linalg.norm(singular[3:] ** 2), rtol=1e-5)


def test_a_second_platform_takes_the_basis_of_the_first(tmp_path: Path) -> None:
    config = ReductionConfig(components=1, basis=tmp_path / "basis.npz")
    rng = np.random.default_rng(1)
    first = table(a=rng.normal(size=20), b=rng.normal(size=20) * 9)
    shown = components(first, config)
    other = table(a=[*first.attributes["a"][:3], 50.0], b=[*first.attributes["b"][:3], -80.0])
    np.testing.assert_allclose(components(other, config)[:3], shown[:3], atol=1e-6)
    assert abs(components(other, config.model_copy(update={"basis": None}))[0] - shown[0]) > 1e-3


def test_a_basis_of_something_else_is_refused(tmp_path: Path) -> None:
    config = ReductionConfig(components=1, basis=tmp_path / "basis.npz")
    items = table(a=[1.0, 2.0, 4.0], b=[2.0, 2.0, 1.0])
    reduce_attributes(items, config)
    with pytest.raises(ConfigError, match="basis of the columns a, b, here are a, c"):
        reduce_attributes(table(a=[1.0, 2.0], c=[2.0, 1.0]), config)
    with pytest.raises(ConfigError, match="has 1 components"):
        reduce_attributes(items, config.model_copy(update={"components": 2}))
    np.savez(tmp_path / "basis.npz", other=np.zeros(2))
    with pytest.raises(DataError, match="is no basis"):
        Basis.load(tmp_path / "basis.npz")
    (tmp_path / "basis.npz").write_bytes(b"spoilt")
    with pytest.raises(StoreError, match="damaged"):
        reduce_attributes(items, config)


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"colour": ["red", "blue"]}, {}, "no numeric column"),
        ({"a": [1.0, 2.0]}, {"columns": ("b",)}, "'b' is no attribute of the items file; there are a"),
        ({"colour": ["red", "blue"]}, {"columns": ("colour",)}, "'colour' holds text that is no number"),
        ({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 6.0]}, {"components": 2}, "2 is more than the 1 directions"),
        ({"a": [5.0, 5.0]}, {}, "1 is more than the 0 directions"),
        ({"a": [1.0, 2.0]}, {"components": 3}, "3 is more than the 1 directions"),
        ({"v": [[1.0, 2.0], [1.0]]}, {}, "vectors have"),
        ({"a": [1.0, 2.0], "components": ["x", "y"]}, {}, "items.reduction.name"),
    ],
)
def test_what_cannot_be_reduced_is_refused_by_name(columns: Any, changes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reduce_attributes(table(**columns), ReductionConfig.model_validate({"components": 1} | changes))


def platform(tmp_path: Path, interactions: str, **reduction: Any) -> DataConfig:
    (tmp_path / "items.csv").write_text(
        "item_id,title,year,budget\n" + "".join(f"{i},T{i},{1990 + i},{(i * 7) % 5}\n" for i in range(8))
    )
    (tmp_path / "all.csv").write_text("user_id,item_id\n" + interactions)
    return DataConfig.model_validate(
        {
            "interactions": {"path": str(tmp_path / "all.csv")},
            "items": {
                "path": str(tmp_path / "items.csv"),
                "namespace": "item",
                "reduction": {"components": 2} | reduction,
            },
        }
    )


def test_loading_a_platform_reduces_its_items_and_says_so(tmp_path: Path) -> None:
    data = load_platform_data(platform(tmp_path, "a,1\nb,2\n"))
    assert data.items.attributes.columns == ["components"]
    assert data.items.attributes["components"].list.len().to_list() == [2] * 8
    assert any("2 numeric columns were reduced to 2 components" in note for note in data.report.notes)


def test_no_interaction_changes_a_component(tmp_path: Path) -> None:
    few = load_platform_data(platform(tmp_path, "a,1\n"))
    many = load_platform_data(platform(tmp_path, "".join(f"u{u},{i}\n" for u in range(9) for i in range(8))))
    assert few.items.attributes.equals(many.items.attributes)


def test_a_reduction_without_an_items_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs items\.path"):
        DataConfig.model_validate({"interactions": {"path": "x.csv"}, "items": {"reduction": {"components": 2}}})
