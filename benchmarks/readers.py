# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that read captures: coloscope, and others to hold it against."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent

_SCAPY = """
import sys
from scapy.all import PcapReader
for packet in PcapReader(sys.argv[1]):
    pass
"""
_DPKT = """
import sys
import dpkt
with open(sys.argv[1], "rb") as file:
    for time, octets in dpkt.pcap.Reader(file):
        dpkt.ethernet.Ethernet(octets)
"""

COLOSCOPE = str(Path(sys.executable).parent / "coloscope")
TCPDUMP, CAT, CAPINFOS = "tcpdump", "cat", "capinfos"
PIGZ, ZSTD = "pigz", "zstd"
_DPKT_READER = "dpkt, Ethernet()"

_COMMANDS = {
    CAT: ["cat"],
    TCPDUMP: ["tcpdump", "-w", "/dev/null", "-r"],
    CAPINFOS: ["capinfos"],
    "tshark with xen_migration.lua": ["tshark", "-X", f"lua_script:{ROOT / 'lua' / 'xen_migration.lua'}", "-r"],
    _DPKT_READER: [sys.executable, "-c", _DPKT],
    "scapy, PcapReader": [sys.executable, "-c", _SCAPY],
    PIGZ: ["pigz", "-dc"],
    ZSTD: ["zstd", "-qdc"],
}
_MODULES = {_DPKT_READER: "dpkt"}
SLOW = tuple(name for name in _COMMANDS if " " in name)
"""Those that take minutes on a large capture."""


def latency(capture: Path) -> list[str]:
    """`coloscope latency`."""
    return [COLOSCOPE, "latency", str(capture)]


def command(name: str, capture: Path) -> list[str]:
    """Another program that reads this capture."""
    return [*_COMMANDS[name], str(capture)]


def there(name: str) -> bool:
    """Is it installed?"""
    module = _MODULES.get(name)
    return shutil.which(_COMMANDS[name][0]) is not None and (module is None or find_spec(module) is not None)
