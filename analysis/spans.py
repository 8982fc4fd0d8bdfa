# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans: the records of each checkpoint of COLO, epoch of Remus, or migration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.pairs import OPENS
from analysis.rows import STATUSES
from dissector.connection import COLO, REMUS, Connection
from dissector.protocol import (
    CHECKPOINT_END,
    CHECKPOINT_STATE,
    DIRECTIONS,
    FORWARD,
    STRUCTURES,
    XEN_COLO,
    Structure,
)
from dissector.record import GAP

NUMBER_OF = {id(structure): i for i, structure in enumerate(STRUCTURES)}
"""Of the column structure of rows."""

_FORWARD = DIRECTIONS.index(FORWARD)
_GAP = STATUSES.index(GAP)
_OPENS_ID = XEN_COLO.named(OPENS).control_id


@dataclass(slots=True)
class Span:
    """Rows of one checkpoint, by direction, each in stream order.

    `number`: None if it precedes the first NEW of a capture that starts late.  `whole`: whether all of a
    direction was seen; `begins`: whether its first forward record is known to be its first."""

    number: int | None
    forward: np.ndarray
    back: np.ndarray
    whole: dict[str, bool]
    begins: bool

    def of(self, direction: str) -> np.ndarray:
        return self.forward if direction == FORWARD else self.back


def are(rows: np.ndarray, structure: Structure) -> np.ndarray:
    """Those of the rows that are such records."""
    return rows[rows["structure"] == NUMBER_OF[id(structure)]]


def beginnings(pages: np.ndarray) -> np.ndarray:
    """Indices of the rows of PAGE_DATA that begin an iteration: libxc goes over memory in ascending order,
    so one begins where the first PFN is not above the last one of the record before.  One that happens to
    begin above cannot be told from the one before it."""
    known = np.flatnonzero(pages["first_pfn"] >= 0)
    turns = pages["first_pfn"][known[1:]] <= pages["last_pfn"][known[:-1]]
    return np.concatenate((np.zeros(min(1, len(pages)), np.int64), known[1:][turns]))


def numbers(connection: Connection, rows: np.ndarray, before: int = 0) -> np.ndarray:
    """Number of the checkpoint, epoch or migration that each row belongs to; -1: it precedes the
    first NEW of a capture that starts late.

    Everything up to the next NEW, in either direction, belongs to a checkpoint; an epoch of Remus
    goes on to libxl's CHECKPOINT_END.  `before`: so many NEWs or ends of epochs precede these rows."""
    forward = rows["direction"] == _FORWARD
    found = np.full(len(rows), before)
    if connection.kind == COLO:
        opening = are(rows[forward & opens(rows)], CHECKPOINT_STATE)
        opening = opening[np.argsort(opening["stream_offset"])]
        found[forward] += opening["stream_offset"].searchsorted(rows["stream_offset"][forward], "right")
        late = np.where(rows["frame"] == 0, np.iinfo(np.int64).max, rows["frame"])[~forward]
        found[~forward] += np.maximum.accumulate(opening["frame"]).searchsorted(late, "right")
        if not connection.start_seen:
            found[found == 0] = -1
    elif connection.kind == REMUS:
        ends = np.sort(are(rows[forward], CHECKPOINT_END)["stream_offset"])
        found[forward] += ends.searchsorted(rows["stream_offset"][forward], "left")
    return found


def opens(rows: np.ndarray) -> np.ndarray:
    """Which sync-points of the primary open a checkpoint: NEW, and one whose octets are missing
    (the primary sends nothing else)."""
    return (rows["direction"] == _FORWARD) & (rows["frame"] > 0) & (
        (rows["control_id"] == _OPENS_ID) | (rows["control_id"] < 0))


def spans(connection: Connection, rows: np.ndarray, before: int = 0) -> list[Span]:
    """The spans of a connection, in order; `before` as in `numbers`."""
    if not len(rows):
        return []
    which = numbers(connection, rows, before)
    order = np.lexsort((rows["stream_offset"], which))
    present, starts = np.unique(which[order], return_index=True)
    found: list[Span] = []
    begins, end = connection.start_seen, 0
    for number, mine in zip(present, np.split(rows[order], starts[1:]), strict=True):
        forward = mine[mine["direction"] == _FORWARD]
        if found:
            begins = bool(len(forward)) and int(forward["stream_offset"][0]) == end
        found.append(Span(None if number < 0 else int(number), forward, mine[mine["direction"] != _FORWARD],
                          {}, begins))
        if len(forward):
            end = int(forward["stream_offset"][-1] + forward["length"][-1])
    for i, span in enumerate(found):
        seen = np.concatenate([span.of(direction)["first_frame"] for direction in DIRECTIONS])
        seen = seen[seen > 0]
        begin = int(seen.min()) if i and len(seen) else 0
        after = found[i + 1].forward["frame"][0] if i + 1 < len(found) else 0
        for direction in DIRECTIONS:
            damaged = any((not after or u.frame < after) and (u.until_frame is None or u.until_frame > begin)
                          for u in connection.unread(direction))
            span.whole[direction] = not damaged and not (span.of(direction)["status"] == _GAP).any()
    return found
