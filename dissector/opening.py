# SPDX-License-Identifier: GPL-2.0-or-later
"""The octets with which a stream of ours opens."""

from __future__ import annotations

import numpy as np

from dissector.protocol import OPENINGS

LENGTH = max(len(magic) for magics in OPENINGS.values() for magic in magics)
"""Octets that tell whether it does."""

CUT_LENGTH = 8
"""So many tell it if the snap length has cut off the others."""

WORDS = np.array(sorted({int.from_bytes(magic[:8]) for magics in OPENINGS.values() for magic in magics}), np.uint64)
"""The first eight octets of each, as numbers."""


def direction_of(octets: bytes, *, cut: bool = False) -> str:
    """The direction of the stream that opens with these octets, "" if none does (or not yet).  `cut`:
    the capture has no more of them."""
    return next((direction for direction, magics in OPENINGS.items() for magic in magics
                 if octets.startswith(magic)
                 or (cut and len(octets) >= CUT_LENGTH and magic.startswith(octets))), "")


def may_open(octets: bytes) -> bool:
    """Whether these octets are the beginning of an opening, or one."""
    return any(magic.startswith(octets[:len(magic)]) for magics in OPENINGS.values() for magic in magics)
