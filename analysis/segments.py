# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP segments of the connections that are ours, as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dissector.engine import Engine
from dissector.headers import ACK
from dissector.protocol import BACK, DIRECTIONS, FORWARD
from dissector.trace import KINDS, NOT_KNOWN

FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
"""By bit."""


def segments(engine: Engine) -> pd.DataFrame:
    """One row for each segment, in capture order by connection.

    connection, frame, time_ns (Int64), direction, stream_offset of its first octet and length (int64);
    acknowledges (Int64): the stream offset of the other direction up to which it acknowledges all; window
    (Int64): octets that its sender is ready to take, <NA> if the scale was not seen; flags (categorical,
    "SYN ACK"); kind (categorical `dissector.trace.KINDS`, <NA> without octets).
    """
    parts = [pd.DataFrame({"connection": pd.Series(dtype="int64")})]
    for connection in engine.ours():
        rows = engine.segments(connection)
        directions = np.where(rows["side"] == connection.side(FORWARD), DIRECTIONS.index(FORWARD),
                              DIRECTIONS.index(BACK))
        times, windows, answers = rows["time_ns"], rows["window"], rows["acknowledges"]
        names = [" ".join(name for bit, name in enumerate(FLAGS) if flags >> bit & 1) for flags in range(256)]
        parts.append(pd.DataFrame({
            "connection": np.full(len(rows), connection.number, np.int64),
            "frame": rows["frame"],
            "time_ns": pd.arrays.IntegerArray(times, times == 0),
            "direction": pd.Categorical.from_codes(directions, list(DIRECTIONS)),
            "stream_offset": rows["stream_offset"],
            "length": rows["length"].astype(np.int64),
            "acknowledges": pd.arrays.IntegerArray(answers, rows["flags"] & ACK == 0),
            "window": pd.arrays.IntegerArray(windows, windows == NOT_KNOWN),
            "flags": pd.Categorical.from_codes(rows["flags"].astype(np.int16), names),
            "kind": pd.Categorical.from_codes(rows["kind"], list(KINDS))}))
    return pd.concat(parts[1:] or parts, ignore_index=True)
