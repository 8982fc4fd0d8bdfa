# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents and files for other programs."""

from __future__ import annotations

import click

from analysis.commands.ending import ends, say
from analysis.commands.options import FILES, OUTPUT, PROXY
from analysis.commands.reading import read, say_if_none
from dissector.errors import CannotDo


@click.command()
@PROXY
@click.option("--contents", is_flag=True, help="Read the pages, too: for zero and unchanged ones.")
@click.option("-o", "output", metavar="FILE", help="Default: named after the capture, in the current folder.")
@FILES
def report(files: tuple[str, ...], output: str | None, contents: bool, proxy: str | None) -> None:
    """Say what the latency is made of: here in short, and as one HTML page that needs no network."""
    with ends():
        from analysis.output import write_text
        from analysis.report.page import page, page_name
        from analysis.report.summary import summary

        capture = read(files, segments=True, pages=True, contents=contents, proxy=proxy)
        click.echo(summary(capture), nl=False)
        output = output or page_name(files)
        text = page(capture)
        write_text(text, output)
        say(f"{output}: {len(text.encode()) / 1e6:.0f} MB, for any browser")


@click.command()
@click.option("--hgrm", metavar="FOLDER", help="Percentile distributions of each pair for HdrHistogram's plotters, "
              "a file each.")
@click.option("--trace", metavar="OUT", help="A trace for ui.perfetto.dev or chrome://tracing, as JSON.")
@FILES
def export(files: tuple[str, ...], trace: str | None, hgrm: str | None) -> None:
    """Write what other programs draw; tables go to them as CSV, JSON and Parquet (--format)."""
    with ends():
        from analysis.output import write_text, write_texts

        if not trace and not hgrm:
            raise CannotDo("export wants --trace, --hgrm or both")
        capture = read(files)
        if trace:
            from analysis.trace_events import trace as made

            write_text(made(capture), trace)
        if hgrm:
            from analysis.histogram import histograms

            write_texts(histograms(capture), hgrm)
            say_if_none(capture)


@click.command()
@OUTPUT
def lua(output: str | None) -> None:
    """Generate the Wireshark dissector."""
    with ends():
        from analysis.output import write_text
        from dissector.wireshark.generate import generate

        write_text(generate(), output)
