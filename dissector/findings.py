# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings: what is wrong with a stream or with its capture.  The rules are one table of data."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
"""Severities: the protocol is violated; the numbers suffer; worth knowing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its `name`, how bad a breach is, where it is written, what it says."""

    name: str
    severity: str
    section: str
    text: str


RULES = {rule.name: rule for rule in (
    # sync-points
    Rule("wrong_sender", ERROR, "libxl: CHECKPOINT_STATE",
         "a sync-point comes from the side that never sends it"),
    Rule("out_of_order", ERROR, "libxl: CHECKPOINT_STATE",
         "a sync-point follows one that it may not follow"),
    Rule("inside_checkpoint", ERROR, "libxl: CHECKPOINT_STATE",
         "a sync-point passes between libxc's CHECKPOINT and libxl's CHECKPOINT_END"),
    # records
    Rule("bad_length", ERROR, "libxc: Records", "a record's length does not fit its contents"),
    Rule("wrong_direction", ERROR, "libxc: Records",
         "a record comes from the side that never sends it"),
    Rule("truncated", NOTE, "capture", "a stream ends inside a record"),
    Rule("reserved_not_zero", WARNING, "libxc: Fields", "reserved bits or fields are not zero"),
    Rule("padding_not_zero", WARNING, "libxc: Records", "the padding of a record is not zero"),
    Rule("optional_record", NOTE, "libxc: Records",
         "an optional record that this description does not know; it is skipped"),
    Rule("lost_place", ERROR, "libxc: Records",
         "no record of the protocol stands where one must; what follows in this direction is not "
         "read"),
    Rule("shifted_dirty_list", WARNING, "libxc: CHECKPOINT_DIRTY_PFN_LIST",
         "Xen 4.18 or later (commit efe8de1f91) writes 8 octets too many in front of the dirty "
         "PFNs; the reader takes them for PFN 0 and the last PFN for the next record"),
    # the capture
    Rule("hole", WARNING, "capture", "octets of the stream are missing from the capture"),
    Rule("found_place", NOTE, "capture", "reading begins, or goes on, at a landmark inside the "
         "stream; what lies before it, back to the lost place or to the start of the capture, is "
         "not read"),
    Rule("clock_back", NOTE, "capture", "the capture's clock steps back"),
    Rule("capture_drops", WARNING, "capture", "the capturing program dropped packets"),
    Rule("damaged_file", WARNING, "capture", "the capture file ends early or is damaged"),
    Rule("cut_headers", WARNING, "capture", "frames are too short for their TCP header"),
    Rule("ip_fragment", WARNING, "capture",
         "IP fragments, which are not put together and could hide a stream; offloading on the "
         "capturing host or an MTU that fits avoids them"),
    Rule("tunnelled", NOTE, "capture", "packets inside a tunnel (VXLAN, GRE, IP in IP); they are "
         "opened and read"),
    Rule("opaque_tunnel", WARNING, "capture", "packets inside an encapsulation that is not opened "
         "(ESP, MPLS, PPPoE, Geneve, GTP) and could hide a stream; capture inside of it"),
    Rule("unknown_link", WARNING, "capture", "frames of a link type that is not understood"),
    Rule("stale_segments", NOTE, "capture", "segments whose sequence numbers are far outside the "
         "stream (of an earlier connection?)"),
    Rule("phases_out_of_order", WARNING, "analysis", "boundaries of a checkpoint's phases passed "
         "the capture point out of order"),
)}


@dataclass(frozen=True, slots=True)
class Finding:
    """A breach of a rule.  `frame` counts over all files; 0, -1 and "" mean: not of one place."""

    rule: str
    text: str
    connection: int = -1
    direction: str = ""
    frame: int = 0
    stream_offset: int | None = None

    @property
    def severity(self) -> str:
        return RULES[self.rule].severity

    @property
    def section(self) -> str:
        return RULES[self.rule].section
