# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints of COLO, epochs of Remus, the one row of a plain migration: times, phases, volumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from analysis.pairs import CLOSES, OPENS, TRANSITIONS, USUAL, WHOLES
from analysis.phases import NAMES, Measured
from analysis.rows import STATUSES
from analysis.spans import are, beginnings
from dissector.connection import COLO, PLAIN, REMUS
from dissector.protocol import (
    CHECKPOINT,
    CHECKPOINT_DIRTY_PFN_LIST,
    CHECKPOINT_END,
    DOMAIN_HEADER,
    FORWARD,
    GO_MESSAGE,
    LIBXL_END,
    PAGE_DATA,
    PHASES,
    REPORT,
    XEN_COLO,
)
from dissector.record import GAP

ABSOLUTE, RELATIVE = "absolute", "relative"

TIMES = {point.short_name: f"{point.short_name.lower()}_ns" for point in XEN_COLO.sync_points}
"""Column with the delivered time of each sync-point."""


def pair_column(name: str, to: str) -> str:
    """Column with the latency of a pair, in ms."""
    return f"{name.lower()}_to_{to.lower()}_ms"


PAIR_COLUMNS = [pair_column(*pair) for pair in (*TRANSITIONS, *WHOLES)]
PHASE_COLUMNS = [f"{phase}_ms" for phase in PHASES]

PAUSES = ("primary_pause_ms", "primary_pause_min_ms", "secondary_pause_min_ms", "secondary_pause_max_ms")

_INTEGERS = ("frame", "last_frame", "begin_ns", "end_ns", *TIMES.values())
_VOLUMES = ("forward_octets", "records", "pages", "dirty_pfns")
_MIGRATION = ("total_ms", "downtime_min_ms", "downtime_max_ms")

COLUMNS = {
    "connection": "int64", "number": "Int64", "numbering": "object", "kind": "object",
    "complete": "bool", "reason": "object", **dict.fromkeys(_INTEGERS, "Int64"),
    **dict.fromkeys((*PAIR_COLUMNS, *(f"{phase}_ms" for phase in NAMES)), "float64"), "merged": "object",
    **dict.fromkeys(PAUSES, "float64"),
    **dict.fromkeys(_VOLUMES, "Int64"), **dict.fromkeys(_MIGRATION, "float64")}

_GAP = STATUSES.index(GAP)
_SUSPENDED = USUAL[OPENS]
_READY = USUAL[_SUSPENDED]
_TRANSFERS = next(boundary.phase for boundary in XEN_COLO.boundaries if boundary.structure is PAGE_DATA)


def checkpoint_rows(measured: Iterable[Measured], pairs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each checkpoint, Remus epoch or plain migration; `pairs` as in `analysis.pairs.pair_rows`.

    Columns (`COLUMNS`; what has no value is left out): connection; number (None: what precedes the first
    NEW of a capture that starts late); numbering (absolute: 0 is the initial transfer; relative); kind; complete;
    reason (not here: see `analysis.proxy.reasons`); frame and last_frame, begin_ns, end_ns:
    of its first and its last record, in capture order; for COLO the delivered time of each
    sync-point and the latency of each pair in ms; phases in ms, merged (the
    phases whose boundary does not exist in the stream); for COLO `PAUSES`; forward_octets, records, pages,
    dirty_pfns; for a plain migration total_ms and bounds of the downtime.

    The pause of each VM in ms, as far as the wire shows it.  The primary suspends its VM after it has
    written NEW and before it writes the first octet of the state, and resumes it after it has read
    SVM_READY: primary_pause_ms is from the first octet of NEW to SVM_READY as they passed the capture point,
    short of the time that resuming takes and long by that of suspending; primary_pause_min_ms, from the first
    octet of the state to SVM_READY, is a lower bound wherever the capture was made.  The secondary suspends
    its VM after it has read NEW and before it writes SVM_SUSPENDED, and resumes it after it has written
    SVM_READY and before it writes SVM_RESUMED: secondary_pause_max_ms, from NEW to the first octet of
    SVM_RESUMED, is an upper bound wherever the capture was made; secondary_pause_min_ms, from SVM_SUSPENDED to
    the first octet of SVM_READY, is a lower one but for what the two took differently to the capture point.
    They are known where the pairs between these sync-points are, and need an SVM_READY.
    """
    latencies = {(row["connection"], row["checkpoint"], row["from"], row["to"]): row["latency_ns"]
                 for row in pairs if not row["reason"] and row["checkpoint"] is not None}
    for one in measured:
        yield from _row(one, latencies)


_Latencies = dict[tuple[Any, ...], int]


def _row(one: Measured, latencies: _Latencies) -> Iterable[dict[str, Any]]:
    forward, kind = one.span.forward, one.connection.kind
    if kind == COLO:
        yield _volume(one) | _colo(one, latencies)
    elif kind == REMUS:
        if len(are(forward, CHECKPOINT)):
            yield _volume(one) | _remus(one)
    elif kind == PLAIN or len(are(forward, DOMAIN_HEADER)):
        row = _volume(one)
        yield row | _plain(one, row)


def _volume(one: Measured) -> dict[str, Any]:
    """What a span of records carried, and when."""
    forward = one.span.forward
    back = one.span.back[:0] if one.connection.kind == REMUS else one.span.back
    both = np.concatenate((forward, back))
    seen, passed = both[both["first_frame"] > 0], both[both["frame"] > 0]
    lists = are(back, CHECKPOINT_DIRTY_PFN_LIST)["count"]
    whole = forward[forward["frame"] > 0]
    row: dict[str, Any] = {
        "connection": one.connection.number, "number": one.span.number,
        "numbering": ABSOLUTE if one.connection.start_seen else RELATIVE,
        "kind": one.connection.kind or None, "forward_octets": int(whole["length"].sum()),
        "records": len(both), "pages": int(whole["pages"][whole["pages"] > 0].sum()),
        "dirty_pfns": int(lists.sum()) if len(lists) else None}
    if len(seen):
        first = seen[seen["first_frame"].argmin()]
        row["frame"], row["begin_ns"] = int(first["first_frame"]), int(first["first_seen_ns"]) or None
    if len(passed):
        last = passed[passed["frame"].argmax()]
        row["last_frame"], row["end_ns"] = int(last["frame"]), int(last["delivered_ns"]) or None
    return row


def _phases(one: Measured) -> dict[str, Any]:
    return {"merged": " ".join(phase.name for phase in one.phases if phase.merged),
            **{f"{phase.name}_ms": phase.duration / 1e6 for phase in one.phases if phase.duration is not None}}


# --- COLO -----------------------------------------------------------------------------------------


def _colo(one: Measured, latencies: _Latencies) -> dict[str, Any]:
    own = {(a, b): latency for a, b in (*TRANSITIONS, *WHOLES)
           if (latency := latencies.get((one.connection.number, one.span.number, a, b))) is not None}
    return {
        "complete": _is_complete(one),
        **{TIMES[name]: int(point["delivered_ns"]) for name, point in one.points.items()},
        **{pair_column(*pair): latency / 1e6 for pair, latency in own.items()},
        **_phases(one), **_pauses(one, own)}


def _is_complete(one: Measured) -> bool:
    span = one.span
    if one.violated or CLOSES not in one.points or not all(span.whole.values()):
        return False
    if span.number == 0:
        return len(are(span.forward, CHECKPOINT_END)) > 0
    *steps, _ = one.phases
    return all(phase.duration is not None for phase in steps)


def _pauses(one: Measured, own: dict[tuple[str, str], int]) -> dict[str, float]:
    """Only from sync-points between which nothing is missing or out of order."""
    found: dict[str, float] = {}
    suspending, loading = own.get((OPENS, _SUSPENDED)), own.get((_SUSPENDED, _READY))
    if suspending is None or loading is None:
        return found
    found["primary_pause_ms"] = (suspending + loading) / 1e6 + one.points[OPENS]["spread_ms"]
    transfer = next(phase.begin for phase in one.phases if phase.name == _TRANSFERS)
    if transfer:
        found["primary_pause_min_ms"] = (one.points[_READY]["delivered_ns"] - transfer.time) / 1e6
    found["secondary_pause_min_ms"] = loading / 1e6 - one.points[_READY]["spread_ms"]
    if (whole := own.get((OPENS, CLOSES))) is not None:
        found["secondary_pause_max_ms"] = whole / 1e6 - one.points[CLOSES]["spread_ms"]
    return found


# --- Remus ----------------------------------------------------------------------------------------


def _remus(one: Measured) -> dict[str, Any]:
    """One row for each libxc CHECKPOINT; its epoch goes on to libxl's CHECKPOINT_END."""
    mine = one.span.forward
    complete = len(are(mine, CHECKPOINT_END)) > 0 and not (mine["status"] == _GAP).any() \
        and not any(u.frame < mine["frame"].max() and (
            u.until_frame is None or u.until_frame >= mine["first_frame"].min())
            for u in one.connection.unread(FORWARD))
    return {"complete": complete, **_phases(one)}


# --- plain migration ------------------------------------------------------------------------------


def _plain(one: Measured, volume: dict[str, Any]) -> dict[str, Any]:
    """total_ms: from the first octet of the stream to the last record.

    Downtime, as the wire bounds it.  The guest stands still at the latest when the first record
    behind the last PAGE_DATA is written, and surely still ran when the last live pass over memory
    was being sent (`beginnings` of iterations; without a second one, when the last PAGE_DATA was).  It
    runs on the target after GO_MESSAGE and before REPORT; without xl's messages, at the earliest
    at the end of the libxl stream.  A migration that failed and gave the domain back has neither.
    """
    forward, back = one.span.forward, one.span.back
    end = are(forward, LIBXL_END)
    given_back = len(are(back, GO_MESSAGE)) > 0
    damaged = any((rows["status"] == _GAP).any() for rows in (forward, back))
    row: dict[str, Any] = {"merged": "", "complete": (
        len(end) > 0 and not given_back and not damaged and not one.connection.unread(FORWARD))}
    if row["complete"] and volume.get("begin_ns") and volume.get("end_ns"):
        row["total_ms"] = (volume["end_ns"] - volume["begin_ns"]) / 1e6
    pages = are(forward, PAGE_DATA)
    if len(pages) and len(end) and not given_back:
        behind = forward[forward["stream_offset"] > pages["stream_offset"][-1]]
        stops = int(behind["first_seen_ns"][0])
        go, report = are(forward, GO_MESSAGE), are(back, REPORT)
        starts = int((go if len(go) else end)["delivered_ns"][0])
        row["downtime_min_ms"] = (starts - stops) / 1e6
        if len(report):
            last_live = pages[beginnings(pages)[-1] - 1]  # of one iteration: its last record
            row["downtime_max_ms"] = (int(report["delivered_ns"][0])
                                      - int(last_live["first_seen_ns"])) / 1e6
    return row
