# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading captures: the door for notebooks and for the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.rows import Rows
from dissector.engine import Engine
from dissector.errors import CannotDo
from dissector.findings import NOTE
from dissector.proxy import Message
from dissector.recognise import COLO_PROXY, ENCRYPTED, QEMU_COLO
from dissector.record import Record
from dissector.source import Source
from dissector.syncpoints import Sync

if TYPE_CHECKING:
    from analysis.capture import Capture
    from analysis.pages import Pages
    from dissector.blocks import Block

COLOSCOPE, WIRESHARK = "coloscope", "wireshark"
"""What may read a capture."""


class ProxyError(CannotDo):
    """A capture of a colo-proxy that has none; the message says what to do."""


class Reading:
    """What a capture was read to be, without pandas: `engine`, `rows` (`analysis.rows.Rows.array`) and the
    `points` (sync-points); `conversation` is where a colo-proxy's `messages` are: here, or in a capture of
    their own."""

    def __init__(self, engine: Engine, rows: np.ndarray, points: list[Sync], messages: list[Message],
                 page_table: Pages | None = None, conversation: Reading | None = None) -> None:
        self.engine, self.rows, self.points, self.messages = engine, rows, points, messages
        self.page_table, self.conversation = page_table, conversation or self

    def found_instead(self) -> str:
        """One line on a capture in which nothing is ours."""
        engine = self.engine
        count = engine.streams.count
        packets = sum(file.packets for file in engine.files)
        if not count:
            why = "; ".join(f.text for f in engine.findings if f.severity != NOTE)
            return f"no TCP connection in {packets} packets" + (f"; {why}" if why else "")
        parts = [f"{count} TCP connection{'s'[:count != 1]}, none carries a Xen migration stream"]
        seen: dict[str, str] = {}
        for number in engine.streams.samples():
            if (kind := engine.seems(number)) not in seen:
                ends = [engine.streams.endpoint(number, side) for side in (0, 1)]
                seen[kind] = min(ends, key=lambda end: int(end.rpartition(":")[2]))
        for kind, end in seen.items():
            if kind in ENCRYPTED:
                parts.append(f"{end} is {kind}: xl's default transport encrypts the stream, see "
                             "README: capturing")
            elif kind == QEMU_COLO:
                parts.append(f"{end} is {kind}, another protocol")
            elif kind == COLO_PROXY:
                parts.append(f"{end} is {kind}: capture the replication link as well")
        return "; ".join(parts)


def read(*names: str | os.PathLike[str] | Source, engine: str = COLOSCOPE, tshark: Sequence[str] = (),
         segments: bool = False, contents: bool = False, proxy: str | os.PathLike[str] | None = None,
         on_progress: Callable[[int], None] | None = None) -> Capture:
    """Read capture files, which are one capture (a ring), in this order; "-" is stdin.

    pcap or pcapng, plain or compressed with gzip or zstd.  Raises `dissector.SourceError` if one
    of them cannot be read at all.  Memory grows with the records and pages, not with the octets.

    `segments` keeps what TCP did, too (35 octets of memory for each segment): for `Capture.segments`,
    `Capture.causes` and what they tell.  `contents` looks at the pages themselves: for zero and unchanged
    ones in `Capture.pages`.  Only coloscope's own engine can do either.

    `engine` "wireshark" lets the user's own tshark read one file, with `tshark` as further
    arguments, for those who decrypt or filter there: the same tables, but for what Wireshark does
    not know (`dissector.wireshark.read.Wireshark`).  Raises `TsharkError` where that fails.

    `proxy` is a capture with the colo-proxy's control connection, by the same host's clock.  Raises
    `ProxyError` if it has none.
    """
    from analysis.capture import Capture

    return Capture(observe(*names, engine=engine, tshark=tshark, segments=segments, pages=engine == COLOSCOPE,
                           contents=contents, proxy=proxy, on_progress=on_progress))


def observe(*names: str | os.PathLike[str] | Source, engine: str = COLOSCOPE, tshark: Sequence[str] = (),
            segments: bool = False, pages: bool = False, contents: bool = False, records: bool = True,
            proxy: str | os.PathLike[str] | None = None, on_progress: Callable[[int], None] | None = None,
            blocks: Iterable[Block] | None = None) -> Reading:
    """The same without tables, and without the quarter of a second that importing pandas takes.  `pages`: keep
    their PFNs; `records`: a row of each, without which there are sync-points only.  `blocks`: those of these files
    (`dissector.ahead.blocks`)."""
    if engine not in (COLOSCOPE, WIRESHARK):
        raise ValueError(f"engine is {COLOSCOPE!r} or {WIRESHARK!r}, not {engine!r}")
    if engine == WIRESHARK and (segments or pages or contents):
        raise ValueError(f"segments, pages and contents want engine={COLOSCOPE!r}")
    if engine == WIRESHARK:
        from dissector.wireshark.read import Wireshark

        source: Engine = Wireshark(tshark)
    else:
        source = Engine(segments=segments, contents=contents)
    conversation = observe(proxy) if proxy else None
    if conversation and not conversation.messages:
        raise ProxyError(f"{proxy}: no control connection of a colo-proxy in it; it is a TCP connection of its own, "
                         "often on the loopback interface")
    rows, points, messages = Rows(), [], []
    kept = None
    if pages or contents:
        from analysis.pages import Pages

        kept = Pages()
    for event in source.read(blocks) if blocks else source.run(names, on_progress=on_progress):
        if isinstance(event, Record):
            if kept is not None:
                kept.append(event)
            if records:
                rows.append(event)
        elif isinstance(event, Message):
            messages.append(event)
        else:
            points.append(event)
    return Reading(source, rows.array(), points, messages, kept, conversation)
