# SPDX-License-Identifier: GPL-2.0-or-later
"""How often is a place found where none is?

    python benchmarks/false_finds.py GIGABYTES [FILE...]

Seeks the place in so many octets of chance, and in the files (memory dumps, images, libraries), as if
they were one direction of a connection that nobody saw begin, in segments of 1448 octets.  Prints
candidates, finds that were proven, and throughput.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np

from dissector.passage import Passage
from dissector.seeker import Seeker
from dissector.streams import RANGE_COLUMNS, Run
from dissector.turns import Turns

BLOCK = 1448 << 12


def runs(blocks: Iterator[np.ndarray]) -> Iterator[Run]:
    """Blocks as runs of segments, each in a frame of its own."""
    offset = frame = 0
    for block in blocks:
        starts = np.arange(0, len(block), 1448)
        rows = np.zeros((len(starts), RANGE_COLUMNS), np.int64)
        sizes = np.minimum(1448, len(block) - starts)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = offset + starts, sizes, sizes, starts
        rows[:, 4] = frame + 1 + np.arange(len(starts))
        rows[:, 5] = 1_000 * rows[:, 4]
        yield Run(rows, np.zeros((0, 3), np.int64), block, np.zeros(0, np.uint8))
        offset, frame = offset + len(block), frame + len(starts)


def chance(size: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    for _ in range(0, size, BLOCK):
        yield np.frombuffer(rng.bytes(BLOCK), np.uint8)


def contents(names: list[str]) -> Iterator[np.ndarray]:
    for name in names:
        with open(name, "rb") as file:
            while block := file.read(BLOCK):
                yield np.frombuffer(block, np.uint8)


class Counted(Seeker):
    tried = 0

    def _try(self, *arguments: object) -> None:
        self.tried += 1
        super()._try(*arguments)  # type: ignore[arg-type]


def measure(what: str, blocks: Iterator[np.ndarray]) -> None:
    seeker, turns, octets, found, begin = Counted("", Passage()), Turns(), 0, 0, time.process_time()
    for run in runs(blocks):
        octets += len(run.data)
        trial = seeker.feed(run, turns)
        found += trial is not None
        seeker.trials = [t for t in seeker.trials if t is not trial]
    found += seeker.finish() is not None
    seconds = time.process_time() - begin
    print(f"{what}: {octets / 1e9:.1f} GB, {seeker.tried} candidates, {found} proven, "
          f"{octets / seconds / 1e6:.0f} MB/s")


def main() -> None:
    measure("warming up", chance(BLOCK))
    measure("chance", chance(int(float(sys.argv[1]) * 1e9)))
    if sys.argv[2:]:
        measure("files", contents(sys.argv[2:]))


if __name__ == "__main__":
    main()
