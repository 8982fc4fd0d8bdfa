# SPDX-License-Identifier: GPL-2.0-or-later
"""Links as they are at work."""

from __future__ import annotations

import sys
from typing import Any

import click

from analysis.commands.ending import Failure, ends, say
from analysis.commands.options import FORMAT, OUTPUT
from analysis.commands.writing import kind_of, write_frame


@click.command()
@click.option("-i", "interface", metavar="IFACE", help="Capture on this interface (see `coloscope interfaces`).")
@click.option("-r", "source", metavar="FILE|-|DIR", help="Read a capture that somebody else writes: a pipe, a file, "
              "the files of a ring in a folder.")
@click.option("--follow", is_flag=True, help="With -r: go on with what is still written.")
@click.option("--filter", "capture_filter", metavar="BPF", default="", help="Capture only these packets.")
@click.option("--snaplen", metavar="N", type=click.IntRange(96), help="Octets of each packet to capture.")
@click.option("--buffer", metavar="MiB", type=click.IntRange(1), help="Memory of the kernel for packets; default: "
              "16.")
@click.option("--write", "prefix", metavar="PREFIX", help="Record, too: a ring of pcapng files.")
@click.option("--ring", metavar="FILESxSIZE", default="10x1GB", show_default=True, help="How many, and how large.")
@click.option("--scrub", is_flag=True, help="With --write: record without guest memory, device state and what else "
              "`coloscope scrub` takes out; coloscope writes the ring itself, also of a capture that it reads (-r).")
@click.option("--alert", "alerts", metavar="RULE", multiple=True, help="'NEW->SVM_RESUMED > 500ms', 'memory > 200ms' "
              "(a phase), 'silent > 3s', 'failover'; also while it is not over.")
@click.option("--exec", "command", metavar="CMD", help="Run this for alerts, without a shell; the alert is JSON on "
              "its stdin.")
@click.option("--metrics", metavar="[HOST:]PORT", help="Serve metrics for Prometheus.")
@click.option("--window", "window_s", metavar="SECONDS", type=click.FloatRange(1), default=60, show_default=True,
              help="Sliding window of percentiles.")
@click.option("--format", "kind", type=click.Choice(("view", "jsonl")), help="Default: the view on a terminal, jsonl "
              "in a pipe or a file.")
def live(kind: str | None, **options: Any) -> None:
    """Watch a link: checkpoints as they happen, alerts, a recording."""
    with ends():
        from analysis.live.alerts import rule
        from analysis.live.capture import STOPPED, link_of
        from analysis.live.command_line import watch

        rules = [rule(text) for text in options.pop("alerts")]
        link, name, ring = link_of(**{option: options.pop(option) for option in (
            "interface", "source", "follow", "capture_filter", "snaplen", "buffer", "prefix", "ring", "scrub")})
        try:
            session = watch(link, name, rules, say=say, ring=ring, lines=kind != "view" and (
                kind == "jsonl" or not sys.stdout.isatty()), **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Failure(f"cannot write: {error.strerror or error}") from None
        if not session.found:
            from analysis.reading import Reading
            from analysis.rows import rows_of

            found = Reading(session.engine, rows_of([]), [], []).found_instead()
            if link.reason == STOPPED:
                say(found)
            else:
                raise Failure(f"{name}: {found}")


@click.command()
@OUTPUT
@FORMAT
def interfaces(**options: Any) -> None:
    """List what can be captured on."""
    with ends():
        from analysis.live.capture import INTERFACE_COLUMNS
        from analysis.live.capture import interfaces as found
        from analysis.output import columns_of, write

        kind, columns = kind_of(options), columns_of(found(), INTERFACE_COLUMNS)
        if kind == "parquet":
            import pandas as pd

            write_frame(pd.DataFrame(columns), "interfaces", kind, options["output"])
        else:
            write(columns, "interfaces", kind, options["output"])
