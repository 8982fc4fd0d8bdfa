# SPDX-License-Identifier: GPL-2.0-or-later
"""analysis: from records and sync-points to tables, latencies and checkpoints.

    import analysis
    capture = analysis.read("colo.pcap.zst")
    capture.latency()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.capture import Capture
    from analysis.comparison import compare
    from analysis.reading import read
    from analysis.two_ends import pair

__all__ = ["Capture", "compare", "pair", "read"]

_HOMES = {"Capture": "analysis.capture", "compare": "analysis.comparison", "pair": "analysis.two_ends",
          "read": "analysis.reading"}


def scapy_ext(ext: Any) -> None:
    """Scapy asks every top-level package of an extension; the layer is in `dissector`."""


def __getattr__(name: str) -> Any:
    # Lazy: `coloscope --help` must not wait for pandas and Numba.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
