# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's memory as it was sent: which pages, how often, and what need not have been."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from dissector.protocol import BACK, FORWARD, PAGE_SIZE, U64, WIDTH

RUN = 3
"""Checkpoints in a row in which a page must have been sent to be called hot in `Memory.savings`."""

SENT = PAGE_SIZE + WIDTH[U64]
"""Octets that a page takes on the wire: its contents and its PFN."""

_PAGE = ["connection", "pfn"]
_CHECKPOINT = ["connection", "checkpoint"]


class Memory:
    """What the PFNs of a capture tell of the guest; all tables are DataFrames.

    `pages` is `analysis.Capture.pages`, `checkpoints` the table of checkpoints.  A page is one that carries
    contents; the initial transfer is checkpoint 0 and a plain migration has no other.  What needs contents is
    <NA>, or left out, where the capture was read without `contents=True`, and where every page is of zeros: no
    guest is, somebody has removed the contents (`is_scrubbed`).  What needs all PFNs of a checkpoint is <NA> where
    the capture lacks some, and `hot` and `savings` leave that one out.
    """

    def __init__(self, pages: pd.DataFrame, checkpoints: pd.DataFrame) -> None:
        self.is_scrubbed = bool(pages["zero"].notna().any() and pages["zero"].dropna().all())
        self.has_contents = bool(pages["zero"].notna().any()) and not self.is_scrubbed
        self._sent = _judged(pages[(pages["direction"] == FORWARD) & pages["carries"]])
        self._named = pages.loc[pages["direction"] == BACK, [*_CHECKPOINT, "pfn"]].dropna().drop_duplicates()
        known = checkpoints[checkpoints["number"].notna()].rename(columns={"number": "checkpoint"})
        table = known.astype({"checkpoint": "int64"}).set_index(_CHECKPOINT)[["complete", "pages", "dirty_pfns"]]
        numbered = self._sent.dropna(subset=["checkpoint"]).astype({"checkpoint": "int64"})
        table["known"] = numbered.groupby(_CHECKPOINT).size().reindex(table.index).fillna(0) == table["pages"]
        self._table = table
        self._numbered = numbered[[*_CHECKPOINT, "pfn"]].drop_duplicates()
        """Which pages each checkpoint has sent."""
        later = table[table["complete"] & table["known"]].reset_index()[_CHECKPOINT]
        self._later = later[later["checkpoint"] > 0]
        """Checkpoints behind the initial transfer of which every page is known."""

    @cached_property
    def checkpoints(self) -> pd.DataFrame:
        """One row for each numbered checkpoint: connection, checkpoint; pages (as often as they were sent), octets
        (of them on the wire); distinct (different ones), again (of these, sent by the checkpoint before, too),
        dirty_pfns (in the secondary's lists; <NA>: it sent none), both (of these, sent); zero and unchanged: pages
        of zeros, and pages that are what they were when they were last sent on this connection, of those
        whose contents the capture shows.  All Int64."""
        table, numbered = self._table, self._numbered
        sent = self._sent.dropna(subset=["checkpoint"]).groupby(_CHECKPOINT)
        before = numbered.assign(checkpoint=numbered["checkpoint"] + 1)
        distinct, again, both, named = (of.groupby(_CHECKPOINT).size() for of in (
            numbered, numbered.merge(before), self._named.merge(numbered), self._named))
        counts = {"distinct": distinct, "again": again, "both": both, "named": named,
                  "zero": sent["zero"].sum(), "unchanged": sent["unchanged"].sum()}
        found = pd.DataFrame({name: column.reindex(table.index).astype("Int64").fillna(0)
                              for name, column in counts.items()})
        found.insert(0, "pages", table["pages"])
        found.insert(1, "octets", table["pages"] * SENT)
        found.insert(4, "dirty_pfns", table["dirty_pfns"])
        found.loc[~table["known"], ["distinct", "again", "both"]] = pd.NA
        found.loc[~(table["known"].groupby("connection").shift(fill_value=False)), "again"] = pd.NA
        found.loc[(table["dirty_pfns"] != found.pop("named")).fillna(True), "both"] = pd.NA
        if not self.has_contents:
            found[["zero", "unchanged"]] = pd.NA
        return found.astype("Int64").reset_index()

    @cached_property
    def hot(self) -> pd.DataFrame:
        """One row for each page that a checkpoint behind the initial transfer sent, or that was sent more than
        once, hottest first: connection, pfn (uint64); checkpoints (int64: in how many of those it was
        sent), share (float64: of all of those; NaN: there is none); sent (int64: how often, the initial transfer
        and its iterations included); zero, unchanged (Int64: how often so)."""
        later = self._numbered.merge(self._later)
        every = self._later.groupby("connection").size()
        sent = self._sent.groupby(_PAGE)
        found = pd.DataFrame({
            "checkpoints": later.groupby(_PAGE).size(), "sent": sent.size(), "zero": sent["zero"].sum(),
            "unchanged": sent["unchanged"].sum()})
        found["checkpoints"] = found["checkpoints"].fillna(0).astype("int64")
        found = found[(found["checkpoints"] > 0) | (found["sent"] > 1)].reset_index()
        found.insert(3, "share", found["checkpoints"] / found["connection"].map(every).astype("float64"))
        if not self.has_contents:
            found[["zero", "unchanged"]] = pd.NA
        found = found.astype({"zero": "Int64", "unchanged": "Int64"})
        return found.sort_values(["checkpoints", "sent", "connection", "pfn"], ascending=[False, False, True, True],
                                 ignore_index=True)

    @cached_property
    def savings(self) -> pd.DataFrame:
        """What would have been spared, one row for each connection and way: connection, what, octets_now (that
        the estimate is of), octets_saved (int64), share (float64; NaN: of nothing), assumption (in words).
        Each stands for itself: they do not add up."""
        rows = []
        for connection, sent in self._sent.groupby("connection"):
            later = self._later[self._later["connection"] == connection]
            mine = self._numbered.merge(later)
            if self.has_contents:
                known = sent[sent["zero"].notna()]
                now = len(known) * PAGE_SIZE
                for what, column in (("skip zero pages", "zero"), ("skip unchanged pages", "unchanged")):
                    rows.append((connection, what, now, int(known[column].sum()) * PAGE_SIZE, _ASSUMPTIONS[what]))
            if len(mine):
                pair = (later["checkpoint"] - 1) // 2
                paired = mine.merge(later.assign(pair=pair)[pair.duplicated(keep=False)])
                once = paired[["pair", "pfn"]].drop_duplicates()
                for what, now, saved in (
                        ("twice the interval", len(paired), len(paired) - len(once)),
                        ("hot pages half as often", len(mine), _second_times(mine))):
                    rows.append((connection, what, now * SENT, saved * SENT, _ASSUMPTIONS[what]))
        found = pd.DataFrame(rows, columns=["connection", "what", "octets_now", "octets_saved", "assumption"])
        found = found.astype({"connection": "int64", "octets_now": "int64", "octets_saved": "int64"})
        found.insert(4, "share", found["octets_saved"] / found["octets_now"].where(found["octets_now"] > 0))
        return found

    def heat(self, connection: int, buckets: int = 128) -> pd.DataFrame:
        """How many pages of each bucket of PFNs each checkpoint sent: index: first PFN of the bucket (uint64),
        columns: numbers of checkpoints, without the initial transfer where there are others; values int64.

        Buckets are of a power of two, `attrs["pfns"]`, the smallest that needs no more than `buckets` of them; those
        of which nothing was sent are left out, and with them the holes in a guest's PFNs."""
        table = self._table.reset_index()
        numbers = table.loc[table["connection"] == connection, "checkpoint"].to_numpy()
        numbers = np.sort(numbers[numbers > 0] if (numbers > 0).any() else numbers)
        mine = self._numbered[self._numbered["connection"] == connection]
        mine = mine[mine["checkpoint"].isin(numbers)]
        pfns = mine["pfn"].to_numpy(np.uint64)
        shift = np.uint64(0)
        while len(rows := np.unique(pfns >> shift)) > max(1, buckets):
            shift += np.uint64(1)
        cells = rows.searchsorted(pfns >> shift) * len(numbers) + numbers.searchsorted(mine["checkpoint"].to_numpy())
        counts = np.bincount(cells, minlength=len(rows) * len(numbers)).reshape(len(rows), len(numbers))
        found = pd.DataFrame(counts, pd.Index(rows << shift, name="pfn"), pd.Index(numbers, name="checkpoint"))
        found.attrs["pfns"] = 1 << int(shift)
        return found


_ASSUMPTIONS = {
    "skip zero pages": "only the PFN of a page of zeros is sent",
    "skip unchanged pages": "only the PFN of a page that is what it was when last sent is sent",
    "twice the interval": "the guest dirties in one long interval what it dirties in two short ones",
    "hot pages half as often": f"the guest dirties pages that {RUN} or more checkpoints in a row sent for every "
                               "second one only"}


def _judged(sent: pd.DataFrame) -> pd.DataFrame:
    """Pages that were sent, with `unchanged` (boolean; <NA>: its contents, or those before, are not known)."""
    order = np.lexsort((sent["stream_offset"], sent["pfn"], sent["connection"]))
    sent = sent.iloc[order]
    repeated = np.zeros(len(sent), np.bool_)
    repeated[1:] = np.logical_and.reduce([sent[name].to_numpy()[1:] == sent[name].to_numpy()[:-1] for name in _PAGE])
    same = sent["digest"] == sent["digest"].shift()
    return sent.assign(unchanged=same.where(repeated, sent["digest"].isna().map({True: pd.NA, False: False}))
                       .astype("boolean"))


def _second_times(sent: pd.DataFrame) -> int:
    """Every second time of pages that `RUN` or more checkpoints in a row sent."""
    sent = sent.sort_values(["pfn", "checkpoint"])
    pfns, numbers = sent["pfn"].to_numpy(), sent["checkpoint"].to_numpy()
    begins = np.flatnonzero(np.concatenate((
        [True], (pfns[1:] != pfns[:-1]) | (numbers[1:] != numbers[:-1] + 1))))
    runs = np.diff(np.append(begins, len(sent)))
    return int((runs[runs >= RUN] // 2).sum())
