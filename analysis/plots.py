# SPDX-License-Identifier: GPL-2.0-or-later
"""Charts of a capture, as Plotly figures.

They are transparent and their text is of a grey that can be read on white and on black.  Colours are
those of Okabe and Ito, which people who confuse red and green tell apart, and lines differ in their
dashes, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd

from analysis.capture import Capture
from analysis.display_filter import of_frames
from analysis.pairs import label
from analysis.phases import NAMES
from dissector.errors import CannotDo
from dissector.protocol import PAGE_DATA, XEN_COLO

try:
    import plotly.graph_objects as go
except ImportError:
    raise CannotDo("charts need plotly: pip install 'coloscope[report]'") from None

PAIRS, OF_PHASES = "pairs", "phases"
"""What `Plots.ecdf` may be of."""

_BLUE, _SKY, _YELLOW, _ORANGE, _VERMILION, _PURPLE, _GREEN, _MAGENTA, _GREY = (
    "#0072b2", "#56b4e9", "#e8d630", "#e69f00", "#d55e00", "#cc79a7", "#009e73", "#aa3377", "#9a9a9a")
_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _VERMILION, _SKY, _GREY)
_OF_PHASE = dict(zip(NAMES, (
    _BLUE, _SKY, _YELLOW, _ORANGE, _VERMILION, _PURPLE, _GREEN, _MAGENTA, _GREY, _GREY), strict=True))
"""Grey: while the VM runs."""
MEMORY = next(boundary.phase for boundary in XEN_COLO.boundaries if boundary.structure is PAGE_DATA)
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon", "pentagon")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_TEXT, _LINES = "#767676", "rgba(128,128,128,0.28)"
_MS = pd.Timedelta(1, "ms")
_FEW = 12
"""So many checkpoints get a number each."""
_WIDTH = 0.88
_BARS = 1000
"""Bars of a time line; more checkpoints are shown as means of neighbours."""
_MARKS = 9
"""On the axis of a heat map."""
_POINTS = 2000
"""Points of a line; an ECDF of more values is drawn through as many of them."""


class Plots:
    """Charts of one capture: `Capture.plot`.  Each method takes `connection`, the number of one; without
    it, there must be only one.  Raises `CannotDo` if there are several, or no such."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def ecdf(self, of: str = PAIRS, connection: int | None = None) -> go.Figure:
        """Which share of the pairs ("pairs") or phases ("phases") took at most so long; phases without
        those of checkpoint 0, the initial transfer.  The axis is logarithmic; 0 ms (both in one
        frame) and less (a clock that steps back) stand at its left end."""
        if of not in (PAIRS, OF_PHASES):
            raise CannotDo(f"an ECDF is of {PAIRS!r} or {OF_PHASES!r}, not of {of!r}")
        number = self._one(connection)
        groups = self._pairs(number) if of == PAIRS else self._of_phases(number)
        figure = _figure("share of all", "ms, logarithmic")
        every = np.concatenate([rows["ms"] for _, rows, _ in groups]) if groups else np.zeros(0)
        floor = _floor(every)
        for (name, rows, colour), dash in zip(groups, cycle(_DASHES), strict=False):
            values, n = rows["ms"].to_numpy(), len(rows)
            at = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int))
            values, share = np.sort(values)[at], (at + 1) / n
            figure.add_scatter(
                x=[max(values[0], floor), *np.maximum(values, floor)], y=[0, *share],
                customdata=[values[0], *values], name=f"{name} ({n})", mode="lines",
                line={"shape": "hv", "color": colour, "width": 2, "dash": dash},
                hovertemplate="%{y:.0%} take at most %{customdata:.3f} ms<extra>" + escape(name) + "</extra>")
        if len(every):
            figure.update_xaxes(**_decades(every, floor))
        figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
        return _or_empty(figure, f"no {of} were measured")

    def timeline(self, connection: int | None = None) -> go.Figure:
        """The phases of each checkpoint (COLO) or epoch (Remus) on top of each other, in ms; of a plain
        migration its iterations and what comes behind them.  Each part tells its frames as a display filter of
        Wireshark.  The view begins behind checkpoint 0, which is the initial transfer; a double click shows
        everything.  Of more than 1,000 checkpoints neighbours are drawn as their mean."""
        number = self._one(connection)
        phases = measured_phases(self._capture, number)
        if not phases["checkpoint"].any():
            return self._steps(number, phases)
        figure = _figure("ms", "checkpoint", barmode="stack", bargap=0.12)
        size = math.ceil(phases["checkpoint"].nunique() / _BARS)
        for phase, mine in phases.groupby("phase", observed=True):
            rows = list(_binned(mine, size))
            _add_bars(figure, str(phase), _OF_PHASE[phase], [row[0] for row in rows], [row[1] for row in rows],
                      [row[2:] for row in rows], width=size * _WIDTH)
        totals = phases.groupby("checkpoint")["ms"].sum()
        if len(totals) <= _FEW:
            figure.update_xaxes(dtick=1)
        figure.update_xaxes(range=[0.5, max(totals.index) + 0.5])
        figure.update_yaxes(range=[0, totals[totals.index > 0].max() * 1.05])
        return figure

    def _steps(self, number: int, phases: pd.DataFrame) -> go.Figure:
        """The phases of what has no checkpoints, one behind the other; iterations in place of what they make up."""
        figure = _figure("ms", "", showlegend=False)
        iterations = self._capture.iterations
        iterations = iterations[(iterations["connection"] == number) & iterations["duration"].notna()]
        steps = [(f"iteration {row['iteration']}", _OF_PHASE[MEMORY], row) for row in iterations.to_dict("records")]
        steps += [(str(row["phase"]), _OF_PHASE[row["phase"]], row) for row in phases.to_dict("records")
                  if not steps or row["phase"] != MEMORY]
        for name, colour, row in steps:
            told = [(name, escape(of_frames(row, "begin_frame", "end_frame")))]
            _add_bars(figure, name, colour, [name], [row["duration"] / _MS], told, texttemplate="%{y:.0f}",
                      textposition="outside")
        return _or_empty(figure, "neither phases nor iterations were measured")

    def latency(self, connection: int | None = None) -> go.Figure:
        """Latency of each pair over the time at which it ended; of Remus, which has none, each phase."""
        number = self._one(connection)
        figure = _figure("ms", "time (UTC)")
        groups = self._pairs(number) or self._of_phases(number)
        for (name, rows, colour), symbol in zip(groups, cycle(_SYMBOLS), strict=False):
            figure.add_scatter(
                x=rows["time"].dt.tz_localize(None), y=rows["ms"], name=name, mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 6},
                customdata=list(zip(rows["checkpoint"].astype("string").fillna("not numbered"),
                                    rows["filter"].map(escape), strict=True)),
                hovertemplate="checkpoint %{customdata[0]}: %{y:.3f} ms<br>%{customdata[1]}<extra>"
                              + escape(name) + "</extra>")
        return _or_empty(figure, "no latencies were measured")

    def heatmap(self, connection: int | None = None) -> go.Figure:
        """How many pages of each range of PFNs each checkpoint sent (`analysis.memory.Memory.heat`), without
        checkpoint 0, which sends everything.  Ranges of which nothing was sent are left out."""
        number = self._one(connection)
        figure = _figure("PFN", "checkpoint", showlegend=False)
        heat = self._capture.memory.heat(number) if self._capture.page_table is not None else pd.DataFrame()
        if len(heat) and len(heat.columns) > 1:
            _draw_heatmap(figure, heat)
        return _or_empty(figure, "there are no pages of several checkpoints")

    def _one(self, connection: int | None) -> int:
        ours = [found.number for found in self._capture.engine.ours()]
        known = ", ".join(map(str, ours)) or "none"
        if connection is None and len(ours) == 1:
            return ours[0]
        if connection not in ours:
            wanted = "which connection?" if connection is None else f"there is no connection {connection};"
            raise CannotDo(f"{wanted} the capture has {known}")
        return connection

    def _pairs(self, number: int) -> list[tuple[str, pd.DataFrame, str]]:
        """(name, rows with time, ms, checkpoint, filter; colour) of each pair."""
        pairs = self._capture.pairs
        pairs = pairs[(pairs["connection"] == number) & (pairs["reason"] == "")]
        table = self._capture.latency()
        names = list(dict.fromkeys(map(label, table["from"], table["to"], table["phase"])))
        pairs = pairs.assign(time=pairs["to_delivered"], ms=pairs["latency"] / _MS, name=pd.Categorical(
            list(map(label, pairs["from"], pairs["to"], pairs["phase"])), names))
        return _groups(pairs, "name", dict(zip(names, cycle(_COLOURS), strict=False)),
                       "from_frame", "to_frame")

    def _of_phases(self, number: int) -> list[tuple[str, pd.DataFrame, str]]:
        """The same of each phase, without checkpoint 0: the initial transfer is of another size."""
        phases = measured_phases(self._capture, number)
        return _groups(phases[phases["checkpoint"] > 0].assign(time=lambda rows: rows["end"]), "phase",
                       _OF_PHASE, "begin_frame", "end_frame")


def measured_phases(capture: Capture, number: int) -> pd.DataFrame:
    """The phases of a connection whose duration and checkpoint are known, with `ms`."""
    phases = capture.phases
    phases = phases[(phases["connection"] == number) & phases["duration"].notna() & phases["checkpoint"].notna()]
    return phases.assign(ms=phases["duration"] / _MS, checkpoint=phases["checkpoint"].astype("int64"))


def _draw_heatmap(figure: go.Figure, heat: pd.DataFrame) -> None:
    firsts, many = heat.index.tolist(), heat.attrs["pfns"]
    names = [f"{first:#x}" if many == 1 else f"{first:#x} to {first + many - 1:#x}" for first in firsts]
    marked = np.unique(np.linspace(0, len(firsts) - 1, min(len(firsts), _MARKS)).astype(int)).tolist()
    # Rows stand one above the other, whatever gaps the guest's PFNs have.
    figure.add_heatmap(
        z=heat.astype("float64").where(heat > 0), x=heat.columns.to_numpy(), colorscale=[_SKY, _ORANGE, _VERMILION],
        zmin=1, hoverongaps=False, colorbar={"title": {"text": "pages"}, "thickness": 12},
        text=[[name] * len(heat.columns) for name in names],
        hovertemplate="checkpoint %{x}<br>PFN %{text}<br>pages: %{z}<extra></extra>")
    figure.update_yaxes(tickvals=marked, ticktext=[f"{firsts[i]:#x}" for i in marked])


def _add_bars(figure: go.Figure, name: str, colour: str, x: Sequence[float | str], y: list[float],
              told: Sequence[tuple[str, ...]], **options: Any) -> None:
    """Bars; `told` has of each where it stands and its filter."""
    what = str(figure.layout.xaxis.title.text)
    figure.add_bar(
        x=x, y=y, name=name, marker={"color": colour, "line": {"width": 0}}, customdata=told,
        hovertemplate=f"{what} %{{customdata[0]}}<br>{name * bool(what)} %{{y:.3f}} ms<br>%{{customdata[1]}}"
                      "<extra></extra>", **options)


def _groups(rows: pd.DataFrame, by: str, colours: dict[str, str], first: str,
            last: str) -> list[tuple[str, pd.DataFrame, str]]:
    rows = rows.assign(filter=[of_frames(row, first, last) for row in rows.to_dict("records")])
    return [(str(name), mine, colours.get(str(name), _GREY))
            for name, mine in rows.groupby(by, observed=True)]


def _binned(rows: pd.DataFrame, size: int) -> Iterator[tuple[float, float, str, str]]:
    """(place, ms, checkpoints, filter) of each `size` neighbouring checkpoints of one phase."""
    for _, mine in rows.groupby(rows["checkpoint"] // size):
        begin, end = mine["checkpoint"].min(), mine["checkpoint"].max()
        ends = {**mine.iloc[0], **{name: mine[name].iloc[-1] for name in mine if str(name).startswith("end_")}}
        yield ((begin + end) / 2, mine["ms"].mean(), str(begin) if size == 1 else f"{begin} to {end}, mean",
               escape(of_frames(ends, "begin_frame", "end_frame")))


def _floor(values: np.ndarray) -> float:
    """Where a logarithmic axis shows what is not above 0: half a decade in front of the rest."""
    above = values[values > 0]
    return float(above.min() / 10 ** 0.5) if len(above) else 1.0


def _decades(values: np.ndarray, floor: float) -> dict[str, Any]:
    """A logarithmic axis with marks at 1, 2 and 5 (at 1 only, if there are many decades), and one for
    what is not above 0."""
    low, high = math.floor(math.log10(floor)), math.ceil(math.log10(max(values.max(), floor * 10)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    marks = [step * 10.0 ** power for power in range(low, high + 1) for step in steps]
    lowest = values.min()
    shown = {mark: f"{mark:g}" for mark in marks if mark > floor * 1.2}
    if lowest <= 0:
        shown = {floor: "0" if lowest == 0 else "≤ 0", **shown}
    return {"type": "log", "tickmode": "array", "tickvals": list(shown), "ticktext": list(shown.values()),
            "range": [math.log10(floor) - 0.05, math.log10(max(values.max(), floor * 10)) + 0.05]}


def _figure(y: str, x: str, **layout: Any) -> go.Figure:
    axis = {"gridcolor": _LINES, "zerolinecolor": _LINES, "linecolor": _LINES, "automargin": True}
    return go.Figure(layout={
        "template": None, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": _TEXT, "size": 12}, "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "traceorder": "normal"},
        "xaxis": {**axis, "title": {"text": x}}, "yaxis": {**axis, "title": {"text": y}},
        "showlegend": True, "hovermode": "closest", **layout})


def _or_empty(figure: go.Figure, why: str) -> go.Figure:
    """The figure, with a word on why there is nothing to see, if so."""
    if not figure.data:
        figure.add_annotation(text=why, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    return figure
