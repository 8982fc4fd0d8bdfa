# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection being watched: its checkpoints as they end, with memory that stays."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.checkpoints import COLUMNS, checkpoint_rows, pair_column
from analysis.export import sync_row
from analysis.live import state
from analysis.live.latencies import Latencies
from analysis.pairs import CLOSES, OPENS, Pairing, in_order
from analysis.phases import NAMES, Measured, backwards, measure
from analysis.rows import rows_of
from analysis.spans import NUMBER_OF, numbers, opens
from dissector.connection import COLO, REMUS, Connection
from dissector.findings import Finding
from dissector.protocol import CHECKPOINT_END, DIRECTIONS, FORWARD, PHASES, REMUS_PHASES
from dissector.record import Record
from dissector.syncpoints import OK, Sync

ROWS_MAX = 1 << 19
"""Records of one checkpoint that are kept (170 octets each; one carries up to 1,024 pages); one with more has no
row."""
SILENT = 10_000_000_000
"""ns without an octet behind which a connection is called silent: twice COLO's longest period."""

_FORWARD = DIRECTIONS.index(FORWARD)
_END = NUMBER_OF[id(CHECKPOINT_END)]
_NOT_YET = -2
"""In place of the number of the last checkpoint that was told."""

PairName = tuple[str, str, str]
"""phase, from, to."""


@dataclass(slots=True)
class Closed:
    """Checkpoints that are over: rows as in `analysis.checkpoints`, `touched` for each, and what is wrong."""

    rows: list[dict[str, Any]]
    touched: list[bool]
    findings: list[Finding]


class Watch:
    """Takes what the engine says of one connection.

    `pages` and `records` count since the start; `checkpoints` those that were told; `recent` is the last of them
    for a snapshot; `latencies` by pair."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.records = self.pages = self.checkpoints = 0
        self.recent: deque[state.CheckpointState] = deque(maxlen=state.CHECKPOINTS_MAX)
        self.latencies: dict[PairName, Latencies] = {}
        self.pairing = Pairing()
        self.first_ns = 0
        self._rows: list[np.ndarray] = []
        self._count = 0
        self._points: list[Sync] = []
        self._pairs: list[dict[str, Any]] = []
        self._before = 0
        self._told = _NOT_YET
        self._due = False
        self._epoch_end: int | None = None
        self._overflow = False
        self._seen = (0, 0)

    def take(self, records: list[Record]) -> None:
        """Records, as they complete."""
        rows = rows_of(records)
        self._rows.append(rows)
        self._count += len(rows)
        self.records += len(rows)
        self.pages += int(rows["pages"][rows["pages"] > 0].sum())
        self.first_ns = self.first_ns or int(rows["first_seen_ns"][0])
        self._due |= bool(opens(rows).any())
        forward = rows[rows["direction"] == _FORWARD]
        if self._epoch_end is not None and len(forward) and forward["stream_offset"].max() > self._epoch_end:
            self._due, self._epoch_end = True, None
        ends = forward["stream_offset"][forward["structure"] == _END]
        if len(ends):
            self._epoch_end = int(ends.max())
            self._due |= bool(forward["stream_offset"].max() > self._epoch_end) or len(ends) > 1
        if self._count > ROWS_MAX:
            self._cut()

    def judge(self, syncs: list[Sync]) -> list[dict[str, Any]]:
        """Sync-points, as they are judged; the rows of `analysis.pairs` that they end."""
        found = []
        for sync in in_order(syncs):
            self._points.append(sync)
            found += list(self.pairing.feed(sync))
        self._pairs += found
        for row in found:
            if not row["reason"]:
                name = row["phase"], row["from"], row["to"]
                self.latencies.setdefault(name, Latencies()).add(row["to_delivered_ns"], row["latency_ns"])
        return found

    def close(self, drops: int, final: bool = False) -> Closed | None:
        """The checkpoints that have ended since.  `drops`: packets that the capturing program has lost so far;
        `final`: nothing more comes."""
        if not (self._due or final) or not self._count:
            return None
        rows, measured = self._measured()
        settled = 1 << 62 if final else self.connection.settled
        self._due = False
        over: list[Measured] = []
        for i, one in enumerate(measured):
            following = measured[i + 1].span.forward if i + 1 < len(measured) else rows[:0]
            if not final and not len(following):
                break
            if not final and not 0 < following["frame"][0] < settled:
                self._due = True
                break
            if _number(one) > self._told:
                over.append(one)
        if over and self._overflow:
            over, self._overflow = over[1:], False
        if not over:
            return None
        closed = self._closed(over, drops)
        self._told = _number(over[-1])
        self._prune(rows)
        return closed

    def _closed(self, over: list[Measured], drops: int) -> Closed:
        rows: list[dict[str, Any]] = [dict.fromkeys(COLUMNS) | row for row in checkpoint_rows(over, self._pairs)]
        seen, self._seen = self._seen, (drops, self.connection.hole_count)
        touched = [seen != self._seen] * len(rows)
        self.checkpoints += len(rows)
        for row, hit in zip(rows, touched, strict=True):
            if self.connection.kind in (COLO, REMUS):
                self.recent.append(_checkpoint_state(row, hit))
        return Closed(rows, touched, list(backwards(over)))

    def _measured(self) -> tuple[np.ndarray, list[Measured]]:
        rows = np.concatenate(self._rows)
        late = np.where(rows["frame"] == 0, np.iinfo(np.int64).max, rows["frame"])
        rows = rows[np.lexsort((rows["stream_offset"], late))]
        self._rows = [rows]
        return rows, list(measure([self.connection], rows, map(sync_row, self._points), self._before))

    def _prune(self, rows: np.ndarray) -> None:
        """What comes needs the last checkpoint that was told, and what is behind it."""
        last = self._told
        kept = rows[numbers(self.connection, rows, self._before) >= last]
        self._before = max(last, 0) if self.connection.kind == REMUS else max(last - 1, 0)
        self._rows, self._count = [kept], len(kept)
        self._points = [p for p in self._points if last <= (-1 if p.checkpoint is None else p.checkpoint)]
        self._pairs = [p for p in self._pairs if last <= (-1 if p["checkpoint"] is None else p["checkpoint"])]
        frames = kept["first_frame"][kept["first_frame"] > 0]
        if len(frames):
            self.connection.forget_before(int(frames.min()))

    def _cut(self) -> None:
        """Too many records in one checkpoint: the first half is left, and so is its row."""
        rows = np.concatenate(self._rows)
        left, kept = np.split(rows, [len(rows) // 2])
        self._before += int(opens(left).sum()) if self.connection.kind == COLO else 0
        self._rows, self._count, self._overflow = [kept], len(kept), True

    # --- what is under way ------------------------------------------------------------------------

    @property
    def failed_over(self) -> bool:
        """Whether one end has ended what never ends by itself."""
        stream = self.connection.stream
        return self.connection.kind in (COLO, REMUS) and (
            stream.reset or any(stream.known_end(side) for side in (0, 1)))

    def running(self, name: str, to: str) -> Sync | None:
        """The sync-point behind which this pair has not come to its end, if it may still."""
        pairing = self.pairing
        if name == OPENS and to in (CLOSES, OPENS) and (opened := pairing.opened):
            closed = to == CLOSES and pairing.previous is not opened and pairing.previous is not None \
                and pairing.previous.point.short_name == CLOSES
            return None if closed or pairing.broken or not opened.record.delivered_ns else opened
        last = pairing.previous
        if last is None or last.point.short_name != name or last.status != OK or not last.record.delivered_ns:
            return None
        return last

    def phase(self) -> tuple[int | None, str, int | None]:
        """(checkpoint, phase, ns since the epoch at which it began) of what is under way; "": not known."""
        if not self._count or self.connection.kind not in (COLO, REMUS):
            return None, "", None
        *_, last = self._measured()[1]
        number = last.span.number
        if self.connection.kind == COLO and not number:
            return number, "", None
        for phase in last.phases:
            if phase.end is None:
                return number, phase.name, phase.begin.time if phase.begin else None
        return number, "", None

    def doing(self, now: int, last_ns: int) -> tuple[str, int | None, str, int | None]:
        """(state, checkpoint, phase, since) as in `state.ConnectionState`."""
        number, phase, since = self.phase()
        if self.failed_over:
            return state.FAILED_OVER, number, "", last_ns or None
        if self.connection.over:
            return state.ENDED, number, "", last_ns or None
        if last_ns and now - last_ns > SILENT:
            return state.SILENT, number, phase, last_ns
        if self.connection.kind == COLO and (last := self.pairing.previous):
            if last.point.short_name == CLOSES:
                return state.LOCKSTEP, number, phase or PHASES[-1], last.record.delivered_ns or None
            if number:
                return state.CHECKPOINT, number, phase, since
        elif self.connection.kind == REMUS and number:
            return (state.LOCKSTEP if phase == REMUS_PHASES[-1] else state.CHECKPOINT), number, phase, since
        return state.LIVE_MIGRATION, number, "", self.first_ns or None


def _number(one: Measured) -> int:
    return -1 if one.span.number is None else one.span.number


def _checkpoint_state(row: dict[str, Any], touched: bool) -> state.CheckpointState:
    phases = {name: ms for name in NAMES if (ms := row[f"{name}_ms"]) is not None}
    total = row[pair_column(OPENS, CLOSES)]
    if row["kind"] == REMUS and phases:
        total = sum(ms for name, ms in phases.items() if name != REMUS_PHASES[-1])
    return state.CheckpointState(row["number"], total, phases, row["pages"], row["forward_octets"], row["complete"],
                                 touched)
