# SPDX-License-Identifier: GPL-2.0-or-later
"""`coloscope live --write … --scrub`: what is recorded while it comes is what `coloscope scrub` makes of the file
afterwards, and nothing of the guest ever lies on the disk."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from analysis.live.clock import Clock
from analysis.live.session import RETIRE, Session
from dissector import recorder
from dissector.blocks import read_blocks
from dissector.packets import Packets
from dissector.protocol import BACK, CHECKPOINT_STATE, FORWARD, PAGE_DATA
from dissector.reader import Reader
from dissector.recorder import PATIENCE
from dissector.rewrite import FILL
from dissector.ring import RecordingError, RingWriter
from dissector.scrub import scrub
from dissector.source import Source
from tests.helpers import COMMAND, PCAPS, read
from tests.synthesiser import files, network, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import EPOCH, Wire, lose, repeat, shuffle
from tests.test_live import Events, comes, events, listed, of, run, table, watched
from tests.test_live_pair import _LACKING, ENVIRONMENT, PAIR, PORT, ROOT, _started, _until
from tests.test_scrub import leaked, secrets

SMALL = Guest(memory=6, holes=4)
SECOND = 1_000_000_000
Captured = tuple[int, int, int, bytes]


def packets_of(paths: list[Path]) -> list[Captured]:
    """(time, octets on the wire, link type, octets) of every packet."""
    return [(int(block.time[i]), int(block.wire[i]), int(block.link[i]), octets)
            for path in paths for block in blocks_of(path) for i, octets in enumerate(octets_of(block))]


def blocks_of(path: Path) -> Iterator[Packets]:
    with Source(path) as source:
        yield from Reader(source)


def octets_of(block: Packets) -> Iterator[bytes]:
    for at, size in zip(block.position.tolist(), block.captured.tolist(), strict=True):
        yield block.data[at:at + size].tobytes()


def ring_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("ring_*.pcapng"))


def scrubbed(path: Path) -> list[Captured]:
    """What the file scrub makes of a capture."""
    out = path.with_name("scrubbed.pcapng")
    scrub(str(path), str(out))
    return packets_of([out])


class Pieces(io.RawIOBase):
    """A file that comes in pieces of so many octets."""

    def __init__(self, path: Path, size: int) -> None:
        self._octets, self._size = io.BytesIO(path.read_bytes()), size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._octets.readinto(memoryview(buffer)[:self._size])


class Recording:
    """A session that records, driven by hand, with a clock that stands still."""

    def __init__(self, folder: Path, octets: int = 1 << 30) -> None:
        self.folder, self.wall = folder, SECOND
        self.events: list[dict[str, Any]] = []
        self.session = Session(self.events.append, clock=Clock(lambda: self.wall),
                               ring=RingWriter(str(folder / "ring"), 1000, octets))

    def feed(self, path: Path, size: int = 1 << 30) -> None:
        for block in read_blocks([Source("x", raw=Pieces(path, size))]):
            self.session.feed(block)
            self.wait(0)

    def wait(self, ns: int) -> None:
        self.wall += ns
        self.session.tick(self.session._clock.now)

    @property
    def written(self) -> list[Captured]:
        return packets_of(ring_of(self.folder))

    def finish(self) -> list[Captured]:
        self.session.finish("enough")
        return self.written


def nowhere(rows: Events) -> Events:
    """Rows that do not say where anything is: every file counts its own frames."""
    return [{name: row[name] for name in row if not name.endswith(("file", "frame"))} for row in rows]


# --- the same as of the file -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["colo-2ck-abort.A", "colo-hvm-fast.A", "remus-pv-netem-s128.A"])
def test_a_recording_is_what_scrub_makes_of_the_file(name: str, tmp_path: Path) -> None:
    path = PCAPS / f"{name}.pcap.zst"
    done = run("-r", "-", "--write", str(tmp_path / "ring"), "--ring", "100x1MB", "--scrub", stdin=path.read_bytes())
    assert done.returncode == 0, done.stderr
    scrub(str(path), str(tmp_path / "scrubbed.pcapng"))
    assert packets_of(ring_of(tmp_path)) == packets_of([tmp_path / "scrubbed.pcapng"])
    assert len(ring_of(tmp_path)) > 10
    found = events(done.stdout)
    assert of(found, "sync") == table(path, "syncs")
    replayed = events(run("-r", str(tmp_path)).stdout)  # the folder with the ring
    assert nowhere(of(replayed, "sync")) == nowhere(of(found, "sync"))
    assert nowhere(of(replayed, "checkpoint")) == nowhere(of(found, "checkpoint"))


@pytest.mark.parametrize("pieces", [37, 1500, 1 << 20])
@pytest.mark.parametrize("kind", ["colo", "remus", "plain", "late"])
def test_however_it_comes(kind: str, pieces: int, tmp_path: Path) -> None:
    messages = list(stream.plain(SMALL) if kind == "plain" else
                    stream.remus(4, SMALL) if kind == "remus" else stream.colo(6, SMALL))
    wire = Wire(messages, mss=700, isn=(2**32 - 9000, 2**32 - 300))
    if kind == "late":
        wire = wire.keep(wire.rows[len(wire.rows) // 2:])
    path = files.write(tmp_path / "in.pcap", wire)
    recording = Recording(tmp_path)
    recording.feed(path, pieces)
    assert recording.finish() == scrubbed(path) != []
    assert leaked(path, secrets(messages)) > 300
    assert sum(leaked(written, secrets(messages)) for written in ring_of(tmp_path)) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("snaplen", [1 << 18, 120])
def test_damaged_captures(seed: int, snaplen: int, tmp_path: Path) -> None:
    """Lost, late, repeated with other boundaries, cut by the snap length."""
    rng = np.random.default_rng(seed)
    messages = list(stream.colo(4, SMALL))
    wire = Wire(messages, mss=700, handshake=bool(seed % 2) or snaplen == 120)
    wire = shuffle(repeat(lose(wire, rng, 0.05, again=bool(seed // 2)), rng, 0.3), rng)
    path = tmp_path / "in.pcap"
    path.write_bytes(files.pcap(list(files.frames(wire)), snaplen=snaplen))
    recording = Recording(tmp_path)
    recording.feed(path, 1500)
    assert recording.finish() == scrubbed(path)
    assert sum(leaked(written, secrets(messages)) for written in ring_of(tmp_path)) == 0


def others(hidden: bytes) -> list[tuple[int, bytes]]:
    """What else is on a link: a connection that says at once that it is none of ours, and no TCP."""
    foreign = Wire([Message(FORWARD, PAGE_DATA, hidden)], ports=(5, 22), start=EPOCH + 700_000)
    return [*files.frames(foreign),
            (EPOCH + 900_000, bytes(Ether() / IP(dst="10.0.0.9") / UDP(dport=9) / Raw(hidden)))]


@pytest.mark.parametrize("pieces", [37, 1 << 20])
def test_several_connections_and_others(pieces: int, tmp_path: Path) -> None:
    """A second pair, a third on the ports of the first when that has ended."""
    wires = [Wire(stream.colo(3, SMALL), mss=900), Wire(stream.colo(2, SMALL), mss=500, ports=(40_001, 7002))]
    behind = int(max(wire.rows["time"][-1] for wire in wires)) + SECOND
    wires.append(Wire(stream.remus(3, SMALL), isn=(5, 6), start=behind))
    hidden = np.random.default_rng(1).bytes(400)
    path = tmp_path / "in.pcap"
    path.write_bytes(files.pcap(sorted([*files.merged(wires), *others(hidden)], key=lambda packet: packet[0])))
    recording = Recording(tmp_path)
    recording.feed(path, pieces)
    assert recording.finish() == scrubbed(path)
    assert len(recording.written) == sum(len(wire.rows) for wire in wires)
    hides = [hidden, *(octets for wire in wires for octets in secrets(wire.messages))]
    assert sum(leaked(written, hides) for written in ring_of(tmp_path)) == 0


def test_a_connection_that_is_forgotten_and_speaks_again(tmp_path: Path) -> None:
    """It is a late start then; what was held of it before belongs to the first time."""
    wire = Wire(stream.colo(8, SMALL), mss=700, handshake=False, fin=False)
    half = len(wire.rows) // 2
    wire.rows["time"][half:] += 2 * 3600 * SECOND
    messages = wire.messages
    one = files.write(tmp_path / "a.pcap", wire.keep(wire.rows[:half]))
    two = files.write(tmp_path / "b.pcap", wire.keep(wire.rows[half:]))
    recording = Recording(tmp_path)
    recording.feed(one)
    recording.wait(3700 * SECOND)
    assert not recording.session.engine.connections
    recording.feed(two)
    now = recording.finish()
    assert len(now) == len(wire.rows)
    assert now[:half] == scrubbed(one)
    assert now[half:] == scrubbed(two)
    assert leaked(two, secrets(messages)) > 300
    assert leaked(ring_of(tmp_path)[0], secrets(messages)) == 0


# --- what waits, and for how long ---------------------------------------------------------------------


def test_hardly_anything_waits(tmp_path: Path) -> None:
    """What a record is, is known when its head is there, not only when it has come to its end."""
    wire = Wire(stream.colo(2, Guest(memory=64, batch=64)), mss=1448)
    at = next(i for i in range(len(wire.rows)) if wire.rows["offset"][i] > 100_000)  # inside pages
    path = files.write(tmp_path / "in.pcap", wire.keep(wire.rows[:at]))
    recording = Recording(tmp_path)
    recording.feed(path)
    assert len(recording.written) == at
    assert len(recording.finish()) == at


def test_a_place_that_is_lost_is_not_waited_for(tmp_path: Path) -> None:
    """A late start, proven by what the other side answers; what was read is all that is ever understood."""
    rng, messages = np.random.default_rng(3), list(stream.colo(3, SMALL))
    new, suspended = (next(m for m in messages if m.structure is CHECKPOINT_STATE and m.direction == direction
                           and m.octets[8] == number) for direction, number in ((FORWARD, 0), (BACK, 1)))
    noise = [Message(direction, PAGE_DATA, rng.bytes(size), delay=5 * SECOND)
             for direction, size in ((BACK, 300), (FORWARD, 3_000), (FORWARD, 200_000))]
    wire = Wire([noise[0], new, noise[1], suspended, noise[2]], handshake=False, fin=False)
    path = files.write(tmp_path / "in.pcap", wire)
    recording = Recording(tmp_path)
    recording.feed(path, 1500)
    assert len(recording.session.engine.ours()) == 1
    assert len(wire.rows) - 5 < len(recording.written) <= len(wire.rows)
    assert recording.finish() == scrubbed(path)
    assert leaked(ring_of(tmp_path)[0], [message.octets for message in noise]) == 0


@pytest.mark.parametrize("pieces", [37, 1 << 20])
def test_a_handshake_that_comes_late(pieces: int, tmp_path: Path) -> None:
    """It moves the offsets of what came before."""
    wire = Wire(stream.colo(2, SMALL), mss=700)
    late = wire.keep(wire.rows[[3, 5, 7, 0, 1, 2, 4, 6, *range(8, len(wire.rows))]])
    path = files.write(tmp_path / "in.pcap", late)
    recording = Recording(tmp_path)
    recording.feed(path, pieces)
    assert recording.finish() == scrubbed(path)
    assert any(b"LibxlFmt" in octets for *_, octets in recording.written)


def test_half_a_head_waits_for_the_other_half(tmp_path: Path) -> None:
    messages = list(stream.colo(2, SMALL))
    wire = Wire(messages, mss=1000, fin=False)
    ends = {offset + length for _, offset, _, length in wire.expected()}
    data = [i for i in wire.data_rows() if wire.rows["side"][i] == 0 and wire.rows["length"][i] == 1000]
    cut = next(i for i in data[5:] if wire.rows["offset"][i] in ends)  # it begins a record
    rows = wire.rows[:cut + 1].copy()
    rows["length"][cut] = 7
    path = files.write(tmp_path / "in.pcap", wire.keep(rows))
    recording = Recording(tmp_path)
    recording.feed(path, 1000)
    recording.wait(3600 // 2 * SECOND)
    assert len(recording.written) < len(rows)
    assert recording.finish() == scrubbed(path)
    assert len(recording.written) == len(rows)


def test_a_connection_that_does_not_tell_is_not_waited_for(tmp_path: Path) -> None:
    """One that was opened and is silent, and one of which the beginning is not there: their packets are written
    after a while, with nothing in them."""
    hidden = np.random.default_rng(2).bytes(300)
    foreign = Wire([Message(FORWARD, PAGE_DATA, hidden)], ports=(5, 22), handshake=False, fin=False)
    silent = Wire([], ports=(6, 22), fin=False)
    ours = Wire(stream.colo(2, SMALL), mss=700, fin=False, start=EPOCH + SECOND)
    path = files.write(tmp_path / "in.pcap", [foreign, silent, ours])
    recording = Recording(tmp_path)
    recording.feed(path)
    assert not recording.written
    recording.wait(PATIENCE)
    written = recording.written
    assert len(written) == sum(len(wire.rows) for wire in (foreign, silent, ours))
    assert written[-len(ours.rows):] == scrubbed(path)[-len(ours.rows):]
    assert [octets[-300:] for *_, octets in written if octets.endswith(bytes([FILL] * 300))] == [bytes([FILL] * 300)]
    assert leaked(ring_of(tmp_path)[0], [hidden, *secrets(ours.messages)]) == 0
    assert recording.finish() == written


def test_a_connection_that_has_not_told_in_the_end(tmp_path: Path) -> None:
    """Is none of ours."""
    foreign = Wire([Message(FORWARD, PAGE_DATA, b"I am no stream of theirs at all")] * 3, ports=(5, 22),
                   handshake=False, fin=False)
    ours = Wire(stream.colo(2, SMALL), mss=700, fin=False)
    path = files.write(tmp_path / "in.pcap", [foreign, ours])
    recording = Recording(tmp_path)
    recording.feed(path)
    assert not recording.written
    assert recording.finish() == scrubbed(path)
    assert len(recording.written) == len(ours.rows)


def test_too_much_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record whose head has not come: behind the bound the oldest packets go, filled, and what comes then is
    read as before."""
    messages = list(stream.colo(8, SMALL))
    wire = Wire(messages, mss=700, fin=False)
    back = [i for i in wire.data_rows() if wire.rows["side"][i] == 1]
    rows = wire.rows.copy()
    rows["length"][back[4]] -= 3  # and nothing acknowledges the rest
    at = back[4] + 1
    rows["ack"][at:][rows["side"][at:] == 0] = np.minimum(rows["ack"][at:][rows["side"][at:] == 0],
                                                         rows["offset"][back[4]] + rows["length"][back[4]])
    rows = np.delete(rows, [i for i in back if i >= at])
    path = files.write(tmp_path / "in.pcap", wire.keep(rows))
    monkeypatch.setattr(recorder, "HELD_MAX", 64 << 10)
    recording = Recording(tmp_path)
    recording.feed(path, 1500)
    held = recording.session._recorder
    assert held
    assert held._octets <= 64 << 10
    now, whole = recording.finish(), scrubbed(path)
    assert len(now) == len(whole)
    (other,) = [i for i, (one, two) in enumerate(zip(now, whole, strict=True)) if one != two]
    assert now[other][3].endswith(bytes([FILL]) * int(rows["length"][back[4]]))
    assert leaked(ring_of(tmp_path)[0], secrets(messages)) == 0


def test_what_is_kept_does_not_grow(tmp_path: Path) -> None:
    kept = []
    for count in (20, 80):
        folder = tmp_path / str(count)
        folder.mkdir()
        recording = Recording(folder)
        recording.feed(files.write(folder / "in.pcap", Wire(stream.colo(count, SMALL), mss=700)), 5000)
        own = recording.session._recorder
        assert own
        assert not own._held
        (followed,) = own._rewriter.followed.values()
        kept.append(sum(map(len, followed.allowed)) < 600)
        recording.wait(RETIRE + SECOND)
        assert not own._rewriter.followed
    assert kept == [True, True]


# --- the ring -----------------------------------------------------------------------------------------


def test_a_ring_goes_round(tmp_path: Path) -> None:
    source = files.write(tmp_path / "in.pcap", Wire(stream.colo(8, SMALL), mss=900))
    done = run("-r", str(source), "--write", str(tmp_path / "ring"), "--ring", "3x20kB", "--scrub")
    assert done.returncode == 0, done.stderr
    ring = ring_of(tmp_path)
    numbers = [int(match[1]) for path in ring if (match := re.fullmatch(r"ring_(\d{5})_\d{14}\.pcapng", path.name))]
    assert numbers[0] > 1
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    assert {path.stat().st_mode & 0o777 for path in ring} == {0o600}
    assert all(20_000 <= path.stat().st_size < 22_000 for path in ring[:-1])
    kept = packets_of(ring)  # each is complete by itself
    assert kept == scrubbed(source)[-len(kept):]
    listed = subprocess.run([*COMMAND, "latency", *map(str, ring)], capture_output=True)
    assert (listed.returncode, listed.stderr) == (0, b"")


def test_drops_are_told_once(tmp_path: Path) -> None:
    source = tmp_path / "in.pcapng"
    source.write_bytes(files.pcapng(list(files.frames(Wire(stream.colo(8, SMALL), mss=900))), dropped=5))
    done = run("-r", str(source), "--write", str(tmp_path / "ring"), "--ring", "100x20kB", "--scrub")
    assert done.returncode == 0, done.stderr
    assert len(ring_of(tmp_path)) > 3
    assert sum(read(path).engine.files[0].drops or 0 for path in ring_of(tmp_path)) == 5
    source.write_bytes(files.pcapng(list(files.frames(Wire(stream.colo(1, SMALL))))))
    done = run("-r", str(source), "--write", str(tmp_path / "none"), "--scrub")
    (path,) = tmp_path.glob("none_*")
    assert read(path).engine.files[0].drops is None, "nobody said anything of drops"


def test_a_ring_is_followed_while_it_is_written(tmp_path: Path) -> None:
    path = PCAPS / "colo-2ck-abort.A.pcap.zst"
    known = table(path, "syncs")
    (tmp_path / "ring").mkdir()
    with (watched("-r", "-", "--write", str(tmp_path / "ring" / "x"), "--ring", "100x1MB", "--scrub") as (live, _),
          watched("-r", str(tmp_path / "ring"), "--follow") as (follower, heard)):
        assert live.stdin
        live.stdin.write(path.read_bytes())
        live.stdin.close()
        assert live.wait(30) == 0
        assert comes(lambda: len(of(heard, "sync")) == len(known))
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(30) == 0
    assert of(heard, "sync") == listed("syncs", tmp_path / "ring")
    assert [point["delivered_ns"] for point in of(heard, "sync")] == [point["delivered_ns"] for point in known]


def test_captures_of_several_links_are_sections(tmp_path: Path) -> None:
    """The files of a ring that is read need not describe the same interfaces."""
    (tmp_path / "in").mkdir()
    for i, link in enumerate(("ethernet", "raw", "sll")):
        wire = Wire(stream.colo(2, SMALL), ports=(40_000 + i, 7002), start=EPOCH + i * SECOND)
        files.write(tmp_path / "in" / f"{i}.pcapng", wire, link)
    done = run("-r", str(tmp_path / "in"), "--write", str(tmp_path / "ring"), "--scrub")
    assert done.returncode == 0, done.stderr
    wanted = [packet for i in range(3) for packet in scrubbed(tmp_path / "in" / f"{i}.pcapng")]
    assert packets_of(ring_of(tmp_path)) == wanted


# --- ends ---------------------------------------------------------------------------------------------


def test_a_signal_in_the_midst_writes_what_was_held(tmp_path: Path) -> None:
    wire = Wire(stream.colo(4, SMALL), mss=700)
    silent = Wire([], ports=(6, 22), fin=False)
    path = files.write(tmp_path / "in.pcap", [silent, wire.keep(wire.rows[:len(wire.rows) // 2])])
    with watched("-r", "-", "--write", str(tmp_path / "ring"), "--scrub") as (process, said):
        assert process.stdin is not None
        process.stdin.write(path.read_bytes())
        known = len(table(path, "syncs"))
        assert comes(lambda: len(of(said, "sync")) == known)
        assert not packets_of(ring_of(tmp_path)), "a connection has not told what it is"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert packets_of(ring_of(tmp_path)) == scrubbed(path)


def test_a_full_disk(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    words = [*COMMAND, "live", "-r", "-", "--write", str(tmp_path / "ring"), "--scrub"]
    octets = (PCAPS / "colo-2ck-abort.A.pcap.zst").read_bytes()
    done = subprocess.run(words, input=octets, capture_output=True, preexec_fn=small_files)
    assert done.returncode == 2
    assert re.fullmatch(rb"coloscope: \S+/ring_00001_\d{14}\.pcapng: File too large\n", done.stderr)
    end = events(done.stdout)[-1]
    assert end["event"] == "end"
    assert end["reason"].endswith("File too large")


def test_what_cannot_be_written_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(tmp_path)
    recording.feed(files.write(tmp_path / "in.pcap", Wire(stream.colo(1, SMALL))))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dissector.sink.Sink.finish", full)
    with pytest.raises(RecordingError, match=r"ring_00001.*No space left on device"):
        recording.session.finish("enough")
    assert recording.events[-1]["event"] == "end"
    assert "No space left" in recording.events[-1]["reason"]


@pytest.mark.parametrize(("words", "why"), [
    (["-r", "-", "--scrub"], "--write"), (["-i", "lo", "--scrub"], "--write"),
    (["-r", "-", "--write", "x"], "--write without --scrub"),
    (["-r", "-", "--write", "/nonexistent/x", "--scrub"], "no such folder"),
    (["-r", "-", "--write", "/proc/x", "--scrub"], "/proc/x_00001_"),
    (["-r", "-", "--write", "x", "--ring", "1x1GB", "--scrub"], "two files or more"),
    (["-r", ".", "--write", "./x", "--scrub"], "another folder")])
def test_options_that_do_not_go_together(words: list[str], why: str, tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "live", *words], capture_output=True, input=b"", cwd=tmp_path, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert why in line
    assert not list(tmp_path.iterdir())


# --- a real link ----------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(_LACKING), reason=_LACKING)
def test_a_real_link(tmp_path: Path) -> None:
    """Recorded through a dumpcap's pipe without secrets, and by another dumpcap as it is."""
    raw, port = tmp_path / "raw.pcapng", f"tcp port {PORT}"
    with (network.joined() as (one, other),
          _started(one.command("dumpcap", "-q", "-i", network.INTERFACE, "-f", port, "-w", str(raw))) as dumpcap,
          _started(one.command(*COMMAND, "live", "-i", network.INTERFACE, "--format", "jsonl", "--filter", port,
                               "--write", str(tmp_path / "ring"), "--scrub")) as live):
        try:
            _until(lambda: len(sockets(one)) == 2)
            with _started(other.command(*PAIR, "secondary", "--listen", f"{other.address}:{PORT}", "--memory", "2",
                                        "--list", "8")) as back:
                assert back.stdout
                back.stdout.readline()
                with _started(one.command(*PAIR, "primary", "--connect", f"{other.address}:{PORT}", "--memory", "2",
                                          "--checkpoints", "6", "--interval", "0.05")) as forward:
                    assert forward.wait(timeout=60) == 0
            time.sleep(1)  # dumpcap has its packets a moment later
        finally:
            live.send_signal(signal.SIGINT)
            dumpcap.send_signal(signal.SIGINT)
        text, errors = live.communicate(timeout=60)
        assert live.returncode == 0, errors
        dumpcap.communicate(timeout=60)
    done = scrub(str(raw), str(tmp_path / "scrubbed.pcapng"))
    assert done.removed["memory"] > 1 << 20
    assert [packet[1:] for packet in packets_of(ring_of(tmp_path))] == [
        packet[1:] for packet in packets_of([tmp_path / "scrubbed.pcapng"])]
    listed = subprocess.run([*COMMAND, "syncs", "--format", "jsonl", *map(str, ring_of(tmp_path))], cwd=ROOT,
                            env=ENVIRONMENT, check=True, capture_output=True)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    said = [{name: event[name] for name in rows[0]} for event in of([json.loads(line) for line in text.splitlines()],
                                                                    "sync")]
    assert len(rows) == 26
    assert said == rows


def sockets(host: network.Host) -> list[str]:
    """Those that capture there."""
    done = subprocess.run(host.command("cat", "/proc/net/packet"), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[1:]


