"""Slots that a killed run left open: what to do with each, decided from facts. Pure.

It never does what ``redis-cli --cluster fix`` does to slots without an owner or with dead nodes: those may hold data.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.nodes import moving
from credscale.redis_cluster.cluster.slots import contains

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from credscale.redis_cluster.cluster.nodes import Node


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
    """

    slot: int
    owner: str
    migrating: Mapping[str, str] = field(default_factory=dict)
    importing: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    heirs: Mapping[str, str] = field(default_factory=dict)

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
        certain: for FINISH, whether both ends know of the move, so that of a key on both the owner's counts: the target
            serves only keys that the owner lacks.
        nodes: for CLOSE, where.
        why: for LEAVE.
    """

    slot: int
    way: Way
    source: str = ""
    target: str = ""
    certain: bool = False
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
    certain = facts.migrating.get(owner) == target and facts.importing.get(target) == owner
    return Repair(facts.slot, Way.FINISH, source=owner, target=target, certain=certain)


def open_slots(topology: Iterable[Node]) -> tuple[int, ...]:
    """Return the slots that are open on any primary."""
    return tuple(sorted({each.slot for node in moving(topology) for each in node.open_slots}))


def slot_facts(topology: Sequence[Node], keys: Mapping[int, Mapping[str, int]]) -> tuple[SlotFacts, ...]:
    """Return the facts about every open slot.

    Args:
        topology: every node, each with its own open slots.
        keys: by slot, how many keys of it each answering primary holds.
    """
    heirs = {node.id: node.primary_id for node in topology if node.is_replica and node.primary_id}
    states: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for node in moving(topology):
        for each in node.open_slots:
            states[each.direction, each.slot][node.id] = each.peer
    return tuple(
        SlotFacts(
            slot,
            next((node.id for node in topology if contains(node.slots, slot)), ""),
            states["migrating", slot],
            states["importing", slot],
            keys[slot],
            heirs,
        )
        for slot in open_slots(topology)
    )
