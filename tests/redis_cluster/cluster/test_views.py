"""All nodes are asked at once; what does not answer is named, and so is who sees the cluster otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import exceptions

from credscale.redis_cluster.cluster import views
from credscale.redis_cluster.cluster.agreement import differences
from credscale.redis_cluster.cluster.health import judge
from credscale.redis_cluster.cluster.reasons import failed
from credscale.redis_cluster.cluster.views import COMMANDS, NodeView, look_at, parse_replies
from tests.redis_cluster.fakes import FakeNodes, look_of, recorded, recordings, replies_of, topology

EXPECTED = {
    "six_empty_nodes": {"state", "coverage", "stranger", "agreement"},
    "healthy": set(),
    "slot_on_its_way": set(),
    "primary_frozen": {"answer"},
    "primary_killed_and_replaced": {"answer", "flags"},
    "majority_gone": {"answer", "flags", "state", "slots", "replication"},
}


@pytest.mark.parametrize("name", recordings())
def test_recorded_situations(name: str) -> None:
    found = recorded(name)
    rules = {reason.rule for reason in failed(judge(found))}
    assert rules == EXPECTED[name.partition("_")[2]]


@pytest.mark.parametrize(
    ("name", "kind", "version", "links"),
    [
        ("redis-6.2.5_healthy", "redis", "6.2.5", None),
        ("redis-7.0.15_healthy", "redis", "7.0.15", 10),
        ("redis-8.2.3_healthy", "redis", "8.2.3", 10),
        ("valkey-9.1.2_healthy", "valkey", "9.1.2", 10),
    ],
)
def test_recorded_facts(name: str, kind: str, version: str, links: int | None) -> None:
    node = recorded(name).nodes[0]
    assert (node.server.kind, node.server.version, node.server.cluster) == (kind, version, True)
    assert (len(node.links) if node.links is not None else None) == links
    assert node.cluster is not None
    assert (node.cluster.known_nodes, node.cluster.size, node.cluster.slots_ok) == (6, 3, 16384)
    assert node.role is not None
    assert (node.role.role, len(node.role.replicas)) == ("primary", 1)
    assert node.settings["cluster-node-timeout"] == "1000"
    assert node.settings["save"] == ""
    assert node.refused == ()


def test_a_hundred_nodes_with_dead_and_frozen_ones() -> None:
    nodes = topology(50, 1)
    fake = FakeNodes(nodes, dead=[3], frozen=[60])
    found = look_at([node.address for node in nodes], fake.connect)
    assert len(found.nodes) == 100
    assert sorted(fake.asked) == sorted(node.address for node in nodes)  # each once
    errors = {node.address: node.error for node in found.nodes if node.error}
    assert errors == {
        nodes[3].address: "nothing listens at its port",
        nodes[60].address: "no answer within 1.0 s; it is frozen, overloaded or cut off",
    }
    assert {reason.rule for reason in failed(judge(found))} == {"answer"}


def test_nodes_that_only_others_name_are_asked_too() -> None:
    nodes = topology()
    fake = FakeNodes(nodes)
    found = look_at([nodes[0].address], fake.connect)
    assert [node.declared for node in found.nodes] == [True] + [False] * 5
    assert len(found.answering) == 6
    assert look_at([nodes[0].address], fake.connect, discover=False).nodes[1:] == ()


def test_dead_node_of_the_inventory_is_not_asked_twice() -> None:
    nodes = topology()
    fake = FakeNodes(nodes, dead=[5])
    look_at([node.address for node in nodes], fake.connect)
    assert fake.asked.count(nodes[5].address) == 1


def test_node_without_an_end_does_not_hold_the_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    nodes = topology()
    fake = FakeNodes(nodes)

    def connect(address: str, timeout: float) -> Any:
        if address == nodes[1].address:
            release.wait(20)
        return fake.connect(address, timeout)

    found = look_at([node.address for node in nodes], connect, seconds=0.3)
    release.set()
    assert [node.error for node in found.nodes if node.error] == ["no answer within 0.4 s"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_refused_command_is_named_or_made_up_for(name: str) -> None:
    nodes = topology()
    replies = replies_of(nodes, nodes[0]) | {name: exceptions.NoPermissionError("this user has no permissions")}
    found = parse_replies(NodeView("a:1"), replies)
    if name in views.NEEDED:
        assert found.error.startswith("our user may not ask it")
        return
    assert found.error == ""
    assert found.id == nodes[0].id
    assert bool(found.refused) == (name != "links")  # before 7.0 nobody has them


def test_server_that_is_no_cluster() -> None:
    text = "This instance has cluster support disabled"
    found = parse_replies(
        NodeView("a:1"), replies_of(topology(), topology()[0]) | {"view": exceptions.ResponseError(text)}
    )
    assert found.error == text


def test_answer_nobody_understands() -> None:
    found = parse_replies(NodeView("a:1"), replies_of(topology(), topology()[0]) | {"view": "what?"})
    assert found.error.startswith("its answer cannot be read: not a line of CLUSTER NODES")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            exceptions.AuthenticationError("WRONGPASS invalid username-password pair"),
            "it refuses our user and password",
        ),
        (exceptions.AuthenticationError("NOAUTH Authentication required."), "it wants a password"),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "it is loading its data"),
        (exceptions.TimeoutError("Timeout"), "no answer within 1.0 s"),
        (exceptions.ConnectionError("Error 111 connecting. Connection refused."), "nothing listens at its port"),
        (exceptions.ConnectionError("Connection reset by peer"), "Connection reset by peer"),
        (exceptions.ConnectionError(), "ConnectionError"),
    ],
)
def test_why_there_is_no_answer(error: Exception, text: str) -> None:
    assert views.describe(error, 1.0).startswith(text)


def test_name_of_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = topology()
    fake = FakeNodes(nodes)
    fake.replies["10.0.0.9:7000"] = fake.replies[nodes[0].address]
    fake.replies["redis1:7000"] = fake.replies[nodes[0].address]
    monkeypatch.setattr(views, "resolve", lambda _: ("10.0.0.8", "10.0.0.9"))
    monkeypatch.setattr(views, "pin", lambda *_, **__: "10.0.0.9")
    pinned = views.ask("redis1:7000", fake.connect)
    named = views.ask("redis1:7000", fake.connect, pinned=False)
    assert fake.asked == ["10.0.0.9:7000", "redis1:7000"]  # certificates hold names
    assert (pinned.address, pinned.ip, pinned.other_ips) == ("redis1:7000", "10.0.0.9", ("10.0.0.8",))
    assert named.place == "redis1:7000"


def test_ipv6_place() -> None:
    assert NodeView("redis1:7000", ip="::1", other_ips=("127.0.0.1",)).place == "[::1]:7000"


def with_view(number: int, change: Any) -> Any:
    """Return a look in which one node sees another topology than the others."""
    nodes = topology()
    found = look_of(nodes)
    views_ = list(found.nodes)
    views_[number] = replace(views_[number], view=tuple(change(list(views_[number].view))))
    return views.Look(tuple(views_))


def test_difference_in_roles() -> None:
    nodes = topology()

    def promote(view: list[Any]) -> list[Any]:
        view[3] = replace(view[3], flags=("master",), primary_id="")
        return view

    (found,) = differences(with_view(4, promote))
    assert found.address == nodes[4].address
    assert found.what == f"sees {nodes[3].address} as primary, most as replica of {nodes[0].address}"


def test_difference_in_slots_and_in_members() -> None:
    nodes = topology()

    def lose(view: list[Any]) -> list[Any]:
        view[0] = replace(view[0], slots=())
        return view[:5]

    said = {each.what for each in differences(with_view(1, lose))}
    assert said == {
        f"sees {nodes[0].address} with no slots, most with 0-5460",
        f"does not know {nodes[5].address}",
    }


def test_node_that_only_one_knows() -> None:
    (found,) = differences(with_view(0, lambda view: [*view, replace(view[5], id="f" * 40, port=1)]))
    assert found.what == "knows 10.0.0.5:1, which most others do not"


def test_handshake_is_judged_by_its_flag_only() -> None:
    found = with_view(0, lambda view: [*view, replace(view[5], id="f" * 40, port=1, flags=("handshake",))])
    assert differences(found) == ()
    assert {reason.rule for reason in failed(judge(found))} == {"flags"}


def test_nobody_answers() -> None:
    found = views.Look((NodeView("a:1", error="dead"),))
    assert found.topology == ()
    assert {reason.rule for reason in failed(judge(found))} == {"answer", "coverage"}
