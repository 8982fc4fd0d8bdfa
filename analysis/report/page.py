# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.capture import Capture
from analysis.escape import printable
from analysis.plots import OF_PHASES, PAIRS, Plots
from analysis.report import basis, sections
from analysis.tables import plain
from analysis.terminal import grid
from analysis.verdict import verdict
from dissector.errors import CannotDo

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.graph_objects import Figure
    from plotly.offline import get_plotlyjs
except ImportError:
    raise CannotDo("the report needs jinja2 and plotly: pip install 'coloscope[report]'") from None

_ENDINGS = (".zst", ".gz", ".pcap", ".pcapng", ".cap")
_CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


@dataclass(frozen=True, slots=True)
class _Chart:
    """A figure with its heading and what one must know to read it."""

    heading: str
    caption: str
    name: str
    figure: Figure

    @property
    def html(self) -> Markup:
        return Markup(self.figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG,
                                          default_height="100%", div_id=self.name))


def page(capture: Capture) -> str:
    """The report on a capture that was read with `segments=True` and pages; the same capture gives the same
    page, octet by octet."""
    environment = Environment(loader=PackageLoader("analysis.report", "."), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        files=[printable(file.text) for file in capture.engine.files],
        basis=basis.of_capture(capture), findings=_rows(capture.export("findings"), "findings"),
        connections=[_connection(capture, connection.number) for connection in capture.engine.ours()],
        plotly=Markup(get_plotlyjs()))


def page_name(files: Sequence[str]) -> str:
    """What the page of these files is called, if nobody says: after the first, without its endings."""
    name = Path(files[0]).name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return f"{'stdin' if name == '-' else name}.html"


def _rows(frame: pd.DataFrame, table: str) -> list[tuple[str, bool, list[str]]]:
    """Columns of cells, without those in which nothing stands."""
    return [column for column in grid(plain(frame), table) if any(column[2])] if len(frame) else []


def _connection(capture: Capture, number: int) -> dict[str, Any]:
    latency = capture.export("latency")
    iterations = capture.export("iterations")
    return {"number": number, "verdict": verdict(capture, number), "basis": basis.of_connection(capture, number),
            "latency": _rows(latency[latency["connection"] == number], "latency"),
            "phases": _rows(sections.phases(capture, number), "phase statistics"),
            "slowest": _rows(sections.slowest(capture, number), "slowest"),
            "iterations": _rows(iterations[iterations["connection"] == number], "iterations"),
            "charts": _with_something_in_it(_times(capture.plot, number)),
            "causes": _rows(sections.causes(capture, number), "causes of latency"),
            "savings": _rows(sections.savings(capture, number), "savings"),
            "memory": _with_something_in_it(_memory(capture.plot, number))}


def _with_something_in_it(charts: Iterator[_Chart]) -> list[_Chart]:
    return [chart for chart in charts if chart.figure.data]


def _times(plot: Plots, number: int) -> Iterator[_Chart]:
    yield _Chart("How the latencies are distributed", "The share of all that took at most so long.",
                 f"ecdf-pairs-{number}", plot.ecdf(PAIRS, number))
    yield _Chart(
        "How the phases are distributed", "The share of all that took at most so long. Checkpoint 0 is left out.",
        f"ecdf-phases-{number}", plot.ecdf(OF_PHASES, number))
    yield _Chart(
        "Where the time went", "Each bar is a checkpoint of COLO, an epoch of Remus or an iteration of a plain "
        "migration. Drag to zoom, double-click for everything, checkpoint 0 included. A click on a part shows its "
        "frames as a display filter for Wireshark.", f"timeline-{number}", plot.timeline(number))
    yield _Chart("Latencies over time", "A click shows the frames between both ends.",
                 f"latency-{number}", plot.latency(number))


def _memory(plot: Plots, number: int) -> Iterator[_Chart]:
    yield _Chart(
        "Which memory was sent", "Rows are the PFNs that were sent, in their order. What goes through from left to "
        "right is sent again and again.", f"heatmap-{number}", plot.heatmap(number))
