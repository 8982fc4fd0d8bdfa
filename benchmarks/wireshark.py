# SPDX-License-Identifier: GPL-2.0-or-later
"""How long `tshark -r` takes with our dissector, against one that does next to nothing, and against the
same reading stream and sequence numbers: no dissector that notices missing octets can do with less.

    python -m benchmarks.wireshark [MEGABYTES]

All read the same synthesised COLO capture of random pages, in turn; the best of each counts.  CPU
seconds, because other programs on the machine do not change them much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dissector.wireshark.tshark import find
from tests.synthesiser import large, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

ROOT = Path(__file__).parent.parent
DISSECTORS = {"trivial": ROOT / "benchmarks" / "trivial.lua",
              "the same, reading tcp.seq": ROOT / "benchmarks" / "positions.lua",
              "xen_migration": ROOT / "lua" / "xen_migration.lua"}
GUEST = Guest(memory=4096, batch=1024, dirty=256)
ROUNDS = 3


def synthesise(path: Path, megabytes: int) -> None:
    """A COLO capture of about this size: random memory, MTU frames."""
    opening = Wire(stream.colo(0, GUEST), fin=False)
    checkpoint = Wire(stream.checkpoint(GUEST), handshake=False, fin=False)
    large.write(path, [opening], [checkpoint], megabytes * 1_000_000)


def seconds(capture: Path, script: Path, home: str) -> float:
    """CPU seconds of tshark over this capture."""
    process = subprocess.Popen([find(), "-r", str(capture), "-X", f"lua_script:{script}"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": home})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"tshark with {script.name} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "colo.pcap"
        synthesise(capture, megabytes)
        best = dict.fromkeys(DISSECTORS, float("inf"))
        for _ in range(ROUNDS):
            for name, script in DISSECTORS.items():
                best[name] = min(best[name], seconds(capture, script, folder))
        print(f"tshark -r, {capture.stat().st_size / 1e6:.0f} MB of COLO with random pages, CPU seconds, "
              f"best of {ROUNDS}:")
        for name, time in best.items():
            print(f"  {name:25} {time:6.2f}  ratio {time / best['trivial']:.2f}")


if __name__ == "__main__":
    main()
