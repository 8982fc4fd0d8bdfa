# SPDX-License-Identifier: GPL-2.0-or-later
"""Display filters for Wireshark that show what a row of a table rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.escape import printable


def of_frames(row: Mapping[str, Any], first: str = "frame", last: str = "last_frame") -> str:
    """The filter for the frames from column `first` to column `last` of a row, such as
    `frame.number in {123 .. 456}`; of a capture of several files, with the name of the file in front.
    Empty if one of the frames is not known."""
    if pd.isna(row[first]) or pd.isna(row[last]):
        return ""
    begin, end = int(row[first]), int(row[last])
    file, end_file = (row.get(name.removesuffix("frame") + "file") for name in (first, last))
    if file == end_file:
        text = f"frame.number == {begin}" if begin == end else f"frame.number in {{{begin} .. {end}}}"
        return f"{printable(file)}: {text}" if file else text
    return f"{printable(str(file))}: frame.number >= {begin}; {printable(str(end_file))}: frame.number <= {end}"
