# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage-guided fuzzing with Atheris: one small harness for each room that reads what came from
strangers.

    python -m fuzz reader [libFuzzer options]        with the corpus of the repository as seeds
    python -m fuzz.corpus                            writes that corpus again

A harness is a function `check(octets)` that holds the room to what it promises, which is more than
not to crash; it needs no Atheris itself.
"""

from __future__ import annotations

HARNESSES = ("reader", "streams", "framing", "scapy_layer", "capture")
