# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of what a capture holds."""

from __future__ import annotations

from typing import Any

import click

from analysis.commands.ending import ends, say
from analysis.commands.options import PROXY, common
from analysis.commands.reading import WHY, read, say_if_none
from analysis.commands.writing import write_table


@click.command()
@click.option("--all", "every", is_flag=True, help="List the other TCP connections, too, and what "
              "they seem to be.")
@common
def connections(files: tuple[str, ...], every: bool, **options: Any) -> None:
    """List the TCP connections that carry a migration stream."""
    with ends():
        capture = read(files, lenient=every)
        write_table(capture, "connections", options, every=every)


@click.command()
@common
def records(files: tuple[str, ...], **options: Any) -> None:
    """List every record, header and text, with its times."""
    with ends():
        write_table(read(files), "records", options)


@click.command()
@common
def syncs(files: tuple[str, ...], **options: Any) -> None:
    """List every sync-point of COLO."""
    with ends():
        capture = read(files)
        write_table(capture, "syncs", options)
        say_if_none(capture)


@click.command()
@PROXY
@common
def checkpoints(files: tuple[str, ...], proxy: str | None, **options: Any) -> None:
    """List checkpoints (COLO), epochs (Remus) or the migration, with their phases."""
    with ends():
        capture = read(files, proxy=proxy)
        write_table(capture, "checkpoints", options)
        if capture.export("checkpoints").empty:
            say(f"no checkpoints: {WHY['']}")


@click.command()
@common
def phases(files: tuple[str, ...], **options: Any) -> None:
    """List the phases of each checkpoint (COLO) or epoch (Remus): times, octets, throughput."""
    with ends():
        capture = read(files)
        write_table(capture, "phases", options)
        if capture.export("phases").empty:
            say("no phases: no checkpoint, epoch or live migration is in the capture")


@click.command()
@common
def iterations(files: tuple[str, ...], **options: Any) -> None:
    """List the iterations of a live migration over memory: time, pages sent and sent again, dirty rate."""
    with ends():
        capture = read(files, pages=True)
        write_table(capture, "iterations", options)
        if capture.export("iterations").empty:
            say("no iterations: the start of the stream is not in the capture, or it carries no pages")
