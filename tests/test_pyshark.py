# SPDX-License-Identifier: GPL-2.0-or-later
"""The recipes of docs/pyshark.md: sync-points through pyshark are the engine's."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers import PCAPS, read
from tests.test_guide import ROOT, blocks, run

pytestmark = [
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="pyshark 0.6 does not run on Python 3.14"),
    pytest.mark.skipif(not importlib.util.find_spec("pyshark"), reason="needs pyshark"),
    pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")]
DEFINITION, SCRIPT, IN_A_LOOP = blocks("docs/pyshark.md")


@pytest.mark.parametrize("recipe", [SCRIPT, IN_A_LOOP], ids=["in a script", "in a running event loop"])
@pytest.mark.parametrize("name", ["colo-2ck-abort.A", "colo-hvm-dirty.A"])
def test_the_sync_points_are_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str,
                                         name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    out = run(DEFINITION + recipe.replace("colo-2ck-abort.A", name), ROOT)
    mine, before = [], None
    for sync in read(PCAPS / f"{name}.pcap.zst").syncs:
        time = sync.record.delivered_ns
        latency = None if before is None else f"{(time - before) // 10**9}.{(time - before) % 10**9:09}"
        mine.append(f"{sync.record.frame} {sync.checkpoint} {sync.point.short_name} {latency}")
        before = time
    assert out.splitlines() == mine
    assert len(mine) > 4


def test_without_a_thread_it_fails_in_a_running_loop() -> None:
    """Why the recipe is there: once this passes without, it can go."""
    with pytest.raises(AssertionError, match="event loop"):
        run(DEFINITION + "import asyncio\n\nasync def main():\n"
            "    list(sync_points('pcaps/colo-2ck-abort.A.pcap.zst'))\n\nasyncio.run(main())\n", ROOT)
