# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of what the dissector hands out: records, sync-points, connections, findings.

All are DataFrames in export form: times are integer ns since the epoch (Int64, <NA> unknown),
frame numbers Int64 (<NA>: none), names categoricals.  `analysis.Capture` turns the times into
timestamps for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.latency import COLUMNS as LATENCY_COLUMNS
from analysis.latency import latency_rows
from analysis.pairs import in_order
from analysis.rows import NONE, STATUSES
from dissector.connection import OURS, Connection
from dissector.engine import Engine
from dissector.findings import ERROR, NOTE, RULES, WARNING, Finding
from dissector.protocol import DIRECTIONS, LAYERS, SENDER, STRUCTURES, XEN_COLO
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
PAIR_COLUMNS = {
    "connection": "int64", "checkpoint": "Int64", "phase": "object", "from": "object", "to": "object",
    **dict.fromkeys(("from_frame", "to_frame", "from_delivered_ns", "to_delivered_ns", "latency_ns"), "Int64"),
    "reason": "object"}
SYNC_COLUMNS = [
    "connection", "checkpoint", "control_id", "name", "sender", "direction", "frame",
    "first_seen_ns", "last_seen_ns", "delivered_ns", "acked_ns", "spread_ms", "stream_offset",
    "status"]


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
    points = in_order(points)
    records = [s.record for s in points]
    first = np.array([r.first_seen_ns for r in records], np.int64)
    delivered = np.array([r.delivered_ns for r in records], np.int64)
    spread = np.where((first != 0) & (delivered != 0), (delivered - first) / 1e6, np.nan)
    none = np.iinfo(np.int64).min
    return pd.DataFrame({
        "connection": np.array([r.connection for r in records], np.int64),
        "checkpoint": _masked(np.array(
            [none if s.checkpoint is None else s.checkpoint for s in points], np.int64), none),
        "control_id": np.array([s.point.control_id for s in points], np.int64),
        "name": pd.Categorical([s.point.short_name for s in points], SYNC_NAMES),
        "sender": pd.Categorical([SENDER[r.direction] for r in records], list(SENDER.values())),
        "direction": pd.Categorical([r.direction for r in records], list(DIRECTIONS)),
        "first_frame": _masked(np.array([r.first_frame for r in records], np.int64)),
        "frame": _masked(np.array([r.frame for r in records], np.int64)),
        "first_seen_ns": _masked(first),
        "last_seen_ns": _masked(np.array([r.last_seen_ns for r in records], np.int64)),
        "delivered_ns": _masked(delivered),
        "acked_ns": _masked(np.array([r.acked_ns for r in records], np.int64)),
        "spread_ms": spread,
        "stream_offset": np.array([r.stream_offset for r in records], np.int64),
        "status": pd.Categorical([s.status for s in points], SYNC_STATUSES),
        "doubt": np.array([s.doubt for s in points], np.bool_),
    })


def pairs(found: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row for each two neighbouring sync-points, and for each whole.

    Columns: connection; checkpoint, of the earlier one; phase (`CHECKPOINT`, `FIRST_BOOT`); from,
    to; from_frame, to_frame; from_delivered_ns, to_delivered_ns and latency_ns between them; reason,
    "" for a pair, else why the two are none: a status of `dissector.syncpoints`, `HOLE` or `NO_TIME`.  What
    was expected and did not come stands with <NA> times under the transition that it lacks.
    """
    return frame_of(list(found), PAIR_COLUMNS)


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


def connection_row(engine: Engine, number: int, ours: Connection | None, count: Mapping[int, int],
                   epochs: Mapping[int, int]) -> dict[str, Any]:
    """A row of `connections`; `count` and `epochs`: records and checkpoints, by connection."""
    streams = engine.streams
    if ours is None:
        return {"connection": number, "primary": streams.endpoint(number, 0),
                "secondary": streams.endpoint(number, 1),
                "kind": engine.seems(number),
                "forward_octets": int(streams.octets[number, 0]),
                "back_octets": int(streams.octets[number, 1])}
    primary, secondary = engine.ends(ours)
    return {"connection": number, "primary": primary, "secondary": secondary, "kind": ours.kind or None,
            "xen_version": ours.xen_version or None, "guest_type": ours.guest_type or None,
            "start_seen": ours.start_seen, "records": int(count.get(number, 0)),
            "checkpoints": int(epochs.get(number, 0)),
            **{f"{direction}_octets": octets for direction, octets in engine.passed(ours).items()},
            "holes": ours.hole_count}


def findings(found: list[Finding]) -> pd.DataFrame:
    """One row for each finding: rule, severity, connection, direction, frame, stream_offset,
    section, text."""
    found = sorted(found, key=lambda f: (f.connection, f.frame))
    return pd.DataFrame({
        "rule": pd.Categorical([f.rule for f in found], list(RULES)),
        "severity": pd.Categorical([f.severity for f in found], [ERROR, WARNING, NOTE]),
        "connection": _masked(np.array([f.connection for f in found], np.int64), NONE),
        "direction": pd.Categorical([f.direction or None for f in found], list(DIRECTIONS)),
        "frame": _masked(np.array([f.frame for f in found], np.int64)),
        "stream_offset": pd.array([f.stream_offset for f in found], dtype="Int64"),
        "section": [f.section for f in found],
        "text": [f.text for f in found],
    })
