# SPDX-License-Identifier: GPL-2.0-or-later
"""What the numbers of a report rest on, as lines of (what, in plain words)."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from analysis.capture import Capture
from analysis.escape import printable
from analysis.rows import STATUSES
from dissector.blocks import File
from dissector.record import COMPLETE
from dissector.syncpoints import OK

Lines = list[tuple[str, str]]

_ENDS = ("primary", "secondary")


def of_capture(capture: Capture) -> Lines:
    """Files, frames, drops, time, clock, connections."""
    engine = capture.engine
    lines = [("file", f"{printable(file.text)}: {file.packets:,} frames ({file.kind}); {_drops(file)}")
             for file in engine.files]
    records = capture.export("records")
    if len(last := records["delivered_ns"].dropna()):
        length = (int(last.max()) - engine.first_ns) / 1e9
        lines.append(("time", f"{_time(engine.first_ns)} to {_time(int(last.max()))} UTC, {length:,.1f} s"))
    back = [finding.text for finding in engine.findings if finding.rule == "clock_back"]
    lines.append(("clock", "; ".join(back) or "never steps back"))
    lines.append(("connections", f"{len(engine.ours())} of {engine.streams.count} carry a migration stream"))
    return lines


def of_connection(capture: Capture, number: int) -> Lines:
    """Ends, kind, Xen version, holes, checkpoints, pairs."""
    about = capture.connections.set_index("connection").loc[number]
    connection = capture.engine.connections[number]
    lines = [(end, about[end]) for end in _ENDS]
    version = f"Xen {about['xen_version']}" if about["xen_version"] else "Xen version not seen"
    guest = about["guest_type"] or "guest type not seen"
    lines.append(("kind", f"{about['kind'] or 'not told by what is captured'}; {version}; {guest}"))
    lines.append(("start", "seen" if about["start_seen"] else "not in the capture: numbers begin at what was seen"))
    missing = sum(hole.length for hole in connection.holes)
    lines.append(("holes", f"{_count(len(connection.holes), 'hole')}, {missing:,} octets missing from the capture"
                  if missing else "none"))
    records = capture.rows[capture.rows["connection"] == number]["status"]
    odd = {STATUSES[code]: count for code, count in zip(*np.unique(records, return_counts=True), strict=True)}
    whole = odd.pop(COMPLETE, 0)
    lines.append(("records", f"{len(records):,}, of which {whole:,} are complete"
                  + "".join(f", {count:,} {status}" for status, count in odd.items())))
    if capture.engine.trace is not None:
        lines.append(("captured", _capture_point(capture, number)))
    checkpoints = capture.export("checkpoints")
    checkpoints = checkpoints[checkpoints["connection"] == number]
    complete = checkpoints["complete"]
    lines.append(("checkpoints", f"{complete.sum()} complete, {(~complete).sum()} partial"))
    if len(reasons := checkpoints["reason"].value_counts(sort=False)):
        lines.append(("reasons", ", ".join(f"{reason} ({count})" for reason, count in reasons.items())))
    syncs = capture.export("syncs")
    status = syncs[syncs["connection"] == number]["status"]
    if len(status):
        pairs = capture.export("pairs")
        lost = pairs[(pairs["connection"] == number) & (pairs["reason"] != "")]
        lines.append(("sync-points", f"{len(status)}, of which {(status == OK).sum()} in order; "
                      f"{_count(len(lost), 'latency', 'latencies')} lost"))
    return lines


def _capture_point(capture: Capture, number: int) -> str:
    point = capture.export("capture_points").set_index("connection").loc[number]
    usual = {end: point[f"to_{end}_usual_ms"] for end in _ENDS}
    trips = ", ".join(f"to the {end} and back {ms:.3f} ms (median)" for end, ms in usual.items() if ms == ms)
    return f"{point['place'] or 'cannot be told from round trips'}" + (f"; {trips}" if trips else "")


def _drops(file: File) -> str:
    if file.drops is None:
        return "it does not say whether packets were dropped"
    return f"{_count(file.drops, 'packet')} dropped, says the capturing program"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _time(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%S}"
