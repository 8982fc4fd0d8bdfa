# SPDX-License-Identifier: GPL-2.0-or-later
"""A window of a capture: from one time or frame to another."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import pandas as pd

from dissector.errors import CannotDo


class WindowError(CannotDo):
    """A bound that is neither a frame nor a time; the message says what is accepted."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a window: a frame number or a time in ns since the epoch."""

    frame: int | None = None
    time: int | None = None


def _fits(number: int) -> int:
    if number >= 1 << 63:
        raise OverflowError
    return number


def bound(text: str, first_ns: int) -> Bound:
    """A bound from what a user wrote: `123` a frame, `+1.5` seconds behind the first frame,
    `1795395697.766562` seconds since the epoch, or an ISO 8601 time (UTC unless it says other)."""
    try:
        if not text[:1].isdecimal() and not text.startswith("+"):
            raise ValueError  # pandas would take "now"
        if text.isdecimal():
            return Bound(frame=_fits(int(text)))
        if text.startswith("+"):
            return Bound(time=_fits(first_ns + int(Decimal(text) * 1_000_000_000)))
        try:
            return Bound(time=_fits(int(Decimal(text) * 1_000_000_000)))
        except InvalidOperation:
            stamp = pd.Timestamp(text)
            stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
            return Bound(time=stamp.as_unit("ns").value)
    except (ValueError, ArithmeticError):
        raise WindowError(
            f"{text!r} is neither a frame (123), seconds from the start (+1.5), seconds since the "
            "epoch (1795395697.77) nor an ISO 8601 time (2026-11-23T01:02:08.99)") from None


def within(frame: pd.DataFrame, begin: Bound, end: Bound, first: tuple[str, str],
           last: tuple[str, str]) -> pd.DataFrame:
    """The rows that lie in a window: `first` and `last` name the columns (frame, ns) with a row's
    beginning and end."""
    keep = pd.Series(True, index=frame.index)
    if begin.frame is not None:
        keep &= (frame[first[0]] >= begin.frame).fillna(False).astype(bool)
    if begin.time is not None:
        keep &= (frame[first[1]] >= begin.time).fillna(False).astype(bool)
    if end.frame is not None:
        keep &= (frame[last[0]] <= end.frame).fillna(False).astype(bool)
    if end.time is not None:
        keep &= (frame[last[1]] <= end.time).fillna(False).astype(bool)
    return frame[keep]
