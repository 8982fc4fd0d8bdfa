# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory does not grow with the capture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.synthesiser import large, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

PROGRAM = """
import json, resource, sys
import analysis
capture = analysis.read("-")
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(capture.records),
                  int(capture.latency()["count"].sum())]))
"""
GUEST = Guest(memory=1024, batch=1024, dirty=1024)


def peak(tmp_path: Path, megabytes: int) -> list[int]:
    """(peak in KiB, records, pairs) of reading a capture of that size from a pipe."""
    opening = Wire(stream.colo(0, GUEST), fin=False, acks=True)
    checkpoint = Wire(stream.checkpoint(GUEST), handshake=False, fin=False)
    pipe = tmp_path / "pipe"
    if not pipe.exists():
        import os

        os.mkfifo(pipe)
    reader = subprocess.Popen(f"exec '{sys.executable}' -c '{PROGRAM}' < '{pipe}'", shell=True,
                              stdout=subprocess.PIPE)
    large.write(pipe, [opening], [checkpoint], megabytes * 1_000_000)
    out, _ = reader.communicate(timeout=300)
    assert reader.returncode == 0
    found: list[int] = json.loads(out)
    return found


def test_peak_memory_at_100_mb_and_2_gb(tmp_path: Path) -> None:
    small, few, few_pairs = peak(tmp_path, 100)
    large, many, many_pairs = peak(tmp_path, 2000)
    assert many > 15 * few > 0
    assert many_pairs > 15 * few_pairs > 0
    # What grows are the rows of the tables: a few hundred octets a record.
    assert (large - small) * 1024 < 2000 * (many - few) + 8_000_000
