# SPDX-License-Identifier: GPL-2.0-or-later
"""Latency between each pair of sync-points, as statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.pairs import CHECKPOINT, FIRST_BOOT, TRANSITIONS, WHOLES
from analysis.statistics import summary
from analysis.tables import frame_of

COLUMNS = {"connection": "int64", "phase": "object", "from": "object", "to": "object",
           "count": "int64", "lost": "int64", **dict.fromkeys(summary(np.array([])), "float64")}
_ORDER = {(CHECKPOINT, *pair): i for i, pair in enumerate((*TRANSITIONS, *WHOLES))}
_ORDER |= {(FIRST_BOOT, *pair): len(_ORDER) + i for i, pair in enumerate(TRANSITIONS)}


def latency(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row for each connection, phase and pair: count (pairs), lost (expected ones that cannot
    be measured), and float64 ms: min, mean, p50, p90, p95, p99, max, std; NaN where there are too
    few pairs to say (see `analysis.statistics`)."""
    rows = []
    for (connection, phase, a, b), group in pairs.groupby(["connection", "phase", "from", "to"]):
        good = group.loc[group["reason"] == "", "latency_ns"].to_numpy(np.int64)
        rows.append({"connection": connection, "phase": phase, "from": a, "to": b,
                     "count": len(good), "lost": len(group) - len(good), **summary(good)})
    rows.sort(key=lambda row: (row["connection"], _ORDER[row["phase"], row["from"], row["to"]]))
    return frame_of(rows, COLUMNS)
