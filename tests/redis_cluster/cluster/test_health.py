"""The readiness gate and the risks: each condition of a healthy cluster, broken by itself, is named with its node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from credscale.core.phrases import listed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.health import gate, judge
from credscale.redis_cluster.cluster.lag import lag_bytes
from credscale.redis_cluster.cluster.loss import lose_host, losses
from credscale.redis_cluster.cluster.nodes import Node, OpenSlot, parse_nodes
from credscale.redis_cluster.cluster.reasons import Reason, failed, ordered, sentence
from credscale.redis_cluster.cluster.views import Look, NodeView, parse_replies
from tests.redis_cluster.fakes import look_of, node_id, nodes_text, replies_of, topology


def said(found: Look) -> dict[str, tuple[str, str, str]]:
    """Return by rule the severity, the place and the text of its first reason."""
    return {each.rule: (each.severity, each.where, each.what) for each in reversed(judge(found))}


def cluster_info(**values: Any) -> facts.ClusterInfo:
    whole = {"slots_assigned": 16384, "slots_ok": 16384, "slots_pfail": 0, "slots_fail": 0, "known_nodes": 6, "size": 3}
    return facts.ClusterInfo(**({"state": "ok", "current_epoch": 3, "my_epoch": 1} | whole | values))


def test_healthy() -> None:
    found = look_of(topology())
    assert judge(found) == ()
    assert gate(found, nodes=6, replicas=1) == ()


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"cluster": cluster_info(state="fail")}, "state", "cluster_state is fail"),
    ({"cluster": cluster_info(slots_pfail=7)}, "slots", "7 slots are in doubt (pfail)"),
    ({"cluster": cluster_info(known_nodes=5)}, "known-nodes", "it knows 5 nodes, the cluster has 6"),
    ({"info": {"loading": 1}}, "loading", "it is loading its data"),
    ({"info": {"slave0": {"ip": "10.0.0.3", "port": 7003, "state": "wait_bgsave", "offset": 0}}}, "attached",
     "0 of its 1 replicas are online"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "rule", "text"), BROKEN, ids=[rule for _, rule, _ in BROKEN])
def test_broken_primary(change: dict[str, Any], rule: str, text: str) -> None:
    nodes = topology()
    assert said(look_of(nodes, {0: change})) == {rule: ("failed", nodes[0].address, text)}


@pytest.mark.parametrize(
    ("info", "rule", "severity", "text"),
    [
        ({"master_link_status": "down", "master_host": "10.0.0.0", "master_port": 7000,
          "master_link_down_since_seconds": 12}, "replication", "failed", "its link to 10.0.0.0:7000 is down for 12 s"),
        ({"master_sync_in_progress": 1, "master_link_status": "down"}, "sync", "failed",
         "it is taking a full copy from its primary"),
        ({"master_last_io_seconds_ago": 30}, "replication", "warn", "it has heard nothing from its primary for 30 s"),
    ],
)  # fmt: skip
def test_broken_replica(info: dict[str, Any], rule: str, severity: str, text: str) -> None:
    nodes = topology()
    assert said(look_of(nodes, {4: {"info": info}})) == {rule: (severity, nodes[4].address, text)}


def everywhere(change: Any) -> Look:
    """Return a look at a cluster of which all nodes have the changed view."""
    nodes = tuple(change(list(topology())))
    return look_of(nodes)


def test_replica_far_behind() -> None:
    nodes = topology()
    ahead = {0: {"info": {"master_repl_offset": 50 << 20}}, 3: {"info": {"slave_repl_offset": 20 << 20}}}
    found = look_of(nodes, ahead)
    assert said(found) == {"lag": ("warn", nodes[3].address, "it is 30 MB behind its primary")}
    assert lag_bytes(found, found.nodes[3]) == 30 << 20
    assert lag_bytes(found, found.nodes[0]) is None
    silent = look_of(nodes, {0: {"error": "nothing listens at its port"}})
    assert lag_bytes(silent, silent.nodes[3]) is None


def test_slots_without_owner() -> None:
    def lose(nodes: list[Node]) -> list[Node]:
        return [replace(nodes[0], slots=((0, 5000),)), *nodes[1:]]

    assert said(everywhere(lose))["coverage"] == ("failed", "cluster", "460 of 16384 slots have no owner: 5001-5460")


def test_same_epoch() -> None:
    found = everywhere(lambda nodes: [replace(nodes[0], epoch=2), *nodes[1:]])
    severity, _, what = said(found)["epochs"]
    assert (severity, what) == ("failed", "10.0.0.0:7000, 10.0.0.1:7001 share the configuration epoch 2")


def test_flags_are_counted() -> None:
    nodes = topology()
    text = nodes_text(nodes)
    views = []
    for number, node in enumerate(look_of(nodes).nodes):
        own = text.replace(f"{nodes[5].id} 10.0.0.5:7005@17005 slave", f"{nodes[5].id} 10.0.0.5:7005@17005 slave,fail?")
        own = own.replace(f"@{nodes[number].bus_port} ", f"@{nodes[number].bus_port} myself,")
        views.append(replace(node, view=parse_nodes(own)) if number < 2 else node)
    assert said(Look(tuple(views)))["flags"] == ("failed", nodes[5].address, "2 of 6 nodes flag it fail?")


def test_slot_on_its_way_is_a_warning_told_once() -> None:
    slot = OpenSlot(7, "migrating", node_id(1))
    nodes = topology()
    found = look_of(nodes)
    views = [
        replace(view, view=tuple(replace(each, open_slots=(slot,)) if each.is_myself else each for each in view.view))
        if number in (0, 3)  # Valkey 8 and later tell replicas as well
        else view
        for number, view in enumerate(found.nodes)
    ]
    (reason,) = judge(Look(tuple(views)))
    assert (reason.severity, reason.what) == ("warn", "slot 7 leaves for 10.0.0.1:7001")


def test_bus_links() -> None:
    nodes = topology()
    links = tuple(facts.Link(way, node.id) for node in nodes[1:] for way in ("to", "from"))
    lacking = tuple(link for link in links if link != facts.Link("from", nodes[4].id))
    assert said(look_of(nodes, {0: {"links": lacking}})) == {
        "bus": ("failed", nodes[0].address, f"it has no bus connection from {nodes[4].address}")
    }
    assert judge(look_of(nodes, {0: {"links": None}})) == ()  # before 7.0 nobody can tell
    dead = look_of(nodes, {0: {"links": lacking}, 4: {"error": "dead"}})
    assert "bus" not in said(dead)  # that nobody talks to a dead node is no news


def test_expected_size() -> None:
    rules = {each.rule for each in gate(look_of(topology()), nodes=7, replicas=2)}
    assert rules == {"size", "replica-count"}


@pytest.mark.parametrize(
    ("hosts", "rule", "severity"),
    [(1, "one-host", "note"), (3, "anti-affinity", "warn")],
)
def test_places(hosts: int, rule: str, severity: str) -> None:
    assert said(look_of(topology(3, 1, hosts)))[rule][0] == severity


def test_host_with_a_majority_of_primaries() -> None:
    nodes = list(topology(3, 1))
    nodes[1] = replace(nodes[1], host=nodes[0].host)
    severity, where, what = said(look_of(nodes))["majority"]
    assert (severity, where) == ("warn", "10.0.0.0")
    assert what == "it holds 2 of 3 primaries: if it is lost, no replica can be promoted"
    loss = lose_host(nodes, "10.0.0.0")
    assert not loss.quorum
    assert loss.orphaned == ()
    assert not loss.survived


def test_loss_of_each_host() -> None:
    spread = losses(topology(3, 1))
    assert all(loss.survived for loss in spread)
    assert sum(len(loss.promoted) for loss in spread) == 3
    together = losses(topology(3, 1, 3))  # each replica on its primary's host
    assert [loss.orphaned for loss in together] == [(node_id(number),) for number in range(3)]
    assert together[0].row()["slots without owner"] == 5461


def test_replica_that_never_takes_over_is_none() -> None:
    nodes = [replace(node, flags=("slave", "nofailover")) if node.is_replica else node for node in topology()]
    assert lose_host(nodes, nodes[0].host).orphaned == (node_id(0),)
    assert said(look_of(nodes))["nofailover"][0] == "warn"


def test_risks() -> None:
    assert said(look_of(topology(2, 1)))["quorum"][0] == "warn"
    assert said(look_of(topology(3, 0)))["alone"][2].startswith("it has no replica")
    assert said(look_of(topology(), aof_enabled=0))["persistence"][0] == "warn"
    versions = look_of(topology(), {0: {"info": {"redis_version": "6.2.5"}}})
    assert said(versions) == {"versions": ("note", "cluster", "different versions: redis 6.2.5, redis 7.0.15")}
    settings = look_of(topology(), {0: {"settings": {"cluster-node-timeout": "15000"}}})
    assert said(settings)["settings"][2] == "cluster-node-timeout differs between nodes: 15000, 5000"


def test_stranger_and_undeclared() -> None:
    nodes = topology()
    alone = replace(topology(1, 0)[0], id="f" * 40, slots=(), host="10.0.0.9")
    stranger = parse_replies(NodeView("10.0.0.9:7000", ip="10.0.0.9"), replies_of([alone], alone))
    found = look_of(nodes, {5: {"declared": False}})
    rules = said(Look((*found.nodes, stranger)))
    assert rules["stranger"][1] == "10.0.0.9:7000"
    assert rules["inventory"][:2] == ("note", nodes[5].address)


def test_names_and_refusals_are_told() -> None:
    found = look_of(topology(), {0: {"other_ips": ("10.0.0.77",), "pinned": False, "refused": ("ROLE (no)",)}})
    rules = said(found)
    assert rules["name"][2] == "its name stands for 10.0.0.0, 10.0.0.77; any of them may have answered"
    assert rules["refused"][2] == "it refused ROLE (no)"


def test_reasons_as_texts() -> None:
    reasons = [
        Reason("note", "c", "r", "said", "do"),
        *(Reason("failed", f"n{i}", "r", "it is down", "do") for i in range(5)),
    ]
    assert [each.severity for each in ordered(reasons)] == ["failed"] * 5 + ["note"]
    assert sentence(failed(reasons)) == "n0, n1, n2 and 2 more: it is down"
    assert sentence([Reason("failed", "n", "r", str(i), "") for i in range(8)]).endswith("; and 2 more")
    assert listed("abc") == "a, b, c"
