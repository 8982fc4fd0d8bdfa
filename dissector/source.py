# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of octets: files and pipes, plain or compressed.  The only room that does input."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable

from dissector.compression import DECOMPRESSED, MAGIC_SIZE, MAGICS, WINDOW_LOG, CompressionError
from dissector.decompressed import Damaged, Decompressed
from dissector.errors import CannotDo
from dissector.helper import is_worthwhile

STDIN = "-"


class SourceError(CannotDo):
    """A source that cannot be read at all; the message says what, where and what to do."""


class _Peeked(io.RawIOBase):
    """A pipe whose first octets have been looked at already."""

    def __init__(self, raw: io.RawIOBase, head: bytes) -> None:
        self._raw, self._head = raw, head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:  # type: ignore[no-untyped-def]
        if self._head:
            n = min(len(buffer), len(self._head))
            buffer[:n] = self._head[:n]
            self._head = self._head[n:]
            return n
        return self._raw.readinto(buffer)


class _Again(io.RawIOBase):
    """A plain file that is open, and stays so, at a place of its own."""

    def __init__(self, number: int) -> None:
        self._number, self._at = number, 0

    def fileno(self) -> int:
        return self._number

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = os.preadv(self._number, [buffer], self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at


def is_compressed(name: str) -> bool:
    """Whether this is a compressed file; not if it cannot be read."""
    try:
        with open(name, "rb", buffering=0) as file:
            return file.read(MAGIC_SIZE).startswith(tuple(MAGICS))
    except OSError:
        return False


def open_raw(name: str) -> io.RawIOBase:
    """A file, or stdin, as it is.  Raises SourceError."""
    try:
        if name == STDIN and sys.stdin is None:
            raise SourceError("stdin is closed: name a file, or pipe a capture in")
        if name == STDIN:
            return os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
        return open(name, "rb", buffering=0)
    except IsADirectoryError:
        raise SourceError(f"{name}: is a directory; name the capture files in it") from None
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror or error}") from None


class Source:
    """Octets of one file or pipe, decompressed.

    `name` is what the user called it; `seekable` tells whether the same octets can be read again;
    `fault` holds one line if the octets end early because the compressed data is damaged.  `raw`: where
    they come from, if not from a file of that name (`dissector.arriving`).  `ahead`: let a second process
    decompress a large file.
    """

    def __init__(self, name: str | os.PathLike[str], *, raw: io.RawIOBase | None = None,
                 on_progress: Callable[[int], None] | None = None, ahead: bool = False) -> None:
        self.name = os.fspath(name)
        self.fault: str | None = None
        self._on_progress = on_progress
        self._reported = 0
        self._ahead = b""
        self._raw = raw or open_raw(self.name)
        self.seekable = self._raw.seekable() and self.name != STDIN
        self.size = os.fstat(self._raw.fileno()).st_size if self.seekable else 0
        head = b""
        while len(head) < MAGIC_SIZE and (more := self._raw.read(MAGIC_SIZE - len(head))) != b"":
            head += more or b""
        if self.seekable:
            self._raw.seek(0)
            octets: io.RawIOBase = self._raw
        else:
            octets = _Peeked(self._raw, head)
        self._octets = octets
        self.compression = next((name for magic, name in MAGICS.items() if head.startswith(magic)), "")
        self._place: io.RawIOBase = self._raw
        if self.compression and self.seekable and ahead and is_worthwhile([self.name]):
            with contextlib.suppress(OSError):  # decompressing here is slower, but possible
                self._octets = self._place = Decompressed(self.name)
        if self.compression and not isinstance(self._octets, Decompressed):
            self._octets = DECOMPRESSED[self.compression](octets, is_pipe=not self.seekable)

    def fileno(self) -> int:
        """The open file, as it stands on the disk."""
        return self._raw.fileno()

    def peek(self, count: int) -> bytes:
        """The next `count` octets, which stay; fewer if there are no more."""
        buffer = bytearray(count)
        while len(self._ahead) < count and (n := self._fill(memoryview(buffer))) != 0:
            self._ahead += bytes(buffer[:n or 0])
        return self._ahead[:count]

    def readinto(self, buffer: memoryview) -> int | None:
        """Fill a part of `buffer`; the number of octets, 0 at the end, None if nothing has come for a moment
        (`dissector.arriving`)."""
        if self._ahead:
            n = min(len(buffer), len(self._ahead))
            buffer[:n], self._ahead = self._ahead[:n], self._ahead[n:]
            return n
        return self._fill(buffer)

    def _fill(self, buffer: memoryview) -> int | None:
        try:
            n = self._octets.readinto(buffer)
        except Damaged as damage:
            self.fault = str(damage)
            return 0
        except (CompressionError, OSError) as error:
            self.fault = f"the {self.compression or 'input'} data is damaged ({error})"
            if "too much memory" in str(error):
                self.fault = (f"the zstd data needs more than {1 << WINDOW_LOG - 20} MiB of memory; "
                              "decompress it with `zstd -d --long=31`, or pipe that in")
            return 0
        self._report()
        return n

    def _report(self) -> None:
        if self._on_progress and self.seekable:
            here = self._place.tell()
            self._on_progress(here - self._reported)
            self._reported = here

    def skip_to(self, position: int) -> None:
        """Move on to the octet at `position` (of the decompressed octets)."""
        if not self.compression:
            self._raw.seek(position)
            self._ahead = b""
            self._report()
            return
        scrap = memoryview(bytearray(1 << 20))
        while position > 0 and (n := self.readinto(scrap[:min(position, len(scrap))])):
            position -= n

    def close(self) -> None:
        """Release the file."""
        self._octets.close()
        self._raw.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reopened(name: str, number: int) -> Source:
    """The plain file that is open as this number, whatever has become of its name: read from its start."""
    return Source(name, raw=_Again(number))


def total_size(names: list[str]) -> int | None:
    """Octets on disk of all `names`, None if one of them is not a plain file."""
    try:
        return sum(os.stat(name).st_size for name in names) if STDIN not in names else None
    except OSError:
        return None
