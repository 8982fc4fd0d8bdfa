# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that reads ahead gives what this one would read."""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from dissector import ahead, helper
from dissector.ahead import Ahead
from dissector.blocks import File, read_blocks
from dissector.container import BLOCK
from dissector.engine import Engine
from dissector.helper import HelperError
from dissector.packets import Packets
from dissector.reader import SPAN, Reader
from dissector.record import COMPLETE, SNAPPED, Record
from dissector.source import Source, SourceError
from tests.helpers import PCAPS, needs_memfd
from tests.synthesiser import files, stream, wire
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

REAL = PCAPS / "colo-hvm-fast.A.pcap.zst"
TABLES = ("connections", "records", "syncs", "checkpoints", "findings")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are read by the process, too."""
    monkeypatch.setattr(helper, "WORTHWHILE", 1)


@needs_memfd
@pytest.mark.parametrize("started", [False, True], ids=["forked", "started"])
@pytest.mark.parametrize("ending", [".pcap", ".pcapng", ".pcap.gz", ".pcap.zst"])
def test_the_same_tables(ending: str, started: bool, small: None, monkeypatch: pytest.MonkeyPatch,
                         tmp_path: Path) -> None:
    path = files.write(tmp_path / f"capt\u00fcre{ending}", Wire(stream.colo(3)))
    ring = [path, files.write(tmp_path / "second.pcap", Wire(stream.remus(2), ports=(5, 6)))]
    monkeypatch.setattr(helper, "_is_alone", lambda: not started)
    kinds: list[str] = []
    monkeypatch.setattr(helper, "_Forked", _noting(helper._Forked, kinds))
    monkeypatch.setattr(helper, "_started", _noting(helper._started, kinds))
    through = analysis.read(*ring)
    assert kinds == ["_started" if started else "_Forked"]
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here = analysis.read(*ring)
    for table in TABLES:
        assert through.export(table).equals(here.export(table)), table
    assert len(kinds) == 1


def _refuse(*_: Any) -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def _noting(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        names.append(function.__name__)
        return function(*arguments)

    return noted


@needs_memfd
@pytest.mark.parametrize("rows", [40, 1 << 14], ids=["few rows", "many rows"])
@pytest.mark.parametrize("ending", [".pcap", ".pcapng"])
def test_blocks_of_many_pieces(ending: str, rows: int, small: None, monkeypatch: pytest.MonkeyPatch,
                               tmp_path: Path) -> None:
    """Each piece is read to the same place; packets lie across their ends."""
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    path = files.write(tmp_path / f"x{ending}", Wire(stream.colo(4)))
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here, frames = analysis.read(path, segments=True), len(Wire(stream.colo(4)).rows)
    monkeypatch.setattr("dissector.reader.PIECE", 3001)
    monkeypatch.setattr("dissector.reader.SPAN", 15_000)
    monkeypatch.setattr("dissector.packets.ROWS", rows)
    monkeypatch.setattr(helper, "WORTHWHILE", 1)
    sizes = [len(block) for block in Ahead([str(path)]) if isinstance(block, Packets)]
    assert sum(sizes) == frames
    assert len(sizes) > 5
    for segments in (False, True):
        through = analysis.read(path, segments=segments)
        for table in (*TABLES, *(("segments",) if segments else ())):
            assert through.export(table).equals(here.export(table)), table


@needs_memfd
@pytest.mark.parametrize("pages", [1, 16], ids=["little room", "much room"])
@pytest.mark.parametrize("share", [0.003, 0.03, 0.3])
def test_octets_that_wait_behind_a_hole(share: float, pages: int, small: None, monkeypatch: pytest.MonkeyPatch,
                                        tmp_path: Path) -> None:
    """Those of packets that stand close together are read together."""
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    monkeypatch.setattr("dissector.reader.SPAN", 1 << 16)
    monkeypatch.setattr("dissector.reader.PIECE", 3001)
    waiting = wire.lose(Wire(stream.colo(4)), np.random.default_rng(1), share, again=False)
    path = files.write(tmp_path / "x.pcap", waiting)
    room = np.zeros((1 + pages) * mmap.PAGESIZE, np.uint8)
    monkeypatch.setattr("dissector.streams.near_room", lambda _: room)
    through = analysis.read(path)
    assert room.any()
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here = analysis.read(path)
    assert "hole" in set(here.export("findings")["rule"])
    for table in TABLES:
        assert through.export(table).equals(here.export(table)), table


@needs_memfd
def test_two_captures_at_the_same_time(small: None, tmp_path: Path) -> None:
    """Two threads, each with a capture of its own, whose octets wait behind holes."""
    whole = Wire(stream.colo(4, Guest(memory=3000, batch=500, dirty=1000)))
    paths = [files.write(tmp_path / f"{seed}.pcap", wire.lose(whole, np.random.default_rng(seed), 0.02, again=False))
             for seed in (1, 2)]

    def octets(path: Path) -> list[bytes]:
        return [event.octets for event in Engine(contents=True).run([path]) if isinstance(event, Record)]

    expected = [octets(path) for path in paths]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            assert list(pool.map(octets, paths)) == expected


TROUBLE: dict[str, Callable[[Wire, np.random.Generator], Wire]] = {
    "none": lambda conversation, rng: conversation,
    "lost for ever": lambda conversation, rng: wire.lose(conversation, rng, 0.01, again=False),
    "repeated": lambda conversation, rng: wire.repeat(conversation, rng, 0.1),
    "shuffled": lambda conversation, rng: wire.shuffle(conversation, rng),
}


@needs_memfd
@pytest.mark.parametrize("pages", [1, 16], ids=["little room", "much room"])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_place_that_is_sought_in_the_file(trouble: str, pages: int, small: None, monkeypatch: pytest.MonkeyPatch,
                                            tmp_path: Path) -> None:
    """The start is missing; octets that are looked through come in pieces."""
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    monkeypatch.setattr("dissector.reader.SPAN", 1 << 17)
    room = np.zeros((1 + pages) * mmap.PAGESIZE, np.uint8)
    monkeypatch.setattr("dissector.landmarks.near_room", lambda _: room)
    monkeypatch.setattr("dissector.streams.near_room", lambda _: room)
    whole = Wire(stream.colo(6))
    late = whole.keep(whole.rows[len(whole.rows) // 4:])
    path = files.write(tmp_path / "x.pcap", TROUBLE[trouble](late, np.random.default_rng(2)))
    through = analysis.read(path)
    assert room.any()
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here = analysis.read(path)
    assert "found_place" in set(here.export("findings")["rule"])
    for table in TABLES:
        assert through.export(table).equals(here.export(table)), table


@pytest.mark.parametrize("rows", [40, 1 << 14], ids=["few rows", "many rows"])
@pytest.mark.parametrize("ending", [".pcap", ".pcapng"])
def test_reading_goes_on_from_every_block(ending: str, rows: int, monkeypatch: pytest.MonkeyPatch,
                                          tmp_path: Path) -> None:
    monkeypatch.setattr("dissector.packets.ROWS", rows)
    monkeypatch.setattr("dissector.reader.BLOCK", 30_000)
    path = files.write(tmp_path / f"x{ending}", Wire(stream.colo(4)))
    with Source(path) as source:
        places = [(block.first, block.start, block.container.snapshot(), block.time.tolist())
                  for block in Reader(source) if block.container is not None]
    assert len(places) > 2
    for first, start, container, times in places:
        with Source(path) as source:
            source.skip_to(start)
            block = next(iter(Reader(source, first, container, start)))
            common = min(len(block), len(times))
            assert common, "it says that nothing has come for a moment"
            assert block.first == first
            assert block.time[:common].tolist() == times[:common]


@needs_memfd
def test_many_octets_without_a_packet(small: None, tmp_path: Path) -> None:
    """They take no slot away: none would come back."""
    packets = [files.enhanced(*packet) for packet in files.frames(Wire(stream.plain()))]
    path, size = tmp_path / "capture.pcapng", (ahead.SLOTS + 2) * SPAN
    with path.open("wb") as out:
        out.write(files.pcapng_start() + b"".join(packets[:9]) + struct.pack("<II", 0xBAD, size))
        out.seek(size - 12, os.SEEK_CUR)
        out.write(struct.pack("<I", size) + b"".join(packets[9:]))
    assert sum(len(block) for block in Ahead([str(path)]) if isinstance(block, Packets)) == len(packets)


def more_than_it_may_read(folder: Path) -> list[str]:
    """Files of which each takes a slot."""
    wire = Wire(stream.colo(1))
    return [str(files.write(folder / f"{number}.pcap", wire)) for number in range(ahead.SLOTS + 2)]


@needs_memfd
def test_more_files_than_slots(small: None, tmp_path: Path) -> None:
    """None of them keeps a slot."""
    ring, wire = more_than_it_may_read(tmp_path), Wire(stream.colo(1))
    assert sum(len(block) for block in Ahead(ring) if isinstance(block, Packets)) == len(ring) * len(wire.rows)


@needs_memfd
def test_full_blocks_behind_which_nothing_comes(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A block says that more comes of the same octets; they are of a packet that was cut off."""
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    monkeypatch.setattr("dissector.packets.ROWS", 50)
    frames = list(files.frames(Wire(stream.colo(1))))[:51]
    octets = files.pcap(frames)[:-1]
    ring = []
    for number in range(ahead.SLOTS + 2):
        ring.append(tmp_path / f"{number}.pcap")
        ring[-1].write_bytes(octets)
    assert sum(len(block) for block in Ahead([str(path) for path in ring]) if isinstance(block, Packets)
               ) == 50 * len(ring)


@needs_memfd
def test_a_pipe_among_the_files(small: None, tmp_path: Path) -> None:
    """Nobody has taken its first octets to see what it is."""
    path, pipe = files.write(tmp_path / "x.pcap", Wire(stream.colo(1))), tmp_path / "pipe"
    other = files.write(tmp_path / "y.pcap", Wire(stream.remus(1), ports=(5, 6)))
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[other.read_bytes()])
    writer.start()
    found = analysis.read(path, pipe)
    writer.join()
    expected = analysis.read(path, other).export("records")
    assert set(expected["connection"]) == {0, 1}
    assert found.export("records")["stream_offset"].equals(expected["stream_offset"])


@needs_memfd
def test_a_real_capture_with_progress(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    progress: list[int] = []
    through = analysis.read(REAL, on_progress=progress.append)
    assert progress
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here = analysis.read(REAL)
    for table in TABLES:
        assert through.export(table).equals(here.export(table)), table
    assert 0 < sum(progress) <= REAL.stat().st_size


@needs_memfd
@pytest.mark.parametrize("options", [{"segments": True}, {"contents": True}], ids=["segments", "contents"])
def test_what_looks_at_more_octets(options: dict[str, bool], small: None, monkeypatch: pytest.MonkeyPatch,
                                   tmp_path: Path) -> None:
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(3), ports=(7, 8)))
    through = analysis.read(path, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here = analysis.read(path, **options)  # type: ignore[arg-type]
    for table in (*TABLES, *(("segments", "parts", "capture_points") if "segments" in options else ())):
        assert through.export(table).equals(here.export(table)), table
    if "contents" in options:  # digests are others each time, but the same for the same page
        one, other = (found.export("pages") for found in (through, here))
        assert one["zero"].equals(other["zero"])
        assert (pd.factorize(one["digest"])[0] == pd.factorize(other["digest"])[0]).all()
        assert len(set(one["digest"])) > 2


@needs_memfd
@pytest.mark.parametrize("segments", [False, True], ids=["sparing", "segments"])
def test_a_file_that_becomes_shorter_meanwhile(segments: bool, small: None, tmp_path: Path) -> None:
    """Packets were found in it whose octets are not there any more when they are needed."""
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(3)))
    size = path.stat().st_size
    whole = [event for event in Engine().run([path]) if isinstance(event, Record)]
    engine, found = Engine(segments=segments), []
    for block in Ahead([str(path)]):
        if isinstance(block, Packets):
            assert len(block) == len(Wire(stream.colo(3)).rows)
            os.truncate(path, size // 2)
        found += engine.take(block)
    found += engine.finish()
    records = [event for event in found if isinstance(event, Record)]
    told = [f.text for f in engine.findings if f.rule == "damaged_file"]
    assert told == [f"{path}: {ahead._SHORT}"]
    here = [record for record in records if record.status == COMPLETE]
    assert 0 < len(here) < len(whole)
    assert [record.octets for record in here] == [record.octets for record in whole[:len(here)]]
    assert all(record.status == SNAPPED for record in records[len(here):])


@needs_memfd
@pytest.mark.parametrize("loaded", [False, True], ids=["where they are needed", "all together"])
@pytest.mark.parametrize("share", [0.2, 0.9], ids=["most of it waits", "little waits"])
def test_octets_that_wait_and_are_not_there_any_more(share: float, loaded: bool, small: None, tmp_path: Path) -> None:
    """They wait behind a hole, and are read when the rest of their block is: nothing is taken for them."""
    whole = Wire(stream.colo(3))
    data = whole.data_rows()
    torn = whole.keep(np.delete(whole.rows, data[int(share * len(data))]))
    path = files.write(tmp_path / "x.pcap", torn)
    size = int(share * path.stat().st_size)
    expected = [event for event in Engine().run([path]) if isinstance(event, Record)]
    engine, records = Engine(), []
    for block in Ahead([str(path)]):
        if isinstance(block, Packets):
            os.truncate(path, size)
            assert not loaded or len(block.data)
        records += [event for event in engine.take(block) if isinstance(event, Record)]
    records += [event for event in engine.finish() if isinstance(event, Record)]
    assert [f.text for f in engine.findings if f.rule == "damaged_file"] == [f"{path}: {ahead._SHORT}"]
    here = [record for record in records if record.status == COMPLETE]
    assert 0 < len(here) < len(expected)
    known = {(record.direction, record.stream_offset): record.octets for record in expected}
    assert all(known.get((record.direction, record.stream_offset)) == record.octets for record in here)
    assert {f.rule for f in engine.findings} == {"hole", "lost_in_hole", "damaged_file"}


@needs_memfd
@pytest.mark.parametrize("started", [False, True], ids=["forked", "started"])
def test_whatever_becomes_of_its_name_meanwhile(started: bool, small: None, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path) -> None:
    """A ring's oldest file goes, or another one comes in its place: what was begun is read on."""
    monkeypatch.setattr(helper, "_is_alone", lambda: not started)
    ring = [files.write(tmp_path / f"{i}.pcap", Wire(stream.colo(1), ports=(5, i))) for i in range(3)]
    expected, before = analysis.read(*ring), len(os.listdir("/proc/self/fd"))
    reader, engine, records = Ahead([str(path) for path in ring]), Engine(), []
    select.select([reader._helper._files], [], [])
    time.sleep(0.5)  # all three are open
    ring[0].unlink()
    ring[1].replace(ring[2])
    for block in reader:
        records += [event for event in engine.take(block) if isinstance(event, Record)]
    records += [event for event in engine.finish() if isinstance(event, Record)]
    assert len(records) == len(expected.export("records"))
    assert len(os.listdir("/proc/self/fd")) == before
    assert {finding.rule for finding in engine.findings} <= {"clock_back"}


@needs_memfd
@pytest.mark.parametrize("endings", [(".pcap.zst", ".pcap.gz"), (".pcap", ".pcap.zst"), (".pcap.gz", ".pcap")])
def test_compressed_files_that_are_large_together(endings: tuple[str, str], monkeypatch: pytest.MonkeyPatch,
                                                  tmp_path: Path) -> None:
    """Octets of those cannot be read again."""
    one = files.write(tmp_path / f"1{endings[0]}", Wire(stream.colo(3)))
    other = files.write(tmp_path / f"2{endings[1]}", Wire(stream.remus(2), ports=(5, 6)))
    here = analysis.read(one, other)
    monkeypatch.setattr(helper, "WORTHWHILE", one.stat().st_size + other.stat().st_size)
    through = analysis.read(one, other)
    assert len(here.export("records"))
    for table in TABLES:
        assert through.export(table).equals(here.export(table)), table


@needs_memfd
def test_payloads_that_stand_nowhere(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Headers that are cut off, or lie, put empty ones behind the end of their packet, or of the file."""
    frames = list(files.frames(Wire(stream.colo(2)), "raw"))
    lying = bytearray(next(frame for _, frame in frames if len(frame) > 400)[:40])
    lying[2:4] = (40).to_bytes(2)
    lying[32] = 0xF0  # a TCP header of 60 octets, of which 20 are there
    inside = bytearray(frames[-1][1][:20] + bytes(200))
    inside[0], inside[2:4], inside[12] = 0x40, len(inside).to_bytes(2), 0x50  # and one that is the IP header
    odd = [(frames[0][0], bytes(octets)) for _ in range(300) for octets in (lying, inside)]
    for name, packets, snaplen in (("lying", [*frames[:20], *odd, *frames[20:]], 1 << 18), ("snapped", frames, 50)):
        (path := tmp_path / f"{name}.pcap").write_bytes(files.pcap(packets, 101, snaplen=snaplen))
        through = analysis.read(path)
        monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
        here = analysis.read(path)
        monkeypatch.setattr(helper, "WORTHWHILE", 1)
        assert len(here.export("connections", every=True))
        for table in TABLES:
            assert through.export(table, every=True).equals(here.export(table, every=True)), (name, table)


@needs_memfd
@pytest.mark.parametrize("size", [BLOCK, BLOCK - 400, BLOCK - (1 << 20)])
def test_a_fault_with_much_behind_it(size: int, tmp_path: Path) -> None:
    """A packet block of nearly as much as is read at a time, with a length that cannot be."""
    good = [files.enhanced(*packet) for packet in files.frames(Wire(stream.colo(1)))]
    length = (1 << 20) + 8
    bad = struct.pack("<IIIIIII", 6, size, 0, 0, 0, length, length) + bytes(size - 32) + struct.pack("<I", size)
    path = tmp_path / "x.pcapng"
    for front in (b"", struct.pack("<II", 0x7777, 2 << 20) + bytes((2 << 20) - 12) + struct.pack("<I", 2 << 20)):
        path.write_bytes(files.pcapng_start() + b"".join(good) + front + bad + bytes(8 << 20))
        faults = set()
        for found in (read_blocks([str(path)]), Ahead([str(path)])):
            *blocks, end = found
            assert sum(len(block) for block in blocks if isinstance(block, Packets)) == len(good)
            faults.add(end.fault)  # type: ignore[union-attr]
        assert len(faults) == 1
        assert "no packet stands at octet" in str(faults)


@needs_memfd
def test_what_cannot_be_read_is_said_as_ever(small: None, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"this is no capture at all")
    with pytest.raises(SourceError, match="text: not a capture"):
        analysis.read(tmp_path / "text")
    whole = files.write(tmp_path / "x.pcap", Wire(stream.colo(1))).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-5])
    assert "damaged_file" in set(analysis.read(tmp_path / "cut").findings["rule"])
    with pytest.raises(SourceError):
        analysis.read(tmp_path / "is not there")


@needs_memfd
@pytest.mark.parametrize("ending", [".pcap.gz", ".pcap.zst"])
def test_a_damaged_file_is_read_as_far_as_ever(ending: str, small: None, monkeypatch: pytest.MonkeyPatch,
                                               tmp_path: Path) -> None:
    octets = bytearray(files.write(tmp_path / f"x{ending}", Wire(stream.colo(30))).read_bytes())
    octets[len(octets) // 2:] = bytes(reversed(octets[len(octets) // 2:]))
    damaged = tmp_path / f"damaged{ending}"
    damaged.write_bytes(octets)
    through = analysis.read(damaged)
    monkeypatch.setattr(helper, "WORTHWHILE", 1 << 40)
    here = analysis.read(damaged)
    assert "damaged_file" in set(through.findings["rule"])
    for table in TABLES:
        assert through.export(table).equals(here.export(table)), table


@needs_memfd
def test_octets_that_another_process_decompresses(small: None) -> None:
    with Source(REAL) as here, Source(REAL, ahead=True) as there:
        expected, buffer = here.peek(3 << 21), memoryview(bytearray(3 << 21))
        assert there.peek(100) == expected[:100]
        filled = 0
        while filled < len(buffer) and (count := there.readinto(buffer[filled:filled + 100_001])):
            filled += count
        assert bytes(buffer[:filled]) == expected
        assert there.fault is None
        pid = there._octets._helper.pid  # type: ignore[attr-defined]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@needs_memfd
def test_the_process_ends_with_who_takes_its_blocks(small: None, tmp_path: Path) -> None:
    reader = Ahead(more_than_it_may_read(tmp_path))
    taken = iter(reader)
    assert isinstance(next(taken), File)
    assert isinstance(next(taken), Packets)
    taken.close()  # type: ignore[attr-defined]
    with pytest.raises(ChildProcessError):
        os.waitpid(reader._helper.pid, os.WNOHANG)


@needs_memfd
@pytest.mark.parametrize("started", [False, True], ids=["forked", "started"])
def test_a_process_that_dies_is_one_line(started: bool, small: None, monkeypatch: pytest.MonkeyPatch,
                                         tmp_path: Path) -> None:
    monkeypatch.setattr(helper, "_is_alone", lambda: not started)
    reader = Ahead(more_than_it_may_read(tmp_path))
    taken = iter(reader)
    next(taken)
    os.kill(reader._helper.pid, signal.SIGKILL)
    with pytest.raises(HelperError, match="has ended"):
        for _ in taken:
            pass
    buffer = memoryview(bytearray(1 << 20))
    with Source(REAL, ahead=True) as source:
        os.kill(source._octets._helper.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(HelperError, match="has ended"):
            all(source.readinto(buffer) for _ in range(1 << 10))


@needs_memfd
def test_nobody_may_wait_for_processes(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(1)))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert sum(len(block) for block in Ahead([str(path)]) if isinstance(block, Packets))
    finally:
        signal.signal(signal.SIGCHLD, before)


@needs_memfd
@pytest.mark.parametrize("ending", [".pcap", ".pcap.zst"])
@pytest.mark.parametrize("what", ["process", "memory"])
def test_the_system_refuses_a_process_or_memory(what: str, ending: str, small: None, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path) -> None:
    """It is read without."""
    path = files.write(tmp_path / f"x{ending}", Wire(stream.colo(2)))
    expected, open_before = analysis.read(path), os.listdir("/proc/self/fd")
    if what == "memory":
        monkeypatch.setattr(os, "memfd_create", _refuse)
    else:
        monkeypatch.setattr(helper, "_Forked", _refuse)
        monkeypatch.setattr(helper, "_started", _refuse)
    found = analysis.read(path)
    for table in TABLES:
        assert found.export(table).equals(expected.export(table)), table
    assert os.listdir("/proc/self/fd") == open_before


@needs_memfd
@pytest.mark.parametrize("endings", [(".pcap", ".pcapng"), (".pcap.zst", ".pcap"), (".pcap.gz",)])
def test_a_process_that_has_begun_is_taken(endings: tuple[str, ...], small: None, monkeypatch: pytest.MonkeyPatch,
                                           tmp_path: Path) -> None:
    kinds: list[str] = []
    ring = [str(files.write(tmp_path / f"{i}{ending}", Wire(stream.colo(2), ports=(5, i))))
            for i, ending in enumerate(endings)]
    expected, before = analysis.read(*ring), os.listdir("/proc/self/fd")
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    monkeypatch.setattr(helper, "_Forked", _noting(helper._Forked, kinds))
    ahead.expect(ring)
    assert len(kinds) == 1
    found = analysis.read(*ring)
    assert len(kinds) == 1
    for table in TABLES:
        assert found.export(table).equals(expected.export(table)), table
    assert os.listdir("/proc/self/fd") == before


@needs_memfd
@pytest.mark.parametrize("ending", [".pcap", ".pcap.zst"])
def test_a_process_that_has_begun_with_others_ends(ending: str, small: None, monkeypatch: pytest.MonkeyPatch,
                                                   tmp_path: Path) -> None:
    path, other = (files.write(tmp_path / f"{i}{ending}", Wire(stream.colo(i))) for i in (1, 2))
    expected, before = analysis.read(path), os.listdir("/proc/self/fd")
    monkeypatch.setattr(helper, "_is_alone", lambda: True)
    ahead.expect([str(other)])
    [pid] = [begun.pid for begun in helper._begun.values()]
    found = analysis.read(path)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    for table in TABLES:
        assert found.export(table).equals(expected.export(table)), table
    assert os.listdir("/proc/self/fd") == before


@needs_memfd
def test_nothing_begins_with_what_cannot_be_read(small: None, monkeypatch: pytest.MonkeyPatch,
                                                 tmp_path: Path) -> None:
    path = str(files.write(tmp_path / "x.pcap", Wire(stream.colo(1))))
    for names in ([str(tmp_path / "is not there")], ["-"], [str(tmp_path)], []):
        ahead.expect(names)
    monkeypatch.setattr(helper, "_Forked", _refuse)
    monkeypatch.setattr(helper, "_started", _refuse)
    ahead.expect([path])
    assert not helper._begun


WORDS = {
    "its file": (["latency", "FILE"], ["FILE"]),
    "a ring": (["report", "FILE", "OTHER", "-o", "report.html"], ["FILE", "OTHER"]),
    "behind an option's word": (["latency", "--format", "csv", "FILE"], ["FILE"]),
    "what an option has": (["latency", "FILE", "--format", "csv", "-o", "OTHER"], ["FILE"]),
    "two captures": (["compare", "FILE", "OTHER"], ["FILE", "OTHER"]),
    "no file": (["latency", "nothing"], []),
    "no command": (["--version"], []),
}


@needs_memfd
@pytest.mark.parametrize(("words", "expected"), WORDS.values(), ids=WORDS)
def test_the_command_begins_before_it_is_imported(words: list[str], expected: list[str], tmp_path: Path) -> None:
    """With what it then reads, or else it makes no difference."""
    for name in ("FILE", "OTHER"):
        files.write(tmp_path / "x.pcap", Wire(stream.colo(2))).rename(tmp_path / name)
    noting = ("import sys; from dissector import ahead, helper; helper.WORTHWHILE = 1; expect = ahead.expect\n"
              "def noted(names): print(names, 'click' in sys.modules); expect(names)\n"
              "ahead.expect = noted; from analysis.__main__ import main; main()")
    plain = "from analysis.cli import main; main()"
    said = []
    for code in (plain, noting):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60,
                              cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(analysis.__file__).parents[1])})
        made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        said.append((done.returncode, done.stdout, done.stderr, made))
    assert said[0][0] == (2 if words[-1] == "nothing" else 0), said[0][2]
    told = f"{expected} False\n" if expected else ""
    assert said[1] == (said[0][0], told + said[0][1], *said[0][2:])
