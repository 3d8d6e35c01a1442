"""Item attributes as numbers: whatever is missing, broken or in another script does no harm and is masked out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.contributions.towers import check_profile
from client.towers.encoders import ContentEncoder
from client.towers.features import ItemFeatures, profile_matrix, text_tokens
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig
from common.errors import DataError

WIDTH = 4
KINDS = ("multi_hot", "numeric", "text", "text_transformer", "image", "vector")


def encoder_of(kind: str, **fields: Any) -> EncoderConfig:
    return EncoderConfig(**{"attribute": "about", "kind": kind, "buckets": 32, "width": WIDTH, "length": 8} | fields)


def features_of(encoder: EncoderConfig, column: list[Any], root: Path | None = None) -> ItemFeatures:
    return ItemFeatures.of((encoder,), {encoder.attribute: column}, len(column), root)


def vectors_of(*encoders: EncoderConfig, features: ItemFeatures) -> np.ndarray:
    """The content vectors under weights that are not zero."""
    layer = ContentEncoder(TowerConfig(dimension=4, encoders=encoders, sequence=SequenceConfig(kind="mean")), features)
    layer()
    for number, variable in enumerate(layer.trainable_variables):
        variable.assign(np.random.default_rng(number).normal(size=variable.shape))
    return np.asarray(layer())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    Image.fromarray(pixels).save(folder / "whole.jpg")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "folder.png").mkdir()
    for place in range(8, 120, 7):
        (folder / f"flipped-{place}.png").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    return folder


VALUES: dict[str, Any] = {
    "multi_hot": ["war", "drama"],
    "numeric": 1999,
    "text": "The Bridge",
    "text_transformer": "The Bridge",
    "image": "whole.png",
    "vector": [0.1, 0.2, 0.3, 0.4],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_attribute_that_half_the_items_lack_is_left_out(kind: str, pictures: Path) -> None:
    encoders = (encoder_of(kind), encoder_of("vector", attribute="sound"))
    sounds: list[Any] = [[1.0, 0.0, 0.0, 1.0]] * 6
    halves = ItemFeatures.of(encoders, {"about": [VALUES[kind], None] * 3, "sound": sounds}, 6, pictures)
    none = ItemFeatures.of(encoders, {"sound": sounds}, 6, pictures)
    assert halves.features[0].present.tolist() == [True, False] * 3
    vectors, without = vectors_of(*encoders, features=halves), vectors_of(*encoders, features=none)
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors[1::2], without[1::2]), "as if the attribute did not exist"
    assert (np.abs(vectors[::2] - without[::2]).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_some_items_are_those_of_all(kind: str, pictures: Path) -> None:
    encoder = encoder_of(kind)
    features = features_of(encoder, [VALUES[kind], None, VALUES[kind]], pictures)
    layer = ContentEncoder(
        TowerConfig(dimension=4, encoders=(encoder,), sequence=SequenceConfig(kind="mean")), features
    )
    assert np.asarray(layer.of_rows(np.array([2, 1, 2]))) == pytest.approx(np.asarray(layer())[[2, 1, 2]], abs=1e-6)


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=40)), min_size=1, max_size=6), st.sampled_from(["text", "multi_hot"])
)
def test_any_text_in_any_script_is_read(column: list[Any], kind: str) -> None:
    encoder = encoder_of(kind, buckets=2)
    (feature,) = features_of(encoder, column).features
    assert feature.values.shape == (len(column), 8)
    assert feature.values.min() >= 0
    assert feature.values.max() < 2
    assert np.array_equal(feature.present, feature.values.any(axis=1))


def test_texts_are_told_apart_in_scripts_with_and_without_spaces() -> None:
    texts = [
        "君の名は。",
        "千と千尋の神隠し",
        "Сталкер",
        "स्लमडॉग मिलियनेयर",
        "بچه‌های آسمان",
        "فيلم",
        "The Bridge",
        "브이아이피",
    ]
    assert len({tuple(text_tokens(text)) for text in texts}) == len(texts)
    assert all(text_tokens(text) for text in texts)
    assert text_tokens("ＢＲＩＤＧＥ") == text_tokens("bridge"), "width and case say nothing"
    assert not [token for empty in ("", "  ", "!?…", "\n") for token in text_tokens(empty)]
    assert set(text_tokens("千と千尋の神隠し")) & set(text_tokens("神隠し伝説"))


def test_empty_texts_and_lists_count_as_missing() -> None:
    (text,) = features_of(encoder_of("text"), ["", "   ", "?!", None, "a"]).features
    assert text.present.tolist() == [False, False, False, False, True]
    (genres,) = features_of(encoder_of("multi_hot"), [[], [""], None, "drama", ["drama"]]).features
    assert genres.present.tolist() == [False, False, False, True, True]
    assert np.array_equal(genres.values[3], genres.values[4])


def test_unreadable_pictures_count_as_missing_and_are_said_once(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    column = ["whole.png", None, "cut.png", "cut.jpg", "empty.png", "text.png", "folder.png", "gone.png", "whole.jpg"]
    with caplog.at_level(logging.WARNING):
        (feature,) = features_of(encoder_of("image"), column, pictures).features
    assert feature.present.tolist() == [True, False, False, False, False, False, False, False, True]
    assert not feature.values[1:8].any()
    assert np.abs(feature.values).max() <= 1
    (record,) = caplog.records
    assert (
        record.getMessage()
        == "item attribute 'about': 6 pictures cannot be read and count as missing; the first is cut.png"
    )


def test_a_picture_with_a_flipped_byte_anywhere_breaks_nothing(pictures: Path) -> None:
    names = sorted(path.name for path in pictures.glob("flipped-*.png"))
    (feature,) = features_of(encoder_of("image"), list(names), pictures).features
    assert np.isfinite(feature.values).all()
    assert not feature.values[~feature.present].any()


@pytest.mark.parametrize(
    ("kind", "value", "match"),
    [
        ("numeric", "long ago", "'about': a value is no number"),
        ("numeric", [1, 2], "'about': a value has 2 numbers, width is 1"),
        ("vector", [1, 2, 3], "'about': a value has 3 numbers, width is 4"),
        ("vector", "1, 2, x, 4", "'about': a value is no number"),
    ],
)
def test_a_value_that_no_encoder_can_read_is_named_by_attribute(kind: str, value: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        features_of(encoder_of(kind), [None, value])


def test_numbers_come_out_on_one_scale_and_others_are_missing() -> None:
    (year,) = features_of(encoder_of("numeric"), [1990.0, float("nan"), 2010.0, float("inf"), None]).features
    assert year.present.tolist() == [True, False, True, False, False]
    assert year.values[:, 0].tolist() == [-1, 0, 1, 0, 0]
    (vector,) = features_of(encoder_of("vector"), ["1 2 3 4", [1, float("nan"), 3, 4], (4, 3, 2, 1)]).features
    assert vector.present.tolist() == [True, False, True]
    assert np.isfinite(vector.values).all()


def test_profiles_are_numbers_on_one_scale_and_categories_as_columns() -> None:
    users = pl.DataFrame({"age": [20, None, 40], "sex": ["f", "m", None], "note": ["x", "y", "z"]})
    profile = profile_matrix(users, ("age", "sex"))
    assert profile.shape == (3, 3)
    assert profile[:, 1:].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert profile[0, 0] == -profile[2, 0] < 0 == profile[1, 0]
    for frame in (users, None):
        with pytest.raises(DataError, match="the column 'job'"):
            check_profile(frame, ("job",))


@pytest.mark.parametrize("cell", [float("nan"), float("inf"), -float("inf"), 1e39, 1e300, -1e308])
def test_one_cell_makes_nobody_elses_profile_no_number(cell: float) -> None:
    profile = profile_matrix(pl.DataFrame({"age": [20.0, 40.0, cell]}), ("age",))
    assert np.isfinite(profile).all()
    assert np.abs(profile).max() < 2
    assert profile_matrix(pl.DataFrame({"age": [cell]}), ("age",)).tolist() == [[0.0]]


def test_a_column_of_which_nobody_has_a_value_has_the_form_of_others() -> None:
    for values in ([None, None], ["x", None]):
        profile = profile_matrix(pl.DataFrame({"job": pl.Series(values, dtype=pl.String)}), ("job",))
        assert profile.shape == (2, 1)
    assert profile_matrix(pl.DataFrame({"age": pl.Series([None, None], dtype=pl.Int64)}), ("age",)).shape == (2, 1)
