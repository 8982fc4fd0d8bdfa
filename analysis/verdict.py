# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engineer would say of a connection, in three sentences at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.explanation import in_words, usual
from analysis.phases import NAMES
from analysis.statistics import percentile
from dissector.connection import COLO, PLAIN, REMUS
from dissector.findings import ERROR

if TYPE_CHECKING:
    from analysis.capture import Capture

_WORTH = 0.01
"""A cause with a smaller share of the time is not worth a sentence."""
_SENT_PHASES = 3


def verdict(capture: Capture, connection: int) -> list[str]:
    """How long it takes, what most of it is for, and what to change first or what is wrong.

    `capture` was read with `segments=True`, or the second sentence names phases instead of causes."""
    about = next(row for row in capture.connections.to_dict("records") if row["connection"] == connection)
    rows = capture.export("checkpoints")
    rows = rows[rows["connection"] == connection]
    sentences = [_how_long(about, rows)]
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
            return f"COLO {who}{xen}: no checkpoint is complete."
        return (f"COLO {who}{xen}: {_count(len(whole), 'checkpoint')} of {_typical(whole['new_to_svm_resumed_ms'])} from "
                f"NEW to SVM_RESUMED, in which the primary's VM stands still for {_typical(whole['primary_pause_ms'])}.")
    if kind == REMUS:
        took = complete[["memory_ms", "cpu_ms", "device_ms"]].sum(axis=1, skipna=False).dropna()
        every = complete["begin_ns"].diff().dropna() / 1e6
        often = f", one every {_typical(every)}" if len(every) else ""
        return f"Remus {who}{xen}: {_count(len(took), 'epoch')} that take {_typical(took)} to send{often}." \
            if len(took) else f"Remus {who}{xen}: no epoch is complete."
    if kind == PLAIN and rows["total_ms"].notna().any():
        row = rows.iloc[0]
        down = f"; the guest stood still for {row['downtime_min_ms']:.0f} to {row['downtime_max_ms']:.0f} ms" \
            if pd.notna(row["downtime_max_ms"]) else ""
        return f"A live migration {who}{xen}, done in {row['total_ms'] / 1e3:.1f} s{down}."
    records = _count(int(about["records"]), "record")
    return f"{'A live migration' if kind == PLAIN else 'A stream'} {who}{xen} that is not complete: {records}" \
           f" and {about['forward_octets']:,} octets were seen."


def _causes(capture: Capture, connection: int) -> list[dict[str, Any]]:
    if capture.engine.trace is None:
        return []
    table = capture.export("explanation")
    table = table[(table["connection"] == connection) & (table["share"] >= _WORTH)]
    return table.to_dict("records")  # type: ignore[no-any-return]


def _what_for(causes: list[dict[str, Any]]) -> str:
    first, *others = causes
    text = f"{first['share']:.0%} of that time is {in_words(first)}"
    if others:
        text += "; then " + "; ".join(f"{row['share']:.0%} {_short(row)}" for row in others[:_SENT_PHASES - 1])
    return text + "."


def _short(row: dict[str, Any]) -> str:
    return f"{row['cause'].replace('_', ' ')} in {row['phase']}"


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
    more = f" (and {_count(len(mine) - 1, 'error')} more)" if len(mine) > 1 else ""
    place = f" in frame {first['frame']}" if pd.notna(first["frame"]) else ""
    return [f"Something is wrong{place}: {first['text']}{more}."]


def _advice(causes: list[dict[str, Any]]) -> list[str]:
    """For what the network and TCP cost, which a setting changes; else for what costs most."""
    if not causes:
        return []
    first = causes[0]
    setting = next((row for row in causes if row["cause"] in ("nagle", "retransmission", "round_trip")), None)
    if setting is None or setting is first:
        return [f"What helps: {first['advice']}".rstrip(".") + "."]
    return [f"What helps: {first['advice'].rstrip('.')}; and against {_short(setting)} ({setting['share']:.0%}): "
            f"{setting['advice'].rstrip('.')}."]


def _typical(ms: pd.Series) -> str:
    """Median and a high percentile, as far as so many values allow."""
    values = ms.dropna().to_numpy()
    if len(values) == 1:
        return f"{values[0]:.0f} ms"
    high = next((p for p in (0.99, 0.95, 0.9) if percentile(values, p) == percentile(values, p)), None)
    return f"{percentile(values, 0.5):.0f} ms (median" + (
        f"; p{high * 100:.0f} {percentile(values, high):.0f} ms)" if high else ")")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s'[:number != 1]}"
