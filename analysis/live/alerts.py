# SPDX-License-Identifier: GPL-2.0-or-later
"""Alerts: what is too slow, also while it is not over yet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from analysis.pairs import TRANSITIONS, WHOLES
from analysis.phases import NAMES
from dissector.errors import CannotDo

PAIR, PHASE, SILENCE, FAILOVER = "pair", "phase", "silent", "failover"

_UNITS = {"us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_LIMIT = re.compile(r"\s*(?P<what>[^>\s]+?(?:\s*(?:->|→)\s*[^>\s]+)?)\s*>"
                    r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-zµ]+)\s*")
_PAIRS = {f"{name}->{to}": (name, to) for name, to in (*TRANSITIONS, *WHOLES)}


class AlertError(CannotDo):
    """A rule that says nothing; the message says what would."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alert goes off: `kind` of thing, its `pair` or `phase`, and the `limit` (ns) that it may take.
    `text` is the rule as the user wrote it."""

    text: str
    kind: str
    pair: tuple[str, str] = ("", "")
    phase: str = ""
    limit: int = 0


def rule(text: str) -> Rule:
    """A rule from what a user wrote: `NEW->SVM_RESUMED > 500ms`, `memory > 200ms`, `silent > 3s`, `failover`.
    Raises AlertError."""
    if text.strip() == FAILOVER:
        return Rule(text, FAILOVER)
    match = _LIMIT.fullmatch(text)
    if match is None or match["unit"] not in _UNITS:
        raise AlertError(f"alert {text!r}: want WHAT > DURATION, such as 'NEW->SVM_RESUMED > 500ms' or 'silent > 3s' "
                         f"(units: {', '.join(_UNITS)}), or '{FAILOVER}'")
    what, limit = match["what"], round(float(match["number"]) * _UNITS[match["unit"]])
    if what == SILENCE:
        return Rule(text, SILENCE, limit=limit)
    if what in NAMES:
        return Rule(text, PHASE, phase=what, limit=limit)
    pair = re.sub(r"\s*(->|→)\s*", "->", what)
    if pair not in _PAIRS:
        known = ", ".join((*_PAIRS, *NAMES, SILENCE))
        raise AlertError(f"alert {text!r}: there is no {what!r}; there is {known} and {FAILOVER}")
    return Rule(text, PAIR, pair=_PAIRS[pair], limit=limit)
