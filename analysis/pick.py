# SPDX-License-Identifier: GPL-2.0-or-later
"""Picking records and packets out of a capture: by frame, place, checkpoint, window."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.capture import Capture
from analysis.window import Bound
from dissector.engine import Engine
from dissector.errors import CannotDo
from dissector.packets import Packets
from dissector.protocol import DIRECTIONS
from dissector.recall import segment_in
from dissector.record import Record


class PickError(CannotDo):
    """Nothing is where a user looks for it; the message says what is there."""


def in_frame(capture: Capture, frame: int) -> pd.DataFrame:
    """The records of which this frame carries octets."""
    if len(capture.engine.files) > 1:
        raise PickError("with several files a frame number is not enough: name the one file")
    records = capture.export("records")

    def near(connection: int, direction: str) -> int:
        before = records[(records["connection"] == connection) & (records["direction"] == direction)
                         & (records["first_frame"] <= frame)]
        return int(before["stream_offset"].iloc[-1]) if len(before) else 0

    found = segment_in(capture.engine, frame, near)
    if found is None:
        last = sum(file.packets for file in capture.engine.files)
        raise PickError(f"frame {frame} carries no octets of a migration stream"
                        + (f" (the capture has {last} frames)" if frame > last else ""))
    connection, direction, offset, length = found
    return records[(records["connection"] == connection) & (records["direction"] == direction)
                   & (records["stream_offset"] < offset + length)
                   & (records["stream_offset"] + records["length"] > offset)]


def at_offset(capture: Capture, place: str) -> pd.DataFrame:
    """The record at CONNECTION:DIRECTION:OFFSET."""
    connection, _, rest = place.partition(":")
    direction, _, offset = rest.partition(":")
    if not connection.isdecimal() or direction not in DIRECTIONS or not offset.lstrip("-").isdecimal():
        raise PickError(f"{place!r} is no CONNECTION:DIRECTION:OFFSET, such as 0:back:54")
    records = capture.export("records")
    mine = records[(records["connection"] == int(connection)) & (records["direction"] == direction)]
    found = mine[(mine["stream_offset"] <= int(offset))
                 & (mine["stream_offset"] + mine["length"] > int(offset))]
    if found.empty:
        have = f"{mine['stream_offset'].min()} to {(mine['stream_offset'] + mine['length']).max() - 1}" \
            if len(mine) else "no record"
        raise PickError(f"no record holds {place}; that direction has {have}")
    return found


def of_checkpoint(capture: Capture, number: int, connections: list[int]) -> pd.DataFrame:
    """The records of a checkpoint."""
    records = capture.export("records")
    mine = records[records["connection"].isin(connections)]
    found = mine[mine["checkpoint"] == number]
    if found.empty:
        known = mine["checkpoint"].dropna()
        have = f"{known.min()} to {known.max()}" if len(known) else "none"
        raise PickError(f"there is no checkpoint {number}; the capture has {have}")
    return found.sort_values(["connection", "frame", "stream_offset"])


def again(capture: Capture, chosen: pd.DataFrame) -> tuple[Engine, list[Record]]:
    """These records with their octets: reads the capture a second time."""
    if not all(file.seekable for file in capture.engine.files):
        raise PickError("records are read a second time for this: name a file, not a pipe")
    keys = {key: i for i, key in enumerate(zip(chosen["connection"], chosen["direction"],
                                               chosen["stream_offset"], strict=True))}
    engine = Engine()
    found: dict[int, Record] = {}
    for event in engine.run([file.name for file in capture.engine.files]):
        if isinstance(event, Record):
            key = (event.connection, event.direction, event.stream_offset)
            if key in keys:
                found[keys[key]] = event
    return engine, [found[i] for i in sorted(found)]


class Frames:
    """Which packets of a capture lie in a window of frames and times; a mask for each block."""

    def __init__(self, begin: Bound, end: Bound) -> None:
        self.begin, self.end = begin, end

    def __call__(self, packets: Packets) -> np.ndarray:
        frames = np.arange(packets.first, packets.first + len(packets))
        keep = np.ones(len(packets), np.bool_)
        if self.begin.frame is not None:
            keep &= frames >= self.begin.frame
        if self.end.frame is not None:
            keep &= frames <= self.end.frame
        if self.begin.time is not None:
            keep &= packets.time >= self.begin.time
        if self.end.time is not None:
            keep &= packets.time <= self.end.time
        return keep


def frames_of_checkpoint(capture: Capture, number: int, connections: list[int]) -> Frames:
    """From a checkpoint's first frame to the last one in front of the next checkpoint."""
    mine = of_checkpoint(capture, number, connections)
    if mine["connection"].nunique() > 1:
        raise PickError(f"several connections have a checkpoint {number}: choose one with --connection")
    records = capture.export("records")
    behind = records[(records["connection"] == mine["connection"].iloc[0])
                     & (records["checkpoint"] > number)]["first_frame"]
    first = 1 if number == 0 else int(mine["first_frame"].min())
    return Frames(Bound(frame=first), Bound(frame=int(behind.min()) - 1 if len(behind) else None))
