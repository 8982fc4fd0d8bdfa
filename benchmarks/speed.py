# SPDX-License-Identifier: GPL-2.0-or-later
"""How long coloscope takes on large captures, next to other programs that read them.

    make bench
    python -m benchmarks.speed --quick --only connections

Captures are synthesised one after another, measured in the page cache, and deleted.  Times are those of
whole processes: the median of some rounds, in turn with the program that it is held against.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import readers, report
from benchmarks.captures import CAPTURES
from benchmarks.results import Measured, Results
from benchmarks.run import RunError, Usage, in_turn, run

BASE, READERS = "colo", "readers"
"""What the other captures are held against; the other readers."""
SMALL = readers.ROOT / "pcaps" / "colo-hvm-fast.A.pcap.zst"
_UNPACK = {".gz": readers.PIGZ, ".zst": readers.ZSTD}


@dataclass(frozen=True)
class Plan:
    """Sizes in MB."""

    sizes: tuple[int, ...]
    """Of the captures for the line of cost over size."""
    main: int
    """Of everything else; one of `sizes`."""
    slow: int
    """For readers that take minutes."""
    rounds: int


FULL = Plan((400, 1700, 7000), 1700, 100, 11)
QUICK = Plan((100, 200, 400), 400, 20, 3)


@dataclass
class Bench:
    """One benchmark."""

    folder: Path
    plan: Plan
    console: Console
    """For progress."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Programs that were not measured, and why."""

    def run(self, only: Collection[str]) -> Results:
        """Measure everything, or `only` these captures and readers."""
        plan = self.plan
        results = Results(self.startup())
        with self.capture(BASE, plan.main) as (path, contents):
            base = self.measure(BASE, path, contents, others=(readers.CAT,))
            results.rows.append(base)
            results.readers = [(name, base.size, usage) for name, usage in base.others.items()]
            if not only or READERS in only:
                results.readers += self.once((readers.CAPINFOS,), path, base.size)
            for name in CAPTURES:
                for size in self.sizes(name) if not only or name in only else ():
                    with self.capture(name, size) as (other, contents):
                        results.rows.append(self.measure(name, other, contents, base=(path, base.size)))
        if not only or READERS in only:
            with self.capture(BASE, plan.slow) as (path, contents):
                results.readers += self.once(readers.SLOW, path, contents["size"])
        return results

    def sizes(self, name: str) -> tuple[int, ...]:
        """In which sizes this capture is measured, but for the one that all are held against."""
        main = self.plan.main
        return (main,) if name != BASE else tuple(size for size in self.plan.sizes if size != main)

    def startup(self) -> dict[str, Usage]:
        """What it takes to begin."""
        commands = {"--help": [readers.COLOSCOPE, "--help"], "--version": [readers.COLOSCOPE, "--version"],
                    f"latency {SMALL.name}": readers.latency(SMALL)}
        with self.console.status("start-up"):
            run(readers.latency(SMALL))  # compiles kernels where that has not been done
            return in_turn(commands, self.plan.rounds)

    @contextlib.contextmanager
    def capture(self, name: str, megabytes: int) -> Iterator[tuple[Path, dict[str, Any]]]:
        """A capture, in the page cache, and what is in it."""
        path = self.folder / f"{name}-{megabytes}{CAPTURES[name].ending}"
        try:
            with self.console.status(f"{name}: writing {megabytes} MB"):
                done = subprocess.run([sys.executable, "-m", "benchmarks.captures", name, str(megabytes), path],
                                      capture_output=True, text=True, cwd=readers.ROOT)
                if done.returncode:
                    raise RunError(f"{path.name} could not be written: {done.stderr.strip().splitlines()[-1]}")
                run(["sync", str(path)])
                run([readers.CAT, str(path)])
            yield path, json.loads(done.stdout)
        finally:
            path.unlink(missing_ok=True)

    def measure(self, name: str, path: Path, contents: Mapping[str, Any], *,
                base: tuple[Path, int] | None = None, others: Sequence[str] = ()) -> Measured:
        """coloscope on this capture, in turn with what reads or decompresses it, and with itself on
        `base` (with its size)."""
        yardstick = _UNPACK.get(path.suffix, readers.TCPDUMP)
        commands = {readers.COLOSCOPE: readers.latency(path)}
        commands |= {other: readers.command(other, path) for other in self.there(yardstick, *others)}
        if base:
            commands[BASE] = readers.latency(base[0])
        with self.console.status(f"{name}: {contents['size'] / 1e6:.0f} MB, {self.plan.rounds} rounds"):
            done = in_turn(commands, self.plan.rounds, statuses=(0,) if CAPTURES[name].ours else (0, 2))
        return Measured(name, CAPTURES[name].text, contents["size"], contents["packets"], contents["records"],
                        contents["syncs"], done.pop(readers.COLOSCOPE), yardstick, base[1] if base else 0,
                        done.pop(BASE, None), done)

    def once(self, names: Sequence[str], path: Path, size: int) -> list[tuple[str, int, Usage]]:
        """Each of these readers, which take long, once."""
        found = []
        for name in self.there(*names):
            with self.console.status(f"{name}: {size / 1e6:.0f} MB, once"):
                try:
                    found.append((name, size, run(readers.command(name, path))))
                except RunError as error:
                    self.left_out[name] = str(error)
        return found

    def there(self, *names: str) -> list[str]:
        """Those of these programs that are installed."""
        missing = {name: "not found" for name in names if not readers.there(name)}
        self.left_out |= missing
        return [name for name in names if name not in missing]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A first look: captures of 0.1 to 0.4 GB, three rounds.")
@click.option("--only", multiple=True, metavar="NAME", type=click.Choice([*CAPTURES, READERS]),
              help=f"Only this one; again for more: {', '.join([*CAPTURES, READERS])}.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              default=Path(tempfile.gettempdir()), show_default=True,
              help="Where captures are for as long as they are needed: 10 GB, 1 GB with --quick.")
def main(quick: bool, only: tuple[str, ...], folder: Path) -> None:
    """Measure `coloscope latency` on large synthesised captures, next to other programs."""
    plan = QUICK if quick else FULL
    need = (max(plan.sizes) + plan.main) * 1_150_000
    if (free := shutil.disk_usage(folder).free) < need:
        raise click.ClickException(f"{folder} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed; "
                                   "--folder says where else")
    # Whoever stops it (Ctrl-C does by itself) must not leave gigabytes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="coloscope-bench-", dir=folder) as temporary:
        bench = Bench(Path(temporary), plan, Console(stderr=True))
        try:
            results = bench.run(only)
        except RunError as error:
            raise click.ClickException(str(error)) from error
    report.show(results, bench.left_out, plan.rounds)


if __name__ == "__main__":
    main()
