# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured, and how it compares with what is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarks.readers import PIGZ, TCPDUMP, ZSTD
from benchmarks.run import Usage

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Measured:
    """`coloscope latency` on one capture."""

    name: str
    text: str
    size: int
    """Octets of the capture, not compressed."""
    packets: int
    records: int
    syncs: int
    ours: Usage
    yardstick: str
    """The program that it is held against."""
    base_size: int
    base: Usage | None
    """coloscope on the capture that this one is compared with, in the same rounds."""
    others: dict[str, Usage]
    """Other programs on the same capture, in the same rounds."""

    @property
    def ratio(self) -> float | None:
        """Time, against the yardstick."""
        other = self.others.get(self.yardstick)
        return self.ours.ratio(other) if other else None

    @property
    def against_base(self) -> float | None:
        """Time for each octet, against the base."""
        return self.ours.ratio(self.base) / (self.size / self.base_size) if self.base else None


class Line(NamedTuple):
    """time = start-up + slope × size, as fast as the machine was for the base."""

    startup: float
    slope: float
    """Seconds for each GB."""
    deviation: float
    """The largest, as a share of the time."""


class Target(NamedTuple):
    """Something that is wanted: at most `limit`."""

    text: str
    limit: float
    unit: str
    figure: float | None
    """None: not measured."""

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        return None if self.figure is None else self.figure <= self.limit


@dataclass
class Results:
    """All that was measured."""

    startup: dict[str, Usage]
    rows: list[Measured] = field(default_factory=list)
    readers: list[tuple[str, int, Usage]] = field(default_factory=list)
    """(name, octets, usage) of other programs."""

    def sizes(self) -> list[Measured]:
        """The same kind of capture in several sizes, ascending."""
        return sorted((row for row in self.rows if row.name == self.rows[0].name), key=lambda row: row.size)

    def line(self) -> Line | None:
        """The line that is nearest to the times of all sizes, each by its share."""
        rows = self.sizes()
        if len(rows) < 3:
            return None
        # Each by its ratio to the base, which ran in the same rounds.
        sizes, times = np.array([[row.size / GIGABYTE, self.rows[0].ours.seconds * row.ours.ratio(row.base)
                                  if row.base else row.ours.seconds] for row in rows]).T
        slope, startup = np.polyfit(sizes, times, 1, w=1 / times)
        return Line(startup, slope, float(np.abs((startup + slope * sizes) / times - 1).max()))

    def octets_per_record(self) -> float | None:
        """How much the peak grows with each record, from the smallest to the largest size."""
        least, most = self.sizes()[0], self.sizes()[-1]
        if least is most:
            return None
        return (most.ours.peak - least.ours.peak) / (most.records - least.records)

    def targets(self) -> Iterator[Target]:
        """What is wanted, and what was measured."""
        sizes = {round(row.size / GIGABYTE, 1): row for row in self.sizes()}
        middle, large = sizes.get(1.7), sizes.get(7.0)
        by_name = {row.name: row for row in self.rows}
        for gigabytes, row, limit in ((1.7, middle, 1.3), (7, large, 0.7)):
            yield Target(f"{TCPDUMP} -w /dev/null, {gigabytes} GB", limit, "×", row.ratio if row else None)
        for name in ("--help", "--version"):
            yield Target(f"coloscope {name}", 0.15, "s", self.startup[name].seconds)
        line = self.line()
        yield Target("distance from start-up + slope × size", 10, "%", 100 * line.deviation if line else None)
        for name, limit in (("connections", 1.3), ("loss", 1.3), ("ipv6", 1.2), ("vlan", 1.2), ("sll2", 1.2),
                            ("pcapng", 1.2), ("tls", 1.0), ("unknown", 1.0), ("strangers", 1.0), ("small", 1.0)):
            other = by_name.get(name)
            yield Target(f"{name} against {self.rows[0].name}", limit, "×", other.against_base if other else None)
        yield Target("largest peak of all", 300, "MB", max(usage.peak for usage in (
            *self.startup.values(), *(row.ours for row in self.rows))) / 1e6)
        yield Target("peak, 7 GB against 1.7 GB", 1.1, "×",
                     large.ours.peak / middle.ours.peak if large and middle else None)
        for name, program in (("gzip", f"{PIGZ} -dc"), ("zstd", f"{ZSTD} -dc")):
            other = by_name.get(name)
            yield Target(f"{name} against {program}", 1.2, "×", other.ratio if other else None)
