# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes from the wire or from names of files reaches no terminal and no spreadsheet raw."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.escape import cell, printable
from dissector import protocol as p
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, encode
from tests.synthesiser.wire import Wire
from tests.test_command import run

SMALL = Guest(memory=1, holes=0, dirty=1)
HOSTILE = "\x1b[31mred\x07\r\n\u202egnp\x9b2J\x7f"


@pytest.mark.parametrize(("text", "shown"), [
    ("plain → text", "plain → text"), ("\x1b[2J", r"\x1b[2J"), ("a\nb\tc\r", r"a\nb\tc\r"),
    ("\u202e", r"\u202e"), ("caf\udce9", r"caf\udce9"), ("\x9b", r"\x9b")],
    ids=["harmless", "escape", "lines", "direction", "no UTF-8", "C1"])
def test_what_a_terminal_would_act_on(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("text", "shown"), [
    ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@A1", "'@A1"), ("\t=1", r"\t=1"),
    ("\r=1", r"\r=1"), ("a=1", "a=1"), ("", "")],
    ids=["equals", "plus", "minus", "at", "tab", "return", "inside", "empty"])
def test_cells_are_no_formulas(text: str, shown: str) -> None:
    assert cell(text) == shown


def two_files(tmp_path: Path, name: str) -> list[str]:
    """A ring of two files, one of them with a hostile name."""
    packets = list(files.frames(Wire(stream.colo(2, SMALL))))
    names = [tmp_path / name, tmp_path / "second.pcap"]
    names[0].write_bytes(files.pcap(packets[:40]))
    names[1].write_bytes(files.pcap(packets[40:]))
    return [str(name) for name in names]


@pytest.mark.parametrize("kind", ["csv", "table", "json", "jsonl"])
def test_names_of_files_in_tables(tmp_path: Path, kind: str) -> None:
    name = f"[red]:bomb:{HOSTILE}.pcap"
    out = run("syncs", "--format", kind, *two_files(tmp_path, name)).stdout
    assert not set(out) & {0x1B, 0x07, 0x0D, 0x7F}
    text = out.decode()
    assert "[red]:bomb:" in text, "no markup, no pictures"
    assert "\u202e" not in text
    assert "\x9b" not in text
    if kind == "json":
        assert any(row["file"].endswith(name) for row in json.loads(text)["rows"])


def test_names_of_files_that_are_no_utf8(tmp_path: Path) -> None:
    names = two_files(tmp_path, b"caf\xe9.pcap".decode(errors="surrogateescape"))
    for kind in ("csv", "table", "json", "parquet"):
        done = run("syncs", "--format", kind, "-o", str(tmp_path / kind), *names)
        assert (done.returncode, done.stderr) == (0, b"")
    assert r"caf\xe9.pcap" in (tmp_path / "csv").read_text()


def test_formulas_and_numbers_in_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that begins like a formula is marked; a negative number is a number."""
    names = two_files(tmp_path, "=cmd|' C'!A0.pcap")
    monkeypatch.chdir(tmp_path)
    rows = list(csv.DictReader(io.StringIO(run(
        "syncs", "--format", "csv", *[Path(name).name for name in names]).stdout.decode())))
    assert {row["file"] for row in rows} == {"'=cmd|' C'!A0.pcap", "second.pcap"}
    packets = list(files.frames(Wire(stream.colo(2, SMALL))))
    back = [(packets[-1][0] - i * 1000, frame) for i, (_, frame) in enumerate(packets)]
    (tmp_path / "back.pcap").write_bytes(files.pcap(back))
    found = pd.read_csv(io.BytesIO(run("latency", "--format", "csv", str(tmp_path / "back.pcap")).stdout))
    assert found["min_ms"].dtype == "float64"
    assert (found["min_ms"].dropna() < 0).all()


def test_errors_and_warnings_are_one_harmless_line(tmp_path: Path) -> None:
    missing = run("syncs", str(tmp_path / HOSTILE))
    path = tmp_path / f"{HOSTILE}.pcap"
    path.write_bytes(files.pcap(list(files.frames(Wire(stream.colo(1, SMALL)))))[:-7])
    damaged, cut = run("syncs", str(path)), run("cut", str(path), "-o", str(tmp_path / f"cut{HOSTILE}"))
    for done, lines in ((missing, 1), (damaged, 1), (cut, 2)):
        assert done.stderr.count(b"\n") == lines
        assert rb"\x1b[31mred\x07\r\n" in done.stderr
        assert not set(done.stderr) & {0x1B, 0x07, 0x0D, 0x7F}
        assert b"Traceback" not in done.stderr


def test_show_of_hostile_strings(tmp_path: Path) -> None:
    """xl's config, xenstore's keys and values, an optional record, an emulator's state."""
    octets = HOSTILE.encode("utf-8", "surrogateescape")
    messages = list(stream.colo(1, SMALL))
    hostile = {p.XL_HEADER: {"mandatory_flags": 3, "config": octets},
               p.EMULATOR_XENSTORE_DATA: {"emulator_id": 2, "index": 0, "pairs": [octets, octets]},
               p.EMULATOR_CONTEXT: {"emulator_id": 2, "index": 0, "emulator_ctx": octets}}
    messages = [replace(m, octets=encode(m.structure, **hostile[m.structure]))
                if m.structure in hostile else m for m in messages]
    at = next(i for i, m in enumerate(messages) if m.structure is p.HVM_PARAMS)
    messages.insert(at, replace(messages[at], octets=stream.record(p.OPTIONAL | 0x77, octets)))
    path = files.write(tmp_path / "x.pcap", Wire(messages))
    done = run("show", "--every", "--checkpoint", "0", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"[31mred") >= 3
    assert not set(done.stdout.decode()) & {*map(chr, range(10)), *map(chr, range(11, 32)), "\x7f", "\x9b",
                                            "\u202e"}
