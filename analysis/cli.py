# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `coloscope`."""

from __future__ import annotations

import io
import sys
from importlib import import_module

import click

from dissector import __version__

_COMMANDS = {
    "lists": {
        "connections": "List the TCP connections that carry a migration stream.",
        "records": "List every record, header and text, with its times.",
        "syncs": "List every sync-point of COLO.",
        "checkpoints": "List checkpoints (COLO), epochs (Remus) or the migration.",
        "phases": "List the phases of each checkpoint or epoch.",
        "iterations": "List the iterations of a live migration over memory."},
    "measures": {
        "latency": "Show the latency between each pair of sync-points.",
        "causes": "Show what made checkpoints take so long.",
        "memory": "Show which pages were sent, and what need not have been.",
        "compare": "Say in what two captures differ."},
    "packets": {
        "show": "Explain records field by field.",
        "verify": "Check a stream against the specifications.",
        "cut": "Write packets of migration streams to a pcap.",
        "scrub": "Write a capture that may be shared: without the guest's secrets."},
    "documents": {
        "report": "Say what the latency is made of, as one HTML page, too.",
        "export": "Write what other programs draw.",
        "lua": "Generate the Wireshark dissector."},
    "live": {
        "live": "Watch a link: checkpoints as they happen, alerts, a recording.",
        "interfaces": "List what can be captured on."},
    "wireshark": {
        "wireshark": "Put the dissector into the user's own Wireshark."},
}
"""What there is, by where it is in `analysis.commands`: only the one that is called is imported."""
_MODULE = {name: module for module, texts in _COMMANDS.items() for name in texts}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULE:
            return None
        found: click.Command = getattr(import_module(f"analysis.commands.{_MODULE[cmd_name]}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[_MODULE[name]][name]) for name in self.list_commands(ctx)])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coloscope")
def main() -> None:
    """See what a Xen migration, Remus or COLO pair says on the wire, and how long each step takes.

    FILE is a capture of the replication link: pcap or pcapng, plain, gzip or zstd, "-" for stdin;
    several files are one capture (a ring), in the order given.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the arrows and lines of our tables must still show the numbers.
            stream.reconfigure(errors="replace")
