# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting the dissector, and the profile, where the user's own Wireshark looks for them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dissector.errors import CannotDo
from dissector.wireshark import profile
from dissector.wireshark.generate import generate
from dissector.wireshark.tshark import find

NAME = "xen_migration.lua"


class InstallError(CannotDo):
    """Wireshark's folder cannot be found or written to; the message says what to do."""


def _folder(*names: str) -> Path:
    """The personal folder that tshark lists under the first of these names that it knows."""
    tshark = find(otherwise=", or copy lua/xen_migration.lua into the personal plug-in folder that Wireshark shows "
                            "under About, Folders")
    done = subprocess.run([tshark, "-G", "folders"], capture_output=True, text=True)
    places = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    for name in names:
        if name in places:
            return Path(places[name].strip())
    raise InstallError(f"tshark -G folders lists no {names[-1]}")


def folder() -> Path:
    """The personal folder for Lua plug-ins, as tshark tells it.  Raises TsharkError or InstallError."""
    return _folder("Personal Lua Plugins", "Personal Plugins")


def install() -> str:
    """Write the dissector; one line that says what was done."""
    path = folder() / NAME
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generate(), encoding="utf-8")
    except OSError as error:
        raise InstallError(f"{path}: {error.strerror or error}") from None
    what = "installed" if before is None else "up to date" if before == generate() else "updated"
    return f"{path}: {what}; Wireshark loads it at its next start (or with Analyze, Reload Lua Plugins)"


def uninstall() -> str:
    """Remove the dissector; one line that says what was done."""
    path = folder() / NAME
    if not path.exists():
        return f"{path}: not there"
    try:
        path.unlink()
    except OSError as error:
        raise InstallError(f"{path}: {error.strerror or error}") from None
    return f"{path}: removed"


def status() -> str:
    """One line: is it there, and is it this version?"""
    path = folder() / NAME
    if not path.exists():
        return f"{path}: not installed"
    same = path.read_text(encoding="utf-8", errors="replace") == generate()
    return f"{path}: installed" + ("" if same else ", but not what this coloscope generates: install it again")


def add_profile(into: str | None = None) -> str:
    """Write the profile into Wireshark's own profiles, or into this folder; one line that says what
    was done."""
    place = (Path(into) if into else _folder("Personal configuration") / "profiles") / profile.NAME
    try:
        profile.write(place)
    except OSError as error:
        raise InstallError(f"{place}: {error.strerror or error}") from None
    return f"{place}: written; choose it in Wireshark under Edit, Configuration Profiles"
