# SPDX-License-Identifier: GPL-2.0-or-later
"""Iterations of a live migration: how often memory was gone over, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.phases import Measured
from analysis.spans import are, beginnings
from analysis.tables import frame_of
from dissector.connection import COLO, REMUS
from dissector.protocol import FORWARD, PAGE_DATA

COLUMNS = {
    "connection": "int64", "iteration": "int64", **dict.fromkeys((
        "begin_ns", "end_ns", "duration_ns", "records", "pages", "pfns", "resent", "octets"), "Int64"),
    "octets_per_second": "float64", "dirty_pages_per_second": "float64", "last": "bool",
    "begin_frame": "Int64", "end_frame": "Int64"}


def iterations(measured: Iterable[Measured], pages: pd.DataFrame | None) -> pd.DataFrame:
    """One row for each iteration over memory (`analysis.spans.beginnings`) of a plain migration, and of the
    initial transfer of Remus and COLO where its start was seen.

    Columns: connection; iteration (from 0); begin_ns (first octet of its first record), end_ns (its last
    record was delivered), duration_ns; records; pages (that carry contents); pfns; resent (pages whose contents
    an earlier iteration had sent, too; <NA>: the capture does not show all of these); octets;
    octets_per_second; dirty_pages_per_second (pages that the next iteration sent again, for each
    second from this one's begin to that one's: how fast the guest dirtied memory, at least); last (bool: the
    state of CPUs follows; the guest stands still in it, unless nothing was dirty by then); begin_frame,
    end_frame.  `pages` (`analysis.pages`): None if they were not kept.
    """
    return frame_of([row for one in measured for row in _of(one, pages)], COLUMNS)


def _of(one: Measured, pages: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    connection, span = one.connection, one.span
    if span.number != 0 or (connection.kind in (COLO, REMUS) and not connection.start_seen):
        return
    sent = are(span.forward, PAGE_DATA)
    sent = sent[sent["frame"] > 0]
    begins = beginnings(sent)
    resent = None
    if pages is not None and span.begins and span.whole[FORWARD]:
        mine = pages[(pages["connection"] == connection.number) & (pages["direction"] == FORWARD)
                     & (pages["checkpoint"] == 0) & pages["carries"]]
        resent = _resent(mine["pfn"].to_numpy(), sent["stream_offset"][begins].searchsorted(
            mine["stream_offset"].to_numpy(), "right") - 1, len(begins))
    goes_on = len(sent) > 0 and bool((span.forward["stream_offset"] > sent["stream_offset"][-1]).any())
    for i, rows in enumerate(np.split(sent, begins[1:]) if len(sent) else []):
        first, last, octets = rows[0], rows[-1], int(rows["length"].sum())
        row: dict[str, Any] = {
            "connection": connection.number, "iteration": i, "records": len(rows),
            "begin_ns": int(first["first_seen_ns"]) or None, "end_ns": int(last["delivered_ns"]) or None,
            "begin_frame": int(first["first_frame"]), "end_frame": int(last["frame"]),
            "pages": int(rows["pages"].clip(0).sum()), "pfns": int(rows["count"].clip(0).sum()),
            "octets": octets, "last": goes_on and i == len(begins) - 1}
        if row["begin_ns"] and row["end_ns"]:
            row["duration_ns"] = row["end_ns"] - row["begin_ns"]
            if row["duration_ns"] > 0:
                row["octets_per_second"] = octets / row["duration_ns"] * 1e9
        if resent is not None:
            row["resent"] = int(resent[i])
            if i + 1 < len(begins) and row["begin_ns"]:
                until = int(sent["first_seen_ns"][begins[i + 1]]) - row["begin_ns"]
                row["dirty_pages_per_second"] = resent[i + 1] / until * 1e9 if until > 0 else None
        yield row


def _resent(pfns: np.ndarray, iteration: np.ndarray, count: int) -> np.ndarray:
    """How many of the pages of each iteration an earlier one had sent."""
    _, first, which = np.unique(pfns, return_index=True, return_inverse=True)
    return np.bincount(iteration[iteration > iteration[first][which]], minlength=count)
