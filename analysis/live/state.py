# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot of a live session: plain data for whoever draws or exports it."""

from __future__ import annotations

from dataclasses import dataclass, field

LIVE_MIGRATION, CHECKPOINT, LOCKSTEP = "live migration", "checkpoint", "lockstep"
FAILED_OVER, SILENT, ENDED = "failed over", "silent", "ended"
STATES = (LIVE_MIGRATION, CHECKPOINT, LOCKSTEP, FAILED_OVER, SILENT, ENDED)
"""What a connection may be doing."""

CHECKPOINTS_MAX = 120
"""Checkpoints of a connection that a snapshot has."""
LINES_MAX = 20
"""Findings and alerts that it has."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a pair's latencies, in ms; None: too few values to say (`analysis.statistics`)."""

    count: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


@dataclass(frozen=True, slots=True)
class PairState:
    """Latencies of one pair, over the sliding window and since the session began; `phase` as in
    `analysis.pairs` (checkpoint or first_boot)."""

    name: str
    to: str
    phase: str
    window: Percentiles
    total: Percentiles


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """One checkpoint of COLO, or epoch of Remus.

    `total_ms` is NEW -> SVM_RESUMED (COLO), all phases but idle (Remus), None where the capture does not show
    it; `phases`: ms of each phase that is known, in order; `touched`: the capture dropped packets, or lacks
    octets, while it ran; `complete` as in `analysis.checkpoints`."""

    number: int | None
    total_ms: float | None
    phases: dict[str, float]
    pages: int | None
    octets: int
    complete: bool
    touched: bool


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """One connection that carries a stream of ours.

    `state` is one of `STATES`; `phase` the one that is running ("": none, or not known); `since_ns` when the
    phase (else the state) began, by the capture's clock, None: not known; `pages_per_checkpoint` the mean over
    `checkpoints`, of those that have pages; None: none has."""

    number: int
    primary: str
    secondary: str
    kind: str
    state: str
    checkpoint: int | None
    phase: str
    since_ns: int | None
    checkpoints: tuple[CheckpointState, ...]
    pairs: tuple[PairState, ...]
    octets: int
    octets_per_second: float
    pages: int
    pages_per_checkpoint: float | None
    holes: int


@dataclass(frozen=True, slots=True)
class FindingState:
    """A finding, in words."""

    rule: str
    severity: str
    connection: int | None
    text: str


@dataclass(frozen=True, slots=True)
class AlertState:
    """An alert that went off; `running`: what it is about was not over then."""

    time_ns: int
    rule: str
    connection: int | None
    checkpoint: int | None
    value_ms: float | None
    running: bool
    text: str


@dataclass(frozen=True, slots=True)
class SessionState:
    """Everything at one moment: `now_ns` by the capture's clock (the last packet's, and what passed since);
    `drops`: packets that the capturing program lost, None: it does not say; `ended`: why the session is over, ""
    while it runs."""

    now_ns: int
    source: str
    packets: int = 0
    octets_per_second: float = 0.0
    drops: int | None = None
    holes: int = 0
    connections: tuple[ConnectionState, ...] = ()
    findings: tuple[FindingState, ...] = field(default=())
    alerts: tuple[AlertState, ...] = field(default=())
    ended: str = ""
