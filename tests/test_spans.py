# SPDX-License-Identifier: GPL-2.0-or-later
"""A file whose spans two processes read in any order gives what one process reads from its start."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dissector import helper
from dissector.ahead import Ahead
from dissector.blocks import Block, File, read_blocks
from dissector.container import Container
from dissector.headers import POSITION, WHY
from dissector.helper import Helper, Room
from dissector.idle import Idle
from dissector.jobs import Jobs
from dissector.octets import Passing
from dissector.packets import Packets
from dissector.spans import Own
from tests.helpers import needs_memfd
from tests.synthesiser import files, stream
from tests.synthesiser.wire import Wire

pytestmark = needs_memfd
SPAN, PIECE = 15_000, 3001
WHO: dict[str, Callable[[random.Random], bool]] = {
    "the other": lambda rng: False, "this one": lambda rng: True, "both": lambda rng: rng.random() < 0.5}
"""Which process reads what can be read."""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Small files are read by two processes, in small spans; those that this one has read."""
    monkeypatch.setattr(helper, "WORTHWHILE", 1)
    monkeypatch.setattr(helper, "_is_alone", lambda: True)  # it has what is set here
    monkeypatch.setattr("dissector.reader.SPAN", SPAN)
    monkeypatch.setattr("dissector.reader.PIECE", PIECE)
    spans: list[int] = []
    read = Own.read
    monkeypatch.setattr(Own, "read", lambda self, span: (spans.append(span), read(self, span))[1])
    return spans


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> list[Packets]:
    """Packets that were read when both processes had read what they can."""
    found: list[Packets] = []
    read = Ahead._rest

    def noted(*arguments: Any) -> Generator[Packets, None, Container]:
        blocks = read(*arguments)
        while True:
            try:
                found.append(next(blocks))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            yield found[-1]

    monkeypatch.setattr(Ahead, "_rest", noted)
    return found


@pytest.fixture(params=WHO)
def who(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    rng = random.Random(7)
    if request.param != "the other":
        monkeypatch.setattr("dissector.spans.SLOTS", 1)  # the other one cannot have read all before
    monkeypatch.setattr(Helper, "waits", property(lambda _: WHO[request.param](rng)))
    monkeypatch.setattr(Idle, "share", 1.0)
    return str(request.param)


def told(found: Iterable[Block]) -> list[Any]:
    """What blocks tell, wherever one ends and the next begins."""
    rows: list[Any] = []
    for block in found:
        if isinstance(block, File):
            rows.append((block.name, block.first))
        elif isinstance(block, Packets):
            for i in range(len(block)):
                header, at, captured = block.headers.rows[i].tolist(), int(block.position[i]), int(block.captured[i])
                octets = block.octets
                header[POSITION] -= at
                rows.append((block.first + i, block.origin + at, int(block.wire[i]), int(block.time[i]),
                             int(block.link[i]), int(block.interface[i]), octets.read(at, captured)
                             if isinstance(octets, Passing) else octets[at:at + captured].tobytes(),
                             *(header[WHY:WHY + 2] if header[WHY] else (header, block.headers.ends[i].tolist()))))
        else:
            rows.append((block.kind, block.fault, block.drops))
    return rows


def the_same(*paths: Path) -> None:
    names = [str(path) for path in paths]
    here, through = told(read_blocks(names)), told(Ahead(names))
    assert len(here) > 2 * len(names)
    assert through == here


def capture(folder: Path, checkpoints: int = 4, name: str = "x.pcap", **options: Any) -> Path:
    return files.write(folder / name, Wire(stream.colo(checkpoints), **options))


@pytest.mark.parametrize("rows", [7, 40, 1 << 14])
def test_spans_that_two_processes_read(rows: int, who: str, own: list[int], rest: list[Packets],
                                       monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With fewer slots than a span fills, too."""
    monkeypatch.setattr("dissector.packets.ROWS", rows)
    path = capture(tmp_path)
    the_same(path)
    spans = -(-path.stat().st_size // SPAN)
    assert len(own) == 0 if who == "the other" else spans // 8 <= len(own) <= spans
    assert own == sorted(set(own))
    assert not rest


def test_a_ring(who: str, own: list[int], rest: list[Packets], tmp_path: Path) -> None:
    """Files of several spans, of one, and without a packet; a pcapng among them."""
    paths = [capture(tmp_path, i % 3, f"{i}.pcap" + "ng" * (i == 4), ports=(5, i)) for i in range(9)]
    paths[2].write_bytes(files.pcap([]))
    the_same(*paths)
    assert not rest


def test_a_file_that_was_cut(who: str, own: list[int], tmp_path: Path) -> None:
    whole = capture(tmp_path, 1).read_bytes()
    for size in (*range(2 * SPAN - 40, 2 * SPAN + 41, 8), *range(len(whole) - 40, len(whole) + 1, 8)):
        (path := tmp_path / f"{size}.pcap").write_bytes(whole[:size])
        the_same(path)


@pytest.mark.parametrize("damage", [b"\xff" * 16, bytes(16), bytes(4000), b"\1" * 20_000],
                         ids=["impossible", "zeros", "many zeros", "ones"])
def test_damage(damage: bytes, who: str, own: list[int], tmp_path: Path) -> None:
    """In the middle of a span, and where the next one begins."""
    octets = capture(tmp_path).read_bytes()
    starts = list(packets(octets))
    for place in (2 * SPAN + SPAN // 2, 3 * SPAN):
        at = next(start for start in starts if start >= place)
        (path := tmp_path / f"{place}.pcap").write_bytes(octets[:at] + damage + octets[at + len(damage):])
        the_same(path)


def packets(octets: bytes) -> Iterator[int]:
    """Where the packets of a pcap begin."""
    at = 24
    while at + 16 <= len(octets):
        yield at
        at += 16 + struct.unpack_from("<I", octets, at + 8)[0]


def test_packets_in_a_packet(who: str, own: list[int], tmp_path: Path) -> None:
    """Where a span begins stand packets that are none: somebody has sent a pcap."""
    frames = list(files.frames(Wire(stream.colo(2))))
    inner = files.pcap(frames[:400])[24:]
    large = [(time, octets[:54] + inner[i:i + 40_000]) for i, (time, octets) in enumerate(frames[:6])]
    (path := tmp_path / "x.pcap").write_bytes(files.pcap([*frames[:60], *large, *frames[60:]]))
    the_same(path)


def test_packets_that_do_not_tell_where_they_begin(who: str, own: list[int], tmp_path: Path) -> None:
    """Without an octet; or with more octets than were on the wire."""
    frames = list(files.frames(Wire(stream.colo(2))))
    empty = [(time, b"") for time, _ in frames[:20]] * 100
    octets = bytearray(files.pcap([*frames[:60], *empty, *frames[60:]]))
    (tmp_path / "empty.pcap").write_bytes(octets)
    for start in list(packets(octets))[::2]:
        octets[start + 12:start + 16] = struct.pack("<I", 1)
    (tmp_path / "short.pcap").write_bytes(octets)
    the_same(tmp_path / "empty.pcap", tmp_path / "short.pcap", capture(tmp_path, 1))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("fractions", [10 ** 6, 10 ** 9])
def test_each_kind_of_pcap(order: str, fractions: int, who: str, own: list[int], rest: list[Packets],
                           tmp_path: Path) -> None:
    octets = capture(tmp_path, 2).read_bytes()
    magic = {10 ** 6: 0xA1B2C3D4, 10 ** 9: 0xA1B23C4D}[fractions]
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 1 << 18, 1)]
    for i, start in enumerate(packets(octets)):
        seconds, _, captured, wire = struct.unpack_from("<IIII", octets, start)
        out += [struct.pack(order + "IIII", seconds, fractions - 1 - i, captured, wire),
                octets[start + 16:start + 16 + captured]]
    (path := tmp_path / "y.pcap").write_bytes(b"".join(out))
    the_same(path)
    assert who != "this one" or own
    assert not rest


@pytest.mark.parametrize("change", [-20_001, -1, 7000, 50_000])
def test_a_file_that_changes_meanwhile(change: int, who: str, own: list[int], tmp_path: Path) -> None:
    """What has become of it when its end is reached counts; what was read before stays."""
    whole = capture(tmp_path, 6).read_bytes()
    size = len(whole) - 60_000
    (path := tmp_path / "y.pcap").write_bytes(whole[:size])
    expected = tmp_path / "z.pcap"
    expected.write_bytes(whole[:size + max(change, 0)])
    rows, blocks = [], iter(Ahead([str(path)]))
    rows += told([next(blocks), next(blocks)])
    with path.open("r+b") as file:
        file.truncate(size + min(change, 0))
        file.seek(0, os.SEEK_END)
        file.write(whole[size:size + max(change, 0)])
    rows += told(blocks)
    full = told(read_blocks([str(expected)]))
    for (*row, octets, header, ends), (*expected_row, whole_octets, whole_header, whole_ends) in zip(
            rows[1:-1], full[1:], strict=False):
        assert (row, header, ends) == (expected_row, whole_header, whole_ends)
        assert octets == whole_octets or (change < 0 and whole_octets.startswith(octets))  # gone when it is needed
    assert len(rows) == len(full) or change < 0
    assert rows[-1][0] == "pcap"


def test_much_that_looks_like_packets(who: str, own: list[int], monkeypatch: pytest.MonkeyPatch,
                                      tmp_path: Path) -> None:
    """Each of them is followed by others for long: to try them all would take minutes."""
    monkeypatch.setattr("dissector.reader.PIECE", 768 << 10)
    frames = list(files.frames(Wire(stream.colo(1))))
    large = [(time_, octets[:54] + struct.pack("<I", 8) * 150_000 + b"\xff" * 5000) for time_, octets in frames[:4]]
    (path := tmp_path / "x.pcap").write_bytes(files.pcap([*frames[:60], *large, *frames[60:]], snaplen=1 << 20))
    before = time.monotonic()
    the_same(path)
    assert time.monotonic() - before < 20


def test_more_jobs_than_there_is_room_for(who: str, own: list[int], monkeypatch: pytest.MonkeyPatch,
                                          tmp_path: Path) -> None:
    began = Jobs.__init__

    def small(self: Jobs, taken: int, put: int | None = None) -> None:
        began(self, taken, put)
        fcntl.fcntl(taken, fcntl.F_SETPIPE_SZ, 4096)

    monkeypatch.setattr(Jobs, "__init__", small)
    monkeypatch.setattr("dissector.reader.SPAN", 200)  # packets are longer
    path = capture(tmp_path)
    assert path.stat().st_size > 200 * 4096 / 16
    the_same(path)


def test_who_has_much_to_do_does_not_read(own: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However often it would wait for a moment."""
    monkeypatch.setattr(Helper, "waits", True)
    monkeypatch.setattr(Idle, "share", 0.01)
    the_same(capture(tmp_path))
    assert not own


def test_time_in_which_there_is_nothing_to_do() -> None:
    idle = Idle()
    time.sleep(0.05)
    assert idle.share == 0
    with idle:
        time.sleep(0.1)
    assert 0.2 < idle.share < 1
    before = idle.share
    time.sleep(0.05)
    assert 0 < idle.share < before


def _says_two_things(room: Room, names: Sequence[str]) -> None:
    room.slots(1, 1)
    for name, _ in zip(names, room, strict=False):
        room.send(name)


@pytest.mark.parametrize("started", [False, True], ids=["forked", "started"])
def test_whether_a_process_has_something_to_say(started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "_is_alone", lambda: not started)
    process = Helper(_says_two_things, ["one", "two"])

    def says(waits: bool) -> None:
        until = time.monotonic() + 20
        while process.waits != waits and time.monotonic() < until:
            time.sleep(0.01)
        assert process.waits == waits

    says(False)
    assert process.next() == "one"
    time.sleep(0.1)
    says(True)
    process.give_back(0)
    says(False)
    assert process.next() == "two"
    process.close()


def test_jobs_are_taken_once() -> None:
    taken, put = os.pipe()
    jobs = Jobs(taken, put)
    assert jobs.take() is None
    count = 0
    while jobs.put(count, 1 << 40):
        count += 1
    assert [jobs.take() for _ in range(count)] == [(i, 1 << 40) for i in range(count)]
    assert jobs.take() is None
    assert jobs.put(1, 2)
    os.close(put)
    assert jobs.take() == (1, 2)
    assert jobs.take() is None
    jobs.close()


def test_an_open_file_is_read_at_a_place_of_its_own(tmp_path: Path) -> None:
    from dissector.source import reopened

    (path := tmp_path / "x").write_bytes(bytes(range(200)))
    with path.open("rb", buffering=0) as file:
        file.seek(50)
        path.unlink()
        with reopened("x", file.fileno()) as source:
            assert source.size == 200
            assert source.peek(3) == b"\0\1\2"
            source.skip_to(100)
            assert source.peek(1) == b"\x64"
        assert file.tell() == 50
