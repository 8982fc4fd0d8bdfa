# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of rows that kernels fill, and how a row is found by its key of five words (uint64).

Slots are a hash table with open addressing.  They have rows counted from 1: zeros, memory that nobody has touched,
are slots that have none.
"""

from __future__ import annotations

import math
import mmap
import os

import numpy as np

from dissector.compiled import Slots, Words, WordTable, compiled, kernel

KEY = 5
"""Words of a key."""


def zeros(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros of which the kernel gives no page that is not used.  NumPy asks for pages of 2 MiB; some machines take
    10 ms for each."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype).reshape(shape)


def larger(table: np.ndarray, used: int) -> np.ndarray:
    """The rows of a table that are used, and room for twice as many as it had."""
    twice = zeros((2 * len(table), *table.shape[1:]), table.dtype.type)
    twice[:used] = table[:used]
    return twice


def no_slots(room: int) -> np.ndarray:
    """Slots for so many rows, at most half of which will be taken (int32)."""
    return zeros((1 << (2 * room - 1).bit_length(),), np.int32)


def secret_numbers() -> np.ndarray:
    """What makes a table of hashes one whose collisions nobody can prepare (uint64)."""
    return np.frombuffer(bytearray(os.urandom(2 * KEY * 8)), np.uint64)


@compiled
def _half_sum(word, secret, at):  # type: ignore[no-untyped-def]
    """One word's part in a multilinear hash."""
    return (word & np.uint64(0xFFFFFFFF)) * secret[at] + (word >> np.uint64(32)) * secret[at + 1]


@compiled
def slot_of(slots, keys, secret, a, b, c, d, e):  # type: ignore[no-untyped-def]
    """The slot that has, or would have, the row with this key."""
    h = (_half_sum(a, secret, 0) + _half_sum(b, secret, 2) + _half_sum(c, secret, 4)
         + _half_sum(d, secret, 6) + _half_sum(e, secret, 8))
    mask = np.uint64(len(slots) - 1)
    i = (h >> np.uint64(32)) & mask
    while slots[i] > 0:
        k = keys[slots[i] - 1]
        if k[0] == a and k[1] == b and k[2] == c and k[3] == d and k[4] == e:
            break
        i = (i + np.uint64(1)) & mask
    return i


@kernel
def fill_slots(slots: Slots, keys: WordTable, secret: Words, count: int) -> None:
    """Let slots have the first rows; of those with the same key the last."""
    for row in range(count):
        k = keys[row]
        slots[slot_of(slots, keys, secret, k[0], k[1], k[2], k[3], k[4])] = row + 1
