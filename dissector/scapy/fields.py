# SPDX-License-Identifier: GPL-2.0-or-later
"""Scapy fields for what the description has and Scapy lacks: groups of bits, long arrays, blobs,
xenstore pairs."""

from __future__ import annotations

import struct
from typing import Any

from scapy.fields import Field, FieldListField, StrLenField
from scapy.packet import Packet

from dissector.protocol import PFN, Bits

_SHOWN_ITEMS = 4
_SHOWN_OCTETS = 32


class BitsField(Field):  # type: ignore[type-arg]
    """An integer made of groups of bits; shown by their names."""

    __slots__ = ("groups",)

    def __init__(self, name: str, default: int | None, fmt: str, groups: tuple[Bits, ...]) -> None:
        super().__init__(name, default, fmt)
        self.groups = groups

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        if x is None:
            return "None"
        parts = []
        for group in self.groups:
            value = group.of(x)
            if group.enum:
                parts.append(group.enum.get(value, f"{group.name}={value:#x}"))
            elif group is PFN:
                parts.append(f"{value:#x}")
            elif value:
                parts.append(group.name if group.low == group.high else f"{group.name}={value:#x}")
        return " ".join(parts) or "0"


class ConstantField(Field):  # type: ignore[type-arg]
    """An integer that has one legal value."""

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        return hex(x)


class ItemsField(FieldListField):
    """A counted array of words; long ones are shown by their beginning."""

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[int]]:
        count = min(self.count_from(pkt), len(s) // self.field.sz)  # type: ignore[misc]
        size = count * self.field.sz
        return s[size:], list(struct.unpack(f"{self.field.fmt[0]}{count}{self.field.fmt[1:]}", s[:size]))

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        return s + struct.pack(f"{self.field.fmt[0]}{len(val)}{self.field.fmt[1:]}", *val)

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        shown = [self.field.i2repr(pkt, word) for word in x[:_SHOWN_ITEMS]]
        more = len(x) - len(shown)
        return "[" + ", ".join(shown) + (f", … {more} more]" if more else "]")


class OctetsField(StrLenField):
    """Octets without known structure; long ones are shown by their beginning."""

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        if x is None or len(x) <= _SHOWN_OCTETS:
            return repr(x)
        return f"{x[:_SHOWN_OCTETS]!r}… ({len(x)} octets)"


class StringsField(StrLenField):
    """NUL-terminated strings: a list of bytes.  A last one without its NUL is no string: it stays
    in the packet's `surplus`."""

    islist = 1

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[bytes]]:
        end = s.rfind(b"\0") + 1
        return s[end:], s[:end].split(b"\0")[:-1]

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        return s + b"".join(bytes(text) + b"\0" for text in val or ())

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        texts = [text.decode("ascii", "backslashreplace") for text in x or ()]
        return ", ".join(f"{key}={value}" for key, value in zip(texts[::2], texts[1::2], strict=False)) + (
            f", {texts[-1]}" if len(texts) % 2 else "")

    def i2len(self, pkt: Packet, x: Any) -> int:
        return sum(len(text) + 1 for text in x or ())

    def any2i(self, pkt: Packet | None, x: Any) -> Any:
        return x

    def i2h(self, pkt: Packet | None, x: Any) -> Any:
        return x
