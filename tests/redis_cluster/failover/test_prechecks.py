"""Everything that speaks against a failover is named, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from credscale.redis_cluster.cluster.nodes import Node, OpenSlot
from credscale.redis_cluster.cluster.views import Look
from credscale.redis_cluster.failover.confirmation import before, unconfirmed
from credscale.redis_cluster.failover.forcing import why_not_forced
from credscale.redis_cluster.failover.prechecks import after, lasting, majority_on_a_host, why_not
from tests.redis_cluster.fakes import look_of, node_id, topology

PRIMARY, REPLICA = 0, 3
DOWN = {"master_link_status": "down"}


def rules(found: Look, **more: Any) -> set[str]:
    return {reason.rule for reason in why_not(found, node_id(REPLICA), **more)}


def test_nothing_speaks_against_a_healthy_pair() -> None:
    assert rules(look_of(topology()), primary_id=node_id(PRIMARY)) == set()


@pytest.mark.parametrize(
    ("number", "info", "rule", "passes"),
    [
        (REPLICA, DOWN, "link", False),
        (REPLICA, {"master_sync_in_progress": 1}, "sync", True),
        (REPLICA, {"master_last_io_seconds_ago": 40}, "quiet", False),
        (REPLICA, {"slave_repl_offset": 1000 - 2}, None, True),
        (REPLICA, {"slave_repl_offset": 1000 - (2 << 20)}, "lag", True),
        (REPLICA, {"role": "master"}, "known-as-replica", True),
        (REPLICA, {"maxmemory": 1}, "maxmemory", False),
        (REPLICA, {"aof_enabled": 0}, "persistence", False),
        (PRIMARY, {"aof_rewrite_in_progress": 1}, "busy", True),
        (PRIMARY, {"rdb_bgsave_in_progress": 1}, "busy", True),
        (REPLICA, {"loading": 1}, "busy", True),
        (PRIMARY, {"paused_reason": "client_pause"}, "paused", True),
        (PRIMARY, {"master_failover_state": "waiting-for-sync"}, "paused", True),
        (4, DOWN, None, True),  # another shard's replica is no concern of this one
        (4, {"rdb_bgsave_in_progress": 1}, None, True),
    ],
)  # fmt: skip
def test_what_the_two_nodes_say(number: int, info: dict[str, Any], rule: str | None, passes: bool) -> None:
    found = look_of(topology(), {number: {"info": info}})
    reasons = why_not(found, node_id(REPLICA))
    assert [reason.rule for reason in reasons] == ([rule] if rule else [])
    assert (lasting(reasons) == ()) is passes


def test_other_persistence_by_save_lines() -> None:
    settings = {"cluster-node-timeout": "5000", "save": "3600 1"}
    assert rules(look_of(topology(), {REPLICA: {"settings": settings}})) == {"persistence"}


def test_wrong_roles() -> None:
    found = look_of(topology())
    (primary,) = why_not(found, node_id(PRIMARY))
    assert "it is a primary" in primary.what
    (unknown,) = why_not(found, node_id(77))
    assert "not in the cluster" in unknown.what
    (other,) = why_not(found, node_id(4), primary_id=node_id(PRIMARY))
    assert "which is meant" in other.what


def test_nodes_that_do_not_answer() -> None:
    dead = look_of(topology(), {PRIMARY: {"error": "no answer within 1.0 s", "id": ""}})
    assert rules(dead) == {"answer"}
    assert "no answer within 1.0 s" in why_not(dead, node_id(REPLICA))[0].what
    assert rules(look_of(topology(), {REPLICA: {"error": "gone", "id": ""}})) == {"answer"}
    assert rules(look_of(topology(), {1: {"error": "gone", "id": ""}})) == set()  # two of three still vote
    two = {number: {"error": "gone", "id": ""} for number in (1, 2)}
    assert rules(look_of(topology(), two)) == {"known-as-replica"}


def seen_otherwise(nodes: tuple[Node, ...], viewers: tuple[int, ...], number: int, **changes: Any) -> Look:
    """Return a look in which some nodes see one node otherwise."""
    found = look_of(nodes)
    views = [
        replace(
            view,
            view=tuple(replace(node, **changes) if node.id == node_id(number) else node for node in view.view),
        )
        if at in viewers
        else view
        for at, view in enumerate(found.nodes)
    ]
    return Look(tuple(views))


def test_views_of_others() -> None:
    nodes = topology()
    assert rules(seen_otherwise(nodes, (4,), PRIMARY, flags=("master", "fail?"))) == {"flags"}
    elsewhere = {"primary_id": node_id(1)}
    assert rules(seen_otherwise(nodes, (1, 2), REPLICA, **elsewhere)) == {"known-as-replica"}
    assert rules(seen_otherwise(nodes, (2, 4, 5), REPLICA, **elsewhere)) == set()  # one of three primaries
    down = replace(look_of(nodes).nodes[1].cluster, state="fail")  # type: ignore[type-var]
    assert rules(look_of(nodes, {1: {"cluster": down}})) == {"state"}


def test_open_slots_of_the_shard() -> None:
    for owner, peer, rule in ((PRIMARY, 1, True), (1, PRIMARY, True), (1, 2, False)):
        opened = (OpenSlot(7, "migrating", node_id(peer)),)
        nodes = tuple(
            replace(node, open_slots=opened) if node.id == node_id(owner) else node for node in topology()
        )  # fmt: skip
        assert rules(look_of(nodes)) == ({"open-slot"} if rule else set())


def test_a_host_with_a_majority() -> None:
    nodes = tuple(
        replace(node, host=f"h{number % 3 if number < 3 else (number + 1) % 3}")
        for number, node in enumerate(topology())
    )
    assert rules(look_of(nodes)) == {"host-majority"}
    assert rules(look_of(nodes), accept_majority=True) == set()
    (reason,) = majority_on_a_host(nodes, ((node_id(0), node_id(3)),))
    assert (reason.where, "2 of 3 primaries" in reason.what) == ("h1", True)
    assert majority_on_a_host(nodes, ((node_id(0), node_id(3)), (node_id(3), node_id(0)))) == ()
    everyone = tuple((node_id(number), node_id(number + 3)) for number in range(3))
    assert majority_on_a_host(nodes, everyone) == ()
    one_host = topology(3, 1, 1)
    assert majority_on_a_host(one_host, ((node_id(0), node_id(3)),)) == ()


def failed_over() -> tuple[Look, Any]:
    nodes = topology(3, 2)
    was = before(look_of(nodes), node_id(0), node_id(3))
    later = after(nodes, ((node_id(0), node_id(3)),))
    found = look_of(later)
    epochs = [replace(view.cluster, current_epoch=4) for view in found.nodes]  # type: ignore[type-var]
    return look_of(later, {number: {"cluster": each} for number, each in enumerate(epochs)}), was


def test_a_failover_is_confirmed_by_every_node() -> None:
    found, was = failed_over()
    assert was.replicas == (node_id(6),)
    assert unconfirmed(found, was) == ()
    old = look_of(topology(3, 2))
    assert {reason.rule for reason in unconfirmed(old, was)} == {"agreement", "epoch", "role", "follows", "attached"}


@pytest.mark.parametrize(
    ("number", "change", "rule"),
    [
        (0, {"info": DOWN}, "follows"),
        (6, {"info": {"master_sync_in_progress": 1}}, "follows"),
        (6, {"error": "gone"}, "follows"),
        (3, {"role": None}, "role"),
        (3, {"info": {"slave0": {"ip": "x", "port": 1, "state": "wait_bgsave", "offset": 1}}}, "attached"),
    ],
)
def test_what_a_failover_still_lacks(number: int, change: dict[str, Any], rule: str) -> None:
    _, was = failed_over()
    later = after(topology(3, 2), ((node_id(0), node_id(3)),))
    ok = look_of(later)
    changes: dict[int, dict[str, Any]] = {
        at: {"cluster": replace(view.cluster, current_epoch=4)}  # type: ignore[type-var]
        for at, view in enumerate(ok.nodes)
    }
    changes[number] |= change
    assert rule in {reason.rule for reason in unconfirmed(look_of(later, changes), was)}


def force_rules(found: Look, mode: str) -> set[str]:
    return {reason.rule for reason in why_not_forced(found, node_id(REPLICA), mode)}


def without(*dead: int, flag: str = "fail", nodes: tuple[Node, ...] | None = None) -> Look:
    """Return a look in which some nodes do not answer, and the others flag them."""
    flagged = tuple(
        replace(node, flags=(*node.flags, flag)) if flag and number in dead else node
        for number, node in enumerate(nodes or topology())
    )
    return look_of(flagged, {number: {"error": "gone", "id": ""} for number in dead})


def test_force_is_for_a_dead_primary_and_a_living_majority() -> None:
    assert force_rules(look_of(topology()), "force") == {"alive"}
    assert force_rules(without(PRIMARY, flag=""), "force") == {"alive"}  # only we are cut off from it
    assert force_rules(without(PRIMARY), "force") == set()
    assert force_rules(without(PRIMARY, 1), "force") == {"majority"}
    assert force_rules(without(PRIMARY, REPLICA), "force") == {"answer"}
    assert {reason.rule for reason in why_not_forced(look_of(topology()), node_id(1), "force")} == {"role"}


def test_takeover_is_for_the_loss_of_the_majority() -> None:
    assert force_rules(look_of(topology()), "takeover") == {"alive", "majority"}
    assert force_rules(without(PRIMARY), "takeover") == {"majority"}
    assert force_rules(without(PRIMARY, 1, flag="fail?"), "takeover") == set()
    assert force_rules(without(PRIMARY, 1, flag=""), "takeover") == {"alive"}


def test_force_is_not_for_a_replica_that_is_behind_another() -> None:
    nodes = topology(3, 2)
    dead = tuple(replace(node, flags=(*node.flags, "fail")) if number == PRIMARY else node
                 for number, node in enumerate(nodes))  # fmt: skip
    offsets = {PRIMARY: {"error": "gone", "id": ""}, REPLICA: {"info": {"slave_repl_offset": 900}}}
    found = look_of(dead, offsets | {REPLICA + 3: {"info": {"slave_repl_offset": 1000}}})
    (reason,) = why_not_forced(found, node_id(REPLICA), "force")
    assert (reason.rule, reason.where) == ("behind", nodes[REPLICA].address)
    assert reason.what.startswith(f"{nodes[REPLICA + 3].address} has 100 bytes more")
    assert why_not_forced(found, node_id(REPLICA + 3), "force") == ()
