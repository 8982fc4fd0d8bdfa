# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture, read and measured, as tables: what notebooks have in their hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import tables
from analysis.bounds import bounds
from analysis.capture_point import capture_points
from analysis.causes import causes
from analysis.checkpoints import checkpoint_rows
from analysis.explanation import explanation
from analysis.export import sync_row
from analysis.iterations import iterations
from analysis.memory import Memory
from analysis.pairs import in_order, pair_rows
from analysis.phases import Measured, backwards, measure
from analysis.proxy import message_rows, reasons
from analysis.reading import Reading
from analysis.segments import segments
from analysis.spans import numbers
from dissector.findings import Finding
from dissector.protocol import PAGE_SIZE

if TYPE_CHECKING:
    from analysis.plots import Plots


class Capture(Reading):
    """Tables of one capture.

    The properties are for people: times are timezone-aware timestamps (datetime64[ns, UTC], NaT
    unknown) in columns named without `_ns`.  `export` gives the same tables with integer ns, as
    the command writes them.
    """

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading.engine, reading.rows, reading.points, reading.messages, reading.page_table,
                         reading.conversation)

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
        """Neighbouring sync-points (`analysis.tables.pairs`); latency is timedelta64[ns]."""
        return stamped(self.export("pairs"))

    @property
    def checkpoints(self) -> pd.DataFrame:
        """Checkpoints, epochs, migrations (`analysis.checkpoints.checkpoint_rows`)."""
        return stamped(self.export("checkpoints"))

    @property
    def phases(self) -> pd.DataFrame:
        """Phases of checkpoints and epochs (`analysis.phases.phase_rows`); duration is timedelta64[ns]."""
        return stamped(self.export("phases"))

    @property
    def iterations(self) -> pd.DataFrame:
        """Iterations of live migrations over memory (`analysis.iterations.iterations`)."""
        return stamped(self.export("iterations"))

    @property
    def findings(self) -> pd.DataFrame:
        """What is wrong with the stream or its capture (`analysis.tables.findings`)."""
        return self.export("findings")

    @property
    def proxy(self) -> pd.DataFrame:
        """What a colo-proxy and the toolstack told each other (`analysis.proxy.message_rows`)."""
        return stamped(self.export("proxy"))

    @property
    def capture_points(self) -> pd.DataFrame:
        """How far both ends are (`analysis.capture_point.capture_points`).  ValueError if the capture was read
        without `segments=True`."""
        return self.export("capture_points")

    @property
    def bounds(self) -> pd.DataFrame:
        """What latencies are at both ends (`analysis.bounds.bounds`).  ValueError if the capture was read without
        `segments=True`."""
        return stamped(self.export("bounds"))

    @property
    def pages(self) -> pd.DataFrame:
        """Every PFN of every PAGE_DATA and dirty list (`analysis.pages.Pages.table`), and its checkpoint.
        ValueError if the capture was read without."""
        return self.export("pages")

    @cached_property
    def memory(self) -> Memory:
        """What the pages tell of the guest's memory.  ValueError if the capture was read without them."""
        return Memory(self.export("pages"), self.export("checkpoints"))

    @property
    def segments(self) -> pd.DataFrame:
        """TCP segments of our connections (`analysis.segments.segments`).  ValueError if the capture was
        read without `segments=True`."""
        return stamped(self.export("segments"))

    @property
    def parts(self) -> pd.DataFrame:
        """What each phase was made of (`analysis.causes.causes`); duration is timedelta64[ns].  ValueError if
        the capture was read without `segments=True`."""
        return stamped(self.export("parts"))

    @property
    def causes(self) -> pd.DataFrame:
        """What made phases long, with the frames that prove it (`analysis.causes.causes`); duration is
        timedelta64[ns].  ValueError if the capture was read without `segments=True`."""
        return stamped(self.export("causes"))

    @property
    def explanation(self) -> pd.DataFrame:
        """The causes over all checkpoints, what cost most in front (`analysis.explanation.explanation`)."""
        return self.export("explanation")

    def __repr__(self) -> str:
        return f"<Capture {', '.join(repr(file.text) for file in self.engine.files)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from analysis.report.glance import glance

        return glance(self)

    def latency(self) -> pd.DataFrame:
        """Statistics of each pair, in ms (`analysis.latency.latency`)."""
        return self.export("latency")

    @property
    def plot(self) -> Plots:
        """Charts (`analysis.plots.Plots`): `plot.timeline()`, `.ecdf()`, `.latency()`, `.heatmap()`.  Raises
        `CannotDo` if plotly is not installed."""
        from analysis.plots import Plots

        return Plots(self)

    def export(self, table: str, *, every: bool = False) -> pd.DataFrame:
        """A table by name, with integer ns.  `every`: connections that are not ours, too."""
        if table == "connections":
            return tables.connections(self.engine, self.export("records"),
                                      self.export("checkpoints"), every)
        if table == "findings":
            return self._per_file(tables.findings(self.all_findings))
        if table == "proxy":
            return self._per_file(tables.messages(self.conversation.messages), self.conversation)
        makers: dict[str, Callable[[], pd.DataFrame]] = {
            "records": lambda: tables.records(self.rows).assign(checkpoint=self._numbers),
            "syncs": lambda: self._syncs.copy(),
            "pairs": lambda: self._pairs.copy(), "latency": lambda: tables.latency(self._pairs),
            "checkpoints": lambda: self._measured[0].copy(),
            "phases": lambda: self._measured[1].copy(),
            "iterations": lambda: iterations(self._measure(), self._pages() if self.page_table else None),
            "pages": self._pages,
            "segments": lambda: self._segments.copy(),
            "capture_points": lambda: self._capture_points.copy(),
            "bounds": lambda: bounds(self._pairs, self.points, self._segments, self._capture_points),
            "parts": lambda: self._explained[0].copy(),
            "causes": lambda: self._explained[1].copy(),
            "explanation": lambda: explanation(*self._explained)}
        return self._per_file(makers[table]())

    @cached_property
    def _numbers(self) -> pd.Series:
        """Which checkpoint each record belongs to (Int64)."""
        found = np.full(len(self.rows), -1, np.int64)
        for connection in self.engine.ours():
            mine = self.rows["connection"] == connection.number
            found[mine] = numbers(connection, self.rows[mine])
        return pd.Series(pd.arrays.IntegerArray(found, found < 0))

    def _pages(self) -> pd.DataFrame:
        if self.page_table is None:
            raise ValueError("pages are kept by analysis.read, with coloscope's own engine")
        table = self.page_table.table(PAGE_SIZE)
        keys = ["connection", "direction", "stream_offset"]
        of = tables.records(self.rows).assign(checkpoint=self._numbers).set_index(keys)["checkpoint"]
        at = pd.MultiIndex.from_frame(table[keys])
        table.insert(1, "checkpoint", of.reindex(at).array)
        return table

    @cached_property
    def _capture_points(self) -> pd.DataFrame:
        return capture_points(self._segments)

    @cached_property
    def _segments(self) -> pd.DataFrame:
        return segments(self.engine)

    @cached_property
    def _explained(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return causes(self.engine, self.rows, self._measured[1])

    @cached_property
    def _syncs(self) -> pd.DataFrame:
        return tables.syncs(self.points)

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        return tables.pairs(pair_rows(self.points))

    @property
    def all_findings(self) -> list[Finding]:
        """Those of the engine, and what is wrong with checkpoints."""
        return self.engine.findings + self._measured[2]

    @cached_property
    def _measured(self) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
        """Checkpoints, their phases, and what is wrong with these."""
        measured = list(self._measure())
        rows = list(checkpoint_rows(measured, pair_rows(self.points)))
        why = pd.Series(reasons(rows, message_rows(self.conversation.messages)), dtype=object)
        return tables.checkpoints(rows).assign(reason=why), tables.phases(measured), list(backwards(measured))

    def _measure(self) -> Iterator[Measured]:
        return measure(self.engine.ours(), self.rows, map(sync_row, in_order(self.points)))

    def _per_file(self, frame: pd.DataFrame, reading: Reading | None = None) -> pd.DataFrame:
        """Frame numbers as each file counts them; with several files a column that names it."""
        files = (reading or self).engine.files
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


def stamped(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with timestamps for `*_ns` columns (timedeltas for latencies and durations)."""
    columns = {}
    for name, column in frame.items():
        if not str(name).endswith("_ns"):
            columns[name] = column
        elif str(name) in ("latency_ns", "duration_ns"):
            columns[str(name).removesuffix("_ns")] = pd.to_timedelta(column, unit="ns").astype("timedelta64[ns]")
        else:
            times = pd.to_datetime(column, unit="ns", utc=True)
            columns[str(name).removesuffix("_ns")] = times.astype("datetime64[ns, UTC]")
    return pd.DataFrame(columns)
