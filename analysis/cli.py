# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `coloscope`."""

from __future__ import annotations

import io
import os
import sys

import click

from analysis.commands import documents, lists, live, measures, packets, wireshark


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coloscope", prog_name="coloscope")
def main() -> None:
    """See what a Xen migration, Remus or COLO pair says on the wire, and how long each step takes.

    FILE is a capture of the replication link: pcap or pcapng, plain, gzip or zstd, "-" for stdin;
    several files are one capture (a ring), in the order given.
    """
    # NumPy's library of linear algebra, which nothing here uses, starts a thread for each core: 0.06 s of each
    # process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the arrows and lines of our tables must still show the numbers.
            stream.reconfigure(errors="replace")


for command in (
    lists.connections, lists.records, lists.syncs, lists.checkpoints, lists.phases, lists.iterations,
    measures.latency, measures.causes, measures.memory, measures.compare,
    packets.show, packets.verify, packets.cut, packets.scrub,
    documents.report, documents.export, documents.lua,
    live.live, live.interfaces,
    wireshark.wireshark,
):
    main.add_command(command)
