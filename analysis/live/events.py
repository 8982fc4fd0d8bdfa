# SPDX-License-Identifier: GPL-2.0-or-later
"""Events: what a live session says, as plain dicts that JSON can hold.

`event` tells which one it is.  The other keys are the columns of the table of that name:

    connection    `coloscope connections --format jsonl`; again whenever something of it changes, and at its end
    sync          `coloscope syncs`; an ACK that takes longer than `session.HOLD` comes as an event of its own:
    acknowledged  connection, direction, stream_offset, frame of the sync-point, and its acked_ns
    pair          `Capture.export("pairs")`
    checkpoint    `coloscope checkpoints`, when the next one opens or the stream ends; and touched: packets were
                  dropped, or octets are missing, while it ran
    finding       `Capture.export("findings")`
    statistics    once a second for each connection: time_ns, connection, octets, octets_per_second, pages, drops,
                  holes, and pairs: from, to, phase, and window and total (`state.Percentiles`)
    alert         `state.AlertState`
    end           reason, time_ns, and totals of the session

Frames of a ring are numbered as its files number them, and the name of the file is in front of each, as in the tables
of several files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.output import number

Event = dict[str, Any]

CONNECTION, SYNC, ACKNOWLEDGED, PAIR, CHECKPOINT = "connection", "sync", "acknowledged", "pair", "checkpoint"
FINDING, STATISTICS, ALERT, END = "finding", "statistics", "alert", "end"


def event(name: str, row: Mapping[str, Any], columns: Iterable[str]) -> Event:
    """A row of a table as an event."""
    return {"event": name, **{column: number(column, row.get(column)) for column in columns}}
