# SPDX-License-Identifier: GPL-2.0-or-later
"""The description is complete and consistent in itself, and is the only one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dissector import protocol as p
from dissector.protocol import STATES, STRUCTURES, XEN_COLO

ROOT = Path(__file__).parent.parent
RECORDS = [s for s in STRUCTURES if s.type is not None]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.full_name)
def test_every_structure_says_what_it_is_and_where_from(structure: p.Structure) -> None:
    assert structure.meaning
    assert structure.section
    assert re.match(r"(tools|xen)/\S+: \S+", structure.source)
    assert structure.senders
    for field in structure.fields:
        assert field.meaning or field.bits, field.name
        assert field.type in (*p.WIDTH, p.ARRAY, p.BLOB, p.PAGES, p.TEXT, p.STRINGS)
        if field.reserved:
            assert field.legal == (0,)
        if field.bits:
            assert sum(b.mask for b in field.bits) == (1 << 8 * field.width) - 1, "bits are disjoint"


def test_numbers_and_names_are_unique_in_each_layer() -> None:
    for layer in p.LAYERS:
        mine = [s for s in STRUCTURES if s.layer == layer]
        assert len({s.name for s in mine}) == len(mine)
        assert len(p.RECORDS[layer]) == len([s for s in mine if s.type is not None])
    assert sorted(p.RECORDS[p.LIBXL]) == list(range(6))
    assert sorted(p.RECORDS[p.LIBXC]) == list(range(0x13))


def test_both_names_of_a_sync_point_record_are_there() -> None:
    assert p.CHECKPOINT_STATE.name == "CHECKPOINT_STATE"
    assert p.CHECKPOINT_STATE.aliases == ("COLO_CONTEXT",)


def test_states_lead_to_states_of_their_own_direction() -> None:
    for state in STATES.values():
        for _, target in state.then:
            assert STATES[target].direction == state.direction
        if state.otherwise:
            assert STATES[state.otherwise].direction == state.direction
    reached = {target for s in STATES.values() for _, target in s.then} | {
        s.otherwise for s in STATES.values()} | set(p.START.values())
    assert set(STATES) <= reached


def test_sync_points_follow_each_other() -> None:
    names = {point.short_name for point in XEN_COLO.sync_points}
    assert {name for pair in XEN_COLO.transitions() for name in pair} == names
    assert ("SVM_SUSPENDED", "SVM_RESUMED") in XEN_COLO.transitions(), "the order of 2015 is legal"
    assert ("NEW", "SVM_READY") not in XEN_COLO.transitions()
    assert p.PHASES == ("suspend", "list", "merge", "memory", "cpu", "device", "load", "resume",
                        "lockstep")


def test_the_protocol_is_described_nowhere_else() -> None:
    names = {s.name for s in RECORDS if "_" in s.name} | {s.name for s in XEN_COLO.sync_points}
    names |= {message.text for message in p.PROXY_MESSAGES}
    names -= {"HVM_PARAMS"}
    fields = {f.name for s in STRUCTURES for f in s.fields if "_" in f.name}
    for path in [*(ROOT / "dissector").rglob("*.py"), *(ROOT / "analysis").rglob("*.py"),
                 *(ROOT / "dissector").rglob("*.lua")]:
        if path.name == "protocol.py":
            continue
        code = re.sub(r'"""[\s\S]*?"""|#.*|--.*', "", path.read_text())
        typed = set(re.findall(r'"(\w+)"', code))
        assert not typed & names, f"{path.name} types names of the protocol"
        # control_id is also a column that the tables promise.
        assert not typed & (fields - {"control_id", "page_data"}), path.name
