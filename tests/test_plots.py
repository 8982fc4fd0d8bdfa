# SPDX-License-Identifier: GPL-2.0-or-later
"""Charts show what the tables say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import analysis
from analysis.capture import Capture
from dissector.errors import CannotDo
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

CHARTS = ("ecdf", "timeline", "latency", "heatmap")
MS = pd.Timedelta(1, "ms")


@pytest.fixture(scope="module")
def colo() -> Capture:
    return analysis.read(PCAPS / "colo-hvm-fast.A.pcap.zst")


@pytest.fixture(scope="module")
def remus() -> Capture:
    return analysis.read(PCAPS / "remus-hvm.A.pcap.zst")


@pytest.fixture(scope="module")
def plain() -> Capture:
    return analysis.read(PCAPS / "plain-hvm-mtu.A.pcap.zst")


def traces(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data}


def test_a_plain_migration_has_iterations_for_a_time_line(plain: Capture) -> None:
    bars = traces(plain.plot.timeline())
    assert list(bars) == [*(f"iteration {i}" for i in range(4)), "cpu", "device", "load", "resume"]
    iterations, phases = plain.iterations, plain.phases.set_index("phase")["duration"]
    assert [bars[f"iteration {i}"].y[0] for i in range(4)] == (iterations["duration"] / MS).tolist()
    assert bars["load"].y[0] == phases["load"] / MS
    assert list(bars["iteration 3"].customdata[0]) == ["iteration 3", "frame.number in {39996 .. 40091}"]


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("kind", ["colo", "remus", "plain"])
def test_every_chart_is_a_figure_for_every_kind(request: pytest.FixtureRequest, kind: str, chart: str) -> None:
    figure = getattr(request.getfixturevalue(kind).plot, chart)()
    assert isinstance(figure, go.Figure)
    assert figure.data or figure.layout.annotations[0].text, "something to see, or why there is nothing"


def test_the_time_line_adds_up_to_what_the_pairs_say(colo: Capture) -> None:
    figure = colo.plot.timeline()
    total = pd.concat([pd.Series(trace.y, trace.x) for trace in figure.data if trace.name != "lockstep"])
    total = total.groupby(level=0).sum()
    checkpoints = colo.checkpoints.set_index("number")["new_to_svm_resumed_ms"].dropna()
    assert len(checkpoints) == 49
    np.testing.assert_allclose(total[checkpoints.index.astype(float)], checkpoints, rtol=1e-12)
    assert [trace.name for trace in figure.data] == [
        "suspend", "list", "merge", "memory", "cpu", "device", "load", "resume", "lockstep"], "in their order"


def test_each_part_tells_its_frames(colo: Capture) -> None:
    bars = traces(colo.plot.timeline())
    assert list(bars["suspend"].customdata[0]) == ["1", "frame.number in {35712 .. 35714}"]
    dots = traces(colo.plot.latency())
    assert dots["NEW → SVM_SUSPENDED"].customdata[0][1] == "frame.number in {35712 .. 35714}"
    assert dots["SVM_READY → SVM_RESUMED"].customdata[0][1] == "frame.number == 36107", "both in one frame"


def test_an_ecdf_reaches_one_and_has_room_for_zero(colo: Capture) -> None:
    figure = colo.plot.ecdf()
    resumed = traces(figure)["SVM_READY → SVM_RESUMED (49)"]
    assert figure.layout.xaxis.type == "log"
    assert resumed.y[0] == 0
    assert resumed.y[-1] == 1
    assert resumed.customdata[0] == 0, "hovering shows the true value"
    assert min(resumed.x) > 0, "a logarithmic axis has no place for 0"
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert resumed.x[0] == figure.layout.xaxis.tickvals[0]
    pairs = colo.pairs
    values = pairs[(pairs["to"] == "SVM_SUSPENDED") & (pairs["reason"] == "")]["latency"] / MS
    suspended = traces(figure)["NEW → SVM_SUSPENDED (49)"]
    np.testing.assert_allclose(suspended.customdata[1:], np.sort(values))
    np.testing.assert_allclose(suspended.y[1:], np.arange(1, 50) / 49)


def test_an_ecdf_without_zero_has_no_mark_for_it(plain: Capture, remus: Capture) -> None:
    figure = remus.plot.ecdf("phases")
    shown = [value for trace in figure.data for value in trace.customdata]
    assert (min(shown) <= 0) == (figure.layout.xaxis.ticktext[0] in ("0", "≤ 0"))
    assert not plain.plot.ecdf().data


def test_an_ecdf_of_something_else_is_refused(colo: Capture) -> None:
    with pytest.raises(CannotDo, match="'pairs' or 'phases', not of 'records'"):
        colo.plot.ecdf("records")


def test_phases_of_the_initial_transfer_are_in_no_distribution(remus: Capture) -> None:
    figure = remus.plot.ecdf("phases")
    assert "memory (36)" in traces(figure)
    assert max(traces(figure)["memory (36)"].customdata) < 1000 < remus.plot.timeline().data[0].y[0]


def test_a_heat_map_counts_every_page(colo: Capture) -> None:
    (heat,) = colo.plot.heatmap().data
    pages = colo.pages
    sent = pages[pages["carries"] & (pages["checkpoint"] > 0)].drop_duplicates(["checkpoint", "pfn"])
    assert np.nansum(np.array(heat.z, float), axis=0).tolist() == sent.groupby("checkpoint").size().tolist()
    assert heat.text[0][0] == "0x0 to 0x1f"


def test_several_connections_want_a_name(tmp_path: Path) -> None:
    wires = [Wire(stream.colo(2, Guest(memory=2)), ports=(port, 7002)) for port in (4001, 4002)]
    capture = analysis.read(files.write(tmp_path / "x.pcap", wires))
    for chart in CHARTS:
        with pytest.raises(CannotDo, match=r"which connection\? .* 0, 1"):
            getattr(capture.plot, chart)()
        with pytest.raises(CannotDo, match=r"no connection 7; the capture has 0, 1"):
            getattr(capture.plot, chart)(connection=7)
    assert capture.plot.timeline(connection=1).data


def test_a_late_start_is_drawn_from_the_first_new_on(tmp_path: Path) -> None:
    wire = Wire(stream.colo(6, Guest(memory=2)))
    data = wire.data_rows()
    capture = analysis.read(files.write(tmp_path / "x.pcap", wire.keep(wire.rows[data[len(data) // 2]:])))
    assert set(capture.checkpoints["numbering"]) == {"relative"}
    bars = traces(capture.plot.timeline())
    assert min(bars["suspend"].x) == 1
    dots = [row for trace in capture.plot.latency().data for row in trace.customdata]
    assert {row[0] for row in dots} >= {"1", "2"}
    assert not any("<" in row[0] for row in dots), "Plotly would take it for markup"


def test_more_checkpoints_than_bars_become_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.plots._BARS", 10)
    path = files.write(tmp_path / "x.pcap", Wire(stream.colo(24, Guest(memory=2))))
    capture = analysis.read(path)
    suspend = traces(capture.plot.timeline())["suspend"]
    assert len(suspend.x) == 9
    phases = capture.phases
    mine = phases[(phases["phase"] == "suspend") & phases["checkpoint"].isin([3, 4, 5])]
    at = [row[0] for row in suspend.customdata].index("3 to 5, mean")
    assert suspend.y[at] == pytest.approx((mine["duration"] / MS).mean())
    first, last = mine["begin_frame"].iloc[0], mine["end_frame"].iloc[-1]
    assert suspend.customdata[at][1] == f"frame.number in {{{first} .. {last}}}"


def test_without_plotly_it_says_what_to_install() -> None:
    code = ("import sys; sys.modules['plotly'] = None\nimport analysis\n"
            f"analysis.read({str(PCAPS / 'debian-nocolo.A.pcap.zst')!r}).plot")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'coloscope[report]'" in done.stderr.splitlines()[-1]
