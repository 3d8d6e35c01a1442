"""Numeric attributes of items, reduced to a few components before anything is trained.

What is reduced is the items file's numeric columns, not the user-item matrix: the factorisation is the truncated SVD of
that already, with its own weights, and one fitted here would be a release of its own under privacy. The basis is fitted on
the catalogue as the items file has it. No interaction is looked at (soundness rule 1), so nothing of a user, and nothing
that is held out, can be in it.

Principal components are the leading eigenvectors of the columns' correlation matrix (Jolliffe 2002, ch. 2 and 3), those of
a truncated SVD of X the leading eigenvectors of XᵀX (Eckart & Young 1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import eigh

from client.data.dataset import ItemTable
from common.config.data import ReductionConfig
from common.errors import ConfigError, DataError
from common.files import archive, read_archive, write_atomically

# Beside the largest eigenvalue, one below this is rounding.
_RANK = 1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class Basis:
    """Maps w numbers of an item to k components.

    Attributes:
        columns: names of the columns, in order.
        widths: int64 ``[columns]``: numbers in each, 1 but for vectors; w in sum.
        mean: float64 ``[w]``, which is subtracted; also what stands for a missing number.
        scale: float64 ``[w]``, by which the rest is divided.
        axes: float64 ``[w, k]``, orthonormal columns; the largest loading of each is positive, so that a basis repeats.
        share: float64 ``[k]``: of the total variance (``pca``) or sum of squares (``svd``), on what it was fitted on.
    """

    columns: tuple[str, ...]
    widths: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    axes: NDArray[np.float64]
    share: NDArray[np.float64]

    def project(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 ``[n, k]`` of ``values`` float64 ``[n, w]``, NaN where a number is missing."""
        known = np.where(np.isfinite(values), values, self.mean)
        return ((known - self.mean) / self.scale) @ self.axes

    def save(self, path: Path) -> None:
        """Write it for other platforms: their components are comparable only in the same basis.

        Raises:
            StoreError: it cannot be written.
        """
        arrays = {"columns": np.array(self.columns), "widths": self.widths, "mean": self.mean}
        arrays |= {"scale": self.scale, "axes": self.axes, "share": self.share}
        write_atomically(path, archive(arrays), mode=0o644)

    @classmethod
    def load(cls, path: Path) -> Basis:
        """Read what :meth:`save` wrote.

        Raises:
            StoreError: the file is damaged.
            DataError: it is something else.
        """
        arrays = read_archive(path)
        try:
            columns = tuple(str(name) for name in arrays.pop("columns"))
            return cls(columns=columns, **arrays)
        except (KeyError, TypeError):
            raise DataError(f"{path}: is no basis of items.reduction; remove it to have one fitted") from None


def fit_basis(
    values: NDArray[np.float64], columns: Sequence[str], widths: Sequence[int], config: ReductionConfig
) -> Basis:
    """Fit on ``values`` float64 ``[n, w]``, NaN where a number is missing.

    Raises:
        DataError: the columns vary in fewer directions than ``components``.
    """
    known = np.isfinite(values)
    present = np.where(known, values, 0.0)
    counts = np.maximum(known.sum(axis=0), 1)
    if config.method == "pca":
        mean = present.sum(axis=0) / counts
        centred = np.where(known, values - mean, 0.0)
        deviation = np.sqrt(np.square(centred).sum(axis=0) / counts)
        # A column that is the same everywhere is nothing but rounding.
        flat = deviation <= 1e-12 * np.maximum(np.abs(mean), 1.0)
        scale = np.where(flat, 1.0, deviation)
        standard = np.where(flat, 0.0, centred / scale)
    else:
        mean, scale, standard = np.zeros(values.shape[1]), np.ones(values.shape[1]), present
    gram = standard.T @ standard
    width, k = len(gram), config.components
    found, axes = (np.zeros(0), np.zeros((width, 0)))
    if k <= width:
        found, axes = eigh(gram, subset_by_index=[width - k, width - 1])
        found, axes = found[::-1], axes[:, ::-1]
    total = float(np.trace(gram))
    if k > width or not found[-1] > _RANK * total:
        rank = int(np.linalg.matrix_rank(gram, tol=_RANK * total)) if total else 0
        raise DataError(
            f"items.reduction.components: {k} is more than the {rank} directions in which the {len(columns)} numeric columns "
            "of the items file vary; lower it"
        )
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    return Basis(
        columns=tuple(columns),
        widths=np.asarray(widths, dtype=np.int64),
        mean=mean,
        scale=scale,
        axes=axes * signs,
        share=found / total,
    )


def reduce_attributes(items: ItemTable, config: ReductionConfig) -> tuple[ItemTable, str]:
    """The catalogue with its numeric columns replaced by one column of k components, and a note for the report.

    Args:
        items: a catalogue as its file has it.
        config: what to reduce, and to how much.

    Returns:
        The table, whose attributes have the column ``config.name`` (list of float32, null for an item of which none of the
        numbers is known) in place of the reduced ones.

    Raises:
        DataError: a column is missing or holds no numbers, or there are too few.
        ConfigError: the basis given is of other columns or another number of components.
    """
    frame = items.attributes
    columns = _columns(frame, config)
    parts = [_numbers(frame[name]) for name in columns]
    values = np.concatenate(parts, axis=1)
    widths = [part.shape[1] for part in parts]
    if config.basis is not None and config.basis.exists():
        basis = Basis.load(config.basis)
        _check_fits(basis, columns, widths, config)
    else:
        basis = fit_basis(values, columns, widths, config)
        if config.basis is not None:
            basis.save(config.basis)
    rest = frame.drop(columns)
    if config.name in rest.columns:
        raise DataError(
            f"the items file has a column {config.name!r} already; set items.reduction.name to another name"
        )
    known: NDArray[np.bool_] = np.asarray(np.isfinite(values).any(axis=1))
    components = basis.project(values).astype(np.float32)
    reduced = pl.Series(
        config.name,
        [row.tolist() if has else None for row, has in zip(components, known, strict=True)],
        dtype=pl.List(pl.Float32),
    )
    note = (
        f"{len(columns)} numeric columns were reduced to {config.components} components, which have "
        f"{basis.share.sum():.0%} of {'their variance' if config.method == 'pca' else 'their sum of squares'}"
    )
    return replace(items, attributes=rest.with_columns(reduced)), note


def _columns(frame: pl.DataFrame, config: ReductionConfig) -> tuple[str, ...]:
    if config.columns is None:
        columns = tuple(name for name in frame.columns if _numeric(frame.schema[name]))
        if not columns:
            raise DataError(
                "items.reduction: the items file has no numeric column; name columns, or leave reduction out"
            )
        return columns
    for name in config.columns:
        if name not in frame.columns:
            raise DataError(
                f"items.reduction.columns: {name!r} is no attribute of the items file; there are {', '.join(frame.columns)}"
            )
    return config.columns


def _numeric(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    # Null: no value at all.
    return isinstance(inner, pl.DataType) and (inner.is_numeric() or inner == pl.Boolean)


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    """float64 ``[n, width]``, NaN where missing: a number, a vector, or a text of numbers with blanks or commas between."""
    if not _numeric(column.dtype) and column.dtype != pl.String:
        raise DataError(f"items.reduction.columns: {column.name!r} holds no numbers")
    if column.dtype == pl.String:
        column = column.str.replace_all(",", " ").str.strip_chars().str.split(" ")
        column = column.list.eval(pl.element().filter(pl.element() != ""))
    if not isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.Float64).fill_null(np.nan).to_numpy()[:, None]
    rows: list[Any] = column.to_list()
    width = max((len(row) for row in rows if row is not None), default=1)
    values = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        if not row:
            continue
        if len(row) != width:
            raise DataError(
                f"items.reduction.columns: {column.name!r}: vectors have {len(row)} and {width} numbers; all need the same"
            )
        try:
            values[place] = [np.nan if one is None else float(one) for one in row]
        except ValueError:
            raise DataError(f"items.reduction.columns: {column.name!r} holds text that is no number") from None
    return values


def _check_fits(basis: Basis, columns: Sequence[str], widths: Sequence[int], config: ReductionConfig) -> None:
    if basis.columns != tuple(columns) or basis.widths.tolist() != list(widths):
        raise ConfigError(
            f"{config.basis}: is the basis of the columns {', '.join(basis.columns)}, here are {', '.join(columns)}; "
            "set items.reduction.columns to the same on every platform"
        )
    if basis.axes.shape[1] != config.components:
        raise ConfigError(
            f"{config.basis}: has {basis.axes.shape[1]} components; set items.reduction.components to that"
        )
