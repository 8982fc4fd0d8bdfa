# SPDX-License-Identifier: GPL-2.0-or-later
"""`analysis.read(engine="wireshark")`: the tables of the engine, out of the user's own tshark."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from dissector.errors import CannotDo
from dissector.wireshark.generate import generate
from tests.helpers import PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
SMALL = Guest(memory=5, holes=3, dirty=2, emulator=60)
TABLES = ("connections", "records", "syncs", "pairs", "checkpoints", "latency")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without preferences or plug-ins."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    return tmp_path


def through_wireshark(*names: Path, words: tuple[str, ...] = ()) -> analysis.Capture:
    return analysis.read(*names, engine="wireshark", tshark=words)


def same(capture: Path) -> analysis.Capture:
    """Every table is the engine's, but for the ACKs."""
    mine, theirs = analysis.read(capture), through_wireshark(capture)
    for name in TABLES:
        expected, found = mine.export(name), theirs.export(name)
        if "acked_ns" in expected:
            assert expected["acked_ns"].notna().any() or expected.empty
            assert found["acked_ns"].isna().all()
            expected["acked_ns"] = pd.array([None] * len(expected), "Int64")
        assert len(found) or not len(expected)
        pd.testing.assert_frame_equal(found, expected)
    return theirs


@tshark
@pytest.mark.parametrize("name", ["colo-hvm-fast.A", "colo-2ck-abort.A", "remus-hvm.A", "plain-hvm-mtu.A",
                                  "colo-hvm-dirty.A"])
def test_the_tables_of_real_captures(name: str) -> None:
    assert len(same(PCAPS / f"{name}.pcap.zst").records) > 1000


def several() -> list[Wire]:
    """Migrations of every kind at the same time; one behind a wrap, one over IPv6."""
    return [Wire(stream.colo(3, replace(SMALL, shifted=True)), isn=(2**32 - 5000, 2**32 - 60)),
            Wire(stream.colo(2, replace(SMALL, order_2015=True)), ports=(30_001, 7002)),
            Wire(stream.remus(3, SMALL), ports=(30_002, 7002), ends=("fe80::1", "fe80::2")),
            Wire(stream.plain(replace(SMALL, order="big")), ports=(30_003, 7002))]


@tshark
@pytest.mark.parametrize("link", ["ethernet", "sll2", "vxlan"])
def test_several_migrations_in_one_file(home: Path, link: str) -> None:
    capture = files.write(home / "x.pcap", several(), link)
    assert list(same(capture).connections["kind"]) == ["colo", "colo", "remus", "plain"]


@tshark
@pytest.mark.parametrize("change", [
    lambda m: [replace(x, direction="back") if x.control_id == 0 else x for x in m],
    lambda m: [x for x in m if x.control_id != 1],
    lambda m: [*m[:9], replace(m[9], octets=stream.record(0x80000007, b"new")), *m[9:]]],
    ids=["wrong sender", "out of order", "unknown record"])
def test_faulty_streams(home: Path, change: Any) -> None:
    capture = files.write(home / "x.pcap", Wire(change(list(stream.colo(3, SMALL)))))
    theirs = same(capture)
    assert set(theirs.findings["rule"]) == set(analysis.read(capture).findings["rule"]) != set()


@tshark
def test_messages_in_pieces_and_a_clock_that_steps_back(home: Path) -> None:
    wire = Wire(stream.colo(2, SMALL), mss=60)
    wire.rows["time"] -= 2_500_000 * (wire.rows["time"].argsort())
    capture = home / "x.pcap"
    capture.write_bytes(files.pcap(list(files.frames(wire))))
    assert (same(capture).syncs["spread_ms"] <= 0).all()


@tshark
def test_octets_that_never_come(home: Path) -> None:
    """Nothing is shown that the engine does not have, and the hole is told."""
    wire = Wire(stream.colo(3, SMALL))
    lost = wire.data_rows()[len(wire.data_rows()) // 2]
    capture = files.write(home / "x.pcap", wire.keep(wire.rows[[i for i in range(len(wire.rows)) if i != lost]]))
    theirs = through_wireshark(capture)
    columns = ["direction", "stream_offset", "name", "length"]
    mine = analysis.read(capture).records[columns].apply(tuple, axis=1)
    assert set(theirs.records[columns].apply(tuple, axis=1)) <= set(mine)
    assert "hole" in set(theirs.findings["rule"])
    assert theirs.syncs["doubt"].any()
    assert not theirs.checkpoints["complete"].all()


@tshark
def test_arguments_go_to_tshark(home: Path) -> None:
    capture = files.write(home / "x.pcap", several())
    chosen = through_wireshark(capture, words=("-Y", "tcp.stream == 1"))
    assert list(chosen.connections["connection"]) == [1]
    pd.testing.assert_frame_equal(chosen.syncs, through_wireshark(capture).syncs.query(
        "connection == 1").reset_index(drop=True))


@tshark
def test_a_file_that_ends_early_is_a_finding(home: Path) -> None:
    whole = files.write(home / "x.pcap", several()).read_bytes()
    capture = home / "short.pcap"
    capture.write_bytes(whole[:-7])
    theirs = through_wireshark(capture)
    assert len(theirs.records)
    assert "damaged_file" in set(theirs.findings["rule"])


@tshark
def test_the_users_own_plug_in(home: Path) -> None:
    """The same version may be there; another one is told."""
    capture = files.write(home / "x.pcap", Wire(stream.colo(1, SMALL)))
    plugin = home / ".local" / "lib" / "wireshark" / "plugins" / "xen_migration.lua"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(generate())
    assert len(through_wireshark(capture).syncs) == len(analysis.read(capture).syncs)
    plugin.write_text(generate().replace("record.spread", "record.other"))
    with pytest.raises(CannotDo, match=r"another version .* coloscope wireshark install"):
        through_wireshark(capture)


@tshark
@pytest.mark.parametrize(("content", "words", "says"), [
    (None, (), "doesn't exist"), (b"no capture at all", (), "isn't a capture file"),
    (b"", ("-o", "no.such:1"), "unknown preference"), (b"", ("-Y", "no filter"), "unexpected")],
    ids=["no file", "no capture", "no preference", "no filter"])
def test_what_tshark_refuses_is_one_line(home: Path, content: bytes | None, words: tuple[str, ...],
                                         says: str) -> None:
    capture = home / "x.pcap"
    if content is not None:
        capture.write_bytes(content or files.pcap([]))
    with pytest.raises(CannotDo, match=says) as raised:
        through_wireshark(capture, words=words)
    assert str(capture) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_tshark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CannotDo, match="apt install tshark"):
        through_wireshark(PCAPS / "colo-2ck-abort.A.pcap.zst")


def test_one_file_and_no_other_engine() -> None:
    capture = PCAPS / "colo-2ck-abort.A.pcap.zst"
    with pytest.raises(CannotDo, match="mergecap"):
        through_wireshark(capture, capture)
    with pytest.raises(ValueError, match="'coloscope' or 'wireshark'"):
        analysis.read(capture, engine="tcpdump")
