# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as people and scripts use it: names of columns, formats, exits, one clear line."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from analysis.cli import main
from tests.helpers import COMMAND, PCAPS
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest
from tests.synthesiser.wire import Wire

COLO = str(PCAPS / "colo-hvm-fast.A.pcap.zst")
COLUMNS = {
    "records": "connection direction layer type name stream_offset length body_length first_frame "
               "last_frame frame first_seen_ns last_seen_ns delivered_ns acked_ns after_gap status",
    "syncs": "connection checkpoint control_id name sender direction frame first_seen_ns "
             "last_seen_ns delivered_ns acked_ns spread_ms stream_offset status",
    "latency": "connection phase from to count lost min_ms mean_ms p50_ms p90_ms p95_ms p99_ms "
               "max_ms std_ms",
}
COMMANDS = ["connections", "records", "syncs", "latency", "checkpoints", "phases", "iterations"]


def run(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *words], capture_output=True, input=stdin)


def here(*words: str) -> Result:
    """The same in this process, which takes a second less."""
    return CliRunner().invoke(main, words)


def rows(*words: str) -> list[dict[str, object]]:
    done = run(*words, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == 1
    assert found["command"] == words[0]
    result: list[dict[str, object]] = found["rows"]
    return result


@pytest.mark.parametrize("command", COLUMNS)
def test_columns_that_scripts_depend_on(command: str) -> None:
    done = run(command, COLO)
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.splitlines()[0].decode() == COLUMNS[command].replace(" ", ",")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_format_says_the_same(tmp_path: Path, command: str) -> None:
    records = rows(command, COLO)
    lines = [json.loads(line) for line in here(command, COLO, "--format", "jsonl").stdout.splitlines()]
    assert lines == records
    path = tmp_path / "x.csv"
    assert here(command, COLO, "-o", str(path)).stdout == ""
    assert len(pd.read_csv(path)) == len(records)
    assert list(pd.read_csv(path)) == list(records[0])
    path = tmp_path / "x.parquet"
    assert here(command, COLO, "--format", "parquet", "-o", str(path)).exit_code == 0
    assert list(pd.read_parquet(path)) == list(records[0])
    table = here(command, COLO, "--format", "table").stdout
    assert len(table.splitlines()) >= len(records) + 2


def test_parquet_needs_a_file() -> None:
    done = run("latency", COLO, "--format", "parquet")
    assert done.returncode == 2
    assert done.stderr == b"coloscope: parquet is binary: name a file with -o\n"


def test_latency_of_a_real_pair() -> None:
    found = {(r["phase"], r["from"], r["to"]): r for r in rows("latency", COLO)}
    new = found["checkpoint", "NEW", "SVM_SUSPENDED"]
    assert (new["count"], new["lost"], new["min_ms"], new["p99_ms"]) == (49, 0, 122.415, None)


def test_selection_by_connection_time_and_frame(tmp_path: Path) -> None:
    wires = [Wire(stream.colo(4, Guest(memory=2)), ports=(30_000 + i, 7002)) for i in range(2)]
    path = str(files.write(tmp_path / "x.pcap", wires))
    everything = rows("syncs", path)
    assert {r["connection"] for r in everything} == {0, 1}
    one = rows("syncs", path, "--connection", "1")
    assert one == rows("syncs", path, "--connection", "10.0.0.1:30001")
    assert [r for r in everything if r["connection"] == 1] == one
    frame, time = one[5]["frame"], int(str(one[5]["delivered_ns"]))
    assert rows("syncs", path, "--connection", "1", "--from", str(frame)) == one[5:]
    assert rows("syncs", path, "--connection", "1", "--to", str(frame)) == one[:6]
    stamp = pd.Timestamp(time, tz="UTC").isoformat()
    for text in (stamp, f"{time // 10**9}.{time % 10**9:09}",
                 f"+{(time - int(str(_first(path)))) / 1e9:.9f}"):
        assert rows("syncs", path, "--connection", "1", "--from", text) == one[5:], text
    part = rows("latency", path, "--connection", "1", "--from", str(frame))
    assert sum(int(str(r["count"])) for r in part) < sum(
        int(str(r["count"])) for r in rows("latency", path, "--connection", "1"))
    unknown = run("syncs", path, "--connection", "7")
    assert unknown.returncode == 2
    assert b"there is no connection '7'; there is 0 (10.0.0.1:30000" in unknown.stderr
    assert b"neither a frame" in run("syncs", path, "--from", "yesterday?").stderr


def _first(path: str) -> int:
    return int.from_bytes(Path(path).read_bytes()[24:28], "little") * 10**9 + int.from_bytes(
        Path(path).read_bytes()[28:32], "little")


def test_several_files_have_a_column_that_names_them(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, Guest(memory=2)))
    packets = list(files.frames(wire))
    names = []
    for i, part in enumerate((packets[:30], packets[30:])):
        names.append(str(tmp_path / f"ring{i}.pcapng"))
        Path(names[-1]).write_bytes(files.pcapng(part))
    found = rows("syncs", *names)
    assert {r["file"] for r in found} <= set(names)
    assert max(int(str(r["frame"])) for r in found if r["file"] == names[1]) <= len(packets) - 30
    assert b"take a time" in run("syncs", *names, "--from", "3").stderr


def test_without_checkpoints_the_exit_is_0_and_one_line_says_why() -> None:
    for name, why in (("remus-hvm.A", b"Remus has none"),
                      ("plain-hvm-mtu.A", b"a plain migration has none"),
                      ("debian-nocolo.A", b"before it tells plain migration, Remus and COLO apart")):
        done = run("latency", str(PCAPS / f"{name}.pcap.zst"))
        assert done.returncode == 0
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert len(done.stdout.splitlines()) == 1, "the header of an empty table"


def test_nothing_of_ours_is_exit_2_and_says_what_is_there(tmp_path: Path) -> None:
    qemu = run("latency", str(PCAPS / "c0-bios-offon.pcap.zst"))
    assert qemu.returncode == 2
    assert b"1 TCP connection, none carries a Xen migration stream" in qemu.stderr
    assert b"QEMU's COLO" in qemu.stderr
    proxy = run("syncs", str(PCAPS / "colo-hvm-fast.proxy9001-lo.pcap.zst"))
    assert proxy.returncode == 2
    assert b"127.0.0.1:9001 is colo-proxy control" in proxy.stderr
    ssh = Wire([], ports=(50_000, 22))
    ssh.streams = {"forward": b"SSH-2.0-OpenSSH_9.2\r\n", "back": b"SSH-2.0-OpenSSH_9.2\r\n"}
    extra = ssh.rows[2:3].copy()
    extra["length"] = 21
    ssh = ssh.keep(pd.Series([*ssh.rows[:3], *extra]).to_numpy().astype(ssh.rows.dtype))
    done = run("checkpoints", str(files.write(tmp_path / "ssh.pcap", ssh)))
    assert done.returncode == 2
    assert b"10.0.0.2:22 is SSH: xl's default transport encrypts the stream, see README: capturing" \
        in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert rows("connections", str(tmp_path / "ssh.pcap"), "--all")[0]["kind"] == "SSH"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", ["/nonexistent", "/etc/hostname", "/etc", "/dev/null"])
def test_bad_input_is_one_line(command: str, path: str) -> None:
    done = run(command, path)
    assert done.returncode == 2
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1
    assert path.encode() in done.stderr


def test_all_connections(tmp_path: Path) -> None:
    (row,) = rows("connections", COLO)
    assert row["primary"] == "10.99.0.1:60736"
    assert row["secondary"] == "10.99.0.2:7002"
    assert (row["kind"], row["xen_version"], row["guest_type"]) == ("colo", "4.17", "x86_hvm")
    assert (row["start_seen"], row["records"], row["checkpoints"], row["holes"]) == (True, 1625, 50, 0)
    wires = [Wire(stream.colo(1, Guest(memory=2))), Wire([], ports=(9, 10))]
    found = rows("connections", str(files.write(tmp_path / "x.pcap", wires)), "--all")
    assert [r["kind"] for r in found] == ["colo", "no data"]


def test_stdin_and_a_broken_pipe() -> None:
    done = run("latency", "-", "--format", "json", stdin=Path(COLO).read_bytes())
    assert json.loads(done.stdout)["rows"] == rows("latency", COLO)
    command = shlex.join([*COMMAND, "records", COLO])
    piped = subprocess.run(f"set -o pipefail; {command} | head -1", shell=True,
                           executable="/bin/bash", capture_output=True)
    assert piped.returncode == 0
    assert piped.stderr == b""


def test_warnings_stand_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(files.pcap(list(files.frames(Wire(stream.colo(1)))))[:-5])
    done = run("syncs", str(path))
    assert done.returncode == 0
    assert done.stderr.startswith(b"coloscope: warning: damaged_file: ")


def test_help_and_version() -> None:
    told = run("--help").stdout.decode()
    assert all(f"  {name} " in told for name in main.list_commands(click.Context(main)))
    assert "..." not in told.partition("Commands:")[2], "no sentence is cut off"
    assert run("--version").stdout.startswith(b"coloscope, version 0.")
    assert b"--connection" in run("latency", "--help").stdout


def test_every_command_that_help_lists_is_there() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        found = main.get_command(context, name)
        assert found is not None
        assert found.name == name
    assert main.get_command(context, "nothing") is None


def test_help_imports_no_command() -> None:
    code = ("import sys\nfrom analysis.cli import main\nmain(['--help'], standalone_mode=False)\n"
            "print(sorted(name for name in sys.modules if name.startswith(('dissector.', 'analysis.commands.'))))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("text", ["inf", "NaT", "now", "+x", "-5", "1e999", "2026-13-01", ""])
def test_a_bound_that_is_none(text: str) -> None:
    done = here("latency", COLO, f"--from={text}")
    if text:
        assert done.exit_code == 2
        assert "neither a frame" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_odd_surroundings() -> None:
    """stdin closed; a terminal that knows no arrows; nothing to say about checkpoints."""
    program = shlex.join(COMMAND)
    done = subprocess.run(f"{program} latency - <&-", shell=True, capture_output=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    done = subprocess.run(f"PYTHONIOENCODING=latin-1 {program} latency --format table '{COLO}'",
                          shell=True, capture_output=True)
    assert done.returncode == 0
    assert b"122.42" in done.stdout
    done = run("checkpoints", str(PCAPS / "debian-nocolo.A.pcap.zst"))
    assert done.returncode == 0
    assert b"no checkpoints: " in done.stderr


def test_a_window_means_the_same_by_frame_and_by_time() -> None:
    every = rows("checkpoints", COLO)
    frame, time = every[10]["last_frame"], int(str(every[10]["end_ns"]))
    by_frame = rows("checkpoints", COLO, "--to", str(frame))
    assert by_frame == rows("checkpoints", COLO, "--to", f"{time // 10**9}.{time % 10**9:09}")
    assert len(by_frame) == 11
    begun = rows("records", COLO, "--from", "39787")
    assert min(int(str(r["first_frame"])) for r in begun) >= 39787
    assert rows("connections", COLO, "--from", "54993") == []
