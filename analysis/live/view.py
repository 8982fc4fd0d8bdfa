# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal view of a live session."""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import ClassVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.escape import printable
from analysis.latency import ORDER
from analysis.live.chart import chart, legend
from analysis.live.state import (
    CHECKPOINT,
    ENDED,
    FAILED_OVER,
    LIVE_MIGRATION,
    LOCKSTEP,
    SILENT,
    AlertState,
    ConnectionState,
    FindingState,
    Percentiles,
    SessionState,
)
from analysis.pairs import FIRST_BOOT, label
from analysis.words import counted
from dissector.errors import CannotDo
from dissector.findings import ERROR, NOTE, WARNING

try:
    from textual.app import App, ComposeResult
    from textual.binding import Binding, BindingType
    from textual.widgets import Footer, Static
except ImportError:
    raise CannotDo("the terminal view needs textual: pip install 'coloscope[live]'; "
                   "or take --format jsonl") from None

PICTURES_PER_SECOND = 10

_LISTED = 5
"""Connections in the list at once."""
_SAID = 4
"""Lines of findings and alerts."""

_STATE_STYLES = {LIVE_MIGRATION: "cyan", CHECKPOINT: "yellow", LOCKSTEP: "green", FAILED_OVER: "bold red",
                 SILENT: "bold red", ENDED: "dim"}
_SEVERITY_STYLES = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}


class View(App[None]):
    """Draws what `latest` gives, until the session has ended or somebody leaves with q or Ctrl-C.

    `latest` is called in the thread that runs the view, so it must give a finished snapshot at once."""

    TITLE = "coloscope live"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    Static { height: auto; width: 100%; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #head { background: $primary-background; text-style: bold; }
    #chart { height: 1fr; min-height: 6; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("down,j", "choose(1)", "Next connection"),
        Binding("up,k", "choose(-1)", "Previous connection"),
    ]

    def __init__(self, latest: Callable[[], SessionState]) -> None:
        super().__init__()
        self._latest = latest
        self._chosen: int | None = None
        """Number of the connection that is shown; None: the newest that has not ended."""
        self.state = latest()
        self._parts = {name: Static(id=name) for name in ("head", "list", "chosen", "chart", "pairs", "said")}

    def compose(self) -> ComposeResult:
        yield from self._parts.values()
        yield Footer()

    def on_mount(self) -> None:
        self.set_interval(1 / PICTURES_PER_SECOND, self.draw)
        self.call_after_refresh(self.draw)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)

    def action_choose(self, step: int) -> None:
        """Show another connection."""
        numbers = [connection.number for connection in self.state.connections]
        if (shown := self.shown) and len(numbers) > 1:
            self._chosen = numbers[(numbers.index(shown.number) + step) % len(numbers)]
            self.draw()

    @property
    def shown(self) -> ConnectionState | None:
        """The connection that the lower part is about."""
        connections = self.state.connections
        chosen = [c for c in connections if c.number == self._chosen]
        running = [c for c in connections if c.state not in (ENDED, FAILED_OVER)]
        return next(iter(chosen or running[-1:] or connections[-1:]), None)

    def draw(self) -> None:
        """Take the latest snapshot and draw it."""
        self.state = state = self._latest()
        shown = self.shown
        parts = self._parts
        parts["head"].update(_head(state))
        parts["list"].update(_listed(state, shown))
        parts["said"].update(_said(state))
        if shown:
            parts["chosen"].update(_figures(shown).append("\n").append(legend(shown.checkpoints)))
            parts["chart"].update(chart(shown.checkpoints, *parts["chart"].content_size)
                                  if shown.checkpoints else Text("no checkpoint yet", "dim"))
            parts["pairs"].update(_pairs(shown) if shown.pairs else Text())
        if state.ended:
            self.exit()


def summary(state: SessionState, width: int = 100) -> str:
    """What is left when the view has gone: a latency table for each connection, the last findings and alerts."""
    console = Console(file=io.StringIO(), width=width)
    for connection in state.connections:
        console.print(Text(f"{_ends(connection)}: {doing(connection, state.now_ns)}, {_octets(connection.octets)}, "
                           f"{counted(connection.pages, 'page')}, {counted(connection.holes, 'hole')}"),
                      soft_wrap=True)
        if connection.pairs:
            console.print(_pairs(connection, is_total=True))
    for line in (*map(_finding, state.findings[-_SAID:]), *map(_alert, state.alerts[-_SAID:])):
        console.print(line, soft_wrap=True)
    console.print(Text(f"{counted(state.packets, 'packet')}, {_drops(state)}; {printable(state.ended)}"),
                  soft_wrap=True)
    return console.file.getvalue()  # type: ignore[attr-defined]


def doing(connection: ConnectionState, now_ns: int) -> str:
    """What a connection is doing, in words: "checkpoint 123 in memory for 45 ms"."""
    what = connection.state
    if connection.state == CHECKPOINT:
        number = "" if connection.checkpoint is None else f" {connection.checkpoint}"
        what += number + f" in {connection.phase}" * bool(connection.phase)
    elif connection.state == LOCKSTEP and connection.checkpoint is not None:
        what += f" after checkpoint {connection.checkpoint}"
    if connection.since_ns is None:
        return what
    since = _duration((now_ns - connection.since_ns) / 1e6)
    return f"{what} {since} ago" if connection.state in (ENDED, FAILED_OVER) else f"{what} for {since}"


def _head(state: SessionState) -> Text:
    time = f"{_time(state.now_ns)} UTC  " if state.now_ns else ""
    text = Text(f"coloscope live  {printable(state.source)}  {time}{_octets(state.octets_per_second)}/s  ")
    text.append(f"{_drops(state)}  ", "bold red" if state.drops else "")
    return text.append(counted(state.holes, "hole"), "bold red" if state.holes else "")


def _listed(state: SessionState, shown: ConnectionState | None) -> Text:
    if shown is None:
        return Text("no migration stream yet: it shows itself by what passes, so start one or wait for the "
                    "next checkpoint", "italic")
    at = state.connections.index(shown)
    first = max(0, min(at - _LISTED // 2, len(state.connections) - _LISTED))
    lines = []
    for connection in state.connections[first:first + _LISTED]:
        line = Text()
        line.append("▶ " if connection is shown else "  ", "bold")
        line.append(f"{_ends(connection)}  ", "bold" if connection is shown else "")
        lines.append(line.append(doing(connection, state.now_ns), _STATE_STYLES[connection.state]))
    return Text("\n").join(lines)


def _ends(connection: ConnectionState) -> str:
    return f"{connection.number}  {connection.primary} → {connection.secondary}  {connection.kind}".rstrip()


def _figures(connection: ConnectionState) -> Text:
    pages = connection.pages_per_checkpoint
    return Text().append(
        f"{_octets(connection.octets_per_second)}/s  {_octets(connection.octets)}  "
        + (f"{pages:.0f} dirty pages per checkpoint  " if pages is not None else "")).append(
        counted(connection.holes, "hole"), "bold red" if connection.holes else "")


def _pairs(connection: ConnectionState, is_total: bool = False) -> Table:
    """Percentiles: in the window and since the session began, or all since then."""
    table = Table(box=box.SIMPLE_HEAD if is_total else None, pad_edge=False, padding=(0, 1, 0, 0),
                  header_style="bold")
    table.add_column("pair, ms", no_wrap=True)
    for heading in ("count", "p50", "p95", "p99", "max") if is_total else (
            "now p50", "p95", "p99", "all p50", "p95", "p99", "max", "count"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in sorted(connection.pairs, key=lambda pair: ORDER[pair.phase, pair.name, pair.to]):
        all_of = [f"{pair.total.count}", *_percentiles(pair.total), _ms(pair.total.max_ms)]
        if is_total:
            table.add_row(label(pair.name, pair.to, pair.phase), *all_of)
        elif pair.phase != FIRST_BOOT:  # which comes once: there are no percentiles of it
            table.add_row(label(pair.name, pair.to), *_percentiles(pair.window), *all_of[1:], all_of[0])
    return table


def _percentiles(of: Percentiles) -> list[str]:
    return [_ms(value) for value in (of.p50_ms, of.p95_ms, of.p99_ms)]


def _said(state: SessionState) -> Text:
    """The last alerts and findings; alerts first, they are what somebody asked to be told."""
    lines = [*map(_alert, state.alerts[-_SAID:][::-1]), *map(_finding, state.findings[::-1])][:_SAID]
    return Text("\n").join(lines) if lines else Text("no alerts, no findings", "dim")


def _alert(alert: AlertState) -> Text:
    return _line(f"ALERT {_time(alert.time_ns)}", alert.text, "bold red")


def _finding(finding: FindingState) -> Text:
    return _line(finding.rule, finding.text, _SEVERITY_STYLES[finding.severity])


def _line(what: str, text: str, style: str) -> Text:
    return Text().append(printable(what), style).append(f"  {printable(text)}")


def _time(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%H:%M:%S}"


def _drops(state: SessionState) -> str:
    return "drops not known" if state.drops is None else counted(state.drops, "drop")


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.{2 - (value >= 10) - (value >= 100)}f}"


def _duration(ms: float) -> str:
    for limit, unit, name in ((1000, 1, "ms"), (120_000, 1000, "s"), (7_200_000, 60_000, "min")):
        if ms < limit:
            return f"{ms / unit:.1f} {name}" if name == "s" and ms < 10_000 else f"{ms / unit:.0f} {name}"
    return f"{ms / 3_600_000:.0f} h"


def _octets(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"
