# SPDX-License-Identifier: GPL-2.0-or-later
"""`coloscope scrub`: every analysis says what it said before, and nothing of the guest is left."""

from __future__ import annotations

import gzip
import ipaddress
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap

import analysis
from dissector import fields, protocol
from dissector.protocol import BACK, FORWARD, SECRETS, STRINGS, TEXT, Structure
from dissector.scrub import ScrubError, scrub
from tests.helpers import PCAPS, octets_of, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import Guest, Message
from tests.synthesiser.wire import ACK, RST, Wire, lose, repeat, shuffle
from tests.test_command import run

OURS = ["colo-2ck-abort.A", "colo-hvm-dirty.A", "colo-hvm-fast.A", "debian-nocolo.A", "plain-hvm-mtu.A",
        "remus-hvm.A", "remus-pv-netem-s128.A"]
TABLES = ["records", "syncs", "pairs", "latency", "checkpoints", "findings", "connections"]
ADDRESSES = ["primary", "secondary"]
SMALL = Guest(memory=6, holes=4)
GUESTS = {"hvm": SMALL, "pv": Guest(memory=3, hvm=False), "big": Guest(memory=3, order="big"),
          "shifted": Guest(memory=3, shifted=True), "old": Guest(memory=3, version=2, xl=False)}
WINDOW = 16

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")


def same(before: Path, after: Path, *but: str) -> None:
    """Every table is the same, except these columns."""
    tables = [analysis.read(path) for path in (before, after)]
    for name in TABLES:
        one, two = (capture.export(name) for capture in tables)
        pd.testing.assert_frame_equal(one.drop(columns=list(but), errors="ignore"),
                                      two.drop(columns=list(but), errors="ignore"), obj=name)


def windows(octets: bytes) -> set[bytes]:
    return {octets[i:i + WINDOW] for i in range(len(octets) - WINDOW + 1)}


def secrets(messages: Iterable[Message], order: str = "little") -> Iterator[bytes]:
    """What the fields with secret contents hold."""
    for message in messages:
        octets = message.octets
        if message.structure is protocol.CHECKPOINT_DIRTY_PFN_LIST:
            continue
        for field, _, _, value in fields.parts(message.structure, octets, order):
            if field.content in SECRETS:
                yield b"\0".join(value) if field.type == STRINGS else value


def leaked(path: Path, hidden: Iterable[bytes]) -> int:
    """How many windows of hidden octets are in a file; zeros hide nothing."""
    there = windows(path.read_bytes())
    return sum(len({w for w in windows(octets) if any(w)} & there) for octets in hidden)


@pytest.mark.parametrize("name", OURS)
def test_every_analysis_of_a_real_capture_says_the_same(name: str, tmp_path: Path) -> None:
    before, after = PCAPS / f"{name}.pcap.zst", tmp_path / "out.pcap.zst"
    done = scrub(str(before), str(after))
    assert done.packets == done.of
    assert done.removed["config"] > 0
    same(before, after)


@needs_tshark
def test_tshark_says_the_same(tmp_path: Path) -> None:
    from tests.test_wireshark import COLUMNS, table, tshark

    before, after = PCAPS / "colo-2ck-abort.A.pcap.zst", tmp_path / "out.pcapng"
    scrub(str(before), str(after), anonymise=True)
    rows = table(before, COLUMNS)
    assert len(rows) > 1000
    assert rows == table(after, COLUMNS)
    check = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-T", "fields", "-e",
             "ip.checksum.status", "-e", "tcp.checksum.status", "-e", "frame.time_epoch", "-e", "frame.len", "-e",
             "_ws.malformed"]
    statuses = tshark(before, *check)
    assert {line.split("\t")[1] for line in statuses.splitlines()} & {"0", "1"}
    assert {line.split("\t")[4] for line in statuses.splitlines()} == {""}
    assert tshark(after, *check) == statuses


@pytest.mark.parametrize("guest", GUESTS)
def test_the_description_says_what_stays(guest: str, tmp_path: Path) -> None:
    """Each field of each record: secret contents are gone, everything else is as it was."""
    seen: set[Structure] = set()
    make = GUESTS[guest]
    for messages in (stream.plain(make), stream.remus(2, make),
                     *([stream.colo(2, make)] if make.hvm else [])):
        before = files.write(tmp_path / "in.pcap", Wire(messages))
        after = tmp_path / "out.pcap"
        scrub(str(before), str(after))
        same(before, after)
        for old, new in zip(read(before).records, read(after).records, strict=True):
            assert old.structure is not None
            seen.add(old.structure)
            one, two = old.read(), new.read()
            assert one is not None
            assert two is not None
            parts = zip(fields.parts(old.structure, one, old.order),
                        fields.parts(new.structure, two, new.order), strict=True)
            for (field, at, size, value), (_, at_now, size_now, now) in parts:
                assert (at, size) == (at_now, size_now)
                if field.content not in SECRETS:
                    assert now == value, field.name
                elif field.type == STRINGS:
                    assert [len(text) for text in now] == [len(text) for text in value]
                    assert set(b"".join(now)) == {ord(".")}
                else:
                    assert not set(now) - {ord(".") if field.type == TEXT else 0}
                    assert len(now) == len(value)
    assert {s for s in seen if any(f.content for f in s.fields)} >= {
        protocol.PAGE_DATA, protocol.EMULATOR_CONTEXT if make.hvm else protocol.X86_PV_VCPU_BASIC}


def test_every_field_of_unknown_octets_belongs_to_somebody() -> None:
    for structure in protocol.STRUCTURES:
        for field in structure.fields:
            assert field.content in ("", *protocol.CONTENTS)
            if field.type in (protocol.BLOB, protocol.PAGES, STRINGS) or (
                    field.type == TEXT and not structure.magic):
                assert field.content in SECRETS, f"{structure.full_name}.{field.name}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("snaplen", [1 << 18, 200, 120])
def test_damaged_captures(seed: int, snaplen: int, tmp_path: Path) -> None:
    """Lost, late, repeated with other boundaries, cut by the snap length, around a sequence wrap."""
    rng = np.random.default_rng(seed)
    messages = list(stream.colo(4, SMALL))
    wire = Wire(messages, mss=700, isn=(2**32 - 9000, 2**32 - 300), handshake=bool(seed % 2) or snaplen < 200)
    wire = shuffle(repeat(lose(wire, rng, 0.05, again=bool(seed // 2)), rng, 0.3), rng)
    before, after = tmp_path / "in.pcap", tmp_path / "out.pcap"
    before.write_bytes(files.pcap(list(files.frames(wire)), snaplen=snaplen))
    scrub(str(before), str(after))
    same(before, after)
    hidden = list(secrets(messages))
    assert leaked(before, hidden) > 300
    assert leaked(after, hidden) == 0


@pytest.mark.parametrize("direction", [FORWARD, BACK])
def test_a_stream_that_ends_anywhere(direction: str, tmp_path: Path) -> None:
    """At each third octet of the last checkpoint's small records, and of the opening."""
    messages = list(stream.colo(1, Guest(memory=1, dirty=1, emulator=40, lists=(0, 3))))
    whole = Wire(messages, fin=False)
    side = 0 if direction == FORWARD else 1
    before, after = tmp_path / "in.pcap", tmp_path / "out.pcap"
    total = len(whole.streams[direction])
    for end in (*range(54, min(230, total), 3), *range(max(total - 130, 230), total, 3)):
        rows = whole.rows[(whole.rows["side"] != side) | (whole.rows["offset"] < end)].copy()
        mine = rows["side"] == side
        rows["length"] = np.where(mine, np.minimum(rows["length"], end - rows["offset"]), rows["length"])
        rows["ack"] = np.where(mine, rows["ack"], np.minimum(rows["ack"], end))
        if direction == FORWARD:
            rows = rows[:np.flatnonzero(mine & (rows["offset"] + rows["length"] == end))[0] + 2]
        before.write_bytes(files.pcap(list(files.frames(whole.keep(rows)))))
        scrub(str(before), str(after))
        same(before, after)


def extra(wire: Wire, octets: bytes, offset: int, flags: int = ACK) -> bytes:
    """A frame of the primary with these octets at this offset."""
    tcp = struct.pack("!HHIIBBHHH", *wire.ports, (wire.isn[0] + 1 + offset) & 0xFFFFFFFF,
                      wire.isn[1] + 1, 0x50, flags, 500, 0, 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(octets), 0, 0, 64, 6, 0,
                     *(ipaddress.IPv4Address(end).packed for end in wire.ends))
    return bytes.fromhex("020000000001020000000002 0800") + ip + tcp + octets


def test_what_is_not_understood_goes(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    hidden = [rng.bytes(200) for _ in range(9)]
    optional = stream.record(0x80000077, hidden[0])
    head = list(stream.plain(Guest(memory=1)))
    at = next(i for i, m in enumerate(head) if m.structure is protocol.X86_TSC_INFO)
    lost = Message(FORWARD, protocol.PAGE_DATA, optional + hidden[1])
    wire = Wire([*head[:at], lost], fin=False)
    end = len(wire.streams[FORWARD])
    time = int(wire.rows["time"][-1])
    late = [extra(wire, hidden[2], end + (1 << 30) + 5000),   # stale
            extra(wire, hidden[3], end, RST | ACK),           # the text of a RST
            extra(wire, hidden[1], end - len(hidden[1])),     # again, where the place is lost
            extra(wire, b"", end) + hidden[4],                # a trailer
            extra(wire, hidden[5], end + 70_000),             # behind a hole
            extra(wire, hidden[8], 150)]                      # stale, where a record was
    other = Wire([Message(FORWARD, protocol.PAGE_DATA, hidden[6])], ports=(1, 2), start=time + 20)
    packets = [*files.frames(wire), *((time + 1 + i, frame) for i, frame in enumerate(late)),
               *files.frames(other),
               (time + 10**9, bytes(Ether() / IP(dst="10.0.0.9") / UDP(dport=9) / Raw(hidden[7]))),
               (time + 10**9, b"\xff" * 12 + b"\x08\x06" + hidden[7]),
               (time + 10**9, bytes(Ether() / IP(dst="10.0.0.9", flags="MF") / Raw(hidden[7])))]
    before, after = tmp_path / "in.pcap", tmp_path / "out.pcap"
    before.write_bytes(files.pcap(packets))
    assert leaked(before, hidden) == 9 * (200 - WINDOW + 1)
    for keep_others in (False, True):
        done = scrub(str(before), str(after), keep_others=keep_others)
        assert leaked(after, hidden) == 0
        assert done.of == len(packets)
        assert done.packets == len(packets) - (0 if keep_others else len(list(files.frames(other))) + 3)
        if keep_others:
            same(before, after, "text")
        assert done.removed["not understood"] == 3 * 200
        assert done.removed["repeated or stale"] == 3 * 200
        assert ("other connections" in done.removed) == keep_others
    assert "optional_record" in read(after).rules()
    assert "lost_place" in read(after).rules()


def test_a_record_that_contradicts_itself_keeps_no_pages(tmp_path: Path) -> None:
    """A count too high makes page contents look like PFNs."""
    rng = np.random.default_rng(3)
    page = rng.bytes(stream.PAGE)
    head = list(stream.plain(Guest(memory=1)))
    at = next(i for i, m in enumerate(head) if m.structure is protocol.PAGE_DATA)
    for count, finding in ((1, False), (300, True)):
        body = struct.pack("<IIQ", count, 0, 5) + page
        messages = [*head[:at], Message(FORWARD, protocol.PAGE_DATA, stream.record(1, body))]
        before = files.write(tmp_path / "in.pcap", Wire(messages))
        after = tmp_path / "out.pcap"
        done = scrub(str(before), str(after))
        assert ("bad_length" in read(before).rules()) == finding
        assert leaked(before, [page]) > 4000
        assert leaked(after, [page]) == 0
        assert ("not understood" in done.removed) == finding
        assert read(before).framed() == read(after).framed()


def test_reserved_fields_and_padding_show_only_that_they_are_set(tmp_path: Path) -> None:
    messages = list(stream.plain(Guest(memory=1)))
    at = next(i for i, m in enumerate(messages) if m.structure is protocol.X86_TSC_INFO)
    record = messages[at].octets[:-4] + b"\x07\0\x45\x55"
    end = stream.record(protocol.EMULATOR_CONTEXT.type or 0, b"\2\0\0\0\0\0\0\0a")[:-7] + b"secret!"
    messages[at] = Message(FORWARD, protocol.X86_TSC_INFO, record)
    at = next(i for i, m in enumerate(messages) if m.structure is protocol.EMULATOR_CONTEXT)
    messages[at] = Message(FORWARD, protocol.EMULATOR_CONTEXT, end)
    before = files.write(tmp_path / "in.pcap", Wire(messages))
    after = tmp_path / "out.pcap"
    scrub(str(before), str(after))
    same(before, after)
    assert "reserved_not_zero" in read(after).rules()
    octets = octets_of(after)[0, FORWARD]
    assert b".\0.." in octets
    assert b"\0......." in octets
    assert b"secret!" not in octets


def test_what_to_keep_and_what_to_drop(tmp_path: Path) -> None:
    messages = list(stream.colo(2, Guest(memory=3, lists=(0x1234567, 0x89ABCDE))))
    before, after = files.write(tmp_path / "in.pcap", Wire(messages)), tmp_path / "out.pcap"
    old = octets_of(before)
    for content in SECRETS:
        done = scrub(str(before), str(after), keep=[content])
        assert content in done.kept
        assert content not in done.removed
        assert set(SECRETS) - {content} <= set(done.removed)
        same(before, after)
        assert leaked(after, secrets(messages)) > 0
    assert scrub(str(before), str(after), keep=SECRETS).removed == {}
    assert octets_of(after) == old
    done = scrub(str(before), str(after), drop=["hardware"])
    assert "hardware" in done.removed
    same(before, after)
    done = scrub(str(before), str(after), drop=["pfns"])
    same(before, after, "first_pfn", "last_pfn")
    assert done.kept["pfns"] * 7 <= done.removed["pfns"], "of a word stays the type of its page"
    assert old != octets_of(after)
    for record in read(after).records:
        assert not any(protocol.PFN.of(word) for word in record.fields.get("pfn", ()))


def rebuilt(packet: Packet, how: int) -> bytes:
    """The same packet with TCP and IP checksums: 0 right, 1 wrong, 2 left to the card, 3 zero."""
    ip = packet[IP] if IP in packet else packet[IPv6]
    tcp = packet[TCP]
    for layer in (ip, tcp) if IP in packet else (tcp,):
        del layer.chksum
    right = Ether(bytes(packet))
    value = right[TCP].chksum
    if how == 1:
        value ^= 0x1111
    elif how == 2:
        source, target = (ipaddress.ip_address(right[type(ip)].src), ipaddress.ip_address(right[type(ip)].dst))
        words = source.packed + target.packed + struct.pack("!HH", 6, len(bytes(right[TCP])))
        value = sum(struct.unpack(f"!{len(words) // 2}H", words))
        value = (value & 0xFFFF) + (value >> 16)
    elif how == 3:
        value = 0
    right[TCP].chksum = value
    if how == 1 and IP in right:
        right[IP].chksum ^= 0x0101
    return bytes(right)


def worth(octets: bytes) -> tuple[bool, int]:
    """(IP checksum right, TCP: 0 right, 1 wrong, 2 left to the card, 3 zero)."""
    packet = Ether(octets)
    ip = packet[IP] if IP in packet else packet[IPv6]
    candidates = [Ether(rebuilt(Ether(octets), how)) for how in (0, 2, 3)]
    found = next((how for how, c in zip((0, 2, 3), candidates, strict=True)
                  if c[TCP].chksum == packet[TCP].chksum), 1)
    return IP not in packet or ip.chksum == candidates[0][IP].chksum, found


@pytest.mark.parametrize("anonymise", [False, True])
@pytest.mark.parametrize("ends", [("10.9.0.1", "10.9.0.2"), ("2001:db8::1", "2001:db8::2")], ids=["ipv4", "ipv6"])
def test_checksums_are_worth_what_they_were(ends: tuple[str, str], anonymise: bool, tmp_path: Path) -> None:
    wire = Wire(stream.plain(Guest(memory=1)), ends=ends, mss=699)
    packets = [(time, rebuilt(Ether(frame), i % 4)) for i, (time, frame) in enumerate(files.frames(wire))]
    before, after = tmp_path / "in.pcap", tmp_path / "out.pcap"
    before.write_bytes(files.pcap(packets))
    scrub(str(before), str(after), anonymise=anonymise)
    now = [bytes(packet) for packet in rdpcap(str(after))]
    assert len(now) == len(packets)
    changed = 0
    for i, (old, new) in enumerate(zip((frame for _, frame in packets), now, strict=True)):
        assert worth(old) == worth(new) == (":" in ends[0] or i % 4 != 1, i % 4)
        changed += old != new
    assert changed > 20


@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng"])
@pytest.mark.parametrize("link", files.LINKTYPES)
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_addresses(link: str, six: bool, name: str, tmp_path: Path) -> None:
    """In every kind of frame, inside tunnels too; the same address gets the same name."""
    ends = ("2001:db8::77", "fe80::88") if six else ("198.51.100.7", "203.0.113.9")
    messages = list(stream.colo(1, Guest(memory=1)))
    wires = [Wire(messages, ends=ends, ports=(4000, 7002)), Wire(messages, ends=ends, ports=(4001, 7002)),
             Wire(messages, ends=ends[::-1], ports=(4002, 7002))]
    before, after = files.write(tmp_path / name, wires, link), tmp_path / f"out{name}"
    hidden = [ipaddress.ip_address(end).packed for end in (*ends, "192.0.2.1", "192.0.2.2")]
    macs = [files._MAC[:6], files._MAC[6:]]
    scrub(str(before), str(after))
    same(before, after)
    assert all(address in after.read_bytes() for address in hidden[:2])
    assert leaked(after, secrets(messages)) == 0
    scrub(str(before), str(after), anonymise=True)
    same(before, after, *ADDRESSES)
    assert not any(address in after.read_bytes() for address in hidden)
    if link in ("ethernet", "vlan", "qinq", "sll", "sll2"):
        assert macs[0] in before.read_bytes()
    named = read(after).engine
    found = [[named.streams.endpoint(c.number, c.side(d)).rpartition(":")[0] for d in (FORWARD, BACK)]
             for c in named.ours()]
    assert found[0] == found[1] == found[2][::-1]
    assert len({address.strip("[]") for address in found[0]}) == 2
    assert all(address.startswith("[fd00::" if six else "10.0.0.") for address in found[0])


def test_many_addresses(tmp_path: Path) -> None:
    wire = Wire(stream.colo(1, Guest(memory=1)), ends=("10.0.0.1", "224.0.0.5"))
    time = int(wire.rows["time"][0])
    hosts = [f"172.16.{i // 250}.{i % 250 + 1}" for i in range(700)]
    packets = [*files.frames(wire), *((time, bytes(Ether() / IP(src="127.0.0.1", dst=host) / UDP()))
                                      for host in [*hosts, *hosts])]
    before, after = tmp_path / "in.pcap", tmp_path / "out.pcap"
    before.write_bytes(files.pcap(packets))
    scrub(str(before), str(after), anonymise=True, keep_others=True)
    same(before, after, *ADDRESSES)
    found = [packet[IP] for packet in rdpcap(str(after))][len(packets) - 1400:]
    assert {ip.src for ip in found} == {"127.0.0.1"}
    assert len({ip.dst for ip in found}) == 700
    assert [ip.dst for ip in found[:700]] == [ip.dst for ip in found[700:]]
    assert not {ip.dst for ip in found} & set(hosts)


def test_pcapng_keeps_packets_and_interfaces_and_nothing_else(tmp_path: Path) -> None:
    wire = Wire(stream.plain(Guest(memory=1)))
    packets = list(files.frames(wire))
    hidden = [b"hostname-of-a-machine", b"CLIENT_RANDOM 0123456789", b"a comment by somebody", b"custom data here!"]
    octets = files.pcapng_start((1, 1, 101), snaplen=4000)
    octets += files.block(4, files.option(1, bytes([10, 0, 0, 1]) + hidden[0] + b"\0") + files.option(0, b""))
    octets += files.block(10, struct.pack("<II", 0x544C534B, len(hidden[1])) + hidden[1])
    octets += files.block(0xBAD, bytes(4) + hidden[3])
    for i, (time, frame) in enumerate(packets):
        padded = frame + bytes(-len(frame) % 4)
        octets += files.block(6, struct.pack("<IIIII", i % 2, time >> 32, time & 0xFFFFFFFF, len(frame),
                                             len(frame)) + padded + files.option(1, hidden[2])
                              + files.option(0, b""))
    octets += files.block(5, struct.pack("<III", 0, 0, 0) + files.option(5, struct.pack("<Q", 7))
                          + files.option(0, b""))
    before, after = tmp_path / "in.pcapng", tmp_path / "out.pcapng.gz"
    before.write_bytes(octets)
    for keep_others in (False, True):
        scrub(str(before), str(after), keep_others=keep_others)
        plain = gzip.decompress(after.read_bytes())
        assert not any(text in plain for text in hidden)
        assert "capture_drops" in read(after).rules()
        if keep_others:
            same(before, after, "text")
    if shutil.which("tshark"):
        columns = ["-T", "fields", "-e", "frame.number", "-e", "frame.time_epoch", "-e", "frame.interface_id",
                   "-e", "frame.len", "-e", "frame.cap_len"]
        one, two = (subprocess.run(["tshark", "-r", path, *columns], capture_output=True, text=True,
                                   check=True).stdout for path in (before, after))
        assert one.splitlines()[1:] == two.splitlines()[1:]
        assert two.splitlines()[0] == "1\t\t\t0\t0", "what was no packet is empty, and still counts"
        assert "\t1\t" in one


def test_the_command(tmp_path: Path) -> None:
    wire = Wire(stream.colo(2, SMALL))
    before, after = files.write(tmp_path / "in.pcap", wire), tmp_path / "out.pcap.zst"
    done = run("scrub", str(before), str(after), "--anonymise", "--keep", "config")
    assert done.returncode == 0
    assert done.stdout == b""
    text = done.stderr.decode()
    assert f"coloscope: {len(wire.rows)} of {len(wire.rows)} packets in {after}\n" in text
    assert re.search(r"^coloscope: octets removed: .*memory [1-9]\d+,\d{3}, cpu 903, device ", text, re.M)
    assert "coloscope: octets kept: headers and fields of records " in text
    assert ", config 22" in text
    same(before, after, *ADDRESSES)


def test_what_cannot_be_scrubbed(tmp_path: Path) -> None:
    before = files.write(tmp_path / "in.pcap", Wire(stream.colo(1, Guest(memory=1))))
    octets, other = before.read_bytes(), PCAPS / "c0-bios-offon.pcap.zst"
    for words, says in (
            (["-", str(tmp_path / "x.pcap")], "name a file, not a pipe"),
            ([str(before), str(before)], "is the capture itself"),
            ([str(other), str(tmp_path / "x.pcap")], "nothing in it is a Xen migration stream"),
            ([str(before), str(tmp_path / "no" / "x.pcap")], "No such file or directory"),
            ([str(tmp_path / "none.pcap"), str(tmp_path / "x.pcap")], "No such file or directory")):
        done = run("scrub", *words, stdin=octets)
        assert done.returncode == 2
        assert says in done.stderr.decode()
        assert len(done.stderr.splitlines()) == 1
    assert before.read_bytes() == octets
    with pytest.raises(ScrubError):
        scrub(str(other), str(tmp_path / "x.pcap"))
    assert not (tmp_path / "x.pcap").exists()
