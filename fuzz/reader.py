# SPDX-License-Identifier: GPL-2.0-or-later
"""Source, packets and segments: the octets of a capture file."""

from __future__ import annotations

from dataclasses import replace

from dissector.headers import CAPTURED, LENGTH, POSITION
from dissector.octets import InFile, Passing
from dissector.packets import Packets
from dissector.reader import Reader
from dissector.segments import SEGMENT_FRAME, Streams
from dissector.source import Source, SourceError
from fuzz.memory_file import named

_DAMAGED = "data is damaged"
Found = tuple[list[tuple[int, int, int, bytes]], list[tuple[int, ...]], str | None]


def check(octets: bytes) -> None:
    """The same packets whole and in small pieces, as octets that pass, and again from the middle; nothing points
    beyond what was read; what cannot be read is one line."""
    with named(octets) as name:
        # Every octet where there are few, else some forty pieces.
        found = [_outcome(name, piece) for piece in (0, max(1 + len(octets) % 11, len(octets) // 40))]
        if isinstance(found[0], tuple):
            _assert_they_may_pass(name, found[0])
    assert found[0] == found[1] or any(_DAMAGED in str(outcome) for outcome in found), \
        "only what damage takes with it may depend on the pieces"


def _outcome(name: str, piece: int) -> Found | str:
    try:
        return _read(name, piece)
    except SourceError as error:
        assert "\n" not in str(error)
        return str(error)


def _read(name: str, piece: int) -> Found:
    """(packets, segments, fault) of a file that is read `piece` octets at a time; 0: as it comes."""
    packets: list[tuple[int, int, int, bytes]] = []
    segments: list[tuple[int, ...]] = []
    streams, places = Streams(), []
    with Source(name) as source:
        if piece:
            read = source.readinto
            source.readinto = lambda buffer: read(buffer[:piece])  # type: ignore[method-assign]
        reader = Reader(source)
        for block in reader:
            assert block.first == len(packets) + 1
            places.append((len(packets), block.start, block.container))
            packets += _rows(block)
            rows = streams.scan(block).rows
            at = rows[:, SEGMENT_FRAME] - block.first
            ends = block.position[at] + block.captured[at]
            assert (rows[:, CAPTURED] >= 0).all()
            assert (rows[:, CAPTURED] <= rows[:, LENGTH]).all()
            assert ((rows[:, CAPTURED] == 0) | (rows[:, POSITION] + rows[:, CAPTURED] <= ends)).all()
            segments += [tuple(int(v) for i, v in enumerate(row) if i != POSITION) for row in rows]
    fault = reader.container.fault
    assert fault is None or "\n" not in fault
    if places:
        _again(name, packets, places[len(places) // 2])
    return packets, segments, fault


def _assert_they_may_pass(name: str, found: Found) -> None:
    """A kernel that reads the file itself finds the same."""
    packets: list[tuple[int, int, int, bytes]] = []
    with Source(name) as source:
        if source.compression:
            return
        reader, file = Reader(source, passing=True), InFile(source.fileno())
        for block in reader:
            end = int((block.position + block.captured).max())
            packets += _rows(replace(block, octets=Passing(file, block.origin, int(block.position.min()), end)))
    assert (packets, reader.container.fault) == (found[0], found[2])


def _rows(block: Packets) -> list[tuple[int, int, int, bytes]]:
    assert (block.captured <= block.wire).all()
    assert (block.position >= 0).all()
    assert (block.captured >= 0).all()
    assert (block.position + block.captured <= len(block.data)).all()
    assert (block.time >= 0).all()
    return [(int(t), int(link), int(w), block.data[p:p + c].tobytes()) for t, link, w, p, c in zip(
        block.time, block.link, block.wire, block.position, block.captured, strict=True)]


def _again(name: str, packets: list[tuple[int, int, int, bytes]], place) -> None:  # type: ignore[no-untyped-def]
    """From the place of a block on the same packets are read again."""
    done, start, container = place
    with Source(name) as source:
        source.skip_to(start)
        first = next(iter(Reader(source, done + 1, container.snapshot(), start)))
        assert first.first == done + 1
        rows = _rows(first)
        assert rows == packets[done:done + len(rows)]
