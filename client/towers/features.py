"""Attributes of items in numbers, the same on every platform: hashed, so that nobody's vocabulary of words is needed.

An item that lacks an attribute is marked as lacking it, and the encoder of that attribute is left out of its vector. Of
other platforms' items a platform knows what is described of them, from their cards.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions, ItemTable
from client.data.described import Described
from client.towers.texts import TextVectors, projected_texts
from common.attributes import ALWAYS
from common.config.towers import EncoderConfig
from common.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_log = getLogger(__name__)
_NGRAM = 3
Column = list[Any]


@dataclass(frozen=True, eq=False)
class Feature:
    """One attribute of all items.

    Attributes:
        config: its encoder.
        values: int32 ``[n, length]`` of hashed tokens (0 is padding), or float32 ``[n, width]`` of numbers and vectors, or
            float32 ``[n, length, length, 3]`` of pictures.
        present: bool ``[n]``.
        scale: mean and deviation that numbers were standardised with.
    """

    config: EncoderConfig
    values: NDArray[Any]
    present: NDArray[np.bool_]
    scale: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """All attributes that the model reads, in the order of its encoders."""

    n_items: int
    features: tuple[Feature, ...]

    @classmethod
    def of(
        cls,
        encoders: Sequence[EncoderConfig],
        columns: Mapping[str, Column],
        n_items: int,
        root: Path | None = None,
        texts: TextVectors | None = None,
    ) -> ItemFeatures:
        """Read ``columns`` (one value an item, None where it is missing) as ``encoders`` want them.

        Args:
            encoders: of the plan.
            columns: by attribute; an attribute that the platform does not have may be left out.
            n_items: n.
            root: folder that file names of pictures are relative to.
            texts: the plan's text encoder, for encoders of kind ``text_vector``.

        Raises:
            DataError: a value that an encoder cannot read; the message names attribute and kind.
        """
        nothing: Column = [None] * n_items
        return cls(n_items, tuple(_feature(e, columns.get(e.attribute, nothing), root, texts) for e in encoders))


def _feature(config: EncoderConfig, column: Column, root: Path | None, texts: TextVectors | None) -> Feature:
    if len(column) and config.kind in ("multi_hot", "text", "text_transformer"):
        tokens = [_tokens(config, value) for value in column]
        present = np.array([value is not None and len(found) > 0 for value, found in zip(column, tokens, strict=True)])
        return Feature(config, _hashed(config, tokens), present)
    if config.kind == "image":
        return _pictures(config, column, root)
    if config.kind == "sentence":
        return _sentences(config, column)
    if config.kind == "text_vector":
        return _text_vectors(config, column, texts)
    return _numbers(config, column)


def _tokens(config: EncoderConfig, value: Any) -> list[str]:
    if value is None:
        return []
    if config.kind == "multi_hot":
        several = value if isinstance(value, list | tuple) else [value]
        return [f"={_fold(str(one))}" for one in several if str(one).strip()]
    return text_tokens(str(value))


def text_tokens(text: str) -> list[str]:
    """Words of a text in any script; of a word without spaces around it (Chinese, Japanese, Thai) its trigrams too.

    >>> text_tokens("Die Brücke")
    ['die', 'brücke', '#brü', '#rüc', '#ück', '#cke']
    >>> text_tokens("  ")
    []
    """
    tokens: list[str] = []
    for word in _fold(text).split():
        cleaned = "".join(c for c in word if c.isalnum() or unicodedata.category(c).startswith("M"))
        if not cleaned:
            continue
        tokens.append(cleaned)
        if len(cleaned) > _NGRAM:
            tokens += [f"#{cleaned[i : i + _NGRAM]}" for i in range(len(cleaned) - _NGRAM + 1)]
    return tokens


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _hashed(config: EncoderConfig, tokens: Sequence[Iterable[str]]) -> NDArray[np.int32]:
    """int32 ``[n, length]``: rows 1 … buckets − 1 of the table; CRC-32 is the same on every machine."""
    hashed = np.zeros((len(tokens), config.length), dtype=np.int32)
    for row, words in enumerate(tokens):
        codes = [1 + zlib.crc32(word.encode()) % (config.buckets - 1) for word in words][: config.length]
        hashed[row, : len(codes)] = codes
    return hashed


def _numbers(config: EncoderConfig, column: Column) -> Feature:
    width = 1 if config.kind == "numeric" else config.width
    values = np.zeros((len(column), width), dtype=np.float32)
    present = np.array([value is not None for value in column], dtype=np.bool_)
    for row in np.flatnonzero(present):
        try:
            vector = np.asarray(_parsed(column[row]), dtype=np.float32).reshape(-1)
        except (TypeError, ValueError):
            raise DataError(
                f"item attribute {config.attribute!r}: a value is no number; use kind: multi_hot or text"
            ) from None
        if len(vector) != width:
            raise DataError(f"item attribute {config.attribute!r}: a value has {len(vector)} numbers, width is {width}")
        values[row], present[row] = np.nan_to_num(vector), np.isfinite(vector).all()
    if config.kind == "numeric" and present.any():
        # On a scale that is every platform's own: years and prices alike come out around 0.
        mean, deviation = float(values[present].mean()), float(values[present].std()) or 1.0
        values = np.where(present[:, None], (values - mean) / deviation, 0.0).astype(np.float32)
        return Feature(config, values, present, (mean, deviation))
    return Feature(config, values, present)


def _parsed(value: Any) -> Any:
    return [float(part) for part in value.replace(",", " ").split()] if isinstance(value, str) else value


def _pictures(config: EncoderConfig, column: Column, root: Path | None) -> Feature:
    """Files read and scaled; one that cannot be read counts as missing, and is said once."""
    import keras

    values = np.zeros((len(column), config.length, config.length, 3), dtype=np.float32)
    present = np.zeros(len(column), dtype=np.bool_)
    broken: list[str] = []
    for row, name in enumerate(column):
        if name is None:
            continue
        try:
            picture = keras.utils.load_img((root or Path()) / str(name), target_size=(config.length, config.length))
        except (OSError, ValueError):
            broken.append(str(name))
            continue
        values[row], present[row] = keras.utils.img_to_array(picture) / 127.5 - 1, True
    if broken:
        _log.warning(
            "item attribute %r: %d pictures cannot be read and count as missing; the first is %s",
            config.attribute, len(broken), broken[0],
        )  # fmt: skip
    return Feature(config, values, present)


def _sentences(config: EncoderConfig, column: Column) -> Feature:
    """Vectors of a local model that maps text to ``[n, width]``."""
    import tensorflow as tf

    present = np.array([value is not None and bool(str(value).strip()) for value in column], dtype=np.bool_)
    values = np.zeros((len(column), config.width), dtype=np.float32)
    if present.any():
        if config.path is None or not Path(config.path).is_dir():
            raise DataError(f"encoder of {config.attribute!r}: path must be the folder of a local sentence model")
        model = cast("Any", tf.saved_model.load(config.path))
        found = np.asarray(model(tf.constant([str(column[row]) for row in np.flatnonzero(present)])), dtype=np.float32)
        if found.shape[1:] != (config.width,):
            raise DataError(
                f"encoder of {config.attribute!r}: its model gives {found.shape[1:]} numbers, width is {config.width}"
            )
        values[present] = found
    return Feature(config, values, present)


def _text_vectors(config: EncoderConfig, column: Column, texts: TextVectors | None) -> Feature:
    words = ["; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "") for value in column]
    if not any(words):
        return Feature(config, np.zeros((len(words), config.width), np.float32), np.zeros(len(words), dtype=np.bool_))
    if texts is None:
        raise DataError(f"encoder of {config.attribute!r}: there is no text encoder; name one at plan.text")
    values = projected_texts(words, texts, config.width)
    return Feature(config, values, np.asarray(values.any(axis=1), dtype=np.bool_))


def item_columns(
    vocabulary: ItemDescriptions, own: ItemTable, rows: NDArray[np.int32], n_items: int
) -> dict[str, list[Any]]:
    """Attributes of the model's items by name: what is described of all, other columns of the own ones alone.

    Args:
        vocabulary: the first m items, as their cards describe them.
        own: the platform's catalogue.
        rows: int32 ``[m_own]``: the model's row of each own item.
        n_items: of the model.
    """
    columns: dict[str, list[Any]] = {}
    for name in own.attributes.columns:
        columns[name] = [None] * n_items
        for row, value in zip(rows, own.attributes[name].to_list(), strict=True):
            columns[name][row] = value
    told, mine = vocabulary.described, own.described
    for name in {**told.kinds, **mine.kinds}:
        # What is described has the form of its card, here as everywhere; a column of that name may be another.
        columns[name] = [None] * n_items
        if name in told.kinds:
            columns[name][: len(vocabulary.keys)] = _plain(told, name)
        if name in mine.kinds:
            for row, value in zip(rows, _plain(mine, name), strict=True):
                columns[name][row] = value if value is not None or name in ALWAYS else columns[name][row]
    return columns


def _plain(described: Described, name: str) -> Column:
    """As the encoders take values; None where nobody told, or told a vector of another length than most do."""
    if described.kinds[name] != "vector":
        return list(described.columns[name])
    return [numbers.tolist() if numbers.any() else None for numbers in described.vectors(name)]


_LARGEST = 1e30
"""Numbers of a profile beyond it count as it, so that squares stay finite."""


def profile_matrix(users: pl.DataFrame, names: Sequence[str]) -> NDArray[np.float32]:
    """float32 ``[n, a]``: numbers on a common scale, categories as 0/1 columns; unknown is 0, and so is no number.

    All values are finite whatever a cell holds: one person's would otherwise make everybody's profile no number.

    Args:
        users: a row a user.
        names: of its columns.
    """
    import polars as pl

    parts: list[NDArray[np.float32]] = []
    for name in names:
        column = users[name]
        if column.dtype.is_numeric():
            parts.append(_standardised(column)[:, None])
        else:
            kinds = sorted(column.drop_nulls().cast(pl.String).unique().to_list())
            told = [(column == kind).fill_null(value=False).to_numpy() for kind in kinds]
            # A column of which nobody has a value stays one: whether somebody does must not decide what can be computed.
            parts.append(np.stack(told or [np.zeros(len(column))], axis=1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _standardised(column: pl.Series) -> NDArray[np.float32]:
    """float32 ``[n]``: mean 0 and deviation 1 over who has a number, 0 for who has none."""
    import polars as pl

    numbers = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = np.isfinite(numbers)
    values = np.clip(numbers[known], -_LARGEST, _LARGEST)
    out = np.zeros(len(numbers), dtype=np.float32)
    if len(values):
        out[known] = (values - values.mean()) / (values.std(ddof=1) if len(values) > 1 and np.ptp(values) > 0 else 1.0)
    return out
