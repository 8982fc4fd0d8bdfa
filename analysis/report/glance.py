# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture at a glance, as HTML for a cell of a notebook; needs nothing but the tables."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from analysis.capture import Capture
from analysis.report import basis
from analysis.tables import plain
from analysis.terminal import grid
from analysis.verdict import verdict


def glance(capture: Capture) -> str:
    """Verdict, what it rests on, and latencies in ms."""
    return "".join(_parts(capture))


def _parts(capture: Capture) -> Iterator[str]:
    yield _facts(basis.of_capture(capture))
    latency = capture.export("latency")
    for connection in capture.engine.ours():
        number = connection.number
        yield f"<h4>Connection {number}</h4>"
        yield "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(capture, number))
        yield _facts(basis.of_connection(capture, number))
        mine = latency[latency["connection"] == number]
        if len(mine):
            columns = [column for column in grid(plain(mine), "latency") if any(column[2])]
            rows = zip(*(cells for _, _, cells in columns), strict=True)
            yield _table([heading for heading, _, _ in columns], rows)


def _facts(lines: basis.Lines) -> str:
    return _table([], lines)


def _table(headings: list[str], rows: Iterator[tuple[str, ...]] | basis.Lines) -> str:
    head = f"<thead>{_row('th', headings)}</thead>" if headings else ""
    return f"<table>{head}<tbody>{''.join(_row('td', row) for row in rows)}</tbody></table>"


def _row(tag: str, cells: list[str] | tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
