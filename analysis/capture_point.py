# SPDX-License-Identifier: GPL-2.0-or-later
"""Where between both ends a capture was made, by how fast each end answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.tables import frame_of
from dissector.protocol import BACK, FORWARD, PRIMARY, SECONDARY
from dissector.trace import NEW

HANDSHAKE, ACKS = "handshake", "ACKs"
AT_PRIMARY, AT_SECONDARY, BETWEEN = "at the primary's end", "at the secondary's end", "between"
HOST_NS = 1_000_000
"""An answer that comes sooner may have taken all its time in its own host: it tells no distance."""
NEAR = 4
"""Where the capture is made at one end, the other's answers take so many times longer at least."""

ENDS = {PRIMARY: BACK, SECONDARY: FORWARD}
"""Each end, and the direction that it answers."""
COLUMNS = {"connection": "int64", **{
    f"to_{end}_{name}": kind for end in ENDS
    for name, kind in (("ms", "float64"), ("by", "object"), ("usual_ms", "float64"), ("samples", "Int64"))},
    "place": "object"}


def capture_points(segments: pd.DataFrame) -> pd.DataFrame:
    """One row for each connection, from its segments (`analysis.segments.segments`).

    to_primary_ms, to_secondary_ms (float64): the least round trip from the capture point to that end and
    back, its host's time included; NaN: the capture lacks its answers.  to_*_by: what gave it, `HANDSHAKE`
    or `ACKS` (octets, and the first ACK that covers them); to_*_usual_ms: the median; to_*_samples: how many
    were looked at.  Octets count when they are seen for the first time and beyond all others.

    place: `AT_PRIMARY`, `AT_SECONDARY`: that end answers within `HOST_NS`, the other takes longer than that
    and `NEAR` times as long; `BETWEEN`: both take longer; None: one is not known, or the way is so short that
    the hosts' own time hides where the capture was made."""
    return frame_of([_row(int(number), rows) for number, rows in segments.groupby("connection")], COLUMNS)


def round_trips(rows: pd.DataFrame, answered: str) -> np.ndarray:
    """ns from each segment with new octets of a direction to the first ACK that covers it (int64)."""
    said = rows[(rows["direction"] == answered) & (rows["kind"] == NEW) & rows["time_ns"].notna()]
    acks = rows[(rows["direction"] != answered) & rows["acknowledges"].notna() & rows["time_ns"].notna()]
    if said.empty or acks.empty:
        return np.zeros(0, np.int64)
    covers = np.maximum.accumulate(acks["acknowledges"].to_numpy("int64"))
    at = covers.searchsorted((said["stream_offset"] + said["length"]).to_numpy("int64"))
    there = at < len(acks)
    said, first = said[there], acks.iloc[at[there]]
    # An ACK in front of its octets: the capture has their order wrong, or it was not these that it answers.
    behind = first["frame"].to_numpy("int64") > said["frame"].to_numpy("int64")
    waited: np.ndarray = first["time_ns"].to_numpy("int64") - said["time_ns"].to_numpy("int64")
    return waited[behind & (waited >= 0)]


def _handshake(rows: pd.DataFrame) -> dict[str, int]:
    """ns from the SYN to its answer, and from there to the ACK, by the direction that was answered; none if
    one of them came twice: which one is answered then?"""
    flags = rows["flags"].astype(str)
    syns, answers = rows[flags == "SYN"], rows[flags == "SYN ACK"]
    if len(syns) != 1 or len(answers) != 1:
        return {}
    syn, answer = syns.iloc[0], answers.iloc[0]
    last = rows[(rows["frame"] > answer["frame"]) & (rows["direction"] == syn["direction"])]["time_ns"]
    found = {syn["direction"]: answer["time_ns"] - syn["time_ns"],
             answer["direction"]: last.iloc[0] - answer["time_ns"] if len(last) else pd.NA}
    return {direction: int(time) for direction, time in found.items() if not pd.isna(time) and time >= 0}


def _row(number: int, rows: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"connection": number}
    shaken = _handshake(rows)
    least: dict[str, int] = {}
    for end, answered in ENDS.items():
        waits = round_trips(rows, answered)
        samples = [(int(waits.min()), ACKS)] if len(waits) else []
        if answered in shaken:
            samples.append((shaken[answered], HANDSHAKE))
            waits = np.append(waits, shaken[answered])
        if samples:
            least[end], by = min(samples)
            row |= {f"to_{end}_ms": least[end] / 1e6, f"to_{end}_by": by,
                    f"to_{end}_usual_ms": float(np.median(waits)) / 1e6, f"to_{end}_samples": len(waits)}
    return row | {"place": _place(least)}


def _place(least: dict[str, int]) -> str | None:
    if len(least) < len(ENDS):
        return None
    near, far = sorted(least, key=lambda end: least[end])
    if least[near] >= HOST_NS:
        return BETWEEN
    if least[far] < max(HOST_NS, NEAR * least[near]):
        return None
    return AT_PRIMARY if near == PRIMARY else AT_SECONDARY
