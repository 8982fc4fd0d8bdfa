# SPDX-License-Identifier: GPL-2.0-or-later
"""An interface of this host."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_NAME = 16
_REQUEST = struct.Struct(f"{_NAME}sH22x")
"""struct ifreq, see netdevice(7)."""


def is_up(name: str) -> bool:
    """Whether it is up, or none of which that can be asked ("any").  One that has no carrier is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, _REQUEST.pack(name.encode()[:_NAME - 1], 0))
        except OSError:
            return True
    return bool(_REQUEST.unpack(answer)[1] & _IFF_UP)
