# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics of a live session for Prometheus."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from analysis.live import events
from analysis.live.events import Event
from analysis.live.state import STATES, SessionState
from analysis.pairs import FIRST_BOOT
from dissector.errors import CannotDo
from dissector.protocol import PHASES, REMUS_PHASES

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    raise CannotDo("metrics need prometheus_client: pip install 'coloscope[live]'") from None

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Upper bounds of the histograms, in seconds: from a round trip on the link to a pause that users report."""

HOST = "127.0.0.1"
"""Where metrics are served unless told otherwise: they name hosts and tell how they do."""

CLOCK_BACK = "clock_back"
"""Why a pair that ends before it begins is in no histogram: sums there only grow."""

_PHASES = tuple(dict.fromkeys((*PHASES, *REMUS_PHASES)))


class Metrics:
    """What a session has said, as metrics in a `registry` of its own.

    `take` every event, `show` the snapshot now and then, from any thread.  What belongs to a connection that is no
    longer in the snapshot is forgotten."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "coloscope_pair_latency_seconds", "Latency between two sync-points.", ("connection", "pair"),
            buckets=BUCKETS, registry=self.registry)
        self.phase = Histogram(
            "coloscope_phase_duration_seconds", "Duration of a phase of a checkpoint or epoch.",
            ("connection", "phase"), buckets=BUCKETS, registry=self.registry)
        self.unmeasured = self._counter(
            "coloscope_pairs_unmeasured", "Pairs of sync-points without a latency.", "connection", "pair", "reason")
        self.checkpoints = self._counter(
            "coloscope_checkpoints", "Checkpoints, epochs and migrations that are over.", "connection", "complete")
        self.findings = self._counter(
            "coloscope_findings", "Breaches and peculiarities of streams and their capture.", "rule", "severity")
        self.alerts = self._counter("coloscope_alerts", "Alerts that went off.", "rule")
        self._moment = _Moment()
        self.registry.register(self._moment)
        self._lock = threading.Lock()
        self._used: defaultdict[str, set[tuple[Counter | Histogram, tuple[str, ...]]]] = defaultdict(set)

    def take(self, event: Event) -> None:
        """Count an event of the session (`analysis.live.events`)."""
        with self._lock:
            match event["event"]:
                case events.PAIR:
                    self._take_pair(event)
                case events.CHECKPOINT:
                    self._take_checkpoint(event)
                case events.FINDING:
                    self.findings.labels(event["rule"], event["severity"]).inc()
                case events.ALERT:
                    self.alerts.labels(event["rule"]).inc()

    def show(self, state: SessionState) -> None:
        """Let gauges and totals be those of a snapshot."""
        self._moment.state = state
        with self._lock:
            for connection in self._used.keys() - {str(c.number) for c in state.connections}:
                for metric, labels in self._used.pop(connection):
                    metric.remove(*labels)

    @contextmanager
    def served(self, address: str) -> Iterator[str]:
        """Serve them at [HOST:]PORT over HTTP, as long as the context lasts; gives their URL.

        Port 0: any that is free.  Raises CannotDo if that cannot be."""
        host, port = _parsed(address)
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as why:
            raise CannotDo(f"--metrics {address}: {why.strerror}; name another [HOST:]PORT") from None
        shown = f"[{host}]" if ":" in host else host
        try:
            yield f"http://{shown}:{server.server_port}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _take_pair(self, event: Event) -> None:
        name = f"{event['from']}->{event['to']}" + " (first boot)" * (event["phase"] == FIRST_BOOT)
        latency, reason = event["latency_ns"], event["reason"]
        if not reason and latency < 0:
            reason = CLOCK_BACK
        if reason:
            self._of(self.unmeasured, event, name, reason).inc()
        else:
            self._of(self.latency, event, name).observe(latency / 1e9)

    def _take_checkpoint(self, event: Event) -> None:
        self._of(self.checkpoints, event, str(bool(event["complete"])).lower()).inc()
        merged = (event["merged"] or "").split()
        for name in _PHASES:
            duration = event.get(f"{name}_ms")
            if duration is not None and duration >= 0 and name not in merged:
                self._of(self.phase, event, name).observe(duration / 1e3)

    def _of(self, metric: Any, event: Event, *labels: str) -> Any:
        """A metric's child for the connection of an event."""
        connection = str(event["connection"])
        self._used[connection].add((metric, (connection, *labels)))
        return metric.labels(connection, *labels)


class _Moment(Collector):
    """What the latest snapshot says."""

    state: SessionState | None = None

    def collect(self) -> Iterator[Metric]:
        state = self.state
        if state is None:
            return
        packets = CounterMetricFamily("coloscope_packets", "Packets read.")
        packets.add_metric([], state.packets)
        yield packets
        if state.drops is not None:
            drops = CounterMetricFamily("coloscope_drops", "Packets that the capturing program lost.")
            drops.add_metric([], state.drops)
            yield drops
        info = InfoMetricFamily("coloscope_connection", "A connection and its two ends.", labels=["connection"])
        doing = GaugeMetricFamily(
            "coloscope_connection_state", "1: what the connection is doing.", labels=["connection", "state"])
        number = GaugeMetricFamily(
            "coloscope_connection_checkpoint", "Number of its latest checkpoint.", labels=["connection"])
        since = GaugeMetricFamily(
            "coloscope_connection_since_seconds", "For how long it has been in this phase or state.",
            labels=["connection"])
        totals = [(name, CounterMetricFamily(f"coloscope_{name}", text, labels=["connection"])) for name, text in (
            ("octets", "Octets of both directions."), ("pages", "Pages of the guest's memory."),
            ("holes", "Holes: octets of the stream that the capture lacks."))]
        for connection in state.connections:
            label = str(connection.number)
            info.add_metric([label], {"primary": connection.primary, "secondary": connection.secondary,
                                      "kind": connection.kind})
            for name in STATES:
                doing.add_metric([label, name], connection.state == name)
            if connection.checkpoint is not None:
                number.add_metric([label], connection.checkpoint)
            if connection.since_ns is not None:
                since.add_metric([label], (state.now_ns - connection.since_ns) / 1e9)
            for name, total in totals:
                total.add_metric([label], getattr(connection, name))
        yield from (info, doing, number, since, *(total for _, total in totals))


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise CannotDo(f"--metrics {address}: is no [HOST:]PORT")
    return host.strip("[]") or HOST, int(port)
