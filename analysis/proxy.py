# SPDX-License-Identifier: GPL-2.0-or-later
"""Why checkpoints began: what the colo-proxy and the toolstack told each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.tables import frame_of
from dissector.connection import COLO
from dissector.protocol import PROXY_ANSWERS, PROXY_ASKS, PROXY_END, PROXY_OPENS, TOOLSTACK_END
from dissector.proxy import Message

DIFFERED, PERIOD = "packets differed", "period"
"""Reasons: the proxy asked for the checkpoint; it did not, so the period was over."""

COLUMNS = {"connection": "int64", "time_ns": "Int64", "frame": "Int64", "sender": "object", "text": "object"}


def messages(found: Iterable[Message]) -> pd.DataFrame:
    """One row for each message of a colo-proxy's control connection, in their order: connection; time_ns
    and frame (Int64) with which it had passed the capture point; sender (categorical: toolstack, proxy);
    text (None: the capture lacks octets of it, or what stood there was no message)."""
    table = frame_of([{"connection": m.connection, "time_ns": m.delivered_ns or None, "frame": m.frame or None,
                       "sender": m.sender, "text": m.text} for m in found], COLUMNS)
    return table.assign(sender=pd.Categorical(table["sender"], [TOOLSTACK_END, PROXY_END])) \
        .sort_values(["frame", "connection"], kind="stable", ignore_index=True)


def reasons(checkpoints: pd.DataFrame, said: pd.DataFrame) -> pd.Series:
    """`DIFFERED`, `PERIOD` or None for each row of checkpoints, from the rows of `messages`, which have the
    same clock.

    The toolstack takes one of the proxy's messages for each checkpoint, in their order; one that comes
    while it is busy waits, and starts the next checkpoint at once.  If none waits, none came since the
    checkpoint before, and the conversation goes on afterwards, it was the period.  None where that is not
    known, and where several COLO connections or several proxies speak at the same time."""
    found = pd.Series([None] * len(checkpoints), checkpoints.index, object)
    colo = checkpoints[(checkpoints["kind"] == COLO) & checkpoints["begin_ns"].notna()]
    said = said.dropna(subset="time_ns").sort_values("time_ns", kind="stable")
    if _at_once(colo, "begin_ns", "end_ns") or _at_once(said, "time_ns", "time_ns"):
        return found
    for _, rows in colo.sort_values("begin_ns").groupby("connection", sort=False):
        begun = rows[rows["number"].notna() & (rows["number"] != 0)]["new_ns"]
        found[begun.index] = _of_connection([None if pd.isna(time) else int(time) for time in begun], said)
    return found


def _at_once(rows: pd.DataFrame, begin: str, end: str) -> bool:
    """Whether connections overlap in time."""
    spans = rows.groupby("connection").agg(begin=(begin, "min"), end=(end, "max")).sort_values("begin")
    return bool((spans["begin"].to_numpy("int64")[1:] < spans["end"].to_numpy("int64")[:-1]).any())


def _of_connection(begun: list[int | None], said: pd.DataFrame) -> list[str | None]:
    times = said["time_ns"].to_numpy("int64")
    rows = list(zip(times.tolist(), said["sender"], said["text"], said["connection"], strict=True))
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
        upto = int(times.searchsorted(time, "right"))
        for _, sender, text, _ in rows[at:upto]:
            if text == PROXY_OPENS.text:
                waiting.clear()
            elif sender == PROXY_END and text != PROXY_ANSWERS.text:
                waiting.append(text)
        if i and previous is None:
            found.append(None)
            waiting.clear()
        elif waiting:
            text = waiting.popleft()
            found.append(DIFFERED if text == PROXY_ASKS.text else None)
            if text is None:
                waiting.clear()
        else:
            found.append(PERIOD if _covered(rows, times, upto, previous) else None)
        at, previous = upto, time
    return found


def _covered(rows: list[tuple[int, str, str | None, int]], times: np.ndarray, upto: int,
             previous: int | None) -> bool:
    """Whether the capture has all that was said from `previous` (None: from the opening) up to row `upto`,
    and one conversation goes on there."""
    first = int(times.searchsorted(previous, "right")) - 1 if previous is not None else 0
    if first < 0 or upto in (0, len(rows)) or (previous is None and rows[0][2] != PROXY_OPENS.text):
        return False
    around = rows[first:upto + 1]
    return len({connection for *_, connection in around}) == 1 and all(text is not None for _, _, text, _ in around)
