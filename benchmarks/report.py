# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as tables."""

from __future__ import annotations

import datetime
import io
import os
import platform
import resource
from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.results import GIGABYTE, Results

_WIDE = 150
"""Columns of text in a pipe or a file, where nothing folds."""
_MET = {None: "not measured", True: "yes", False: "no"}


def show(results: Results, left_out: Mapping[str, str], rounds: int) -> None:
    """Print everything."""
    console = Console()
    if console.is_terminal:
        _print(console, results, left_out, rounds)
    else:
        plain = Console(file=io.StringIO(), width=_WIDE)
        _print(plain, results, left_out, rounds)
        lines = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
        console.file.write("".join(line.rstrip() + "\n" for line in lines))


def _print(console: Console, results: Results, left_out: Mapping[str, str], rounds: int) -> None:
    def say(text: str) -> None:
        console.print(Text(text))

    say(f"{datetime.date.today()}, {_machine()}\n"
        f"Whole processes, captures in the page cache, {rounds} rounds in turn: medians; of ratios, "
        "the median of those of each round.")
    console.print(_captures(results), _begin(results), _readers(results))
    if line := results.line():
        sizes = " / ".join(f"{row.size / GIGABYTE:.1f}" for row in results.sizes())
        say(f"time = {line.startup:.2f} s + {line.slope:.3f} s × GB over {sizes} GB; "
            f"largest distance {100 * line.deviation:.1f} %")
    if (octets := results.octets_per_record()) is not None:
        say(f"memory: {octets:.0f} octets for each record more")
    console.print(_targets(results))
    for name, why in left_out.items():
        say(f"{name} is left out: {why}")


def _machine() -> str:
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (f"{os.cpu_count()} cores ({model}), {memory / GIGABYTE:.0f} GB, {platform.system()} "
            f"{platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[1]:.1f}")


def _table(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _captures(results: Results) -> Table:
    table = _table("coloscope latency", ("name", "capture"), (
        "MB", "frames", "sync-points", "s", "CPU s", "MB/s", "× yardstick", f"× {results.rows[0].name}", "peak MB"))
    for row in results.rows:
        table.add_row(row.name, row.text, _number(row.size / 1e6, 0), str(row.packets), str(row.syncs),
                      _number(row.ours.seconds), _number(row.ours.cpu), _number(row.size / row.ours.seconds / 1e6, 0),
                      _number(row.ratio), _number(row.against_base), _number(row.ours.peak / 1e6, 0))
    table.caption = "yardstick: tcpdump -r FILE -w /dev/null; of compressed captures pigz -dc and zstd -dc"
    table.caption_justify = "left"
    return table


def _begin(results: Results) -> Table:
    table = _table("start-up", ("coloscope",), ("s", "CPU s", "peak MB"))
    for name, usage in results.startup.items():
        # Up to the peak of this process a child's own is not known (`benchmarks.run.Usage`).
        peak = usage.peak / 1e6 if usage.peak > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 else None
        table.add_row(name, _number(usage.seconds), _number(usage.cpu), _number(peak, 0))
    return table


def _readers(results: Results) -> Table:
    table = _table("other programs", ("program",), ("MB", "s", "MB/s"))
    for name, size, usage in results.readers:
        table.add_row(name, _number(size / 1e6, 0), _number(usage.seconds), _number(size / usage.seconds / 1e6, 0))
    return table


def _targets(results: Results) -> Table:
    table = _table("what is wanted", ("",), ("at most", "measured", "", "met"))
    for target in results.targets():
        table.add_row(target.text, f"{target.limit:g}", _number(target.figure), target.unit, _MET[target.met])
    return table
