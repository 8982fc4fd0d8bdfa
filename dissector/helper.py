# SPDX-License-Identifier: GPL-2.0-or-later
"""A second process, which fills slots of memory that both share while this one empties others.

A process, because threads keep each other waiting for the interpreter's lock.  Messages tell what is in which
slot, and give slots back.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import select
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dissector.errors import CannotDo
from dissector.jobs import Jobs

WORTHWHILE = 32 << 20
"""Octets of files from which on a process is started."""
SHARED = 64 << 20
"""Octets of memory that both see: the system takes those that are used."""

_WORD = 8
"""Octets behind that, which count messages."""

_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dissector.helper import run; run()"
_PR_SET_PDEATHSIG = 1


Work = Callable[["Room", Sequence[str]], None]
"""A function of a module: what the process does, in its `Room`, with `names`."""


class HelperError(CannotDo):
    """The process has died; the message says what to do."""


def is_worthwhile(names: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether these are files, together large enough, and the machine has what it takes."""
    if not (sys.platform == "linux" and sys.executable and hasattr(os, "memfd_create")
            and len(os.sched_getaffinity(0)) > 1):
        return False
    try:
        found = [os.stat(name) for name in names]
    except OSError:
        return False
    return all(stat.S_ISREG(s.st_mode) for s in found) and sum(s.st_size for s in found) >= WORTHWHILE


class Helper:
    """A process that has started to do some `Work`.

    What it sends comes from `next`, until that is None; `slots` is the memory; of its `jobs` this process may take
    some.  `close` ends it early.

    Raises OSError where the system refuses the process or the memory.
    """

    def __init__(self, work: Work, names: Sequence[str]) -> None:
        with contextlib.ExitStack() as its_own, contextlib.ExitStack() as at_fault:
            memory = os.memfd_create("coloscope")
            its_own.callback(os.close, memory)
            os.ftruncate(memory, SHARED + _WORD)
            self._memory, self._sent = _shared(memory)
            self._received = 0
            messages, its_messages = os.pipe()
            its_own.callback(os.close, its_messages)
            self._messages = at_fault.enter_context(os.fdopen(messages, "rb"))
            its_returned, self._returned = os.pipe()
            its_own.callback(os.close, its_returned)
            at_fault.callback(os.close, self._returned)
            jobs, put_jobs = os.pipe()
            its_own.callback(os.close, put_jobs)
            at_fault.callback(os.close, jobs)
            self.jobs = Jobs(jobs)
            self._files, its_files = socket.socketpair()
            its_own.enter_context(its_files)
            at_fault.enter_context(self._files)
            self._process: Any = (_Forked if _is_alone() else _started)(
                work, (memory, its_messages, its_returned, its_files.fileno(), jobs, put_jobs),
                (messages, self._returned, self._files.fileno()), names)
            at_fault.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def slots(self, count: int, size: int) -> list[memoryview]:
        """So many pieces of the memory, of so many octets each, as `Room.slots` has them."""
        return _cut(self._memory, count, size)

    @property
    def waits(self) -> bool:
        """Whether it has nothing to tell yet."""
        return self._sent[0] == self._received

    def next(self) -> Any:
        """What it sends next.  Raises HelperError, and what the process has met of CannotDo."""
        self._received += 1
        try:
            message = pickle.load(self._messages)
        except EOFError:
            raise HelperError(f"the process that reads the capture has ended (status {self._process.wait()}); is "
                              "there enough memory?") from None
        if isinstance(message, CannotDo):
            raise message
        return message

    def next_file(self) -> int:
        """The open file that it sends next; the caller closes it."""
        _, numbers, _, _ = socket.recv_fds(self._files, 1, 1)
        if not numbers:
            raise HelperError("the process that reads the capture could not hand a file over; are too many open?")
        return numbers[0]

    def give_back(self, slot: int) -> None:
        """Let it fill this slot again."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and wants none of the last ones
            os.write(self._returned, bytes([slot]))

    def close(self) -> None:
        """End the process, if it has not ended."""
        if not self._messages.closed:
            self._process.kill()
            self._process.wait()
            self._messages.close()
            os.close(self._returned)
            self.jobs.close()
            self._files.close()
            self._memory = self._sent = memoryview(b"")


_begun: dict[tuple[Work, tuple[str, ...]], Helper] = {}


def begin(work: Work, names: Sequence[str]) -> None:
    """Start a process for what is going to be wanted.  Raises as `Helper`."""
    _begun[work, tuple(names)] = Helper(work, names)


def begun(work: Work, names: Sequence[str]) -> Helper | None:
    """The process that has begun with this.  Others end: what was expected of them is not what is wanted."""
    found = _begun.pop((work, tuple(names)), None)
    while _begun:
        _begun.popitem()[1].close()
    return found


class Room:
    """What the process has of the memory and of the way to and fro, and `jobs`.  Iterate over it for slots that are
    free: their numbers, those first that are still in the processor's cache."""

    def __init__(self, memory: int, messages: int, returned: int, files: int, jobs: int, put_jobs: int) -> None:
        self.jobs = Jobs(jobs, put_jobs)
        self._memory, self._sent = _shared(memory)
        self._free: list[int] = []
        self._messages, self._returned = os.fdopen(messages, "wb", buffering=0), returned
        self._files = socket.socket(fileno=files)
        self._arrivals = select.poll()
        self._arrivals.register(returned, select.POLLIN)

    def slots(self, count: int, size: int) -> list[memoryview]:
        """So many pieces of the memory, of so many octets each.  Take them before anything else."""
        self._free = list(range(count))
        return _cut(self._memory, count, size)

    def send(self, message: Any) -> None:
        self._messages.write(pickle.dumps(message))
        self._sent[0] += 1

    def send_file(self, number: int) -> None:
        """Hand over an open file: whatever becomes of its name, it stays the same."""
        socket.send_fds(self._files, [b"\0"], [number])

    def __iter__(self) -> Iterator[int]:
        while True:
            while not self._free or self._arrivals.poll(0):
                self._free.append(self._wait())
            yield self._free.pop()

    def _wait(self) -> int:
        octet = os.read(self._returned, 1)
        if not octet:
            raise BrokenPipeError
        return octet[0]


class _Forked:
    """A process that knows all that this one has imported: it starts in no time."""

    def __init__(self, work: Work, its: tuple[int, int, int, int, int, int], ours: Sequence[int],
                 names: Sequence[str]) -> None:
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            for number in ours:
                os.close(number)
            _run(work, Room(*its), names)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def kill(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._status is None:
            try:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # somebody else has waited for it, or nobody may (SIGCHLD is ignored)
                self._status = 0
        return self._status


def _is_alone() -> bool:
    """Whether this process has one thread only.  A fork stops others, whatever they are doing."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _started(work: Work, its: tuple[int, int, int, int, int, int], _: Sequence[int], names: Sequence[str]) -> Any:
    """A process that imports everything itself, which takes a tenth of a second."""
    import subprocess

    return subprocess.Popen([sys.executable, "-P", "-c", _PROGRAM, os.path.dirname(os.path.dirname(__file__)),
                             work.__module__, work.__name__, *map(str, its), *names], pass_fds=its)


def run() -> None:
    """What a process that was started does."""
    from importlib import import_module

    module, work, *numbers = sys.argv[1:9]
    _run(getattr(import_module(module), work), Room(*map(int, numbers)), sys.argv[9:])


def _run(work: Work, room: Room, names: Sequence[str]) -> None:
    import ctypes

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started it ends it
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        try:
            work(room, names)
            room.send(None)
        except CannotDo as error:
            room.send(error)
    except BrokenPipeError:
        pass  # nobody wants more
    os._exit(0)


def _shared(memory: int) -> tuple[memoryview, memoryview]:
    """What both processes see: the memory, and how many messages were sent."""
    octets = memoryview(mmap.mmap(memory, 0))
    return octets[:SHARED], octets[SHARED:].cast("q")


def _cut(memory: memoryview, count: int, size: int) -> list[memoryview]:
    if count * size > len(memory):
        raise ValueError(f"{count} times {size} octets are more than the {len(memory)} that are shared")
    return [memory[i * size:(i + 1) * size] for i in range(count)]
