# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics for Prometheus, scraped over HTTP; the dashboard and the alert rules ask for what there is."""

from __future__ import annotations

import json
import math
import re
import socket
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import analysis
from analysis.live import state
from analysis.live.metrics import CLOCK_BACK, Metrics
from analysis.live.state import ConnectionState, SessionState
from analysis.tables import plain
from dissector.errors import CannotDo
from tests.helpers import PCAPS, imported_without

CONTRIB = PCAPS.parent / "contrib"
DASHBOARD = CONTRIB / "grafana" / "dashboard.json"
RULES = CONTRIB / "prometheus" / "alerts.yml"

CONNECTION = ConnectionState(
    number=3, primary="10.0.0.1:40000", secondary="10.0.0.2:7002", kind="colo", state=state.CHECKPOINT,
    checkpoint=7, phase="memory", since_ns=8_500_000_000, checkpoints=(), pairs=(), octets=1234,
    octets_per_second=10.0, pages=56, pages_per_checkpoint=8.0, holes=2)
SNAPSHOT = SessionState(now_ns=9_000_000_000, source="veth0", packets=99, drops=4, connections=(CONNECTION,))
PAIR = {"event": "pair", "connection": 3, "checkpoint": 1, "phase": "checkpoint", "from": "NEW", "to": "SVM_RESUMED",
        "latency_ns": 30_000_000, "reason": ""}

Samples = dict[tuple[str, tuple[str, ...]], float]


def scraped(metrics: Metrics) -> Samples:
    """Samples by name and values of labels, in the order of the labels' names."""
    with metrics.served("0") as url, urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return {(sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples
            if not sample.name.endswith("_created")}


def events_of(capture: analysis.Capture) -> list[dict[str, Any]]:
    found = []
    for event, table in (("pair", "pairs"), ("checkpoint", "checkpoints"), ("finding", "findings")):
        columns = plain(capture.export(table))
        found += [{"event": event, **dict(zip(columns, row, strict=True))}
                  for row in zip(*columns.values(), strict=True)]
    return found


def test_histograms_are_those_of_the_tables() -> None:
    capture = analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst")
    metrics = Metrics()
    for event in events_of(capture):
        metrics.take(event)
    samples = scraped(metrics)
    latencies = capture.export("pairs").query("reason == '' and phase == 'checkpoint'")
    for (name, to), group in latencies.groupby(["from", "to"]):
        key = ("0", f"{name}->{to}")
        seconds = group["latency_ns"].to_numpy(float) / 1e9
        assert samples["coloscope_pair_latency_seconds_count", key] == len(group)
        assert math.isclose(samples["coloscope_pair_latency_seconds_sum", key], seconds.sum())
        assert samples["coloscope_pair_latency_seconds_bucket", (key[0], "0.2", key[1])] == (seconds <= 0.2).sum()
    assert samples["coloscope_pair_latency_seconds_count", ("0", "SVM_READY->SVM_RESUMED (first boot)")] == 1
    phases = capture.export("phases").query("not merged and duration_ns.notna()")
    assert len(phases["phase"].unique()) > 8
    for name, group in phases.groupby("phase", observed=True):
        assert samples["coloscope_phase_duration_seconds_count", ("0", name)] == len(group)
        assert math.isclose(samples["coloscope_phase_duration_seconds_sum", ("0", name)],
                            group["duration_ns"].sum() / 1e9, abs_tol=1e-12)
    whole = capture.export("checkpoints")["complete"].value_counts()
    for complete, count in whole.items():
        assert samples["coloscope_checkpoints_total", (str(complete).lower(), "0")] == count


def test_what_is_no_pair_is_counted_apart() -> None:
    metrics = Metrics()
    metrics.take({**PAIR, "latency_ns": None, "reason": "hole"})
    metrics.take({**PAIR, "latency_ns": -5})
    samples = scraped(metrics)
    assert samples["coloscope_pairs_unmeasured_total", ("3", "NEW->SVM_RESUMED", "hole")] == 1
    assert samples["coloscope_pairs_unmeasured_total", ("3", "NEW->SVM_RESUMED", CLOCK_BACK)] == 1
    assert not any(name.startswith("coloscope_pair_latency") for name, _ in samples)


def test_a_snapshot() -> None:
    metrics = Metrics()
    assert scraped(metrics) == {}
    metrics.show(SNAPSHOT)
    metrics.take({"event": "finding", "rule": "hole", "severity": "warning"})
    metrics.take({"event": "alert", "rule": "silent > 3s"})
    metrics.take({"event": "sync"})
    samples = scraped(metrics)
    assert {name for (name, values), value in samples.items() if value == 1 and values == ("3", "checkpoint")} == {
        "coloscope_connection_state"}
    assert sum(value for (name, _), value in samples.items() if name == "coloscope_connection_state") == 1
    assert ("coloscope_connection_info", ("3", "colo", "10.0.0.1:40000", "10.0.0.2:7002")) in samples
    expected = {"octets_total": 1234, "pages_total": 56, "holes_total": 2, "connection_checkpoint": 7,
                "connection_since_seconds": 0.5}
    assert {name: samples[f"coloscope_{name}", ("3",)] for name in expected} == expected
    assert samples["coloscope_drops_total", ()] == 4
    assert samples["coloscope_packets_total", ()] == 99
    assert samples["coloscope_findings_total", ("hole", "warning")] == 1
    assert samples["coloscope_alerts_total", ("silent > 3s",)] == 1


def test_unknown_drops_are_no_zero() -> None:
    metrics = Metrics()
    metrics.show(replace(SNAPSHOT, drops=None))
    assert ("coloscope_drops_total", ()) not in scraped(metrics)


def test_connections_that_are_gone_are_forgotten() -> None:
    metrics = Metrics()
    for number in range(3):
        metrics.take({**PAIR, "connection": number})
        metrics.show(replace(SNAPSHOT, connections=(replace(CONNECTION, number=number),)))
    assert {values[0] for _, values in scraped(metrics) if values} == {"2"}


def test_on_loopback_unless_told_otherwise() -> None:
    with Metrics().served("0") as url:
        assert url.startswith("http://127.0.0.1:")
    with Metrics().served("[::1]:0") as url, urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("address", ["", "host:", "70000", "-1", "9100x", "²"])
def test_a_bad_address(address: str) -> None:
    with pytest.raises(CannotDo, match=r"is no \[HOST:\]PORT"), Metrics().served(address):
        pass


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (pytest.raises(CannotDo, match=f"^--metrics {address}: Address already in use"),
              Metrics().served(address)):
            pass
    with Metrics().served(address):  # and afterwards it is free
        pass


def test_without_prometheus_client(tmp_path: Path) -> None:
    done = imported_without("prometheus_client", "analysis.live.metrics", tmp_path)
    assert done.stdout == "metrics need prometheus_client: pip install 'coloscope[live]'\n", done.stderr


def exported() -> set[str]:
    metrics = Metrics()
    metrics.show(SNAPSHOT)
    for event in (PAIR, {**PAIR, "reason": "hole"}, {"event": "alert", "rule": ""},
                  {"event": "checkpoint", "connection": 3, "complete": True, "merged": "", "memory_ms": 1.0},
                  {"event": "finding", "rule": "hole", "severity": "warning"}):
        metrics.take(event)
    return {name for name, _ in scraped(metrics)}


def dashboard_asks() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]


@pytest.mark.parametrize("file", [DASHBOARD, RULES], ids=lambda file: file.stem)
def test_the_names_that_are_asked_for_exist(file: Path) -> None:
    asked = "\n".join(dashboard_asks()) if file is DASHBOARD else file.read_text()
    names = set(re.findall(r"\bcoloscope_\w+", asked)) - {"coloscope_phase_duration_seconds"}
    assert len(names) > 4
    assert names <= exported()


def test_the_values_that_are_asked_for_exist() -> None:
    asked = RULES.read_text()
    assert set(re.findall(r'state="([^"]+)"', asked)) <= set(state.STATES)
    assert set(re.findall(r'severity="([^"]+)"', asked)) == {"error"}
    assert set(re.findall(r'pair="([^"]+)"', asked)) == {"NEW->SVM_RESUMED"}


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"])
               for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & own
        assert place["x"] + place["w"] <= 24
        cells |= own


def test_the_readme_lists_them_all() -> None:
    listed = set(re.findall(r"`(coloscope_\w+)`", (PCAPS.parent / "README.md").read_text()))
    assert listed == {re.sub("_(count|sum|bucket)$", "", name) for name in exported()}
