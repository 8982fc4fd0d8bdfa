# SPDX-License-Identifier: GPL-2.0-or-later
"""Octets as a file that has a name and never reaches a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(octets: bytes) -> Iterator[str]:
    """A path under which these octets can be opened, any number of times."""
    file = os.memfd_create("fuzz")
    try:
        os.write(file, octets)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)
