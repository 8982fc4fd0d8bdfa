# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of guest memory were sent, or named as dirty."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pandas as pd

from dissector.fields import carries_page, pages_at, words
from dissector.protocol import (
    BACK,
    CHECKPOINT_DIRTY_PFN_LIST,
    DIRECTIONS,
    PAGE_DATA,
    PFN,
    PFN_TYPE,
    PFN_TYPES,
)
from dissector.record import Record

DIGEST = 8
"""Octets of a digest."""

_BACK = DIRECTIONS.index(BACK)
_CODES = np.array([list(PFN_TYPES).index(kind) if kind in PFN_TYPES else -1 for kind in range(16)], np.int8)

_RECORD = np.dtype([("connection", "i4"), ("direction", "i1"), ("stream_offset", "i8"), ("count", "i8")])


class Pages:
    """Takes the PFNs of records, 8 octets of memory for each, and as much again with digests.

    The digests are keyed with a number that is forgotten: they tell which pages are alike in this capture
    and nothing else, since a page's contents are somebody's secrets."""

    def __init__(self) -> None:
        self._records: list[tuple[int, int, int, int]] = []
        self._words: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []
        self._key = os.urandom(hashlib.blake2b.MAX_KEY_SIZE)

    def append(self, record: Record) -> None:
        """Take a record, and let go of the pages that it carries."""
        if record.structure not in (PAGE_DATA, CHECKPOINT_DIRTY_PFN_LIST):
            return
        pfns = words(record.structure, record.octets, record.order, record.count or 0)
        assert pfns is not None
        digests = np.zeros(len(pfns), np.uint64)
        begin = pages_at(record.structure, len(pfns))
        if record.structure is PAGE_DATA and record.page_size and len(record.octets) > begin:
            self._digest(record, pfns, begin, digests)
            record.octets = record.octets[:begin]
        self._records.append((record.connection, DIRECTIONS.index(record.direction), record.stream_offset, len(pfns)))
        self._words.append(pfns.astype(np.uint64))
        self._digests.append(digests if digests.any() else np.zeros(0, np.uint64))

    def _digest(self, record: Record, pfns: np.ndarray, at: int, digests: np.ndarray) -> None:
        size, octets = record.page_size, memoryview(record.octets)
        for i in np.flatnonzero(carries_page(pfns)).tolist():
            page = octets[at:at + size]
            if len(page) == size:
                digests[i] = self._of(page)
            at += size

    def _of(self, page: memoryview | bytes) -> int:
        number = int.from_bytes(hashlib.blake2b(page, digest_size=DIGEST, key=self._key).digest(), "little")
        return number or 1  # 0 stands for none

    def table(self, page_size: int) -> pd.DataFrame:
        """One row for each PFN, in the order of the streams: connection, direction, stream_offset (of the
        record), pfn (uint64), type (categorical; <NA> in dirty lists), carries (bool: its contents follow),
        digest (UInt64) and zero (boolean), <NA> without contents.  Of a dirty list without contents the first
        8,191 (`dissector.record.KEPT_MAX`)."""
        records = np.array(self._records, _RECORD)
        counts = records["count"]
        pfns = np.concatenate([*self._words, np.zeros(0, np.uint64)])
        digests = np.concatenate([
            *(part if len(part) else np.zeros(n, np.uint64) for part, n in zip(self._digests, counts, strict=True)),
            np.zeros(0, np.uint64)])
        direction = np.repeat(records["direction"], counts)
        sent = direction != _BACK
        kinds = (pfns >> np.uint64(PFN_TYPE.low)).astype(np.int8)
        absent = digests == 0
        zero = digests == self._of(bytes(page_size))
        return pd.DataFrame({
            "connection": np.repeat(records["connection"].astype(np.int64), counts),
            "direction": pd.Categorical.from_codes(direction, list(DIRECTIONS)),
            "stream_offset": np.repeat(records["stream_offset"], counts),
            "pfn": pfns & np.uint64(PFN.mask),
            "type": pd.Categorical.from_codes(np.where(sent, _CODES[kinds], -1), list(PFN_TYPES.values())),
            "carries": carries_page(pfns) & sent,
            "digest": pd.arrays.IntegerArray(digests, absent),
            "zero": pd.arrays.BooleanArray(zero, absent)})


