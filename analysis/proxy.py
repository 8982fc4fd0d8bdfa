# SPDX-License-Identifier: GPL-2.0-or-later
"""Why checkpoints began: what the colo-proxy and the toolstack told each other."""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from analysis.checkpoints import TIMES
from analysis.pairs import OPENS
from dissector.connection import COLO
from dissector.protocol import PROXY_ANSWERS, PROXY_ASKS, PROXY_END, PROXY_OPENS
from dissector.proxy import Message

DIFFERED, PERIOD = "packets differed", "period"
"""Reasons: the proxy asked for the checkpoint; it did not, so the period was over."""

COLUMNS = {"connection": "int64", "time_ns": "Int64", "frame": "Int64", "sender": "object", "text": "object"}
_BEGUN = TIMES[OPENS]


Row = dict[str, Any]


def message_rows(found: Iterable[Message]) -> list[Row]:
    """One row for each message of a colo-proxy's control connection, in their order: connection; time_ns
    and frame with which it had passed the capture point (None: not known); sender (toolstack, proxy);
    text (None: the capture lacks octets of it, or what stood there was no message)."""
    rows: list[Row] = [{"connection": m.connection, "time_ns": m.delivered_ns or None, "frame": m.frame or None,
                        "sender": m.sender, "text": m.text} for m in found]
    return sorted(rows, key=lambda row: (row["frame"] is None, row["frame"], row["connection"]))


def reasons(checkpoints: Sequence[Row], said: Iterable[Row]) -> list[str | None]:
    """`DIFFERED`, `PERIOD` or None for each of the rows of checkpoints (`analysis.checkpoints`), from those of
    messages (`message_rows`), which have the same clock.

    The toolstack takes one of the proxy's messages for each checkpoint, in their order; one that comes
    while it is busy waits, and starts the next checkpoint at once.  If none waits, none came since the
    checkpoint before, and the conversation goes on afterwards, it was the period.  None where that is not
    known, and where several COLO connections or several proxies speak at the same time."""
    found: list[str | None] = [None] * len(checkpoints)
    colo = sorted((i for i, row in enumerate(checkpoints) if row["kind"] == COLO and row.get("begin_ns")),
                  key=lambda i: checkpoints[i]["begin_ns"])
    talk = sorted((row for row in said if row["time_ns"]), key=lambda row: row["time_ns"])
    if _at_once((checkpoints[i] for i in colo), "begin_ns", "end_ns") or _at_once(talk, "time_ns", "time_ns"):
        return found
    begun: dict[int, list[int]] = {}
    for i in colo:
        if checkpoints[i]["number"]:
            begun.setdefault(checkpoints[i]["connection"], []).append(i)
    for mine in begun.values():
        for i, reason in zip(mine, _of_connection([checkpoints[i].get(_BEGUN) for i in mine], talk), strict=True):
            found[i] = reason
    return found


def _at_once(rows: Iterable[Row], begin: str, end: str) -> bool:
    """Whether connections overlap in time."""
    spans: dict[int, tuple[int, int]] = {}
    for row in rows:
        first, last = spans.get(row["connection"], (row[begin], row[begin]))
        spans[row["connection"]] = min(first, row[begin]), max(last, row.get(end) or last)
    ordered = sorted(spans.values())
    return any(later < last for (_, last), (later, _) in itertools.pairwise(ordered))


def _of_connection(begun: list[int | None], talk: list[Row]) -> list[str | None]:
    times = [row["time_ns"] for row in talk]
    waiting: deque[str | None] = deque()
    found: list[str | None] = []
    at, previous = 0, None
    for i, time in enumerate(begun):
        if time is None:
            # It passed unseen, and took a message or did not.
            waiting.clear()
            found.append(None)
            previous = None
            continue
        upto = bisect.bisect_right(times, time)
        for row in talk[at:upto]:
            if row["text"] == PROXY_OPENS.text:
                waiting.clear()
            elif row["sender"] == PROXY_END and row["text"] != PROXY_ANSWERS.text:
                waiting.append(row["text"])
        if i and previous is None:
            found.append(None)
            waiting.clear()
        elif waiting:
            text = waiting.popleft()
            found.append(DIFFERED if text == PROXY_ASKS.text else None)
            if text is None:
                waiting.clear()
        else:
            found.append(PERIOD if _covered(talk, times, upto, previous) else None)
        at, previous = upto, time
    return found


def _covered(talk: list[Row], times: list[int], upto: int, previous: int | None) -> bool:
    """Whether the capture has all that was said from `previous` (None: from the opening) up to row `upto`,
    and one conversation goes on there."""
    first = bisect.bisect_right(times, previous) - 1 if previous is not None else 0
    if first < 0 or upto in (0, len(talk)) or (previous is None and talk[0]["text"] != PROXY_OPENS.text):
        return False
    around = talk[first:upto + 1]
    return len({row["connection"] for row in around}) == 1 and all(row["text"] is not None for row in around)
