# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring of capture files being written: each complete by itself, the oldest goes when there are too many."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from dissector.container import Container
from dissector.errors import CannotDo
from dissector.packets import Packets
from dissector.sink import PACKET_OVERHEAD, Sink


class RecordingError(CannotDo):
    """A recording that cannot be made, or that has broken off; the message says why."""


class RingWriter:
    """Writes pcapng files named as dumpcap names those of a ring, PREFIX_00001_20261123120000.pcapng, which their
    owner alone may read.  One that has `octets` is full; beyond `files` of them the oldest is deleted.  Each says
    how many packets were dropped while it was written, if the capturing program does.

    The first file is there at once.  Raises RecordingError; nothing can be written any more then."""

    def __init__(self, prefix: str, files: int, octets: int) -> None:
        self._prefix, self._files, self._octets = prefix, files, octets
        self._paths: deque[str] = deque()
        self._number = 0
        self._drops: int | None = None
        self._drops_before = 0
        """Of files that are full."""
        with self._telling():
            self._sink: Sink | None = self._open()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._sink is None

    def write(self, packets: Packets, stays: np.ndarray, drops: int | None) -> None:
        """Write those packets of a block that stay.  `drops`: packets that the capturing program has lost so far;
        None: it does not say."""
        assert self._sink is not None
        assert packets.container is not None
        self._drops = drops
        left = np.flatnonzero(stays)
        with self._telling():
            while len(left):
                if self._sink.size >= self._octets:
                    self._close(self._sink)
                    self._sink = self._open()
                sizes = PACKET_OVERHEAD + (packets.captured[left] + 3) // 4 * 4
                count = int(sizes.cumsum().searchsorted(self._octets - self._sink.size)) + 1
                some = np.zeros(len(packets), np.bool_)
                some[left[:count]] = True
                self._sink.write(packets, some, packets.container)
                left = left[count:]
            self._sink.flush()

    def finish(self, drops: int | None) -> None:
        """Nothing more comes."""
        assert self._sink is not None
        self._drops = drops
        with self._telling():
            sink, self._sink = self._sink, None
            self._close(sink)

    def _open(self) -> Sink:
        self._number += 1
        self._paths.append(f"{self._prefix}_{self._number:05d}_{time.strftime('%Y%m%d%H%M%S')}.pcapng")
        sink = Sink(self._paths[-1], kind="pcapng", private=True)
        sink.describe(Container())
        sink.flush()
        if len(self._paths) > self._files:
            with contextlib.suppress(FileNotFoundError):  # somebody has tidied up
                os.unlink(self._paths.popleft())
        return sink

    def _close(self, sink: Sink) -> None:
        sink.finish(None if self._drops is None else self._drops - self._drops_before)
        self._drops_before = self._drops or 0
        sink.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._sink = None
            raise RecordingError(f"{self._paths[-1]}: {error.strerror or error}") from None
