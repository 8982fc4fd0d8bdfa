# SPDX-License-Identifier: GPL-2.0-or-later
"""What a TCP connection seems to be that carries none of our streams, from its first octets."""

from __future__ import annotations

from dissector.opening import proxy_message

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


def seems(prefixes: tuple[bytes, bytes]) -> str:
    """What the first octets of both directions look like."""
    for prefix, other in (prefixes, prefixes[::-1]):
        if prefix.startswith(_QEMU_MAGIC):
            return QEMU_COLO if other[:4] == _QEMU_COLO_FIRST[:4] else QEMU
        if proxy_message(prefix):
            return COLO_PROXY
    for prefix in prefixes:
        for magic, name in _PREFIXES:
            if prefix.startswith(magic):
                return name
    return UNKNOWN if any(prefixes) else NO_DATA
