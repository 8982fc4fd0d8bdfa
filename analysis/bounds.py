# SPDX-License-Identifier: GPL-2.0-or-later
"""What latencies are at both ends, as far as a capture made elsewhere can say.

A capture tells when a message passed its point.  At the end that wrote it, the message passed earlier, when
its last octet left; at the end that read it, later, when all of it had arrived.

It left not later than its last octet was seen, and not earlier than what its segment acknowledges had been
seen: those octets had to reach the writer first.  Both are certain where that segment is the first with its
octets.  It arrived not before it was delivered here, and not after its ACK passed here: the reader wrote that
behind the arrival.  So far nothing is assumed but that the capture is whole.

Where the writer was silent before, or an ACK was delayed, these bounds are wide.  They are narrowed by one
assumption: the way between an end and the capture point, in one direction, takes no longer than the usual
round trip there (`analysis.capture_point`: half of it is the rule).  A message whose octets were sent twice is
not narrowed: which one arrived is not known.

A latency between two instants that lie in [a, b] and [c, d] lies in [c - b, d - a]; and it is not negative,
as each sync-point answers the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.pairs import COLUMNS as PAIR_COLUMNS
from analysis.tables import frame_of, latency
from dissector.protocol import DIRECTIONS, PRIMARY, SECONDARY, SENDER
from dissector.record import Record
from dissector.syncpoints import Sync
from dissector.trace import LATE, RETRANSMISSION

ENDS = (PRIMARY, SECONDARY)
NOT_KNOWN = "not_known"
"""Reason why a pair has no latency at an end: the capture does not bound it."""
COLUMNS = PAIR_COLUMNS | {f"{end}_{bound}_ms": "float64" for end in ENDS for bound in ("min", "max")}


def bounds(pairs: pd.DataFrame, points: list[Sync], segments: pd.DataFrame,
           capture_points: pd.DataFrame) -> pd.DataFrame:
    """The pairs (`analysis.tables.pairs`) with primary_min_ms, primary_max_ms, secondary_min_ms and
    secondary_max_ms (float64): between which values their latency lies at each end; NaN: not known."""
    usual = {row["connection"]: row for row in capture_points.to_dict("records")}
    windows: dict[tuple[int, str, int], dict[str, Window]] = {}
    for number, mine in segments.groupby("connection"):
        wire = _Wire(mine, usual[number])
        for record, name in ((s.record, s.point.short_name) for s in points if s.record.connection == number):
            windows[number, name, record.frame] = wire.windows(record)
    rows = pairs.astype(object).where(pairs.notna(), None).to_dict("records")
    for row in rows:
        begin, end = (windows.get((row["connection"], row[which], row[f"{which}_frame"]))
                      for which in ("from", "to"))
        if row["reason"] == "" and begin and end:
            row |= {f"{where}_{bound}_ms": value for where in ENDS
                    for bound, value in zip(("min", "max"), end[where].since(begin[where]), strict=True)}
    return frame_of(rows, COLUMNS)


def latency_at(bounds: pd.DataFrame, end: str) -> pd.DataFrame:
    """The statistics of `analysis.tables.latency` at `end`, twice: `bound` says of which side each value is one.
    Every one of these statistics but the spread grows with each of its values, so the true one lies between."""
    parts = []
    for text, name in (("at least", "min"), ("at most", "max")):
        known = bounds[f"{end}_{name}_ms"].notna()
        pairs = bounds.assign(latency_ns=(bounds[f"{end}_{name}_ms"] * 1e6).round().astype("Int64"),
                              reason=bounds["reason"].where(known | (bounds["reason"] != ""), NOT_KNOWN))
        table = latency(pairs).drop(columns="std_ms")
        table.insert(table.columns.get_loc("to") + 1, "bound", text)
        parts.append(table)
    return pd.concat(parts).sort_index(kind="stable", ignore_index=True)


@dataclass(frozen=True, slots=True)
class Window:
    """When something happened, in ns of one clock: not before `begin`, not after `end`; NaN: not known."""

    begin: float
    end: float

    def since(self, other: Window) -> tuple[float, float]:
        """Least and greatest ms from the other to this one."""
        return max((self.begin - other.end) / 1e6, 0.0), (self.end - other.begin) / 1e6


class _Wire:
    """The segments of one connection, looked up."""

    def __init__(self, segments: pd.DataFrame, usual: dict[str, Any]) -> None:
        segments = segments.assign(time_ns=segments["time_ns"].fillna(0).astype("int64"))  # 0: not known
        self._base = int(segments["time_ns"].max())
        self._rows = segments.set_index("frame")
        self._usual = {end: float(usual[f"to_{end}_usual_ms"]) * 1e6 for end in ENDS}
        self._sent: dict[str, tuple[pd.DataFrame, np.ndarray]] = {}
        self._twice: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for direction in DIRECTIONS:
            mine = segments[(segments["direction"] == direction) & (segments["length"] > 0)]
            ends = (mine["stream_offset"] + mine["length"]).to_numpy("int64")
            self._sent[direction] = mine, np.maximum.accumulate(ends)
            again = (mine["kind"] == RETRANSMISSION).to_numpy()
            self._twice[direction] = mine["stream_offset"].to_numpy("int64")[again], ends[again]

    def windows(self, record: Record) -> dict[str, Window]:
        """When a message left its writer, and when it arrived, by end."""
        writer = SENDER[record.direction]
        reader = SECONDARY if writer == PRIMARY else PRIMARY
        first = self._rows.loc[record.last_frame] if record.last_frame in self._rows.index else None
        seen, delivered, acked = (self._ns(time) for time in (
            record.last_seen_ns, record.delivered_ns, record.acked_ns))
        if first is None or first["kind"] in (LATE, RETRANSMISSION) or record.after_gap:
            return {writer: Window(np.nan, seen), reader: Window(delivered, acked)}
        left = np.fmax(seen - self._usual[writer], self._heard(record.direction, first))
        if not self._again(record):
            acked = np.fmin(acked, delivered + self._usual[reader])
        return {writer: Window(left, seen), reader: Window(delivered, acked)}

    def _heard(self, direction: str, segment: pd.Series) -> float:
        """When the last octet that a segment acknowledges had passed, on its way to the segment's writer."""
        other = next(d for d in DIRECTIONS if d != direction)
        rows, ends = self._sent[other]
        at = int(ends.searchsorted(segment["acknowledges"])) if not pd.isna(segment["acknowledges"]) else len(ends)
        if at == len(ends) or segment["acknowledges"] <= 0 or rows["frame"].iloc[at] >= segment.name:
            return np.nan
        return self._ns(int(rows["time_ns"].iloc[at]))

    def _ns(self, time: int) -> float:
        """ns from the connection's last segment: a float cannot hold those since the epoch."""
        return float(time - self._base) if time else np.nan

    def _again(self, record: Record) -> bool:
        """Whether its last octet was seen more than once."""
        begins, ends = self._twice[record.direction]
        return bool(((begins < record.end) & (ends >= record.end)).any())
