# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzers' corpus, and a short run of each; `make fuzz` is the long one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import HARNESSES
from fuzz.__main__ import CORPUS
from tests.helpers import PCAPS

SEEDS = [(harness, path.name) for harness in HARNESSES for path in sorted((CORPUS / harness).iterdir())]
RUNS = {"reader": 300, "streams": 500, "framing": 150, "scapy_layer": 500, "capture": 60}


@pytest.mark.parametrize(("harness", "seed"), SEEDS)
def test_seeds(harness: str, seed: str) -> None:
    """With the compiled kernels, that is; under the fuzzer they run as Python."""
    importlib.import_module(f"fuzz.{harness}").check((CORPUS / harness / seed).read_bytes())


@pytest.mark.parametrize("harness", HARNESSES)
def test_a_short_run(tmp_path: Path, harness: str) -> None:
    pytest.importorskip("atheris", reason="needs Atheris, which has wheels for Linux on x86-64 only")
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", harness, f"-runs={RUNS[harness]}", "-seed=1"],
        cwd=PCAPS.parent, capture_output=True, text=True, timeout=900,
        env={**os.environ, "FUZZ_FOUND": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """The rejected twin: a harness that cannot fail would find nothing."""
    program = (
        "import dissector.framing, fuzz.framing\n"
        "feed = dissector.framing.Framer.feed\n"
        "def wrong(self, run):\n"
        "    records = feed(self, run)\n"
        "    for record in records: record.stream_offset += record.stream_offset > 99\n"
        "    return records\n"
        "dissector.framing.Framer.feed = wrong\n"
        f"fuzz.framing.check(open({str(CORPUS / 'framing' / 'colo_forward')!r}, 'rb').read())\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=PCAPS.parent, capture_output=True, text=True)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
