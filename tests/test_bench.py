# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark measures is right: its captures, small, and what it makes of times."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.captures import CAPTURES, Parts
from benchmarks.results import Measured, Results
from benchmarks.run import RunError, Usage, run
from tests.helpers import read
from tests.synthesiser import files, large, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

TINY = Guest(memory=5, batch=2, dirty=4, emulator=40, page=stream.memory(4))
COPIES = 3


def whole(parts: Parts) -> list[Wire]:
    """The same connections as one wire each, made the slow way."""
    wires = [wire.keep(wire.rows[:0]) for wire in parts.opening or parts.period]
    for wire in wires:
        wire.streams, wire.messages = dict.fromkeys(wire.streams, b""), []
    time = 0
    for part in [parts.opening, *[parts.period] * COPIES, parts.end]:
        if not part:
            continue
        begin, end = (pick(pick(wire.rows["time"]) for wire in part) for pick in (min, max))
        time = time or begin
        for wire, more in zip(wires, part, strict=True):
            done = np.array([len(octets) for octets in wire.streams.values()])
            rows = more.rows.copy()
            rows["time"] += time - begin
            rows["offset"] += done[rows["side"]]
            rows["ack"] += done[1 - rows["side"]]
            wire.rows = np.concatenate((wire.rows, rows))
            wire.messages = wire.messages + more.messages
            wire.streams = {d: octets + more.streams[d] for d, octets in wire.streams.items()}
        time += end - begin + large.PAUSE
    return wires


def size(parts: Parts, link: str, ng: bool) -> int:
    return sum(large.Period(wires, link, ng).size * copies
               for wires, copies in zip(parts, (1, COPIES, 1), strict=True))


def octets(path: Path) -> bytes:
    with files.opened(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("name", CAPTURES)
def test_captures_of_the_benchmark(name: str, tmp_path: Path) -> None:
    """They are, octet for octet, what is written the slow way, and are read as what was put in."""
    capture = CAPTURES[name]
    parts = capture.parts(TINY)
    wires = whole(parts)
    path = tmp_path / f"fast{capture.ending}"
    contents = capture.write(path, size(parts, capture.link, ".pcapng" in path.name), TINY)
    assert contents["copies"] == COPIES
    slow = files.write(tmp_path / f"slow{capture.ending}", wires, capture.link)
    assert octets(path) == octets(slow)

    result = read(path)
    assert sum(file.packets for file in result.engine.files) == contents["packets"]
    if not capture.ours:
        assert not result.records
        assert contents["records"] == contents["syncs"] == 0
        return
    if name == "holes":
        assert "hole" in result.rules()
        assert len(result.records) <= contents["records"]
        assert {(r.direction, r.stream_offset, r.full_name, r.length) for r in result.records
                if r.status == "complete"} < set(wires[0].expected())
        return
    assert not result.rules() & {"hole", "lost_place", "lost_in_hole"}
    assert [result.framed(number) for number in range(len(wires))] == [wire.expected() for wire in wires]
    assert {record.status for record in result.records} == {"complete"}
    assert {sync.status for sync in result.syncs} <= {"ok"}
    assert (len(result.records), len(result.syncs)) == (contents["records"], contents["syncs"])


def test_sequence_numbers_of_large_captures_wrap(tmp_path: Path) -> None:
    isn = (2**32 - 60_000, 2**32 - 1000)
    parts = Parts([Wire(stream.colo(0, TINY), fin=False, isn=isn)],
                  [Wire(stream.checkpoint(TINY), handshake=False, fin=False, isn=isn)])
    large.write(tmp_path / "wrap.pcap", *parts[:2], size(parts, "ethernet", False))
    (wire,) = whole(parts)
    assert len(wire.streams["forward"]) > 60_000
    assert read(tmp_path / "wrap.pcap").framed() == wire.expected()


def test_programs_that_fail_or_are_missing() -> None:
    assert run([sys.executable, "-c", "raise SystemExit(2)"], statuses=(0, 2)).peak > 0
    with pytest.raises(RunError, match="exit status 2: no such file"):
        run([sys.executable, "-c", "import sys; print('no such file', file=sys.stderr); sys.exit(2)"])
    with pytest.raises(RunError, match="no-such-program was not found"):
        run(["no-such-program"])


def test_ratios_are_those_of_each_round() -> None:
    """What slows all programs down for a while moves none of them."""
    ours, other = (Usage(each[1], each[1], 1, each) for each in ((1.0, 2.0, 3.0), (2.0, 4.0, 3.0)))
    assert (ours.ratio(other), other.ratio(ours), ours.ratio(ours)) == (0.5, 2, 1)
    with pytest.raises(ValueError, match="zip"):
        ours.ratio(Usage(1, 1, 1, (1.0,)))


def results(*seconds: float) -> Results:
    """Of captures of 0.4, 1.7 and 7 GB that took so long; tcpdump took 2 s for each."""
    found = Results({name: Usage(0.2, 0.2, 50_000_000) for name in ("--help", "--version")})
    for gigabytes, time in zip((1.7, 0.4, 7), seconds, strict=True):
        size = round(gigabytes * 1e9)
        found.rows.append(Measured("colo", "", size, 1, size // 1_000_000, 1, Usage(time, time, size // 50),
                                   "tcpdump", 0, None, {"tcpdump": Usage(2, 2, 1)}))
    return found


def test_cost_that_is_linear_and_cost_that_is_not() -> None:
    line = results(1.35, 0.7, 4).line()
    assert line is not None
    assert np.allclose(line, (0.5, 0.5, 0))
    bent = results(1.35, 0.7, 40).line()
    assert bent is not None
    assert bent.deviation > 0.1
    assert results(1.35, 0.7, 4).octets_per_record() == 20_000


def test_a_machine_that_becomes_slower_does_not_bend_the_line() -> None:
    """Sizes are compared by their ratio to the base, which is as slow in the same rounds."""
    steady, slower = results(1.35, 0.7, 4), results(1.35, 1.4, 8)
    assert slower.line() != steady.line()
    slower.rows[1:] = [replace(row, base=Usage(2.7, 2.7, 1)) for row in slower.rows[1:]]
    assert np.allclose(slower.line(), steady.line())


def test_targets_that_are_met_and_those_that_are_not() -> None:
    met = {target.text: target.met for target in results(1.35, 0.7, 4).targets()}
    assert met["tcpdump -w /dev/null, 1.7 GB"] is True
    assert met["tcpdump -w /dev/null, 7 GB"] is False
    assert met["loss against colo"] is None
    assert met["coloscope --help"] is False
