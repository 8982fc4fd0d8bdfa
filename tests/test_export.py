# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports: traces whose slices nest and add up, histograms that say what the table says."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.capture import Capture
from analysis.histogram import histograms
from analysis.output import write, write_parquet
from analysis.tables import plain
from analysis.trace_events import trace
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

CAPTURES = ["colo-hvm-fast.A", "colo-2ck-abort.A", "remus-hvm.A", "plain-hvm-mtu.A", "remus-pv-netem-s128.A",
            "debian-nocolo.A"]
Event = dict[str, Any]


@pytest.fixture(scope="module", params=CAPTURES)
def capture(request: pytest.FixtureRequest) -> Capture:
    return analysis.read(PCAPS / f"{request.param}.pcap.zst")


@pytest.fixture(scope="module")
def colo() -> Capture:
    return analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst")


def slices(capture: Capture) -> list[Event]:
    return [event for event in json.loads(trace(capture))["traceEvents"] if event["ph"] == "X"]


def ns(microseconds: float) -> int:
    return round(microseconds * 1000)


def extent(event: Event) -> tuple[int, int]:
    return ns(event["ts"]), ns(event["ts"]) + ns(event["dur"])


def test_slices_of_a_track_lie_inside_or_behind_each_other(capture: Capture) -> None:
    stacks: dict[tuple[int, int], list[int]] = {}
    for event in slices(capture):
        begin, end = extent(event)
        assert 0 <= begin <= end
        open_ends = stacks.setdefault((event["pid"], event["tid"]), [])
        while open_ends and open_ends[-1] <= begin:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1], event
        open_ends.append(end)


def test_slices_of_phases_add_up_to_the_checkpoint(colo: Capture) -> None:
    every = slices(colo)
    phases = [event for event in every if event["cat"] == "phase"]
    whole = [event for event in every if event["cat"] == "checkpoint"]
    assert len(whole) == 50
    table = colo.export("phases").dropna(subset=["duration_ns"])
    assert [event["name"] for event in phases] == table["phase"].tolist()
    assert [ns(event["dur"]) for event in phases] == table["duration_ns"].tolist()
    for event in whole:
        begin, end = extent(event)
        inside = [extent(part) for part in phases]
        inside = [(first, last) for first, last in inside if begin <= first <= last <= end]
        assert sum(last - first for first, last in inside) == end - begin


def test_every_record_is_there_at_its_time(colo: Capture) -> None:
    document = json.loads(trace(colo))
    begin = int(document["otherData"]["begin_ns"])
    records = [event for event in document["traceEvents"] if event.get("cat") == "record"]
    table = colo.export("records")
    assert len(records) == len(table) == 1625
    assert sorted(begin + ns(event["ts"]) + ns(event["dur"]) for event in records) == sorted(table["delivered_ns"])
    by_track = {event["args"]["name"]: event["tid"] for event in document["traceEvents"]
                if event["name"] == "thread_name"}
    ready = next(event for event in records if event["name"] == "SVM_READY" and event["args"]["stream_offset"] == 614)
    assert ready["tid"] == by_track["secondary sends (10.99.0.2:7002)"]
    assert ns(ready["dur"]) == 43_183_000
    assert ready["args"]["frames"] == "frame.number in {36105 .. 36107}"
    assert {event["tid"] for event in records} == {1, 3}


def test_a_plain_migration_has_its_iterations_inside() -> None:
    capture = analysis.read(PCAPS / "plain-hvm-mtu.A.pcap.zst")
    network = [event["name"] for event in slices(capture) if event["tid"] == 2]
    assert network == ["checkpoint 0", "memory", "cpu", "device", "load", "resume",
                       "iteration 0", "iteration 1", "iteration 2", "iteration 3"]


def test_a_late_start_and_several_connections_keep_apart(tmp_path: Path) -> None:
    wires = [Wire(stream.colo(4, Guest(memory=2)), ports=(port, 7002)) for port in (4001, 4002)]
    late = wires[0].keep(wires[0].rows[len(wires[0].rows) // 2:])
    capture = analysis.read(files.write(tmp_path / "x.pcap", [late, wires[1]]))
    document = json.loads(trace(capture))
    names = [event["args"]["name"] for event in document["traceEvents"] if event["name"] == "process_name"]
    assert sorted(names) == ["connection 0: colo", "connection 1: colo"]
    for pid in (1, 2):
        own = [event["name"] for event in document["traceEvents"]
               if event["pid"] == pid and event.get("cat") == "checkpoint"]
        assert len(own) == len(set(own))
    test_slices_of_a_track_lie_inside_or_behind_each_other(capture)


def test_a_clock_that_steps_back_still_nests(tmp_path: Path) -> None:
    wire = Wire(stream.colo(3, Guest(memory=2)))
    wire.rows["time"][len(wire.rows) // 2:] -= 200_000_000
    capture = analysis.read(files.write(tmp_path / "x.pcap", wire))
    assert (capture.export("phases")["duration_ns"] < 0).any()
    test_slices_of_a_track_lie_inside_or_behind_each_other(capture)


def test_histograms_say_what_the_table_says(colo: Capture) -> None:
    found = histograms(colo)
    table = colo.latency()
    assert len(found) == len(table) == 7
    for (_, row), (name, text) in zip(table.iterrows(), sorted(found.items(), key=lambda item: order(item[0], table)),
                                      strict=True):
        assert name.startswith(f"0.{row['from']}-to-{row['to']}")
        told = {key: float(value) for key, value in re.findall(r"(\w+) += +([\d.]+)", text)}
        assert told["TotalCount"] == row["count"]
        assert told["Mean"] == pytest.approx(row["mean_ms"], rel=1e-3)
        assert told["Max"] == pytest.approx(row["max_ms"], rel=1e-3)
        # HdrHistogram divides by n.
        if row["count"] > 1:
            n = row["count"]
            assert told["StdDeviation"] == pytest.approx(row["std_ms"] * ((n - 1) / n) ** 0.5, rel=2e-3)


def order(name: str, table: Any) -> int:
    places = [f"0.{a}-to-{b}" + "-first-boot" * (phase == "first_boot") + ".hgrm"
              for a, b, phase in zip(table["from"], table["to"], table["phase"], strict=True)]
    return places.index(name)


TABLES = ["bounds", "capture_points", "causes", "checkpoints", "connections", "explanation", "findings", "iterations",
          "latency", "pages", "pairs", "parts", "phases", "proxy", "records", "segments", "syncs"]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("table", TABLES)
def test_every_table_goes_everywhere(tmp_path: Path, late: Capture, table: str, kind: str) -> None:
    """Integers stay integers, whatever is not known beside them."""
    frame = late.export(table)
    write(plain(frame), table, kind, str(tmp_path / "x"))
    text = (tmp_path / "x").read_text()
    if kind == "csv":
        head, *rows = list(csv.reader(io.StringIO(text)))
        back = [dict(zip(head, row, strict=True)) for row in rows]
    else:
        back = json.loads(text)["rows"] if kind == "json" else [json.loads(line) for line in text.splitlines()]
    assert len(back) == len(frame)
    for name in (name for name in frame if str(name).endswith("_ns")):
        assert [row[name] for row in back] == [
            ("" if kind == "csv" else None) if pd.isna(value) else str(value) if kind == "csv" else value
            for value in frame[name]]
    write_parquet(frame, str(tmp_path / "x.parquet"))
    kept = pd.read_parquet(tmp_path / "x.parquet")
    for name in frame:
        if str(name).endswith("_ns"):
            assert kept[name].astype("Int64").tolist() == frame[name].tolist()


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Attached late, so that some values are not known."""
    wire = Wire(stream.colo(6, Guest(memory=2)))
    data = wire.data_rows()
    path = files.write(tmp_path_factory.mktemp("late") / "x.pcap", wire.keep(wire.rows[data[len(data) // 2]:]))
    return analysis.read(path, segments=True, contents=True)


def run(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", f"{code}from analysis.cli import main; main()", *words],
                          capture_output=True, text=True)


def test_the_command_writes_both(tmp_path: Path, colo: Capture) -> None:
    done = run("export", "--trace", str(tmp_path / "t.json"), "--hgrm", str(tmp_path / "new" / "folder"),
               str(PCAPS / "colo-hvm-fast.A.pcap.zst"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "t.json").read_text()[:100] == trace(colo)[:100]
    assert {path.name: path.read_text() for path in (tmp_path / "new" / "folder").iterdir()} == histograms(colo)


@pytest.mark.parametrize(("words", "said"), [
    ([], "export wants --trace, --hgrm or both"),
    (["--trace", "/no/such/place.json"], "/no/such/place.json: No such file or directory"),
    (["--hgrm", "/dev/null/folder"], "/dev/null/folder: Not a directory")])
def test_what_cannot_be_done_is_one_line(words: list[str], said: str) -> None:
    done = run("export", *words, str(PCAPS / "debian-nocolo.A.pcap.zst"))
    assert done.returncode == 2
    assert done.stderr == f"coloscope: {said}\n"


def test_without_pairs_it_says_so(tmp_path: Path) -> None:
    done = run("export", "--hgrm", str(tmp_path / "h"), str(PCAPS / "remus-hvm.A.pcap.zst"))
    assert done.returncode == 0
    assert "Remus has none" in done.stderr
    assert list((tmp_path / "h").iterdir()) == []


def test_without_hdrhistogram_it_says_what_to_install(tmp_path: Path) -> None:
    done = run("export", "--hgrm", str(tmp_path / "h"), str(PCAPS / "colo-2ck-abort.A.pcap.zst"),
               code="import sys; sys.modules['hdrh'] = None; ")
    assert done.returncode == 2
    assert done.stderr == "coloscope: histograms need hdrhistogram: pip install 'coloscope[report]'\n"
