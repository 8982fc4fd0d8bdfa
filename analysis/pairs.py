# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of neighbouring sync-points, and the wholes that they add up to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.tables import frame_of
from dissector.protocol import XEN_COLO
from dissector.syncpoints import OK

CHECKPOINT, FIRST_BOOT = "checkpoint", "first_boot"
HOLE, NO_TIME = "hole", "no_time"
"""Reasons why neighbours are no pair: octets are missing between them; their frames have no time."""

OPENS, CLOSES = XEN_COLO.opens_checkpoint, XEN_COLO.closes_checkpoint
TRANSITIONS = XEN_COLO.transitions()
USUAL = {point.short_name: point.successors[0] for point in XEN_COLO.sync_points}
_BEFORE = {to: name for name, to in USUAL.items()}
WHOLES = ((OPENS, CLOSES), (OPENS, OPENS))

COLUMNS = {"connection": "int64", "checkpoint": "Int64", "phase": "object", "from": "object",
           "to": "object", **dict.fromkeys(("from_frame", "to_frame", "from_delivered_ns",
                                            "to_delivered_ns", "latency_ns"), "Int64"), "reason": "object"}


def pairs(syncs: pd.DataFrame) -> pd.DataFrame:
    """One row for each two neighbouring sync-points, and for each whole.

    Columns: connection; checkpoint, of the earlier one; phase (`CHECKPOINT`, `FIRST_BOOT`); from,
    to; from_frame, to_frame; from_delivered_ns, to_delivered_ns and latency_ns between them; reason,
    "" for a pair, else why the two are none: a status of `dissector.syncpoints`, `HOLE` or `NO_TIME`.  What
    was expected and did not come stands with <NA> times under the transition that it lacks.
    """
    rows: list[dict[str, Any]] = []
    for _, points in syncs.groupby("connection", sort=True):
        rows += _of_connection(points.to_dict("records"))
    return frame_of(rows, COLUMNS)


def _of_connection(points: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    opened: dict[str, Any] | None = None
    broken = ""
    for a, b in itertools.pairwise(points):
        reason = _reason(a, b)
        if a["name"] == OPENS:
            opened, broken = a, "" if a["status"] == OK else str(a["status"])
        if (a["name"], b["name"]) in TRANSITIONS:
            yield _row(a, b, a["name"], b["name"], reason)
        else:
            for name, to in dict.fromkeys(((a["name"], USUAL[a["name"]]),
                                           (_BEFORE[b["name"]], b["name"]))):
                yield _row(a, None, name, to, reason)
        broken = broken or reason
        if opened is not None and b["name"] in (CLOSES, OPENS):
            yield _row(opened, b, OPENS, b["name"], broken)


def _reason(a: dict[str, Any], b: dict[str, Any]) -> str:
    if b["doubt"]:
        return HOLE
    for point in (a, b):
        if point["status"] != OK:
            return str(point["status"])
    return NO_TIME if pd.isna(a["delivered_ns"]) or pd.isna(b["delivered_ns"]) else ""


def _row(a: dict[str, Any], b: dict[str, Any] | None, name: str, to: str,
         reason: str) -> dict[str, Any]:
    checkpoint = None if pd.isna(a["checkpoint"]) else int(a["checkpoint"])
    first_boot = checkpoint == 0 and (name, to) == (_BEFORE[CLOSES], CLOSES)
    row = {"connection": a["connection"], "checkpoint": checkpoint,
           "phase": FIRST_BOOT if first_boot else CHECKPOINT, "from": name, "to": to,
           "reason": reason}
    if b is not None:
        row |= {"from_frame": a["frame"], "to_frame": b["frame"], "from_delivered_ns": a["delivered_ns"],
                "to_delivered_ns": b["delivered_ns"]}
        if not pd.isna(a["delivered_ns"]) and not pd.isna(b["delivered_ns"]):
            row["latency_ns"] = b["delivered_ns"] - a["delivered_ns"]
    return row
