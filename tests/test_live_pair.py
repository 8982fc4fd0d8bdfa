# SPDX-License-Identifier: GPL-2.0-or-later
"""A real sender and a real receiver on a link of their own, watched through real dumpcap: what `coloscope live` says
while it happens is what the file analysis says of the recording afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import COMMAND, PCAPS
from tests.synthesiser import network

ROOT = PCAPS.parent
PAIR = [sys.executable, "-m", "tests.synthesiser.pair"]
PORT = 7002
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

_LACKING = network.lacking() or "" if shutil.which("dumpcap") else "needs dumpcap"
pytestmark = pytest.mark.skipif(bool(_LACKING), reason=_LACKING)

Event = dict[str, Any]


class Watched:
    """A link, and what was said of it: `events` as they came, `files` of the recording, if it is `recorded`;
    `path` is where programs are looked for."""

    def __init__(self, folder: Path, primary: tuple[str, ...] = (), secondary: tuple[str, ...] = (),
                 delay_ms: int = 0, loss: float = 0, status: int = 0, recorded: bool = True,
                 ring: str = "2x1GB", path: str = os.environ["PATH"]) -> None:
        words = ["--write", str(folder / "ring"), "--ring", ring] if recorded else []
        with (network.joined(delay_ms, loss) as (one, other),
              _started(one.command("env", f"PATH={path}", *COMMAND, "live", "-i", network.INTERFACE, "--format",
                                   "jsonl", "--filter", f"tcp port {PORT}", *words)) as live):
            try:
                _until(lambda: list(folder.glob("ring*")) if recorded else _children(live.pid))
                with _started(other.command(*PAIR, "secondary", "--listen", f"{other.address}:{PORT}",
                                            "--memory", "2", "--list", "8", *secondary)) as back:
                    assert back.stdout
                    back.stdout.readline()
                    with _started(one.command(*PAIR, "primary", "--connect", f"{other.address}:{PORT}", "--memory",
                                              "2", "--checkpoints", "6", "--interval", "0.05", *primary)) as forward:
                        assert forward.wait(timeout=60) == status
                time.sleep(1)  # dumpcap has its packets a moment later
            finally:
                live.send_signal(signal.SIGINT)
            text, self.errors = live.communicate(timeout=60)
            assert live.returncode == 0, self.errors
        self.events: list[Event] = [json.loads(line) for line in text.splitlines()]
        self.files = sorted(map(str, folder.glob("ring*")))
        for late in self.of("acknowledged"):
            point, = (event for event in self.of("sync") if all(
                event[name] == late[name] for name in ("connection", "direction", "stream_offset")))
            assert point["acked_ns"] is None
            point["acked_ns"] = late["acked_ns"]

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def rows(self, command: str) -> list[dict[str, Any]]:
        """What the file analysis says of the recording."""
        done = subprocess.run([*COMMAND, command, "--format", "jsonl", *self.files], cwd=ROOT, check=True,
                              capture_output=True, text=True, env=ENVIRONMENT)
        return [json.loads(line) for line in done.stdout.splitlines()]


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _children(pid: int) -> str:
    """Programs that a process has started."""
    return subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout


def _until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def same(watched: Watched, event: str, command: str) -> list[dict[str, Any]]:
    """The rows of a table, which the events were, one by one."""
    rows = watched.rows(command)
    columns = rows[0].keys() if rows else ()
    said = [{name: one[name] for name in columns} for one in watched.of(event)]
    assert said == rows
    return rows


CASES: dict[str, dict[str, Any]] = {
    "ideal": {},
    "split writes": {"primary": ("--split-writes",), "secondary": ("--split-writes",)},
    "delay and loss": {"delay_ms": 5, "loss": 0.01},
    "many files": {"ring": "90x100kB"},
}


@pytest.mark.parametrize("case", CASES)
def test_colo(case: str, tmp_path: Path) -> None:
    watched = Watched(tmp_path, **CASES[case])
    syncs = same(watched, "sync", "syncs")
    checkpoints = same(watched, "checkpoint", "checkpoints")
    assert [point["name"] for point in syncs] == [
        "SVM_READY", "SVM_RESUMED", *["NEW", "SVM_SUSPENDED", "SVM_READY", "SVM_RESUMED"] * 6]
    assert {point["status"] for point in syncs} == {"ok"}
    assert [row["number"] for row in checkpoints] == list(range(7))
    assert all(row["pages"] == 64 for row in checkpoints[1:])
    # Two processors stamp packets, and may put them into dumpcap's buffer the other way round.
    assert {finding["rule"] for finding in watched.of("finding")} <= {"clock_back"}
    assert len(watched.files) > 20 or "ring" not in CASES[case]
    end = watched.events[-1]
    assert (end["event"], end["holes"], end["connections"]) == ("end", 0, 1)
    assert not end["drops"]  # None: dumpcap does not say in files of a ring
    if "delay_ms" in CASES[case]:  # the path is what it says it is
        assert all(row["new_to_svm_suspended_ms"] > 20 for row in checkpoints[1:])


def test_remus(tmp_path: Path) -> None:
    watched = Watched(tmp_path, ("--remus",), ("--remus",))
    assert [row["kind"] for row in same(watched, "checkpoint", "checkpoints")] == ["remus"] * 6
    assert not watched.of("sync")


def test_a_failover(tmp_path: Path) -> None:
    """The secondary dies in the middle of something."""
    watched = Watched(tmp_path, ("--checkpoints", "0"), ("--kill-after", "1"), status=1)
    assert len(same(watched, "sync", "syncs")) > 8
    same(watched, "checkpoint", "checkpoints")


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="needs tcpdump")
def test_where_there_is_only_tcpdump(tmp_path: Path) -> None:
    (tmp_path / "tcpdump").symlink_to(shutil.which("tcpdump") or "")
    watched = Watched(tmp_path, recorded=False, path=str(tmp_path))
    assert [event["name"] for event in watched.of("sync")] == [
        "SVM_READY", "SVM_RESUMED", *["NEW", "SVM_SUSPENDED", "SVM_READY", "SVM_RESUMED"] * 6]
    assert all(event["acked_ns"] for event in watched.of("sync"))
    assert (watched.events[-1]["holes"], watched.events[-1]["drops"]) == (0, 0)


@pytest.mark.parametrize(("words", "why"), [
    (("set", "dev", network.INTERFACE, "down"), f"{network.INTERFACE}: the interface has gone down"),
    (("delete", "dev", network.INTERFACE), "dumpcap has ended: The network adapter")])
def test_an_interface_that_goes_away(words: tuple[str, ...], why: str) -> None:
    with network.joined() as (one, _), _started(one.command(
            *COMMAND, "live", "-i", network.INTERFACE, "--format", "jsonl")) as live:
        try:
            _until(lambda: _children(live.pid))
            time.sleep(1)
            one.run("ip", "link", *words)
            text, errors = live.communicate(timeout=30)
        finally:
            live.kill()
    assert live.returncode == 2
    (line,) = errors.splitlines()
    assert why in line
    last = json.loads(text.splitlines()[-1])
    assert (last["event"], f"coloscope: {last['reason']}") == ("end", line)


def test_hosts_vanish_with_their_process() -> None:
    """Killed, it cannot clean up."""
    program = ("import sys, time\n"
               "from tests.synthesiser import network\n"
               "with network.joined() as hosts:\n"
               "    print(*(host.holder for host in hosts), flush=True)\n"
               "    time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        holders = process.stdout.readline().split()
        assert len(holders) == 2
        assert all(Path(f"/proc/{holder}").exists() for holder in holders)
        process.kill()
    _until(lambda: not any(Path(f"/proc/{holder}").exists() for holder in holders))
