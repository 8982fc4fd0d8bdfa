# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `coloscope`."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from importlib import import_module

import click

from dissector import __version__

_MODULES = {
    "lists": ("connections", "records", "syncs", "checkpoints", "phases", "iterations"),
    "measures": ("latency", "causes", "memory", "compare"),
    "packets": ("show", "verify", "cut", "scrub"),
    "documents": ("report", "export", "lua"),
    "live": ("live", "interfaces"),
    "wireshark": ("wireshark",),
}
"""Where the commands are, in `analysis.commands`: the one that is called is imported."""
_MODULE = {name: module for module, names in _MODULES.items() for name in names}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULE:
            return None
        found: click.Command = getattr(import_module(f"analysis.commands.{_MODULE[cmd_name]}"), cmd_name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coloscope")
def main() -> None:
    """See what a Xen migration, Remus or COLO pair says on the wire, and how long each step takes.

    FILE is a capture of the replication link: pcap or pcapng, plain, gzip or zstd, "-" for stdin;
    several files are one capture (a ring), in the order given.
    """
    # NumPy's library of linear algebra, which nothing here uses, starts a thread for each core: 0.06 s of each
    # process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # At the end Python would look through all that is left for cycles: 0.07 s.
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the arrows and lines of our tables must still show the numbers.
            stream.reconfigure(errors="replace")
