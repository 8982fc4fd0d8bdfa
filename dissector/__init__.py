# SPDX-License-Identifier: GPL-2.0-or-later
"""dissector: from octets of a replication link to records and sync-points of Xen's protocols.

    from dissector import Engine
    for event in (engine := Engine()).run(["colo.pcap.zst"]):   # Record, Sync, Message
        ...
    engine.connections, engine.findings
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dissector.engine import Engine
    from dissector.findings import Finding
    from dissector.record import Record
    from dissector.source import SourceError
    from dissector.syncpoints import Sync

_HOMES = {"Engine": "engine", "Finding": "findings", "Record": "record", "SourceError": "source",
          "Sync": "syncpoints"}
__version__ = "0.1.0"
__all__ = ["Engine", "Finding", "Record", "SourceError", "Sync"]


def scapy_ext(ext: Any) -> None:
    """Register the Scapy layer: `conf.exts.load("coloscope")`, then `load_contrib("xen_migration")`."""
    from pathlib import Path

    ext.config("coloscope", __version__)
    ext.register("xen_migration", ext.MODE.CONTRIB, Path(__file__).parent / "scapy" / "contrib.py")


def __getattr__(name: str) -> Any:
    # Lazy: importing the description alone must not wait for Numba.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"dissector.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
