# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables that only a report has: statistics of phases, the slowest checkpoints."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.capture import Capture
from analysis.display_filter import of_frames
from analysis.explanation import short, usual
from analysis.phases import BOUNDARIES
from analysis.plots import measured_phases
from analysis.statistics import summary
from analysis.tables import frame_of

SLOWEST = 5
_RUNNING = {boundary.phase for boundaries in BOUNDARIES.values() for boundary in boundaries
            if boundary.pick == "next"}
"""Phases that last until the next checkpoint."""


def phases(capture: Capture, number: int) -> pd.DataFrame:
    """One row for each phase of a connection, without checkpoint 0 if there are others: count, its share of all,
    statistics in ms."""
    found = usual(measured_phases(capture, number))
    whole = found["ms"].sum()
    rows: list[dict[str, Any]] = [
        {"phase": str(phase), "count": len(mine), "share": f"{mine['ms'].sum() / whole:.0%}" if whole > 0 else None,
         **summary(mine["duration"].to_numpy("int64").tolist())}
        for phase, mine in found.groupby("phase", observed=True)]
    return frame_of(rows, {"phase": "object", "count": "int64", "share": "object",
                           **dict.fromkeys(summary(()), "float64")})


def slowest(capture: Capture, number: int) -> pd.DataFrame:
    """The checkpoints that took longest, without checkpoint 0: number, ms of all phases that are known but those
    in which the VMs run, the longest phase, and their frames as a display filter."""
    found = measured_phases(capture, number)
    found = found[(found["checkpoint"] > 0) & ~found["phase"].isin(_RUNNING)]
    total = found.groupby("checkpoint")["ms"].sum().nlargest(SLOWEST)
    checkpoints = capture.checkpoints
    checkpoints = checkpoints[checkpoints["connection"] == number].set_index("number")
    rows = []
    for checkpoint, ms in total.items():
        mine = found[found["checkpoint"] == checkpoint]
        longest = mine.loc[mine["ms"].idxmax()]
        rows.append({"checkpoint": checkpoint, "total_ms": ms, "longest phase": str(longest["phase"]),
                     "longest_ms": longest["ms"], "frames": of_frames(checkpoints.loc[checkpoint])})
    return frame_of(rows, {"checkpoint": "int64", "total_ms": "float64", "longest phase": "object",
                           "longest_ms": "float64", "frames": "object"})


def causes(capture: Capture, number: int) -> pd.DataFrame:
    """What cost most time, in front (`analysis.explanation.explanation`), for eyes: cause and phase, in how many
    checkpoints, share, median in ms, what was seen, what helps, and the frames of its longest case."""
    found = capture.export("explanation")
    found = found[found["connection"] == number]
    rows = [{"cause": short(row), "share": f"{row['share']:.1%}",
             "median_ms": row["median_ms"], "found in": f"{row['checkpoints']} of {row['of']}",
             "what was seen": row["text"], "what helps": row["advice"], "frames": of_frames(row, "frame", "to_frame")}
            for row in found.to_dict("records")]
    return frame_of(rows, {"cause": "object", "share": "object", "median_ms": "float64",
                           **dict.fromkeys(("found in", "what was seen", "what helps", "frames"), "object")})


def savings(capture: Capture, number: int) -> pd.DataFrame:
    """What would have been spared (`analysis.memory.Memory.savings`), for eyes."""
    found = capture.memory.savings
    found = found[found["connection"] == number]
    return pd.DataFrame({
        "what": found["what"], "octets": found["octets_now"], "spared": found["octets_saved"],
        "share": found["share"].map("{:.1%}".format, na_action="ignore"), "if": found["assumption"]})
