"""How a text file is written: encoding, separator, quotes, header, told by its settings and its first line.

Nothing here depends on a row: what one user did never decides how the others' rows are read.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast

from common.config.data import FileConfig
from common.errors import DataError

PIECE: Final = 4 << 20
"""Bytes of a file that are looked at together."""
STAND_IN: Final = "\x1f"
"""Takes the place of a separator of several characters (ASCII calls it the unit separator)."""
_CANDIDATES = (",", ";", "\t", "|", "::")
_SHOWN = {"\t": "tab"}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GZIP = b"\x1f\x8b"
_OTHER_KINDS = (
    (b"PK\x03\x04", "is a ZIP archive or an Excel workbook; save it as CSV"),
    (b"PAR1", "is a Parquet file; set {section}.format: parquet"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it, or compress it with gzip"),
    (b"BZh", "is compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "is compressed with xz; unpack it, or compress it with gzip"),
)
_EXCEL_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Dialect:
    """How one text file is written.

    Attributes:
        section: of the configuration, for messages: ``interactions``, ``items`` or ``users``.
        encoding: as Python's codecs know it.
        separator: between fields; as it is in the file.
        quote: around fields; None where quotes are plain characters.
        escape: of a quote in a quoted field.
        multiline: whether a quoted field may hold lines that look like rows.
        header: whether the first line names the columns.
        skipped: lines before the header: 1 where Excel's ``sep=;`` stands there.
        names: of the columns, unique.
        notes: what was told from the file, a phrase each.
        hint: what else the separator may be; empty where nothing speaks for another one.
    """

    section: str
    encoding: str
    separator: str
    quote: str | None
    escape: Literal["double", "backslash"]
    multiline: bool
    header: bool
    skipped: int
    names: tuple[str, ...]
    notes: tuple[str, ...]
    hint: str

    @property
    def delimiter(self) -> str:
        """The one character between fields once :data:`STAND_IN` has taken the place of a longer separator."""
        return self.separator if len(self.separator) == 1 else STAND_IN


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where it is a gzip file, whatever its name.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return cast("BinaryIO", gzip.open(path) if packed else path.open("rb"))


def pieces(path: Path, encoding: str, section: str, size: int = PIECE) -> Iterator[bytes]:
    """The file as UTF-8 without a byte-order mark, some megabytes at a time.

    Raises:
        DataError: it cannot be read, is a damaged gzip file, or not text in this encoding; names the line.
    """
    lines = 1
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open_bytes(path) as file:
            while True:
                raw = file.read(size)
                try:
                    piece = decoder.decode(raw, final=not raw).encode()
                except UnicodeDecodeError as error:
                    before = error.object[: error.start].decode(encoding, errors="ignore")
                    problem = _encoding_problem(lines + before.count("\n"), encoding, section)
                    break
                if piece:
                    yield piece
                if not raw:
                    return
                lines += piece.count(b"\n")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        problem = f"is a damaged or truncated gzip file: it cannot be unpacked beyond line {lines}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    # Out here, as a codec's own message quotes the file.
    raise DataError(f"{path}: {problem}")


def find_dialect(path: Path, config: FileConfig, kind: str, section: str) -> Dialect:
    """Tell how ``path`` is written, from its settings and its first line.

    Args:
        path: the file.
        config: its settings.
        kind: csv, tsv or inter.
        section: of the configuration, for messages.

    Raises:
        DataError: it is empty, no text, in another encoding, or its header is damaged.
    """
    notes: list[str] = []
    encoding = config.encoding or _encoding(path, section, notes)
    head, skipped = _first_lines(path, encoding, section), 0
    excel = _EXCEL_LINE.fullmatch(head[0].strip())
    if excel:
        head, skipped = head[1:], 1
        notes.append(f"its first line says that {_shown(excel[1])} separates fields")
    if not head:
        raise DataError(f"{path}: is empty")
    default = "," if kind == "csv" else "\t"
    separator = config.separator or (excel[1] if excel else default)
    widths = {one: _width(head[0], one) for one in _CANDIDATES}
    likeliest = max(widths, key=lambda one: widths[one])
    if config.separator is None and not excel and config.header and _width(head[0], default) == 1 < widths[likeliest]:
        separator = likeliest
        notes.append(
            f"fields are taken to be separated by {_shown(separator)}, as its header is (else set {section}.separator)"
        )
    quote = _quote(config, kind, separator)
    names = _names(path, head, separator, quote)
    hint = ""
    if widths[likeliest] > max(len(names), 1):
        hint = (
            f"{_shown(likeliest)} would split its first line into {widths[likeliest]} fields: "
            f'if it separates them, set {section}.separator: "{_escaped(likeliest)}"'
        )
    return Dialect(
        section=section,
        encoding=encoding,
        separator=separator,
        quote=quote,
        escape=config.escape,
        multiline=config.multiline,
        header=config.header,
        skipped=skipped,
        names=names if config.header else tuple(f"column_{number}" for number in range(1, len(names) + 1)),
        notes=tuple(notes),
        hint=hint,
    )


def double_colons(path: Path) -> bool:
    """Whether the file's first line has ``::`` between fields, as MovieLens writes them."""
    try:
        with open_bytes(path) as file:
            return file.readline(1 << 16).count(b"::") >= 1
    except (OSError, EOFError, zlib.error):
        return False


def _encoding(path: Path, section: str, notes: list[str]) -> str:
    try:
        with open_bytes(path) as file:
            start = file.read(512)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: is a damaged or truncated gzip file") from None
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            if encoding != "utf-8-sig":
                notes.append(f"its byte-order mark says {encoding.upper()}, and so it was read")
            return encoding
    for magic, problem in _OTHER_KINDS:
        if start.startswith(magic):
            raise DataError(f"{path}: {problem.format(section=section)}")
    if b"\0" in start:
        little = start[1::2].count(0) >= start[::2].count(0)
        guess = "utf-16-le" if little else "utf-16-be"
        raise DataError(
            f"{path}: is not UTF-8 text: it holds zero bytes, as UTF-16 does; if it is that, set {section}.encoding: {guess}"
        )
    return "utf-8"


def _encoding_problem(line: int, encoding: str, section: str) -> str:
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"line {line} is not text in {encoding}; set {section}.encoding to what it is written in"
    return (
        f"line {line} is not UTF-8 text; set {section}.encoding to what it is written in, such as latin-1 or cp1252, or "
        "convert it, for instance with: iconv -f latin1 -t utf8"
    )


def _first_lines(path: Path, encoding: str, section: str) -> list[str]:
    """The first lines that are not blank, enough for any header; at least one."""
    text = next(pieces(path, encoding, section), b"")[:_LONGEST_HEADER].decode(errors="ignore")
    if re.search(r"\r[^\n]", text) and "\n" not in text:
        raise DataError(f"{path}: its lines end in CR alone, as on old Macs; convert it: tr '\\r' '\\n'")
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path}: is empty")
    return lines


def _width(line: str, separator: str) -> int:
    """How many fields a line has; separators in double quotes do not count."""
    return re.sub(r'"[^"]*"', "", line).count(separator) + 1


def _quote(config: FileConfig, kind: str, separator: str) -> str | None:
    if config.quote is not None:
        return None if config.quote == "none" else config.quote
    return None if kind == "inter" or len(separator) > 1 else '"'


def _names(path: Path, head: list[str], separator: str, quote: str | None) -> tuple[str, ...]:
    """The first record's fields, made unique."""
    delimiter = separator
    if len(separator) > 1:
        head, delimiter = [line.replace(separator, STAND_IN) for line in head], STAND_IN
    text = io.StringIO("\n".join(head), newline="")
    try:
        if quote is None:
            fields = next(csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        else:
            fields = next(csv.reader(text, delimiter=delimiter, quotechar=quote))
    except csv.Error:
        raise DataError(f"{path}: its first line cannot be read; check separator and quote") from None
    names: dict[str, None] = {}
    for field in fields:
        name, copy = field, 0
        while name in names:
            name, copy = f"{field}_duplicated_{copy}", copy + 1
        names[name] = None
    return tuple(names)


def _shown(separator: str) -> str:
    return _SHOWN.get(separator, f'"{separator}"')


def _escaped(separator: str) -> str:
    return separator.replace("\t", "\\t")
