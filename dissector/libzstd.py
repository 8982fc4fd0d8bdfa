# SPDX-License-Identifier: GPL-2.0-or-later
"""The system's libzstd, which decompresses into memory that is there already.

Python's own module makes bytes of 32 KiB, which are copied then: that takes a quarter longer.  Only functions that
libzstd.so.1 has had since 1.4.0 are used (`zstd.h`, streaming decompression).
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

_NAME = "libzstd.so.1"
_WINDOW_LOG_MAX = 100
"""ZSTD_d_windowLogMax."""
_START = 5
"""Octets with which a frame begins, at least."""


class LibzstdError(Exception):
    """What comes next cannot be decompressed; the message says why."""


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("place", ctypes.c_void_p), ("size", ctypes.c_size_t), ("at", ctypes.c_size_t))


@functools.cache
def _library() -> Any:
    library = ctypes.CDLL(_NAME)
    for name, result, *parameters in (
            ("createDStream", ctypes.c_void_p),
            ("freeDStream", ctypes.c_size_t, ctypes.c_void_p),
            ("DCtx_setParameter", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
            ("decompressStream", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
            ("isError", ctypes.c_uint, ctypes.c_size_t),
            ("getErrorName", ctypes.c_char_p, ctypes.c_size_t)):
        function = getattr(library, f"ZSTD_{name}")
        function.restype, function.argtypes = result, parameters
    return library


def is_there() -> bool:
    """Whether the system has it."""
    try:
        return bool(_library())
    except (OSError, AttributeError):
        return False


class Decompressor:
    """Decompresses frames, one behind the other.  `wanted`: octets that it wants next, 0 between frames."""

    def __init__(self, window_log: int) -> None:
        """`window_log`: memory that a frame may ask for is 2 to this power."""
        self._library = _library()
        self._stream = self._library.ZSTD_createDStream()
        if not self._stream:
            raise MemoryError
        self._library.ZSTD_DCtx_setParameter(self._stream, _WINDOW_LOG_MAX, window_log)
        self._in, self._out = _Buffer(), _Buffer()
        self._places = ctypes.addressof(self._out), ctypes.addressof(self._in)
        self.wanted = 0

    @property
    def part(self) -> int:
        """Octets with which it comes to the end of a header or a block."""
        return self.wanted or _START

    def __del__(self) -> None:
        if stream := getattr(self, "_stream", None):
            self._library.ZSTD_freeDStream(stream)

    def decompress(self, octets: memoryview, at: int, end: int, buffer: memoryview) -> tuple[int, int]:
        """Octets taken of octets[at:end], and put into `buffer`.  Raises LibzstdError; nothing comes out then."""
        source, target = self._in, self._out
        source.place, source.size, source.at = ctypes.addressof(ctypes.c_char.from_buffer(octets)), end, at
        target.place, target.size, target.at = ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer), 0
        wanted = self._library.ZSTD_decompressStream(self._stream, *self._places)
        if self._library.ZSTD_isError(wanted):
            raise LibzstdError(self._library.ZSTD_getErrorName(wanted).decode())
        self.wanted = wanted
        return source.at - at, target.at
