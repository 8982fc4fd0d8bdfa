# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures as commands read them: with a bar, with warnings, and an end where nothing is ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analysis.commands.ending import Failure, say

if TYPE_CHECKING:
    from analysis.capture import Capture
    from analysis.reading import Reading
    from dissector.findings import Finding


def observe(files: tuple[str, ...], lenient: bool = False, **options: Any) -> Reading:
    """What is in the capture, with a warning for what is wrong with it; ends the command if nothing in it
    is ours (unless `lenient`).  `options` are those of `analysis.reading.observe`."""
    from dissector.ahead import blocks

    with progress(files) as on_progress:
        # Before the rest is imported: a second process may read meanwhile.
        found = blocks(files, on_progress)
        from analysis.reading import observe as read_files

        reading = read_files(*files, blocks=found, **options)
    for part in dict.fromkeys((reading, reading.conversation)):
        _warn(part, part.engine.findings)
    if not lenient and not reading.engine.ours():
        raise Failure(f"{files[0] if len(files) == 1 else f'{len(files)} files'}: "
                      + reading.found_instead())
    return reading


def read(files: tuple[str, ...], lenient: bool = False, **options: Any) -> Capture:
    """The same as tables."""
    reading = observe(files, lenient, **options)
    from analysis.capture import Capture

    capture = Capture(reading)
    _warn(capture, capture.all_findings[len(reading.engine.findings):])
    return capture


@contextmanager
def progress(files: tuple[str, ...]) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal while more than a moment's worth of octets is read."""
    from dissector.source import total_size

    size = total_size(list(files)) if sys.stderr.isatty() else None
    if not size or size < 64 << 20:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(),
                  console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda octets: progress.advance(task, octets)


def _warn(reading: Reading, found: list[Finding]) -> None:
    """One line for each rule that was broken, with its first place."""
    from dissector.findings import NOTE, RULES

    for rule in RULES:
        group = sorted((f for f in found if f.rule == rule), key=lambda f: (f.connection, f.frame))
        if not group or group[0].severity == NOTE:
            continue
        frame = next((f.frame for f in group if f.frame), 0)
        place = f" (frame {reading.engine.file_frame(frame)[1]})" if frame else ""
        more = f"; and {len(group) - 1} more" if len(group) > 1 else ""
        say(f"{group[0].severity}: {rule}: {group[0].text}{place}{more}")


WHY = {
    "plain": "a plain migration has none; `coloscope checkpoints` shows its times",
    "remus": "Remus has none; `coloscope checkpoints` shows its epochs",
    "colo": "none is in the capture",
    "": "the stream ends, or cannot be read on, before it tells plain migration, Remus and COLO apart",
}


def say_if_none(reading: Reading) -> None:
    """No sync-point is a result, too; say why."""
    if not reading.points:
        kinds = sorted({c.kind for c in reading.engine.ours()})
        say("no sync-points: " + "; ".join(WHY[kind] for kind in kinds))
