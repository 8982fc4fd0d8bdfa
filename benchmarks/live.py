# SPDX-License-Identifier: GPL-2.0-or-later
"""How `coloscope live` keeps up: with a pipe, with events, with a link.

    python -m benchmarks.live [MEGABYTES]

A pipe is held against the same capture as a file, and one that is recorded without secrets against one that is not.
Events are timed from the write of their last packet.  For
the link a capture is sent as it is over a pair of veth interfaces of its own (needs root, iproute2 and dumpcap),
at several rates and then as fast as it goes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.captures import CAPTURES
from benchmarks.run import in_turn
from dissector.source import Source

COMMAND = [sys.executable, "-c", "from analysis.cli import main; main()"]
REAL = Path(__file__).parent.parent / "pcaps" / "colo-hvm-fast.A.pcap.zst"
ROUNDS = 5
RATES = (100, 250, 500, 0)
"""MB/s; 0: as fast as it goes."""
BUFFER = 64
"""MiB that the kernel may keep for dumpcap."""


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "colo.pcap")
        CAPTURES["colo"].write(path, size * 1_000_000)
        throughput(path)
        latency()
        if os.geteuid() == 0 and shutil.which("dumpcap") and shutil.which("ip"):
            sent = Path(folder, "gro.pcap")
            CAPTURES["gro"].write(sent, size * 1_000_000)
            for what, capture in (("MTU", path), ("64 KiB", sent)):
                for rate in RATES:
                    subprocess.run(["unshare", "-n", sys.executable, "-m", "benchmarks.live", "--link", what,
                                    str(capture), str(rate)], check=True)


def throughput(path: Path) -> None:
    """Whole processes: the tables of a file, the events of the same octets from a pipe, and those while it is
    recorded."""
    pipe = f"cat {path} | {shlex.join(COMMAND)} live -r -"
    used = in_turn({"file": [*COMMAND, "checkpoints", str(path)], "pipe": ["sh", "-c", pipe],
                    "recorded": ["sh", "-c", f"{pipe} --write {path.parent}/ring --ring 2x100MB --scrub"]}, ROUNDS)
    size = path.stat().st_size / 1e6
    for name, usage in used.items():
        print(f"{name}: {usage.seconds:.2f} s, {size / usage.seconds:.0f} MB/s, peak {usage.peak / 1e6:.0f} MB")
    print(f"pipe / file: {used['pipe'].seconds / used['file'].seconds:.2f}, recorded / pipe: "
          f"{used['recorded'].seconds / used['pipe'].seconds:.2f}")


def latency() -> None:
    """From the write of a sync-point's last packet to the line that tells of it."""
    with Source(REAL) as source:
        octets, buffer = bytearray(), memoryview(bytearray(1 << 20))
        while n := source.readinto(buffer):
            octets += buffer[:n]
    listed = subprocess.run([*COMMAND, "syncs", str(REAL), "--format", "json"], capture_output=True, check=True)
    frames = [row["frame"] for row in json.loads(listed.stdout)["rows"]]
    ends, at = [24], 24
    while at < len(octets):
        at += 16 + struct.unpack_from("<I", octets, at + 8)[0]
        ends.append(at)
    with subprocess.Popen([*COMMAND, "live", "-r", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        out, told = process.stdout, threading.Semaphore(0)

        def read() -> None:
            for line in os.fdopen(out.fileno(), "rb", closefd=False):
                if line.startswith(b'{"event": "sync"'):
                    told.release()

        thread = threading.Thread(target=read)
        thread.start()
        took, begin = [], 0
        for frame in dict.fromkeys(frames):
            process.stdin.write(octets[begin:ends[frame]])
            begin, written = ends[frame], time.perf_counter()
            for _ in range(frames.count(frame)):
                told.acquire()
            took.append((time.perf_counter() - written) * 1e3)
        process.stdin.close()
        thread.join()
    took = took[3:]  # those in front of them wait for the imports, and for the octets of the first transfer
    print(f"events: {statistics.median(took):.0f} ms, {max(took):.0f} ms at most (of these, up to 50 ms for the ACK)")


def link(what: str, path: Path, rate: int) -> None:
    """Send a capture over a link that is being watched."""
    for words in ("add one type veth peer name other", "set one mtu 65535 up", "set other mtu 65535 up"):
        subprocess.run(["ip", "link", *words.split()], check=True)
    octets = path.read_bytes()
    told = path.with_suffix(".jsonl")
    with told.open("wb") as out:
        process = subprocess.Popen([*COMMAND, "live", "-i", "other", "--buffer", str(BUFFER)], stdout=out)
    while not subprocess.run(["pgrep", "-P", str(process.pid), "dumpcap"], capture_output=True).stdout:
        time.sleep(0.1)
    time.sleep(1)
    seconds = send(memoryview(octets), rate * 1_000_000)
    time.sleep(2)
    process.terminate()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    end = json.loads(told.read_bytes().splitlines()[-1])
    print(f"link, {what} frames: {len(octets) / 1e6 / seconds:.0f} MB/s for {seconds:.1f} s; {end['packets']} "
          f"packets, {end['drops']} dropped, {end['syncs']} sync-points; {usage.ru_utime + usage.ru_stime:.1f} s of "
          "CPU for coloscope and dumpcap, start included")


def send(octets: memoryview, rate: int) -> float:
    """Send the frames of a pcap; seconds that it took."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("one", 0))
        begin, at = time.perf_counter(), 24
        while at < len(octets):
            captured = struct.unpack_from("<I", octets, at + 8)[0]
            out.send(octets[at + 16:at + 16 + captured])
            at += 16 + captured
            while rate and at / rate > time.perf_counter() - begin:
                pass
        return time.perf_counter() - begin


if __name__ == "__main__":
    if sys.argv[1:2] == ["--link"]:
        link(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
