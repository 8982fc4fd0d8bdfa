# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables for eyes: a choice of columns, short headings, times of day."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.escape import printable
from analysis.pairs import FIRST_BOOT

_COLUMNS = {
    "records": ["connection", "direction", "layer", "name", "stream_offset", "length",
                "first_frame", "frame", "delivered_ns", "status"],
    "syncs": ["connection", "checkpoint", "name", "sender", "frame", "delivered_ns", "spread_ms",
              "status"],
    "checkpoints": ["connection", "number", "complete", "frame", "begin_ns",
                    "new_to_svm_suspended_ms", "svm_suspended_to_svm_ready_ms",
                    "svm_ready_to_svm_resumed_ms", "new_to_svm_resumed_ms", "new_to_new_ms",
                    "memory_ms", "device_ms", "total_ms", "downtime_min_ms", "downtime_max_ms",
                    "pages", "dirty_pfns", "forward_octets"],
}
"""What a terminal shows of the wide tables; the other formats have all columns."""

_HEADINGS = {
    "new_to_svm_suspended": "NEW→ SUSPENDED", "svm_suspended_to_svm_ready": "SUSPENDED→ READY",
    "svm_ready_to_svm_resumed": "READY→ RESUMED", "new_to_svm_resumed": "NEW→ RESUMED",
    "new_to_new": "NEW→ NEW", "stream_offset": "offset", "forward_octets": "octets",
    "connection": "conn", "complete": "whole"}
_EXACT = ("delivered_ns",)
"""Times of day with microseconds; the others are cut to ms."""
_WIDE = 240
"""Columns of text in a pipe or a file, where nothing folds."""


def show(frame: pd.DataFrame, command: str) -> None:
    """Print a table to stdout, as wide as the terminal is."""
    console = Console()
    if console.is_terminal:
        console.print(_table(frame, command))
    else:
        console.file.write(text(frame, command))


def text(frame: pd.DataFrame, command: str) -> str:
    """A table as plain text."""
    console = Console(file=io.StringIO(), width=_WIDE, color_system=None)
    console.print(_table(frame, command))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "".join(line.rstrip() + "\n" for line in lines if line.strip())


def _shown(frame: pd.DataFrame, command: str) -> pd.DataFrame:
    shown = frame
    if command in _COLUMNS:
        names = [name for name in _COLUMNS[command] if name in frame]
        shown = frame[names + [name for name in frame if str(name).endswith("file")]]
        shown = shown.drop(columns=[
            name for name in shown if len(shown) and shown[name].isna().all()])
    if command == "latency":
        pair = shown["from"] + " → " + shown["to"] + shown["phase"].map(
            lambda phase: " (first boot)" if phase == FIRST_BOOT else "")
        shown = shown.drop(columns=["phase", "from", "to"])
        shown.insert(1, "pair", pair)
    if command not in ("connections", "verify") and shown["connection"].nunique() == 1:
        shown = shown.drop(columns="connection")
    return shown


def _heading(name: str) -> str:
    name = name.removesuffix("_ns").removesuffix("_ms")
    return _HEADINGS.get(name, name.replace("_", " "))


def _cell(name: str, value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if name.endswith("_ns"):
        time = pd.Timestamp(int(value), unit="ns", tz="UTC").strftime("%H:%M:%S.%f")
        return time if name in _EXACT else time[:-3]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return printable(str(value))


def _table(frame: pd.DataFrame, command: str) -> Table:
    shown = _shown(frame, command)
    notes = [note for note, suffix in (("durations in ms", "_ms"), ("times of day in UTC", "_ns"))
             if any(str(name).endswith(suffix) for name in shown)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold",
                  caption=", ".join(notes) or None, caption_justify="left")
    for name in shown:
        kind = shown[name].dtype
        numeric = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
        table.add_column(_heading(str(name)), justify="right" if numeric else "left")
    for row in shown.astype(object).itertuples(index=False):
        # As Text: in a plain string [red] would be markup and :bomb: a picture.
        table.add_row(*(Text(_cell(str(name), value)) for name, value in zip(shown, row, strict=True)))
    return table
