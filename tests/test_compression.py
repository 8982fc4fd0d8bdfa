# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets of compressed files and pipes: whole, cut anywhere, damaged, in pieces."""

from __future__ import annotations

import gzip
import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dissector import libzstd
from dissector.compression import GZIP, ZSTD, CompressionError, Gzip, SystemZstd, Zstd, zstd
from dissector.libzstd import is_there
from dissector.source import Source

Pack = Callable[[bytes], bytes]
_RANDOM = random.Random(5)
OCTETS = b"".join(_RANDOM.randbytes(3000) + bytes(_RANDOM.randrange(60_000)) for _ in range(12))


def zstd_with(octets: bytes, **options: int) -> bytes:
    parameters = zstd().CompressionParameter
    return zstd().compress(octets, options={parameters[name]: value for name, value in options.items()})


def checked(octets: bytes) -> bytes:
    """A frame as the program zstd writes it: its checksum comes behind the last block."""
    return zstd_with(octets, checksum_flag=1)


def flushed(octets: bytes) -> bytes:
    """A frame of many small blocks, which does not tell its size."""
    maker = zstd().ZstdCompressor()
    blocks = [maker.compress(octets[at:at + 2000], mode=maker.FLUSH_BLOCK) for at in range(0, len(octets), 2000)]
    return b"".join(blocks) + maker.flush()


PACKED = [pytest.param(Gzip, gzip.compress, id=GZIP)]
PACKED += [pytest.param(kind, pack, id=f"{name}-{kind.__name__}", marks=marks)
           for kind, marks in ((Zstd, ()), (SystemZstd, pytest.mark.skipif(not is_there(), reason="no libzstd.so.1")))
           for name, pack in ((ZSTD, zstd_with), ("checksum", checked), ("blocks", flushed))]


class Pieces(io.RawIOBase):
    """Octets that come in these pieces; None: nothing has come for a moment."""

    def __init__(self, pieces: Iterator[bytes | None]) -> None:
        self._pieces = pieces

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        piece = next(self._pieces, b"")
        if piece is not None:
            buffer[:len(piece)] = piece
        return None if piece is None else len(piece)


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
@pytest.mark.parametrize("octets", [_RANDOM.randbytes(600), _RANDOM.randbytes(6000), b"x" * 9000], ids=len)
def test_an_early_end_of_octets_that_do_not_compress(kind: type, pack: Pack, octets: bytes) -> None:
    packed = pack(octets)
    for cut in range(1, len(packed)):
        found, fault = read(kind, packed[:cut])
        assert octets.startswith(found)
        assert fault == "it ends early"


@pytest.mark.parametrize(("kind", "pack"), PACKED)
def test_a_pipe_holds_nothing_back(kind: type, pack: Pack) -> None:
    """Whatever has come goes on, although the other side is silent then."""
    packed, buffer, octets = pack(OCTETS), bytearray(1 << 20), b""
    source = kind(Pieces(iter([packed, *[None] * 99])), is_pipe=True)
    while (count := source.readinto(memoryview(buffer))) is not None:
        octets += buffer[:count]
    assert octets == OCTETS


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


@pytest.mark.skipif(not is_there(), reason="no libzstd.so.1")
@pytest.mark.parametrize("damaged", [None, 0, -1])
def test_with_and_without_the_systems_library(damaged: int | None, monkeypatch: pytest.MonkeyPatch,
                                              tmp_path: Path) -> None:
    """The same octets come out, and of a fault the same is said; progress counts nothing twice."""
    first, second = bytearray(checked(OCTETS)), bytearray(checked(OCTETS[::-1]))
    if damaged is not None:  # what the second frame is, or its checksum
        second[damaged] ^= 0xFF
    packed = first + second
    (path := tmp_path / "x.zst").write_bytes(packed)
    found = []
    for name in (libzstd._NAME, "libzstd.so.none"):
        monkeypatch.setattr(libzstd, "_NAME", name)
        libzstd._library.cache_clear()
        read: list[int] = []
        with Source(path, on_progress=read.append) as source:
            buffer, octets = memoryview(bytearray(50_000)), b""
            while count := source.readinto(buffer):
                octets += buffer[:count]
            found.append((octets, source.fault, type(source._octets)))
        assert 0 < sum(read) <= len(packed)
    libzstd._library.cache_clear()
    (one, fault, kind), (other, other_fault, other_kind) = found
    assert (kind, other_kind) == (SystemZstd, Zstd)
    assert bool(fault) == bool(other_fault) == (damaged is not None)
    assert OCTETS + OCTETS[::-1] == one if damaged != 0 else one == OCTETS
    assert one.startswith(other)
    assert len(one) - len(other) < 1 << 17


@pytest.mark.skipif(not is_there(), reason="no libzstd.so.1")
def test_a_file_that_is_gone_when_its_fault_is_sought(tmp_path: Path) -> None:
    (path := tmp_path / "x.zst").write_bytes(checked(OCTETS) + b"no frame" * 9)
    with open(path, "rb", buffering=0) as raw:
        source, octets = SystemZstd(raw, is_pipe=False), memoryview(bytearray(len(OCTETS)))
        assert source.readinto(octets[:100]) == 100
        os.truncate(path, 0)
        assert source.readinto(octets) == len(OCTETS) - 100
        with pytest.raises(CompressionError, match="it ends early"):
            source.readinto(octets)
