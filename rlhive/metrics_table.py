"""The tables of a run's metrics: CSV files that grow, read back bit for bit, and are never half-written."""

from __future__ import annotations

import csv
import io
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rlhive.core.files import append, replacing

LOG = logging.getLogger(__name__)


class Table:
    """A CSV file that grows by rows and, for new metrics, by columns; rows after `last_step` are dropped."""

    def __init__(self, path: Path, index: Sequence[str], last_step: int) -> None:
        self._path, self._index = path, index
        self._columns, found = read_table(path, index) if path.exists() else (list(index), [])
        rows = [row for row in found if int(row["step"]) <= last_step]
        self.last_wall_time = max((float(row["wall_time"]) for row in rows), default=0.0)
        is_whole = path.exists() and rows == found and path.read_bytes().endswith(b"\n")
        # The table of single seeds exists from the start.
        if not is_whole and (path.exists() or "seed" in index):
            write_table(path, self._columns, rows)

    def append(self, rows: Sequence[tuple[Mapping[str, object], Mapping[str, float]]]) -> None:
        """Appends rows, each an index and metrics, in one write: a process that is killed leaves no partial rows."""
        written = [as_text(*row) for row in rows]
        new = [name for name in dict.fromkeys(itertools.chain(*written)) if name not in self._columns]
        if new or not self._path.exists():
            self._columns += new
            before = read_table(self._path, self._index)[1] if self._path.exists() else []
            write_table(self._path, self._columns, [*before, *written])
            return
        text = io.StringIO()
        _writer(text, self._columns).writerows(written)
        append(self._path, text.getvalue().encode())


def as_text(index: Mapping[str, object], metrics: Mapping[str, float]) -> dict[str, str]:
    """A row of a table as text from which numbers read back bit for bit."""
    values = {name: repr(float(value)) for name, value in metrics.items()}
    return {name: str(value) for name, value in index.items()} | values


def damaged(path: Path, error: ValueError) -> ValueError:
    """What a table that cannot be read is refused with."""
    return ValueError(f"{path}: is no table of metrics ({error}): mend or remove it")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Writes a table in one step."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = _writer(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _writer(file: TextIO, columns: Sequence[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(file, columns, restval="", lineterminator="\n")


def read_table(path: Path, index: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a table, and its rows by their names; a last one that a crash cut short is left out.

    Args:
        path: of the table.
        index: the columns that it must have: "wall_time" in seconds, the others whole numbers.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text)))
    except ValueError as error:
        raise damaged(path, error) from None
    if not lines:
        raise damaged(path, ValueError("it is empty"))
    header, *rows = lines
    if rows and not text.endswith("\n"):  # cut short by a crash
        LOG.warning("%s: its last row is not whole and left out: %s", path, ",".join(rows.pop()))
    if any(len(row) != len(header) for row in rows):
        raise damaged(path, ValueError(f"rows have other fields than the {len(header)} of its header"))
    if missing := [name for name in index if name not in header]:
        raise damaged(path, ValueError(f"it has no column {missing[0]}"))
    table = [dict(zip(header, row, strict=True)) for row in rows]
    for name in index:
        kind: type[float] = float if name == "wall_time" else int
        try:
            for row in table:
                kind(row[name])
        except ValueError as error:
            raise damaged(path, ValueError(f"column {name}: {error}")) from None
    return header, table
