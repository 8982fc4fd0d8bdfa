# SPDX-License-Identifier: GPL-2.0-or-later
"""Two captures of one run, made at both ends: their clocks, and whose time each latency was."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import clock
from analysis.capture import Capture, stamped
from analysis.clock import Clock
from analysis.pairs import COLUMNS as PAIR_COLUMNS
from analysis.pairs import pair_rows
from analysis.reading import read
from analysis.segments import segments
from analysis.split import Split
from analysis.tables import frame_of, plain
from analysis.tables import pairs as pair_table
from dissector.connection import Connection
from dissector.errors import CannotDo
from dissector.protocol import BACK, DIRECTIONS, FORWARD
from dissector.trace import NEW

PARTS = ("primary", "network", "secondary")
LATENCY_COLUMNS = PAIR_COLUMNS | dict.fromkeys((f"{part}_ns" for part in PARTS), "Int64")
CLOCK_COLUMNS = {"connection": "int64", "at_ns": "Int64", **dict.fromkeys(
    ("offset_ms", "offset_min_ms", "offset_max_ms", "drift_ppm", "drift_min_ppm", "drift_max_ppm", "delay_ms"),
    "float64"), "packets": "int64", "uneven_ms": "float64"}
SHARES_COLUMNS = ("connection", "phase", "from", "to", "count", "mean_ms", *(f"{part}_ms" for part in PARTS))


class PairError(CannotDo):
    """Two captures that are not of one run; the message says why."""


def pair(one: Capture | str | os.PathLike[str], other: Capture | str | os.PathLike[str]) -> TwoEnds:
    """Two captures of one run, made at both ends, in either order; files, or captures that were read with
    `segments=True`.  Raises PairError if they have no connection in common, ClockError if their clocks cannot
    be compared."""
    return TwoEnds(*(c if isinstance(c, Capture) else read(c, segments=True) for c in (one, other)))


class TwoEnds:
    """A run seen at both ends: `primary` and `secondary` are the captures, by the end that they are nearer to.

    The clock of a connection (`clocks`) is that of `secondary` by that of `primary`."""

    def __init__(self, one: Capture, other: Capture) -> None:
        numbers = _common(one, other)
        found = {a: _compared(one, a, other, b) for a, b in numbers}
        if any(swapped for _, swapped in found.values()):
            one, other, numbers = other, one, [(b, a) for a, b in numbers]
            found = {a: _compared(one, a, other, b) for a, b in numbers}
        self.primary, self.secondary, self._numbers = one, other, numbers
        self._clocks: dict[int, Clock] = {number: found[number][0] for number, _ in numbers}

    @cached_property
    def clocks(self) -> pd.DataFrame:
        """One row for each connection (of `primary`): when the clocks were compared (at), offset_ms and drift_ppm
        with their bounds, and what else `analysis.clock.Clock` says, in ms."""
        return stamped(frame_of([{"connection": number, **clock.row(found)} for number, found in
                                 self._clocks.items()], CLOCK_COLUMNS))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The pairs of `primary` (`analysis.tables.pairs`) with primary_ns, network_ns and secondary_ns (Int64):
        whose time the latency was (`analysis.split`).  They add up to latency_ns; <NA>: one of the captures
        lacks a record in between."""
        rows = pair_table(pair_rows(self.primary.points))
        out: list[dict[str, Any]] = []
        for a, b in self._numbers:
            split, places = self._chain(a, b)
            mine = plain(rows[rows["connection"] == a])
            for row in (dict(zip(mine, values, strict=True)) for values in zip(*mine.values(), strict=True)):
                ends = [places.get((row[f"{which}_frame"], row[which])) for which in ("from", "to")]
                if not row["reason"] and None not in ends and (parts := split.between(*ends)):  # type: ignore[arg-type]
                    row |= {f"{part}_ns": time for part, time in zip(PARTS, parts, strict=True)}
                out.append(row)
        return frame_of(out, LATENCY_COLUMNS)

    def latency(self) -> pd.DataFrame:
        """One row for each connection, phase and pair: count (pairs that could be split), mean_ms, and of that
        primary_ms, network_ms and secondary_ms; these three add up to it."""
        keys = ["connection", "phase", "from", "to"]
        times = ["latency_ns", *(f"{part}_ns" for part in PARTS)]
        groups = self.pairs.dropna(subset="primary_ns").astype(dict.fromkeys(times, "float64")).groupby(keys)
        means = (groups[times].mean() / 1e6).set_axis(["mean_ms", *(f"{part}_ms" for part in PARTS)], axis=1)
        shares = self.primary.export("latency")[keys].merge(
            means.assign(count=groups.size()), left_on=keys, right_index=True)
        return shares[list(SHARES_COLUMNS)].reset_index(drop=True)

    def _chain(self, a: int, b: int) -> tuple[Split, dict[tuple[int, str], int]]:
        """The records of a connection as a chain, and where in it each sync-point (frame, name) stands."""
        here = self.primary.rows[self.primary.rows["connection"] == a]
        there = self.secondary.rows[self.secondary.rows["connection"] == b]
        here = here[here["delivered_ns"] > 0]
        here = here[np.lexsort((here["stream_offset"], here["frame"]))]
        shifts = _shifts(self.primary, a, self.secondary, b)
        seen = dict(zip(_places(there), there["delivered_ns"].tolist(), strict=True))
        shifted = ((direction, offset + shifts[direction]) for direction, offset in _places(here))
        times = np.array([seen.get(place, 0) for place in shifted], np.int64)
        times = np.where(times > 0, self._clocks[a].first(times), 0)
        split = Split(here["direction"] == DIRECTIONS.index(BACK), here["delivered_ns"].astype(np.int64), times)
        at = {place: i for i, place in enumerate(_places(here))}
        places = {(s.record.frame, s.point.short_name): at[s.record.direction, s.record.stream_offset]
                  for s in self.primary.points if s.record.connection == a and s.record.delivered_ns}
        return split, places


def _places(rows: np.ndarray) -> list[tuple[str, int]]:
    """(direction, stream offset) of records."""
    return [(DIRECTIONS[direction], offset) for direction, offset in rows[["direction", "stream_offset"]].tolist()]


# --- which packets are the same -------------------------------------------------------------------


def _common(one: Capture, other: Capture) -> list[tuple[int, int]]:
    """The numbers that connections of ours have in both captures: those between the same ends; if each has
    one, it is that (its addresses may be translated on the way)."""
    there = {other.engine.ends(c): c.number for c in other.engine.ours()}
    found = [(c.number, there[one.engine.ends(c)]) for c in one.engine.ours() if one.engine.ends(c) in there]
    if not found and len(one.engine.ours()) == len(other.engine.ours()) == 1:
        found = [(one.engine.ours()[0].number, other.engine.ours()[0].number)]
    if not found:
        raise PairError("the two captures have no migration stream in common: their ends differ")
    return found


def _connection(capture: Capture, number: int) -> Connection:
    return next(c for c in capture.engine.ours() if c.number == number)


def _shifts(one: Capture, a: int, other: Capture, b: int) -> dict[str, int]:
    """What to add to a stream offset of one capture to have the other's, by direction: they differ where one
    of them starts late."""
    found = {}
    for direction in DIRECTIONS:
        mine, theirs = (c.stream.origin(c.side(direction)) for c in (_connection(one, a), _connection(other, b)))
        found[direction] = ((mine - theirs + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    return found


def _compared(one: Capture, a: int, other: Capture, b: int) -> tuple[Clock, bool]:
    """The clock of `other`, and whether that is the capture at the primary's end."""
    shifts = _shifts(one, a, other, b)
    mine = _unmistakable(one, a, dict.fromkeys(DIRECTIONS, 0))
    theirs = _unmistakable(other, b, {direction: -shift for direction, shift in shifts.items()})
    same = mine.merge(theirs, on=_KEYS)
    if same.empty:
        raise PairError("the two captures have no packet in common: are they of one run?")
    forward, back = (same.loc[same["direction"] == direction, ["time_ns_x", "time_ns_y"]].to_numpy("int64")
                     for direction in (FORWARD, BACK))
    usual, swapped = clock.compare(forward, back), clock.compare(back, forward)
    return usual, swapped.uneven_ns < usual.uneven_ns


_KEYS = ["direction", "flags", "length", "end", "acknowledges"]


def _unmistakable(capture: Capture, number: int, shifts: dict[str, int]) -> pd.DataFrame:
    """Segments that are told from every other one of their connection: _KEYS and time_ns.

    One with octets is told by where it ends (offloads join segments in one capture and not in the other), if no
    other ends there and its octets are new: of a retransmitted one a capture may lack either copy.  An ACK
    is told by what it acknowledges and from where, if there is one only."""
    rows = segments(capture.engine)
    rows = rows[(rows["connection"] == number) & rows["time_ns"].notna()]
    direction = rows["direction"].astype(str)
    other = direction.map({FORWARD: BACK, BACK: FORWARD})
    carries = rows["length"] > 0
    table = pd.DataFrame({
        "direction": direction, "flags": rows["flags"].astype(str).mask(carries, ""), "length": carries,
        "end": rows["stream_offset"] + rows["length"] + direction.map(shifts),
        "acknowledges": (rows["acknowledges"] + other.map(shifts)).mask(carries, 0).fillna(-1).astype("int64"),
        "time_ns": rows["time_ns"]})
    alone = ~table.duplicated(_KEYS, keep=False)
    return table[alone & (~carries | (rows["kind"] == NEW))]
