# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal view, driven through Textual's pilot, with snapshots made by hand."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from analysis.live import state
from analysis.live.chart import STEPS, chart, legend
from analysis.live.state import (
    AlertState,
    CheckpointState,
    ConnectionState,
    FindingState,
    PairState,
    Percentiles,
    SessionState,
)
from analysis.live.view import View, doing, summary
from tests.helpers import PCAPS, imported_without

NOW = 1_795_395_700_000_000_000
MS = 1_000_000


def checkpoints(count: int, seed: int = 2) -> tuple[CheckpointState, ...]:
    """Of plausible lengths; one that lost packets touch, one without a length."""
    rng = random.Random(seed)
    ranges = ((20, 90), (1, 15), (1, 9), (10, 120), (0, 0.1), (20, 40), (40, 100), (0, 60))
    found = []
    for number in range(1, count + 1):
        phases = {phase: rng.uniform(*bounds) for phase, bounds in zip(STEPS, ranges, strict=True)}
        total = None if number == count // 2 else sum(phases.values())
        found.append(CheckpointState(number, total, {**phases, "lockstep": 200.0}, 63, 400_000,
                                     total is not None, number == count // 3))
    return tuple(found)


def connection(number: int = 0, count: int = 110) -> ConnectionState:
    pairs = tuple(
        PairState(name, to, phase, Percentiles(40, value, value * 1.4, None, value * 1.5),
                  Percentiles(count, value, value * 1.5, value * 2, value * 3))
        for name, to, phase, value in (
            ("NEW", "SVM_SUSPENDED", "checkpoint", 129.35), ("SVM_SUSPENDED", "SVM_READY", "checkpoint", 203.09),
            ("SVM_READY", "SVM_RESUMED", "checkpoint", 64.84), ("SVM_READY", "SVM_RESUMED", "first_boot", 47.79),
            ("SVM_RESUMED", "NEW", "checkpoint", 151.5), ("NEW", "SVM_RESUMED", "checkpoint", 474.2),
            ("NEW", "NEW", "checkpoint", 625.5)))
    return ConnectionState(
        number, f"10.0.0.1:{40_000 + number}", "10.0.0.2:7002", "colo", state.CHECKPOINT, 123, "memory",
        NOW - 45 * MS, checkpoints(count), pairs, 91_234_567, 1_234_567.0, 15_000, 63.4, 0)


FULL = SessionState(
    NOW, "veth0", 81_234, 1_300_000.0, 0, 0, (connection(),),
    (FindingState("shifted_dirty_list", "warning", 0, "Xen 4.18 or later writes 8 octets too many in front of the "
                  "dirty PFNs; the reader takes them for PFN 0 and the last PFN for the next record"),),
    (AlertState(NOW - 3000 * MS, "NEW->SVM_RESUMED > 500ms", 0, 122, 500.0, True,
                "connection 0, checkpoint 122: NEW 0.5 s ago, no SVM_RESUMED yet"),))


def drawn(snapshot: SessionState, size: tuple[int, int] = (80, 24), *keys: str) -> list[str]:
    """The lines on the screen."""
    async def run() -> list[str]:
        view = View(lambda: snapshot)
        async with view.run_test(size=size) as pilot:
            await pilot.pause()
            await pilot.press(*keys)
            await pilot.pause()
            return ["".join(segment.text for segment in strip) for strip in view.screen._compositor.render_strips()]
    return asyncio.run(run())


def test_80x24_has_everything() -> None:
    lines = drawn(FULL)
    text = "\n".join(lines)
    assert [len(line) for line in lines] == [80] * 24
    assert "▶ 0  10.0.0.1:40000 → 10.0.0.2:7002  colo  checkpoint 123 in memory for 45 ms" in text
    for part in ("veth0", "0 drops", "1.2 MB/s", "63 dirty pages per checkpoint", "█ memory", "▓ load",
                 "shifted_dirty_list", "ALERT 01:01:37", "q Quit"):
        assert part in text, part
    row, = (line for line in lines if line.lstrip().startswith("NEW → SVM_RESUMED"))
    assert row.split()[3:] == ["474", "664", "474", "711", "948", "1423", "110"]
    assert "first boot" not in text
    assert sum("┤" in line or "│" in line for line in lines) >= 5


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (40, 10), (10, 3)], ids=str)
def test_sizes(size: tuple[int, int]) -> None:
    """What is too small for everything shows less, and breaks nothing."""
    lines = drawn(FULL, size)
    assert [len(line) for line in lines] == [size[0]] * size[1]
    assert "colo" in lines[0]


async def eventually(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    """Wait until the view has drawn something."""
    for _ in range(600):
        if is_so():
            return
        await pilot.pause(0.05)
    raise AssertionError("it never came")


def test_it_resizes() -> None:
    async def run() -> None:
        view = View(lambda: FULL)

        def height() -> int:
            return str(view.query_one("#chart", Static).content).count("\n")

        async with view.run_test(size=(80, 24)) as pilot:
            await eventually(pilot, lambda: 5 < height() < 15)
            await pilot.resize_terminal(120, 50)
            await eventually(pilot, lambda: height() > 30)
    asyncio.run(run())


def test_the_picture_moves() -> None:
    """What the session says next is drawn without a key."""
    snapshots = [FULL, FULL, replace(FULL, connections=(replace(
        connection(), state=state.LOCKSTEP, phase="lockstep", since_ns=NOW - 3200 * MS),))]

    async def run() -> None:
        view = View(lambda: snapshots.pop(0) if len(snapshots) > 1 else snapshots[0])
        async with view.run_test(size=(80, 24)) as pilot:
            await eventually(pilot, lambda: "lockstep after checkpoint 123 for 3.2 s" in str(
                view.query_one("#list", Static).content))
    asyncio.run(run())


def test_connections_are_chosen_with_keys() -> None:
    many = replace(FULL, connections=tuple(connection(number) for number in range(8)))

    def chosen(lines: list[str]) -> list[str]:
        return re.findall(r"▶ (\d)", "\n".join(lines))

    assert chosen(drawn(many)) == ["7"]
    assert chosen(drawn(many, (80, 24), "down")) == ["0"]
    assert chosen(drawn(many, (80, 24), "up", "up")) == ["5"]


def test_the_one_that_has_failed_over_makes_room_for_the_next() -> None:
    two = replace(FULL, connections=(connection(3), replace(connection(4), state=state.FAILED_OVER)))
    assert "▶ 3" in "\n".join(drawn(two))


def test_nothing_yet() -> None:
    text = "\n".join(drawn(SessionState(0, "eth1")))
    assert "UTC" not in text
    assert "no migration stream yet" in text
    assert "drops not known" in text
    assert "no alerts, no findings" in text


def test_no_checkpoint_yet() -> None:
    text = "\n".join(drawn(replace(FULL, connections=(replace(
        connection(), kind="", state=state.LIVE_MIGRATION, phase="", checkpoint=None, checkpoints=(), pairs=(),
        pages_per_checkpoint=None),))))
    assert "10.0.0.2:7002  live migration for 45 ms" in text
    assert "no checkpoint yet" in text
    assert "p50" not in text


def test_foreign_words_do_no_harm() -> None:
    """Neither markup nor control characters."""
    odd = replace(FULL, findings=(FindingState("hole", "warning", 0, "[red]x[/] \x1b[2J"),), alerts=())
    text = "\n".join(drawn(odd))
    assert "[red]x[/]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_quits(key: str) -> None:
    async def run() -> bool:
        view = View(lambda: FULL)
        async with view.run_test() as pilot:
            await pilot.pause()
            assert view.is_running
            await pilot.press(key)
            await pilot.pause()
            return view._exit
    assert asyncio.run(run())


def test_it_ends_with_the_session() -> None:
    async def run() -> None:
        view = View(lambda: replace(FULL, ended="dumpcap has died"))
        async with view.run_test() as pilot:
            await eventually(pilot, lambda: view._exit)
    asyncio.run(run())


WORDS = [
    ({}, "checkpoint 123 in memory for 45 ms"),
    ({"phase": ""}, "checkpoint 123 for 45 ms"),
    ({"checkpoint": None}, "checkpoint in memory for 45 ms"),
    ({"since_ns": None}, "checkpoint 123 in memory"),
    ({"state": state.LIVE_MIGRATION, "since_ns": NOW - 12_000 * MS}, "live migration for 12 s"),
    ({"state": state.LOCKSTEP, "since_ns": NOW - 1500 * MS}, "lockstep after checkpoint 123 for 1.5 s"),
    ({"state": state.FAILED_OVER, "since_ns": NOW - 300_000 * MS}, "failed over 5 min ago"),
    ({"state": state.SILENT, "since_ns": NOW - 4000 * MS}, "silent for 4.0 s"),
    ({"state": state.ENDED, "since_ns": NOW - 10_800_000 * MS}, "ended 3 h ago"),
]


@pytest.mark.parametrize(("change", "words"), WORDS, ids=[words for _, words in WORDS])
def test_what_a_connection_is_doing(change: dict[str, object], words: str) -> None:
    assert doing(replace(connection(), **change), NOW) == words


def test_summary() -> None:
    text = summary(replace(FULL, ended="interrupted"))
    assert re.search(r"NEW → SVM_RESUMED +110 +474 +711 +948 +1423", text)
    assert "SVM_READY → SVM_RESUMED (first boot)" in text
    assert text.splitlines()[0].endswith("checkpoint 123 in memory for 45 ms, 91.2 MB, 15000 pages, 0 holes")
    *_, finding, alert, end = text.splitlines()
    assert finding.startswith("shifted_dirty_list  Xen 4.18 or later writes")
    assert alert.startswith("ALERT 01:01:37  connection 0")
    assert end == "81234 packets, 0 drops; interrupted"


class TestChart:
    def test_a_column_for_each_of_the_last(self) -> None:
        lines = chart(checkpoints(110), 49, 10).plain.split("\n")
        assert len(lines) == 10
        assert max(map(len, lines)) == 49
        assert lines[-1].split() == ["71", "110"]

    def test_heights_are_lengths(self) -> None:
        one = CheckpointState(5, 100.0, {"suspend": 50.0, "memory": 50.0, "lockstep": 900.0}, 1, 1, True, False)
        column = [line[-1] for line in chart([one, replace(one, number=6, total_ms=50.0, phases={"load": 50.0})],
                                             20, 12).plain.split("\n")[:10]]
        assert column == [" "] * 5 + ["▓"] * 5
        column = [line[-2] for line in chart([one, replace(one, total_ms=50.0)], 20, 12).plain.split("\n")[:10]]
        assert column == ["█"] * 5 + ["░"] * 5
        assert "100 ms ┤" in chart([one], 20, 12).plain

    def test_what_is_not_known_and_what_lost_packets_touch(self) -> None:
        lines = chart(checkpoints(6), 15, 6).plain.split("\n")
        assert lines[3][-4] == "?"
        assert lines[4][-5] == "!"
        assert [line[-4] for line in lines[:3]] == [" "] * 3

    def test_the_initial_transfer_is_no_checkpoint(self) -> None:
        first = CheckpointState(0, None, {"memory": 8332.5}, 8252, 1, True, False)
        assert chart((first, *checkpoints(6)), 40, 8) == chart(checkpoints(6), 40, 8)

    @pytest.mark.parametrize("size", [(0, 0), (9, 10), (80, 2), (10, 3)], ids=str)
    def test_no_room(self, size: tuple[int, int]) -> None:
        assert all(len(line) <= size[0] for line in chart(checkpoints(20), *size).plain.split("\n"))

    def test_nothing_to_draw(self) -> None:
        assert "ms" not in chart((), 40, 8).plain
        assert legend(()).plain == ""

    def test_characters_tell_phases_apart(self) -> None:
        named = legend(checkpoints(1)).plain.split()
        assert named[1::2] == list(STEPS)
        assert len(set(named[::2])) == len(STEPS)


PROGRAM = """
from analysis.live.view import View, summary
from tests.test_live_view import FULL
View(lambda: FULL).run()
print(summary(FULL))
"""


@pytest.mark.parametrize("end", ["q", "\x03", signal.SIGTERM], ids=["q", "ctrl-c", "sigterm"])
def test_on_a_terminal(end: str | signal.Signals) -> None:
    """The terminal is as it was, and the summary stands on it; without colour nothing is coloured."""
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=PCAPS.parent, stdin=slave, stdout=slave, stderr=slave,
                          env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100",
                               "LINES": "30", "PYTHONPATH": str(PCAPS.parent)}) as process:
        os.close(slave)
        said = b""
        deadline, has_ended = time.monotonic() + 60, False
        while time.monotonic() < deadline:
            try:
                if select.select([master], [], [], 1)[0]:
                    said += os.read(master, 1 << 16)
            except OSError:
                break
            if not has_ended and b"load" in said and b"SVM_RESUMED" in said:
                has_ended = True
                if isinstance(end, str):
                    os.write(master, end.encode())
                else:
                    process.send_signal(end)
        os.close(master)
    assert process.returncode == 0, said[-2000:]
    assert b"\x1b[?1049h" in said  # the other screen
    view, _, after = said.rpartition(b"\x1b[?1049l")
    assert b"first boot" in after
    assert b"Traceback" not in after
    colours = re.findall(rb"\x1b\[[0-9;]*38;2;(\d+);(\d+);(\d+)", view)
    assert all(red == green == blue for red, green, blue in colours)


def test_without_textual(tmp_path: Path) -> None:
    done = imported_without("textual", "analysis.live.view", tmp_path)
    assert done.stdout.startswith("the terminal view needs textual: pip install 'coloscope[live]'"), done.stderr
