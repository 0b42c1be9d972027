"""The order of a creation holds wherever it is interrupted, and what must not be touched is named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.redis_cluster.cluster.slots import ALL, SLOTS, count, union
from credscale.redis_cluster.cluster.views import Look
from credscale.redis_cluster.deploy.placing import few_replicas
from credscale.redis_cluster.deploy.plan import (
    ADD_SLOTS,
    KNOCK,
    MEET,
    ORDER,
    REPLICATE,
    SET_EPOCH,
    TELL,
    Wanted,
    host_risks,
    imagine_fresh,
    joined,
    plan_creation,
    problems_of,
)
from tests.redis_cluster.deploy.simulated import Servers, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.redis_cluster.cluster.reasons import Reason

SPREAD = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.3"]


def wanted(servers: Servers, replicas: int = 1, **more: Any) -> Wanted:
    return Wanted(servers.addresses, replicas, **more)


def made(hosts: list[str], replicas: int = 1) -> Servers:
    """Return a complete cluster."""
    servers = Servers(hosts)
    carry_out(servers, plan_creation(servers.look(), wanted(servers, replicas)))
    return servers


def told(problems: tuple[Reason, ...]) -> list[tuple[str, str]]:
    return [(each.where, each.rule) for each in problems]


def problems(change: Callable[[Servers], Any]) -> tuple[Reason, ...]:
    servers = Servers(SPREAD)
    change(servers)
    return problems_of(servers.look(), wanted(servers))


def test_the_moves_of_six_nodes() -> None:
    servers = Servers(SPREAD)
    moves = plan_creation(servers.look(), wanted(servers))
    assert [move.kind for move in moves] == [
        *[SET_EPOCH] * 6, *[ADD_SLOTS] * 3, *[MEET] * 5, *[REPLICATE] * 3, TELL, KNOCK,
    ]  # fmt: skip
    assert sorted(moves, key=lambda move: ORDER.index(move.kind)) == list(moves)
    assert sum(len(move.peers) for move in moves) == 15, "each pair once"
    assert moves[0].text == "set the configuration epoch of 10.0.0.1:7000 to 1"
    assert moves[6].text == "give the slots 0-5460 to 10.0.0.1:7000"
    assert moves[14].text == "make 10.0.0.1:7001 a replica of 10.0.0.2:7002"
    assert problems_of(servers.look(), wanted(servers)) == ()
    assert joined(servers.look())[0].text.startswith("10.0.0.1:7000: it does not know 10.0.0.1:7001")
    carry_out(servers, moves)
    assert plan_creation(servers.look(), wanted(servers)) == ()
    assert joined(servers.look()) == ()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_interrupted_anywhere_it_ends_the_same(data: st.DataObject) -> None:
    """Epochs, slots, single meetings of a group and replicas, killed again and again; gossip goes on or not."""
    hosts = data.draw(st.lists(st.sampled_from(SPREAD), min_size=6, max_size=9))
    expected = made(hosts).result()
    servers = Servers(hosts)
    for _ in range(60):
        look = servers.look()
        assert problems_of(look, wanted(servers, accept_one_host_majority=True)) == ()
        moves = plan_creation(look, wanted(servers))
        if not moves:
            break
        *whole, last = moves[: data.draw(st.integers(1, len(moves)))]
        carry_out(servers, whole)
        if last.kind == MEET:
            servers.make(last, peers=data.draw(st.integers(0, len(last.peers))))
        else:
            carry_out(servers, [last])
        if data.draw(st.booleans()):
            servers.gossip()
    carry_out(servers, plan_creation(servers.look(), wanted(servers)))
    assert servers.result() == expected
    owners = [server for server in servers.all.values() if server.slots]
    assert union(*(server.slots for server in owners)) == ALL
    assert sum(count(server.slots) for server in owners) == SLOTS
    assert len({server.epoch for server in owners}) == len(owners)


def test_the_order_of_the_inventory_does_not_matter() -> None:
    servers = Servers(SPREAD)
    look = servers.look()
    backwards = Wanted(servers.addresses[::-1], 1)
    assert plan_creation(Look(look.nodes[::-1]), backwards) == plan_creation(look, wanted(servers))


def test_an_empty_primary_after_the_meeting_becomes_a_replica() -> None:
    servers = made(SPREAD)
    address = "10.0.0.1:7001"
    expected, servers.all[address].primary = servers.result(), ""
    moves = plan_creation(servers.look(), wanted(servers))
    assert [(move.kind, move.address) for move in moves] == [(REPLICATE, address), (TELL, ""), (KNOCK, "")]
    carry_out(servers, moves)
    assert servers.result() == expected


def test_a_node_too_many_becomes_a_further_replica() -> None:
    servers = made([*SPREAD, "10.0.0.4"])
    assert sum(bool(server.primary) for server in servers.all.values()) == 4


def test_what_a_primary_of_another_tool_has_stays() -> None:
    servers = Servers(SPREAD)
    servers.all["10.0.0.3:7005"].slots = ((100, 9000),)
    carry_out(servers, plan_creation(servers.look(), wanted(servers)))
    assert count(servers.all["10.0.0.3:7005"].slots) >= 8901
    assert plan_creation(servers.look(), wanted(servers)) == ()


def test_views_that_differ_are_told_and_silent_connections_knocked_at() -> None:
    look = made(SPREAD).look()
    first, second, *rest = look.nodes
    quiet = Look((replace(first, links=()), second, *rest))
    assert [move.kind for move in plan_creation(quiet, Wanted(tuple(n.address for n in look.nodes), 1))] == [KNOCK]
    old = tuple(replace(node, flags=("master",), primary_id="") if node.is_replica else node for node in first.view)
    late = Look((replace(first, view=old), second, *rest))
    assert [move.kind for move in plan_creation(late, Wanted(tuple(n.address for n in look.nodes), 1))] == [TELL, KNOCK]


def test_a_node_that_does_not_answer_is_all_that_is_said() -> None:
    servers = Servers(SPREAD)
    first, *rest = servers.look().nodes
    for error, rule, action in [
        ("nothing listens at its port", "answer", "process"),
        ("it refuses our user and password", "answer", "redis.password"),
        ("ERR This instance has cluster support disabled", "mode", "cluster-enabled"),
    ]:
        (found,) = problems_of(Look((replace(first, view=(), error=error), *rest)), wanted(servers))
        assert (found.where, found.rule) == (first.address, rule)
        assert action in found.action


def test_no_cluster_mode() -> None:
    servers = Servers(SPREAD)
    first, *rest = servers.look().nodes
    alone = replace(first, info={**first.info, "cluster_enabled": 0})
    assert told(problems_of(Look((alone, *rest)), wanted(servers))) == [(first.address, "mode")]


def test_the_same_server_twice() -> None:
    servers = Servers(SPREAD)
    *rest, last = servers.look().nodes
    found = problems_of(Look((*rest, replace(rest[0], address=last.address))), wanted(servers))
    assert (last.address, "twice") in told(found)


def test_a_node_that_holds_keys_and_is_alone() -> None:
    def change(servers: Servers) -> None:
        servers.all["10.0.0.2:7003"].keys = 7

    (found,) = problems(change)
    assert (found.where, found.rule) == ("10.0.0.2:7003", "data")
    assert "7 keys" in found.what
    assert "never wiped" in found.what


def test_keys_within_the_cluster_are_well() -> None:
    servers = made(SPREAD)
    for server in servers.all.values():
        server.keys = 100
    assert problems_of(servers.look(), wanted(servers)) == ()
    servers.all["10.0.0.1:7001"].primary = ""
    assert told(problems_of(servers.look(), wanted(servers))) == [("10.0.0.1:7001", "data")]


def test_a_node_of_another_cluster() -> None:
    others = Servers(["10.0.1.1"] * 6, first_id=100)
    carry_out(others, plan_creation(others.look(), wanted(others)))
    look = Look((*Servers(SPREAD).look().nodes[:5], others.look().nodes[0]))
    (found,) = problems_of(look, Wanted(tuple(node.address for node in look.nodes), 1))
    assert (found.where, found.rule) == ("10.0.1.1:7000", "foreign")
    assert "10.0.1.1:7001" in found.what


def test_a_slot_of_two_nodes() -> None:
    def change(servers: Servers) -> None:
        servers.all["10.0.0.1:7000"].slots = ((0, 5460),)
        servers.all["10.0.0.2:7002"].slots = ((5460, 10922),)

    (found,) = problems(change)
    assert (found.where, found.rule) == ("10.0.0.1:7000", "slots")
    assert "the slots 5460, and so does 10.0.0.2:7002" in found.what


@pytest.mark.parametrize(
    ("hosts", "replicas", "text"),
    [(SPREAD[:5], 1, "make 2 primaries"), (SPREAD, 2, "make 2 primaries"), (SPREAD[:2], 0, "make 2 primaries")],
)
def test_too_few_nodes(hosts: list[str], replicas: int, text: str) -> None:
    servers = Servers(hosts)
    (found,) = problems_of(servers.look(), wanted(servers, replicas))
    assert text in found.what


def test_more_primaries_than_wanted_or_fewer_that_own_everything() -> None:
    servers = made(["10.0.0.1", "10.0.0.2", "10.0.0.3"] * 3, replicas=2)
    eight = made(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"] * 2)
    del eight.all[next(each.address for each in eight.all.values() if each.primary)]
    gone = set(made(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"] * 2).addresses) - set(eight.addresses)
    for server in eight.all.values():
        server.others -= gone
    (found,) = problems_of(eight.look(), wanted(eight))
    assert "4 of the nodes are primaries already" in found.what
    (found,) = problems_of(servers.look(), wanted(servers))
    assert "3 primaries own all slots" in found.what
    assert "redis-add-node" in found.action


def test_replicas_that_another_primary_can_spare_are_named() -> None:
    servers = made(SPREAD)
    first, second, third = (each.address for each in servers.all.values() if each.slots)
    spare = [each.address for each in servers.all.values() if each.primary in (first, second)]
    servers.all[spare[0]].primary = servers.all[spare[1]].primary = first
    (found,) = problems_of(servers.look(), wanted(servers))
    assert (found.where, found.what) == (second, "it has 0 replicas, expected at least 1")
    assert found.action == (
        f"let {spare[1]}, which another primary can spare, replicate it: CLUSTER REPLICATE "
        f"{servers.all[second].id} there"
    )
    assert third not in found.text
    assert problems_of(servers.look(), wanted(servers, 0))[0].rule != "replica-count"
    two = few_replicas({("a:1", "A"): [], ("b:1", "B"): [], ("c:1", "C"): ["c:2", "c:3", "c:4"]}, 1)
    assert [each.action.split(",")[0] for each in two] == ["let c:3", "let c:4"], "each is offered once"
    (alone,) = few_replicas({("10.0.0.1:7000", "id"): []}, 1)
    assert alone.action == "add one: invoke redis-add-node --node HOST:PORT --replica-of 10.0.0.1:7000"


def test_names_and_versions_only_matter_to_nodes_that_are_to_meet() -> None:
    def odd(servers: Servers) -> Look:
        first, second, *rest = servers.look().nodes
        newer = replace(second, info={**second.info, "redis_version": "8.2.3"})
        return Look((replace(first, other_ips=("10.0.0.9",)), newer, *rest))

    servers = Servers(SPREAD)
    found = problems_of(odd(servers), wanted(servers))
    assert told(found) == [("10.0.0.1:7000", "name"), ("cluster", "versions")]
    assert "10.0.0.1, 10.0.0.9" in found[0].what
    assert "redis 8 on 10.0.0.1:7001" in found[1].what
    complete = made(SPREAD)
    assert problems_of(odd(complete), wanted(complete)) == ()


def test_one_host_with_the_majority_is_refused_unless_it_is_accepted() -> None:
    servers = Servers(["10.0.0.1"] * 3 + ["10.0.0.2"] * 3)
    assert [each.rule for each in problems_of(servers.look(), wanted(servers))] == ["majority"]
    assert problems_of(servers.look(), wanted(servers, accept_one_host_majority=True)) == ()
    named = Wanted(servers.addresses, 1, dict(zip(servers.addresses, "ABCABC", strict=True)))
    assert problems_of(servers.look(), named) == ()
    local = Servers(["127.0.0.1"] * 3 + ["127.0.0.2"] * 3)
    assert problems_of(local.look(), wanted(local)) == ()
    assert {each.severity for each in host_risks(local.look(), wanted(local))} == {"note"}


def test_nodes_that_are_still_to_be_started_are_planned_as_empty_ones() -> None:
    servers = Servers(SPREAD)
    fresh = servers.look()
    dead = Look(tuple(replace(node, id="", view=(), info={}, error="nothing listens") for node in fresh.nodes))
    assert [each.rule for each in problems_of(dead, wanted(servers))] == ["answer"] * 6
    imagined = imagine_fresh(dead, servers.addresses)
    assert problems_of(imagined, wanted(servers)) == ()
    assert plan_creation(imagined, wanted(servers)) == plan_creation(fresh, wanted(servers))


def test_a_node_with_something_stored_is_not_imagined() -> None:
    servers = made(SPREAD)
    lost, *rest = servers.look().nodes
    found = Look((replace(lost, error="nothing listens"), *rest))
    assert imagine_fresh(found, ()) == found
