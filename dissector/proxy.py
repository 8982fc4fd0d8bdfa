# SPDX-License-Identifier: GPL-2.0-or-later
"""The control connection of colo-proxy: why checkpoints begin."""

from __future__ import annotations

from dataclasses import dataclass

from dissector.findings import Finding
from dissector.opening import PROXY_OPENINGS
from dissector.passage import Passage
from dissector.protocol import PROXY_END, PROXY_LENGTH, PROXY_MESSAGES, PROXY_TEXT_MAX, TOOLSTACK_END
from dissector.streams import GIVEN, SIZE, Run

_HEAD = PROXY_LENGTH.width
_LONGEST = max(map(len, PROXY_OPENINGS))
_KNOWN = {(message.sender, message.text) for message in PROXY_MESSAGES}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation: when and with which frame it had passed the capture point, who sent
    it.  `text` is None where the capture lacks octets of it, or where octets were no message."""

    connection: int
    frame: int
    delivered_ns: int
    sender: str
    stream_offset: int
    text: str | None


class Conversation:
    """Reads both directions of one control connection, fed with their runs; `findings` collects what is
    wrong.  Of each direction one message at most is kept."""

    def __init__(self, connection: int, toolstack_side: int) -> None:
        self.findings: list[Finding] = []
        self._sides = [_Side(connection, TOOLSTACK_END if side == toolstack_side else PROXY_END, self.findings)
                       for side in (0, 1)]

    def feed(self, side: int, run: Run) -> list[Message]:
        """The messages that this run completes."""
        return self._sides[side].feed(run) if len(run.rows) else []

    def finish(self) -> None:
        """The capture has ended."""
        for side in self._sides:
            side.finish()


class _Side:
    """What one end says."""

    def __init__(self, connection: int, sender: str, findings: list[Finding]) -> None:
        self._connection, self._sender, self._findings = connection, sender, findings
        self._passage = Passage()
        self._octets = bytearray()
        """Of the message in hand; while the place is lost, what the next known one may begin with."""
        self._offset: int | None = None
        """Stream offset of the first of them."""
        self._whole, self._lost = True, False
        self._frame, self._time = 0, 0

    def feed(self, run: Run) -> list[Message]:
        messages: list[Message] = []
        if self._offset is None:
            self._offset = run.begin
        self._passage.look_at(run)
        for i in range(len(run.rows)):
            self._frame, self._time = self._passage.delivered(i)
            given, size = run.rows.item(i, GIVEN), run.rows.item(i, SIZE)
            self._octets += run.octets(i, 0, given)
            messages += self._cut()
            if size > given:
                messages += self._miss(size - given)
        self._passage.leave(len(run.rows))
        return messages

    def finish(self) -> None:
        if self._octets and not self._lost:
            self._find("truncated", "the conversation ends inside a message")

    def _cut(self) -> list[Message]:
        """The messages that are whole."""
        messages: list[Message] = []
        while True:
            if self._lost and not self._seek():
                return messages
            if len(self._octets) < _HEAD:
                return messages
            length = int.from_bytes(self._octets[:_HEAD])
            if not 0 < length <= PROXY_TEXT_MAX:
                messages.append(self._lose(f"a text of {length} octets"))
            elif len(self._octets) < _HEAD + length:
                return messages
            else:
                messages.append(self._said(length))

    def _said(self, length: int) -> Message:
        octets = bytes(self._octets[_HEAD:_HEAD + length]).rstrip(b"\0")
        text = octets.decode("ascii", "backslashreplace") if self._whole else None
        if text is not None and (self._sender, text) not in _KNOWN:
            self._find("proxy_unknown_message", f"{text[:64]!r} from the {self._sender}")
        message = self._message(text)
        self._drop(_HEAD + length)
        self._whole = True
        return message

    def _miss(self, count: int) -> list[Message]:
        """The capture lacks so many octets.  Inside a text they change no place."""
        octets = self._octets
        inside = not self._lost and len(octets) >= _HEAD \
            and count <= _HEAD + int.from_bytes(octets[:_HEAD]) - len(octets)
        if inside:
            self._octets += bytes(count)
            self._whole = False
            return self._cut()
        lost = [] if self._lost else [self._lose(f"the capture lacks {count} octets")]
        self._drop(len(self._octets))
        self._offset = (self._offset or 0) + count
        return lost

    def _lose(self, why: str) -> Message:
        self._find("proxy_lost_place", f"{why}; what the {self._sender} says is read on at the next known message")
        self._lost, self._whole = True, True
        return self._message(None)

    def _seek(self) -> bool:
        """Go on at the first known message, if there is one."""
        places = [at for framed in PROXY_OPENINGS if (at := self._octets.find(framed)) >= 0]
        self._drop(min(places) if places else max(0, len(self._octets) - _LONGEST + 1))
        self._lost = not places
        return not self._lost

    def _drop(self, count: int) -> None:
        del self._octets[:count]
        self._offset = (self._offset or 0) + count

    def _message(self, text: str | None) -> Message:
        return Message(self._connection, self._frame, self._time, self._sender, self._offset or 0, text)

    def _find(self, rule: str, text: str) -> None:
        self._findings.append(Finding(rule, text, self._connection, frame=self._frame, stream_offset=self._offset))
