"""What is done with an open slot, for every state that a killed run or a failover can leave."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.redis_cluster.cluster.nodes import Node, OpenSlot
from credscale.redis_cluster.cluster.slots import subtract
from credscale.redis_cluster.cluster.views import Look, NodeView
from credscale.redis_cluster.resharding.repair import (
    SlotFacts,
    Way,
    agreed,
    decide,
    misled,
    open_slots,
    owners_seen,
    slot_facts,
)
from tests.redis_cluster.fakes import topology

S, T, X = "source", "target", "third"


def facts(
    owner: str = S, *, migrating: dict[str, str] | None = None, importing: dict[str, str] | None = None,
    keys: dict[str, int] | None = None, heirs: dict[str, str] | None = None,
) -> SlotFacts:  # fmt: skip
    held = {S: 0, T: 0, X: 0} if keys is None else keys
    return SlotFacts(7, owner, migrating or {}, importing or {}, held, heirs or {})


BOTH = {"migrating": {S: T}, "importing": {T: S}}


@pytest.mark.parametrize("ours", [0, 5])
@pytest.mark.parametrize("theirs", [0, 3])
def test_move_that_both_know_goes_on(ours: int, theirs: int) -> None:
    found = decide(facts(**BOTH, keys={S: ours, T: theirs, X: 0}))
    assert (found.way, found.source, found.target) == (Way.FINISH, S, T)


def test_only_importing_and_nothing_there_is_closed() -> None:
    found = decide(facts(importing={T: S}, keys={S: 9, T: 0, X: 0}))
    assert (found.way, found.nodes) == (Way.CLOSE, (T,))


def test_only_importing_with_keys_goes_on() -> None:
    """The owner was promoted in mid-move and does not know that the slot was leaving."""
    found = decide(facts(importing={T: "old owner"}, keys={S: 9, T: 1, X: 0}))
    assert (found.way, found.target) == (Way.FINISH, T)


def test_only_migrating_goes_on() -> None:
    found = decide(facts(migrating={S: T}, keys={S: 9, T: 0, X: 0}))
    assert (found.way, found.target) == (Way.FINISH, T)


def test_target_was_replaced_by_its_replica() -> None:
    found = decide(facts(migrating={S: "old target"}, keys={S: 9, T: 4, X: 0}, heirs={"old target": T}))
    assert (found.way, found.target) == (Way.FINISH, T)


def test_handed_over_but_not_told() -> None:
    found = decide(facts(T, migrating={S: T}, keys={S: 0, T: 9, X: 0}))
    assert (found.way, found.nodes) == (Way.CLOSE, (S,))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (facts(""), "no node owns it"),
        (facts("dead", importing={T: "dead"}), "its owner does not answer"),
        (facts(migrating={S: "dead"}, keys={S: 9, T: 0}), "may hold keys of it; start that node"),
        (facts(**BOTH, keys={S: 1, T: 1, X: 1}), "more than one primary"),
        (replace(facts(**BOTH), databases=[T]), "in other databases than 0"),
        (replace(facts(importing={T: S}), databases=[S]), "in other databases than 0"),
        (facts(**BOTH, keys={S: 1, T: 0, X: 1}), "has no part in the move"),
        (facts(T, migrating={S: T}, keys={S: 2, T: 9, X: 0}), "has no part in the move"),
    ],
)
def test_left_for_a_person(state: SlotFacts, why: str) -> None:
    found = decide(state)
    assert found.way is Way.LEAVE
    assert why in found.why


NODES = (S, T, X)
PEERS = st.sampled_from(["", *NODES, "dead"])


@given(
    st.sampled_from(["", *NODES, "dead"]), st.tuples(PEERS, PEERS, PEERS), st.tuples(PEERS, PEERS, PEERS),
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)), st.sets(st.sampled_from(NODES)),
)  # fmt: skip
def test_no_key_is_ever_left_where_nobody_looks(
    owner: str, migrating: tuple[str, ...], importing: tuple[str, ...], keys: tuple[int, ...], silent: set[str]
) -> None:
    def states(peers: tuple[str, ...]) -> dict[str, str]:
        return {node: peer for node, peer in zip(NODES, peers, strict=True) if peer and node not in silent}

    held = {node: number for node, number in zip(NODES, keys, strict=True) if node not in silent}
    found = decide(facts(owner, migrating=states(migrating), importing=states(importing), keys=held))
    elsewhere = {node for node, number in held.items() if number and node != owner}
    if found.way is Way.CLOSE:
        assert not elsewhere
    elif found.way is Way.FINISH:
        assert found.source == owner != found.target
        assert {found.source, found.target} <= set(held)
        assert elsewhere <= {found.target}
    else:
        assert found.why


def test_facts_are_put_together() -> None:
    nodes = list(topology(3, 1))
    nodes[0] = replace(nodes[0], open_slots=(OpenSlot(7, "migrating", nodes[1].id),))
    nodes[1] = replace(nodes[1], open_slots=(OpenSlot(7, "importing", nodes[0].id), OpenSlot(9, "importing", "gone")))
    nodes[3] = replace(
        nodes[3], open_slots=(OpenSlot(11, "migrating", "x"),)
    )  # a replica's are its primary's (Valkey 8)
    assert open_slots(nodes) == (7, 9)
    held = {slot: {node.id: 0 for node in nodes[:3]} for slot in (7, 9)}
    first, second = slot_facts(nodes, held, {7: nodes[0].id, 9: nodes[1].id}, [nodes[2].id])
    assert (first.owner, first.open_on) == (nodes[0].id, tuple(sorted([nodes[0].id, nodes[1].id])))
    assert second.importing == {nodes[1].id: "gone"}
    assert first.databases == [nodes[2].id]
    assert first.heirs == {replica.id: replica.primary_id for replica in nodes[3:]}
    assert {decide(each).way for each in (first, second)} == {Way.FINISH, Way.CLOSE}


def failed_over(owner_in_view: int | None) -> Look:
    """Return a look after the first primary's replica was promoted while a slot went to the second primary."""
    nodes = list(topology(3, 1))
    promoted = nodes[3]
    old = replace(nodes[0], slots=(), flags=("slave",), primary_id=promoted.id)
    new = replace(promoted, slots=nodes[0].slots, flags=("master",), primary_id="")
    now = [old, nodes[1], nodes[2], new, *nodes[4:]]
    slot = nodes[0].slots[0][0]
    theirs = [replace(node, slots=subtract(node.slots, ((slot, slot),))) for node in now]
    if owner_in_view is not None:
        theirs[owner_in_view] = replace(theirs[owner_in_view], slots=((slot, slot),))
    theirs[1] = replace(theirs[1], open_slots=(OpenSlot(slot, "importing", nodes[0].id),))
    views = {node.id: theirs if node is nodes[1] else now for node in nodes}
    return Look(tuple(NodeView(node.address, id=node.id, view=myself(views[node.id], node.id)) for node in nodes))


def myself(view: list[Node], node_id: str) -> tuple[Node, ...]:
    return tuple(replace(node, flags=("myself", *node.flags)) if node.id == node_id else node for node in view)


@pytest.mark.parametrize("owner_in_view", [0, None])
def test_target_that_missed_a_failover_of_the_source(owner_in_view: int | None) -> None:
    found = failed_over(owner_in_view)
    nodes = [node.id for node in found.nodes]
    slot = open_slots(found.topology)[0]
    assert agreed(found)
    assert owners_seen(found, slot) == {nodes[3]}
    assert misled(found) == {(nodes[1], nodes[3]): (slot,)}


def test_others_must_agree_on_a_slot_that_is_coming() -> None:
    found = failed_over(0)
    other = found.nodes[2]
    slot = open_slots(found.topology)[0]
    view = tuple(replace(node, slots=subtract(node.slots, ((slot, slot),))) for node in other.view)
    assert not agreed(Look((*found.nodes[:2], replace(other, view=view), *found.nodes[3:])))
    shifted = tuple(replace(node, slots=()) if node.id == found.nodes[4].id else node for node in other.view)
    assert agreed(Look((*found.nodes[:2], replace(other, view=shifted), *found.nodes[3:])))  # it owned none
    bare = tuple(replace(node, slots=()) for node in other.view)
    assert not agreed(Look((*found.nodes[:2], replace(other, view=bare), *found.nodes[3:])))


def test_every_combination_has_an_answer() -> None:
    for owner, leaving, coming in product(("", S, T), ({}, {S: T}, {S: X}), ({}, {T: S}, {X: S})):
        assert decide(facts(owner, migrating=leaving, importing=coming)).way in Way


def test_one_that_came_back_as_a_replica_is_waited_for_until_the_others_know() -> None:
    found = failed_over(None)
    back = found.nodes[0].id
    rumour = [
        replace(seen, view=tuple(replace(node, flags=("master",)) if node.id == back else node for node in seen.view))
        for seen in found.nodes[1:]
    ]
    assert not agreed(Look((found.nodes[0], *rumour)))
    silent = replace(found.nodes[0], view=(), error="no answer")
    assert agreed(Look((silent, *rumour)))  # what a dead one would say nobody knows
