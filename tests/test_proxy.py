# SPDX-License-Identifier: GPL-2.0-or-later
"""The control connection of a colo-proxy, and why checkpoints began."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import analysis
from analysis.cli import main
from analysis.proxy import DIFFERED, PERIOD, message_rows, reasons
from analysis.reading import ProxyError
from dissector.protocol import (
    BACK,
    BANNER,
    FORWARD,
    PROXY_ANSWERS,
    PROXY_ASKS,
    PROXY_END,
    PROXY_IS_TOLD,
    PROXY_MESSAGES,
    PROXY_OPENS,
    PROXY_TEXT_MAX,
    TOOLSTACK_END,
    ProxyMessage,
)
from dissector.proxy import Message as Said
from tests.helpers import PCAPS, Read, read
from tests.synthesiser import files, stream
from tests.synthesiser.stream import MS, Guest, Message
from tests.synthesiser.wire import EPOCH, Wire

REAL = PCAPS / "colo-hvm-fast.proxy9001-lo.pcap.zst"
FAST = PCAPS / "colo-hvm-fast.A.pcap.zst"
GUEST = Guest(memory=2, holes=1, dirty=1, emulator=60)
PORTS = (39_000, 9001)


def framed(text: bytes) -> bytes:
    return len(text).to_bytes(4) + text


def octets_from(end: str, octets: bytes, delay: int = MS) -> Message:
    # A message of the synthesiser has a structure: any does.
    return Message(FORWARD if end == TOOLSTACK_END else BACK, BANNER, octets, delay)


def says(message: ProxyMessage, delay: int = MS, end: bytes = b"") -> Message:
    return octets_from(message.sender, framed(message.text.encode() + end), delay)


OPENING = [says(PROXY_OPENS), says(PROXY_ANSWERS)]
ROUND = [says(PROXY_IS_TOLD), says(PROXY_ASKS, end=b"\0")]


def wire(messages: list[Message], **options: Any) -> Wire:
    return Wire(messages, **{"ports": PORTS, **options})


def conversation(tmp_path: Path, messages: list[Message], **options: Any) -> Read:
    return read(files.write(tmp_path / "proxy.pcap", wire(messages, **options)))


def texts(result: Read) -> list[tuple[str, str | None]]:
    return [(m.sender, m.text) for m in sorted(result.messages, key=lambda message: message.frame)]


def known(*messages: ProxyMessage) -> list[tuple[str, str]]:
    return [(m.sender, m.text) for m in messages]


# --- the conversation -------------------------------------------------------------------------------


def test_a_real_conversation() -> None:
    result = read(REAL)
    assert texts(result) == known(PROXY_OPENS, PROXY_ANSWERS, *(PROXY_IS_TOLD, PROXY_ASKS) * 50)
    assert not result.engine.findings
    # tshark: frame 6 ends the first message, 14 asks for the first checkpoint, 308 for the last.
    assert [m.frame for m in result.messages if m.text in (PROXY_OPENS.text, PROXY_ASKS.text)][::50] == [6, 308]
    assert result.messages[3].frame == 14
    assert result.messages[3].delivered_ns == 1795395698020706000
    assert not result.engine.ours()
    assert result.engine.seems(0) == "colo-proxy control"


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_tshark_sees_the_same_messages() -> None:
    done = subprocess.run(["tshark", "-r", REAL, "-Y", "tcp.len > 4", "-T", "fields", "-e", "frame.number",
                           "-e", "tcp.payload"], capture_output=True, text=True, check=True)
    shown = [(int(frame), bytes.fromhex(payload)) for frame, payload in map(str.split, done.stdout.splitlines())]
    assert [m.frame for m in read(REAL).messages] == [frame for frame, _ in shown]
    assert sum(PROXY_ASKS.text.encode() in payload for _, payload in shown) == 50


@pytest.mark.parametrize("mss", [1, 3, 4, 17, 1448])
def test_any_segmentation(tmp_path: Path, mss: int) -> None:
    result = conversation(tmp_path, OPENING + ROUND * 3, mss=mss)
    assert texts(result) == known(PROXY_OPENS, PROXY_ANSWERS, *(PROXY_IS_TOLD, PROXY_ASKS) * 3)
    assert not result.engine.findings


@pytest.mark.parametrize("first", PROXY_MESSAGES, ids=lambda m: m.text)
def test_a_capture_that_starts_late(tmp_path: Path, first: ProxyMessage) -> None:
    result = conversation(tmp_path, [says(first), *ROUND], handshake=False)
    assert texts(result) == known(first, PROXY_IS_TOLD, PROXY_ASKS)


def test_the_end_that_opened_the_connection_does_not_matter(tmp_path: Path) -> None:
    result = conversation(tmp_path, OPENING + ROUND, ports=PORTS[::-1])
    assert texts(result) == known(PROXY_OPENS, PROXY_ANSWERS, PROXY_IS_TOLD, PROXY_ASKS)


@pytest.mark.parametrize("octets", [
    framed(b"COLO_USERSPACE_PROXY_INIT")[:-1] + b"X" + bytes(99), b"COLO_USERSPACE_PROXY_INIT" * 4,
    framed(b"COLO_SOMETHING_ELSE") * 4], ids=["last octet", "no length", "another text"])
def test_what_begins_otherwise_is_no_conversation(tmp_path: Path, octets: bytes) -> None:
    result = conversation(tmp_path, [octets_from(TOOLSTACK_END, octets), octets_from(PROXY_END, b"x" * 80)])
    assert not result.messages
    assert result.engine.seems(0) == "unknown"


def test_memory_that_holds_such_octets_is_no_conversation(tmp_path: Path) -> None:
    page = framed(PROXY_OPENS.text.encode()) * 200
    late = Wire([octets_from(TOOLSTACK_END, page)], handshake=False)
    assert not read(files.write(tmp_path / "x.pcap", late)).messages


@pytest.mark.parametrize(("octets", "rule"), [
    (bytes(4), "proxy_lost_place"), ((PROXY_TEXT_MAX + 1).to_bytes(4) + b"x" * 40, "proxy_lost_place"),
    (framed(b"PLEASE"), "proxy_unknown_message"), (framed(PROXY_ANSWERS.text.encode()), "proxy_unknown_message"),
    (framed(b"x" * PROXY_TEXT_MAX), "proxy_unknown_message")],
    ids=["empty", "too long", "unknown", "of the other end", "longest"])
@pytest.mark.parametrize("mss", [1, 1448])
def test_bad_messages_are_findings_and_what_follows_is_read(tmp_path: Path, octets: bytes, rule: str,
                                                            mss: int) -> None:
    result = conversation(tmp_path, [*OPENING, octets_from(TOOLSTACK_END, octets), *ROUND], mss=mss)
    (finding,) = result.engine.findings
    assert (finding.rule, finding.stream_offset, finding.violation) == (rule, 29, False)
    assert texts(result)[-2:] == known(PROXY_IS_TOLD, PROXY_ASKS)
    assert len(result.messages) == 5
    assert (result.messages[2].text is None) == (rule == "proxy_lost_place")


def test_rubbish_behind_and_a_conversation_that_breaks_off(tmp_path: Path) -> None:
    result = conversation(tmp_path, [*OPENING, octets_from(PROXY_END, b"\xff" * 70_000)])
    assert [m.text for m in result.messages[2:]] == [None]
    assert result.rules() == {"proxy_lost_place"}
    result = conversation(tmp_path, [*OPENING, octets_from(PROXY_END, framed(b"DO_CHECKPOINT")[:-1])])
    assert len(result.messages) == 2
    assert result.rules() == {"truncated"}


def test_missing_octets(tmp_path: Path) -> None:
    whole = wire(OPENING + ROUND * 4, mss=6)
    expected = texts(conversation(tmp_path, OPENING + ROUND * 4))
    for inside, rule in ((True, set()), (False, {"proxy_lost_place"})):
        # Of 18 octets that ask, the first 6 hold the length, the others text.
        gone = [i for i in whole.data_rows() if whole.rows["side"][i] == 1][5 + 3 + inside]
        assert whole.rows["offset"][gone] == 29 + 18 + 6 * inside
        result = read(files.write(tmp_path / "x.pcap", whole.keep(whole.rows[np.arange(len(whole.rows)) != gone])))
        assert result.rules() == rule
        assert texts(result) == [*expected[:5], (PROXY_END, None), *expected[6:]]


# --- why checkpoints began --------------------------------------------------------------------------


def test_every_checkpoint_of_the_real_pair_was_asked_for() -> None:
    # By hand, in tshark: 50 frames of port 9001 with DO_CHECKPOINT; one in front of each of the 49
    # NEWs of the link, and one behind the last.
    capture = analysis.read(FAST, proxy=REAL)
    assert len(capture.proxy) == 102
    assert capture.checkpoints["reason"].value_counts(dropna=False).to_dict() == {DIFFERED: 49, None: 1}
    assert capture.checkpoints["reason"].isna()[0]
    assert analysis.read(FAST).checkpoints["reason"].isna().all()
    asked = capture.proxy[capture.proxy["text"] == PROXY_ASKS.text]["time"]
    begun = capture.checkpoints["new"].dropna()
    delay = begun.reset_index(drop=True) - asked.iloc[:49].reset_index(drop=True)
    assert (delay > pd.Timedelta(0)).all()


def test_both_in_one_capture(tmp_path: Path) -> None:
    link = Wire(stream.colo(2, GUEST), start=EPOCH)
    news = link.rows["time"][(link.rows["length"] == 16) & (link.rows["side"] == 0)][-2:].tolist()
    times = [EPOCH + MS, EPOCH + 2 * MS, news[0] - 9 * MS, news[-1] + 90 * MS]
    talk = wire([*OPENING, ROUND[1], ROUND[0]], acks=False, handshake=True, fin=False)
    talk.rows["time"][talk.rows["length"] > 0] = times
    path = files.write(tmp_path / "both.pcap", [link, talk])
    capture = analysis.read(path)
    assert list(capture.checkpoints["reason"]) == [None, DIFFERED, PERIOD]
    assert list(capture.proxy["text"]) == [PROXY_OPENS.text, PROXY_ANSWERS.text, PROXY_ASKS.text, PROXY_IS_TOLD.text]
    assert set(capture.proxy["connection"]) == {1}
    assert capture.proxy["time"].astype("int64").tolist() == times
    assert len(capture.connections) == 1


SAYS = {"O": PROXY_OPENS, "G": PROXY_ANSWERS, "D": PROXY_ASKS, "C": PROXY_IS_TOLD}


def reasons_of(script: str) -> str:
    """Reasons (d, p or -) of the checkpoints in a script: N is a NEW, H one that the capture lacks, O, G, D, C
    are messages (x: unreadable; small letters: of another conversation)."""
    news = [{"connection": 0, "kind": "colo", "number": i, "begin_ns": at, "end_ns": at + 1,
             "new_ns": None if letter == "H" else at}
            for i, (at, letter) in enumerate(((at, letter) for at, letter in enumerate(script, 1)
                                              if letter in "NH"), 1)]
    said = [Said(1 + (letter.islower() and letter != "x"), at, at, (m := SAYS.get(letter.upper(), PROXY_ASKS)).sender,
                 0, None if letter == "x" else m.text)
            for at, letter in enumerate(script, 1) if letter not in "NH"]
    found = reasons(news, message_rows(said))
    return "".join({DIFFERED: "d", PERIOD: "p", None: "-"}[reason] for reason in found)


@pytest.mark.parametrize(("script", "expected"), [
    ("OGCDNCDNC", "dd"), ("OGCNCDNC", "pd"), ("OGCDNCNC", "dp"),
    # one that comes while the toolstack is busy, or a second one, waits for the next
    ("OGCDDNCNC", "dd"), ("OGCDNDCNC", "dd"), ("OGCDDNCNCNC", "ddp"),
    # late: the first cannot be judged by absence; nothing is known behind the last message
    ("CNCNC", "-p"), ("NCNC", "--"), ("CDNCNC", "dp"), ("OGCDN", "d"), ("OGCDNN", "d-"), ("OGCN", "-"),
    # what is not known: what could not be read behind a NEW may have come in front of it
    ("OGxCNCNC", "-p"), ("OGCNxNC", "--"), ("OGCHDNCNC", "--p"),
    # another conversation at the same time, or after this one; none
    ("OoGCDNcC", "-"), ("OGCDNCogdNc", "dd"), ("OGCNCogNc", "p-"), ("NN", "--"),
], ids=str)
def test_reasons(script: str, expected: str) -> None:
    assert reasons_of(script) == expected


def test_two_pairs_at_the_same_time_are_not_told_apart() -> None:
    rows = [{"connection": connection, "kind": "colo", "number": 1, "begin_ns": 1 + connection, "end_ns": 9,
             "new_ns": 3} for connection in (0, 1)]
    said = message_rows([Said(5, 2, 2, PROXY_END, 0, PROXY_ASKS.text)])
    assert reasons(rows, said) == [None, None]
    assert reasons(rows[:1], said) == [DIFFERED]


def test_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["checkpoints", str(FAST), "--proxy", str(REAL)])
    assert done.exit_code == 0
    assert done.stdout.count(DIFFERED) == 49
    done = CliRunner().invoke(main, ["checkpoints", str(FAST), "--proxy", str(PCAPS / "debian-nocolo.A.pcap.zst")])
    assert done.exit_code == 2
    assert "no control connection of a colo-proxy in it" in done.stderr
    with pytest.raises(ProxyError):
        analysis.read(FAST, proxy=FAST)
