# SPDX-License-Identifier: GPL-2.0-or-later
"""The last checkpoints as stacked columns, in characters: readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from analysis.live.state import CheckpointState
from dissector.protocol import REMUS_BOUNDARIES, XEN_COLO

_BOUNDARIES = (*XEN_COLO.boundaries, *REMUS_BOUNDARIES)
BETWEEN = frozenset(boundary.phase for boundary in _BOUNDARIES if boundary.pick == "next")
"""Phases between checkpoints, which no column shows."""

STEPS = tuple(dict.fromkeys(boundary.phase for boundary in _BOUNDARIES if boundary.phase not in BETWEEN))
STYLES = dict(zip(STEPS, zip("░·:█+▒▓=", (
    "#e69f00", "#56b4e9", "#999999", "#4c8bf5", "#f0e442", "#009e73", "#cc79a7", "#ffffff"), strict=True),
    strict=True))
"""Character and colour of each phase; Okabe and Ito's colours, which nearly everybody can tell apart."""

UNKNOWN, TOUCHED = "?", "!"
"""In place of a column without a length; below one that lost packets touch."""

_AXIS = 9
"""Columns of the scale at the left."""


def chart(checkpoints: Sequence[CheckpointState], width: int, height: int) -> Text:
    """A picture of so many characters: one column for each of the last checkpoints, the latest at the right.

    The two lowest lines are the axis, with `TOUCHED`, and the numbers of the first and the last; the scale is in ms.
    The initial transfer is none.
    """
    rows, columns = height - 2, width - _AXIS
    if rows < 1 or columns < 1:
        return Text()
    shown = [c for c in checkpoints if c.number != 0 or c.total_ms is not None][-columns:]
    top = _ceiling(max((c.total_ms for c in shown if c.total_ms is not None), default=0))
    stacks = [_stack(checkpoint, rows, top) for checkpoint in shown]
    picture = Text()
    for row in reversed(range(rows)):
        label = f"{top * (row + 1) / rows:.3g} ms" if row in (rows - 1, rows // 2) and top else ""
        picture.append(f"{label:>{_AXIS - 2}} ┤" if label else " " * (_AXIS - 1) + "│")
        picture.append(" " * (columns - len(shown)))
        for stack in stacks:
            picture.append(*stack[row])
        picture.append("\n")
    picture.append(" " * (_AXIS - 1) + "└" + "─" * (columns - len(shown)))
    for checkpoint in shown:
        picture.append(*((TOUCHED, "bold red") if checkpoint.touched else ("─", "")))
    numbers = [str(c.number) for c in (*shown[:1], *shown[-1:]) if c.number is not None]
    return picture.append("\n" + _numbers(numbers, width, len(shown)))


def legend(checkpoints: Sequence[CheckpointState]) -> Text:
    """Which character is which phase, of those that there are."""
    text = Text()
    for phase, style in STYLES.items():
        if any(phase in checkpoint.phases for checkpoint in checkpoints):
            text.append("  " * bool(text)).append(*style).append(f" {phase}")
    return text


def _ceiling(value: float) -> float:
    """The next number with one or two easy digits; 0 for 0."""
    if not value:
        return 0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * step >= value)


def _stack(checkpoint: CheckpointState, rows: int, top: float) -> list[tuple[str, str]]:
    """The cells of a column, from below, each the phase in its middle."""
    if checkpoint.total_ms is None:
        return [(UNKNOWN, ""), *[(" ", "")] * (rows - 1)]
    unit, cells = top / rows, []
    for row in range(rows):
        middle, cell = (row + 0.5) * unit if row else min(unit, checkpoint.total_ms) / 2, (" ", "")
        for phase, duration in checkpoint.phases.items():
            if phase in STYLES and 0 <= middle < duration:
                cell = STYLES[phase]
                break
            middle -= duration
        cells.append(cell)
    return cells


def _numbers(numbers: list[str], width: int, shown: int) -> str:
    """The first number under the first column, the last one under the last, if both find room."""
    if not numbers:
        return ""
    first, last = numbers[0], numbers[-1]
    if shown < len(first) + len(last) + 1:
        return f"{last:>{width}}"
    return " " * (width - shown) + first + f"{last:>{shown - len(first)}}"
