# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts on a link of their own: network namespaces, joined by a veth pair, or by a slow and lossy path.

They need root, and vanish with the process that made them, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

INTERFACE = "veth0"
"""Name of the link at either host."""

PROGRAMS = ("ip", "tc", "unshare", "nsenter")


@dataclass(frozen=True)
class Host:
    """A namespace: that of the process `holder`."""

    holder: int
    address: str = ""

    def command(self, *words: str) -> list[str]:
        """A command that runs there."""
        return ["nsenter", f"--net=/proc/{self.holder}/ns/net", "--", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, capture_output=True)


def lacking() -> str:
    """Why there can be no such hosts here; "" if there can."""
    if os.geteuid():
        return "needs root"
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"needs {', '.join(missing)}"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return f"needs network namespaces: {done.stderr.strip()}" if done.returncode else ""


@contextmanager
def joined(delay_ms: int = 0, loss: float = 0) -> Iterator[tuple[Host, Host]]:
    """Two hosts; what one sends comes `delay_ms` later at the other, a share `loss` of it never.

    The delay and the loss are netem's where the kernel has it, else `tests.synthesiser.relay`'s."""
    with ExitStack() as stack:
        ends = (Host(stack.enter_context(_namespace()), "10.77.0.1"),
                Host(stack.enter_context(_namespace()), "10.77.0.2"))
        is_ideal = not (delay_ms or loss)
        if is_ideal or _has_netem():
            _join(ends[0], INTERFACE, ends[1], INTERFACE)
        else:
            middle = Host(stack.enter_context(_namespace()))
            for end, name in zip(ends, "ab", strict=True):
                _join(end, INTERFACE, middle, name)
                middle.run("ip", "link", "set", "dev", name, "up")
            stack.enter_context(_running(middle.command(
                sys.executable, "-m", "tests.synthesiser.relay", "a", "b", str(delay_ms), str(loss))))
        for end in ends:
            end.run("ip", "link", "set", "dev", "lo", "up")
            end.run("ip", "address", "add", f"{end.address}/24", "dev", INTERFACE)
            end.run("ip", "link", "set", "dev", INTERFACE, "up")
            if not is_ideal and _has_netem():
                end.run("tc", "qdisc", "add", "dev", INTERFACE, "root", "netem",
                        "delay", f"{delay_ms}ms", "loss", f"{100 * loss}%")
        yield ends


def _join(one: Host, name: str, other: Host, other_name: str) -> None:
    subprocess.run(["ip", "link", "add", name, "netns", str(one.holder), "type", "veth",
                    "peer", "name", other_name, "netns", str(other.holder)], check=True, capture_output=True)


@contextmanager
def _namespace() -> Iterator[int]:
    """Id of a process in a network namespace of its own; the pipe's end is its end."""
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin
        assert cat.stdout
        cat.stdin.write(b"\n")
        cat.stdin.flush()
        cat.stdout.read(1)  # it is there now
        yield cat.pid


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it is ready now
        try:
            yield
        finally:
            process.kill()


def _has_netem() -> bool:
    with _namespace() as holder:
        return not subprocess.run(Host(holder).command("tc", "qdisc", "add", "dev", "lo", "root", "netem"),
                                  capture_output=True).returncode
