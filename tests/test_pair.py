# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair of programs: what they say to each other is a legal stream, and they notice who has gone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from analysis.verify import verified
from dissector import protocol as p
from dissector.protocol import BACK, DIRECTIONS, FORWARD
from dissector.raw import RawStream
from tests.helpers import PCAPS
from tests.synthesiser import stream
from tests.synthesiser.pair import parts

MODULE = [sys.executable, "-m", "tests.synthesiser.pair"]
FAST = ["--suspend", "0.002", "--load", "0.002", "--resume", "0.001"]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*MODULE, *arguments], cwd=PCAPS.parent, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def pair(primary: tuple[str, ...] = (), secondary: tuple[str, ...] = (),
         ) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    with started("secondary", "--listen", "127.0.0.1:0", "--memory", "1", *FAST, *secondary) as back:
        assert back.stdout
        port = back.stdout.readline().split()[-1]
        with started("primary", "--connect", f"127.0.0.1:{port}", "--memory", "1", "--interval", "0.01",
                     "--rate", "0", *primary) as forward:
            yield forward, back


@pytest.mark.parametrize("how", [(), ("--split-writes",), ("--remus",)], ids=["whole", "split", "remus"])
def test_both_directions_are_legal(how: tuple[str, ...], tmp_path: Path) -> None:
    files = {direction: tmp_path / direction for direction in DIRECTIONS}
    with pair((*how, "--checkpoints", "4", "--keep", str(files[FORWARD])),
              (*how, "--keep", str(files[BACK]))) as ends:
        for end in ends:
            _, errors = end.communicate(timeout=60)
            assert (end.returncode, errors) == (0, "")
    for direction, file in files.items():
        found = verified((str(file),), direction)
        assert not len(found.findings), found.summary
    raw = RawStream(FORWARD)
    records = raw.feed(np.fromfile(files[FORWARD], np.uint8))
    news = [record for record in records if record.control_id is not None]
    assert len(news) == (0 if "--remus" in how else 4)
    assert sum(record.structure is p.CHECKPOINT_END for record in records) == (4 if "--remus" in how else 5)


def test_no_list_keeps_the_primary_waiting() -> None:
    """A list that begins with PFN 0 is not known to be over before something follows."""
    with pair(("--checkpoints", "8"), ("--list", "255")) as (primary, secondary):  # all but one of its pages
        assert primary.wait(timeout=60) == 0
        assert secondary.wait(timeout=60) == 0


def test_parts_are_what_libxl_writes() -> None:
    message = stream._Writer(stream.Guest()).sync("NEW")
    assert [len(part) for part in parts(message)] == [8, 4, 4]
    assert b"".join(parts(message)) == message.octets
    assert [len(part) for part in parts(stream._Writer(stream.Guest()).message(p.CHECKPOINT_END))] == [8]
    assert parts(stream._Writer(stream.Guest()).message(p.BANNER, BACK)) == [p.BANNER.magic]


def test_a_killed_primary_is_an_end_for_the_secondary() -> None:
    with pair(("--checkpoints", "0", "--kill-after", "0.3")) as (primary, secondary):
        assert primary.wait(timeout=60) == -signal.SIGALRM
        assert secondary.wait(timeout=60) == 0


def test_a_killed_secondary_is_told_by_the_primary() -> None:
    with pair(("--checkpoints", "0"), ("--kill-after", "0.3")) as (primary, secondary):
        assert secondary.wait(timeout=60) == -signal.SIGALRM
        _, errors = primary.communicate(timeout=60)
        assert (primary.returncode, errors) == (1, "Error: the secondary has gone\n")


def test_another_protocol_is_refused() -> None:
    with (socket.create_server(("127.0.0.1", 0)) as server,
          started("primary", "--connect", f"127.0.0.1:{server.getsockname()[1]}", "--memory", "1") as primary):
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            _, errors = primary.communicate(timeout=60)
    assert primary.returncode == 1
    assert errors.count("\n") == 1
    assert errors.startswith("Error: ")
