"""Which node is broken, what is expected, and what is put back in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, Refused
from credscale.core.sections import Lab, Policy
from credscale.redis_cluster.drill import plan
from credscale.redis_cluster.drill.plan import FAULTS, Move, NodeState
from tests.redis_cluster.fakes import look_of, topology

KILL, FREEZE, BRIEF, REPLICA = (FAULTS[name] for name in ("kill", "freeze", "freeze-briefly", "kill-replica"))
NODES = topology()
FOUND = look_of(NODES)


def environment(name: str, *, lab: bool = False, drills: bool = False) -> Environment:
    return Environment(name=name, lab=Lab() if lab else None, policy=Policy(allow_drills=drills), path=Path("x.yaml"))


@pytest.mark.parametrize(
    "allowed",
    [environment("lab"), environment("staging"), environment("staging-eu"), environment("lab-2"),
     environment("here", lab=True), environment("prod", drills=True)],
)  # fmt: skip
def test_allowed(allowed: Environment) -> None:
    plan.refuse_unless_allowed(allowed)


@pytest.mark.parametrize("name", ["prod", "labour", "stagingprod", "prod-staging", "my-lab"])
def test_refused(name: str) -> None:
    with pytest.raises(Refused, match=r"Nothing was changed.*allow_drills"):
        plan.refuse_unless_allowed(environment(name))


def test_unknown_fault_names_the_known_ones() -> None:
    with pytest.raises(EnvironmentInvalid, match="kill, freeze, freeze-briefly, partition, kill-replica"):
        plan.fault_named("nuke")
    assert plan.fault_named("freeze") == FREEZE


def test_first_primary_or_the_one_that_is_named() -> None:
    first, named = plan.choose(FOUND, KILL, ""), plan.choose(FOUND, KILL, NODES[1].address)
    assert (first.node.id, named.node.id) == (NODES[0].id, NODES[1].id)
    assert [view.id for view in named.replicas] == [NODES[4].id]
    assert named.slots == NODES[1].slots
    victim = plan.choose(FOUND, REPLICA, NODES[1].address)
    assert (victim.node.id, victim.primary, victim.replicas) == (NODES[4].id, NODES[1].address, ())


def test_replica_is_no_primary() -> None:
    with pytest.raises(EnvironmentInvalid, match=f"They are: {NODES[0].address}"):
        plan.choose(FOUND, KILL, NODES[3].address)


def test_every_shard_needs_a_replica_that_may_take_over() -> None:
    with pytest.raises(PreconditionFailed, match=f"{NODES[2].address} has none"):
        plan.choose(look_of(NODES[:5]), KILL, "")
    lame = [*NODES[:3], replace(NODES[3], flags=("slave", "nofailover")), *NODES[4:]]
    with pytest.raises(PreconditionFailed, match=f"{NODES[0].address} has none that may"):
        plan.choose(look_of(lame), FREEZE, NODES[1].address)
    with pytest.raises(PreconditionFailed, match="majority"):
        plan.choose(look_of(topology(2)), KILL, "")


def test_killing_wants_an_append_only_file() -> None:
    bare = look_of(NODES, {0: {"info": {"aof_enabled": 0}}}).nodes[0]
    with pytest.raises(PreconditionFailed, match=r"no append-only file.*--fault freeze"):
        plan.refuse_loss(bare, KILL)
    plan.refuse_loss(bare, FREEZE)
    plan.refuse_loss(bare, REPLICA)
    plan.refuse_loss(FOUND.nodes[0], KILL)


def test_node_timeout() -> None:
    assert plan.node_timeout(FOUND.nodes[0]) == 5.0
    with pytest.raises(PreconditionFailed, match="CONFIG GET"):
        plan.node_timeout(replace(FOUND.nodes[0], settings={}))


def test_outage_by_the_rule_of_thumb() -> None:
    expected = plan.expect(KILL, 5.0, 0.0)
    assert (expected.fails_over, expected.least, expected.most) == (True, 6.4, 8.8)
    assert expected.deadline > expected.most
    assert "6.4 to 8.8 s" in expected.sentence
    assert plan.expect(BRIEF, 5.0, 0.0).hold == 2.5
    assert plan.expect(REPLICA, 5.0, 0.0).hold > 5.0
    assert "goes on serving" in plan.expect(REPLICA, 5.0, 0.0).sentence


def test_hold_that_makes_another_fault_of_it() -> None:
    with pytest.raises(EnvironmentInvalid, match="cluster-node-timeout"):
        plan.expect(BRIEF, 5.0, 5.0)
    with pytest.raises(EnvironmentInvalid, match="--hold"):
        plan.expect(KILL, 5.0, -1.0)


STATES = st.lists(
    st.builds(
        NodeState, st.integers(7000, 7005).map(lambda port: f"10.0.0.1:{port}"), st.sampled_from([True, False, None]),
        st.sampled_from([(), (12,)]), st.booleans(),
    ),
    unique_by=lambda node: node.address,
)  # fmt: skip


def after(nodes: tuple[NodeState, ...], move: Move) -> tuple[NodeState, ...]:
    """Return the states after one move."""
    changes: dict[str, dict[str, object]] = {"join": {"cut": False}, "resume": {"frozen": ()}, "start": {"runs": True}}
    return tuple(
        replace(node, **changes[move.kind]) if node.address == move.address else node  # type: ignore[arg-type]
        for node in nodes
    )


@given(STATES, st.data())
def test_interrupted_after_any_move_the_next_run_does_the_rest(found: list[NodeState], data: st.DataObject) -> None:
    """Each move is made once over both runs, and none is left in the end."""
    nodes = tuple(found)
    moves = plan.restorations(nodes)
    stop = data.draw(st.integers(0, len(moves)))
    for move in moves[:stop]:
        nodes = after(nodes, move)
    rest = plan.restorations(nodes)
    assert rest == moves[stop:]
    for move in rest:
        nodes = after(nodes, move)
    assert plan.restorations(nodes) == ()
    assert all(node.runs is not False and not node.frozen and not node.cut for node in nodes)


def test_node_of_an_unreachable_machine_is_left_alone() -> None:
    assert plan.restorations([NodeState("10.0.0.1:7000", runs=None)]) == ()


@pytest.mark.parametrize(("how", "kind"), [("kill", "start"), ("freeze", "resume"), ("partition", "join")])
def test_planned_fault_plans_its_restoration(how: plan.How, kind: str) -> None:
    nodes = [NodeState("10.0.0.1:7000", runs=True), NodeState("10.0.0.1:7001", runs=True)]
    broken = plan.as_broken(nodes, "10.0.0.1:7001", how)
    assert [(move.kind, move.address) for move in plan.restorations(broken)] == [(kind, "10.0.0.1:7001")]
    assert plan.as_broken(nodes, "10.0.0.9:7001", how) == tuple(nodes)
