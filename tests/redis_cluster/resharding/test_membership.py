"""Who may join, whom a replica follows, and what a removal would break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, StepFailed
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.redis_cluster.cluster.nodes import Node, parse_nodes, replicas_of
from credscale.redis_cluster.cluster.views import Look, NodeView
from credscale.redis_cluster.resharding.carrying_out import refuse_full
from credscale.redis_cluster.resharding.ends import find, find_member, members
from credscale.redis_cluster.resharding.joining import choose_primary, newcomer_problems
from credscale.redis_cluster.resharding.leaving import plan_repoint, removal_risks, remove_node
from credscale.redis_cluster.resharding.plan import SlotMove
from tests.redis_cluster.fakes import FakeNodes, look_of, node_id, nodes_text, replies_of, topology

NEW = Node(node_id(99), "10.0.0.99", 7099, 17099, ("master",))


def newcomer(**changes: Any) -> NodeView:
    """Return an empty node alone, with other answers."""
    info = {"db0": {"keys": 0}} | changes.pop("info", {})
    return replace(look_of([NEW], {0: {"info": info}}).nodes[0], **changes)


def test_empty_node_may_join() -> None:
    assert newcomer_problems(look_of(topology()), newcomer()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"error": "nothing listens at its port"}, "nothing listens"),
        ({"info": {"cluster_enabled": 0}}, "does not run in cluster mode"),
        ({"other_ips": ("10.0.0.98",)}, "its name stands for 10.0.0.99, 10.0.0.98"),
        ({"info": {"redis_version": "6.2.14"}}, "it is redis 6.2.14, the others are redis 7.0.15"),
        ({"info": {"valkey_version": "7.2.4"}}, "it is valkey 7.2.4"),
        ({"info": {"db0": {"keys": 1}}}, "it holds 1 keys"),
        (
            {"view": parse_nodes(nodes_text([replace(NEW, flags=("myself", "master"), slots=((0, 5),))]))},
            "it owns slots",
        ),
        (
            {"view": parse_nodes(nodes_text([replace(NEW, flags=("myself", "master")), replace(NEW, id=node_id(50))]))},
            "it belongs to another cluster of 2 nodes",
        ),
        (
            {"view": parse_nodes(nodes_text([replace(NEW, flags=("myself", "master")), topology()[0]]))},
            "it knows nodes of this cluster, which do not know it",
        ),
    ],
)
def test_who_may_not_join(changes: dict[str, Any], words: str) -> None:
    (problem,) = newcomer_problems(look_of(topology()), newcomer(**changes))
    assert words in problem


def test_replica_goes_where_it_is_needed_on_another_host() -> None:
    nodes = [*topology(3, 1, hosts=3)][:5]  # the third primary has no replica
    assert choose_primary(nodes, "10.0.0.9").id == node_id(2)
    assert choose_primary(nodes, nodes[2].host).id == node_id(0)  # that one is on its own host


def test_strangers_of_the_inventory_are_no_members() -> None:
    found = look_of(topology())
    both = Look((*found.nodes, newcomer()))
    assert members(both).nodes == found.nodes
    dead = Look((*found.nodes, newcomer(error="gone", id="")))
    assert len(members(dead).nodes) == 7
    assert members(dead, NEW.address).nodes == found.nodes


def test_nodes_are_found_by_any_of_their_addresses() -> None:
    nodes = topology()
    found = look_of(nodes, {0: {"address": "redis1:7000"}})
    assert find(found, "redis1:7000") == find(found, nodes[0].address) == found.nodes[0]
    assert find_member(found, "redis1:7000") == find_member(found, nodes[0].address)
    assert find(found, "redis9:7000") is find_member(found, "redis9:7000") is None


def test_node_of_another_cluster_is_not_removed() -> None:
    ours = topology()
    theirs = [
        replace(node, id=node_id(50 + number), host=f"10.0.1.{number}", primary_id=node.primary_id and node_id(50))
        for number, node in enumerate(topology())
    ]
    fake = FakeNodes(ours)
    fake.replies |= FakeNodes(theirs).replies
    for node in (theirs[0], theirs[3]):
        ctx = removing(fake, ours)
        with pytest.raises(StepFailed, match=f"{node.address} belongs to another cluster, of 6 nodes") as caught:
            remove_node(ctx, node=node.address)
        assert isinstance(caught.value.__cause__, EnvironmentInvalid)
        assert ctx.changes == 0


def test_owner_of_slots_that_nobody_knows_is_not_removed() -> None:
    ours = topology()
    owner = replace(NEW, slots=((0, 5),))
    fake = FakeNodes(ours)
    fake.replies[owner.address] = (replies_of([*ours, owner], owner), "")
    ctx = removing(fake, ours)
    with pytest.raises(StepFailed, match="what it holds may be the only copy") as caught:
        remove_node(ctx, node=owner.address)
    assert isinstance(caught.value.__cause__, PreconditionFailed)
    assert ctx.changes == 0


def removing(fake: Any, nodes: tuple[Node, ...]) -> Context:
    """Return a run on some of the fake nodes."""
    environment = Environment.model_validate({"name": "unit", "redis": {"nodes": [node.address for node in nodes]}})
    secrets = Secrets()
    return Context(environment, Journal(None, secrets.mask), fake, secrets)


def test_risks_of_a_removal() -> None:
    three = look_of(topology(3, 1))
    assert removal_risks(three, three.topology[3]) == [f"{three.topology[0].address} would be without a replica"]
    assert "2 primaries would be left" in removal_risks(three, three.topology[0])[0]
    four = look_of(topology(4, 2))
    assert removal_risks(four, four.topology[0]) == []
    assert removal_risks(four, four.topology[4]) == []
    nodes = [replace(node, host="10.0.1.1") if number in (1, 2) else node for number, node in enumerate(topology(5, 1))]
    crowded = look_of([replace(node, host="10.0.1.1") if number == 3 else node for number, node in enumerate(nodes)][:])
    assert removal_risks(crowded, crowded.topology[0]) == []  # it had the majority before
    fair = look_of(nodes)
    assert removal_risks(fair, fair.topology[0]) == [
        "10.0.1.1 would hold a majority of the primaries, so that its loss would be the cluster's"
    ]
    empty = look_of((*topology(3, 1), NEW))
    assert removal_risks(empty, empty.topology[6]) == []


def test_drained_primary_that_follows_another_by_itself_is_no_loss() -> None:
    """What a removal that broke off after the drain leaves in a cluster without replicas."""
    drained = replace(NEW, flags=("slave",), primary_id=node_id(0))
    found = look_of((*topology(3, 0), drained))
    assert removal_risks(found, found.topology[3]) == []


@settings(deadline=None)
@given(st.integers(3, 5), st.integers(1, 3), st.integers(0, 4), st.booleans(), st.data())
def test_replicas_of_one_that_leaves(size: int, replicas: int, hosts: int, followed: bool, data: st.DataObject) -> None:
    nodes = topology(size, replicas, hosts)
    leaving = nodes[0]
    theirs = [node.id for node in replicas_of(nodes, leaving.id)]
    taker = nodes[1].id
    changed = [
        replace(node, slots=()) if node.id == leaving.id
        else replace(node, primary_id=taker) if followed and node.id in theirs else node
        for node in nodes
    ]  # fmt: skip
    before = {node.id: len(replicas_of(nodes, node.id)) for node in nodes[1:size]}
    moves = dict(plan_repoint(changed, leaving.id, theirs))
    done = [replace(node, primary_id=moves.get(node.id, node.primary_id)) for node in changed]
    after = {node.id: len(replicas_of(done, node.id)) for node in done[1:size]}
    assert replicas_of(done, leaving.id) == ()
    assert set(moves) <= set(theirs)
    assert all(after[node] >= before[node] for node in before)
    stop = data.draw(st.integers(0, len(moves)))
    half_moves = dict(list(moves.items())[:stop])
    half = [replace(node, primary_id=half_moves.get(node.id, node.primary_id)) for node in changed]
    left = [node.id for node in replicas_of(half, leaving.id)] if not followed else theirs
    assert plan_repoint(half, leaving.id, left) == list(moves.items())[stop:]


def test_full_target_is_refused() -> None:
    nodes = topology(3, 0)
    info = {"used_memory_dataset": 300 << 20}
    found = look_of(nodes, {0: {"info": info}})
    refuse_full(found, [SlotMove(((0, 1000),), nodes[0].id, nodes[1].id)])
    with pytest.raises(Exception, match=r"10.0.0.1:7001 would be full: it uses 100 MB of 400 MB, and about 300 MB"):
        refuse_full(found, [SlotMove(nodes[0].slots, nodes[0].id, nodes[1].id)])
