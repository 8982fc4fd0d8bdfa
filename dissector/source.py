# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of octets: files and pipes, plain or compressed.  The only room that does input."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zlib_ng import zlib_ng

from dissector.decompressed import Damaged, Decompressed
from dissector.errors import CannotDo
from dissector.helper import is_worthwhile

GZIP, ZSTD = "gzip", "zstd"
_MAGICS = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD}
_MAGIC_SIZE = max(map(len, _MAGICS))

_ZLIB_ERROR: type[Exception] = zlib_ng.error  # type: ignore[assignment]  # its stubs call it an instance

STDIN = "-"
WINDOW_LOG = 27
"""Memory that a zstd file may ask for is 2 to this power, as zstd itself has it: a few octets are
enough to ask for 2 GiB."""
_CHUNK = 1 << 17
"""Compressed octets read at a time."""
_PIECES = {GZIP: 1 << 17, ZSTD: 1 << 15}
"""Octets decompressed at a time: what a fault can take with it.  Python's zstd joins more than 32 KiB out of parts,
of gzip's state there is a copy each time."""
_MEMORY = 4 << 20
"""More than decompressing takes of memory at a time."""


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


class _GzipMember:
    """zlib's decompressor with the manners of Python's other ones (bz2, lzma, zstd); hands out
    every octet in front of a fault.  zlib-ng: 1.6 times as fast as Python's own."""

    def __init__(self) -> None:
        self._zlib = zlib_ng.decompressobj(wbits=31)

    def decompress(self, octets: bytes, max_length: int) -> bytes:
        octets = self._zlib.unconsumed_tail + octets
        while True:
            before = self._zlib.copy()  # type: ignore[attr-defined]  # its stubs do not know it
            try:
                return self._zlib.decompress(octets, max_length)
            except _ZLIB_ERROR:
                # What it had decompressed is lost with it: again, up to the fault.
                if max_length == 1:
                    raise
                self._zlib, max_length = before, max_length // 2

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data.lstrip(b"\0")  # gzip allows zeros behind a member


class _Members(io.RawIOBase):
    """Decompresses members one behind the other.

    Unlike the file objects of the libraries it hands out what stands in front of a fault before it
    raises, and raises at an early end.  It fills the buffer (a file of many tiny members comes in no
    smaller pieces than another), or, of a pipe, gives all that the octets read so far hold.
    """

    def __init__(self, raw: io.RawIOBase, member: Callable[[], Any], piece: int, is_pipe: bool) -> None:
        self._raw, self._new, self._member, self._piece, self._is_pipe = raw, member, member(), piece, is_pipe
        self._error: Exception | None = None
        # Until glibc has seen such a size come and go, it gives the system back what each piece has taken: then
        # page faults are a third of the time.
        bytes(_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:  # type: ignore[no-untyped-def]
        if self._error:
            raise self._error
        filled = 0
        while filled < len(buffer):
            octets = self._member.unused_data if self._member.eof else b""
            if not octets and (self._member.eof or self._member.needs_input):
                if filled and self._is_pipe:
                    break
                read = self._raw.read(_CHUNK)
                if read is None:  # more may come
                    return filled or None
                octets = read
                if not octets and not self._member.eof:
                    self._error = EOFError("it ends early")
                    if not filled:
                        raise self._error
                    break
                if not octets:
                    break
            if self._member.eof:
                self._member = self._new()
            try:
                out = self._member.decompress(octets, min(len(buffer) - filled, self._piece))
            except Exception as error:
                self._error = error
                if not filled:
                    raise
                break
            buffer[filled:filled + len(out)] = out
            filled += len(out)
        return filled


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def is_compressed(name: str) -> bool:
    """Whether this is a compressed file; not if it cannot be read."""
    try:
        with open(name, "rb", buffering=0) as file:
            return file.read(_MAGIC_SIZE).startswith(tuple(_MAGICS))
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
        self._errors: tuple[type[Exception], ...] = (EOFError, OSError, _ZLIB_ERROR)
        self._on_progress = on_progress
        self._reported = 0
        self._ahead = b""
        self._raw = raw or open_raw(self.name)
        self.seekable = self._raw.seekable() and self.name != STDIN
        self.size = os.fstat(self._raw.fileno()).st_size if self.seekable else 0
        head = b""
        while len(head) < _MAGIC_SIZE and (more := self._raw.read(_MAGIC_SIZE - len(head))) != b"":
            head += more or b""
        if self.seekable:
            self._raw.seek(0)
            octets: io.RawIOBase = self._raw
        else:
            octets = _Peeked(self._raw, head)
        self._octets = octets
        self.compression = next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "")
        self._place: io.RawIOBase = self._raw
        if self.compression and self.seekable and ahead and is_worthwhile([self.name]):
            with contextlib.suppress(OSError):  # decompressing here is slower, but possible
                self._octets = self._place = Decompressed(self.name)
        if isinstance(self._octets, Decompressed):
            pass
        elif self.compression == GZIP:
            self._octets = _Members(octets, _GzipMember, _PIECES[GZIP], not self.seekable)
        elif self.compression == ZSTD:
            zstd = _zstd()
            self._errors = (*self._errors, zstd.ZstdError)
            narrow = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
            self._octets = _Members(octets, lambda: zstd.ZstdDecompressor(options=narrow), _PIECES[ZSTD],
                                         not self.seekable)

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
        except self._errors as error:
            self.fault = f"the {self.compression or 'input'} data is damaged ({error})"
            if "too much memory" in str(error):
                self.fault = (f"the zstd data needs more than {1 << WINDOW_LOG - 20} MiB of memory; "
                              "decompress it with `zstd -d --long=31`, or pipe that in")
            return 0
        if self._on_progress and self.seekable:
            here = self._place.tell()
            self._on_progress(here - self._reported)
            self._reported = here
        return n

    def skip_to(self, position: int) -> None:
        """Move on to the octet at `position` (of the decompressed octets)."""
        if not self.compression:
            self._raw.seek(position)
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


def total_size(names: list[str]) -> int | None:
    """Octets on disk of all `names`, None if one of them is not a plain file."""
    try:
        return sum(Path(name).stat().st_size for name in names) if STDIN not in names else None
    except OSError:
        return None
