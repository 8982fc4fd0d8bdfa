# SPDX-License-Identifier: GPL-2.0-or-later
"""Running programs and what they used."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


class RunError(Exception):
    """A program that failed; the message says which, and its last words."""


@dataclass(frozen=True)
class Usage:
    """What one run used, or the median of several."""

    seconds: float
    """From the start to the end of the process."""
    cpu: float
    """Seconds of all cores."""
    peak: int
    """Octets that were resident at most, in the largest of its processes.  Linux counts the parent's own
    peak as the child's, too: a parent stays small."""
    each: tuple[float, ...] = ()
    """Seconds of each of several runs."""

    def ratio(self, other: Usage) -> float:
        """How often the other's time this one took: the median over rounds of what ran in turn (`in_turn`).  The
        machine may be half as fast in one round as in the next; in one it is much the same for both."""
        return statistics.median(mine / its for mine, its in zip(
            self.each or (self.seconds,), other.each or (other.seconds,), strict=True))


def run(command: Sequence[str], *, statuses: Collection[int] = (0,)) -> Usage:
    """Run a program to its end, without its output.  Raises RunError if there is no such program, and if
    its exit status is not expected."""
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        try:
            pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, errors.fileno(), 2)])
        except FileNotFoundError as error:
            raise RunError(f"{command[0]} was not found") from error
        try:
            _, status, usage = os.wait4(pid, 0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        seconds = time.perf_counter() - begin
        if os.waitstatus_to_exitcode(status) not in statuses:
            errors.seek(0)
            words = errors.read().decode(errors="replace").strip().splitlines()
            raise RunError(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}"
                           + (f": {words[-1]}" if words else ""))
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def in_turn(commands: Mapping[str, Sequence[str]], rounds: int, *,
            statuses: Collection[int] = (0,)) -> dict[str, Usage]:
    """Each program once, then each again, and so on: what else the machine does meets all alike.  Medians."""
    runs: dict[str, list[Usage]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(run(command, statuses=statuses))
    return {name: _median(done) for name, done in runs.items()}


def _median(runs: Sequence[Usage]) -> Usage:
    return Usage(statistics.median(run.seconds for run in runs), statistics.median(run.cpu for run in runs),
                 statistics.median(run.peak for run in runs), tuple(run.seconds for run in runs))
