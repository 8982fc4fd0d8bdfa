# SPDX-License-Identifier: GPL-2.0-or-later
"""Records and packets themselves: explained, checked, cut out, scrubbed."""

from __future__ import annotations

import sys
from typing import Any

import click

from analysis.commands.ending import VIOLATED, ends, say
from analysis.commands.options import CONNECTION, FILES, FORMAT, OUTPUT
from analysis.commands.reading import progress, read
from analysis.commands.writing import kind_of, ours, window, write_frame
from dissector.errors import CannotDo
from dissector.protocol import SECRETS, SHAREABLE


@click.command()
@click.option("--checkpoint", type=int, metavar="K", help="The records of this checkpoint or epoch.")
@click.option("--offset", metavar="CONNECTION:DIRECTION:OFFSET",
              help="The record there; DIRECTION is forward or back.")
@click.option("--frame", type=int, metavar="N", help="The records that have octets in this frame.")
@click.option("--every", is_flag=True, help="All items of arrays and all octets of contents.")
@click.option("--connection", metavar="N|ADDRESS:PORT", help="With --checkpoint: of this connection.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def show(files: tuple[str, ...], checkpoint: int | None, offset: str | None, frame: int | None,
         every: bool, connection: str | None) -> None:
    """Explain records field by field."""
    with ends():
        from analysis import pick
        from dissector.explain import explain

        if sum(choice is not None for choice in (checkpoint, offset, frame)) != 1:
            raise pick.PickError("show wants one of --frame, --offset and --checkpoint")
        capture = read(files)
        if frame is not None:
            chosen = pick.in_frame(capture, frame)
        elif offset is not None:
            chosen = pick.at_offset(capture, offset)
        else:
            chosen = pick.of_checkpoint(capture, checkpoint or 0, ours(capture, connection))
        for i, record in enumerate(pick.again(capture, chosen)[1]):
            click.echo(("\n" if i else "") + "\n".join(explain(record, every=every)))


@click.command()
@click.option("--direction", type=click.Choice(("forward", "back")), help="The file is a raw stream of this "
              "direction, whatever it begins with.")
@CONNECTION
@OUTPUT
@FORMAT
@FILES
def verify(files: tuple[str, ...], direction: str | None, connection: str | None, **options: Any) -> None:
    """Check a stream against the specifications and what Xen itself refuses.

    FILE is a capture, or a raw stream: what `xl save` writes, a libxl or libxc stream, a dump of the
    back channel.  Exit status: 0 clean, 1 violations, 2 unreadable.
    """
    with ends():
        from analysis.verify import grouped, verified

        with progress(files) as on_progress:
            verdict = verified(files, direction, choose=lambda capture: ours(capture, connection),
                               on_progress=on_progress)
        kind = kind_of(options)
        if kind != "table":
            write_frame(verdict.findings, "verify", kind, options["output"])
        elif len(verdict.findings):
            write_frame(grouped(verdict.findings), "verify", kind, options["output"])
        say(verdict.summary)
        if verdict.violations:
            sys.exit(VIOLATED)
        if verdict.fault:
            raise CannotDo(verdict.fault)


@click.command()
@click.option("--to", "until", metavar="TIME|FRAME", help="Only packets up to this frame or time.")
@click.option("--from", "since", metavar="TIME|FRAME", help="Only packets from this frame or time on.")
@click.option("--checkpoint", type=int, metavar="K", help="Only packets of this checkpoint or epoch.")
@click.option("--connection", metavar="N|ADDRESS:PORT", help="Only packets of this connection.")
@click.option("-o", "output", required=True, metavar="OUT", help="The pcap to write.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def cut(files: tuple[str, ...], output: str, connection: str | None, checkpoint: int | None,
        since: str | None, until: str | None) -> None:
    """Write packets of migration streams to a pcap."""
    with ends():
        from analysis import pick
        from dissector.cut import cut as write_packets

        if checkpoint is not None and (since or until):
            raise pick.PickError("cut wants --checkpoint or a window (--from, --to), not both")
        capture = read(files)
        chosen = ours(capture, connection)
        wanted = pick.frames_of_checkpoint(capture, checkpoint, chosen) if checkpoint is not None \
            else pick.Frames(*window(capture, since, until))
        count = write_packets(capture.engine, output, set(chosen), wanted)
        say(f"{count} packets in {output}")


@click.command()
@click.option("--keep-others", is_flag=True, help="Keep packets of other connections, too, without "
              "their payload; frame and connection numbers stay the same then.")
@click.option("--anonymise", is_flag=True, help="Replace IP and MAC addresses, the same one always by "
              "the same one.")
@click.option("--drop", multiple=True, type=click.Choice(SHAREABLE), help="Remove this, too: PFNs, or what "
              "the guest's hardware is (HVM parameters, TSC, CPUID, MSRs).")
@click.option("--keep", multiple=True, type=click.Choice(SECRETS), help="Do not remove this.")
@click.argument("file", metavar="IN")
@click.argument("output", metavar="OUT")
def scrub(file: str, output: str, keep: tuple[str, ...], drop: tuple[str, ...], anonymise: bool,
          keep_others: bool) -> None:
    """Write a capture that may be shared: without the guest's memory, CPU and device state, and
    configuration.

    Records, times and sizes stay.  OUT is of IN's format, compressed if it ends with .gz or .zst.
    """
    with ends():
        from dissector.scrub import scrub as write_scrubbed

        with progress((file, file)) as on_progress:
            done = write_scrubbed(file, output, keep=keep, drop=drop, anonymise=anonymise,
                                  keep_others=keep_others, on_progress=on_progress)
        say(f"{done.packets} of {done.of} packets in {output}")
        for what, octets in (("removed", done.removed), ("kept", done.kept)):
            kinds = (f"{name} {count:,}" for name, count in octets.items())
            say(f"octets {what}: {', '.join(kinds) or 'none'}")
