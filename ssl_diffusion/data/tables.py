"""CSV files as text with row numbers, so that every complaint can name the row as a spreadsheet shows it (header: row 1)."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.outputs import path_fault
from ssl_diffusion.settings import shown

__all__ = ["Table", "read_table"]


@dataclass(frozen=True)
class Table:
    """A CSV file with a header.

    Attributes:
        path: File it was read from.
        header: distinct column names, without surrounding blanks.
        rows: n rows with as many cells as the header, as unchanged text.
        numbers: n row numbers.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    numbers: list[int]

    def column(self, name: str) -> list[str]:
        """The n cells of a column; raises :class:`DataError` with the nearest column names if it does not exist."""
        if name not in self.header:
            raise DataError(f"{self.path} has no column {shown(name)}; {nearest_names(name, self.header)}")
        at = self.header.index(name)
        return [row[at] for row in self.rows]

    def any_case(self, *names: str) -> list[str]:
        """The columns that have one of these names in upper or lower case, in the order of the names."""
        return [column for name in names for column in self.header if column.lower() == name]


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Read a CSV file separated by comma, semicolon or tab, whichever the header has most of; blank rows are left out.

    Args:
        path: CSV file.
        encoding: Text encoding; None for UTF-8, with or without byte order mark.

    Raises:
        DataError: if the file is missing, no text in this encoding, not CSV, has no rows, a row of another length than the
            header, or a column name twice.
    """
    text = _read_text(path, encoding)
    first = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    numbered: list[tuple[int, list[str]]] = []
    try:
        numbered += ((number, row) for number, row in enumerate(reader, start=1) if row)
    except csv.Error as error:
        reason = str(error).replace("'\t'", "a tab")  # which nobody could see
        raise DataError(f"{path} is not a valid CSV file at line {reader.line_num}: {reason}") from error
    if not numbered:
        raise DataError(f"{path} is empty: it needs a header row and one row per image")
    header = [name.strip() for name in numbered.pop(0)[1]]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns called {shown(twice)}: rename one")
    if not numbered:
        raise DataError(f"{path} has a header but no rows: it needs one row per image")
    for number, row in numbered:
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells but the header has {len(header)}: correct the row")
    return Table(path, header, [row for _, row in numbered], [number for number, _ in numbered])


def _read_text(path: Path, encoding: str | None) -> str:
    if (fault := path_fault(path, "file")) is not None:
        raise DataError(f"{fault}: give a CSV file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the CSV file {path} cannot be read: {error.strerror or error}") from error
    try:
        return data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: byte 0x{data[error.start]:02x} at position {error.start} (row {row}) is not {encoding or 'UTF-8'}: "
            "save the file as UTF-8 (in a spreadsheet: CSV UTF-8; or with iconv -f cp1252 -t utf-8)"
        ) from error
    except LookupError as error:
        raise DataError(f"there is no text encoding {encoding!r}: use, for example, utf-8 or cp1252") from error
