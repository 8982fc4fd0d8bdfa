# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether `coloscope live` can be left running: its memory, minute by minute, beside a pair that works.

    python -m benchmarks.soak [MINUTES]

The pair (`tests.synthesiser.pair`) is on a link between two network namespaces, with other short connections
beside it; everything is captured.  Needs root, iproute2 and dumpcap.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from benchmarks.live import COMMAND
from tests.synthesiser import network
from tests.synthesiser.demo import PAIR, PORT

CHECKPOINTS = ("--checkpoints", "0", "--interval", "0.2", "--memory", "64", "--dirty", "64", "--rate", "20")
OTHERS = 40
"""Other connections each second."""
OTHER_PORT = 80


def main() -> None:
    minutes = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with ExitStack() as stack, tempfile.NamedTemporaryFile(suffix=".jsonl") as told:
        one, other = stack.enter_context(network.joined())
        live = subprocess.Popen(one.command(*COMMAND, "live", "-i", network.INTERFACE), stdout=told)
        stack.callback(live.kill)
        time.sleep(5)
        us, there = [sys.executable, "-m", "benchmarks.soak"], f"{other.address}:{PORT}"
        for command in (other.command(*us, "--serve"), other.command(*PAIR, "secondary", "--listen", there),
                        one.command(*us, "--visit", other.address),
                        one.command(*PAIR, "primary", "--connect", there, *CHECKPOINTS)):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(process.kill)
        for minute in range(1, minutes + 1):
            time.sleep(60)
            if live.poll() is not None:
                break
            print(f"minute {minute}: {resident(live.pid):.1f} MB, {processor(live.pid):.0f} s of CPU", flush=True)
        live.terminate()
        live.wait()
        counts: Counter[str] = Counter()
        with open(told.name) as lines:
            for line in lines:
                event = json.loads(line)
                counts[event["event"]] += 1
    print(f"events: {dict(counts)}")
    print(f"the last: {event}")


def resident(pid: int) -> float:
    """MB of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024 / 1e6


def processor(pid: int) -> float:
    """Seconds of CPU time that it has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def serve() -> None:
    """One short answer for each connection."""
    with socket.create_server(("", OTHER_PORT), backlog=OTHERS) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def visit(address: str) -> None:
    """Short connections without end."""
    while True:
        # On a busy machine it starts before who serves does.
        with contextlib.suppress(ConnectionRefusedError), \
                socket.create_connection((address, OTHER_PORT)) as connection:
            connection.sendall(b"GET /of/no/interest HTTP/1.1\r\n\r\n")
            connection.recv(1000)
        time.sleep(1 / OTHERS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    elif sys.argv[1:2] == ["--visit"]:
        visit(sys.argv[2])
    else:
        main()
