# SPDX-License-Identifier: GPL-2.0-or-later
"""A path between two interfaces that delays and loses frames, for kernels without netem.

    python -m tests.synthesiser.relay INTERFACE INTERFACE DELAY_MS LOSS
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import deque

ETH_P_ALL, SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 3, 263, 15, 23
"""Of linux/if_packet.h; Python has no names for them."""

_FRAME_MAX = 1 << 17


def opened(interface: str) -> socket.socket:
    """Frames that come in; each with what offloading left undone, so that the next interface can do it."""
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    for option in (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
        frames.setsockopt(SOL_PACKET, option, 1)
    frames.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    frames.bind((interface, 0))
    return frames


def relay(interfaces: tuple[str, str], delay: float, loss: float, seed: int = 1) -> None:
    """Pass frames on for ever, `delay` seconds late, but for a share `loss` of them."""
    one, other = map(opened, interfaces)
    opposite = {one: other, other: one}
    rng = random.Random(seed)
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()
    print("ready", flush=True)
    while True:
        timeout = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        for frames in select.select(list(opposite), (), (), timeout)[0]:
            frame = frames.recv(_FRAME_MAX)
            if rng.random() >= loss:
                waiting.append((time.monotonic() + delay, opposite[frames], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, frames, frame = waiting.popleft()
            frames.send(frame)


if __name__ == "__main__":
    relay((sys.argv[1], sys.argv[2]), float(sys.argv[3]) / 1000, float(sys.argv[4]))
