# SPDX-License-Identifier: GPL-2.0-or-later
"""What the dissector hands out as rows in export form: plain dicts, times in integer ns since the epoch.

`analysis.tables` makes tables of them, `analysis.live` events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.rows import NONE
from dissector.connection import Connection
from dissector.engine import Engine
from dissector.findings import Finding
from dissector.protocol import SENDER
from dissector.syncpoints import Sync

SYNC_COLUMNS = [
    "connection", "checkpoint", "control_id", "name", "sender", "direction", "frame",
    "first_seen_ns", "last_seen_ns", "delivered_ns", "acked_ns", "spread_ms", "stream_offset",
    "status"]


def sync_row(sync: Sync) -> dict[str, Any]:
    """A row of `syncs`; None: not known."""
    record = sync.record
    first, delivered = record.first_seen_ns, record.delivered_ns
    return {
        "connection": record.connection, "checkpoint": sync.checkpoint, "control_id": sync.point.control_id,
        "name": sync.point.short_name, "sender": SENDER[record.direction], "direction": record.direction,
        "first_frame": record.first_frame or None, "frame": record.frame or None, "first_seen_ns": first or None,
        "last_seen_ns": record.last_seen_ns or None, "delivered_ns": delivered or None,
        "acked_ns": record.acked_ns or None,
        "spread_ms": (delivered - first) / 1e6 if first and delivered else float("nan"),
        "stream_offset": record.stream_offset, "status": sync.status, "doubt": sync.doubt}


def connection_row(engine: Engine, number: int, ours: Connection | None, count: Mapping[int, int],
                   epochs: Mapping[int, int]) -> dict[str, Any]:
    """A row of `connections`; `count` and `epochs`: records and checkpoints, by connection."""
    streams = engine.streams
    if ours is None:
        forward, back = streams.octets(number)
        return {"connection": number, "primary": streams.endpoint(number, 0),
                "secondary": streams.endpoint(number, 1),
                "kind": engine.seems(number),
                "forward_octets": forward, "back_octets": back}
    primary, secondary = engine.ends(ours)
    return {"connection": number, "primary": primary, "secondary": secondary, "kind": ours.kind or None,
            "xen_version": ours.xen_version or None, "guest_type": ours.guest_type or None,
            "start_seen": ours.start_seen, "records": int(count.get(number, 0)),
            "checkpoints": int(epochs.get(number, 0)),
            **{f"{direction}_octets": octets for direction, octets in engine.passed(ours).items()},
            "holes": ours.hole_count}


def finding_row(finding: Finding) -> dict[str, Any]:
    """A row of `findings`; None: not of one place."""
    return {"rule": finding.rule, "severity": finding.severity,
            "connection": None if finding.connection == NONE else finding.connection,
            "direction": finding.direction or None, "frame": finding.frame or None,
            "stream_offset": finding.stream_offset, "section": finding.section, "text": finding.text}
