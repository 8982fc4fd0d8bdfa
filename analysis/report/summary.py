# SPDX-License-Identifier: GPL-2.0-or-later
"""The report in a terminal: verdict, what it rests on, latencies."""

from __future__ import annotations

from collections.abc import Iterator

from analysis import terminal
from analysis.capture import Capture
from analysis.escape import printable
from analysis.report import basis
from analysis.tables import plain
from analysis.verdict import verdict

_WIDTH = 12


def summary(capture: Capture) -> str:
    """Plain text, of several lines."""
    return "".join(f"{line}\n" for line in _lines(capture))


def _lines(capture: Capture) -> Iterator[str]:
    numbers = [connection.number for connection in capture.engine.ours()]
    for number in numbers:
        if len(numbers) > 1:
            yield f"connection {number}:"
        yield from map(printable, verdict(capture, number))
    yield ""
    yield from _facts(basis.of_capture(capture))
    latency = capture.export("latency")
    for number in numbers:
        yield ""
        yield from _facts([("connection", str(number)), *basis.of_connection(capture, number)])
        mine = latency[latency["connection"] == number]
        if len(mine):
            yield ""
            yield terminal.text(plain(mine), "latency").rstrip("\n")


def _facts(lines: basis.Lines) -> Iterator[str]:
    for what, text in lines:
        yield f"{what:{_WIDTH}} {text}"
