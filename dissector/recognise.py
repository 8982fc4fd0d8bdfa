# SPDX-License-Identifier: GPL-2.0-or-later
"""What a TCP connection seems to be that carries none of our streams, from its first octets."""

from __future__ import annotations

import re

from dissector.opening import PROXY_OPENINGS

SSH, TLS, QEMU, QEMU_COLO, COLO_PROXY = ("SSH", "TLS", "QEMU migration (KVM)",
                                         "QEMU's COLO (KVM)", "colo-proxy control")
UNKNOWN, NO_DATA = "unknown", "no data"

ENCRYPTED = (SSH, TLS)

_QEMU_MAGIC = b"QEVM\0\0\0\x03"
# be32 messages of QEMU's migration/colo.c: COLO_MESSAGE_*; the secondary speaks first.
_QEMU_COLO_FIRST = b"\0\0\0\0\0\0\0\x02"
_PREFIXES = (
    (b"SSH-", SSH), (b"\x16\x03", TLS), (b"\x17\x03", TLS), (b"GET ", "HTTP"), (b"POST ", "HTTP"),
    (b"HTTP/", "HTTP"), (b"PUT ", "HTTP"), (b"HEAD ", "HTTP"), (b"PRI * HTTP/2", "HTTP/2"),
    (b"RFB 00", "VNC"), (b"NBDMAGIC", "NBD (disk replication?)"), (b"\x83\x74\x02\x67", "DRBD"),
)
KINDS = (NO_DATA, UNKNOWN, *dict.fromkeys((*ENCRYPTED, QEMU, QEMU_COLO, COLO_PROXY,
                                            *(name for _, name in _PREFIXES))))
"""Everything that `seems` may say."""


_KIND_OF = {_QEMU_MAGIC: QEMU, **dict.fromkeys(PROXY_OPENINGS, COLO_PROXY), **dict(_PREFIXES)}
_MAGIC = re.compile(b"|".join(map(re.escape, _KIND_OF)))


def seems(prefixes: tuple[bytes, bytes]) -> str:
    """What the first octets of both directions look like."""
    # One expression for all of them: a capture may have a million short connections.
    one, other = ((found := _MAGIC.match(prefix)) and _KIND_OF[found.group()] for prefix in prefixes)
    if one == QEMU or other == QEMU:
        answer = prefixes[1 if one == QEMU else 0]
        return QEMU_COLO if answer[:4] == _QEMU_COLO_FIRST[:4] else QEMU
    if one == COLO_PROXY or other == COLO_PROXY:
        return COLO_PROXY
    return one or other or (UNKNOWN if any(prefixes) else NO_DATA)
