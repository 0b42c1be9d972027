"""CLUSTER NODES of every version is read by node id and nothing of it is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.redis_cluster.cluster.nodes import (
    Node,
    OpenSlot,
    moving,
    parse_nodes,
    primaries,
    replicas_of,
)
from credscale.redis_cluster.cluster.slots import ranges_of
from tests.redis_cluster.fakes import nodes_text, recorded, recordings, topology

ID, OTHER = "a" * 40, "b" * 40
IDS = st.text("0123456789abcdef", min_size=40, max_size=40)
NUMBERS = st.integers(0, 16383)
WORDS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8)
OPEN = st.builds(OpenSlot, NUMBERS, st.sampled_from(["migrating", "importing"]), IDS)
NODES = st.builds(
    Node,
    id=IDS,
    host=st.sampled_from(["", "10.0.0.1", "fe80::1", "2001:db8::7"]),
    port=st.integers(0, 65535),
    bus_port=st.integers(0, 65535),
    flags=st.lists(st.sampled_from(["myself", "master", "slave", "fail?", "fail", "noaddr", "nofailover"]), min_size=1)
    .map(dict.fromkeys)
    .map(tuple),
    hostname=st.one_of(st.just(""), WORDS),
    aux=st.lists(st.tuples(WORDS, WORDS), max_size=2).map(tuple),
    primary_id=st.one_of(st.just(""), IDS),
    ping_sent=st.integers(0, 2**42),
    pong_received=st.integers(0, 2**42),
    epoch=st.integers(0, 2**40),
    link=st.sampled_from(["connected", "disconnected"]),
    slots=st.lists(st.tuples(NUMBERS, NUMBERS).map(lambda pair: (min(pair), max(pair))), max_size=3).map(ranges_of),
    open_slots=st.lists(OPEN, max_size=2).map(tuple),
)


@given(st.lists(NODES, max_size=4))
def test_read_back(nodes: list[Node]) -> None:
    assert parse_nodes(nodes_text(nodes)) == tuple(nodes)


@pytest.mark.parametrize("name", recordings())
def test_recorded_text_is_reproduced(name: str) -> None:
    for node in recorded(name).answering:
        assert parse_nodes(nodes_text(node.view)) == node.view
        assert [each.id for each in node.view if each.is_myself] == [node.id]


@pytest.mark.parametrize(
    ("where", "host", "port", "bus", "hostname", "aux"),
    [
        ("10.0.0.1:7000@17000", "10.0.0.1", 7000, 17000, "", ()),
        ("10.0.0.1:7000", "10.0.0.1", 7000, 17000, "", ()),
        ("10.0.0.1:7000@9,redis1.example", "10.0.0.1", 7000, 9, "redis1.example", ()),
        ("10.0.0.1:7000@9,,tls-port=0,shard-id=c0", "10.0.0.1", 7000, 9, "", (("tls-port", "0"), ("shard-id", "c0"))),
        ("10.0.0.1:7000@9,h,shard-id=c0", "10.0.0.1", 7000, 9, "h", (("shard-id", "c0"),)),
        ("::1:7000@17000", "::1", 7000, 17000, "", ()),
        (":0@0", "", 0, 0, "", ()),
    ],
)
def test_addresses(where: str, host: str, port: int, bus: int, hostname: str, aux: tuple[tuple[str, str], ...]) -> None:
    (node,) = parse_nodes(f"{ID} {where} master - 0 0 3 connected\n")
    assert (node.host, node.port, node.bus_port, node.hostname, node.aux) == (host, port, bus, hostname, aux)


def test_nodes_without_address_do_not_overwrite_each_other() -> None:
    lines = [f"{each} :0@0 slave,fail,noaddr {ID} 0 0 3 disconnected\n" for each in ("c" * 40, "d" * 40)]
    found = parse_nodes("".join(lines))
    assert [node.id[0] for node in found] == ["c", "d"]
    assert found[0].address == ""
    assert found[0].bad_flags == ("fail", "noaddr")


def test_slots_on_their_way() -> None:
    (node,) = parse_nodes(f"{ID} ::1:1@2 myself,master - 0 0 3 connected 0-5 7 [6->-{OTHER}] [93-<-{OTHER}]\n")
    assert node.slots == ((0, 5), (7, 7))
    assert node.open_slots == (OpenSlot(6, "migrating", OTHER), OpenSlot(93, "importing", OTHER))
    assert node.address == "[::1]:1"
    assert moving([node]) == (node,)


def test_words_for_roles() -> None:
    (one,) = parse_nodes(f"{ID} h:1@2 primary - 0 0 3 connected\n")
    (two,) = parse_nodes(f"{ID} h:1@2 handshake - 0 0 0 connected\n")
    assert (one.role, two.role) == ("primary", "unknown")


def test_nodes_conf_is_understood_too() -> None:
    assert len(parse_nodes(f"{ID} h:1@2 myself,master - 0 0 3 connected\nvars currentEpoch 3 lastVoteEpoch 0\n")) == 1


@pytest.mark.parametrize(
    "line", ["nonsense", f"{ID} h:x@2 master - 0 0 3 connected", f"{ID} h:1@2 master - 0 0 3 c 9-1"]
)
def test_no_node(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of CLUSTER NODES"):
        parse_nodes(line)


def test_shards_in_the_order_of_their_slots() -> None:
    nodes = topology(3, 2)
    assert [node.slots[0][0] for node in primaries(reversed(nodes))] == [0, 5461, 10923]
    assert [node.port for node in replicas_of(reversed(nodes), nodes[1].id)] == [7004, 7007]
