# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading captures: the door for notebooks and for the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from analysis.rows import Rows
from dissector.engine import Engine
from dissector.record import Record
from dissector.source import Source

if TYPE_CHECKING:
    from analysis.capture import Capture

COLOSCOPE, WIRESHARK = "coloscope", "wireshark"
"""What may read a capture."""


def read(*names: str | os.PathLike[str] | Source, engine: str = COLOSCOPE, tshark: Sequence[str] = (),
         on_progress: Callable[[int], None] | None = None) -> Capture:
    """Read capture files, which are one capture (a ring), in this order; "-" is stdin.

    pcap or pcapng, plain or compressed with gzip or zstd.  Raises `dissector.SourceError` if one
    of them cannot be read at all.  Memory grows with the records, not with the octets.

    `engine` "wireshark" lets the user's own tshark read one file, with `tshark` as further
    arguments, for those who decrypt or filter there: the same tables, but for what Wireshark does
    not know (`dissector.wireshark.read.Wireshark`).  Raises `TsharkError` where that fails.
    """
    if engine not in (COLOSCOPE, WIRESHARK):
        raise ValueError(f"engine is {COLOSCOPE!r} or {WIRESHARK!r}, not {engine!r}")
    # pandas takes longer to import than a small capture to read, and the other thread of reading is
    # in compiled code most of the time.
    Thread(target=import_module, args=("analysis.capture",)).start()
    if engine == WIRESHARK:
        from dissector.wireshark.read import Wireshark

        source: Engine = Wireshark(tshark)
    else:
        source = Engine()
    rows, points = Rows(), []
    for event in source.run(names, on_progress=on_progress):
        if isinstance(event, Record):
            rows.append(event)
        else:
            points.append(event)
    from analysis.capture import Capture

    return Capture(source, rows.array(), points)
