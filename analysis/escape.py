# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from strangers (file names, what a capture says), made harmless for terminals and
spreadsheets."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@")


def printable(text: str) -> str:
    """The same text with escapes for what a terminal would act on or cannot show: control
    characters, line ends, marks that turn the direction of writing, octets that are no UTF-8."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> str:
    """The same for a cell of a CSV: a spreadsheet must not take it for a formula."""
    text = printable(text)
    return "'" + text if text.startswith(_FORMULA) else text
