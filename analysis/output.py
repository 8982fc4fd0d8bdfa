# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables as CSV, JSON, JSON lines, Parquet, and (`analysis.terminal`) for eyes."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from analysis.escape import cell, printable
from dissector.errors import CannotDo

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, list[Any]]
"""A table of Python's own values; None: not known."""

SCHEMA = 1
"""Version of the JSON that the command writes; a change that breaks readers raises it."""


class OutputError(CannotDo):
    """An output that cannot be written; the message says what to do."""


def write(columns: Columns, command: str, kind: str, path: str | None) -> None:
    """Write a table as table, csv, json or jsonl to a file, or to stdout."""
    if kind == "table":
        from analysis import terminal

        if path is None:
            terminal.show(columns, command)
            return
        text = terminal.text(columns, command)
    else:
        text = {"csv": _csv, "json": _json, "jsonl": _jsonl}[kind](columns, command)
    write_text(text, path)


def columns_of(rows: list[dict[str, Any]], names: Iterable[str]) -> Columns:
    """The columns of rows."""
    return {name: [row.get(name) for row in rows] for name in names}


def write_text(text: str, path: str | None) -> None:
    """Write text to a file, or to stdout.  Raises OutputError."""
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None


def write_texts(texts: dict[str, str], folder: str) -> None:
    """Write texts to files, by name, in a folder, which is made.  Raises OutputError."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or error}") from None
    for name, text in texts.items():
        write_text(text, os.path.join(folder, name))


def write_parquet(frame: pd.DataFrame, path: str | None) -> None:
    """Write a table as Parquet.  Raises OutputError."""
    if path is None:
        raise OutputError("parquet is binary: name a file with -o")
    try:
        _texts(frame).to_parquet(path, index=False)
    except ImportError:
        raise OutputError("parquet needs pyarrow: pip install 'coloscope[parquet]'") from None
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with every text in it made printable; numbers stay what they are."""
    def made(value: Any) -> Any:
        return printable(value) if isinstance(value, str) else value

    changed = {}
    for name, column in frame.items():
        if column.dtype == "category":
            changed[name] = column.cat.rename_categories([made(value) for value in column.cat.categories])
        elif column.dtype == object or column.dtype == "string":
            changed[name] = column.map(made)
    return frame.assign(**changed)


def _plain(columns: Columns) -> Columns:
    """Without what is no number: NaN; ms with six decimals: whole ns; more would be noise of binary
    fractions."""
    return {name: [number(name, value) for value in values] for name, values in columns.items()}


def number(name: str, value: Any) -> Any:
    """A value of this column as CSV and JSON have it."""
    if not isinstance(value, float):
        return value
    return None if value != value else round(value, 6) if name.endswith("_ms") else value


def _csv(columns: Columns, command: str) -> str:
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    out.writerow(columns)
    plain = _plain(columns).values()
    out.writerows(zip(*([cell(value) if isinstance(value, str) else value for value in values]
                        for values in plain), strict=True))
    return file.getvalue()


def _rows(columns: Columns) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*_plain(columns).values(), strict=True)]


def _json(columns: Columns, command: str) -> str:
    import json

    return json.dumps({"schema": SCHEMA, "command": command, "rows": _rows(columns)}, indent=1) + "\n"


def _jsonl(columns: Columns, command: str) -> str:
    import json

    return "".join(json.dumps(row) + "\n" for row in _rows(columns))
