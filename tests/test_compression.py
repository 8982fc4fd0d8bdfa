# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets of compressed files and pipes: whole, cut anywhere, damaged, in pieces."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable, Iterator

import pytest
import zstandard

from dissector.compression import GZIP, ZSTD, CompressionError, Gzip, Zstd

Pack = Callable[[bytes], bytes]
_RANDOM = random.Random(5)
OCTETS = b"".join(_RANDOM.randbytes(3000) + bytes(_RANDOM.randrange(60_000)) for _ in range(12))


def checked(octets: bytes) -> bytes:
    """A frame as the program zstd writes it: its checksum comes behind the last block."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(octets)


def streamed(octets: bytes) -> bytes:
    """A frame that does not tell its size."""
    maker = zstandard.ZstdCompressor().compressobj()
    return maker.compress(octets) + maker.flush()


PACKED = [pytest.param(Gzip, gzip.compress, id=GZIP), pytest.param(Zstd, zstandard.compress, id=ZSTD),
          pytest.param(Zstd, checked, id="checksum"), pytest.param(Zstd, streamed, id="no size")]


class Pieces(io.RawIOBase):
    """Octets that come in these pieces; None: nothing has come for a moment."""

    def __init__(self, pieces: Iterator[bytes | None]) -> None:
        self._pieces = pieces

    def read(self, _: int = -1) -> bytes | None:
        return next(self._pieces, b"")


def read(kind: type, packed: bytes, size: int = 100_000) -> tuple[bytes, str]:
    """(octets, what is wrong with them, if anything is)."""
    octets, buffer = b"", bytearray(size)
    source = kind(io.BytesIO(packed), is_pipe=False)
    try:
        while count := source.readinto(memoryview(buffer)):
            octets += buffer[:count]
    except CompressionError as error:
        with pytest.raises(CompressionError):
            source.readinto(memoryview(buffer))  # it stays so
        return octets, str(error)
    return octets, ""


@pytest.mark.parametrize(("kind", "pack"), PACKED)
@pytest.mark.parametrize("size", [1000, 1 << 15, 100_000, 1 << 20])
def test_whole(kind: type, pack: Pack, size: int) -> None:
    for count in (0, 1, size, 2 * size, len(OCTETS)):
        assert read(kind, pack(OCTETS[:count]), size) == (OCTETS[:count], "")


@pytest.mark.parametrize(("kind", "pack"), PACKED)
def test_members_and_what_may_stand_between_them(kind: type, pack: Pack) -> None:
    between = bytes(200_000) if kind is Gzip else b"\x50\x2a\x4d\x18\4\0\0\0skip"
    packed = pack(OCTETS) + between + pack(b"") + pack(OCTETS[:7]) + between
    assert read(kind, packed) == (OCTETS + OCTETS[:7], "")


@pytest.mark.parametrize(("kind", "pack"), PACKED)
def test_an_early_end_is_told(kind: type, pack: Pack) -> None:
    one, other = pack(OCTETS[:90_000]), pack(OCTETS)
    packed = one + other
    for cut in {*range(1, 40), *range(len(packed) - 40, len(packed)), *range(1, len(packed), 997),
                *range(len(one) - 20, len(one) + 30)}:
        octets, fault = read(kind, packed[:cut])
        assert (OCTETS[:90_000] + OCTETS).startswith(octets)
        assert fault == ("" if cut == len(one) else "it ends early")
        if cut > len(one):
            assert len(octets) >= 90_000


@pytest.mark.parametrize(("kind", "pack"), PACKED)
def test_what_stands_in_front_of_a_fault_comes_out(kind: type, pack: Pack) -> None:
    packed = pack(OCTETS)
    octets, fault = read(kind, packed + b"no member" * 9)
    assert fault not in ("", "it ends early")
    assert OCTETS.startswith(octets)
    assert len(octets) > len(OCTETS) - (1 << 15)


@pytest.mark.parametrize(("kind", "pack"), PACKED)
@pytest.mark.parametrize("size", [1, 777, 1 << 17])
def test_a_pipe_gives_what_has_come(kind: type, pack: Pack, size: int) -> None:
    packed = pack(OCTETS[:100_000])
    pieces = [piece for at in range(0, len(packed), size) for piece in (None, packed[at:at + size])]
    source, octets, buffer = kind(Pieces(iter(pieces)), is_pipe=True), b"", bytearray(1 << 20)
    pauses = 0
    while (count := source.readinto(memoryview(buffer))) != 0:
        octets += buffer[:count or 0]
        pauses += count is None
    assert octets == OCTETS[:100_000]
    assert pauses >= len(pieces) // 2  # None is waited for no longer than it lasts
