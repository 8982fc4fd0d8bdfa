# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's own Wireshark."""

from __future__ import annotations

import click

from analysis.commands.ending import ends


@click.group()
def wireshark() -> None:
    """Put the dissector into the user's own Wireshark, or take it out."""


def _installer(name: str, meaning: str) -> None:
    def command() -> None:
        with ends():
            from dissector.wireshark import install

            click.echo(getattr(install, name)())

    wireshark.command(name, help=meaning)(command)


_installer("install", "Install or update the dissector.")
_installer("uninstall", "Remove the dissector.")
_installer("status", "Say whether the dissector is installed, and where.")


@wireshark.command()
@click.option("-o", "output", metavar="FOLDER", help="Write it there, to be imported, instead.")
def profile(output: str | None) -> None:
    """Add a profile with columns, colours, buttons and graphs for sync-points."""
    with ends():
        from dissector.wireshark.install import add_profile

        click.echo(add_profile(output))
