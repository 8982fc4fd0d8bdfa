# SPDX-License-Identifier: GPL-2.0-or-later
"""The profile in the real tshark: columns, colours, and that every filter in it is one."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dissector.protocol import XEN_COLO
from dissector.wireshark.profile import NAME, files
from tests.helpers import COMMAND
from tests.synthesiser import files as captures
from tests.synthesiser import stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

ROOT = Path(__file__).parent.parent
LUA = ROOT / "lua" / "xen_migration.lua"
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
SYNCS = [point.short_name for point in XEN_COLO.sync_points]


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who took the profile, and nothing else."""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    done = subprocess.run([*COMMAND, "wireshark", "profile"],
                          capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.startswith(str(tmp_path))
    return environment


def tshark(user: dict[str, str], capture: Path, *words: str) -> str:
    """What it prints; it may warn of nothing but root."""
    done = subprocess.run(["tshark", "-r", capture, "-X", f"lua_script:{LUA}", *words], capture_output=True,
                          text=True, env=user)
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("Running as user")]
    assert not warnings
    assert done.returncode == 0
    return done.stdout


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two checkpoints, and a sync-point that comes from the wrong side."""
    messages = list(stream.colo(2, Guest(memory=5, holes=3, dirty=2, emulator=60)))
    backwards = stream.Message("back", messages[-1].structure, messages[-1].octets[:8] + bytes(8))
    return captures.write(tmp_path / "x.pcap", Wire([*messages, backwards]))


def test_the_files_in_the_repository_are_what_is_generated() -> None:
    folder = ROOT / "lua" / "profile" / NAME
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == files(), \
        "run `coloscope wireshark profile -o lua/profile`"


@needs_tshark
def test_columns_and_colours(user: dict[str, str], capture: Path) -> None:
    shown = tshark(user, capture, "-C", NAME, "-Y", 'xenmig.sync.name == "SVM_SUSPENDED"')
    plain = tshark(user, capture, "-Y", 'xenmig.sync.name == "SVM_SUSPENDED"')
    assert " 1 0.120021000 COLO checkpoint 1: SVM_SUSPENDED" in shown
    assert " 1 0.120021000 COLO checkpoint 1: SVM_SUSPENDED" not in plain
    rows = tshark(user, capture, "-C", NAME, "--color", "-Y", "xenmig.sync.name", "-T", "fields",
                  "-e", "xenmig.sync.name", "-e", "frame.coloring_rule.name").splitlines()
    assert len(rows) == 11
    for row in rows[:-1]:
        name, rule = row.split("\t")
        assert rule == name
    assert {row.split("\t")[0] for row in rows} == set(SYNCS)
    assert rows[-1] == f"{SYNCS[0]}\tFindings in a Xen migration"


@needs_tshark
@pytest.mark.parametrize(("name", "column"), [("dfilter_buttons", 2), ("io_graphs", 2)])
def test_every_filter_is_one(user: dict[str, str], capture: Path, name: str, column: int) -> None:
    lines = files()[name].replace(r"\x22", '""').splitlines()
    rows = list(csv.reader(lines))
    assert len(rows) > len(SYNCS)
    for row in rows:
        found = tshark(user, capture, "-Y", row[column], "-T", "fields", "-e", "frame.number")
        # Nothing in this capture waited for an ACK.
        assert bool(found) != (row[1] == "Held back"), row
