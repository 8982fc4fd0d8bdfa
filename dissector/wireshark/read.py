# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading captures through tshark: the records and sync-points that the generated dissector shows."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dissector.blocks import File
from dissector.connection import OURS, Connection
from dissector.direction import Unread
from dissector.engine import Engine
from dissector.fields import record_header
from dissector.findings import RULES, Finding
from dissector.framing import announced_page_size
from dissector.protocol import DIRECTIONS, DOMAIN_HEADER, STRUCTURES, XEN_COLO
from dissector.proxy import Message
from dissector.record import Record
from dissector.source import Source
from dissector.syncpoints import Sync
from dissector.wireshark.generate import PROTO, generate
from dissector.wireshark.tshark import TsharkError, find

_FRAME = ("frame.number", "frame.protocols", "frame.time_epoch", "frame.time_relative", "tcp.stream", "ip.src",
          "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport")
_RECORD = tuple(f"{PROTO}.record.{name}" for name in (
    "layer", "name", "direction", "byte_order", "stream_offset", "length", "status", "first_frame", "frame",
    "delivered", "spread", "octets"))
"""Every record has each of them once: the values of a frame's records are columns of equal length."""
_SYNC = tuple(f"{PROTO}.sync.{name}" for name in ("name", "status", "doubt", "checkpoint"))
_EXPERT = {f"{PROTO}.expert.{rule}": rule for rule in RULES}
_COLUMNS = (*_FRAME, *_RECORD, *_SYNC, *_EXPERT)
_BETWEEN = ";"

_STRUCTURES = {(structure.layer, structure.name): structure for structure in STRUCTURES}

FOUND_PLACE = "found_place"
LOST = ("lost_place", "lost_in_hole")

_Values = Mapping[str, list[str]]


class Conversation(Connection):
    """A connection as Wireshark shows it: records, but no segments and no ACKs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.role = OURS
        self.ends: dict[str, str] = {}
        self.page_size = 0
        self._passed = dict.fromkeys(DIRECTIONS, 0)
        self._last_frame = dict.fromkeys(DIRECTIONS, 0)
        self._unread: list[Unread] = []

    @property
    def start_seen(self) -> bool:
        return self._opened

    def passed(self, direction: str) -> int:
        return self._passed[direction]

    def unread(self, direction: str) -> list[Unread]:
        return [stretch for stretch in self._unread if stretch.direction == direction]

    def lose(self, direction: str) -> None:
        """From here on nothing of this direction is understood."""
        if all(stretch.end is not None for stretch in self.unread(direction)):
            self._unread.append(Unread(direction, self._passed[direction], self._last_frame[direction]))

    def find(self, record: Record) -> None:
        """From this record on it is understood again."""
        if all(stretch.end is not None for stretch in self.unread(record.direction)):
            self._unread.append(Unread(record.direction, 0, 0))
        stretch = self.unread(record.direction)[-1]
        stretch.end, stretch.until_frame = record.stream_offset, record.first_frame

    def learn(self, record: Record) -> None:
        super().learn(record)
        if record.structure is DOMAIN_HEADER:
            self.page_size = announced_page_size(record)
        self._passed[record.direction] = max(self._passed[record.direction], record.end)
        self._last_frame[record.direction] = record.frame


class Wireshark(Engine):
    """An engine that lets the user's tshark read, with the user's own preferences (decryption,
    Decode As...) and `arguments` (such as "-o", "NAME:VALUE", or "-Y", FILTER).

    What Wireshark does not know stays empty: records that the end of the capture cuts off, ACKs,
    holes, records behind them (`after_gap`).  A record's last octet is dated like its whole.
    `findings` are the expert items.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        super().__init__()
        self.arguments = arguments

    def run(self, names: Iterable[str | os.PathLike[str] | Source], *,
            on_progress: Callable[[int], None] | None = None) -> Iterator[Record | Sync | Message]:
        """Events of one file ("-": stdin), frame by frame; `on_progress` is never called.

        Raises TsharkError if tshark is missing, cannot read the file or refuses an argument."""
        files = [name.name if isinstance(name, Source) else os.fspath(name) for name in names]
        if len(files) != 1:
            raise TsharkError(f"tshark reads one file, not {len(files)}: join them first "
                              "(mergecap -a -w OUT FILE...)")
        file = File(files[0], 1, seekable=False, kind="tshark")
        self.files.append(file)
        for values in self._frames(file):
            yield from self._frame(values)

    def ends(self, connection: Connection) -> tuple[str, str]:
        assert isinstance(connection, Conversation)
        primary, secondary = (connection.ends[direction] for direction in DIRECTIONS)
        return primary, secondary

    def _frames(self, file: File) -> Iterator[_Values]:
        """The values of `_COLUMNS` in each frame that tshark lists."""
        tshark = find()
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+", errors="replace") as said:
            script = Path(folder) / f"{PROTO}.lua"
            script.write_text(generate(), encoding="utf-8")
            columns = [word for name in _COLUMNS for word in ("-e", name)]
            with subprocess.Popen(
                    [tshark, "-r", file.name, "-n", "-X", f"lua_script:{script}", *self.arguments,
                     "-o", "tcp.relative_sequence_numbers:TRUE", "-o", f"{PROTO}.items:0",
                     "-T", "fields", "-E", f"aggregator={_BETWEEN}", *columns],
                    stdout=subprocess.PIPE, stderr=said, text=True) as process:
                assert process.stdout
                try:
                    for line in process.stdout:
                        file.packets += 1
                        cells = line.rstrip("\n").split("\t")
                        yield {name: cell.split(_BETWEEN) if cell else []
                               for name, cell in zip(_COLUMNS, cells, strict=True)}
                except GeneratorExit:
                    process.kill()
                    raise
            if process.returncode:
                said.seek(0)
                self._failed(file, said.read())

    def _failed(self, file: File, said: str) -> None:
        text = " ".join(line.strip() for line in said.splitlines() if not line.startswith("Running as user"))
        text = text.removeprefix("tshark: ")
        if file.packets:
            self.findings.append(Finding("damaged_file", f"{file.name}: {text}"))
            return
        if "aren't valid" in text:
            raise TsharkError("your Wireshark has another version of the dissector among its plug-ins: "
                              "coloscope wireshark install")
        raise TsharkError(f"{file.name}: tshark: {text}")

    def _frame(self, values: _Values) -> Iterator[Record | Sync]:
        records = list(zip(*(values[name] for name in _RECORD), strict=True))
        rules = [rule for name, rule in _EXPERT.items() for _ in values[name]]
        if not values["tcp.stream"] or not (records or rules):
            return
        number, frame = int(values["tcp.stream"][-1]), int(values["frame.number"][0])
        first_ns = _ns(values["frame.time_epoch"][0]) - _ns(values["frame.time_relative"][0])
        self.first_ns = self.first_ns or first_ns
        sender, receiver = _ends(values)
        connection = self.connections.get(number)
        if connection is None and records:
            connection = self.connections[number] = Conversation(number)
            direction, other = records[0][2], next(d for d in DIRECTIONS if d != records[0][2])
            connection.ends = {direction: sender, other: receiver}
        if connection is None:
            return
        assert isinstance(connection, Conversation)
        syncs = _syncs(values)
        found = FOUND_PLACE in rules
        for cells in records:
            record = _record(cells, connection, first_ns)
            if found:
                connection.find(record)
                found = False
            connection.learn(record)
            yield record
            if record.control_id is not None and (sync := next(syncs, None)):
                yield Sync(XEN_COLO.named(sync[0]), record, sync[3], sync[1], sync[2])
        direction = next(d for d, end in connection.ends.items() if end == sender)
        for rule in rules:
            self.findings.append(Finding(rule, RULES[rule].text, number, direction, frame))
            if rule in LOST:
                connection.lose(direction)


def _ends(values: _Values) -> tuple[str, str]:
    """ "address:port" of a frame's sender and receiver, inside of every tunnel."""
    inner = [layer for layer in values["frame.protocols"][0].split(":") if layer in ("ip", "ipv6")][-1]
    form = "{}:{}" if inner == "ip" else "[{}]:{}"
    sender, receiver = (form.format(values[f"{inner}.{end}"][-1], values[f"tcp.{end}port"][-1])
                        for end in ("src", "dst"))
    return sender, receiver


def _record(cells: Sequence[str], connection: Conversation, first_ns: int) -> Record:
    (layer, name, direction, order, offset, length, status, first_frame, frame, delivered, spread,
     octets) = cells
    structure = _STRUCTURES.get((layer, name))
    record = Record(structure, direction, layer, None, int(offset), int(length), None, order,
                    bytes.fromhex(octets), first_frame=int(first_frame), frame=int(frame),
                    delivered_ns=first_ns + _ns(delivered), status=status, page_size=connection.page_size,
                    connection=connection.number)
    if structure is None or structure.type is not None:
        record.type, record.body_length = record_header(record.octets, order)
    record.first_seen_ns = record.delivered_ns - _ns(spread)
    record.last_frame, record.last_seen_ns = record.frame, record.delivered_ns
    record.count_items()
    return record


def _syncs(values: _Values) -> Iterator[tuple[str, str, bool, int | None]]:
    """(name, status, doubt, checkpoint) of each sync-point; only those in front of the first NEW
    may lack a number."""
    names, statuses, doubts, numbers = (values[name] for name in _SYNC)
    known: list[int | None] = [None] * (len(names) - len(numbers))
    known += [int(number) for number in numbers]
    for name, status, doubt, checkpoint in zip(names, statuses, doubts, known, strict=True):
        yield name, status, doubt in ("1", "True"), checkpoint


def _ns(seconds: str) -> int:
    """ns of seconds with nine decimals."""
    return int(seconds.replace(".", ""))
