# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one harness under libFuzzer."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path

from fuzz import HARNESSES

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(os.environ.get("FUZZ_FOUND", "build/fuzz"))
"""Where inputs that reach something new are kept, and those that break something."""


def main() -> None:
    """`python -m fuzz HARNESS [libFuzzer options]`."""
    if len(sys.argv) < 2 or sys.argv[1] not in HARNESSES:
        sys.exit(f"usage: python -m fuzz {'|'.join(HARNESSES)} [libFuzzer options]")
    # Kernels run as Python: then their branches guide the fuzzer, and NumPy checks every index,
    # which compiled code does not.
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import atheris

    with atheris.instrument_imports(include=["dissector", "analysis"]):
        harness = importlib.import_module(f"fuzz.{sys.argv[1]}")
    from dissector import container, packets, reader

    # Small blocks, so that their ends are met.
    container.BLOCK = reader.BLOCK = 1 << 14
    container.PACKET_MAX, packets.ROWS = 1 << 13, 64
    reader.PIECE, reader.SPAN = 1 << 12, 1 << 15
    # Scalars of NumPy warn where compiled integers just wrap.
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    found = FOUND / sys.argv[1]
    found.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], f"-artifact_prefix={found}.", *sys.argv[2:], str(found),
                   str(CORPUS / sys.argv[1])], harness.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
