"""Slots that a killed run left open: what to do with each, decided from facts. Pure.

It never does what ``redis-cli --cluster fix`` does to slots without an owner or with dead nodes: those may hold data.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.nodes import moving
from credscale.redis_cluster.cluster.slots import contains, numbers, ranges_of_slots, subtract

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look


class Way(StrEnum):
    """What to do with an open slot."""

    FINISH = "finish"  # move the rest of its keys and hand it over
    CLOSE = "close"  # no key is on its way: end the states
    LEAVE = "leave"  # a person has to look


@dataclass(frozen=True)
class SlotFacts:
    """All that is known of a slot; nodes by their ids.

    Args:
        slot: its number.
        owner: who owns it; empty for nobody.
        migrating: primaries that say that it leaves them, and for whom.
        importing: primaries that say that it comes to them, and from whom.
        keys: how many keys of it each primary holds; those that do not answer are missing.
        heirs: who is now the primary of a node that was one; for answering ones.
        databases: primaries that hold keys in other databases than 0, of whatever slots.
    """

    slot: int
    owner: str
    migrating: Mapping[str, str] = field(default_factory=dict)
    importing: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    heirs: Mapping[str, str] = field(default_factory=dict)
    databases: Collection[str] = ()

    @property
    def open_on(self) -> tuple[str, ...]:
        """The primaries on which it is open."""
        return tuple(sorted({*self.migrating, *self.importing}))


@dataclass(frozen=True)
class Repair:
    """The decision about a slot.

    Args:
        slot: its number.
        way: what to do.
        source: for FINISH, the owner.
        target: for FINISH, who gets it.
        nodes: for CLOSE, where.
        why: for LEAVE.
    """

    slot: int
    way: Way
    source: str = ""
    target: str = ""
    nodes: tuple[str, ...] = ()
    why: str = ""


def decide(facts: SlotFacts) -> Repair:
    """Return what to do with an open slot.

    Invariant: a slot is closed only when no primary but its owner holds keys of it, and finished only towards the one
    primary that holds some or is the declared target; so no key is lost or left where clients do not look.
    """

    def leave(why: str) -> Repair:
        return Repair(facts.slot, Way.LEAVE, why=why)

    owner = facts.owner
    if not owner:
        return leave("no node owns it; bring its owner back, because giving it away empty would lose its keys")
    if owner not in facts.keys:
        return leave("its owner does not answer; start it, or fail over to its replica")
    if {owner, *facts.open_on} & set(facts.databases):
        return leave(
            "one of its nodes holds keys in other databases than 0, where nobody sees what belongs to this slot and "
            "MIGRATE does not reach; move those keys to database 0"
        )
    planned = facts.migrating.get(owner, "")
    if planned not in facts.keys:
        planned = facts.heirs.get(planned, planned)
    holders = [node for node, number in sorted(facts.keys.items()) if number and node != owner]
    if len(holders) > 1:
        return leave("more than one primary that does not own it holds keys of it; compare them by hand")
    if not holders and planned and planned not in facts.keys:
        return leave("the node that it leaves for does not answer and may hold keys of it; start that node")
    target = holders[0] if holders else planned
    if not target or target == owner:
        return Repair(facts.slot, Way.CLOSE, nodes=facts.open_on)
    if target not in (planned, *facts.importing):
        return leave("a primary that has no part in the move holds keys of it; compare them by hand")
    return Repair(facts.slot, Way.FINISH, source=owner, target=target)


def open_slots(topology: Iterable[Node]) -> tuple[int, ...]:
    """Return the slots that are open on any primary."""
    return tuple(sorted({each.slot for node in moving(topology) for each in node.open_slots}))


def owners_seen(found: Look, slot: int) -> frozenset[str]:
    """Return who owns a slot in the eyes of the nodes to which it is not coming; "" for nobody.

    A node never learns of a new owner of a slot that comes to it: after a failover of the source it names the old one,
    and once that has come back as a replica nobody, and then refuses its own slots as well (seen with 7.0).
    """
    return frozenset(
        next((node.id for node in viewer.view if contains(node.slots, slot)), "")
        for viewer in found.answering
        if slot not in _coming(viewer.me)
    )


def _coming(node: Node | None) -> frozenset[int]:
    return frozenset(each.slot for each in (node.open_slots if node else ()) if each.direction == "importing")


def agreed(found: Look) -> bool:
    """Tell whether the nodes see the same owners and roles, but for the slots that come to the viewer itself.

    A primary that comes back as a replica is a primary to the others until it has said so: for a moment it would seem
    to be one more that holds keys of slots it does not own.
    """
    coming = ranges_of_slots({slot for viewer in found.answering for slot in _coming(viewer.me)})
    views = {
        frozenset((node.id, subtract(node.slots, coming)) for node in viewer.view if subtract(node.slots, coming))
        for viewer in found.answering
    }
    itself = {viewer.id: viewer.me.role for viewer in found.answering if viewer.me is not None}
    roles = all(node.role == itself.get(node.id, node.role) for viewer in found.answering for node in viewer.view)
    return roles and len(views) <= 1 and all(len(owners_seen(found, slot)) <= 1 for slot in numbers(coming))


def misled(found: Look) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return the slots whose new owner a node to which they are coming does not know, by the ids of both.

    Args:
        found: a look in which the nodes are ``agreed``.
    """
    slots: dict[tuple[str, str], list[int]] = defaultdict(list)
    for viewer in found.answering:
        for slot in sorted(_coming(viewer.me)):
            owner = next(iter(owners_seen(found, slot)), "")
            known = next((node.id for node in viewer.view if contains(node.slots, slot)), "")
            if viewer.me is not None and viewer.me.is_primary and owner not in ("", known, viewer.id):
                slots[viewer.id, owner].append(slot)
    return {ends: tuple(each) for ends, each in slots.items()}


def slot_facts(
    topology: Sequence[Node],
    keys: Mapping[int, Mapping[str, int]],
    owners: Mapping[int, str],
    databases: Collection[str] = (),
) -> tuple[SlotFacts, ...]:
    """Return the facts about every open slot.

    Args:
        topology: every node, each with its own open slots.
        keys: by slot, how many keys of it each answering primary holds.
        owners: by slot, who owns it; empty for nobody.
        databases: as for ``SlotFacts``.
    """
    heirs = {node.id: node.primary_id for node in topology if node.is_replica and node.primary_id}
    states: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for node in moving(topology):
        for each in node.open_slots:
            states[each.direction, each.slot][node.id] = each.peer
    return tuple(
        SlotFacts(
            slot,
            owners[slot],
            states["migrating", slot],
            states["importing", slot],
            keys[slot],
            heirs,
            databases,
        )
        for slot in open_slots(topology)
    )
