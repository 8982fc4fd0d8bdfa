# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured, and why it is so."""

from __future__ import annotations

from typing import Any

import click

from analysis.commands.ending import ends, say
from analysis.commands.options import CONNECTION, FILES, FORMAT, OUTPUT, common
from analysis.commands.reading import observe, read, say_if_none
from analysis.commands.writing import kind_of, ours, selected, write_frame, write_table


@click.command()
@click.option("--at", type=click.Choice(("primary", "secondary")), help="As it is at this end, between bounds: the "
              "capture point is somewhere on the way.")
@click.option("--pair", is_flag=True, help="The two FILEs are captures of one run, made at both ends: split the "
              "latencies between both ends and the network.")
@common
def latency(files: tuple[str, ...], at: str | None, pair: bool, **options: Any) -> None:
    """Show the latency between each pair of sync-points."""
    with ends():
        if pair:
            _pair(files, at, options)
            return
        kind, output = kind_of(options), options["output"]
        is_plain = not at and kind != "parquet" and not any(
            options[name] for name in ("since", "until", "connection"))
        reading = observe(files, segments=at is not None, records=not is_plain)
        if at:
            from analysis.bounds import latency_at
            from analysis.capture import Capture

            bounds = selected(Capture(reading), "bounds", options, every=False)
            write_frame(latency_at(bounds, at), "latency", kind, output)
        elif not is_plain:
            from analysis.capture import Capture

            write_table(Capture(reading), "latency", options)
        else:
            from analysis.latency import COLUMNS, latency_rows
            from analysis.output import columns_of, write
            from analysis.pairs import pair_rows

            write(columns_of(latency_rows(pair_rows(reading.points)), COLUMNS), "latency", kind, output)
        say_if_none(reading)


def _pair(files: tuple[str, ...], at: str | None, options: dict[str, Any]) -> None:
    from analysis.capture import Capture
    from analysis.two_ends import PairError, TwoEnds

    if len(files) != 2:
        raise PairError(f"--pair takes two captures of one run, one of each end; {len(files)} given")
    if at or any(options[name] for name in ("since", "until", "connection")):
        raise PairError("--pair does not go with --at, --from, --to and --connection")
    ends = TwoEnds(*(Capture(observe((file,), segments=True)) for file in files))
    write_frame(ends.latency(), "latency", kind_of(options), options["output"])
    for clock in ends.clocks.itertuples():
        say(f"connection {clock.connection}: the secondary's clock is ahead by {clock.offset_ms:z.3f} ms "
             f"({clock.offset_min_ms:.3f} to {clock.offset_max_ms:.3f}) and gains {clock.drift_ppm:z.2f} ppm "
             f"({clock.drift_min_ppm:.2f} to {clock.drift_max_ppm:.2f}), by {clock.packets} packets"
             + (f"; it does not run evenly: {clock.uneven_ms:.3f} ms" if clock.uneven_ms else ""))


@click.command()
@click.option("--each", is_flag=True, help="Every case, instead of their sum over all checkpoints.")
@CONNECTION
@OUTPUT
@FORMAT
@FILES
def causes(files: tuple[str, ...], each: bool, connection: str | None, **options: Any) -> None:
    """Show what made checkpoints take so long, what costs most in front, with the frames that prove it."""
    with ends():
        capture = read(files, segments=True)
        name = "causes" if each else "explanation"
        frame = capture.export(name)
        frame = frame[frame["connection"].isin(ours(capture, connection))]
        write_frame(frame, name, kind_of(options), options["output"])
        if frame.empty:
            say("no causes: nothing took so long that the packets prove why")


_MEMORY = ("checkpoints", "hot", "savings")
_HOTTEST = 10


@click.command()
@click.option("--table", "which", type=click.Choice(_MEMORY), help="Default: all of them on a terminal, with the "
              f"{_HOTTEST} hottest pages, else {_MEMORY[0]}.")
@click.option("--contents", is_flag=True, help="Read the pages, too: for zero and unchanged ones.")
@CONNECTION
@OUTPUT
@FORMAT
@FILES
def memory(files: tuple[str, ...], which: str | None, contents: bool, connection: str | None,
           **options: Any) -> None:
    """Show which pages were sent, how often, and what need not have been."""
    with ends():
        capture = read(files, pages=True, contents=contents)
        chosen, kind = ours(capture, connection), kind_of(options)
        every = which is None and kind == "table" and options["output"] is None
        for name in _MEMORY if every else (which or _MEMORY[0],):
            frame = getattr(capture.memory, name)
            frame = frame[frame["connection"].isin(chosen)]
            if len(frame) or not every:
                write_frame(frame.head(_HOTTEST) if every and name == "hot" else frame, "memory", kind,
                             options["output"])
        if capture.memory.is_scrubbed:
            say("every page is of zeros: the contents were removed from this capture")


@click.command()
@OUTPUT
@FORMAT
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
def compare(before: str, after: str, **options: Any) -> None:
    """Say in what two captures differ: medians of each pair and phase, with 95 % intervals."""
    with ends():
        from analysis.comparison import compare as compared

        write_frame(compared({name: read((file,)) for name, file in (("before", before), ("after", after))}),
                     "compare", kind_of(options), options["output"])
