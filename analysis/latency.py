# SPDX-License-Identifier: GPL-2.0-or-later
"""Latency between each pair of sync-points, as statistics."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from analysis.pairs import CHECKPOINT, FIRST_BOOT, TRANSITIONS, WHOLES
from analysis.statistics import summary

COLUMNS = {"connection": "int64", "phase": "object", "from": "object", "to": "object",
           "count": "int64", "lost": "int64", **dict.fromkeys(summary(()), "float64")}
ORDER = {(CHECKPOINT, *pair): i for i, pair in enumerate((*TRANSITIONS, *WHOLES))}
ORDER |= {(FIRST_BOOT, *pair): len(ORDER) + i for i, pair in enumerate(TRANSITIONS)}
"""(phase, from, to) of every pair: in which order they are listed."""
_key = operator.itemgetter("connection", "phase", "from", "to")


def latency_rows(pairs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `analysis.tables.latency`, from those of pairs."""
    groups: dict[tuple[Any, ...], list[int | None]] = defaultdict(list)
    for pair in pairs:
        groups[_key(pair)].append(None if pair["reason"] else pair["latency_ns"])
    rows = []
    for key in sorted(groups, key=lambda key: (key[0], ORDER[key[1:]])):
        good = [latency for latency in groups[key] if latency is not None]
        rows.append(dict(zip(COLUMNS, (*key, len(good), len(groups[key]) - len(good), *summary(good).values()),
                             strict=True)))
    return rows
