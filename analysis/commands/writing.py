# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables as commands write them: cut down to what was asked for, in the format that is wanted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from analysis.capture import Capture
    from analysis.window import Bound


def write_table(capture: Capture, table: str, options: dict[str, Any], every: bool = False) -> None:
    write_frame(selected(capture, table, options, every), table, kind_of(options), options["output"])


def write_frame(frame: pd.DataFrame, table: str, kind: str, output: str | None) -> None:
    from analysis.output import write, write_parquet
    from analysis.tables import plain

    if kind == "parquet":
        write_parquet(frame, output)
    else:
        write(plain(frame), table, kind, output)


def kind_of(options: dict[str, Any]) -> str:
    """The format that is wanted."""
    default = "table" if options["output"] is None and sys.stdout.isatty() else "csv"
    return options["kind"] or default


_EXTENT = {"records": (("first_frame", "first_seen_ns"), ("frame", "delivered_ns")),
           "syncs": (("first_frame", "first_seen_ns"), ("frame", "delivered_ns")),
           "pairs": (("from_frame", "from_delivered_ns"), ("to_frame", "to_delivered_ns")),
           "bounds": (("from_frame", "from_delivered_ns"), ("to_frame", "to_delivered_ns")),
           "checkpoints": (("frame", "begin_ns"), ("last_frame", "end_ns")),
           **dict.fromkeys(("phases", "iterations"), (("begin_frame", "begin_ns"), ("end_frame", "end_ns")))}


def selected(capture: Capture, table: str, options: dict[str, Any], every: bool) -> pd.DataFrame:
    """A table, cut down to what `--connection`, `--from` and `--to` name."""
    from analysis.export import SYNC_COLUMNS
    from analysis.tables import RECORD_COLUMNS
    from analysis.tables import latency as statistics
    from analysis.window import within

    begin, end = window(capture, options["since"], options["until"])
    source = "pairs" if table == "latency" else table
    frame = capture.export(source, every=every)
    if options["connection"]:
        frame = frame[frame["connection"].isin(_numbers(capture, options["connection"]))]
    if source in _EXTENT:
        frame = within(frame, begin, end, *_EXTENT[source])
    elif options["since"] or options["until"]:
        there = within(capture.export("records"), begin, end, *_EXTENT["records"])
        frame = frame[frame["connection"].isin(there["connection"])]
    if table == "latency":
        return statistics(frame)
    columns = {"records": RECORD_COLUMNS, "syncs": SYNC_COLUMNS}.get(table, list(frame))
    return frame[[name for name in frame if name in columns
                  or (name.endswith("file") and name.removesuffix("file") + "frame" in columns)]]


def window(capture: Capture, since: str | None, until: str | None) -> tuple[Bound, Bound]:
    """What `--from` and `--to` name."""
    from analysis.window import Bound, WindowError, bound

    begin, end = (bound(text, capture.engine.first_ns) if text else Bound()
                  for text in (since, until))
    if len(capture.engine.files) > 1 and (begin.frame or end.frame):
        raise WindowError("with several files --from and --to take a time: every file counts its "
                          "own frames")
    return begin, end


def ours(capture: Capture, wanted: str | None) -> list[int]:
    """Connections that carry a migration stream: the one that is named, or all."""
    return _numbers(capture, wanted) if wanted else [c.number for c in capture.engine.ours()]


def _numbers(capture: Capture, wanted: str) -> list[int]:
    """The connections that a user means."""
    from analysis.window import WindowError

    every = capture.export("connections", every=True)
    if wanted.isdecimal():
        found = every[every["connection"] == int(wanted)]
    else:
        found = every[(every["primary"] == wanted) | (every["secondary"] == wanted)]
    if found.empty:
        ours = capture.export("connections")
        known = ", ".join(f"{row.connection} ({row.primary} - {row.secondary})"
                          for row in ours.itertuples())
        raise WindowError(f"there is no connection {wanted!r}; there is {known}")
    return [int(number) for number in found["connection"]]
