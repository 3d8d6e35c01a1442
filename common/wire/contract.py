"""Declares what may be in a message: the arrays of each kind, their dtypes and shapes, declared once for both ends of the wire.

The platform's egress guard checks what it sends, the aggregator what it receives, both with :meth:`MessageSpec.check`.
What leaves a platform is checked for form alone, whatever its values: a refusal that depended on a norm would itself
release a bit about the data. What a platform is sent is public, and may have a bound of scale besides (``max_abs``,
``max_norm``), so that nothing is computed at parameters that break computations down for one user and not for another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DTYPES = frozenset(
    ["bool", "float16", "float32", "float64"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
_MAX_BYTES = 2**31 - 1
"""Largest message that gRPC and protobuf carry."""
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class ArraySpec:
    """One array of a message.

    Attributes:
        name: lower-case identifier, unique within its message.
        dtype: a fixed-size NumPy name (``float32``, ``uint64``, ``bool``); bytes are little-endian on the wire.
            Objects, text, complex and extended precision (whose padding is uninitialised memory) cannot be declared.
        shape: one entry per axis: a positive length, or the name of a size that the message is checked with; ``()`` for
            a single number.
        finite: whether NaN and infinities are refused (floats only).
        max_abs: largest magnitude of a value; None: any. For what a platform receives, never for what it sends.
        max_norm: largest L2 norm of all values together; None: any. Likewise.
        optional: whether a message may do without it. For what a platform receives, never for what it sends: whether an array
            is there says something, too.

    Raises:
        ContractError: the declaration itself is wrong.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    finite: bool = True
    max_abs: float | None = None
    max_norm: float | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _NAME.fullmatch(self.name):
            raise ContractError(f"array name {self.name!r}: use a lower-case identifier of at most 64 characters")
        if self.dtype not in _DTYPES:
            raise ContractError(f"array {self.name!r}: dtype {self.dtype!r} is not one of {', '.join(sorted(_DTYPES))}")
        if type(self.shape) is not tuple or len(self.shape) > _MAX_DIMENSIONS:
            raise ContractError(f"array {self.name!r}: shape must be a tuple of at most {_MAX_DIMENSIONS} axes")
        for axis in self.shape:
            if not (_is_length(axis) or (type(axis) is str and axis.isidentifier())):
                raise ContractError(
                    f"array {self.name!r}: axis {axis!r} is neither a positive length nor a size's name"
                )
        if any(bound is not None and not 0 < bound < math.inf for bound in (self.max_abs, self.max_norm)):
            raise ContractError(f"array {self.name!r}: a bound of scale is a finite number above 0")

    @property
    def bounded(self) -> bool:
        """Whether it has a bound of scale."""
        return self.max_abs is not None or self.max_norm is not None

    def resolved_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every named size filled in.

        Raises:
            ContractError: a size is not given or is not an integer of at least 0.
        """
        return tuple(self._length(axis, sizes) for axis in self.shape)

    def _length(self, axis: int | str, sizes: Mapping[str, int]) -> int:
        if isinstance(axis, int):
            return axis
        length = sizes.get(axis)
        if type(length) is not int or not 0 <= length < 2**63:
            raise ContractError(f"array {self.name!r}: size {axis!r} must be given as an integer of at least 0")
        return length


@dataclass(frozen=True)
class MessageSpec:
    """One kind of message: exactly these arrays, no more and no fewer but for those that are optional.

    Attributes:
        kind: name of the message, unique within a federation.
        arrays: each name once; none for a bare acknowledgement.
        max_bytes: most bytes that all arrays together may have.

    Raises:
        ContractError: the declaration itself is wrong.
    """

    kind: str
    arrays: tuple[ArraySpec, ...]
    max_bytes: int = _MAX_BYTES

    def __post_init__(self) -> None:
        if type(self.kind) is not str or not _NAME.fullmatch(self.kind):
            raise ContractError(f"message kind {self.kind!r}: use a lower-case identifier of at most 64 characters")
        names = [spec.name for spec in self.arrays]
        if len(set(names)) != len(names):
            raise ContractError(f"message {self.kind!r}: an array name is declared twice")
        if not 0 < self.max_bytes <= _MAX_BYTES:
            raise ContractError(f"message {self.kind!r}: max_bytes must be between 1 and {_MAX_BYTES}")

    def check(self, arrays: Mapping[str, NDArray[np.generic]], sizes: Mapping[str, int]) -> None:
        """Accept ``arrays`` only if they are what is declared; nothing is converted, copied or reshaped.

        Refused by name: a missing or undeclared array; anything that is not a plain ``np.ndarray`` (subclasses, memory
        maps, lists); another dtype or byte order; another shape; memory that is not C-contiguous; NaN or infinity where
        ``finite``; a bool that is neither 0 nor 1 in memory; values or norms above a bound that the array has; more than
        ``max_bytes`` in all. A read-only array is
        accepted: it is what deserialisers and frozen contributions hold.

        Args:
            arrays: name → array; a plain ``dict`` or a read-only view of one.
            sizes: name → length for every size named in a shape; others are ignored.

        Raises:
            ContractError: the message names the array and what is wrong with it; no other exception is raised.
        """
        self.check_form(arrays, sizes)
        # Only once the size is known to be bounded is the content read.
        for spec in self._there(arrays):
            problem = _value_problem(arrays[spec.name], spec)
            if problem is not None:
                raise ContractError(f"message {self.kind!r}, array {spec.name!r}: {problem}")

    def check_form(self, arrays: Mapping[str, NDArray[np.generic]], sizes: Mapping[str, int]) -> None:
        """The part of :meth:`check` that reads no value."""
        if type(arrays) not in (dict, MappingProxyType) or type(sizes) not in (dict, MappingProxyType):
            raise ContractError(f"message {self.kind!r}: arrays and sizes must be plain dicts")
        self._check_names(arrays)
        total = 0
        for spec in self._there(arrays):
            array = arrays[spec.name]
            problem = _form_problem(array, spec, sizes)
            if problem is not None:
                raise ContractError(f"message {self.kind!r}, array {spec.name!r}: {problem}")
            total += array.nbytes
        if total > self.max_bytes:
            raise ContractError(f"message {self.kind!r}: {total} bytes in all, more than the {self.max_bytes} allowed")

    def _there(self, arrays: Mapping[str, object]) -> tuple[ArraySpec, ...]:
        return tuple(spec for spec in self.arrays if spec.name in arrays)

    def _check_names(self, arrays: Mapping[str, object]) -> None:
        declared = {spec.name for spec in self.arrays}
        needed = {spec.name for spec in self.arrays if not spec.optional}
        if any(type(name) is not str for name in arrays):
            raise ContractError(f"message {self.kind!r}: an array's name is not text")
        for name in arrays:
            if name not in declared:
                raise ContractError(f"message {self.kind!r}, array {name[:64]!r}: not declared in the contract")
        for name in sorted(needed - set(arrays)):
            raise ContractError(f"message {self.kind!r}, array {name!r}: missing")


def _is_length(value: object) -> bool:
    return type(value) is int and 0 < value < 2**63


def _form_problem(array: object, spec: ArraySpec, sizes: Mapping[str, int]) -> str | None:
    """Return what is wrong with the type, dtype, shape or layout; None if nothing is."""
    if type(array) is not np.ndarray:
        return f"must be a plain NumPy array, not {type(array).__name__}"
    expected = np.dtype(spec.dtype).newbyteorder("<")
    if array.dtype != expected or array.dtype.metadata is not None:
        return f"dtype is {array.dtype.str}, declared {expected.str}"
    shape = spec.resolved_shape(sizes)
    if array.shape != shape:
        return f"shape is {array.shape}, declared {shape}"
    if not array.flags.c_contiguous:
        return "memory is not C-contiguous; send np.ascontiguousarray of it"
    return None


def _value_problem(array: NDArray[np.generic], spec: ArraySpec) -> str | None:
    if spec.finite and array.dtype.kind == "f" and not _all_finite(array):
        return "holds NaN or an infinity"
    if spec.max_abs is not None and array.size and not max(-float(array.min()), float(array.max())) <= spec.max_abs:
        return f"holds a value beyond ±{spec.max_abs:g}"
    if spec.max_norm is not None and not _norm(array) <= spec.max_norm:
        return f"has a norm above {spec.max_norm:g}"
    # A bool byte has 256 values; seven of its bits could carry anything.
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        return "holds a bool that is neither 0 nor 1"
    return None


def _norm(array: NDArray[Any]) -> float:
    return math.sqrt(float(np.square(array, dtype=np.float64).sum()))


def _all_finite(array: NDArray[Any]) -> bool:
    # NaN and infinities survive in a sum, which takes no memory; finite numbers may overflow in one, hence the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    return bool(np.isfinite(total) or np.isfinite(array).all())


def message_bytes(spec: MessageSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of one message's arrays at these sizes.

    Raises:
        ContractError: a size is not given.
    """
    return sum(np.dtype(a.dtype).itemsize * math.prod(a.resolved_shape(sizes)) for a in spec.arrays)
