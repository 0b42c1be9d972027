"""Clusters for unit tests: recorded from real servers, or made up in any size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from credscale.redis_cluster.cluster.nodes import Node
from credscale.redis_cluster.cluster.slots import ranges_text, split_evenly
from credscale.redis_cluster.cluster.views import COMMANDS, Look, NodeView, parse_replies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RECORDED = Path(__file__).parents[1] / "cases" / "redis" / "recorded"


def recordings() -> list[str]:
    """Return the names of all recordings."""
    return sorted(path.stem for path in RECORDED.glob("*.json"))


def recorded(name: str) -> Look:
    """Return what six real servers answered, as one look."""
    replies = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["replies"]
    return Look(tuple(_view(address, each) for address, each in replies.items()))


def _view(address: str, replies: dict[str, Any]) -> NodeView:
    base = NodeView(address, ip="127.0.0.1")
    if "no answer" in replies:
        return replace(base, error=f"no answer ({replies['no answer']})")
    return parse_replies(base, {name: _reply(each) for name, each in replies.items()})


def _reply(reply: Any) -> Any:
    return ResponseError(reply["refused"]) if isinstance(reply, dict) and set(reply) == {"refused"} else reply


def node_id(number: int) -> str:
    """Return an id as long as real ones."""
    return f"{number:040x}"


def topology(primaries: int = 3, replicas: int = 1, hosts: int = 0) -> tuple[Node, ...]:
    """Return a healthy topology; node n is at 10.0.0.(n modulo hosts), each at one of its own for 0 hosts."""
    found = []
    slots = split_evenly(primaries)
    for number in range(primaries * (1 + replicas)):
        host = f"10.0.0.{number % hosts if hosts else number}"
        owner = number % primaries
        first = number < primaries
        found.append(
            Node(
                id=node_id(number), host=host, port=7000 + number, bus_port=17000 + number,
                flags=("master",) if first else ("slave",), primary_id="" if first else node_id(owner),
                epoch=owner + 1, slots=slots[owner] if first else (),
            )
        )  # fmt: skip
    return tuple(found)


def nodes_text(nodes: Iterable[Node]) -> str:
    """Return nodes as CLUSTER NODES does."""
    return "".join(f"{_line(node)}\n" for node in nodes)


def _line(node: Node) -> str:
    extras = [node.hostname] if node.hostname or node.aux else []
    extras += [f"{name}={value}" for name, value in node.aux]
    where = ",".join([f"{node.host}:{node.port}@{node.bus_port}", *extras])
    signs = {"migrating": "->-", "importing": "-<-"}
    opened = [f"[{each.slot}{signs[each.direction]}{each.peer}]" for each in node.open_slots]
    words = [node.id, where, ",".join(node.flags), node.primary_id or "-", node.ping_sent, node.pong_received]
    words += [node.epoch, node.link, ranges_text(node.slots), *opened]
    return " ".join(str(word) for word in words if word != "")


def info(nodes: Sequence[Node], me: Node, **more: Any) -> dict[str, Any]:
    """Return a healthy node's INFO as redis-py has it."""
    replicas = [node for node in nodes if node.primary_id == me.id]
    found: dict[str, Any] = {
        "redis_version": "7.0.15", "redis_mode": "cluster", "cluster_enabled": 1, "run_id": me.id, "process_id": 1,
        "uptime_in_seconds": 7200, "server_time_usec": 1_000_000, "used_memory": 100 << 20, "maxmemory": 400 << 20,
        "maxmemory_policy": "noeviction", "used_memory_rss": 110 << 20, "mem_fragmentation_ratio": 1.1,
        "used_memory_startup": 1 << 20, "loading": 0, "rdb_last_bgsave_status": "ok", "aof_enabled": 1,
        "db0": {"keys": 1000, "expires": 10, "avg_ttl": 5000}, "master_repl_offset": 1000,
    }  # fmt: skip
    if me.is_primary:
        found |= {"role": "master", "connected_slaves": len(replicas)}
        for number, each in enumerate(replicas):
            state = {"ip": each.host, "port": each.port, "state": "online", "offset": 1000, "lag": 0}
            found[f"slave{number}"] = state
    else:
        found |= {"role": "slave", "master_link_status": "up", "master_sync_in_progress": 0, "connected_slaves": 0}
    return found | more


def replies_of(nodes: Sequence[Node], me: Node, **more: Any) -> dict[str, Any]:
    """Return a healthy node's answers, by the names of ``COMMANDS``; ``more`` goes over its INFO."""
    view = [replace(node, flags=("myself", *node.flags)) if node == me else node for node in nodes]
    size = sum(bool(node.slots) for node in nodes)
    cluster = {
        "state": "ok", "slots_assigned": 16384, "slots_ok": 16384, "known_nodes": len(nodes), "size": size,
        "current_epoch": size, "my_epoch": me.epoch,
    }  # fmt: skip
    links = [
        ["direction", way, "node", node.id, "send-buffer-allocated", 0]
        for node in nodes
        for way in ("to", "from")
        if node != me
    ]
    return {
        "id": me.id, "view": nodes_text(view), "info": info(nodes, me, **more), "links": links,
        "cluster": "".join(f"cluster_{name}:{value}\r\n" for name, value in cluster.items()),
        "role": ["master", 1000, []] if me.is_primary else ["slave", me.host, me.port, "connected", 1000],
        "settings": ["cluster-node-timeout", "5000"], "save": ["save", ""], "writing": [],
    }  # fmt: skip


def look_of(nodes: Sequence[Node], changes: Mapping[int, dict[str, Any]] | None = None, **more: Any) -> Look:
    """Return a look at a cluster.

    Args:
        nodes: the topology.
        changes: fields of the view of single nodes, by their number; ``info`` goes over a healthy node's.
        more: goes over the INFO of all.
    """
    views = []
    for number, node in enumerate(nodes):
        change = dict((changes or {}).get(number, {}))
        own = more | change.pop("info", {})
        view = parse_replies(NodeView(node.address, ip=node.host), replies_of(nodes, node, **own))
        views.append(replace(view, **change))
    return Look(tuple(views))


class FakeRedis:
    """The client of one node; ``dead`` and ``frozen`` ones raise as the driver does."""

    def __init__(self, replies: Mapping[str, Any], trouble: str = "") -> None:
        self.replies, self.trouble = replies, trouble
        self.words: list[tuple[str, ...]] = []

    def pipeline(self, *, transaction: bool) -> FakeRedis:
        assert not transaction
        return self

    def execute_command(self, *words: str) -> None:
        self.words.append(words)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        if self.trouble == "dead":
            raise RedisConnectionError("Error 111 connecting to 10.0.0.1:7000. Connection refused.")
        if self.trouble == "frozen":
            raise RedisTimeoutError("Timeout reading from socket")
        names = {words: name for name, words in COMMANDS.items()}
        return [self.replies[names[words]] for words in self.words]


class FakeNodes:
    """Hands out the clients of a made-up cluster, by address."""

    def __init__(self, nodes: Sequence[Node], *, dead: Iterable[int] = (), frozen: Iterable[int] = ()) -> None:
        trouble = dict.fromkeys(dead, "dead") | dict.fromkeys(frozen, "frozen")
        self.replies = {
            node.address: (replies_of(nodes, node), trouble.get(number, "")) for number, node in enumerate(nodes)
        }
        self.asked: list[str] = []

    def connect(self, address: str, _timeout: float) -> Any:
        self.asked.append(address)
        return FakeRedis(*self.replies[address])

    def redis_node(self, address: str, *, timeout: float) -> Any:
        return self.connect(address, timeout)
