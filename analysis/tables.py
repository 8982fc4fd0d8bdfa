# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of what the dissector hands out and what is measured of it, one of each kind of row.

All are DataFrames in export form: times are integer ns since the epoch (Int64, <NA> unknown),
frame numbers Int64 (<NA>: none), names categoricals.  `analysis.Capture` turns the times into
timestamps for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from analysis.checkpoints import COLUMNS as CHECKPOINT_COLUMNS
from analysis.export import connection_row, finding_row, sync_row
from analysis.latency import COLUMNS as LATENCY_COLUMNS
from analysis.latency import latency_rows
from analysis.pairs import COLUMNS as PAIR_COLUMNS
from analysis.pairs import in_order
from analysis.phases import COLUMNS as PHASE_COLUMNS
from analysis.phases import NAMES as PHASE_NAMES
from analysis.phases import Measured, phase_rows
from analysis.proxy import COLUMNS as MESSAGE_COLUMNS
from analysis.proxy import message_rows
from analysis.rows import NONE, STATUSES
from dissector.connection import OURS
from dissector.engine import Engine
from dissector.findings import ERROR, NOTE, RULES, WARNING, Finding
from dissector.protocol import DIRECTIONS, LAYERS, PROXY_END, SENDER, STRUCTURES, TOOLSTACK_END, XEN_COLO
from dissector.proxy import Message
from dissector.syncpoints import (
    INSIDE_CHECKPOINT,
    OK,
    OUT_OF_ORDER,
    UNCONFIRMED,
    UNKNOWN_ORDER,
    WRONG_SENDER,
    Sync,
)

SYNC_STATUSES = [OK, WRONG_SENDER, OUT_OF_ORDER, INSIDE_CHECKPOINT, UNKNOWN_ORDER, UNCONFIRMED]
SYNC_NAMES = [point.short_name for point in XEN_COLO.sync_points]
_NAMES = list(dict.fromkeys(structure.name for structure in STRUCTURES))
RECORD_COLUMNS = [
    "connection", "direction", "layer", "type", "name", "stream_offset", "length", "body_length",
    "first_frame", "last_frame", "frame", "first_seen_ns", "last_seen_ns", "delivered_ns",
    "acked_ns", "after_gap", "status"]
_SYNC_KINDS = {
    "connection": "int64", "checkpoint": "Int64", "control_id": "int64",
    **dict.fromkeys(("name", "sender", "direction"), "object"),
    **dict.fromkeys(("first_frame", "frame", "first_seen_ns", "last_seen_ns", "delivered_ns", "acked_ns"), "Int64"),
    "spread_ms": "float64", "stream_offset": "int64", "status": "object", "doubt": "bool"}
_FINDING_KINDS = {
    "rule": "object", "severity": "object", "connection": "Int64", "direction": "object", "frame": "Int64",
    "stream_offset": "Int64", "section": "object", "text": "object"}


def _masked(values: np.ndarray, none: int = 0) -> pd.Series:
    values = np.asarray(values, np.int64)
    return pd.Series(pd.arrays.IntegerArray(values.copy(), values == none))


def frame_of(rows: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """A DataFrame of rows that may lack keys; every column gets its dtype without a detour over
    float64, which cannot hold ns since the epoch."""
    missing = {"float64": float("nan"), "bool": False}
    return pd.DataFrame({name: pd.array([row.get(name, missing.get(kind)) for row in rows], kind)
                         if kind not in missing else
                         np.array([missing[kind] if (value := row.get(name)) is None else value
                                   for row in rows], kind)
                         for name, kind in columns.items()})


def records(rows: np.ndarray) -> pd.DataFrame:
    """One row for each record: `RECORD_COLUMNS`, and control_id, count, pages, first_pfn, last_pfn
    (Int64).  direction, layer, name and status are categoricals, after_gap is bool."""
    names = [*_NAMES, *sorted({f"{kind:#010x}" for kind in rows["type"][rows["structure"] < 0]})]
    of_structure = np.array([_NAMES.index(s.name) for s in STRUCTURES])
    codes = np.where(rows["structure"] >= 0, of_structure[rows["structure"]], NONE)
    for i in np.flatnonzero(rows["structure"] < 0):
        codes[i] = names.index(f"{rows['type'][i]:#010x}")
    frame = pd.DataFrame({
        "connection": rows["connection"].astype(np.int64),
        "direction": pd.Categorical.from_codes(rows["direction"], list(DIRECTIONS)),
        "layer": pd.Categorical.from_codes(rows["layer"], list(LAYERS)),
        "type": _masked(rows["type"], NONE),
        "name": pd.Categorical.from_codes(codes, names),
        "stream_offset": rows["stream_offset"],
        "length": rows["length"],
        "body_length": _masked(rows["body_length"], NONE),
        **{name: _masked(rows[name]) for name in (
            "first_frame", "last_frame", "frame", "first_seen_ns", "last_seen_ns",
            "delivered_ns", "acked_ns")},
        "after_gap": rows["after_gap"],
        "status": pd.Categorical.from_codes(rows["status"], STATUSES),
        **{name: _masked(rows[name], NONE) for name in (
            "control_id", "count", "pages", "first_pfn", "last_pfn")},
    })
    return frame


def syncs(points: list[Sync]) -> pd.DataFrame:
    """One row for each sync-point: `SYNC_COLUMNS`, and first_frame, doubt (bool: a hole or a lost
    place lies between it and the one before).  spread_ms is float64; 0: it passed in one frame."""
    table = frame_of([sync_row(point) for point in in_order(points)], _SYNC_KINDS)
    categories = {"name": SYNC_NAMES, "sender": list(SENDER.values()), "direction": list(DIRECTIONS),
                  "status": SYNC_STATUSES}
    return table.assign(**{name: pd.Categorical(table[name], known) for name, known in categories.items()})


def pairs(found: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row for each two neighbouring sync-points, and for each whole.

    Columns: connection; checkpoint, of the earlier one; phase (`CHECKPOINT`, `FIRST_BOOT`); from,
    to; from_frame, to_frame; from_delivered_ns, to_delivered_ns and latency_ns between them; reason,
    "" for a pair, else why the two are none: a status of `dissector.syncpoints`, `HOLE` or `NO_TIME`.  What
    was expected and did not come stands with <NA> times under the transition that it lacks.
    """
    return frame_of(list(found), PAIR_COLUMNS)


def checkpoints(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each checkpoint, Remus epoch or plain migration: `analysis.checkpoints.checkpoint_rows`;
    times, frames and volumes are Int64 (<NA>: not known), ms float64 (NaN), merged is text."""
    return frame_of(rows, CHECKPOINT_COLUMNS)


def phases(measured: Iterable[Measured]) -> pd.DataFrame:
    """One row for each phase of each checkpoint: `analysis.phases.phase_rows`; times, frames and octets are
    Int64 (<NA>: not known), octets_per_second float64 (NaN), phase is an ordered categorical."""
    table = frame_of(list(phase_rows(measured)), PHASE_COLUMNS)
    return table.assign(phase=pd.Categorical(table["phase"], PHASE_NAMES, ordered=True))


def messages(found: Iterable[Message]) -> pd.DataFrame:
    """One row for each message of a colo-proxy's control connection: `analysis.proxy.message_rows`; time_ns and
    frame are Int64, sender is a categorical."""
    table = frame_of(message_rows(found), MESSAGE_COLUMNS)
    return table.assign(sender=pd.Categorical(table["sender"], [TOOLSTACK_END, PROXY_END]))


def latency(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row for each connection, phase and pair: count (pairs), lost (expected ones that cannot
    be measured), and float64 ms: min, mean, p50, p90, p95, p99, max, std; NaN where there are too
    few pairs to say (see `analysis.statistics`)."""
    columns = plain(pairs)
    found = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return frame_of(latency_rows(found), LATENCY_COLUMNS)


def plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of Python's own values; None: not known."""
    return {str(name): column.astype(object).where(column.notna(), None).tolist()
            for name, column in frame.items()}


def connections(engine: Engine, records: pd.DataFrame, checkpoints: pd.DataFrame,
                every: bool = False) -> pd.DataFrame:
    """One row for each TCP connection that carries one of our streams; with `every`, for all of
    them, and `kind` says what the others seem to be."""
    count = records["connection"].value_counts().to_dict()
    epochs = checkpoints["connection"].value_counts().to_dict()
    rows: list[dict[str, Any]] = []
    for number in sorted({*engine.connections, *range(engine.streams.count if every else 0)}):
        connection = engine.connections.get(number)
        ours = connection is not None and connection.role == OURS
        if not ours and not every:
            continue
        rows.append(connection_row(engine, number, connection if ours else None, count, epochs))
    text = dict.fromkeys(("primary", "secondary", "kind", "xen_version", "guest_type"), "object")
    numbers = dict.fromkeys(("records", "checkpoints", "forward_octets", "back_octets", "holes"),
                            "Int64")
    return frame_of(rows, {"connection": "int64", **text, "start_seen": "boolean", **numbers})


def findings(found: list[Finding]) -> pd.DataFrame:
    """One row for each finding: rule, severity, connection, direction, frame, stream_offset,
    section, text."""
    table = frame_of([finding_row(f) for f in sorted(found, key=lambda f: (f.connection, f.frame))], _FINDING_KINDS)
    categories = {"rule": list(RULES), "severity": [ERROR, WARNING, NOTE], "direction": list(DIRECTIONS)}
    return table.assign(**{name: pd.Categorical(table[name], known) for name, known in categories.items()})
