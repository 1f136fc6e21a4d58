"""Labels and splits from the columns of a table that lists images."""

from collections.abc import Sequence

from ssl_diffusion.data.tables import Table
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["Labels", "cell_labels", "flag_labels", "listed_names", "split_cells"]

Labels = frozenset[str] | None
"""Class names of a sample; None if its label is unknown."""

_SPLITS = ("train", "test", "unlabeled")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}


def split_cells(table: Table, column: str) -> list[str]:
    """The split of every row, in lower case."""
    splits = [cell.strip().lower() for cell in table.column(column)]
    for number, split in zip(table.numbers, splits, strict=True):
        if split not in _SPLITS:
            raise DataError(
                f"{table.path}: row {number} has {shown(split)} in column {shown(column)}, which may hold "
                f"{', '.join(_SPLITS)}: correct it (a part for validation is set aside later), "
                "or rename the column if it is not about splits"
            )
    return splits


def cell_labels(table: Table, column: str | None, separator: str | None) -> list[Labels]:
    """Labels from one column of names; with a separator each cell may hold several."""
    if separator == "":
        raise DataError("the separator between class names must not be empty")
    if column is None:
        return [None] * len(table.rows)
    cells = [cell.strip() for cell in table.column(column)]
    if separator is None:
        return [frozenset({cell}) if cell else None for cell in cells]
    names = [frozenset(name.strip() for name in cell.split(separator)) - {""} for cell in cells]
    return [labels if cell else None for cell, labels in zip(cells, names, strict=True)]


def flag_labels(table: Table, columns: Sequence[str], notes: list[str]) -> list[Labels]:
    """Labels from one column of 0 and 1 a class; a row with an empty cell is unlabeled."""
    if len(set(columns)) < len(columns):
        raise DataError(f"{table.path}: a column is named twice in label_columns ({', '.join(columns)}): name each once")
    rows = list(zip(*([cell.strip() for cell in table.column(name)] for name in columns), strict=True))
    for number, row in zip(table.numbers, rows, strict=True):
        for name, cell in zip(columns, row, strict=True):
            if cell and cell not in _FLAGS:
                raise DataError(
                    f"{table.path}: row {number} has {shown(cell)} in column {shown(name)}, which must hold 0, 1 or nothing"
                )
    n_partial = sum("" in row and any(row) for row in rows)
    if n_partial:
        notes.append(f"{n_partial} rows have an empty cell among their label columns and were taken as unlabeled")
    return [
        None if "" in row else frozenset(name for name, cell in zip(columns, row, strict=True) if _FLAGS[cell]) for row in rows
    ]


def listed_names(names: Sequence[str]) -> str:
    """Names in a message: a few of many, each cut if it is long."""
    return ", ".join(map(shown, names[:20])) + (" and others" if len(names) > 20 else "")
