# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables as CSV, JSON, JSON lines, Parquet, and (`analysis.terminal`) for eyes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import terminal
from analysis.escape import cell, printable
from dissector.errors import CannotDo

SCHEMA = 1
"""Version of the JSON that the command writes; a change that breaks readers raises it."""


class OutputError(CannotDo):
    """An output that cannot be written; the message says what to do."""


def write(frame: pd.DataFrame, command: str, kind: str, path: str | None) -> None:
    """Write a table as table, csv, json, jsonl or parquet to a file, or to stdout."""
    if kind == "parquet":
        if path is None:
            raise OutputError("parquet is binary: name a file with -o")
        _parquet(frame, path)
        return
    if kind == "table" and path is None:
        terminal.show(frame, command)
        return
    text = {"table": terminal.text, "csv": _csv, "json": _json, "jsonl": _jsonl}[kind](frame, command)
    write_text(text, path)


def write_text(text: str, path: str | None) -> None:
    """Write text to a file, or to stdout.  Raises OutputError."""
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None


def _parquet(frame: pd.DataFrame, path: str) -> None:
    try:
        _texts(frame, printable).to_parquet(path, index=False)
    except ImportError:
        raise OutputError("parquet needs pyarrow: pip install 'coloscope[parquet]'") from None
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    # ms with six decimals are whole ns; more would be noise of binary fractions.
    return frame.round({name: 6 for name in frame if str(name).endswith("_ms")})


def _texts(frame: pd.DataFrame, made: Callable[[str], str]) -> pd.DataFrame:
    """A table with every text in it changed; numbers stay what they are."""
    changed = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            changed[name] = column.cat.rename_categories(
                [made(value) if isinstance(value, str) else value for value in column.cat.categories])
        elif column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            changed[name] = column.map(lambda value: made(value) if isinstance(value, str) else value)
    return frame.assign(**changed)


def _csv(frame: pd.DataFrame, command: str) -> str:
    return _texts(_rounded(frame), cell).to_csv(index=False, lineterminator="\n")


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = _rounded(frame).astype(object).where(frame.notna(), None)
    return plain.to_dict("records")


def _json(frame: pd.DataFrame, command: str) -> str:
    return json.dumps({"schema": SCHEMA, "command": command, "rows": _rows(frame)}, indent=1) + "\n"


def _jsonl(frame: pd.DataFrame, command: str) -> str:
    return "".join(json.dumps(row) + "\n" for row in _rows(frame))
