# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of the guides are run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import COMMAND
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

ROOT = Path(__file__).parent.parent


def blocks(path: str) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.S)


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_scapy_guide(tmp_path: Path) -> None:
    (tmp_path / "pcaps").symlink_to(ROOT / "pcaps")
    files.write(tmp_path / "colo.pcap", Wire(stream.colo(1, Guest(memory=2))))
    out = run("\n".join(blocks("docs/scapy.md")) + "\nassert again == stream\n"
              "assert again[LibxcPageData].body_length == 4120\n"
              "assert dirty.build()[4:8] == bytes([24, 0, 0, 0])\n", tmp_path)
    assert "###[ libxl CHECKPOINT_STATE ]###" in out
    assert out.count("libxl CHECKPOINT_STATE CHECKPOINT_NEW") == 1
    assert "libxc PAGE_DATA 4 × pfn" in out
    assert "libxc CHECKPOINT_DIRTY_PFN_LIST 3 × pfn" in out


def test_the_python_of_the_readme() -> None:
    out = run("\n".join(blocks("README.md")), ROOT)
    assert "'khz': 2596" in out


@pytest.mark.parametrize("command", re.findall(r"^\$ (coloscope .*)$", (ROOT / "README.md").read_text(),
                                               re.M))
def test_commands_of_the_readme_print_what_it_shows(command: str) -> None:
    text = (ROOT / "README.md").read_text()
    shown = text[text.index(f"$ {command}\n") + len(command) + 3:]
    shown = re.split(r"\n```|\n\n\$ ", shown)[0]
    program = shlex.join(COMMAND)
    done = subprocess.run(command.replace("coloscope", program, 1), shell=True, cwd=ROOT, text=True,
                          capture_output=True)
    assert (done.stdout + done.stderr).rstrip("\n") == shown.rstrip("\n")
