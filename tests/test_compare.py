# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparing captures: differences that are there are found, others are not claimed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.comparison import FASTER, NOT_SHOWN, SLOWER, TOO_FEW
from dissector.errors import CannotDo
from tests.helpers import PCAPS

ROWS = 200


def measured(values: np.ndarray) -> Any:
    """As much of a capture as is compared: each column is a phase, each row a checkpoint."""
    checkpoints, names = values.shape
    phases = pd.DataFrame({
        "checkpoint": pd.array(np.repeat(np.arange(1, checkpoints + 1), names), "Int64"),
        "phase": pd.Categorical.from_codes(np.tile(np.arange(names), checkpoints), [f"p{i}" for i in range(names)]),
        "duration_ns": pd.array((values * 1e6).astype(np.int64).ravel(), "Int64")})
    pairs = pd.DataFrame(columns=["from", "to", "phase", "reason", "latency_ns"])
    return SimpleNamespace(latency=lambda: pairs, export={"pairs": pairs, "phases": phases}.__getitem__)


def latencies(seed: int, n: int = 40, alike: float = 0.0) -> np.ndarray:
    """Columns of n values of some 100 ms, skewed as latencies are; `alike`: correlation of neighbours."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, ROWS))
    for i in range(1, n):
        noise[i] = alike * noise[i - 1] + np.sqrt(1 - alike ** 2) * noise[i]
    return 100 * np.exp(0.4 * noise)


def share(table: pd.DataFrame, verdict: str) -> float:
    return float((table["verdict"] == verdict).mean())


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_without_a_difference_hardly_one_is_claimed(alike: float) -> None:
    table = analysis.compare({name: measured(latencies(seed, alike=alike))
                              for seed, name in enumerate(("before", "after"))})
    assert len(table) == ROWS
    assert 0.92 <= share(table, NOT_SHOWN) <= 0.99
    inside = (table["difference_low_ms"] <= 0) & (table["difference_high_ms"] >= 0)
    assert (inside == (table["verdict"] == NOT_SHOWN)).all()


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, SLOWER), (0.65, FASTER)])
def test_a_planted_difference_is_found_at_its_size(factor: float, verdict: str) -> None:
    table = analysis.compare({"a": measured(latencies(1, 80)), "b": measured(latencies(2, 80) * factor)})
    assert share(table, verdict) >= 0.97
    assert ((table["ratio_low"] <= factor) & (factor <= table["ratio_high"])).mean() >= 0.92
    assert table["a_median_ms"].median() == pytest.approx(100, rel=0.02)
    assert table["difference_ms"].tolist() == (table["b_median_ms"] - table["a_median_ms"]).tolist()


def test_a_difference_of_everything_alike_is_exact() -> None:
    table = analysis.compare({"a": measured(np.full((20, 1), 5.0)), "b": measured(np.full((20, 1), 6.0))})
    row = table.iloc[0]
    assert (row["difference_low_ms"], row["difference_high_ms"], row["verdict"]) == (1, 1, SLOWER)
    assert row["ratio_low"] == pytest.approx(1.2)


def test_zeros_have_a_difference_and_no_ratio() -> None:
    row = analysis.compare({"a": measured(np.zeros((20, 1))), "b": measured(np.ones((20, 1)))}).iloc[0]
    assert row["verdict"] == SLOWER
    assert row[["ratio", "ratio_low", "ratio_high"]].isna().all()


@pytest.mark.parametrize(("n", "few"), [(9, True), (10, False)])
def test_few_values_are_too_few(n: int, few: bool) -> None:
    table = analysis.compare({"a": measured(latencies(1, n)), "b": measured(latencies(2, 50) * 10)})
    assert (table["verdict"] == (TOO_FEW if few else SLOWER)).all()
    assert table["difference_low_ms"].isna().all() == few
    assert table["difference_ms"].notna().all(), "the medians are what they are"


def test_what_only_one_capture_has_is_too_few_to_compare() -> None:
    colo, remus = (analysis.read(PCAPS / f"{name}.A.pcap.zst") for name in ("colo-2ck-abort", "remus-hvm"))
    table = analysis.compare({"x": colo, "y": remus}).set_index("name")
    assert table.loc["idle", "x_n"] == 0
    assert np.isnan(table.loc["idle", "x_median_ms"])
    assert table.loc["memory", ["x_n", "y_n", "verdict"]].tolist() == [1, 36, TOO_FEW]


def test_both_ends_of_one_run_do_not_differ() -> None:
    ends = {end: analysis.read(PCAPS / f"colo-hvm-dirty.{end}.pcap.zst") for end in "AB"}
    table = analysis.compare(ends)
    assert set(table["verdict"]) == {NOT_SHOWN, TOO_FEW}
    assert table.loc[table["verdict"] == TOO_FEW, "name"].tolist() == ["SVM_READY → SVM_RESUMED (first boot)"]
    pd.testing.assert_frame_equal(table, analysis.compare(ends))  # the seed is fixed


def test_three_captures_are_refused() -> None:
    with pytest.raises(CannotDo, match="two captures, not 3"):
        analysis.compare(dict.fromkeys("abc", measured(np.ones((2, 2)))))


def run(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", f"{code}from analysis.cli import main; main()", "compare", *words],
                          capture_output=True, text=True)


def test_the_command_compares_the_first_with_the_second() -> None:
    done = run(str(PCAPS / "colo-hvm-dirty.A.pcap.zst"), str(PCAPS / "colo-hvm-fast.A.pcap.zst"))
    assert done.returncode == 0, done.stderr
    head, *rows = (line.split(",") for line in done.stdout.splitlines())
    of = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
    assert of["lockstep"]["verdict"] == FASTER
    assert float(of["lockstep"]["before_median_ms"]) == pytest.approx(955.892, abs=0.1)
    assert of["suspend"]["verdict"] == NOT_SHOWN


def test_without_scipy_it_says_what_to_install() -> None:
    done = run(*[str(PCAPS / "colo-hvm-fast.A.pcap.zst")] * 2, code="import sys; sys.modules['scipy'] = None; ")
    assert done.returncode == 2
    assert done.stderr == "coloscope: compare needs scipy: pip install 'coloscope[report]'\n"
