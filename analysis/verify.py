# SPDX-License-Identifier: GPL-2.0-or-later
"""Conformance of a capture or of a raw stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import tables
from analysis.capture import Capture
from analysis.reading import read
from analysis.words import counted
from dissector.errors import CannotDo
from dissector.findings import Finding
from dissector.opening import LENGTH, direction_of
from dissector.raw import RawStream
from dissector.record import GAP, SNAPPED
from dissector.source import Source

_BLOCK = 4 << 20
_PLACES = 3
"""Places that a line of the short table shows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stream is worth: `findings` (`analysis.tables.findings`), how many of them are
    `violations` of the protocol, one line of `summary`; `fault`: why the file was not read to its
    end, if it was not."""

    findings: pd.DataFrame
    violations: int
    summary: str
    fault: str = ""


def verified(names: Sequence[str], direction: str | None = None, *,
             choose: Callable[[Capture], list[int]] | None = None,
             on_progress: Callable[[int], None] | None = None) -> Verdict:
    """Verify capture files, which are one capture, or one raw stream; "-" is stdin.

    `direction`: the file is a raw stream of this direction, whatever it begins with.
    `choose` names the connections of a capture; else all that are ours.  Raises CannotDo if nothing
    of ours can be read.
    """
    source = Source(names[0], on_progress=on_progress)
    head = source.peek(LENGTH)
    direction = direction or direction_of(head, cut=len(head) < LENGTH)
    if not direction:
        return _of_capture(read(source, *names[1:], on_progress=on_progress), choose)
    with source:
        if len(names) > 1:
            raise CannotDo(f"{names[0]}: is a raw stream; verify one at a time")
        return _of_raw(source, direction)


def grouped(findings: pd.DataFrame) -> pd.DataFrame:
    """The same for eyes: a row for each rule with its count, its first places and its first text."""
    rows = []
    for (rule, severity), group in findings.groupby(["rule", "severity"], observed=True, sort=False):
        places = [_place(row) for _, row in group.head(_PLACES).iterrows()]
        rows.append({"severity": severity, "rule": rule, "count": len(group),
                     "first places": ", ".join(places) + (", …" if len(group) > len(places) else ""),
                     "section": group.iloc[0]["section"], "what": group.iloc[0]["text"]})
    return pd.DataFrame(rows).sort_values("severity", kind="stable", key=lambda names: names.map(
        {name: i for i, name in enumerate(findings["severity"].cat.categories)}))


def _place(row: pd.Series) -> str:
    """As `coloscope show --offset` takes it; the frame where that is all there is."""
    if pd.isna(row["stream_offset"]):
        return "" if pd.isna(row["frame"]) else f"frame {row['frame']}"
    prefix = "" if pd.isna(row["connection"]) else f"{row['connection']}:"
    return f"{prefix}{row['direction']}:{row['stream_offset']}"


def _of_capture(capture: Capture, choose: Callable[[Capture], list[int]] | None) -> Verdict:
    files, ours = capture.engine.files, capture.engine.ours()
    if not ours:
        raise CannotDo(f"{files[0].name if len(files) == 1 else f'{len(files)} files'}: "
                       + capture.found_instead())
    chosen = choose(capture) if choose else [c.number for c in ours]
    found = [f for f in capture.engine.findings if f.connection in (-1, *chosen)]
    table, records = capture.export("findings"), capture.export("records")
    table = table[table["connection"].isna() | table["connection"].isin(chosen)]
    records = records[records["connection"].isin(chosen)]
    lacking = int(records["status"].isin([GAP, SNAPPED]).sum())
    lost = sum(f.rule == "lost_in_hole" for f in found)
    unknown = [f"{counted(lacking, 'record')} with octets that the capture lacks"] * bool(lacking) + [
        f"what follows {counted(lost, 'place')} lost where it lacks some"] * bool(lost)
    return _verdict(table, found, f"{counted(len(records), 'record')} of {counted(len(chosen), 'connection')}",
                    unknown)


def _of_raw(source: Source, direction: str) -> Verdict:
    stream, count = RawStream(direction), 0
    block = np.empty(_BLOCK, np.uint8)
    while n := source.readinto(memoryview(block.data)):
        count += len(stream.feed(block[:n]))
    count += len(stream.finish(cut=bool(source.fault)))
    if not count:
        raise CannotDo(f"{source.name}: " + (source.fault or "no migration stream begins here"))
    verdict = _verdict(tables.findings(stream.findings), stream.findings,
                       f"{counted(count, 'record')} of a raw stream ({direction})", [])
    return verdict if not source.fault else Verdict(
        verdict.findings, verdict.violations, verdict.summary, f"{source.name}: {source.fault}")


def _verdict(table: pd.DataFrame, found: list[Finding], what: str, unknown: list[str]) -> Verdict:
    violations = sum(f.violation for f in found)
    head = f"{counted(violations, 'violation')} in " if violations else "clean: "
    tail = "; not verified: " + " and ".join(unknown) if unknown else ""
    return Verdict(table, violations, head + what + tail)
