# SPDX-License-Identifier: GPL-2.0-or-later
"""What many tests need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dissector.connection import Connection
from dissector.engine import Engine
from dissector.record import Record
from dissector.syncpoints import Sync

PCAPS = Path(__file__).parent.parent / "pcaps"


@dataclass
class Read:
    """What the engine says of a capture."""

    engine: Engine
    records: list[Record] = field(default_factory=list)
    syncs: list[Sync] = field(default_factory=list)

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


def read(*paths: Path | str) -> Read:
    """Run the engine over files."""
    result = Read(Engine())
    collect(result, result.engine.run([str(path) for path in paths]))
    return result


def collect(result: Read, events: Iterable[Record | Sync]) -> None:
    for event in events:
        (result.records if isinstance(event, Record) else result.syncs).append(event)  # type: ignore[arg-type]
