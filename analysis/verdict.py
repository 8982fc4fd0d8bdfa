# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engineer would say of a capture, in three sentences."""

from __future__ import annotations

import pandas as pd

from analysis.capture import Capture
from analysis.checkpoints import PHASE_COLUMNS


def verdict(capture: Capture) -> list[str]:
    """Three sentences at most: what it is, how long it takes, what takes longest."""
    table = capture.export("checkpoints")
    sentences = []
    for about in capture.connections.to_dict("records")[:1]:
        mine = table[table["connection"] == about["connection"]]
        what = about["kind"] or "a migration of unknown kind"
        sentences.append(f"{what.capitalize()} from {about['primary']} to {about['secondary']}: "
                         f"{int(mine['complete'].sum())} of {len(mine)} checkpoints are whole.")
        later = mine[mine["number"] > 0]
        phases = later[PHASE_COLUMNS].mean().dropna()
        if len(phases):
            total = later[PHASE_COLUMNS].sum(axis=1, min_count=1).median()
            sentences.append(f"A checkpoint takes {total:.0f} ms (median).")
            longest = str(phases.idxmax()).removesuffix("_ms")
            sentences.append(f"Its longest phase is {longest}, {phases.max():.0f} ms on average.")
        elif pd.notna(mine["total_ms"]).any():
            sentences.append(f"It took {mine['total_ms'].iloc[0] / 1e3:.1f} s.")
    return sentences
