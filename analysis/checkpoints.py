# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints of COLO, epochs of Remus, the one row of a plain migration: times, phases, volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.pairs import CLOSES, OPENS, TRANSITIONS, WHOLES
from analysis.rows import STATUSES
from analysis.tables import frame_of
from dissector.connection import COLO, PLAIN, REMUS, Connection
from dissector.engine import Engine
from dissector.findings import Finding
from dissector.protocol import (
    BACK,
    CHECKPOINT,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_END,
    CHECKPOINT_STATE,
    DIRECTIONS,
    DOMAIN_HEADER,
    FORWARD,
    GO_MESSAGE,
    LIBXL_END,
    PAGE_DATA,
    PHASES,
    REPORT,
    STRUCTURES,
    XEN_COLO,
    Boundary,
    Structure,
)
from dissector.record import GAP, TRUNCATED
from dissector.syncpoints import OK, UNCONFIRMED, UNKNOWN_ORDER, WRONG_SENDER

ABSOLUTE, RELATIVE = "absolute", "relative"

_TIMES = {point.short_name: f"{point.short_name.lower()}_ns" for point in XEN_COLO.sync_points}


def pair_column(name: str, to: str) -> str:
    """Column with the latency of a pair, in ms."""
    return f"{name.lower()}_to_{to.lower()}_ms"


PAIR_COLUMNS = [pair_column(*pair) for pair in (*TRANSITIONS, *WHOLES)]
PHASE_COLUMNS = [f"{phase}_ms" for phase in PHASES]

_INTEGERS = ("frame", "last_frame", "begin_ns", "end_ns", *_TIMES.values())
_VOLUMES = ("forward_octets", "records", "pages", "dirty_pfns")
_MIGRATION = ("total_ms", "downtime_min_ms", "downtime_max_ms")

COLUMNS = {
    "connection": "int64", "number": "Int64", "numbering": "object", "kind": "object",
    "complete": "bool", "reason": "object", **dict.fromkeys(_INTEGERS, "Int64"),
    **dict.fromkeys((*PAIR_COLUMNS, *PHASE_COLUMNS), "float64"), "merged": "object",
    **dict.fromkeys(_VOLUMES, "Int64"), **dict.fromkeys(_MIGRATION, "float64")}

_TRANSFER = [boundary for boundary in XEN_COLO.boundaries
             if boundary.structure in (PAGE_DATA, CHECKPOINT, CHECKPOINT_END)]
"""The phases that an epoch of Remus shares with COLO's checkpoints."""

_NUMBER_OF = {id(structure): i for i, structure in enumerate(STRUCTURES)}
_FORWARD, _BACK = DIRECTIONS.index(FORWARD), DIRECTIONS.index(BACK)
_GAP, _TRUNCATED = STATUSES.index(GAP), STATUSES.index(TRUNCATED)
_OPENS_ID = XEN_COLO.named(OPENS).control_id


@dataclass(slots=True)
class _Span:
    """The records of one checkpoint, by direction, and whether each direction was seen whole."""

    number: int | None
    forward: np.ndarray
    back: np.ndarray
    whole: dict[str, bool]

    def of(self, direction: str) -> np.ndarray:
        return self.forward if direction == FORWARD else self.back


def _are(rows: np.ndarray, structure: Structure) -> np.ndarray:
    return rows[rows["structure"] == _NUMBER_OF[id(structure)]]


def checkpoints(engine: Engine, rows: np.ndarray, syncs: pd.DataFrame,
                pairs: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """One row for each checkpoint, Remus epoch or plain migration, and what is wrong with them.

    Columns (`COLUMNS`): connection; number (Int64, <NA>: what precedes the first NEW of a capture
    that starts late); numbering (absolute: 0 is the initial transfer; relative); kind; complete
    (bool); reason (None here: see `analysis.proxy.reasons`); frame and last_frame, begin_ns, end_ns
    (Int64): of its first and its last record, in capture order; for COLO the delivered time of each
    sync-point and the latency of each pair in ms; phases in ms (float64, NaN: not known), merged (the phases whose
    boundary does not exist in the stream); forward_octets, records, pages, dirty_pfns (Int64); for
    a plain migration total_ms and bounds of the downtime.
    """
    out: list[dict[str, Any]] = []
    found: list[Finding] = []
    usable = syncs[~syncs["status"].isin([WRONG_SENDER, UNCONFIRMED])]
    for connection in engine.ours():
        mine = rows[rows["connection"] == connection.number]
        if connection.kind == COLO:
            out += _colo(connection, mine, usable, pairs, found)
        elif connection.kind == REMUS:
            out += _remus(connection, mine)
        elif connection.kind == PLAIN or len(_are(mine, DOMAIN_HEADER)):
            out += _plain(connection, mine)
    return frame_of(out, COLUMNS), found


# --- COLO -----------------------------------------------------------------------------------------


def _colo(connection: Connection, rows: np.ndarray, syncs: pd.DataFrame, pairs: pd.DataFrame,
          found: list[Finding]) -> list[dict[str, Any]]:
    syncs = syncs[syncs["connection"] == connection.number]
    pairs = pairs[(pairs["connection"] == connection.number) & (pairs["reason"] == "")]
    latencies = {(row["checkpoint"], row["from"], row["to"]): row["latency_ns"] / 1e6
                 for row in pairs.to_dict("records") if pd.notna(row["checkpoint"])}
    times: dict[Any, dict[str, int]] = {}
    violated: set[int | None] = set()
    for row in syncs.to_dict("records"):
        number = None if pd.isna(row["checkpoint"]) else int(row["checkpoint"])
        if not pd.isna(row["delivered_ns"]):
            times.setdefault(number, {}).setdefault(row["name"], int(row["delivered_ns"]))
        if row["status"] not in (OK, UNKNOWN_ORDER):
            violated.add(number)
    numbering = ABSOLUTE if connection.start_seen else RELATIVE
    spans = _spans(connection, rows)
    out = []
    for i, span in enumerate(spans):
        own = times.get(span.number, {})
        following = spans[i + 1].number if i + 1 < len(spans) else None
        bounds = _boundaries(span, own, times.get(following, {}).get(OPENS))
        phases, merged, backwards = _phases(bounds, span)
        if backwards:
            found.append(Finding(
                "phases_out_of_order", f"checkpoint {span.number}: {', '.join(backwards)} ended "
                "before it began", connection.number, frame=int(span.forward["frame"][0])))
        out.append({
            **_volume(connection, span, numbering),
            "complete": span.number not in violated and _is_complete(span, own, phases),
            **{_TIMES[name]: time for name, time in own.items()},
            **{pair_column(a, b): latencies.get((span.number, a, b))
               for a, b in (*TRANSITIONS, *WHOLES)},
            **phases, "merged": " ".join(merged)})
    return out


def _opens(rows: np.ndarray) -> np.ndarray:
    """Which sync-points of the primary open a checkpoint: NEW, and one whose octets are missing
    (the primary sends nothing else)."""
    return (rows["direction"] == _FORWARD) & (rows["frame"] > 0) & (
        (rows["control_id"] == _OPENS_ID) | (rows["control_id"] < 0))


def numbers(connection: Connection, rows: np.ndarray) -> np.ndarray:
    """Number of the checkpoint, epoch or migration that each row belongs to; -1: it precedes the
    first NEW of a capture that starts late.

    Everything up to the next NEW, in either direction, belongs to a checkpoint; an epoch of Remus
    goes on to libxl's CHECKPOINT_END."""
    forward = rows["direction"] == _FORWARD
    found = np.zeros(len(rows), np.int64)
    if connection.kind == COLO:
        opens = _are(rows[forward & _opens(rows)], CHECKPOINT_STATE)
        opens = opens[np.argsort(opens["stream_offset"])]
        found[forward] = opens["stream_offset"].searchsorted(rows["stream_offset"][forward], "right")
        late = np.where(rows["frame"] == 0, np.iinfo(np.int64).max, rows["frame"])[~forward]
        found[~forward] = np.maximum.accumulate(opens["frame"]).searchsorted(late, "right")
        if not connection.start_seen:
            found[found == 0] = -1
    elif connection.kind == REMUS:
        ends = np.sort(_are(rows[forward], CHECKPOINT_END)["stream_offset"])
        found[forward] = ends.searchsorted(rows["stream_offset"][forward], "left")
    return found


def _spans(connection: Connection, rows: np.ndarray) -> list[_Span]:
    """The records of each checkpoint, by direction, each in stream order."""
    rows = rows[np.argsort(rows["stream_offset"], kind="stable")]
    which = numbers(connection, rows)
    present = np.unique(which)
    spans: list[_Span] = []
    for number, following in zip(present, [*present[1:], None], strict=True):
        mine = rows[which == number]
        span = _Span(None if number < 0 else int(number), mine[mine["direction"] == _FORWARD],
                     mine[mine["direction"] == _BACK], {})
        after = np.zeros(0, np.int64)
        if following is not None:
            after = _are(rows[(which == following) & _opens(rows)], CHECKPOINT_STATE)["frame"]
        seen = mine["first_frame"][mine["first_frame"] > 0]
        begin = int(seen.min()) if len(spans) and len(seen) else 0
        for direction in DIRECTIONS:
            damaged = any((not len(after) or u.frame < after[0])
                          and (u.until_frame is None or u.until_frame > begin)
                          for u in connection.unread(direction))
            span.whole[direction] = not damaged and not (span.of(direction)["status"] == _GAP).any()
        spans.append(span)
    return spans


def _boundaries(span: _Span, own: dict[str, int], next_opens: int | None) -> list[int | None]:
    """Time of the beginning and of each boundary, None where there is none."""
    bounds: list[int | None] = [own.get(OPENS)]
    for boundary in XEN_COLO.boundaries:
        if boundary.pick == "next":
            bounds.append(next_opens)
        elif point := XEN_COLO.numbered(boundary.control_id):
            bounds.append(own.get(point.short_name))
        else:
            bounds.append(_boundary(span, boundary))
    return bounds


def _boundary(span: _Span, boundary: Boundary) -> int | None:
    rows = span.of(boundary.direction)
    if boundary.structure is not None:
        rows = _are(rows, boundary.structure)
    else:
        rows = rows[rows["control_id"] < 0]
    times = rows["delivered_ns" if boundary.edge == "delivered" else "first_seen_ns"]
    rows = rows[times > 0]
    if not len(rows):
        return None
    return int(times[times > 0][0 if boundary.pick == "first" else -1])


def _phases(bounds: list[int | None], span: _Span) -> tuple[dict[str, float | None], list[str],
                                                            list[str]]:
    """Phases in ms, those merged into the next, those that ended before they began."""
    phases: dict[str, float | None] = {}
    merged, backwards = [], []
    at = bounds[0]
    for i, boundary in enumerate(XEN_COLO.boundaries, 1):
        time, length = bounds[i], None
        if time is None and at is not None and span.whole[boundary.direction] \
                and any(later is not None for later in bounds[i + 1:]):
            # The stream has no such boundary: the phase takes no time of its own.
            merged.append(boundary.phase)
            time = at
        if time is not None and at is not None:
            length = (time - at) / 1e6
            if time < at:
                backwards.append(boundary.phase)
        phases[f"{boundary.phase}_ms"] = length
        at = time
    return phases, merged, backwards


def _is_complete(span: _Span, own: dict[str, int], phases: dict[str, float | None]) -> bool:
    if CLOSES not in own or not all(span.whole.values()):
        return False
    if span.number == 0:
        return len(_are(span.forward, CHECKPOINT_END)) > 0
    *steps, _ = PHASE_COLUMNS
    return all(phases[step] is not None for step in steps)


def _volume(connection: Connection, span: _Span, numbering: str) -> dict[str, Any]:
    """What a span of records carried, and when."""
    forward, back = span.forward, span.back
    both = np.concatenate((forward, back))
    seen, passed = both[both["first_frame"] > 0], both[both["frame"] > 0]
    lists = _are(back, CHECKPOINT_DIRTY_PFN_LIST)["count"]
    whole = forward[forward["frame"] > 0]
    row: dict[str, Any] = {
        "connection": connection.number, "number": span.number, "numbering": numbering,
        "kind": connection.kind or None, "forward_octets": int(whole["length"].sum()),
        "records": len(both), "pages": int(whole["pages"][whole["pages"] > 0].sum()),
        "dirty_pfns": int(lists.sum()) if len(lists) else None}
    if len(seen):
        first = seen[seen["first_frame"].argmin()]
        row["frame"], row["begin_ns"] = int(first["first_frame"]), int(first["first_seen_ns"]) or None
    if len(passed):
        last = passed[passed["frame"].argmax()]
        row["last_frame"], row["end_ns"] = int(last["frame"]), int(last["delivered_ns"]) or None
    return row


# --- Remus ----------------------------------------------------------------------------------------


def _remus(connection: Connection, rows: np.ndarray) -> list[dict[str, Any]]:
    """One row for each libxc CHECKPOINT; its epoch goes on to libxl's CHECKPOINT_END."""
    unread, out = connection.unread(FORWARD), []
    for number, span in enumerate(_spans(connection, rows)):
        mine = span.forward
        if not len(_are(mine, CHECKPOINT)):
            continue
        span = _Span(number, mine, span.back[:0], {})
        row = _volume(connection, span, ABSOLUTE if connection.start_seen else RELATIVE)
        at, merged = int(mine["first_seen_ns"][0]), []
        for boundary in _TRANSFER:
            if boundary.structure is PAGE_DATA and not len(_are(mine, PAGE_DATA)):
                merged.append(boundary.phase)
                row[f"{boundary.phase}_ms"] = 0.0
                continue
            time = _boundary(span, boundary) or 0
            row[f"{boundary.phase}_ms"] = (time - at) / 1e6 if time and at else None
            at = time
        row["merged"] = " ".join(merged)
        row["complete"] = bool(len(_are(mine, CHECKPOINT_END))) and not (mine["status"] == _GAP).any() \
            and not any(u.frame < mine["frame"].max() and (
                u.until_frame is None or u.until_frame >= mine["first_frame"].min()) for u in unread)
        out.append(row)
    return out


# --- plain migration ------------------------------------------------------------------------------


def _plain(connection: Connection, rows: np.ndarray) -> list[dict[str, Any]]:
    """One row.  total_ms: from the first octet of the stream to the last record.

    Downtime, as the wire bounds it.  The guest stands still at the latest when the first record
    behind the last PAGE_DATA is written, and surely still ran when the last live pass over memory
    was being sent (passes: PFNs ascend; without a second pass, when the last PAGE_DATA was).  It
    runs on the target after GO_MESSAGE and before REPORT; without xl's messages, at the earliest
    at the end of the libxl stream.  A migration that failed and gave the domain back has neither.
    """
    forward, back = rows[rows["direction"] == _FORWARD], rows[rows["direction"] == _BACK]
    span = _Span(0, forward, back, {})
    row = _volume(connection, span, ABSOLUTE if connection.start_seen else RELATIVE)
    row["merged"] = ""
    end = _are(forward, LIBXL_END)
    given_back = len(_are(back, GO_MESSAGE)) > 0
    row["complete"] = bool(len(end)) and not given_back and not (rows["status"] == _GAP).any() \
        and not connection.unread(FORWARD)
    if row["complete"] and row.get("begin_ns") and row.get("end_ns"):
        row["total_ms"] = (row["end_ns"] - row["begin_ns"]) / 1e6
    pages = _are(forward, PAGE_DATA)
    if len(pages) and len(end) and not given_back:
        behind = forward[forward["stream_offset"] > pages["stream_offset"][-1]]
        stops = int(behind["first_seen_ns"][0])
        go, report = _are(forward, GO_MESSAGE), _are(back, REPORT)
        starts = int((go if len(go) else end)["delivered_ns"][0])
        row["downtime_min_ms"] = (starts - stops) / 1e6
        if len(report):
            turns = np.flatnonzero(pages["first_pfn"][1:] < pages["last_pfn"][:-1])
            last_live = pages[turns[-1]] if len(turns) else pages[-1]
            row["downtime_max_ms"] = (int(report["delivered_ns"][0])
                                      - int(last_live["first_seen_ns"])) / 1e6
    return [row]
