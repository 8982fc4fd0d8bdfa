# SPDX-License-Identifier: GPL-2.0-or-later
"""Phases of checkpoints and epochs: where the time went, and what passed meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from analysis.pairs import OPENS
from analysis.spans import NUMBER_OF, Span, are, spans
from dissector.connection import COLO, PLAIN, REMUS, Connection
from dissector.findings import Finding
from dissector.protocol import (
    CHECKPOINT,
    DIRECTIONS,
    PHASES,
    PLAIN_BOUNDARIES,
    REMUS_BOUNDARIES,
    REMUS_PHASES,
    XEN_COLO,
    Boundary,
)
from dissector.syncpoints import OK, UNCONFIRMED, UNKNOWN_ORDER, WRONG_SENDER

NAMES = tuple(dict.fromkeys((*PHASES, *REMUS_PHASES)))
"""Every phase, in order."""

BOUNDARIES = {COLO: XEN_COLO.boundaries, REMUS: REMUS_BOUNDARIES, PLAIN: PLAIN_BOUNDARIES}

COLUMNS = {
    "connection": "int64", "checkpoint": "Int64", "phase": "object",
    **dict.fromkeys(("begin_ns", "end_ns", "duration_ns", "forward_octets", "back_octets"), "Int64"),
    "octets_per_second": "float64", **dict.fromkeys(("begin_frame", "end_frame"), "Int64"), "merged": "bool"}


class Instant(NamedTuple):
    """When, and behind which record of that frame."""

    time: int
    frame: int
    stream_offset: int

    def precedes(self, rows: np.ndarray) -> np.ndarray:
        """Which rows were delivered behind it."""
        return (rows["frame"] > self.frame) | (
            (rows["frame"] == self.frame) & (rows["stream_offset"] > self.stream_offset))


@dataclass(slots=True)
class Phase:
    """A phase of one checkpoint; None: not known.  `merged`: the stream has no such boundary."""

    name: str
    begin: Instant | None
    end: Instant | None
    merged: bool
    octets: dict[str, int] | None
    """By direction."""

    @property
    def duration(self) -> int | None:
        """In ns."""
        return self.end.time - self.begin.time if self.begin and self.end else None


@dataclass(slots=True)
class Measured:
    """A span of records with what was measured in it.

    `points`: the row (`analysis.export.sync_row`) of its first sync-point of each name; `violated`: one of them
    came out of order."""

    connection: Connection
    span: Span
    points: dict[str, dict[str, Any]]
    violated: bool
    phases: list[Phase]


def measure(connections: Iterable[Connection], rows: np.ndarray, syncs: Iterable[dict[str, Any]],
            before: int = 0) -> Iterator[Measured]:
    """The spans of these connections, in order; `syncs` in theirs (`analysis.export.sync_row`), `before` as in
    `analysis.spans.numbers`."""
    usable = [point for point in syncs if point["status"] not in (WRONG_SENDER, UNCONFIRMED)]
    for connection in connections:
        points: dict[int | None, dict[str, dict[str, Any]]] = {}
        violated: set[int | None] = set()
        for point in usable:
            if point["connection"] != connection.number:
                continue
            number = point["checkpoint"]
            if point["delivered_ns"] is not None:
                points.setdefault(number, {}).setdefault(point["name"], point)
            if point["status"] not in (OK, UNKNOWN_ORDER):
                violated.add(number)
        found = [Measured(connection, span, points.get(span.number, {}), span.number in violated, [])
                 for span in spans(connection, rows[rows["connection"] == connection.number], before)]
        boundaries = BOUNDARIES.get(connection.kind, ())
        for measured, following in itertools.zip_longest(found, found[1:]):
            measured.phases = list(_phases(measured, _opening(following) if following else None, boundaries))
            yield measured


def _opening(measured: Measured) -> Instant | None:
    """Where a span begins: at its NEW, or at the first octet of its first record."""
    if measured.connection.kind == COLO:
        return _passed(measured.points.get(OPENS))
    span = measured.span
    return _of(span.forward[0], "first_seen") if span.begins and len(span.forward) else None


def _passed(point: dict[str, Any] | None) -> Instant | None:
    return Instant(*(int(point[name]) for name in ("delivered_ns", "frame", "stream_offset"))) if point else None


def _of(row: np.void, edge: str) -> Instant | None:
    """An edge of a record: `first_seen` lies in front of it, `delivered` behind it."""
    first = edge == "first_seen"
    time, frame = row[f"{edge}_ns"], row["first_frame" if first else "frame"]
    return Instant(int(time), int(frame), int(row["stream_offset"]) - first) if time > 0 else None


def _end(boundary: Boundary, measured: Measured, following: Instant | None) -> Instant | None:
    """When a phase ended; a record is the first or the last of its kind only if none can be missing there."""
    if boundary.pick == "next":
        return following
    if point := XEN_COLO.numbered(boundary.control_id):
        return _passed(measured.points.get(point.short_name))
    span = measured.span
    rows = span.of(boundary.direction)
    matches = rows["structure"] == NUMBER_OF[id(boundary.structure)] if boundary.structure \
        else rows["control_id"] < 0
    passed = np.flatnonzero(matches & (rows[f"{boundary.edge}_ns"] > 0))
    if not len(passed):
        return None
    at = int(passed[0 if boundary.pick == "first" else -1])
    follows = rows["stream_offset"][1:] == rows["stream_offset"][:-1] + rows["length"][:-1]
    if boundary.pick == "last":
        is_known = at + 1 < len(rows) and follows[at] and not matches[at + 1]
    else:
        is_known = boundary.structure is not None or (follows[at - 1] if at else span.begins)
    return _of(rows[at], boundary.edge) if is_known else None


def _phases(measured: Measured, following: Instant | None, boundaries: tuple[Boundary, ...]) -> Iterator[Phase]:
    span = measured.span
    ends = [_end(boundary, measured, following) for boundary in boundaries]
    at = _opening(measured)
    left = {direction: span.of(direction) for direction in DIRECTIONS}
    left = {direction: rows[rows["frame"] > 0] for direction, rows in left.items()}
    for i, boundary in enumerate(boundaries):
        end, merged = ends[i], False
        if end is None and at and span.whole[boundary.direction] and any(ends[i + 1:]):
            # The stream has no such boundary: the phase takes no time of its own.
            end, merged = at, True
        octets = None
        if end:
            later = {direction: rows[end.precedes(rows)] for direction, rows in left.items()}
            if at:
                octets = {direction: int(left[direction]["length"].sum() - rows["length"].sum())
                          for direction, rows in later.items()}
            left = later
        yield Phase(boundary.phase, at, end, merged, octets)
        at = end


def backwards(measured: Iterable[Measured]) -> Iterator[Finding]:
    """Phases that ended before they began."""
    for checkpoint in measured:
        names = [phase for phase in checkpoint.phases if (phase.duration or 0) < 0]
        if names and names[0].begin:
            yield Finding(
                "phases_out_of_order", f"checkpoint {checkpoint.span.number}: "
                f"{', '.join(phase.name for phase in names)} ended before it began",
                checkpoint.connection.number, frame=names[0].begin.frame)


def phase_rows(measured: Iterable[Measured]) -> Iterator[dict[str, Any]]:
    """One row for each phase of each checkpoint of COLO, epoch of Remus and live migration, in order.

    Columns (`COLUMNS`; what has no value is left out): connection; checkpoint; phase (one of `NAMES`);
    begin_ns, end_ns, duration_ns (none: the capture does not show it); forward_octets, back_octets;
    octets_per_second (of both directions; none where the phase took no time); begin_frame,
    end_frame: the frames with its boundaries; merged: the stream has no such boundary, the phase
    took no time and its time belongs to the next.  Durations of suspend to resume add up to NEW ->
    SVM_RESUMED, with lockstep to NEW -> NEW; those of an epoch, with idle, to the next epoch's first octet.

    A record counts, whole, in the phase in which it was delivered, in the order in which records passed
    the capture point: the one that ends a phase belongs to it, also where several came in one frame; NEW,
    and xl's banner in front of Remus, belong to the first phase behind them.  So the octets of a
    checkpoint's phases add up to the checkpoint's.
    """
    for checkpoint in measured:
        if checkpoint.connection.kind == REMUS and not len(are(checkpoint.span.forward, CHECKPOINT)):
            continue
        for phase in checkpoint.phases:
            row: dict[str, Any] = {
                "connection": checkpoint.connection.number, "checkpoint": checkpoint.span.number,
                "phase": phase.name, "duration_ns": phase.duration, "merged": phase.merged}
            for name, instant in (("begin", phase.begin), ("end", phase.end)):
                if instant:
                    row |= {f"{name}_ns": instant.time, f"{name}_frame": instant.frame}
            if phase.octets is not None:
                row |= {f"{direction}_octets": octets for direction, octets in phase.octets.items()}
                if phase.duration and phase.duration > 0:
                    row["octets_per_second"] = sum(phase.octets.values()) / phase.duration * 1e9
            yield row
