"""Text files as records (RFC 4180), found and counted by their bytes before anything parses them.

A record is a line, unless a quoted field holds the line's end. Quotes decide where records end, so they are checked strictly:
a stray one would make a parser take many rows for one field, other users' rows among them. What is refused here:

- a quote inside a field that does not begin with one, or text behind a closing quote: not allowed by RFC 4180
- a quoted field over several lines whose last line has as many separators as a row: two stray quotes look like that
- more fields than the first line has
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.data.reading.dialect import PIECE, STAND_IN, Dialect, pieces
from common.errors import DataError

_LINE_END, _CARRIAGE_RETURN = ord("\n"), ord("\r")
LARGEST_RECORD: Final = 64 << 20

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some megabytes of complete records.

    Attributes:
        text: UTF-8; a line end behind each record; no blank lines.
        lines: int64, one per record: the file's line on which it begins, from 1.
    """

    text: bytes
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)


def read_blocks(path: Path, dialect: Dialect, size: int = PIECE, *, largest: int = LARGEST_RECORD) -> Iterator[Block]:
    """All records below the header.

    Args:
        path: the file.
        dialect: how it is written.
        size: bytes that are looked at together.
        largest: bytes that one record may have.

    Raises:
        DataError: it cannot be read, or a record is not as the dialect has it; names the line and the mend.
    """
    line, rest, header = 1 + dialect.skipped, b"", dialect.header
    for piece, last in _whole_lines(path, dialect, size, largest):
        if not rest and not piece:
            continue
        scan = _Scan(path, dialect, rest + piece, line)
        scan.check_quotes()
        block, used = scan.block()
        if last and used < len(scan.text):
            raise scan.unclosed("the end of the file")
        if len(scan.text) - used > largest:
            raise scan.unclosed(f"{largest >> 20} MiB of text")
        line, rest = line + scan.lines_before(used), scan.text[used:]
        if header and len(block):
            block, header = Block(block.text[scan.first_length :], block.lines[1:]), False
        if len(block):
            yield block


def _whole_lines(path: Path, dialect: Dialect, size: int, largest: int) -> Iterator[tuple[bytes, bool]]:
    """Pieces that end with a line's end, and whether it is the last; escapes and separators in one form."""
    rest, skip, line = b"", dialect.skipped, 1
    source = pieces(path, dialect.encoding, dialect.section, size)
    for piece in source:
        rest += piece
        cut = rest.rfind(b"\n") + 1
        if not cut:
            if len(rest) > largest:
                raise DataError(f"{path}: line {line} has more than {largest >> 20} MiB; is it a text file?")
            continue
        whole, rest = rest[:cut], rest[cut:]
        if skip:
            whole, skip = whole.split(b"\n", 1)[1], 0
        yield _normal(path, whole, dialect, line), False
        line += whole.count(b"\n")
    yield _normal(path, rest + b"\n" if rest else b"", dialect, line), True


def _normal(path: Path, text: bytes, dialect: Dialect, line: int) -> bytes:
    if dialect.escape == "backslash" and dialect.quote is not None and b"\\" in text:
        quote = dialect.quote.encode()
        escaped = rb"\\(\\|" + re.escape(quote) + rb")"
        text = re.sub(escaped, lambda found: 2 * quote if found[1] == quote else found[1], text)
    if dialect.delimiter != dialect.separator:
        stand_in = STAND_IN.encode()
        if stand_in in text:
            line += text[: text.index(stand_in)].count(b"\n")
            raise DataError(
                f"{path}: line {line} holds the control character 0x1F, which cannot be read here; take it out"
            )
        text = text.replace(dialect.separator.encode(), stand_in)
    return text


class _Scan:
    """Where quotes, separators and records are in a text that begins with a record and ends with a line."""

    def __init__(self, path: Path, dialect: Dialect, text: bytes, line: int) -> None:
        self._path, self._dialect, self._line = path, dialect, line
        self.text = text
        self._bytes = np.frombuffer(text, dtype=np.uint8)
        self._separator = ord(dialect.delimiter)
        self._newlines = self._places(_LINE_END)
        quote = dialect.quote
        self._quotes = self._places(ord(quote)) if quote and quote.encode() in text else np.zeros(0, dtype=np.int64)
        outside = self._outside(self._newlines)
        self._ends = self._newlines[outside]
        self._last_lines = np.flatnonzero(outside)
        self.first_length = 0
        """Bytes of the first record that is not blank, with its line end, once :meth:`block` has found it."""

    def lines_before(self, place: int) -> int:
        return int(np.searchsorted(self._newlines, place))

    def check_quotes(self) -> None:
        """Raises: DataError when a quote stands where RFC 4180 does not allow one."""
        if not len(self._quotes):
            return
        opening, closing = self._quotes[::2], self._quotes[1::2]
        before = self._bytes[opening - 1]
        begins = (opening == 0) | np.isin(before, (self._separator, _LINE_END, self._bytes[opening[0]]))
        behind = self._bytes[closing + 1]
        ends = np.isin(behind, (self._separator, _LINE_END, self._bytes[opening[0]]))
        returns = np.flatnonzero(behind == _CARRIAGE_RETURN)
        ends[returns] = self._bytes[closing[returns] + 2] == _LINE_END
        wrong = [int(found[0]) for found in (opening[~begins], closing[~ends]) if len(found)]
        if not wrong:
            return
        place = min(wrong)
        line, opened = self._line_of(place), self._line_of(self._opening_of(place))
        if place in opening:
            what = f"line {line} has a quote inside a field that does not begin with one"
        elif line == opened:
            what = f"line {line} has text behind the quote that closes a field"
        else:
            what = f"line {line} has text behind a quote that closes the field which a quote in line {opened} opens"
        raise DataError(f"{self._path}: {what}; {self._mend()}")

    def block(self) -> tuple[Block, int]:
        """The complete records, and how many bytes they take.

        Raises:
            DataError: a record has more fields than the first line, or takes in what looks like other records.
        """
        if not len(self._ends):
            return Block(b"", np.zeros(0, dtype=np.int64)), 0
        used = int(self._ends[-1]) + 1
        starts = np.concatenate([[0], self._ends[:-1] + 1])
        first_lines = np.concatenate([[0], self._last_lines[:-1] + 1])
        self._check_lines(first_lines)
        self._check_fields(starts, first_lines)
        lengths = self._ends - starts
        blank = (lengths == 0) | ((lengths == 1) & (self._bytes[starts] == _CARRIAGE_RETURN))
        text = self.text[:used]
        if blank.any():
            kept = np.ones(used, dtype=bool)
            kept[starts[blank]] = kept[self._ends[blank]] = False
            text = self._bytes[:used][kept].tobytes()
        lines = self._line + first_lines[~blank]
        if len(lines):
            self.first_length = int(lengths[~blank][0]) + 1
        return Block(text, lines), used

    def unclosed(self, until: str) -> DataError:
        """The error for a quote that opens a field and never closes it."""
        line = self._line_of(self._opening_of(int(self._quotes[-1])) if len(self._quotes) else 0)
        return DataError(
            f"{self._path}: line {line} has a quote that opens a field and is not closed before {until}; {self._mend()}"
        )

    def _check_lines(self, first_lines: Places) -> None:
        if self._dialect.multiline:
            return
        several = np.flatnonzero(self._last_lines > first_lines)
        row = len(self._dialect.names) - 1 if self._dialect.header else 0
        for record in several:
            last = int(self._last_lines[record])
            tail = self.text[self._newlines[last - 1] : self._newlines[last]]
            if tail.count(self._dialect.delimiter.encode()) >= row:
                opened = self._line + int(first_lines[record])
                section = self._dialect.section
                raise DataError(
                    f"{self._path}: line {opened} has a quoted field that goes on to line {self._line + last}, which looks "
                    f"like a row of its own; if quotes are plain characters in this file, set {section}.quote: none; if its "
                    f"writer quotes all text properly, set {section}.multiline: true"
                )

    def _check_fields(self, starts: Places, first_lines: Places) -> None:
        expected = len(self._dialect.names) - 1
        separators = self._places(self._separator)
        separators = separators[separators < self._ends[-1]]
        if len(self._quotes):
            separators = separators[self._outside(separators)]
        if len(separators) == expected * len(self._ends):
            table = separators.reshape(len(self._ends), expected)
            if not expected or (bool((table[:, 0] >= starts).all()) and bool((table[:, -1] < self._ends).all())):
                return
        counts = np.diff(np.searchsorted(separators, self._ends), prepend=0)
        wide = np.flatnonzero(counts > expected)
        if len(wide):
            line, fields = self._line + int(first_lines[wide[0]]), int(counts[wide[0]]) + 1
            raise DataError(
                f"{self._path}: line {line} has {fields} fields, the first line has {expected + 1}; put quotes around fields "
                f"that hold the separator{self._hint()}"
            )

    def _places(self, byte: int) -> Places:
        return np.flatnonzero(self._bytes == byte)

    def _outside(self, places: Places) -> NDArray[np.bool_]:
        """Which of ``places`` no quoted field holds: before them, quotes are even in number."""
        if not len(self._quotes):
            return np.ones(len(places), dtype=bool)
        return np.asarray(np.searchsorted(self._quotes, places) & 1 == 0)

    def _line_of(self, place: int) -> int:
        return self._line + self.lines_before(place)

    def _opening_of(self, place: int) -> int:
        """Where the field opens to which the quote at ``place`` belongs: past the doubled quotes before it."""
        index = int(np.searchsorted(self._quotes, place)) & ~1
        while index and self._quotes[index] - 1 == self._quotes[index - 1]:
            index -= 2
        return int(self._quotes[index])

    def _hint(self) -> str:
        return f"; {self._dialect.hint}" if self._dialect.hint else ""

    def _mend(self) -> str:
        section = self._dialect.section
        mends = [f"if quotes are plain characters in this file, set {section}.quote: none"]
        if self._dialect.escape == "double":
            mends.append(f"if backslashes stand before quotes, set {section}.escape: backslash")
        return "; ".join([*mends, "else double quotes inside fields, as RFC 4180 has it"])
