# SPDX-License-Identifier: GPL-2.0-or-later
"""A second process, which reads ahead: it finds packets and reads their headers while this one frames
records.

A process, because threads keep each other waiting for the interpreter's lock.  What it finds lies in memory
that both share; messages tell in which slot, and give slots back.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dissector.errors import CannotDo

if TYPE_CHECKING:
    from dissector.blocks import Block
    from dissector.packets import Packets, Slot

WORTHWHILE = 64 << 20
"""Octets of files from which on the process is started: that takes a tenth of a second, on the other core."""
SLOTS = 8

_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dissector.ahead import work; work()"
_PR_SET_PDEATHSIG = 1


class AheadError(CannotDo):
    """The process that reads has died; the message says what to do."""


def is_worthwhile(names: Sequence[str]) -> bool:
    """Whether these files are large enough, and the machine has what it takes."""
    if not sys.executable or not hasattr(os, "memfd_create") or len(os.sched_getaffinity(0)) < 2:
        return False
    try:
        return sum(os.stat(name).st_size for name in names) >= WORTHWHILE
    except OSError:
        return False


class Ahead:
    """The blocks of these files (`dissector.blocks.blocks`), read by a process that starts at once.

    Iterate over it once; `close` ends the process early.
    """

    def __init__(self, names: Sequence[str], on_progress: Callable[[int], None] | None = None) -> None:
        self._on_progress = on_progress
        self._memory = os.memfd_create("coloscope")
        blocks, its_blocks = os.pipe()
        its_slots, self._slots = os.pipe()
        self._blocks = os.fdopen(blocks, "rb")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parent.parent), str(self._memory),
                 str(its_blocks), str(its_slots), *names], pass_fds=(self._memory, its_blocks, its_slots))
        finally:
            os.close(its_blocks)
            os.close(its_slots)

    def __iter__(self) -> Iterator[Block]:

        slots: list[Slot] = []
        try:
            while (message := self._next()) is not None:
                if isinstance(message, CannotDo):
                    raise message
                if not isinstance(message, _Filled):
                    yield message
                    continue
                slots = slots or _mapped(self._memory)
                if self._on_progress:
                    self._on_progress(message.octets)
                yield slots[message.slot].packets(message.count, *message.of)
                # Nobody takes back the last ones: the process has ended.
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._slots, bytes([message.slot]))
        finally:
            self.close()

    def _next(self) -> Any:
        try:
            return pickle.load(self._blocks)
        except EOFError:
            status = self._process.wait()
            raise AheadError(f"the process that reads the capture has ended (status {status}); is there "
                             "enough memory?") from None

    def close(self) -> None:
        """End the process, if it has not ended."""
        if not self._blocks.closed:
            self._process.kill()
            self._process.wait()
            self._blocks.close()
            os.close(self._slots)
            os.close(self._memory)


class _Filled:
    """Message: a slot has packets."""

    def __init__(self, slot: int, packets: Packets, octets: int) -> None:
        self.slot, self.count, self.octets = slot, len(packets), octets
        self.of = packets.first, packets.start, packets.container


class _Slots:
    """Gives out slots that are free, and waits for one where none is."""

    def __init__(self, memory: int, returned: int) -> None:
        self._slots = _mapped(memory)
        self._free = deque(range(SLOTS))
        self._returned = returned
        self.current = -1

    def __iter__(self) -> _Slots:
        return self

    def __next__(self) -> Slot:
        if not self._free:
            self._free.append(self._wait())
        self.current = self._free.popleft()
        return self._slots[self.current]

    def wait_for_current(self) -> None:
        """There are more packets in the same octets: not before the first have been looked at."""
        while (slot := self._wait()) != self.current:
            self._free.append(slot)

    def _wait(self) -> int:
        octet = os.read(self._returned, 1)
        if not octet:
            raise BrokenPipeError
        return octet[0]


def _mapped(memory: int) -> list[Slot]:
    from dissector.packets import Slot

    size = Slot.size()
    view = memoryview(mmap.mmap(memory, SLOTS * size))
    return [Slot(view[i * size:(i + 1) * size]) for i in range(SLOTS)]


def work() -> None:
    """What the process does."""
    from dissector.blocks import read_blocks
    from dissector.packets import Packets, Slot

    memory, blocks, returned = (int(number) for number in sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started it ends it
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.ftruncate(memory, SLOTS * Slot.size())
    slots, octets = _Slots(memory, returned), [0]

    def on_progress(count: int) -> None:
        octets[0] += count

    with os.fdopen(blocks, "wb", buffering=0) as pipe:
        try:
            for block in read_blocks(sys.argv[4:], on_progress, slots):
                if not isinstance(block, Packets):
                    pipe.write(pickle.dumps(block))
                    continue
                pipe.write(pickle.dumps(_Filled(slots.current, block, octets[0])))
                octets[0] = 0
                if block.more:
                    slots.wait_for_current()
            pipe.write(pickle.dumps(None))
        except CannotDo as error:
            pipe.write(pickle.dumps(error))
        except BrokenPipeError:
            os._exit(0)
