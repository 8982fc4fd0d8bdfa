# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled functions: Numba, cached on disk where a disk lets us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, and keep the result for the next process."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No place that can be written to, as in a read-only container: compile every time.
        return njit(nogil=True)(function)
