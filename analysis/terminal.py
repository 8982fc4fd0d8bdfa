# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables for eyes: a choice of columns, short headings, times of day."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.escape import printable
from analysis.output import Columns
from analysis.pairs import label

_COLUMNS = {
    "records": ["connection", "direction", "layer", "name", "stream_offset", "length",
                "first_frame", "frame", "delivered_ns", "status"],
    "syncs": ["connection", "checkpoint", "name", "sender", "frame", "delivered_ns", "spread_ms",
              "status"],
    "checkpoints": ["connection", "number", "complete", "reason", "frame", "begin_ns",
                    "new_to_svm_suspended_ms", "svm_suspended_to_svm_ready_ms",
                    "svm_ready_to_svm_resumed_ms", "new_to_svm_resumed_ms", "new_to_new_ms",
                    "memory_ms", "device_ms", "total_ms", "downtime_min_ms", "downtime_max_ms",
                    "pages", "dirty_pfns", "forward_octets"],
    "phases": ["connection", "checkpoint", "phase", "begin_ns", "duration_ns", "forward_octets", "back_octets",
               "octets_per_second", "begin_frame", "end_frame", "merged"],
    "explanation": ["connection", "cause", "phase", "checkpoints", "of", "total_ms", "share", "median_ms", "frame",
                    "to_frame", "text"],
    "causes": ["connection", "checkpoint", "phase", "cause", "duration_ns", "frame", "to_frame", "text"],
    "iterations": ["connection", "iteration", "begin_ns", "duration_ns", "records", "pages", "pfns", "resent",
                   "octets", "octets_per_second", "dirty_pages_per_second", "last"],
}
"""What a terminal shows of the wide tables; the other formats have all columns."""

_HEADINGS = {
    "new_to_svm_suspended": "NEW→ SUSPENDED", "svm_suspended_to_svm_ready": "SUSPENDED→ READY",
    "svm_ready_to_svm_resumed": "READY→ RESUMED", "new_to_svm_resumed": "NEW→ RESUMED",
    "new_to_new": "NEW→ NEW", "stream_offset": "offset", "forward_octets": "octets",
    "connection": "conn", "complete": "whole"}
_DURATIONS = ("duration_ns",)
_EXACT = ("delivered_ns",)
"""Times of day with microseconds; the others are cut to ms."""
_WIDE = 240
"""Columns of text in a pipe or a file, where nothing folds."""


def show(columns: Columns, command: str) -> None:
    """Print a table to stdout, as wide as the terminal is."""
    console = Console()
    if console.is_terminal:
        console.print(_table(columns, command))
    else:
        console.file.write(text(columns, command))


def text(columns: Columns, command: str) -> str:
    """A table as plain text."""
    console = Console(file=io.StringIO(), width=_WIDE, color_system=None)
    console.print(_table(columns, command))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "".join(line.rstrip() + "\n" for line in lines if line.strip())


def _shown(columns: Columns, command: str) -> Columns:
    shown = columns
    if command in _COLUMNS:
        names = [name for name in _COLUMNS[command] if name in columns]
        names += [name for name in columns if name.endswith("file")]
        shown = {name: columns[name] for name in names
                 if not columns[name] or any(_is_known(value) for value in columns[name])}
    if command == "latency":
        pair = list(map(label, shown["from"], shown["to"], shown["phase"]))
        shown = {"connection": shown["connection"], "pair": pair, **{
            name: values for name, values in shown.items() if name not in ("connection", "phase", "from", "to")}}
    if command not in ("connections", "verify") and len(set(shown.get("connection", ()))) == 1:
        shown = {name: values for name, values in shown.items() if name != "connection"}
    return shown


def _is_known(value: Any) -> bool:
    return value is not None and value == value


def _heading(name: str) -> str:
    name = name.removesuffix("_ns").removesuffix("_ms")
    return _HEADINGS.get(name, name.replace("_", " "))


def _cell(name: str, value: Any) -> str:
    if not _is_known(value):
        return ""
    if name in _DURATIONS:
        return f"{value / 1e6:.2f}"
    if name.endswith("_ns"):
        time = f"{datetime.fromtimestamp(value // 1_000_000_000, UTC):%H:%M:%S}.{value // 1000 % 1_000_000:06d}"
        return time if name in _EXACT else time[:-3]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if name.endswith("per_second") else f"{value:.2f}"
    return printable(str(value))


def grid(columns: Columns, command: str) -> list[tuple[str, bool, list[str]]]:
    """(heading, whether it holds numbers, cells) of each column that is shown."""
    shown = _shown(columns, command)
    return [(_heading(name), all(isinstance(value, (int, float)) and not isinstance(value, bool)
                                 for value in values if value is not None),
             [_cell(name, value) for value in values]) for name, values in shown.items()]


def _table(columns: Columns, command: str) -> Table:
    shown = _shown(columns, command)
    lengths = [name for name in shown if name.endswith("_ms") or name in _DURATIONS]
    notes = ["durations in ms"] * bool(lengths) + ["times of day in UTC"] * any(
        name.endswith("_ns") and name not in lengths for name in shown)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold",
                  caption=", ".join(notes) or None, caption_justify="left")
    found = grid(columns, command)
    for heading, numeric, _ in found:
        table.add_column(heading, justify="right" if numeric else "left")
    for row in zip(*(cells for _, _, cells in found), strict=True):
        # As Text: in a plain string [red] would be markup and :bomb: a picture.
        table.add_row(*map(Text, row))
    return table
