# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engineer would say of a connection, in three sentences at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.explanation import in_words, short, usual
from analysis.phases import NAMES
from analysis.statistics import percentiles
from analysis.waits import NAGLE, RETRANSMISSION, ROUND_TRIP
from analysis.words import counted
from dissector.connection import COLO, PLAIN, REMUS
from dissector.findings import ERROR
from dissector.protocol import SENDER, XEN_COLO

if TYPE_CHECKING:
    from analysis.capture import Capture

_WORTH = 0.01
"""A cause with a smaller share of the time is not worth a sentence."""
_SENT_PHASES = 3
_SETTINGS = (NAGLE, RETRANSMISSION, ROUND_TRIP)
"""Causes that somebody can change without a faster machine."""


def verdict(capture: Capture, connection: int) -> list[str]:
    """How long it takes, what most of it is for, and what to change first or what is wrong.

    `capture` was read with `segments=True`, or the second sentence names phases instead of causes."""
    about = next(row for row in capture.connections.to_dict("records") if row["connection"] == connection)
    rows = capture.export("checkpoints")
    rows = rows[rows["connection"] == connection]
    sentences = [f"{_how_long(about, rows)}{_end(capture, connection, about['kind'])}."]
    causes = _causes(capture, connection)
    if causes:
        sentences.append(_what_for(causes))
    else:
        sentences += _longest_phases(capture, connection)
    sentences += _wrong(capture, connection) or _advice(causes)
    return [sentence for sentence in sentences if sentence][:3]


def _how_long(about: dict[str, Any], rows: pd.DataFrame) -> str:
    kind, who = about["kind"], f"from {about['primary']} to {about['secondary']}"
    xen = f", Xen {about['xen_version']}" if about["xen_version"] else ""
    complete = usual(rows[rows["complete"]].assign(checkpoint=lambda table: table["number"]))
    if kind == COLO:
        whole = rows[(rows["number"].fillna(1) > 0) & rows["new_to_svm_resumed_ms"].notna()]
        if not len(whole):
            return f"COLO {who}{xen}: no checkpoint is complete"
        return (f"COLO {who}{xen}: {counted(len(whole), 'checkpoint')} of {_typical(whole['new_to_svm_resumed_ms'])} "
                "from NEW to SVM_RESUMED, in which the primary's VM stands still for "
                f"{_typical(whole['primary_pause_ms'])}")
    if kind == REMUS:
        took = complete[["memory_ms", "cpu_ms", "device_ms"]].sum(axis=1, skipna=False).dropna()
        every = complete["begin_ns"].diff().dropna() / 1e6
        often = f", one every {_typical(every)}" if len(every) else ""
        return f"Remus {who}{xen}: {counted(len(took), 'epoch')} that take {_typical(took)} to send{often}" \
            if len(took) else f"Remus {who}{xen}: no epoch is complete"
    if kind == PLAIN and rows["total_ms"].notna().any():
        row = rows.iloc[0]
        down = f"; the guest stood still for {row['downtime_min_ms']:.0f} to {row['downtime_max_ms']:.0f} ms" \
            if pd.notna(row["downtime_max_ms"]) else ""
        return f"A live migration {who}{xen}, done in {row['total_ms'] / 1e3:.1f} s{down}"
    records = counted(int(about["records"]), "record")
    return f"{'A live migration' if kind == PLAIN else 'A stream'} {who}{xen} that is not complete: {records}" \
           f" and {about['forward_octets']:,} octets were seen"


def _end(capture: Capture, connection: int, kind: str | None) -> str:
    """Who ended what never ends by itself, or before it was done, and what had passed last."""
    done = kind == PLAIN and capture.export("checkpoints").query("connection == @connection")["complete"].any()
    if capture.engine.trace is None or done:
        return ""
    segments = capture.export("segments")
    ends = segments[(segments["connection"] == connection) & segments["flags"].astype(str).str.contains("FIN|RST")]
    if not len(ends):
        return ""
    first = ends.iloc[0]
    records = capture.export("records")
    before = records[(records["connection"] == connection) & (records["frame"] < first["frame"])]
    behind = ""
    if len(before):
        last = before.loc[before["frame"].idxmax()]
        point = XEN_COLO.numbered(None if pd.isna(last["control_id"]) else int(last["control_id"]))
        ms = (first["time_ns"] - last["delivered_ns"]) / 1e6
        behind = ", behind" if pd.isna(ms) else f", {ms:.0f} ms behind"
        behind += f" {point.short_name if point else '.'.join((last['layer'], last['name']))}"
    return f"; the {SENDER[first['direction']]} ended it in frame {first['frame']}{behind}"


def _causes(capture: Capture, connection: int) -> list[dict[str, Any]]:
    if capture.engine.trace is None:
        return []
    table = capture.export("explanation")
    table = table[(table["connection"] == connection) & (table["share"] >= _WORTH)]
    return table.to_dict("records")


def _what_for(causes: list[dict[str, Any]]) -> str:
    first, *others = causes
    text = f"Most of its time, {_share(first)}, goes here: {in_words(first)}"
    if others:
        text += "; then " + ", ".join(f"{short(row)} ({_share(row)})" for row in others[:_SENT_PHASES - 1])
    return text + "."


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['share']:.0f} %"


def _longest_phases(capture: Capture, connection: int) -> list[str]:
    phases = capture.export("phases")
    phases = usual(phases[phases["connection"] == connection])
    medians = (phases.groupby("phase", observed=True)["duration_ns"].median() / 1e6).dropna()
    medians = medians[[name for name in medians.index if name in NAMES[:-1]]].nlargest(_SENT_PHASES)
    if not len(medians):
        return []
    return ["The longest phases are " + ", ".join(f"{name} ({ms:.0f} ms)" for name, ms in medians.items()) + "."]


def _wrong(capture: Capture, connection: int) -> list[str]:
    """The first error: it matters more than advice."""
    findings = capture.export("findings")
    mine = findings[(findings["connection"] == connection) & (findings["severity"] == ERROR)]
    if not len(mine):
        return []
    first = mine.iloc[0]
    more = f" (and {counted(len(mine) - 1, 'error')} more)" if len(mine) > 1 else ""
    place = f" in frame {first['frame']}" if pd.notna(first["frame"]) else ""
    return [f"Something is wrong{place}: {first['text']}{more}."]


def _advice(causes: list[dict[str, Any]]) -> list[str]:
    """For what the network and TCP cost, which a setting changes; else for what costs most."""
    if not causes:
        return []
    first = causes[0]
    setting = next((row for row in causes if row["cause"] in _SETTINGS), first)
    if setting is first:
        return [f"What helps: {_inside(first['advice'])}."]
    return [f"What helps: {_inside(first['advice'])}; and against {short(setting)} ({_share(setting)}): "
            f"{_inside(setting['advice'])}."]


def _inside(advice: str) -> str:
    return advice[0].lower() + advice[1:].rstrip(".")


def _typical(ms: pd.Series) -> str:
    """Median and a high percentile, as far as so many values allow."""
    values = ms.dropna().to_numpy()
    if len(values) == 1:
        return f"{values[0]:.0f} ms"
    (median,), shares = percentiles(values, 0.5), (0.99, 0.95, 0.9)
    high = next((f"; p{share * 100:.0f} {value:.0f} ms" for share, value in zip(
        shares, percentiles(values, *shares), strict=True) if value == value), "")
    return f"{median:.0f} ms (median{high})"
