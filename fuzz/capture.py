# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole capture, through every room to the tables, and every record explained."""

from __future__ import annotations

import analysis
from analysis.output import _csv, _json
from analysis.tables import plain
from analysis.terminal import text
from dissector.errors import CannotDo
from dissector.explain import explain
from dissector.record import Record
from fuzz.memory_file import named

_TABLES = ("connections", "records", "syncs", "checkpoints", "latency", "findings")


def check(octets: bytes) -> None:
    """No way of looking at it raises anything but one line that says what cannot be done."""
    with named(octets) as name:
        try:
            capture = analysis.read(name)
        except CannotDo as error:
            assert "\n" not in str(error)
            return
        for table in _TABLES:
            columns = plain(capture.export(table))
            for write in (_csv, _json, text):
                write(columns, table)
        engine = capture.engine
        assert not engine.ours() or len(capture.records)
        capture.found_instead()
        again = type(engine)()
        for event in again.run([name]):
            if isinstance(event, Record):
                lines = list(explain(event))
                assert all(line.isprintable() for line in lines)
