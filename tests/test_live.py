# SPDX-License-Identifier: GPL-2.0-or-later
"""coloscope live: the same engine fed from a pipe, a child, a ring; what it says, and every way in which it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.export import SYNC_COLUMNS
from analysis.live.alerts import rule
from analysis.live.capture import Replay, files
from analysis.live.clock import Clock
from analysis.live.command import Command
from analysis.live.latencies import KEPT, Latencies
from analysis.live.session import FORGET, RETIRE, Session
from analysis.live.state import CHECKPOINT, FAILED_OVER, LOCKSTEP, SILENT
from dissector.errors import CannotDo
from dissector.headers import FIN, RST
from dissector.source import Source
from tests.helpers import COMMAND, PCAPS
from tests.synthesiser import files as capture_files
from tests.synthesiser import stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

SMALL = Guest(memory=4, batch=2)
SECOND = 1_000_000_000
Events = list[dict[str, Any]]

dumpcap = pytest.mark.skipif(not shutil.which("dumpcap"), reason="needs dumpcap")
root = pytest.mark.skipif(os.geteuid() != 0, reason="capturing needs root here")


def run(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, "live", *words], capture_output=True, input=stdin)


def events(output: bytes) -> Events:
    return [json.loads(line) for line in output.splitlines()]


def of(found: Events, name: str) -> Events:
    """Events of one name; sync-points with the ACKs that came later."""
    late = {(e["connection"], e["direction"], e["stream_offset"]): e["acked_ns"]
            for e in found if e["event"] == "acknowledged"}
    rows = [{k: v for k, v in e.items() if k not in ("event", "touched")} for e in found if e["event"] == name]
    for row in rows if name == "sync" else ():
        row["acked_ns"] = row["acked_ns"] or late.get((row["connection"], row["direction"], row["stream_offset"]))
    return rows


def table(path: Path, name: str) -> Events:
    """The rows of a table of the file analysis."""
    from analysis.output import number
    from analysis.tables import plain

    columns = plain(analysis.read(path).export(name))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    names = SYNC_COLUMNS if name == "syncs" else columns
    return [{column: number(column, row[column]) for column in names} for row in rows]


def listed(name: str, ring: Path) -> Events:
    """The rows of a list of what is in the files of a folder."""
    files = sorted(map(str, ring.iterdir()))
    return events(subprocess.run([*COMMAND, name, "--format", "jsonl", *files], capture_output=True).stdout)


def in_any_order(rows: Events) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


class Hands:
    """A session driven by hand, with a clock that stands still."""

    def __init__(self, *alerts: str) -> None:
        self.events: Events = []
        self.wall = SECOND
        self.session = Session(self.events.append, rules=[rule(text) for text in alerts],
                               clock=Clock(lambda: self.wall))

    def feed(self, path: Path) -> None:
        for block in Replay(str(path)):
            self.session.feed(block)

    def wait(self, ns: int) -> None:
        """So much time passes, and nothing comes."""
        self.wall += ns
        self.session.tick(self.session._clock.now)

    def names(self, event: str = "sync") -> list[str]:
        return [e["name"] for e in self.events if e["event"] == event]

    def alerts(self) -> Events:
        return [e for e in self.events if e["event"] == "alert"]


def upto(path: Path, wire: Wire, rows: np.ndarray) -> Path:
    return capture_files.write(path, wire.keep(rows))


# --- the same as of a file ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["colo-2ck-abort.A", "colo-hvm-dirty.A", "colo-hvm-dirty.B", "colo-hvm-fast.A",
                                  "plain-hvm-mtu.A", "remus-hvm.A", "remus-pv-netem-s128.A"])
def test_a_replay_says_what_the_file_says(name: str) -> None:
    path = PCAPS / f"{name}.pcap.zst"
    done = run("-r", "-", stdin=path.read_bytes())
    assert done.returncode == 0, done.stderr
    found = events(done.stdout)
    assert of(found, "sync") == table(path, "syncs")
    assert of(found, "pair") == table(path, "pairs")
    assert of(found, "checkpoint") == table(path, "checkpoints")
    assert in_any_order(of(found, "finding")) == in_any_order(table(path, "findings"))
    end = found[-1]
    assert (end["event"], end["syncs"], end["reason"]) == ("end", len(table(path, "syncs")), "the capture has ended")


@pytest.mark.parametrize(("name", "cut"), [("colo", 0.3), ("colo", 0.5), ("remus", 0.4)])
def test_a_late_start_says_what_the_file_says(tmp_path: Path, name: str, cut: float) -> None:
    wire = Wire(getattr(stream, name)(12, Guest(memory=8, batch=4)), mss=700)
    path = upto(tmp_path / "x.pcap", wire, wire.rows[int(len(wire.rows) * cut):])
    hands = Hands()
    hands.session.run(Replay(str(path)))
    assert of(hands.events, "checkpoint") == table(path, "checkpoints") != []
    assert of(hands.events, "sync") == table(path, "syncs")
    assert of(hands.events, "pair") == table(path, "pairs")


@pytest.mark.parametrize("seed", range(4))
def test_trouble_on_the_way_says_what_the_file_says(tmp_path: Path, seed: int) -> None:
    """Octets that are missing for ever: findings, doubts, places that are lost and found."""
    wire = Wire(stream.colo(12, Guest(memory=8, batch=4)), mss=700)
    chance = np.random.default_rng(seed)
    lost = chance.choice(wire.data_rows(), 5, replace=False)
    path = upto(tmp_path / "x.pcap", wire, np.delete(wire.rows, lost))
    hands = Hands()
    hands.session.run(Replay(str(path)))
    for event, name in (("sync", "syncs"), ("pair", "pairs"), ("checkpoint", "checkpoints")):
        assert of(hands.events, event) == table(path, name) != []
    assert in_any_order(of(hands.events, "finding")) == in_any_order(table(path, "findings")) != []


def test_several_connections_at_once(tmp_path: Path) -> None:
    wires = [Wire(stream.colo(5, SMALL), ends=(f"10.0.0.{i}", "10.0.1.1"), mss=900) for i in (1, 2, 3)]
    path = capture_files.write(tmp_path / "x.pcap", wires)
    hands = Hands()
    hands.session.run(Replay(str(path)))
    for event, name in (("sync", "syncs"), ("pair", "pairs"), ("checkpoint", "checkpoints")):
        assert in_any_order(of(hands.events, event)) == in_any_order(table(path, name)) != []


# --- at once ----------------------------------------------------------------------------------------


@contextmanager
def watched(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], Events]]:
    """`coloscope live` at work, and what it has said so far."""
    with subprocess.Popen([*COMMAND, "live", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        said: Events = []
        out = process.stdout

        def read() -> None:
            for line in os.fdopen(os.dup(out.fileno()), "rb"):
                said.append(json.loads(line))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield process, said
        finally:
            process.kill()
            thread.join()


def comes(condition: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def test_each_sync_point_is_told_when_its_packet_has_come() -> None:
    """Nothing that comes later is waited for."""
    path = PCAPS / "colo-hvm-fast.A.pcap.zst"
    wanted = table(path, "syncs")
    with Source(path) as source:
        octets = bytearray()
        buffer = memoryview(bytearray(1 << 20))
        while n := source.readinto(buffer):
            octets += buffer[:n]
    ends, at = [24], 24
    while at < len(octets):
        at += 16 + int.from_bytes(octets[at + 8:at + 12], "little")
        ends.append(at)
    with watched("-r", "-") as (process, said):
        assert process.stdin is not None
        begin = 0
        for i, row in enumerate(wanted[:40]):
            process.stdin.write(octets[begin:ends[row["frame"]]])
            begin = ends[row["frame"]]
            known = sum(other["frame"] <= row["frame"] for other in wanted)
            assert comes(lambda known=known: len(of(said, "sync")) == known), f"sync-point {i}"  # type: ignore[misc]


def test_watching_needs_neither_pandas_nor_numba() -> None:
    """Half a second on the way to the first event, which would be noticed."""
    code = ("import atexit, sys; from analysis.cli import main; atexit.register(lambda: print([m for m in ('numba', "
            "'pandas', 'plotly', 'textual', 'scapy') if m in sys.modules], file=sys.stderr)); main()")
    done = subprocess.run([sys.executable, "-c", code, "live", "-r", str(PCAPS / "colo-hvm-fast.A.pcap.zst")],
                          capture_output=True, text=True, check=True)
    assert '"event": "checkpoint"' in done.stdout
    assert done.stderr == "[]\n"


def test_half_a_packet_is_no_event_yet() -> None:
    path = PCAPS / "colo-2ck-abort.A.pcap.zst"
    with Source(path) as source:
        octets = source.peek(5000)
    with watched("-r", "-") as (process, said):
        assert process.stdin is not None
        process.stdin.write(octets[:24 + 16 + 3])
        assert not comes(lambda: bool(said), 1)


def test_a_hole_that_nobody_fills_does_not_hold_up_a_quiet_link(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, SMALL), mss=400, fin=False)
    forward = [i for i in wire.data_rows() if wire.rows["side"][i] == 0]
    back = [i for i in wire.data_rows() if wire.rows["side"][i] == 1]
    last = back[-1]
    lost = [i for i in forward if i < last][-1]
    path = upto(tmp_path / "x.pcap", wire, np.delete(wire.rows, lost))
    hands = Hands()
    hands.feed(path)
    hands.wait(SECOND)
    before = len(hands.names())
    hands.wait(4 * SECOND)
    hands.wait(SECOND)
    assert before < len(hands.names())
    live = of(hands.events, "sync")
    assert [(r["name"], r["status"]) for r in live] == [(r["name"], r["status"]) for r in table(path, "syncs")]


# --- a snapshot ---------------------------------------------------------------------------------------


def test_the_snapshot_tells_what_a_connection_does(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, SMALL), mss=400, fin=False)
    path = capture_files.write(tmp_path / "x.pcap", wire)
    syncs = table(path, "syncs")
    new = [r for r in syncs if r["name"] == "NEW"][-1]

    hands = Hands()
    hands.feed(upto(tmp_path / "a.pcap", wire, wire.rows[:new["frame"]]))
    (connection,) = hands.session.state().connections
    assert (connection.state, connection.checkpoint, connection.phase) == (CHECKPOINT, 3, "suspend")
    assert connection.since_ns == new["delivered_ns"]
    assert [c.number for c in connection.checkpoints] == [0, 1, 2]
    assert connection.checkpoints[1].total_ms == table(path, "checkpoints")[1]["new_to_svm_resumed_ms"]

    hands = Hands()
    hands.feed(path)
    assert [c.state for c in hands.session.state().connections] == [LOCKSTEP]
    hands.wait(11 * SECOND)
    assert [c.state for c in hands.session.state().connections] == [SILENT]


@pytest.mark.parametrize("flag", [FIN, RST])
def test_an_end_of_what_never_ends_is_a_failover(tmp_path: Path, flag: int) -> None:
    wire = Wire(stream.colo(2, SMALL), fin=False)
    rows = wire.rows.copy()
    hands = Hands("failover")
    hands.feed(upto(tmp_path / "x.pcap", wire, rows))
    assert not hands.alerts()
    rows["flags"][-1] |= flag
    hands = Hands("failover")
    hands.feed(upto(tmp_path / "y.pcap", wire, rows))
    assert [c.state for c in hands.session.state().connections] == [FAILED_OVER]
    (alert,) = hands.alerts()
    assert (alert["rule"], alert["running"]) == ("failover", False)


def test_a_plain_migration_that_ends_is_no_failover(tmp_path: Path) -> None:
    hands = Hands("failover")
    hands.feed(capture_files.write(tmp_path / "x.pcap", Wire(stream.plain(SMALL))))
    assert not hands.alerts()


# --- memory -----------------------------------------------------------------------------------------


def test_a_connection_that_is_over_is_told_to_its_end_and_forgotten(tmp_path: Path) -> None:
    path = capture_files.write(tmp_path / "x.pcap", Wire(stream.colo(2, SMALL)))
    hands = Hands()
    hands.feed(path)
    assert len(of(hands.events, "checkpoint")) == 2
    hands.wait(RETIRE + SECOND)
    assert of(hands.events, "checkpoint") == table(path, "checkpoints")
    assert not hands.session.engine.connections
    assert [c.state for c in hands.session.state().connections] == [FAILED_OVER]


def test_one_that_is_only_quiet_is_not(tmp_path: Path) -> None:
    path = capture_files.write(tmp_path / "x.pcap", Wire(stream.colo(2, SMALL), fin=False))
    hands = Hands()
    hands.feed(path)
    hands.wait(FORGET // 2)
    assert hands.session.engine.connections
    hands.wait(FORGET)
    assert not hands.session.engine.connections


def test_one_that_was_forgotten_is_a_late_start(tmp_path: Path) -> None:
    """Nothing counts any more of how it opened, and of what it was to bring next."""
    wire = Wire(stream.colo(6, Guest(memory=4, batch=400)), fin=False)
    for cut in range(0, len(wire.rows) * 4 // 5, len(wire.rows) // 5):
        hands = Hands()
        hands.feed(upto(tmp_path / "x.pcap", wire, wire.rows[:cut]))
        hands.wait(FORGET + SECOND)
        told = len(hands.names())
        hands.feed(upto(tmp_path / "x.pcap", wire, wire.rows[cut:]))
        hands.wait(2 * RETIRE)
        later = table(tmp_path / "x.pcap", "syncs")
        assert hands.names()[told:] == [row["name"] for row in later]
        assert len(later) > 3
        assert "hole" not in {finding["rule"] for finding in of(hands.events, "finding")}


def test_what_is_kept_does_not_grow_with_checkpoints(tmp_path: Path) -> None:
    kept = []
    for count in (10, 40):
        hands = Hands()
        hands.feed(capture_files.write(tmp_path / f"{count}.pcap", Wire(stream.colo(count, SMALL), fin=False)))
        (watch,) = hands.session._watches.values()
        kept.append((watch._count, len(watch._points), len(watch._pairs), len(hands.session._queue)))
    assert kept[0] == kept[1]


def test_percentiles_of_many_latencies() -> None:
    few, many = Latencies(), Latencies()
    for i in range(99):
        few.add(i, i)
    assert few.total().p99_ms is None
    assert few.window(50).count == 48
    for i in range(4 * KEPT):
        many.add(i, (i * 7919) % 1_000_000)
    total = many.total()
    assert (total.count, total.max_ms) == (4 * KEPT, pytest.approx(1, abs=1e-3))
    assert total.p50_ms == pytest.approx(0.5, abs=0.02)


def test_the_clock_goes_on_while_nothing_comes_and_outlives_a_damaged_stamp() -> None:
    wall = [0]
    clock = Clock(lambda: wall[0])
    assert clock.now == 0
    clock.note(100 * SECOND)
    wall[0] += SECOND
    assert clock.now == 101 * SECOND
    clock.note(100 * SECOND + 1)
    assert clock.now == 100 * SECOND + 1
    clock.note(95 * SECOND)
    assert clock.now == 100 * SECOND + 1, "packets of several queues come a little out of order"
    clock.note(10_000 * SECOND)
    clock.note(101 * SECOND)
    assert clock.now == 101 * SECOND


# --- alerts -----------------------------------------------------------------------------------------


def test_an_alert_goes_off_while_it_is_not_over(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, SMALL), fin=False)
    path = capture_files.write(tmp_path / "x.pcap", wire)
    new = [r for r in table(path, "syncs") if r["name"] == "NEW"][-1]
    hands = Hands("NEW->SVM_RESUMED > 500ms", "NEW -> SVM_SUSPENDED > 900 ms", "suspend > 700ms", "silent > 5s")
    hands.feed(upto(tmp_path / "a.pcap", wire, wire.rows[:new["frame"]]))
    hands.wait(SECOND // 2)
    assert not hands.alerts()
    hands.wait(1_000_000)
    (alert,) = hands.alerts()
    assert alert["rule"] == "NEW->SVM_RESUMED > 500ms"
    assert (alert["running"], alert["checkpoint"], alert["value_ms"]) == (True, 2, 501)
    hands.wait(SECOND // 2)
    assert {a["rule"] for a in hands.alerts()[1:]} == {"NEW -> SVM_SUSPENDED > 900 ms", "suspend > 700ms"}
    hands.wait(5 * SECOND)
    hands.wait(SECOND)
    assert [a["rule"] for a in hands.alerts()[3:]] == ["silent > 5s"]


def test_an_alert_about_what_is_over_says_how_long_it_took(tmp_path: Path) -> None:
    path = capture_files.write(tmp_path / "x.pcap", Wire(stream.colo(3, SMALL)))
    slow = [r for r in table(path, "pairs") if (r["from"], r["to"]) == ("NEW", "SVM_RESUMED")]
    hands = Hands("NEW->SVM_RESUMED > 0us", "NEW->SVM_RESUMED > 10 min")
    hands.session.run(Replay(str(path)))
    assert [(a["checkpoint"], a["value_ms"], a["running"]) for a in hands.alerts()] == [
        (r["checkpoint"], r["latency_ns"] / 1e6, False) for r in slow]


@pytest.mark.parametrize("text", ["", "NEW->READY > 5ms", "silent", "silent > 3 parsec", "failover > 3s", "5ms",
                                  "NEW->SVM_RESUMED < 5ms"])
def test_a_rule_that_says_nothing(text: str) -> None:
    with pytest.raises(CannotDo, match="alert"):
        rule(text)
    done = run("-r", "-", "--alert", text, stdin=b"")
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_gets_the_alert_and_no_shell(tmp_path: Path) -> None:
    script = tmp_path / "it's told.py"
    script.write_text("import json, os, sys\nalert = json.load(sys.stdin)\n"
                      "open(sys.argv[1], 'a').write(alert['text'] + os.environ['COLOSCOPE_RULE'] + sys.argv[2])\n")
    command = Command(f'{sys.executable} "{script}" {tmp_path}/out $(id)')
    alert = {"event": "alert", "rule": "r`id`", "text": "$(id)", "connection": 0, "checkpoint": None,
             "value_ms": 3.5, "running": True}
    for _ in range(3):
        command.run(alert)
    command.finish()
    assert (tmp_path / "out").read_text() == "$(id)r`id`$(id)"
    assert command.left_out == 2


@pytest.mark.parametrize("text", ["", "no-such-program-anywhere x", "'"])
def test_a_command_that_cannot_be_run(text: str) -> None:
    with pytest.raises(CannotDo, match="--exec"):
        Command(text)


# --- files that grow ---------------------------------------------------------------------------------


def test_a_ring_is_followed(tmp_path: Path) -> None:
    wire = Wire(stream.colo(6, SMALL), mss=900)
    whole = capture_files.write(tmp_path / "whole.pcap", wire)
    packets = list(capture_files.frames(wire))
    ring = tmp_path / "ring"
    ring.mkdir()
    parts = [packets[i:i + 40] for i in range(0, len(packets), 40)]
    octets = [capture_files.pcapng(part) for part in parts]
    with watched("-r", str(ring), "--follow") as (process, said):
        for i, part in enumerate(octets):
            with (ring / f"rec_{i + 1:05d}_20261123120000.pcapng").open("wb") as file:
                file.write(part[:len(part) // 2])
                file.flush()
                time.sleep(0.05)
                file.write(part[len(part) // 2:])
        assert comes(lambda: len(of(said, "sync")) == len(table(whole, "syncs")))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert comes(lambda: said[-1]["event"] == "end")
        for name in ("sync", "checkpoint"):
            assert of(said, name) == listed(f"{name}s", ring) != []
        assert not of(said, "finding")


def test_files_that_are_gone_are_told(tmp_path: Path) -> None:
    wire = Wire(stream.colo(6, SMALL), mss=900)
    packets = list(capture_files.frames(wire))
    for i in (1, 4):
        path = tmp_path / f"rec_{i:05d}_20261123120000.pcapng"
        path.write_bytes(capture_files.pcapng(packets[i * 30:i * 30 + 30]))
        os.utime(path, (i, i))
    (finding,) = [f for f in of(events(run("-r", str(tmp_path)).stdout), "finding") if f["rule"] == "missed_files"]
    assert "2 files" in finding["text"]


@pytest.mark.parametrize("text", ["10", "1x1GB", "10x0GB", "10x1", "tenx1GB"])
def test_a_ring_that_is_none(text: str) -> None:
    assert files("x", "10x2MB").kilobytes == 2000
    with pytest.raises(CannotDo, match="ring"):
        files("x", text)


# --- ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_was_known(which: signal.Signals) -> None:
    with Source(PCAPS / "colo-2ck-abort.A.pcap.zst") as source:
        octets = source.peek(40_000_000)
    with watched("-r", "-") as (process, said):
        assert process.stdin is not None
        process.stdin.write(octets)
        assert comes(lambda: bool(of(said, "connection")))
        process.send_signal(which)
        assert process.wait(30) == 0
        assert comes(lambda: said[-1]["event"] == "end")
        assert said[-1]["reason"] == "stopped"


@pytest.mark.parametrize(("stdin", "why"), [
    (b"", "the file is empty"), (b"no capture at all, but long enough", "not a capture"),
    (capture_files.pcap([]), "no TCP connection")])
def test_input_that_is_none(stdin: bytes, why: str) -> None:
    done = run("-r", "-", stdin=stdin)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert why in line
    assert events(done.stdout)[-1]["event"] == "end"


@pytest.mark.parametrize("words", [[], ["-i", "lo", "-r", "-"], ["-r", "-", "--filter", "tcp"],
                                   ["-i", "lo", "--follow"], ["-r", "/nonexistent"]])
def test_options_that_do_not_go_together(words: list[str]) -> None:
    done = run(*words, stdin=b"")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, b"", 1)


def test_a_full_disk_and_a_closed_pipe() -> None:
    octets = (PCAPS / "colo-2ck-abort.A.pcap.zst").read_bytes()
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "live", "-r", "-"], input=octets, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, b"coloscope: cannot write: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, "live", "-r", "-"], input=octets, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


# --- a real child ----------------------------------------------------------------------------------------


@dumpcap
@root
def test_interfaces() -> None:
    done = subprocess.run([*COMMAND, "interfaces", "--format", "json"], capture_output=True)
    found = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert found["lo"]["loopback"] is True
    assert found["any"]["loopback"] is False


@dumpcap
@root
@pytest.mark.parametrize(("end", "status", "reason"), [
    ("stop", 0, "stopped"), ("kill", 2, "lo: dumpcap was ended by SIGKILL")])
def test_capturing_on_loopback(end: str, status: int, reason: str) -> None:
    with watched("-i", "lo", "--filter", "tcp", "--snaplen", "200", "--buffer", "4") as (process, said):
        assert comes(lambda: bool(children(process.pid)))
        time.sleep(1)
        (child,) = children(process.pid)
        os.kill(process.pid if end == "stop" else child, signal.SIGTERM if end == "stop" else signal.SIGKILL)
        assert process.wait(30) == status
        assert comes(lambda: bool(said))
        assert said[-1]["event"] == "end"
        assert said[-1]["reason"] == reason
        assert not Path(f"/proc/{child}").exists()


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid), "dumpcap"], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


@dumpcap
@root
@pytest.mark.parametrize(("words", "why"), [
    (["-i", "nosuch0"], "no device"), (["-i", "lo", "--filter", "tcp prt 3"], "Invalid capture filter"),
    (["-i", "lo", "--write", "/nonexistent/x"], "no such folder")])
def test_a_capture_that_cannot_be_made(words: list[str], why: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert why in line


@dumpcap
@root
def test_rights_that_are_missing() -> None:
    # Rights are taken away, not the user changed: another user may have no way to this Python (/root/.pyenv).
    without = ["setpriv", "--bounding-set=-net_raw,-net_admin", "--inh-caps=-net_raw,-net_admin"]
    done = subprocess.run([*without, *COMMAND, "live", "-i", "lo"], capture_output=True)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "no right to capture" in line
    assert "setcap" in line
