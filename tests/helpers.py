# SPDX-License-Identifier: GPL-2.0-or-later
"""What many tests need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dissector.connection import Connection
from dissector.engine import Engine
from dissector.proxy import Message
from dissector.reader import Reader
from dissector.record import Record
from dissector.segments import STREAM, Streams
from dissector.source import Source
from dissector.streams import SIZE, Stream
from dissector.syncpoints import Sync

PCAPS = Path(__file__).parent.parent / "pcaps"
COMMAND = [sys.executable, "-m", "analysis"]
"""`coloscope`, as it is here."""
needs_memfd = pytest.mark.skipif(not hasattr(os, "memfd_create") or len(os.sched_getaffinity(0)) < 2,
                                 reason="memfd_create and a second processor are needed")


@dataclass
class Read:
    """What the engine says of a capture."""

    engine: Engine
    records: list[Record] = field(default_factory=list)
    syncs: list[Sync] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def framed(self, connection: int | None = None) -> list[tuple[str, int, str, int]]:
        """(direction, stream offset, full name, length) by direction and offset."""
        return sorted((r.direction, r.stream_offset, r.full_name, r.length) for r in self.records
                      if connection in (None, r.connection))

    def rules(self) -> set[str]:
        return {finding.rule for finding in self.engine.findings}

    @property
    def connection(self) -> Connection:
        (only,) = self.engine.ours()
        return only


def octets_of(path: Path) -> dict[tuple[int, str], bytes]:
    """Every octet of each direction of the connections that are ours, in memory."""
    engine = Engine()
    for _ in engine.run([path]):
        pass
    pieces: dict[tuple[int, int], list[bytes]] = {}
    streams, table = {c.number: Stream() for c in engine.ours()}, Streams()
    with Source(path) as source:
        for packets in Reader(source):
            segments = table.scan(packets)
            for number, stream in streams.items():
                rows = segments.rows[segments.rows[:, STREAM] == number]
                for side, run in enumerate(stream.feed(rows, packets.octets)):
                    pieces.setdefault((number, side), []).extend(
                        run.octets(i, 0, int(run.rows[i, SIZE])) for i in range(len(run.rows)))
    return {(number, engine.connections[number].direction(side)): b"".join(octets)
            for (number, side), octets in pieces.items()}


def read(*paths: Path | str) -> Read:
    """Run the engine over files."""
    result = Read(Engine())
    collect(result, result.engine.run([str(path) for path in paths]))
    return result


def imported_without(library: str, module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What importing a module says where a library is not installed."""
    (folder / f"{library}.py").write_text("raise ImportError")
    program = ("from dissector.errors import CannotDo\n"
               f"try: import {module}\n"
               "except CannotDo as why: print(why)\n")
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PCAPS.parent,
                          env={"PYTHONPATH": f"{folder}:{PCAPS.parent}"})


def collect(result: Read, events: Iterable[Record | Sync | Message]) -> None:
    lists = {Record: result.records, Sync: result.syncs, Message: result.messages}
    for event in events:
        lists[type(event)].append(event)  # type: ignore[attr-defined]
