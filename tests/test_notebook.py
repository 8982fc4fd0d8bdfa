# SPDX-License-Identifier: GPL-2.0-or-later
"""Notebooks: the one in the repository runs and says what stands there; all of it works in a running event
loop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import analysis
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel")

ROOT = PCAPS.parent
NOTEBOOK = ROOT / "notebooks" / "why-is-it-slow.ipynb"


@pytest.fixture(autouse=True)
def _as_users_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")


def execute(notebook: Any, folder: Path) -> Any:
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False,
                            resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def said(notebook: Any) -> list[list[tuple[str, str]]]:
    """What each cell prints and shows as text; of a chart, that it is one."""
    return [[(output.output_type, str(output.get("text") or output.data.get("text/plain", list(output.data))))
             for output in cell.outputs if output.get("name") != "stderr"]
            for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_says_what_stands_there() -> None:
    committed = nbformat.read(NOTEBOOK, 4)
    found = execute(nbformat.read(NOTEBOOK, 4), NOTEBOOK.parent)
    assert said(found) == said(committed)
    assert said(found)[-1][0][1].startswith("43 of 92 ms: the rest of SVM_READY waited for the ACK")
    assert "plotly" in said(found)[1][0][1]


def test_what_is_committed_is_small_and_whole() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 200_000, "no library in it"
    assert "stderr" not in text
    assert str(Path.home()) not in text
    assert all(cell.outputs for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code")


@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_wireshark_reads_in_a_running_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "import asyncio, analysis\n"
        "assert asyncio.get_running_loop().is_running()\n"
        f"capture = analysis.read({str(PCAPS / 'colo-2ck-abort.A.pcap.zst')!r}, engine='wireshark')\n"
        "print(len(capture.syncs), len(capture.plot.timeline().data))\n"
        "capture")])
    printed, shown = execute(notebook, tmp_path).cells[0].outputs
    assert printed.text == "5 9\n"
    assert "NEW → SVM_SUSPENDED" in shown.data["text/html"]


def test_a_glance_is_for_every_capture_and_escapes_names(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>.pcap"
    html = analysis.read(files.write(tmp_path / evil, Wire(stream.colo(3, Guest(memory=2)))))._repr_html_()
    assert "<img" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.pcap" in html
    assert "<td>NEW → SVM_SUSPENDED</td><td>3</td>" in html
    for path in sorted(PCAPS.glob("*.pcap.zst")):
        assert path.name in analysis.read(path)._repr_html_()
