# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile for Wireshark: columns, colours, filter buttons and I/O graphs for sync-points.

The formats are those in which Wireshark saves a profile itself; the names come from the protocol's
description, as in the dissector.
"""

from __future__ import annotations

from pathlib import Path

from dissector.findings import NOTE, RULES
from dissector.protocol import XEN_COLO
from dissector.wireshark.generate import PROTO

NAME = PROTO
"""Folder, and so name, of the profile."""

_POINTS = [point.short_name for point in XEN_COLO.sync_points]
_BACKGROUNDS = ("#FFD199", "#FFF1A1", "#BFE1F6", "#C2ECC2")
_LINES = ("#D97700", "#B8A000", "#1F77B4", "#2C9A2C")
_BLACK, _WHITE, _RED, _GREY = "#000000", "#FFFFFF", "#B3261E", "#555555"

_OF_THE_FILE = ("capture", "analysis")
"""Sections of rules that Wireshark does not judge, but for holes."""

_SYNC = f"{PROTO}.sync.name"
_LATENCY, _CHECKPOINT = f"{PROTO}.sync.latency", f"{PROTO}.sync.checkpoint"
_DURATION, _SPREAD = f"{PROTO}.epoch.duration", f"{PROTO}.record.spread"
_FINDINGS = " || ".join(f"{PROTO}.expert.{rule.name}" for rule in RULES.values()
                        if rule.severity != NOTE and (rule.section not in _OF_THE_FILE or rule.name == "hole"))
_HELD_BACK = 0.035
"""Seconds: a message of a few octets that takes as long to pass waited for a delayed ACK."""


def _is(point: str) -> str:
    return f'{_SYNC} == "{point}"'


def _preferences() -> str:
    columns = (("No.", "%m"), ("Time", "%t"), ("Source", "%s"), ("Destination", "%d"), ("Protocol", "%p"),
               ("Length", "%L"), ("Checkpoint", f"%Cus:{_CHECKPOINT}:1:R"),
               ("Latency", f"%Cus:{_LATENCY}:0:R"), ("Info", "%i"))
    return "gui.column.format: \n" + ",\n".join(f'\t"{title}", "{kind}"' for title, kind in columns) + "\n"


def _colour(name: str, text: str, background: str, foreground: str = _BLACK) -> str:
    def wide(colour: str) -> str:
        return ",".join(str(257 * octet) for octet in bytes.fromhex(colour.removeprefix("#")))

    return f"@{name}@{text}@[{wide(background)}][{wide(foreground)}]\n"


def _colours() -> str:
    return _colour("Findings in a Xen migration", _FINDINGS, _RED, _WHITE) + "".join(
        _colour(point, _is(point), background) for point, background in zip(_POINTS, _BACKGROUNDS, strict=True))


def _table(rows: list[tuple[str, ...]]) -> str:
    """Lines of a table of Wireshark's (a UAT); quotes inside of a value are written in hex."""
    return "".join(",".join('"' + value.replace('"', r"\x22") + '"' for value in row) + "\n" for row in rows)


def _buttons() -> str:
    return _table([
        ("TRUE", label, text, meaning) for label, text, meaning in (
            ("Sync-points", _SYNC, "Every sync-point of COLO"),
            *((point, _is(point), "") for point in _POINTS),
            ("Records", f"{PROTO}.record.name", "Frames in which a record ends"),
            ("Held back", f"{_SYNC} && {_SPREAD} > {_HELD_BACK}", "Sync-points that waited for a delayed ACK"),
            ("Findings", _FINDINGS, "What is wrong with the stream or its capture"))])


def _graphs() -> str:
    def graph(name: str, text: str, colour: str, style: str, field: str) -> tuple[str, ...]:
        return ("Enabled", name, text, colour, style, "MAX(Y Field)", field, "None", "1")

    return _table([
        graph("Checkpoint, in all", _DURATION, _GREY, "Dot", _DURATION),
        *(graph(f"Latency of {point}", _is(point), colour, "Dot", _LATENCY)
          for point, colour in zip(_POINTS, _LINES, strict=True))])


def files() -> dict[str, str]:
    """The profile's files: text by name."""
    return {"preferences": _preferences(), "colorfilters": _colours(), "dfilter_buttons": _buttons(),
            "io_graphs": _graphs()}


def write(folder: Path) -> None:
    """Write the profile's files into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
