# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture, read and measured: the door for notebooks and for the command."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from analysis import tables
from analysis.checkpoints import checkpoints, numbers
from analysis.latency import latency
from analysis.pairs import pairs
from dissector.engine import Engine
from dissector.findings import NOTE, Finding
from dissector.recognise import COLO_PROXY, ENCRYPTED, QEMU_COLO
from dissector.syncpoints import Sync


class Capture:
    """Tables of one capture.

    The properties are for people: times are timezone-aware timestamps (datetime64[ns, UTC], NaT
    unknown) in columns named without `_ns`.  `export` gives the same tables with integer ns, as
    the command writes them.
    """

    def __init__(self, engine: Engine, rows: np.ndarray, syncs: list[Sync]) -> None:
        self.engine = engine
        self._rows = rows
        self._syncs = tables.syncs(syncs)

    @property
    def connections(self) -> pd.DataFrame:
        """Connections that carry one of our streams (`analysis.tables.connections`)."""
        return self.export("connections")

    @property
    def records(self) -> pd.DataFrame:
        """Every record (`analysis.tables.records`), and the number of its checkpoint."""
        return stamped(self.export("records"))

    @property
    def syncs(self) -> pd.DataFrame:
        """Every sync-point (`analysis.tables.syncs`)."""
        return stamped(self.export("syncs"))

    @property
    def pairs(self) -> pd.DataFrame:
        """Neighbouring sync-points (`analysis.pairs.pairs`); latency is timedelta64[ns]."""
        return stamped(self.export("pairs"))

    @property
    def checkpoints(self) -> pd.DataFrame:
        """Checkpoints, epochs, migrations (`analysis.checkpoints.checkpoints`)."""
        return stamped(self.export("checkpoints"))

    @property
    def findings(self) -> pd.DataFrame:
        """What is wrong with the stream or its capture (`analysis.tables.findings`)."""
        return self.export("findings")

    def latency(self) -> pd.DataFrame:
        """Statistics of each pair, in ms (`analysis.latency.latency`)."""
        return self.export("latency")

    def export(self, table: str, *, every: bool = False) -> pd.DataFrame:
        """A table by name, with integer ns.  `every`: connections that are not ours, too."""
        if table == "connections":
            return tables.connections(self.engine, self.export("records"),
                                      self.export("checkpoints"), every)
        if table == "findings":
            return self._per_file(tables.findings(self.engine.findings + self._checkpoints_found[1]))
        frame: pd.DataFrame = {
            "records": lambda: tables.records(self._rows).assign(checkpoint=self._numbers),
            "syncs": lambda: self._syncs.copy(),
            "pairs": lambda: self._pairs.copy(), "latency": lambda: latency(self._pairs),
            "checkpoints": lambda: self._checkpoints.copy()}[table]()
        return self._per_file(frame)

    @cached_property
    def _numbers(self) -> pd.Series:
        """Which checkpoint each record belongs to (Int64)."""
        found = np.full(len(self._rows), -1, np.int64)
        for connection in self.engine.ours():
            mine = self._rows["connection"] == connection.number
            found[mine] = numbers(connection, self._rows[mine])
        return pd.Series(pd.arrays.IntegerArray(found, found < 0))

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        return pairs(self._syncs)

    @property
    def _checkpoints(self) -> pd.DataFrame:
        return self._checkpoints_found[0]

    @cached_property
    def _checkpoints_found(self) -> tuple[pd.DataFrame, list[Finding]]:
        return checkpoints(self.engine, self._rows, self._syncs, self._pairs)

    def _per_file(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Frame numbers as each file counts them; with several files a column that names it."""
        files = self.engine.files
        if len(files) < 2:
            return frame
        starts = np.array([file.first for file in files])
        for name in [name for name in frame if str(name).endswith("frame")]:
            at = starts.searchsorted(frame[name].to_numpy("int64", na_value=1), "right") - 1
            where = np.array([file.text for file in files], object)[at]
            where[frame[name].isna()] = None
            frame[name] = frame[name] - starts[at] + 1
            column = str(name).removesuffix("frame") + "file"
            frame.insert(frame.columns.get_loc(name), column, where)
        return frame

    def found_instead(self) -> str:
        """One line on a capture in which nothing is ours."""
        engine = self.engine
        count = engine.streams.count
        packets = sum(file.packets for file in engine.files)
        if not count:
            why = "; ".join(f.text for f in engine.findings if f.severity != NOTE)
            return f"no TCP connection in {packets} packets" + (f"; {why}" if why else "")
        parts = [f"{count} TCP connection{'s'[:count != 1]}, none carries a Xen migration stream"]
        seen: dict[str, str] = {}
        for number in range(count):
            if (kind := engine.seems(number)) not in seen:
                ends = [engine.streams.endpoint(number, side) for side in (0, 1)]
                seen[kind] = min(ends, key=lambda end: int(end.rpartition(":")[2]))
        for kind, end in seen.items():
            if kind in ENCRYPTED:
                parts.append(f"{end} is {kind}: xl's default transport encrypts the stream, see "
                             "README: capturing")
            elif kind == QEMU_COLO:
                parts.append(f"{end} is {kind}, another protocol")
            elif kind == COLO_PROXY:
                parts.append(f"{end} is {kind}: capture the replication link as well")
        return "; ".join(parts)


def stamped(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with timestamps for `*_ns` columns (timedeltas for latencies)."""
    columns = {}
    for name, column in frame.items():
        if not str(name).endswith("_ns"):
            columns[name] = column
        elif str(name) == "latency_ns":
            columns["latency"] = pd.to_timedelta(column, unit="ns").astype("timedelta64[ns]")
        else:
            times = pd.to_datetime(column, unit="ns", utc=True)
            columns[str(name).removesuffix("_ns")] = times.astype("datetime64[ns, UTC]")
    return pd.DataFrame(columns)
