# SPDX-License-Identifier: GPL-2.0-or-later
"""Where live octets come from: a child that captures, a pipe, a file or a folder that grows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from analysis.live.interface import is_up
from dissector.arriving import Arriving, Growing, Ring
from dissector.blocks import Block, arriving_blocks
from dissector.compiled import make_ready
from dissector.errors import CannotDo
from dissector.ring import RingWriter
from dissector.source import STDIN, SourceError, open_raw

ENDED, STOPPED = "the capture has ended", "stopped"
"""Reasons why a link has no more."""
DUMPCAP, TCPDUMP = "dumpcap", "tcpdump"
BUFFER = 16
"""MiB that the kernel may keep until they are read: dumpcap's own 2 hold 30 frames of 64 KiB."""
_DUMPCAP_WAITS = 300_000_000
"""ns: dumpcap lets packets wait for 250 ms (CAP_READ_TIMEOUT in its source), and nobody can tell it not to."""
PATIENCE = 3.0
"""Seconds that a child has to end in when it is told to."""
_ASK = 1.0
"""Seconds between two looks at the interface."""
_RIGHTS = ("sudo setcap cap_net_raw,cap_net_admin+eip {program}, or join the group that may run it (Debian: sudo "
           "dpkg-reconfigure wireshark-common; sudo usermod -aG wireshark $USER), or run this with sudo")
_LOST = re.compile(r"received/dropped on interface .*: \d+/(\d+) |^(\d+) packets? dropped by kernel", re.M)
_SIZE = re.compile(r"(?P<files>\d+)x(?P<size>\d+)(?P<unit>kB|MB|GB)")
_KB = {"kB": 1, "MB": 1000, "GB": 1_000_000}


class CaptureError(CannotDo):
    """A capture that cannot be made, or that has broken off; the message says what to do."""


class Link(Protocol):
    """What is watched: blocks, as octets come.  After `stop` what has come is still handed out; `reason` then
    tells why there are no more."""

    reason: str
    is_ring: bool
    """Whether it is files, one after the other."""
    lateness: int
    """ns that a packet may wait before it is handed out: nothing may be said to be missing any earlier."""
    drops: int | None
    """Packets that the capturing program said it lost, when it ended; None: it did not, or it stands in the
    octets."""

    def __iter__(self) -> Iterator[Block]: ...

    def stop(self) -> None: ...


class Replay:
    """A capture that somebody else writes: "-" stdin, a file, a folder with the files of a ring; with `follow`
    also what is still to come.  Raises SourceError."""

    lateness = 0

    def __init__(self, name: str, follow: bool = False) -> None:
        self.reason = ENDED
        self.drops: int | None = None
        self._stopped = False
        self.is_ring = os.path.isdir(name)
        if self.is_ring:
            self._ring: Ring | None = Ring(name, is_over=lambda: not follow)
        else:
            self._ring = None
            raw = open_raw(name)
            growing = follow and name != STDIN
            self._one = name, Growing(raw, lambda: False) if growing else Arriving(raw), 0

    def __iter__(self) -> Iterator[Block]:
        for block in arriving_blocks(self._ring or [self._one]):
            if self._stopped:
                return
            yield block

    def stop(self) -> None:
        self.reason, self._stopped = STOPPED, True
        (self._ring or self._one[1]).stop()


@dataclass(frozen=True, slots=True)
class Files:
    """A ring of files: `prefix`, how many, and kB of each."""

    prefix: str
    files: int
    kilobytes: int

    @property
    def folder(self) -> str:
        """Where they lie."""
        return os.path.dirname(self.prefix) or "."


def files(prefix: str, text: str) -> Files:
    """A ring from what a user wrote: `10x1GB`.  Raises CaptureError."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match["files"]) < 2 or not int(match["size"]):
        raise CaptureError(f"ring {text!r}: want FILESxSIZE with two files or more, such as 10x1GB (units: "
                           f"{', '.join(_KB)})")
    found = Files(prefix, int(match["files"]), int(match["size"]) * _KB[match["unit"]])
    if not os.path.isdir(found.folder):
        raise CaptureError(f"{found.folder}: there is no such folder to write the ring to")
    return found


class Child:
    """dumpcap, else tcpdump, capturing on an interface.  It alone needs rights.  Raises CaptureError."""

    def __init__(self, interface: str, *, capture_filter: str = "", snaplen: int = 0, buffer: int = 0,
                 ring: Files | None = None) -> None:
        self.reason = ENDED
        self.drops: int | None = None
        self._stopped_at = 0.0
        self._interface, self._files = interface, ring
        self.is_ring = ring is not None
        self._arguments = _dumpcap(interface, capture_filter, snaplen, buffer, ring) if shutil.which(DUMPCAP) \
            else _tcpdump(interface, capture_filter, snaplen, buffer, ring)
        self.program = self._arguments[0]
        self.lateness = _DUMPCAP_WAITS if self.program == DUMPCAP else 0
        self._process: subprocess.Popen[bytes] | None = None

    def __iter__(self) -> Iterator[Block]:
        make_ready()  # what passes while kernels are compiled (the first time only) may not find room
        with tempfile.TemporaryFile() as said:
            # In a session of its own: Ctrl-C is for us, who then end it and read what it still has.
            self._process = subprocess.Popen(self._arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                             stderr=said, start_new_session=True, bufsize=0)
            if self._stopped_at:  # while it was being started
                self._process.terminate()
            try:
                yield from self._blocks(self._process)
            except SourceError:
                pass  # it has ended before it wrote anything: what it says tells more
            finally:
                status = _ended(self._process)
                said.seek(0)
                words = said.read().decode(errors="replace")
                if lost := _LOST.search(words):
                    self.drops = int(lost[1] or lost[2])
            if not self._stopped_at:
                raise self._error(status, words)

    def _blocks(self, process: subprocess.Popen[bytes]) -> Iterator[Block]:
        assert process.stdout is not None
        with Arriving(process.stdout) as pipe:  # type: ignore[arg-type]
            arrivals: Iterable[tuple[str, Arriving, int]] = [(self._interface, pipe, 0)]
            if self._files:
                name = os.path.basename(self._files.prefix)
                arrivals = Ring(self._files.folder, f"{name}_*.pcapng", is_over=lambda: process.poll() is not None)
            asked = time.monotonic()
            for block in arriving_blocks(arrivals):
                now = time.monotonic()
                if self._stopped_at and now > self._stopped_at + PATIENCE:
                    return
                if now > asked + _ASK and not self._stopped_at:
                    asked = now
                    if not is_up(self._interface):  # the child waits until it is up again
                        raise CaptureError(f"{self._interface}: the interface has gone down")
                yield block

    def stop(self) -> None:
        if not self._stopped_at:
            self.reason, self._stopped_at = STOPPED, time.monotonic()
            if self._process:
                self._process.terminate()

    def _error(self, status: int, words: str) -> CaptureError:
        """Why it has ended although nobody stopped it."""
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        said = " ".join(lines)
        if "permission" in said or "Operation not permitted" in said:
            program = shutil.which(self.program)
            return CaptureError(f"{self._interface}: no right to capture: " + _RIGHTS.format(program=program))
        if status < 0:
            return CaptureError(f"{self._interface}: {self.program} was ended by {signal.Signals(-status).name}")
        prefix = f"{self.program}: "
        why = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)] or lines[-1:]
        why = [line for line in why if not line.startswith(("listening on", "data link type"))]
        text = why[0] if why else f"status {status}"
        return CaptureError(f"{self._interface}: {self.program} has ended: {text}")


def link_of(interface: str | None, source: str | None, follow: bool, capture_filter: str, snaplen: int | None,
            buffer: int | None, prefix: str | None, ring: str, scrub: bool) -> tuple[Link, str, RingWriter | None]:
    """What the options of `coloscope live` name, its name, and the ring that coloscope writes itself.  Raises
    CaptureError, SourceError, RecordingError."""
    if (interface is None) == (source is None):
        raise CaptureError("live wants an interface (-i) or a capture that somebody writes (-r)")
    if scrub and not prefix:
        raise CaptureError("--scrub says how to record: name a ring to write, too (--write)")
    recorded = files(prefix, ring) if prefix else None
    if source is not None:
        if capture_filter or snaplen or buffer or (prefix and not scrub):
            raise CaptureError("--filter, --snaplen, --buffer and --write without --scrub are for capturing on an "
                               "interface (-i)")
        if recorded and os.path.isdir(source) and os.path.samefile(recorded.folder, source):
            raise CaptureError(f"{source}: is read; write the ring to another folder")
        link: Link = Replay(source, follow)
    else:
        assert interface is not None
        if follow:
            raise CaptureError("--follow is for a capture that somebody else writes (-r)")
        link = Child(interface, capture_filter=capture_filter, snaplen=snaplen or 0, buffer=buffer or BUFFER,
                     ring=None if scrub else recorded)
    writer = RingWriter(recorded.prefix, recorded.files, recorded.kilobytes * 1000) if recorded and scrub else None
    return link, source or interface or "", writer


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Leave no child behind; its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def _dumpcap(interface: str, capture_filter: str, snaplen: int, buffer: int, ring: Files | None) -> list[str]:
    arguments = [DUMPCAP, "-q", "-i", interface]
    arguments += ["-f", capture_filter] if capture_filter else []
    arguments += ["-s", str(snaplen)] if snaplen else []
    arguments += ["-B", str(buffer)] if buffer else []
    if ring:
        # It cannot write a ring and a pipe: its ring is followed.
        return [*arguments, "-w", f"{ring.prefix}.pcapng", "-b", f"filesize:{ring.kilobytes}",
                "-b", f"files:{ring.files}"]
    return [*arguments, "-w", "-"]


def _tcpdump(interface: str, capture_filter: str, snaplen: int, buffer: int, ring: Files | None) -> list[str]:
    if not shutil.which(TCPDUMP):
        raise CaptureError(f"to capture, {DUMPCAP} (or {TCPDUMP}) is needed, and the right to run it: sudo apt-get "
                           "install wireshark-common")
    if ring:
        raise CaptureError(f"--write needs {DUMPCAP}: sudo apt-get install wireshark-common")
    arguments = [TCPDUMP, "-U", "--immediate-mode", "-n", "-w", "-", "-i", interface]
    arguments += ["-s", str(snaplen)] if snaplen else []
    arguments += ["-B", str(buffer * 1024)] if buffer else []
    return [*arguments, "--", capture_filter] if capture_filter else arguments


INTERFACE_COLUMNS = ("number", "name", "description", "addresses", "loopback")


def interfaces() -> list[dict[str, object]]:
    """What can be captured on: `INTERFACE_COLUMNS`; addresses separated by spaces.  Raises CaptureError."""
    program = shutil.which(DUMPCAP)
    if program is None:
        raise CaptureError(f"{DUMPCAP} is needed, and the right to run it: sudo apt-get install wireshark-common")
    done = subprocess.run([program, "-D", "-M"], capture_output=True, text=True, errors="replace",
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
        raise CaptureError(f"{why.removeprefix(f'{DUMPCAP}: ')}: " + _RIGHTS.format(program=program))
    found: list[dict[str, object]] = []
    for line in done.stdout.splitlines():
        number, _, rest = line.partition(". ")
        name, vendor, friendly, _, addresses, kind, *_ = [*rest.split("\t"), *[""] * 6]
        if number.isdecimal():
            found.append({"number": int(number), "name": name, "description": friendly or vendor,
                          "addresses": addresses.replace(",", " "), "loopback": kind == "loopback"})
    return found
