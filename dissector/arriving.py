# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets that are still being written: of a pipe, of a file that grows, of a ring of files."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch

from dissector.source import SourceError, open_raw

MOMENT = 0.02
"""Seconds for which octets are waited for before it is said that none have come."""
_PIPE_SIZE = 1 << 20
"""Octets that a pipe may hold: what the kernel allows everybody."""
_FULL = 4 << 20
"""Octets that are taken together while more keep coming ..."""
_PATIENCE = 0.005
"""... or for so many seconds: so many small writes make one block."""


class Arriving(io.RawIOBase):
    """Octets of a pipe, as soon as they have come: `readinto` gives None if for a moment none have, 0 at the
    end.  After `stop` nothing is waited for any more: what has not come yet is left."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.stopped = False
        self._poll = select.poll()
        self._poll.register(raw.fileno(), select.POLLIN)
        with contextlib.suppress(OSError):  # it is no pipe, or the user has too many
            fcntl.fcntl(raw.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def has_come(self, seconds: float = MOMENT) -> bool:
        """Whether there are octets, or the end, at the latest after so many seconds."""
        return self.stopped or bool(self._poll.poll(int(seconds * 1000)))

    def readinto(self, buffer) -> int | None:  # type: ignore[no-untyped-def]
        if not self.has_come():
            return None
        if self.stopped:
            return 0
        buffer = memoryview(buffer)[:_FULL]
        filled = self._raw.readinto(buffer) or 0
        until = time.monotonic() + _PATIENCE
        while 0 < filled < len(buffer) and self._poll.poll(0) and time.monotonic() < until:
            more = self._raw.readinto(buffer[filled:]) or 0
            if not more:
                break  # the end; it will be there again
            filled += more
        return filled

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class Growing(Arriving):
    """Octets of a file that somebody writes, up to its end; that is for good once `is_done`."""

    def __init__(self, raw: io.RawIOBase, is_done: Callable[[], bool]) -> None:
        super().__init__(raw)
        self._is_done = is_done

    def has_come(self, seconds: float = MOMENT) -> bool:
        return self.stopped or self._rest() > 0 or self._is_done() or self._wait(seconds)

    def _rest(self) -> int:
        return os.fstat(self._raw.fileno()).st_size - self._raw.tell()

    def _wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return self._rest() > 0

    def readinto(self, buffer) -> int | None:  # type: ignore[no-untyped-def]
        done = self._is_done()  # asked first: what was written before that is read
        filled = 0 if self.stopped else self._raw.readinto(memoryview(buffer)[:_FULL]) or 0
        if filled or done or self.stopped:
            return filled
        self._wait(MOMENT)
        return None


class Ring:
    """The files of a folder, in the order in which they were written, each while it grows; then those that
    come.  `pattern` is one of their names; `is_over` tells that nobody writes any more."""

    def __init__(self, folder: str, pattern: str = "*.*cap*", is_over: Callable[[], bool] = lambda: False) -> None:
        self._folder, self._pattern, self._is_over = folder, pattern, is_over
        self._done: dict[str, int] = {}
        """When those that were read were written last."""
        self._name = ""
        self._current: Growing | None = None
        self.stopped = False
        self._written()  # raises if it cannot be read at all

    def __iter__(self) -> Iterator[tuple[str, Arriving, int]]:
        """(name, octets, how many files in front of it were missed, by the numbers in dumpcap's names)."""
        last = 0
        while not self.stopped:
            over = self._is_over()  # asked first: what was written before that is found
            if waiting := self._written():
                self._name = waiting[0][1]
                with contextlib.suppress(FileNotFoundError):  # the ring has come round
                    self._current = Growing(open_raw(self._name), lambda: self._is_over() or bool(self._written()))
                    number = _number(self._name)
                    yield self._name, self._current, max(number - last - 1, 0) if last and number else 0
                    last = number
                    self._done[self._name] = os.stat(self._name).st_mtime_ns
                self._name = ""
            elif over:
                return
            else:
                time.sleep(MOMENT)

    def _written(self) -> list[tuple[int, str]]:
        """(time, name) of the files that were written, or written again, and not read."""
        found, there = [], set()
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if not fnmatch(entry.name, self._pattern) or entry.path == self._name:
                        continue
                    there.add(entry.path)
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat()
                        if entry.is_file() and self._done.get(entry.path, -1) < stat.st_mtime_ns:
                            found.append((stat.st_mtime_ns, entry.path))
        except OSError as error:
            raise SourceError(f"{self._folder}: {error.strerror or error}") from None
        self._done = {name: written for name, written in self._done.items() if name in there}
        return sorted(found)

    def stop(self) -> None:
        self.stopped = True
        if self._current:
            self._current.stop()


def _number(name: str) -> int:
    """What dumpcap counts its files with; 0: the name has none."""
    found = re.search(r"_(\d{5,})_\d{14}\.", os.path.basename(name))
    return int(found[1]) if found else 0
