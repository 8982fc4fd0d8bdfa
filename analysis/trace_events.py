# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture as a trace for ui.perfetto.dev or chrome://tracing: the JSON trace event format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from analysis.capture import Capture
from analysis.display_filter import of_frames
from dissector.protocol import DIRECTIONS, FORWARD, SENDER, XEN_COLO

Event = dict[str, Any]

_NETWORK = 2
_TRACKS = {FORWARD: 1, **{direction: 3 for direction in DIRECTIONS if direction != FORWARD}}
"""Threads in the order primary, network, secondary."""


def trace(capture: Capture) -> str:
    """The trace as JSON, a process for each connection with three threads: what the primary and what the
    secondary sent, record by record, and between them the checkpoints with their phases inside, and
    inside the memory phase of the initial transfer its iterations.

    Times are µs since the capture's first packet, with ns as fractions; otherData has that packet's time
    since the epoch.  Slices of a thread lie inside or behind each other: a record whose first octet overtook the
    end of the one in front is drawn from there on; its `args` tell its own times.
    """
    events = [event for connection in capture.export("connections").to_dict("records")
              for event in _connection(capture, connection)]
    engine = capture.engine
    about = {"begin_ns": str(engine.first_ns), "files": [file.text for file in engine.files]}
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about},
                      separators=(",", ":")) + "\n"


def _connection(capture: Capture, about: dict[str, Any]) -> Iterator[Event]:
    number, first = about["connection"], capture.engine.first_ns
    yield _about("process_name", number, 0, name=f"connection {number}: {about['kind'] or 'migration stream'}")
    ends = {direction: f"{SENDER[direction]} sends ({about[SENDER[direction]]})" for direction in DIRECTIONS}
    for track, name in [(_NETWORK, "network"), *((_TRACKS[d], name) for d, name in ends.items())]:
        yield _about("thread_name", number, track, name=name)
        yield _about("thread_sort_index", number, track, sort_index=track)
    for event in (*_checkpoints(capture, number), *_records(capture, number)):
        yield {**event, "ts": (event["ts"] - first) / 1e3, "dur": event["dur"] / 1e3, "ph": "X", "pid": number + 1}


def _about(what: str, number: int, track: int, **told: Any) -> Event:
    # Perfetto takes process 0 for the idle one.
    return {"ph": "M", "name": what, "pid": number + 1, "tid": track, "args": told}


def _records(capture: Capture, number: int) -> Iterator[Event]:
    records = capture.export("records")
    known = records["first_seen_ns"].notna() & records["delivered_ns"].notna()
    for direction, mine in records[known & (records["connection"] == number)].groupby("direction", observed=True):
        parts = [(_title(row), "record", row["first_seen_ns"], row["delivered_ns"], {
            "frames": of_frames(row, "first_frame", "frame"), "stream_offset": row["stream_offset"],
            "octets": row["length"], "first_seen_ns": str(row["first_seen_ns"]),
            "delivered_ns": str(row["delivered_ns"])})
            for row in mine.sort_values("stream_offset").to_dict("records")]
        yield from _one_behind_the_other(parts, _TRACKS[str(direction)])


def _title(record: dict[str, Any]) -> str:
    point = None if pd.isna(record["control_id"]) else XEN_COLO.numbered(record["control_id"])
    return point.short_name if point else f"{record['layer']} {record['name']}"


def _checkpoints(capture: Capture, number: int) -> Iterator[Event]:
    checkpoints, phases, iterations = (capture.export(name) for name in ("checkpoints", "phases", "iterations"))
    phases = phases[(phases["connection"] == number) & phases["duration_ns"].notna()]
    iterations = iterations[(iterations["connection"] == number) & iterations["duration_ns"].notna()]
    at = 0
    for row in checkpoints[checkpoints["connection"] == number].to_dict("records"):
        of = phases["checkpoint"]
        own = phases[of.isna() if pd.isna(row["number"]) else (of == row["number"]).fillna(False)]
        inside = list(_one_behind_the_other(_measured(own, "phase"), _NETWORK, at))
        begin, end = (inside[0]["ts"], inside[-1]["ts"] + inside[-1]["dur"]) if inside else \
            (row["begin_ns"], row["end_ns"])
        if pd.isna(begin) or pd.isna(end):
            continue
        label = "before the first checkpoint" if pd.isna(row["number"]) else f"checkpoint {row['number']}"
        args = {"frames": of_frames(row), "complete": row["complete"]}
        yield from _one_behind_the_other([(label, "checkpoint", begin, end, args)], _NETWORK, at)
        yield from inside
        if row["number"] == 0 and inside:  # those of the initial transfer lie in its memory phase
            yield from _one_behind_the_other(_measured(iterations, "iteration"), _NETWORK, at)
        at = max(at, end)


def _measured(table: pd.DataFrame, what: str) -> Iterator[tuple[str, str, int, int, dict[str, Any]]]:
    """Phases or iterations as parts."""
    for row in table.to_dict("records"):
        name = row[what] if what == "phase" else f"{what} {row[what]}"
        yield name, what, row["begin_ns"], row["end_ns"], {
            "frames": of_frames(row, "begin_frame", "end_frame"), "ms": row["duration_ns"] / 1e6}


def _one_behind_the_other(parts: Iterable[tuple[str, str, int, int, dict[str, Any]]], track: int,
                          at: int = 0) -> Iterator[Event]:
    """Slices of (name, category, begin, end, args), in ns, in order; each begins where the one in front ended,
    at the earliest."""
    for name, category, begin, end, args in parts:
        begin = max(int(begin), at)
        at = max(int(end), begin)
        yield {"name": name, "cat": category, "tid": track, "ts": begin, "dur": at - begin, "args": args}
