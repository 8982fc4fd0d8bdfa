# SPDX-License-Identifier: GPL-2.0-or-later
"""Causes over all checkpoints: which of them cost most, how often, and what helps."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.causes import RUNNING, advice
from analysis.tables import frame_of

COLUMNS = {"connection": "int64", "cause": "object", "phase": "object", "checkpoints": "int64", "of": "int64",
           "total_ms": "float64", "share": "float64", "median_ms": "float64", "phase_median_ms": "float64",
           "checkpoint": "Int64", "frame": "Int64", "to_frame": "Int64", "text": "object", "advice": "object"}


def usual(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table with a column `checkpoint` that tell what checkpoints usually cost: not the initial
    transfer, unless there is nothing else."""
    later = table[table["checkpoint"].fillna(0) > 0]
    return later if len(later) else table


def explanation(parts: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """One row for each cause in each phase, what cost most in front, by connection.

    `parts` and `found` as `analysis.causes.causes` gives them, with integer ns.  checkpoints: in how many `of`
    all it was found; total_ms, and its share of the time in which the checkpoints were under way (the VMs'
    lockstep and the pause between epochs left out); median_ms where it was found, phase_median_ms of the whole
    phase there; checkpoint, frame and to_frame of its longest case; text, what was seen there; advice.  The
    initial transfer is left out if there are checkpoints behind it.
    """
    rows: list[dict[str, Any]] = []
    for connection, mine in parts.groupby("connection"):
        mine = usual(mine)
        whole = mine.loc[mine["part"] != RUNNING, "duration_ns"].sum()
        lengths = mine.groupby(["checkpoint", "phase"], dropna=False)["duration_ns"].sum()
        of = mine["checkpoint"].nunique(dropna=False)
        causes = usual(found[found["connection"] == connection])
        if mine["checkpoint"].notna().any():
            causes = causes[causes["checkpoint"].isin(mine["checkpoint"])]
        for (cause, phase), group in causes.groupby(["cause", "phase"], sort=False):
            longest = group.loc[group["duration_ns"].idxmax()]
            phases = lengths.loc[pd.MultiIndex.from_frame(group[["checkpoint", "phase"]])]
            rows.append({
                "connection": connection, "cause": cause, "phase": phase, "checkpoints": len(group), "of": of,
                "total_ms": group["duration_ns"].sum() / 1e6,
                "share": group["duration_ns"].sum() / whole if whole else float("nan"),
                "median_ms": group["duration_ns"].median() / 1e6, "phase_median_ms": phases.median() / 1e6,
                **{name: longest[name] for name in ("checkpoint", "frame", "to_frame", "text")},
                "advice": advice(cause)})
    rows.sort(key=lambda row: (row["connection"], -row["total_ms"]))
    return frame_of(rows, COLUMNS)


def in_words(row: dict[str, Any]) -> str:
    """A row of it as a sentence: how much, what, how often."""
    ms, whole = row["median_ms"], row["phase_median_ms"]
    how_much = f"{ms:.0f} of {whole:.0f}" if whole - ms >= 0.5 else f"{ms:.0f}"
    how_often = f" ({row['checkpoints']} of {row['of']} checkpoints)" if row["of"] > 1 else ""
    return f"{how_much} ms of {row['phase']}: {row['text']}{how_often}"


def short(row: dict[str, Any]) -> str:
    """A row of it in three words."""
    name = str(row["cause"]).replace("_", " ")
    return name if name.endswith(row["phase"]) else f"{name} in {row['phase']}"
