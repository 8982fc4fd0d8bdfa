# SPDX-License-Identifier: GPL-2.0-or-later
"""What each phase was made of, and which parts of it are causes of latency that the packets prove."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.phases import BOUNDARIES
from analysis.rows import NONE
from analysis.tables import frame_of
from analysis.waits import IDLE, LATE_ACK, NAGLE, RECEIVE_WINDOW, RETRANSMISSION, ROUND_TRIP, Wait, round_trip, waits
from dissector.connection import Connection
from dissector.engine import Engine
from dissector.protocol import BACK, DIRECTIONS, FORWARD, SENDER, STRUCTURES, XEN_COLO, Boundary

SENDER_IDLE, SLOW = "sender_idle", "slow_"
TRANSFER, NETWORK, RUNNING = "transfer", "network", "running"
"""Parts that are no causes: octets pass; a message is under way, or its answer; the VMs run."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that takes time.  A checkpoint's phase must have `least` ms of it for a claim; `text` says
    what was seen, `advice` what helps."""

    name: str
    least: float
    text: str
    advice: str


CAUSES = {cause.name: cause for cause in (
    # Any lost octet is worth a word.
    Cause(RETRANSMISSION, 1, "nothing passed until lost octets at {place} were sent again",
          "Find out where the link drops packets: interface counters (ip -s link), switch ports, MTU."),
    Cause(RECEIVE_WINDOW, 5, "the receive window was full at {place}: the {peer} did not read",
          "The receiving end is too slow, or its socket buffer too small: look at its CPU; raise net.ipv4.tcp_rmem."),
    # Two small writes; a delayed ACK is 40 ms with Linux, 200 ms elsewhere.
    Cause(NAGLE, 5, "the rest of {record} waited for the ACK of the octets in front of it",
          "Set TCP_NODELAY on the transport (socat: nodelay)."),
    Cause(LATE_ACK, 10, "the {peer} took much longer than a round trip to acknowledge, longest at {place}",
          "The receiving host is busy: look at its CPU, interrupts and network card offloads."),
    Cause(ROUND_TRIP, 10, "the sender waited for ACKs of octets under way, longest at {place}",
          "The congestion window or the send buffer is too small for this round trip: raise net.ipv4.tcp_wmem, "
          "or shorten the path."),
    # What a scheduler does to a busy sender is less.
    Cause(SENDER_IDLE, 10, "the window was open and the {sender} had nothing to send, longest in front of {record}",
          "The primary is too slow: look at dom0's CPU, and at what reads the guest's memory and device state."),
)}
"""In the order in which they take precedence where they overlap."""
_PRECEDENCE = {name: i for i, name in enumerate(CAUSES)}

SLOW_LEAST = 20.0
"""ms that one side may take for a step of its own; suspending, merging, loading and resuming a VM takes a few."""

_ADVICE = {
    FORWARD: "The primary's dom0 takes this time: look at its CPU and toolstack.",
    BACK: "The secondary takes this time: look at its dom0's CPU, its toolstack and device model."}

STREAM = "stream"
_STREAM = Boundary(STREAM, FORWARD, "delivered", "last")

PARTS = {"connection": "int64", "checkpoint": "Int64", "phase": "object", "part": "object", "duration_ns": "Int64"}
COLUMNS = {"connection": "int64", "checkpoint": "Int64", "phase": "object", "cause": "object",
           "duration_ns": "Int64", "frame": "Int64", "to_frame": "Int64", "text": "object"}


@dataclass(slots=True)
class _Part:
    """Some of a phase: ns, and the longest stretch of it as evidence."""

    duration: int
    frame: int
    to_frame: int
    wait: Wait | None = None


def causes(engine: Engine, rows: np.ndarray, phases: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(parts of phases, causes).  `phases` as `analysis.tables.phases` gives them.

    Parts (`PARTS`): each phase's duration, divided: its causes' names, `TRANSFER`, `NETWORK`, `RUNNING`; they
    add up to the phase, to the nanosecond.  Causes (`COLUMNS`): the parts that are long enough to be claimed,
    with the frames around their longest stretch and what was seen there.

    A connection without phases (a capture that lacks too much) is one phase, `STREAM`, from
    the primary's first octet to its last.

    While one side works and the other one waits (suspend, load...) what is left is the work (`SLOW` and the
    phase's name) but for one round trip, which the network may have taken.
    """
    parts: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for connection in engine.ours():
        explainer = _Explainer(engine, connection, rows[rows["connection"] == connection.number])
        mine = phases[(phases["connection"] == connection.number) & phases["duration_ns"].notna()]
        for phase in mine.to_dict("records") or explainer.stream():
            for name, part in explainer.explain(phase).items():
                key = {"connection": connection.number, "checkpoint": phase["checkpoint"], "phase": phase["phase"]}
                parts.append({**key, "part": name, "duration_ns": part.duration})
                if (text := explainer.claim(name, part, phase)):
                    found.append({**key, "cause": name, "duration_ns": part.duration, "frame": part.frame,
                                  "to_frame": part.to_frame, "text": text})
    return frame_of(parts, PARTS), frame_of(found, COLUMNS)


def advice(cause: str) -> str:
    """What helps against a cause."""
    if cause in CAUSES:
        return CAUSES[cause].advice
    phase = cause.removeprefix(SLOW)
    return next(_ADVICE[b.direction] for boundaries in BOUNDARIES.values() for b in boundaries if b.phase == phase)


class _Explainer:
    """What happened on one connection, to explain its phases with."""

    def __init__(self, engine: Engine, connection: Connection, rows: np.ndarray) -> None:
        segments = self._segments = engine.segments(connection)
        self._boundaries = {b.phase: b for b in BOUNDARIES.get(connection.kind, ())} | {STREAM: _STREAM}
        self._sides = {direction: connection.side(direction) for direction in DIRECTIONS}
        self._direction = {side: direction for direction, side in self._sides.items()}
        self._records = {}
        self._waits: list[Wait] = []
        self._trips = [round_trip(segments, side) or 0 for side in (0, 1)]
        for direction, side in self._sides.items():
            mine = rows[rows["direction"] == DIRECTIONS.index(direction)]
            mine = mine[np.argsort(mine["stream_offset"], kind="stable")]
            self._records[direction] = mine
            self._waits += waits(segments, side, mine["stream_offset"], self._trips)
        self._waits.sort(key=lambda wait: wait.begin)
        self._begins = np.array([wait.begin for wait in self._waits], np.int64)
        # They do not overlap within a direction: the longest tells how far back one may begin.
        self._longest = max((wait.end - wait.begin for wait in self._waits), default=0)

    def stream(self) -> list[dict[str, Any]]:
        """All that the primary sends, as if it were a phase."""
        mine = self._segments[(self._segments["side"] == self._sides[FORWARD]) & (self._segments["length"] > 0)
                              & (self._segments["time_ns"] > 0)]
        return [{"checkpoint": pd.NA, "phase": STREAM, "begin_ns": mine["time_ns"][0],
                 "end_ns": mine["time_ns"][-1], "begin_frame": mine["frame"][0], "end_frame": mine["frame"][-1]}
                ] if len(mine) else []

    def explain(self, phase: dict[str, Any]) -> dict[str, _Part]:
        """The parts of a phase by name, those that take no time left out."""
        begin, end, boundary = int(phase["begin_ns"]), int(phase["end_ns"]), self._boundaries[phase["phase"]]
        sends = _sends(boundary)
        found = [(name, wait) for wait in self._between(begin, end)
                 if (name := _name(wait, sends, self._sides[FORWARD]))]
        found.sort(key=lambda pair: _PRECEDENCE[pair[0]])
        took, left = _shares([(max(wait.begin, begin), min(wait.end, end)) for _, wait in found], begin, end)
        parts: dict[str, _Part] = {}
        for name in CAUSES:
            if mine := [i for i, pair in enumerate(found) if pair[0] == name and took[i]]:
                longest = found[max(mine, key=lambda i: took[i])][1]
                parts[name] = _Part(sum(took[i] for i in mine), longest.frame, longest.to_frame, longest)
        if sends or boundary.pick == "next" or end < begin:
            rest = {TRANSFER if sends else RUNNING: left if end >= begin else end - begin}
        else:
            work = max(0, left - self._trips[self._sides[boundary.direction]])
            rest = {SLOW + boundary.phase: work, NETWORK: left - work}
        for name, duration in rest.items():
            if duration:
                parts[name] = _Part(duration, int(phase["begin_frame"]), int(phase["end_frame"]))
        return parts

    def claim(self, name: str, part: _Part, phase: dict[str, Any]) -> str:
        """What to say of a part; "": it is no cause, or too short."""
        ms = part.duration / 1e6
        if name.startswith(SLOW):
            boundary = self._boundaries[phase["phase"]]
            return boundary.meaning if ms >= SLOW_LEAST else ""
        if name not in CAUSES or ms < CAUSES[name].least or part.wait is None:
            return ""
        direction = self._direction[part.wait.side]
        sender, peer = SENDER[direction], SENDER[self._direction[1 - part.wait.side]]
        return CAUSES[name].text.format(
            place=f"{direction}:{part.wait.stream_offset}", sender=sender, peer=peer,
            record=self._record(direction, part.wait.stream_offset))

    def _between(self, begin: int, end: int) -> Iterator[Wait]:
        first = int(self._begins.searchsorted(begin - self._longest))
        for wait in self._waits[first:int(self._begins.searchsorted(end))]:
            if wait.end > begin:
                yield wait

    def _record(self, direction: str, offset: int) -> str:
        """Name of the record that has an octet."""
        mine = self._records[direction]
        at = int(mine["stream_offset"].searchsorted(offset, "right")) - 1
        if at < 0:
            return f"what stands at {direction}:{offset}"
        if point := XEN_COLO.numbered(int(mine["control_id"][at])):
            return point.short_name
        structure = int(mine["structure"][at])
        return STRUCTURES[structure].name if structure != NONE else f"record {int(mine['type'][at]):#x}"


def _sends(boundary: Boundary) -> bool:
    """Whether octets pass in a phase; else one side waits for the other, or both run."""
    return boundary.direction == FORWARD and boundary.edge == "delivered" and boundary.pick != "next"


def _name(wait: Wait, sends: bool, primary: int) -> str:
    """Which cause a wait is in a phase: the sender's own pace matters only while it sends."""
    if wait.cause in (LATE_ACK, ROUND_TRIP, IDLE) and not (sends and wait.side == primary):
        return ""
    return SENDER_IDLE if wait.cause == IDLE else wait.cause


def _shares(stretches: list[tuple[int, int]], begin: int, end: int) -> tuple[list[int], int]:
    """How much each of the stretches has of the time from `begin` to `end`, and how much is nobody's; where they
    overlap it belongs to the first."""
    edges = np.unique(np.array([(begin, end), *stretches], np.int64))
    owner = np.full(max(len(edges) - 1, 0), -1)
    for i in reversed(range(len(stretches))):
        first, last = edges.searchsorted(stretches[i])
        owner[first:last] = i
    took = np.zeros(len(stretches) + 1, np.int64)
    np.add.at(took, owner, np.diff(edges))
    *shares, left = took.tolist()
    return shares, left
