# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets of compressed files and pipes.

Unlike the file objects of the libraries these hand out what stands in front of a fault before they raise, raise at an
early end, and can go on when nothing has come for a moment.
"""

from __future__ import annotations

import io
import mmap
import sys
from typing import Any

GZIP, ZSTD = "gzip", "zstd"
MAGICS = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD}
MAGIC_SIZE = max(map(len, MAGICS))

WINDOW_LOG = 27
"""Memory that a zstd file may ask for is 2 to this power, as zstd itself has it: a few octets are
enough to ask for 2 GiB."""
_CHUNK, _LARGE_CHUNK = 1 << 17, 1 << 19
"""Compressed octets read at a time; so many where what is left of them is not copied."""
_GZIP_PIECE, _ZSTD_PIECE = 1 << 17, 1 << 15
"""Octets decompressed at a time: what a fault can take with it.  Of gzip's state there is a copy each time, and
Python's zstd joins more than 32 KiB out of parts."""
_MEMORY = 4 << 20
"""More than decompressing takes of memory at a time."""


class CompressionError(Exception):
    """What comes next cannot be decompressed; the message says why."""


class _Octets(io.RawIOBase):
    """Fills the buffer (a file of many tiny members comes in no smaller pieces than another), or, of a pipe, gives
    all that the octets read so far hold.  Raises CompressionError behind the last octet in front of a fault."""

    def __init__(self, raw: io.RawIOBase, is_pipe: bool, chunk: int = _CHUNK) -> None:
        self._raw, self._is_pipe = raw, is_pipe
        # At the start of a page, as in the file (`dissector.container.place_of` says why).
        self._room = memoryview(mmap.mmap(-1, chunk))
        self._filled = 0
        self._error: CompressionError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:  # type: ignore[no-untyped-def]
        self._filled = 0
        count: int | None = 0
        try:
            while self._filled < len(buffer) and not self._error and (count := self._some(buffer[self._filled:])):
                self._filled += count
        except CompressionError as error:
            self._error = error
        if self._error and not self._filled:
            raise self._error
        return self._filled or count

    def _some(self, buffer: memoryview) -> int | None:
        """Some of the next octets; 0 at the end, None if nothing has come for a moment."""
        raise NotImplementedError

    def _read(self, is_between: bool) -> memoryview | None:
        """The next compressed octets, until it reads again; empty at the end, which must be between members, None if
        none have come, or others should go on first."""
        count = None if self._filled and self._is_pipe else self._raw.readinto(self._room)
        if count == 0 and not is_between:
            raise CompressionError("it ends early")
        return None if count is None else self._room[:count]


class Gzip(_Octets):
    """Of gzip, members one behind the other.  zlib-ng: 1.6 times as fast as Python's own zlib."""

    def __init__(self, raw: io.RawIOBase, is_pipe: bool) -> None:
        from zlib_ng import zlib_ng

        super().__init__(raw, is_pipe)
        self._library: Any = zlib_ng
        self._member = zlib_ng.decompressobj(wbits=31)
        # Until glibc has seen such a size come and go, it gives the system back what each piece has taken: then
        # page faults are a third of the time.
        bytes(_MEMORY)

    def _some(self, buffer: memoryview) -> int | None:
        while True:
            member = self._member
            octets: bytes | memoryview = member.unused_data.lstrip(b"\0") if member.eof else member.unconsumed_tail
            if not octets:
                read = self._read(member.eof)
                if not read:
                    return None if read is None else 0
                octets = bytes(read).lstrip(b"\0") if member.eof else read  # zeros may stand behind a member
                if not octets:
                    continue
            if member.eof:
                self._member = self._library.decompressobj(wbits=31)
            out = self._decompress(octets, min(len(buffer), _GZIP_PIECE))
            if out:
                buffer[:len(out)] = out
                return len(out)

    def _decompress(self, octets: bytes | memoryview, most: int) -> bytes:
        while True:
            before = self._member.copy()  # type: ignore[attr-defined]  # its stubs do not know it
            try:
                return self._member.decompress(octets, most)
            except self._library.error as error:
                # What it had decompressed is lost with it: again, up to the fault.
                if most == 1:
                    raise CompressionError(str(error)) from None
                self._member, most = before, most // 2


class Zstd(_Octets):
    """Of zstd, frames one behind the other."""

    def __init__(self, raw: io.RawIOBase, is_pipe: bool) -> None:
        super().__init__(raw, is_pipe)
        self._library = zstd()
        self._narrow = {self._library.DecompressionParameter.window_log_max: WINDOW_LOG}
        self._frame = self._library.ZstdDecompressor(options=self._narrow)
        bytes(_MEMORY)  # as above

    def _some(self, buffer: memoryview) -> int | None:
        while True:
            frame = self._frame
            octets = frame.unused_data if frame.eof else b""
            if not octets and (frame.eof or frame.needs_input):
                read = self._read(frame.eof)
                if not read:
                    return None if read is None else 0
                octets = read
            if frame.eof:
                frame = self._frame = self._library.ZstdDecompressor(options=self._narrow)
            try:
                out = frame.decompress(octets, min(len(buffer), _ZSTD_PIECE))
            except self._library.ZstdError as error:
                raise CompressionError(str(error)) from None
            if out:
                buffer[:len(out)] = out
                return len(out)


class SystemZstd(_Octets):
    """The same by the system's library (`dissector.libzstd`)."""

    def __init__(self, raw: io.RawIOBase, is_pipe: bool) -> None:
        super().__init__(raw, is_pipe, _LARGE_CHUNK)
        self._begin(careful=is_pipe)
        self._count = 0
        """Octets that came out."""

    def _begin(self, careful: bool) -> None:
        """From the start of the file.  `careful`: with a fault goes what came out in the same call, so each block has
        one of its own; that takes a tenth longer."""
        from dissector.libzstd import Decompressor

        self._frames, self._careful = Decompressor(WINDOW_LOG), careful
        self._packed, self._at, self._is_full = self._room[:0], 0, False

    def _some(self, buffer: memoryview) -> int | None:
        from dissector.libzstd import LibzstdError

        while True:
            # If the buffer was full, there may be octets for which there was no room.
            if self._at == len(self._packed) and not self._is_full:
                read = self._read(self._frames.wanted == 0)
                if not read:
                    return None if read is None else 0
                self._packed, self._at = read, 0
            try:
                count = self._decompress(buffer)
            except LibzstdError as error:
                if self._careful:
                    raise CompressionError(str(error)) from None
                self._go_back()
                continue
            if count:
                self._count += count
                return count

    def _decompress(self, buffer: memoryview) -> int:
        end = len(self._packed)
        if self._careful:
            end = self._at if self._is_full else min(end, self._at + self._frames.part)
        taken, count = self._frames.decompress(self._packed, self._at, end, buffer)
        self._at, self._is_full = self._at + taken, count == len(buffer) and self._frames.wanted > 0
        return count

    def _go_back(self) -> None:
        """Come to the same place again, carefully."""
        self._raw.seek(0)
        self._begin(careful=True)
        left, self._count = self._count, 0
        scrap = memoryview(bytearray(_CHUNK))
        while left:
            if not (count := self._some(scrap[:left])):  # the file has become another one meanwhile
                raise CompressionError("it ends early")
            left -= count


def zstd() -> Any:
    """Python's module, or the same for older ones.  python-zstandard decompresses a fifth faster, but does not tell
    an early end, and holds back octets that have come."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module


def _zstd(raw: io.RawIOBase, is_pipe: bool) -> _Octets:
    from dissector.libzstd import is_there

    return (SystemZstd if is_there() else Zstd)(raw, is_pipe)


DECOMPRESSED = {GZIP: Gzip, ZSTD: _zstd}
