# SPDX-License-Identifier: GPL-2.0-or-later
"""Conformance: what is right passes in every form, and every breach has its rule."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from analysis.cli import main
from analysis.verify import verified
from dissector import protocol as p
from dissector.findings import Finding
from dissector.opening import direction_of
from dissector.raw import RawStream
from tests.helpers import COMMAND, PCAPS, octets_of, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message, encode, pfn_word, record
from tests.synthesiser.wire import Wire

TINY = Guest(memory=2, holes=1, dirty=1, emulator=41, page=b"\xab" * 4096)
BARE = replace(TINY, xl=False)
PV = replace(TINY, hvm=False)
GOOD: dict[str, list[Message]] = {
    "xl": list(stream.plain(TINY)),
    "libxl": list(stream.plain(BARE)),
    "libxc": [m for m in stream.plain(BARE) if m.structure.layer == p.LIBXC],
    "PV": list(stream.plain(PV)),
    "version 2": list(stream.plain(replace(TINY, version=2))),
    "version 2, PV": list(stream.plain(replace(PV, version=2))),
    "big-endian": list(stream.plain(replace(TINY, order="big"))),
    "big-endian, PV": list(stream.plain(replace(PV, order="big"))),
    "Remus": list(stream.remus(3, TINY)),
    "Remus, PV": list(stream.remus(3, PV)),
    "COLO": list(stream.colo(3, TINY)),
    "COLO of 2015": list(stream.colo(3, replace(TINY, order_2015=True))),
    "big-endian COLO": list(stream.colo(3, replace(TINY, order="big"))),
}
PLAIN = [case for case, messages in GOOD.items() if messages[-1].structure.name not in
         ("CHECKPOINT_END", "CHECKPOINT_STATE")]


def raw(messages: Sequence[Message], direction: str = p.FORWARD) -> bytes:
    return b"".join(m.octets for m in messages if m.direction == direction)


def found(octets: bytes, direction: str = p.FORWARD, cuts: Sequence[int] = ()) -> list[Finding]:
    """What is wrong with a raw stream, fed in pieces."""
    reader, ends = RawStream(direction), [*cuts, len(octets)]
    for begin, end in zip([0, *cuts], ends, strict=True):
        block = np.frombuffer(octets[begin:end], np.uint8).copy()
        reader.feed(block)
        block[:] = 0xEE  # a block is gone once it has been fed
    reader.finish()
    return reader.findings


def rules(octets: bytes, direction: str = p.FORWARD) -> set[str]:
    """The rules that are broken, the same whole and in pieces that end in headers and paddings, too."""
    whole = found(octets, direction)
    assert [(f.rule, f.stream_offset) for f in found(octets, direction, range(1, len(octets), 253))] == [
        (f.rule, f.stream_offset) for f in whole]
    return {f.rule for f in whole}


def swapped(messages: Sequence[Message], structure: p.Structure, octets: bytes | None, *,
            all_of_them: bool = False) -> list[Message]:
    """The same with other octets for (the first of) a structure; None: without it."""
    out, done = [], False
    for message in messages:
        if message.structure is structure and (all_of_them or not done):
            done = True
            if octets is not None:
                out.append(replace(message, octets=octets))
        else:
            out.append(message)
    assert done
    return out


def named(value: object) -> str:
    """Octets have no place in the name of a test."""
    return value.full_name if isinstance(value, p.Structure) else value if isinstance(value, str) else ""


def before(messages: Sequence[Message], structure: p.Structure, octets: bytes) -> list[Message]:
    """The same with something more in front of the first of a structure."""
    at = next(i for i, m in enumerate(messages) if m.structure is structure)
    return [*messages[:at], replace(messages[at], octets=octets), *messages[at:]]


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOOD)
def test_what_is_right_is_clean(case: str, tmp_path: Path) -> None:
    for direction in p.DIRECTIONS:
        if octets := raw(GOOD[case], direction):
            assert rules(octets, direction) == set()
    if case in ("libxl", "big-endian COLO"):
        octets = raw(GOOD[case])
        assert not found(octets, p.FORWARD, range(1, len(octets)))
    capture = files.write(tmp_path / "x.pcap", Wire(GOOD[case]))
    assert not [f for f in read(capture).engine.findings if f.violation]


# --- what one record says -----------------------------------------------------------------------

HVM_HEAD = raw(GOOD["libxl"][:4])
OTHER_HEAD = raw(GOOD["libxl"][:3])
BIT = 1 << p.PFN_RESERVED.low


def _values(structure: p.Structure, good: dict[str, object], bad: dict[str, object],
            rule: str) -> tuple[p.Structure, bytes, bytes, str]:
    return structure, encode(structure, **good), encode(structure, **bad), rule


RECORDS = [
    _values(p.PAGE_DATA, {"pfn": [pfn_word(1, "XTAB")]}, {"pfn": [5 << 60], "page_data": bytes(4096)},
            "illegal_value"),
    _values(p.PAGE_DATA, {"pfn": [pfn_word(1, "BROKEN")]}, {"pfn": [pfn_word(1, "XALLOC"), 8 << 60],
                                                          "page_data": bytes(4096)}, "illegal_value"),
    _values(p.PAGE_DATA, {"pfn": [pfn_word(1, "XTAB")]}, {"pfn": [pfn_word(1, "XTAB") | BIT]}, "reserved_not_zero"),
    _values(p.PAGE_DATA, {"pfn": [pfn_word(1, "L4TAB_PIN")], "page_data": bytes(4096)},
            {"pfn": [pfn_word(1, "L4TAB_PIN")]}, "bad_length"),
    _values(p.X86_TSC_INFO, {"mode": 3}, {"mode": 4}, "illegal_value"),
    _values(p.X86_TSC_INFO, {}, {"reserved": 1}, "reserved_not_zero"),
    _values(p.HVM_PARAMS, {"param": [(1, 2)]}, {"param": [(1, 2)], "reserved": 7}, "reserved_not_zero"),
    _values(p.HVM_PARAMS, {"param": [(1, 2)]}, {"param": [(1, 2)], "count": 2}, "bad_length"),
    _values(p.HVM_CONTEXT, {"hvm_ctx": b"x"}, {}, "bad_length"),
    (p.HVM_CONTEXT, record(9, b"x"), record(9, b"x")[:-1] + b"\1", "padding_not_zero"),
    (p.VERIFY, record(0xD, b""), record(0xD, bytes(8)), "bad_length"),
    (p.PAGE_DATA, encode(p.VERIFY), record(0xB, b"what a toolstack kept"), "deprecated_record"),
    (p.PAGE_DATA, encode(p.VERIFY), encode(p.CHECKPOINT_DIRTY_PFN_LIST, pfn=[1]), "wrong_direction"),
    (p.PAGE_DATA, encode(p.VERIFY), record(0x13, b""), "lost_place"),
    (p.PAGE_DATA, encode(p.VERIFY), encode(p.X86_PV_INFO, guest_width=8, pt_levels=4), "wrong_guest"),
    (p.PAGE_DATA, encode(p.VERIFY), encode(p.SHARED_INFO, shared_info=bytes(4096)), "wrong_guest"),
]


@pytest.mark.parametrize(("at", "good", "bad", "rule"), RECORDS,
                         ids=[f"{i} {case[3]}" for i, case in enumerate(RECORDS)])
def test_records_of_an_hvm_guest(at: p.Structure, good: bytes, bad: bytes, rule: str) -> None:
    messages = GOOD["xl"]
    assert rules(raw(before(messages, p.LIBXC_END, good))) <= {"optional_record"}
    assert rules(raw(before(messages, p.LIBXC_END, bad))) == {rule}


@pytest.mark.parametrize(("structure", "good", "bad", "rule"), [
    _values(p.X86_PV_INFO, {"guest_width": 8, "pt_levels": 4}, {"guest_width": 5, "pt_levels": 4}, "illegal_value"),
    _values(p.X86_PV_INFO, {"guest_width": 8, "pt_levels": 4}, {"guest_width": 8, "pt_levels": 2}, "illegal_value"),
    _values(p.X86_PV_INFO, {"guest_width": 8, "pt_levels": 4}, {"guest_width": 8, "pt_levels": 3}, "illegal_value"),
    _values(p.X86_PV_INFO, {"guest_width": 8, "pt_levels": 4},
            {"guest_width": 8, "pt_levels": 4, "reserved2": 9}, "reserved_not_zero"),
    _values(p.X86_PV_P2M_FRAMES, {"start_pfn": 0, "end_pfn": 1023, "p2m_pfn": [1, 2]},
            {"start_pfn": 0, "end_pfn": 1024, "p2m_pfn": [1, 2]}, "bad_length"),
    _values(p.X86_PV_P2M_FRAMES, {"start_pfn": 0, "end_pfn": 2, "p2m_pfn": [1]},
            {"start_pfn": 9, "end_pfn": 8, "p2m_pfn": [1]}, "illegal_value"),
    _values(p.X86_PV_P2M_FRAMES, {"start_pfn": 0, "end_pfn": 2, "p2m_pfn": [1]},
            {"start_pfn": 0, "end_pfn": 1, "p2m_pfn": [1]}, "illegal_value"),  # PFN 2 is sent: beyond
    _values(p.SHARED_INFO, {"shared_info": bytes(4096)}, {"shared_info": bytes(4088)}, "bad_length"),
    _values(p.X86_PV_VCPU_BASIC, {"context": bytes(5168)}, {"context": bytes(5160)}, "bad_length"),
    _values(p.X86_PV_VCPU_EXTENDED, {"context": bytes(128)}, {"context": bytes(136)}, "bad_length"),
    _values(p.X86_PV_VCPU_XSAVE, {"context": bytes(16)}, {"context": bytes(8)}, "bad_length"),
    _values(p.X86_PV_VCPU_MSRS, {"context": bytes(16)}, {"context": bytes(17)}, "bad_length"),
    _values(p.X86_PV_VCPU_MSRS, {"context": bytes(16)}, {"context": bytes(16), "reserved": 1}, "reserved_not_zero"),
], ids=named)
def test_records_of_a_pv_guest(structure: p.Structure, good: bytes, bad: bytes, rule: str) -> None:
    assert rules(raw(swapped(GOOD["PV"], structure, good))) == set()
    assert rules(raw(swapped(GOOD["PV"], structure, bad))) == {rule}


@pytest.mark.parametrize(("structure", "good", "bad", "rule"), [
    _values(p.LIBXL_HEADER, {"options": 0}, {"version": 3}, "illegal_value"),
    _values(p.LIBXL_HEADER, {"options": 2}, {"options": 4}, "reserved_not_zero"),
    _values(p.IMAGE_HEADER, {"version": 3}, {"version": 4}, "illegal_value"),
    _values(p.IMAGE_HEADER, {"version": 3}, {"version": 3, "options": 2}, "reserved_not_zero"),
    _values(p.IMAGE_HEADER, {"version": 3}, {"version": 3, "reserved2": 2}, "reserved_not_zero"),
    _values(p.IMAGE_HEADER, {"version": 3}, {"version": 3, "id": 1}, "lost_place"),
    _values(p.IMAGE_HEADER, {"version": 3}, {"version": 3, "marker": 1}, "lost_place"),
    _values(p.DOMAIN_HEADER, {"type": 2}, {"type": 3}, "illegal_value"),
    _values(p.DOMAIN_HEADER, {"type": 2}, {"type": 2, "reserved": 1}, "reserved_not_zero"),
    _values(p.XL_HEADER, {"mandatory_flags": 3, "config": b"{}"}, {"mandatory_flags": 7, "config": b"{}"},
            "reserved_not_zero"),
    _values(p.X86_CPUID_POLICY, {"leaves": [(0,) * 6]}, {}, "bad_length"),
    _values(p.X86_MSR_POLICY, {"entries": [(1, 0, 2)]}, {"entries": [(1, 1, 2)]}, "reserved_not_zero"),
    _values(p.EMULATOR_XENSTORE_DATA, {"emulator_id": 2}, {"emulator_id": 3}, "illegal_value"),
    _values(p.EMULATOR_XENSTORE_DATA, {"pairs": [b"a", b"b"]}, {"pairs": [b"a"]}, "illegal_value"),
    (p.EMULATOR_XENSTORE_DATA, record(2, bytes(8) + b"a\0b\0"), record(2, bytes(8) + b"a\0b\0c"), "illegal_value"),
    (p.EMULATOR_XENSTORE_DATA, record(2, bytes(8)), record(2, bytes(7)), "bad_length"),
    _values(p.EMULATOR_CONTEXT, {"emulator_id": 1}, {"emulator_id": 9}, "illegal_value"),
    (p.EMULATOR_CONTEXT, record(3, bytes(8)), record(3, bytes(4)), "bad_length"),
    (p.EMULATOR_CONTEXT, record(3, bytes(9)), record(3, bytes(9))[:-2] + b"\1\0", "padding_not_zero"),
    (p.LIBXL_END, record(0, b""), record(0, bytes(8)), "bad_length"),
    (p.LIBXC_END, record(0, b""), record(0, bytes(8)), "bad_length"),
    (p.LIBXC_CONTEXT, record(1, b""), record(1, bytes(8)), "bad_length"),
    (p.STATIC_DATA_END, record(0x10, b""), record(0x10, bytes(8)), "bad_length"),
], ids=named)
def test_headers_and_records_in_their_place(structure: p.Structure, good: bytes, bad: bytes, rule: str) -> None:
    assert rules(raw(swapped(GOOD["xl"], structure, good))) == set()
    assert rules(raw(swapped(GOOD["xl"], structure, bad))) - {"no_end"} == {rule}


def test_a_page_has_4096_octets() -> None:
    bad = rules(raw(swapped(GOOD["xl"], p.DOMAIN_HEADER, encode(p.DOMAIN_HEADER, type=2, page_shift=13))))
    assert bad == {"illegal_value", "bad_length"}, "and pages of another size do not fit"


# --- what records say together ------------------------------------------------------------------

POLICY = encode(p.X86_CPUID_POLICY, leaves=[(0,) * 6])


@pytest.mark.parametrize(("case", "change", "rule"), [
    ("xl", lambda m: swapped(m, p.STATIC_DATA_END, None), "record_order"),
    ("xl", lambda m: before(m, p.PAGE_DATA, encode(p.STATIC_DATA_END)), "repeated_record"),
    ("xl", lambda m: before(m, p.PAGE_DATA, POLICY), "record_order"),
    ("libxl", lambda m: before(m, p.LIBXL_END, encode(p.CHECKPOINT_END)), "record_order"),
    ("version 2", lambda m: before(m, p.PAGE_DATA, encode(p.STATIC_DATA_END)), "wrong_version"),
    ("version 2", lambda m: before(m, p.PAGE_DATA, POLICY), "wrong_version"),
    ("version 2", lambda m: before(m, p.PAGE_DATA, encode(p.X86_MSR_POLICY, entries=[(1, 0, 2)])), "wrong_version"),
    ("PV", lambda m: swapped(m, p.X86_PV_INFO, None), "record_order"),
    ("PV", lambda m: swapped(m, p.X86_PV_P2M_FRAMES, None), "record_order"),
    ("PV", lambda m: swapped(m, p.X86_PV_VCPU_BASIC, None), "record_order"),
    ("PV", lambda m: swapped(m, p.PAGE_DATA, None, all_of_them=True), "record_order"),
    ("PV", lambda m: before(m, p.PAGE_DATA, encode(p.X86_PV_INFO, guest_width=8, pt_levels=4)), "repeated_record"),
    ("PV", lambda m: before(m, p.LIBXC_END, encode(p.HVM_CONTEXT, hvm_ctx=b"x")), "wrong_guest"),
    ("PV", lambda m: before(m, p.LIBXL_END, encode(p.EMULATOR_CONTEXT, emulator_id=2)), "wrong_guest"),
    ("Remus", lambda m: before(m, p.CHECKPOINT_END, encode(p.LIBXL_END)), "record_order"),
    ("Remus", lambda m: swapped(m, p.CHECKPOINT, encode(p.LIBXC_END)), "record_order"),
    ("COLO", lambda m: before(m, p.CHECKPOINT_END, encode(p.CHECKPOINT_STATE, control_id=0)), "inside_checkpoint"),
    ("COLO", lambda m: before(m, p.CHECKPOINT_STATE, encode(p.CHECKPOINT_STATE, control_id=2)), "wrong_sender"),
    ("Remus, PV", lambda m: [*m, replace(m[0], direction=p.FORWARD,
                                         octets=encode(p.CHECKPOINT_STATE, control_id=0))], "wrong_guest"),
])
def test_records_and_records(case: str, change: Callable[[list[Message]], list[Message]], rule: str) -> None:
    messages = change([m for m in GOOD[case] if m.direction == p.FORWARD])
    judged = found(raw(messages))
    assert rule in {f.rule for f in judged}
    if rule != "record_order" or case != "Remus":
        assert {f.rule for f in judged} == {rule}
    assert len(judged) <= 3, "a breach is told once, not at every record behind it"


def test_a_stream_seen_late_lacks_nothing(tmp_path: Path) -> None:
    """What did not show is not called missing where octets are: a capture from the middle on."""
    messages = swapped(GOOD["PV"], p.X86_PV_INFO, encode(p.X86_PV_INFO, guest_width=8, pt_levels=4))
    judged = found(raw(messages))
    assert not judged
    at = messages.index(next(m for m in messages if m.structure is p.PAGE_DATA))
    wire = Wire(messages)
    begin = len(raw(messages[:at])) - 3
    rows = wire.rows[~((wire.rows["side"] == 0) & (wire.rows["length"] > 0)
                       & (wire.rows["offset"] > begin - 60) & (wire.rows["offset"] < begin + 4096))]
    assert len(rows) < len(wire.rows)
    path = files.write(tmp_path / "x.pcap", wire.keep(rows))
    assert not [f for f in read(path).engine.findings if f.violation]


# --- the back channel ---------------------------------------------------------------------------


def test_the_back_channel() -> None:
    good = raw(GOOD["COLO"], p.BACK)
    banner = len(p.BANNER.magic)
    assert direction_of(good) == p.BACK
    assert rules(good[banner:], p.BACK) == set()
    assert rules(good[:banner + 16] + good[banner:], p.BACK) == {"out_of_order"}
    assert rules(good[:banner] + encode(p.CHECKPOINT_STATE, control_id=0) + good[banner:], p.BACK) == {"wrong_sender"}
    assert rules(good + encode(p.X86_TSC_INFO), p.BACK) == {"lost_place"}


@pytest.mark.parametrize(("lists", "count", "shifted", "expected"), [
    ((0,), 3, False, {"one_pfn_lists"}), ((0,), 2, False, set()), ((1,), 3, False, set()),
    ((0, 1), 3, False, set()), ((), 3, False, set()), ((0, 1), 3, True, {"shifted_dirty_list"}),
    ((0,), 3, True, {"one_pfn_lists", "shifted_dirty_list"})])
def test_known_defects_have_names(tmp_path: Path, lists: tuple[int, ...], count: int, shifted: bool,
                                  expected: set[str]) -> None:
    messages = list(stream.colo(count, replace(TINY, lists=lists, shifted=shifted)))
    capture = files.write(tmp_path / "x.pcap", Wire(messages))
    assert read(capture).rules() == rules(raw(messages, p.BACK), p.BACK) == expected
    verdict = verified([str(capture)])
    assert verdict.violations == len(expected)


def test_one_list_of_another_kind_is_no_defect_of_amd(tmp_path: Path) -> None:
    messages = list(stream.colo(3, replace(TINY, lists=(0,))))
    other = swapped(messages, p.CHECKPOINT_DIRTY_PFN_LIST, encode(p.CHECKPOINT_DIRTY_PFN_LIST, pfn=[0, 4]))
    assert read(files.write(tmp_path / "x.pcap", Wire(other))).rules() == set()


def test_empty_records_of_old_xen_are_a_note() -> None:
    for structure, case in ((p.HVM_PARAMS, "xl"), (p.X86_PV_VCPU_XSAVE, "PV")):
        (finding,) = found(raw(swapped(GOOD[case], structure, encode(structure))))
        assert (finding.rule, finding.violation, finding.section) == ("empty_record", False, structure.section)


# --- raw streams, cut and packed ----------------------------------------------------------------


@pytest.mark.parametrize("case", PLAIN)
def test_cut_anywhere_and_followed_by_anything(case: str) -> None:
    """A plain stream has its END, and nothing behind it (but the permission that xl sends)."""
    messages = [m for m in GOOD[case] if m.direction == p.FORWARD]
    end = max(i for i, m in enumerate(messages) if m.structure in (p.LIBXC_END, p.LIBXL_END))
    octets, at = raw(messages[:end + 1]), 0
    assert rules(octets) == set()
    for message in messages[:end + 1]:
        for cut in {at, at + 1, at + len(message.octets) - 1} - {0}:
            judged = {f.rule for f in found(octets[:cut])}
            assert judged == {"no_end"} | ({"truncated"} if cut > at else set()), (message, cut - at)
        at += len(message.octets)
    for rubbish in (b"\0", bytes(8), b"x" * 100, encode(p.LIBXL_END), octets):
        assert rules(octets + rubbish) == {"after_end"}


def test_a_checkpointed_stream_stops_anywhere() -> None:
    octets = raw(GOOD["Remus"])
    first = len(raw(GOOD["Remus"][:[m.structure for m in GOOD["Remus"]].index(p.CHECKPOINT) + 1]))
    for cut in range(first, len(octets), 997):
        assert {f.rule for f in found(octets[:cut])} <= {"truncated"}
        assert not [f for f in found(octets[:cut]) if f.violation]
    assert "no_end" in {f.rule for f in found(octets[:first - 8])}


def verify(*arguments: str, octets: bytes | None = None) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the command."""
    done = subprocess.run([*COMMAND, "verify", *arguments],
                          input=octets, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, files.compress_zstd], ids=["plain", "gzip", "zstd"])
def test_forms_of_a_raw_stream(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    for case in ("xl", "libxl", "libxc", "big-endian"):
        octets = raw([m for m in GOOD[case] if m.structure is not p.GO_MESSAGE])
        path = tmp_path / "save"
        path.write_bytes(pack(octets))
        verdict = verified([str(path)])
        assert (verdict.violations, verdict.fault, len(verdict.findings)) == (0, "", 0)
        path.write_bytes(pack(octets + b"more"))
        assert verified([str(path)]).findings["rule"].tolist() == ["after_end"]
    good = raw(GOOD["libxl"])
    for octets, status, end in ((good, 0, "clean: 17 records of a raw stream (forward)"),
                                (good[:-1], 1, "1 violation in 16 records of a raw stream (forward)")):
        code, _, said = verify("-", octets=pack(octets))
        assert (code, said) == (status, f"coloscope: {end}\n")


def test_a_damaged_file_is_no_violation(tmp_path: Path) -> None:
    path = tmp_path / "save.gz"
    path.write_bytes(gzip.compress(raw(GOOD["libxl"]))[:-200])
    verdict = verified([str(path)])
    assert (verdict.violations, "damaged" in verdict.fault) == (0, True)


# --- the command --------------------------------------------------------------------------------


def test_exit_statuses(tmp_path: Path) -> None:
    good, bad, none = (tmp_path / name for name in ("good", "bad", "none"))
    good.write_bytes(raw(GOOD["xl"]))
    bad.write_bytes(raw(swapped(GOOD["xl"], p.X86_TSC_INFO, encode(p.X86_TSC_INFO, mode=9))))
    none.write_bytes(b"nothing of ours")
    capture = files.write(tmp_path / "x.pcap", Wire(swapped(
        GOOD["COLO"], p.X86_TSC_INFO, encode(p.X86_TSC_INFO, mode=9))))
    run = CliRunner().invoke
    for path, status in ((good, 0), (bad, 1), (capture, 1), (none, 2), (tmp_path / "no such file", 2)):
        assert run(main, ["verify", str(path)]).exit_code == status, path
    assert run(main, ["verify", str(good), str(bad)]).exit_code == 2, "raw streams come one at a time"
    assert run(main, ["verify", "--direction", "forward", str(none)]).exit_code in (1, 2)
    back = tmp_path / "back"
    back.write_bytes(raw(GOOD["COLO"], p.BACK)[len(p.BANNER.magic):])
    assert run(main, ["verify", str(back)]).exit_code == 2
    assert run(main, ["verify", "--direction", "back", str(back)]).exit_code == 0


def test_formats(tmp_path: Path) -> None:
    messages = swapped(GOOD["COLO"], p.X86_TSC_INFO, encode(p.X86_TSC_INFO, mode=9), all_of_them=True)
    capture = str(files.write(tmp_path / "x.pcap", Wire(messages)))
    said = {kind: CliRunner().invoke(main, ["verify", "--format", kind, capture]).stdout
            for kind in ("table", "csv", "json", "jsonl")}
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert len(rows) == 4, "each is listed"
    assert {(r["rule"], r["severity"], r["direction"], r["section"]) for r in rows} == {
        ("illegal_value", "error", "forward", p.X86_TSC_INFO.section)}
    assert all(int(r["frame"]) and int(r["stream_offset"]) for r in rows)
    assert [r["text"] for r in json.loads(said["json"])["rows"]] == [r["text"] for r in rows]
    assert len(said["jsonl"].splitlines()) == 4
    (line,) = [line for line in said["table"].splitlines() if "illegal_value" in line]
    assert " 4 " in line, "and counted for eyes"
    assert f"0:forward:{rows[0]['stream_offset']}" in line
    out = tmp_path / "x.parquet"
    done = CliRunner().invoke(main, ["verify", "--format", "parquet", "-o", str(out), capture])
    assert done.exit_code == 1
    assert pd.read_parquet(out)["rule"].tolist() == ["illegal_value"] * 4


def test_one_connection_of_several(tmp_path: Path) -> None:
    bad = swapped(GOOD["xl"], p.X86_TSC_INFO, encode(p.X86_TSC_INFO, mode=9))
    capture = files.write(tmp_path / "x.pcap", [Wire(GOOD["xl"]), Wire(bad, ports=(40_001, 7002))])
    status = [CliRunner().invoke(main, ["verify", str(capture), "--connection", which]).exit_code
              for which in ("0", "1", "10.0.0.1:40000", "10.0.0.1:40001")]
    assert status == [0, 1, 0, 1]
    assert CliRunner().invoke(main, ["verify", str(capture)]).exit_code == 1


# --- real ones ----------------------------------------------------------------------------------

REAL = sorted(path for path in PCAPS.glob("*.pcap.zst")
              if path.name not in ("c0-bios-offon.pcap.zst", "colo-hvm-fast.proxy9001-lo.pcap.zst"))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_captures_are_clean(path: Path) -> None:
    verdict = verified([str(path)])
    assert verdict.violations == 0
    assert ("not verified" in verdict.summary) == ("s128" in path.name)


def test_a_real_stream_out_of_its_packets() -> None:
    for (_, direction), octets in octets_of(PCAPS / "plain-hvm-mtu.A.pcap.zst").items():
        assert not found(octets, direction)
        assert {f.rule for f in found(octets[:-1], direction)} == {"truncated"}
    octets = next(o for (_, d), o in octets_of(PCAPS / "remus-hvm.A.pcap.zst").items() if d == p.FORWARD)
    assert not [f for f in found(octets) if f.violation]
