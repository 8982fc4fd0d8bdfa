# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's tshark: where it is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from dissector.errors import CannotDo

_PLACES = {
    "win32": [Path(os.environ.get("PROGRAMFILES", r"C:\Program Files")) / "Wireshark" / "tshark.exe"],
    "darwin": [Path("/Applications/Wireshark.app/Contents/MacOS/tshark")],
}
"""Where tshark is if it is not on the PATH."""


class TsharkError(CannotDo):
    """tshark is missing or fails; the message says why and what to do."""


def find(otherwise: str = "") -> str:
    """tshark's path.  Raises TsharkError; `otherwise` says what a user can do without it."""
    found = shutil.which("tshark") or next(
        (str(path) for path in _PLACES.get(sys.platform, []) if path.exists()), None)
    if not found:
        raise TsharkError("tshark was not found: install Wireshark (on Debian and Ubuntu: apt install tshark)"
                          + otherwise)
    return found
