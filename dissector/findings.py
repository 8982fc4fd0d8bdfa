# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings: what is wrong with a stream or with its capture.  The rules are one table of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
    Rule("illegal_value", ERROR, "libxc: Fields", "a field holds what the protocol does not allow"),
    Rule("wrong_guest", ERROR, "libxc: Layout", "a record that guests of this type do not have"),
    Rule("wrong_version", ERROR, "libxc: Compatibility with older versions",
         "a record that this version of the libxc stream does not have"),
    Rule("deprecated_record", ERROR, "libxc: TOOLSTACK (deprecated)", "a record that no Xen reads"),
    Rule("record_order", ERROR, "libxc: Layout",
         "a record comes without another that it depends on, or too late"),
    Rule("repeated_record", ERROR, "libxc: Layout", "a record comes again that comes once"),
    Rule("no_end", ERROR, "libxl: END", "the stream stops without its END record"),
    Rule("after_end", ERROR, "libxl: END", "octets follow the end of the stream"),
    Rule("wrong_direction", ERROR, "libxc: Records",
         "a record comes from the side that never sends it"),
    Rule("truncated", NOTE, "capture", "a stream ends inside a record"),
    Rule("reserved_not_zero", WARNING, "libxc: Fields", "reserved bits or fields are not zero"),
    Rule("padding_not_zero", WARNING, "libxc: Records", "the padding of a record is not zero"),
    Rule("optional_record", NOTE, "libxc: Records",
         "an optional record that this description does not know; it is skipped"),
    Rule("lost_place", ERROR, "libxc: Records",
         "no record of the protocol stands where one must; what follows in this direction is not "
         "read up to the next landmark"),
    Rule("shifted_dirty_list", WARNING, "libxc: CHECKPOINT_DIRTY_PFN_LIST",
         "Xen 4.18 or later (commit efe8de1f91) writes 8 octets too many in front of the dirty "
         "PFNs; the reader takes them for PFN 0 and the last PFN for the next record"),
    Rule("one_pfn_lists", WARNING, "libxc: CHECKPOINT_DIRTY_PFN_LIST",
         "every dirty list of the connection is the one PFN 0: Xen on AMD asks for the dirty pages "
         "before it knows how many there are; the primary never merges what the secondary dirtied"),
    Rule("empty_record", NOTE, "libxc: Errata", "a record without content, as Xen 4.6 to 4.8 may write "
         "it; readers skip it"),
    # the capture
    Rule("hole", WARNING, "capture", "octets of the stream are missing from the capture"),
    Rule("lost_in_hole", WARNING, "capture", "the octets that tell which record stands here are "
         "missing from the capture; what follows in this direction is not read up to the next "
         "landmark"),
    Rule("found_place", NOTE, "capture", "reading begins, or goes on, at a landmark inside the "
         "stream; what lies before it, back to the lost place or to the start of the capture, is "
         "not read"),
    Rule("hole_given_up", WARNING, "capture", "so much waits behind a hole that it is given up, "
         "although it might still be filled"),
    Rule("clock_back", NOTE, "capture", "the capture's clock steps back"),
    Rule("missed_files", WARNING, "capture", "files of a ring were gone before they could be read; larger ones, or "
         "more, help"),
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
    Rule("more_findings", NOTE, "capture", "a rule is broken so often in a connection that only the "
         "first breaches are listed"),
    Rule("too_many_connections", WARNING, "capture", "more connections than are followed at once; "
         "connections were left that might carry a stream"),
    Rule("unacknowledged", NOTE, "capture", "more records than are remembered wait for an ACK (a "
         "capture of one direction?); when they were acknowledged is not known"),
    Rule("stale_segments", NOTE, "capture", "segments whose sequence numbers are far outside the "
         "stream (of an earlier connection?)"),
    Rule("proxy_unknown_message", WARNING, "colo-proxy", "a message on the colo-proxy's control connection that "
         "the other end does not know"),
    Rule("proxy_lost_place", WARNING, "colo-proxy", "octets on the colo-proxy's control connection that are no "
         "message; they are passed over up to the next known one"),
    Rule("phases_out_of_order", WARNING, "analysis", "boundaries of a checkpoint's phases passed "
         "the capture point out of order"),
)}


PER_RULE = 1000
"""Findings of one rule and connection that are kept; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A breach of a rule.  `frame` counts over all files; 0, -1 and "" mean: not of one place."""

    rule: str
    text: str
    connection: int = -1
    direction: str = ""
    frame: int = 0
    stream_offset: int | None = None
    of: str = ""
    """Section of the specification, where that is a closer one than the rule's."""

    @property
    def severity(self) -> str:
        return RULES[self.rule].severity

    @property
    def section(self) -> str:
        return self.of or RULES[self.rule].section

    @property
    def violation(self) -> bool:
        """Whether a host breached the protocol; else it is about the capture, or worth knowing."""
        rule = RULES[self.rule]
        return rule.severity != NOTE and rule.section not in ("capture", "analysis", "colo-proxy")


class Findings(list[Finding]):
    """Findings of a capture, the first `PER_RULE` of each rule and connection."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[tuple[str, int]] = Counter()

    def add(self, found: Iterable[Finding]) -> None:
        """Take these, or count them."""
        for finding in found:
            key = finding.rule, finding.connection
            self._counts[key] += 1
            if self._counts[key] <= PER_RULE:
                self.append(finding)

    def say_what_was_left_out(self) -> None:
        """A finding for each rule that was broken more often than is listed."""
        for (rule, connection), count in self._counts.items():
            if count > PER_RULE:
                self.append(Finding("more_findings", f"{count - PER_RULE} more findings of the rule "
                                    f"{rule} are not listed", connection))
