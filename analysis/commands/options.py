# SPDX-License-Identifier: GPL-2.0-or-later
"""What several commands may be told."""

from __future__ import annotations

from collections.abc import Callable

import click

_FORMATS = ("table", "csv", "json", "jsonl", "parquet")

CONNECTION = click.option("--connection", metavar="N|ADDRESS:PORT",
                          help="Only this connection: Wireshark's tcp.stream, or one of its ends.")
OUTPUT = click.option("-o", "output", metavar="FILE", help="Write to a file instead of stdout.")
FORMAT = click.option("--format", "kind", type=click.Choice(_FORMATS),
                      help="Default: table on a terminal, csv in a pipe or a file.")
PROXY = click.option("--proxy", metavar="FILE", help="A capture of the colo-proxy's control connection, by the same "
                     "host's clock: it tells why each checkpoint began.")
FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=str))


def common(command: Callable[..., None]) -> Callable[..., None]:
    """What every list takes."""
    for option in (
        click.option("--to", "until", metavar="TIME|FRAME",
                     help="Only what lies wholly before this frame or time."),
        click.option("--from", "since", metavar="TIME|FRAME",
                     help="Only what lies wholly behind this frame (123), time (ISO 8601, or "
                     "seconds since the epoch) or distance from the start (+1.5)."),
        CONNECTION, OUTPUT, FORMAT, FILES,
    ):
        command = option(command)
    return command
