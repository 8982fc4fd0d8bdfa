# SPDX-License-Identifier: GPL-2.0-or-later
"""`coloscope show` explains records; `coloscope cut` writes their packets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dissector import protocol
from tests.helpers import PCAPS, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire
from tests.test_command import rows, run

COLO = str(PCAPS / "colo-hvm-fast.A.pcap.zst")


def shown(*words: str) -> str:
    done = run("show", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_a_frame_that_ends_one_message_and_carries_another() -> None:
    text = shown(COLO, "--frame", "36107")
    assert text.count("libxl CHECKPOINT_STATE (also COLO_CONTEXT): a sync-point of COLO") == 2
    assert "back, stream offset 614, 16 octets, frames 36105 to 36107, complete" in text
    assert "43.183 ms after its first octet" in text
    assert "02 00 00 00             control_id          2 CHECKPOINT_SVM_READY" in text
    assert "3 CHECKPOINT_SVM_RESUMED" in text


def test_a_frame_inside_page_contents() -> None:
    text = shown(COLO, "--frame", "35801")
    assert text.startswith("libxc PAGE_DATA: a batch of guest pages\n")
    assert "frames 35718 to 35944" in text
    assert "258048 octets, 63 pages" in text
    assert "NOTAB pfn 0x7" in text
    assert "… 55 more" in text
    assert "… 55 more" not in shown(COLO, "--frame", "35801", "--every")


def test_a_record_by_its_place() -> None:
    for offset in (54, 61, 69):
        text = shown(COLO, "--offset", f"0:back:{offset}")
        assert "stream offset 54, 16 octets" in text
    assert "xl BANNER" in shown(COLO, "--offset", "0:back:0")
    assert 'config              "{.    "c_info": {' in shown(COLO, "--offset", "0:forward:0")


def test_a_whole_checkpoint() -> None:
    text = shown(COLO, "--checkpoint", "1")
    names = [line.split(":")[0].split()[1] for line in text.splitlines() if line and line[0] != " "]
    assert names == ["CHECKPOINT_STATE", "CHECKPOINT_STATE", "CHECKPOINT_DIRTY_PFN_LIST", "PAGE_DATA",
                     "X86_TSC_INFO", "HVM_CONTEXT", "HVM_PARAMS", "CHECKPOINT", "EMULATOR_CONTEXT",
                     "CHECKPOINT_END", "CHECKPOINT_STATE", "CHECKPOINT_STATE"]
    assert "QEVM" in text


def test_every_structure_is_explained(tmp_path: Path) -> None:
    """Each field of each structure with its value, in both byte orders."""
    guests = [Guest(memory=2), Guest(memory=2, order="big"), Guest(memory=2, hvm=False)]
    for guest in guests:
        for messages in (stream.plain(guest, failed=True), stream.colo(1, guest)):
            if not guest.hvm and messages.__name__ == "colo":
                continue
            path = files.write(tmp_path / "x.pcap", Wire(messages))
            from dissector.explain import explain

            for record in read(path).records:
                text = "\n".join(explain(record))
                assert record.structure is not None
                for field in record.structure.fields:
                    assert field.name in text
                assert not any(f"NOT {what}" in text for what in ("legal", "zero"))
                assert "\x1b" not in text


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, Guest(memory=2, shifted=True)))
    text = shown(str(files.write(tmp_path / "x.pcap", wire)), "--checkpoint", "1")
    assert "8 zero octets stand behind the record header" in text
    head = b"".join(m.octets for m in list(stream.plain(Guest(xl=False)))[:4])
    bad = head + bytes.fromhex("08000000 18000000 09000000") + bytes(16) + b"\1\0\0\0"
    wire.streams = {"forward": bad, "back": b""}
    row = wire.rows[wire.data_rows()[:1]].copy()
    row["side"], row["offset"], row["length"], row["ack"] = 0, 0, len(bad), 0
    wire.rows = row
    text = shown(str(files.write(tmp_path / "x.pcap", wire)), "--offset", f"0:forward:{len(head)}")
    assert "9 (not defined)" in text
    assert "1 (NOT legal)" in text


def test_asking_for_what_is_not_there(tmp_path: Path) -> None:
    for words, says in (
            (["--frame", "3"], "frame 3 carries no octets of a migration stream"),
            (["--frame", "99999999"], "(the capture has 54992 frames)"),
            (["--offset", "0:back:99999999"], "that direction has 0 to 23717"),
            (["--offset", "here"], "no CONNECTION:DIRECTION:OFFSET"),
            (["--checkpoint", "50"], "there is no checkpoint 50; the capture has 0 to 49"),
            ([], "show wants one of --frame, --offset and --checkpoint")):
        done = run("show", COLO, *words)
        assert done.returncode == 2
        assert says in done.stderr.decode()
        assert len(done.stderr.splitlines()) == 1
    done = run("show", "-", "--checkpoint", "1", stdin=Path(COLO).read_bytes())
    assert b"name a file, not a pipe" in done.stderr


def test_cut_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "k.pcap"
    done = run("cut", COLO, "-o", str(out), "--checkpoint", "7")
    assert done.returncode == 0
    places = [r["stream_offset"] for r in rows("syncs", COLO) if r["name"] == "NEW"]
    first, after = (next(r for r in rows("records", COLO) if r["direction"] == "forward"
                         and r["stream_offset"] == places[number - 1]) for number in (7, 8))
    frames = int(str(after["first_frame"])) - int(str(first["first_frame"]))
    assert f"{frames} packets" in done.stderr.decode()
    if shutil.which("tshark"):
        lines = subprocess.run(["tshark", "-r", out, "-T", "fields", "-e", "frame.time_epoch", "-e",
                                "tcp.len"], capture_output=True, text=True, check=True).stdout.splitlines()
        assert len(lines) == frames
        time, length = lines[0].split()
        assert length == "8", "this NEW came in two pieces"
        assert time.replace(".", "") == str(first["first_seen_ns"])


def test_cut_a_connection_and_a_window(tmp_path: Path) -> None:
    """What is cut out whole reads as it did before."""
    wires = [Wire(stream.colo(2, Guest(memory=2)), ports=(30_000 + i, 7002)) for i in range(3)]
    path, out = str(files.write(tmp_path / "x.pcap", wires)), tmp_path / "one.pcap"
    assert run("cut", path, "-o", str(out), "--connection", "1").returncode == 0
    assert read(out).framed() == wires[1].expected()
    assert run("cut", path, "-o", str(out), "--connection", "10.0.0.1:30002").returncode == 0
    assert read(out).framed() == wires[2].expected()
    assert run("cut", path, "-o", str(out)).returncode == 0
    assert len(read(out).engine.ours()) == 3
    assert run("cut", path, "-o", str(out), "--from", "10", "--to", "19").returncode == 0
    assert len(out.read_bytes()) < 10 * 2000
    assert read(path).engine.files[0].packets > sum(f.packets for f in read(out).engine.files) == 10
    several = run("cut", path, "-o", str(out), "--checkpoint", "1")
    assert b"choose one with --connection" in several.stderr


@pytest.mark.parametrize("name", ["x.pcapng.zst", "x.pcap.gz"])
def test_cut_reads_what_the_others_read(tmp_path: Path, name: str) -> None:
    wire = Wire(stream.plain(Guest(memory=2)))
    path = files.write(tmp_path / name, wire, "sll2")
    out = tmp_path / "out.pcap"
    assert run("cut", str(path), "-o", str(out)).returncode == 0
    assert read(out).framed() == wire.expected()
    assert run("cut", str(path), "-o", "/nonexistent/x").returncode == 2
    assert protocol.FORWARD in {r.direction for r in read(out).records}
