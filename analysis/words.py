# SPDX-License-Identifier: GPL-2.0-or-later
"""Words for numbers."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """So many of them: "1 record", "2 records"."""
    return f"{number} {noun}{'s'[:number != 1]}"
