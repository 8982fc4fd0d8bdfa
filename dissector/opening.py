# SPDX-License-Identifier: GPL-2.0-or-later
"""The octets with which a stream of ours opens."""

from __future__ import annotations

import numpy as np

from dissector.protocol import (
    HEADER_LANDMARKS,
    OPENINGS,
    PROXY_LENGTH,
    PROXY_MESSAGES,
    STATES,
    ProxyMessage,
    Structure,
)

LENGTH = max(len(magic) for magics in OPENINGS.values() for magic in magics)
"""Octets that tell whether it does."""

CUT_LENGTH = 8
"""So many tell it if the snap length has cut off the others."""

PROXY_OPENINGS = {len(text).to_bytes(PROXY_LENGTH.width) + text: message for message in PROXY_MESSAGES
                  for text in (message.text.encode(), message.text.encode() + b"\0")}
"""Every message of a colo-proxy's control connection as it stands on the wire; each may be the first one
that a capture has."""

WORDS = np.array(sorted({int.from_bytes(magic[:8]) for magics in (*OPENINGS.values(), PROXY_OPENINGS)
                         for magic in magics}), np.uint64)
"""The first eight octets of each, and of each of `PROXY_OPENINGS`, as numbers."""


def direction_of(octets: bytes, *, cut: bool = False) -> str:
    """The direction of the stream that opens with these octets, "" if none does (or not yet).  `cut`:
    the capture has no more of them."""
    structure = structure_of(octets, cut=cut)
    return STATES[HEADER_LANDMARKS[structure]].direction if structure else ""


def structure_of(octets: bytes, *, cut: bool = False) -> Structure | None:
    """The same: the header or text with which it opens."""
    return next((structure for structure in HEADER_LANDMARKS if octets.startswith(structure.magic) or (
        cut and len(octets) >= CUT_LENGTH and structure.magic.startswith(octets))), None)


def may_open(octets: bytes) -> bool:
    """Whether these octets are the beginning of an opening, or one."""
    return any(magic.startswith(octets[:len(magic)])
               for magics in (*OPENINGS.values(), PROXY_OPENINGS) for magic in magics)


def proxy_message(octets: bytes) -> ProxyMessage | None:
    """The message of a colo-proxy's control connection that these octets begin with."""
    return next((message for framed, message in PROXY_OPENINGS.items() if octets.startswith(framed)), None)
