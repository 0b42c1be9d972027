"""Whatever is interrupted where: planning again does the rest, and the roles end as they should."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from credscale.redis_cluster.cluster.nodes import Node, by_id, primaries
from credscale.redis_cluster.cluster.slots import ALL, union
from credscale.redis_cluster.failover.plan import (
    Move,
    best_heir,
    choose_heirs,
    hosts_of,
    node_at,
    plan_failovers,
    primaries_on,
)
from credscale.redis_cluster.failover.prechecks import after
from tests.redis_cluster.fakes import look_of, node_id, topology

Topology = tuple[Node, ...]


def carry_out(nodes: Topology, move: Move) -> Topology:
    """Do what the servers do, and insist on what they insist on."""
    known = by_id(nodes)
    assert known[move.primary].is_primary
    assert known[move.replica].primary_id == move.primary
    done = after(nodes, ((move.primary, move.replica),))
    assert union(*(node.slots for node in done)) == ALL
    return done


@given(
    primaries_=st.integers(3, 6), replicas=st.integers(1, 3), hosts=st.integers(0, 4), back=st.booleans(),
    some=st.integers(1, 6), kills=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12),
)  # fmt: skip
def test_killed_anywhere_and_planned_again(
    primaries_: int, replicas: int, hosts: int, back: bool, some: int, kills: list[tuple[int, bool]]
) -> None:
    nodes = topology(primaries_, replicas, hosts)
    first = tuple(node.id for node in primaries(nodes))[:some]
    away: set[str] = set()
    moved: list[tuple[str, bool]] = []

    def run(nodes: Topology, changes: int, marks: bool) -> tuple[Topology, bool]:
        """Carry out at most so many moves; ``marks``: whether the kill comes after the mark of the next move back."""
        moves = plan_failovers(nodes, first, choose_heirs(look_of(nodes), first), back=back, away=away)
        for number, move in enumerate(moves):
            if number == changes and not (move.back and marks):
                return nodes, False
            if move.back:
                away.add(move.replica)
            if number == changes:
                return nodes, False
            nodes = carry_out(nodes, move)
            moved.append((move.replica if move.back else move.primary, move.back))
        return nodes, True

    for changes, marks in kills:
        nodes, done = run(nodes, changes, marks)
        if done:
            break
    nodes, done = run(nodes, 1000, marks=False)
    assert done
    assert run(nodes, 1000, marks=False) == (nodes, True)
    assert len(moved) == len(set(moved)) == len(first) * (2 if back else 1)
    known = by_id(nodes)
    assert all(known[node].is_primary == back for node in first)


def test_one_shard_after_the_other() -> None:
    nodes = topology()
    first = tuple(node_id(number) for number in range(3))
    moves = plan_failovers(nodes, first, choose_heirs(look_of(nodes), first), back=True)
    assert [(move.primary, move.replica, move.back) for move in moves] == [
        each
        for number in range(3)
        for each in (
            (node_id(number), node_id(number + 3), False),
            (node_id(number + 3), node_id(number), True),
        )
    ]


def test_what_is_gone_or_has_no_slots_is_left_out() -> None:
    nodes = tuple(replace(node, slots=()) if node.id == node_id(0) else node for node in topology())
    first = (node_id(0), node_id(99), node_id(1))
    moves = plan_failovers(nodes, first, choose_heirs(look_of(nodes), first))
    assert moves == (Move(node_id(1), node_id(4)),)


def test_a_first_primary_that_is_a_replica_only_goes_back() -> None:
    nodes = after(topology(), ((node_id(0), node_id(3)),))
    assert plan_failovers(nodes, (node_id(0),), {}) == ()
    assert plan_failovers(nodes, (node_id(0),), {}, back=True) == (Move(node_id(3), node_id(0), back=True),)


def test_heirs_are_those_without_problems_then_elsewhere_then_least_behind() -> None:
    nodes = topology(3, 2)  # 3 and 6 replicate 0
    offsets = {3: {"info": {"slave_repl_offset": 900}}, 6: {"info": {"slave_repl_offset": 1000}}}
    assert best_heir(look_of(nodes, offsets), node_id(0)) == node_id(6)
    down = {6: {"info": {"slave_repl_offset": 1000, "master_link_status": "down"}}}
    assert best_heir(look_of(nodes, down), node_id(0)) == node_id(3)
    near = tuple(replace(node, host="10.0.0.0") if node.id == node_id(6) else node for node in nodes)
    assert best_heir(look_of(near, offsets), node_id(0)) == node_id(3)
    assert best_heir(look_of(nodes), node_id(0), avoid_host="10.0.0.3") == node_id(6)
    assert best_heir(look_of(topology(3, 0)), node_id(0)) is None


def test_heirs_do_not_gather_on_one_host() -> None:
    """Each alone might go to host b; together they would be a majority there."""
    hosts = {0: "a", 1: "a", 2: "b", 3: "c", 4: "d", 5: "b", 6: "b", 10: "c", 11: "d"}
    nodes = tuple(
        replace(node, host=hosts.get(number, f"x{number}")) for number, node in enumerate(topology(5, 2))
    )  # 5 and 10 replicate 0, 6 and 11 replicate 1
    heirs = choose_heirs(look_of(nodes), (node_id(0), node_id(1)), avoid_host="a")
    taken = [by_id(nodes)[heir].host for heir in heirs.values()]
    assert sorted(["b", *taken]).count("b") <= 2


def test_nodes_and_hosts_are_found_by_any_name() -> None:
    nodes = tuple(replace(node, hostname=f"redis{number}") for number, node in enumerate(topology(3, 1, 3)))
    found = look_of(nodes)
    for name in ("10.0.0.1:7001", "redis1:7001"):
        node = node_at(found, name)
        assert node is not None
        assert node.id == node_id(1)
    assert node_at(found, "10.0.0.1:7000") is None
    assert primaries_on(found, "10.0.0.1") == primaries_on(found, "redis1") == (node_id(1),)
    assert hosts_of(found, nodes[1]) == {"10.0.0.1", "redis1"}
