# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `coloscope` as a process: how Python is set up for it, and what begins before all else is imported."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from itertools import pairwise


def main() -> None:
    """Run the command."""
    # NumPy's library of linear algebra, which nothing here uses, starts a thread for each core: 0.06 s of each
    # process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Python looks for cycles among what it has made: among modules too, 0.02 s of each process, and at the end among
    # all that is left, 0.07 s.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    _expect(sys.argv[1:])
    from analysis.cli import main as command

    command()


def _expect(words: list[str]) -> None:
    """Let a second process begin with the files among these words while this one imports what a command needs, some
    0.1 s.  No more than a guess: what an option has may be a file, too, and is not taken for a capture."""
    if files := [word for before, word in pairwise(words)
                 if not before.startswith("-") and os.path.isfile(word)]:
        from dissector.ahead import expect

        expect(files)


if __name__ == "__main__":
    main()
