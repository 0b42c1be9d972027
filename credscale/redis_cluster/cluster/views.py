"""Every node's view of the cluster, asked side by side.

A node that is dead, frozen or does not know our password costs nobody else's time: it becomes a row with its reason.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from credscale.core.addresses import port_of, split_address
from credscale.core.errors import EnvironmentInvalid
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.agreement import signature
from credscale.redis_cluster.cluster.nodes import Node, by_id, parse_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

    from credscale.core.context import Context

    Connect = Callable[[str, float], Redis]  # address and timeout in seconds

ASK_SECONDS = 1.0
DEADLINE = 1.8
READ_SECONDS = 0.02
MOST_WORKERS = 128
# Written as two words, these replies reach us as the server sent them: redis-py's parsers go by the name in one word.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "id": ("CLUSTER", "MYID"),
    "view": ("CLUSTER", "NODES"),
    "cluster": ("CLUSTER", "INFO"),
    "info": ("INFO",),
    "role": ("ROLE",),
    "links": ("CLUSTER", "LINKS"),
    "settings": ("CONFIG", "GET", "cluster-*"),
    "save": ("CONFIG", "GET", "save"),
    "writing": ("CONFIG", "GET", "min-replicas-*"),
}
NEEDED = ("view", "cluster", "info")


@dataclass(frozen=True)
class NodeView:
    """What one node answered; what it did not tell has its empty value.

    Args:
        address: ``host:port`` under which it was asked.
        ip: to which its name was pinned.
        id: its node id.
        view: its CLUSTER NODES.
        cluster: its CLUSTER INFO.
        info: its INFO, for ``facts.memory`` and its like.
        role: its ROLE.
        links: its bus connections; None before 7.0, or where it refused.
        settings: cluster-*, save and min-replicas-* of its configuration; empty where CONFIG is refused.
        error: why there is no answer to go by; empty when there is one.
        refused: commands it refused, with the reason.
        other_ips: further addresses of its name.
        pinned: whether only ``ip`` was asked; otherwise any of them may have answered.
        declared: whether the inventory names it; otherwise a view led to it.
        seconds: how long it took to answer.
    """

    address: str
    ip: str = ""
    id: str = ""
    view: tuple[Node, ...] = ()
    cluster: facts.ClusterInfo | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    role: facts.Role | None = None
    links: tuple[facts.Link, ...] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    refused: tuple[str, ...] = ()
    other_ips: tuple[str, ...] = ()
    pinned: bool = True
    declared: bool = True
    seconds: float = 0.0

    @property
    def me(self) -> Node | None:
        """Its own line in its view."""
        return next((node for node in self.view if node.is_myself), None)

    @property
    def place(self) -> str:
        """Where to connect to reach this very node again: its address, or the one its name was pinned to."""
        if not self.other_ips or not self.pinned:
            return self.address
        port = port_of(self.address)
        return f"[{self.ip}]:{port}" if ":" in self.ip else f"{self.ip}:{port}"

    @property
    def server(self) -> facts.Server:
        """What it is."""
        return facts.parse_server(self.info)


@dataclass(frozen=True)
class Look:
    """All nodes at one moment: those of the inventory in its order, then those that only views name."""

    nodes: tuple[NodeView, ...]

    @property
    def answering(self) -> tuple[NodeView, ...]:
        """The nodes that answered."""
        return tuple(node for node in self.nodes if not node.error)

    @cached_property
    def topology(self) -> tuple[Node, ...]:
        """The cluster as most nodes see it, without handshakes; among equals the view with the newest epoch.

        Flags are those that the majority's first node sees; each node's own slots on the way come from itself.
        """
        signatures = [(signature(node.view), node) for node in self.answering]
        if not signatures:
            return ()
        counts = Counter(each for each, _ in signatures)
        _, best = max(
            signatures, key=lambda each: (counts[each[0]], each[1].cluster.current_epoch if each[1].cluster else 0)
        )
        own = {node.id: node.me.open_slots for node in self.answering if node.me is not None}
        return tuple(
            replace(node, open_slots=own.get(node.id, ())) for node in best.view if "handshake" not in node.flags
        )

    def asked(self, node_id: str) -> NodeView | None:
        """Return the answer of a node by its id; None when nobody with this id answered."""
        return next((node for node in self.nodes if node.id == node_id), None)

    def name(self, node_id: str) -> str:
        """Return the address by which people know a node: the inventory's, else the announced one, else its id."""
        seen = self.asked(node_id)
        if seen is not None:
            return seen.address
        announced = by_id(self.topology).get(node_id)
        return announced.address if announced is not None and announced.address else node_id[:8]


def look(ctx: Context, *, seconds: float = DEADLINE, links: bool = True, addresses: Sequence[str] = ()) -> Look:
    """Ask every node of the inventory at once, then those that only the answers name.

    Args:
        ctx: the run.
        seconds: the deadline of each of the two rounds.
        links: whether to ask for the bus connections, whose number grows with the square of the nodes'.
        addresses: whom to ask instead of the inventory; then nobody else is asked.

    Raises:
        EnvironmentInvalid: the environment has no section redis.
    """

    def connect(address: str, timeout: float) -> Redis:
        return ctx.clients.redis_node(address, timeout=timeout)

    declared = tuple(addresses) or inventory(ctx)
    tls = ctx.environment.redis is not None and ctx.environment.redis.tls is not None
    return look_at(declared, connect, seconds=seconds, links=links, discover=not addresses, pinned=not tls)


def inventory(ctx: Context) -> tuple[str, ...]:
    """Return the addresses of the section redis.

    Raises:
        EnvironmentInvalid: there is none, or the file that lists them is not there yet.
    """
    if ctx.environment.redis is None:
        raise EnvironmentInvalid(f"the environment {ctx.environment.name!r} has no section redis")
    if not ctx.environment.redis.nodes:
        raise EnvironmentInvalid(
            f"redis.nodes of the environment {ctx.environment.name!r} is a file that names no node yet. A lab writes "
            "it when it comes up: invoke lab.up"
        )
    return tuple(dict.fromkeys(ctx.environment.redis.nodes))


def look_at(
    declared: Sequence[str],
    connect: Connect,
    *,
    seconds: float = DEADLINE,
    links: bool = True,
    discover: bool = True,
    pinned: bool = True,
) -> Look:
    """Do the same without a run.

    Args:
        declared: whom to ask.
        connect: returns the client of an address; called by several threads.
        seconds: as for ``look``.
        links: as for ``look``.
        discover: whether to ask nodes that only the answers name.
        pinned: whether a name of several addresses is asked at one of them; with TLS it is asked by name, because
            certificates hold names.
    """
    first = _ask_all(declared, connect, seconds, links=links, pinned=pinned)
    strangers = _strangers(first) if discover else []
    second = _ask_all(strangers, connect, seconds, links=links, pinned=pinned) if strangers else []
    return Look((*first, *(replace(node, declared=False) for node in second)))


def _strangers(asked: Sequence[NodeView]) -> list[str]:
    """Return the announced addresses of nodes that nobody of the inventory is."""
    ids = {node.id for node in asked}
    places = {
        (host, port)
        for node in asked
        for given, port in [split_address(node.address)]
        for host in (node.ip, given)
        if host  # one that did not answer in time has no ip
    }
    known = {node.id: node for view in asked for node in view.view}
    return [
        node.address
        for node in known.values()
        if node.id not in ids and node.address and not {(node.host, node.port), (node.hostname, node.port)} & places
    ]


def _ask_all(
    addresses: Sequence[str], connect: Connect, seconds: float, *, links: bool, pinned: bool
) -> list[NodeView]:
    pool = ThreadPoolExecutor(max_workers=min(MOST_WORKERS, max(1, len(addresses))))

    def work(address: str) -> NodeView:
        return ask(address, connect, seconds=min(ASK_SECONDS, seconds), links=links, pinned=pinned)

    futures = {address: pool.submit(work, address) for address in addresses}
    # A node that is silent ends after ASK_SECONDS by itself; replies of many nodes need their time to be read.
    deadline = seconds * -(-len(addresses) // MOST_WORKERS) + READ_SECONDS * len(addresses)
    wait(futures.values(), timeout=deadline)
    pool.shutdown(wait=False, cancel_futures=True)
    found = []
    for address, future in futures.items():
        if future.done() and not future.cancelled():
            found.append(future.result())
        else:
            found.append(NodeView(address, error=f"no answer within {deadline:.1f} s"))
    return found


def resolve(address: str) -> tuple[str, ...]:
    """Return every IP address of an address's name, once each, in the resolver's order.

    Raises:
        OSError: the name is unknown.
    """
    host, port = split_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def pin(ips: Sequence[str], port: int, *, seconds: float) -> str:
    """Return the first IP address that takes connections, or the first of all."""
    if len(ips) == 1:
        return ips[0]
    for ip in ips:
        try:
            socket.create_connection((ip, port), timeout=seconds / len(ips)).close()
        except OSError:
            continue
        return ip
    return ips[0]


def ask(
    address: str, connect: Connect, *, seconds: float = ASK_SECONDS, links: bool = True, pinned: bool = True
) -> NodeView:
    """Ask one node everything in one go.

    Args:
        address: ``host:port``.
        connect: returns its client.
        seconds: how long a connection and each reply may take.
        links: whether to ask for the bus connections.
        pinned: as for ``look_at``.
    """
    begin = time.monotonic()
    try:
        ips = resolve(address)
    except OSError:
        return NodeView(address, error="its name does not resolve")
    port = port_of(address)
    ip = pin(ips, port, seconds=seconds) if pinned else ips[0]
    base = NodeView(address, ip=ip, other_ips=tuple(each for each in ips if each != ip), pinned=pinned)
    from redis.exceptions import RedisError

    try:
        pipeline: Any = connect(base.place, seconds).pipeline(transaction=False)
        asked = {name: words for name, words in COMMANDS.items() if links or name != "links"}
        for words in asked.values():
            pipeline.execute_command(*words)
        replies = dict(zip(asked, pipeline.execute(raise_on_error=False), strict=True))
    except (RedisError, OSError) as error:
        return replace(base, error=describe(error, seconds), seconds=time.monotonic() - begin)
    return replace(parse_replies(base, replies), seconds=time.monotonic() - begin)


def parse_replies(base: NodeView, replies: Mapping[str, Any]) -> NodeView:
    """Understand a node's replies by their names in ``COMMANDS``; an exception is a command that was refused."""
    bad = {name: reply for name, reply in replies.items() if isinstance(reply, Exception)}
    good = {name: reply for name, reply in replies.items() if name not in bad}
    refused = tuple(f"{' '.join(COMMANDS[name][:2])} ({error})" for name, error in bad.items() if name != "links")
    for name in NEEDED:
        if name in bad:
            return replace(base, error=describe(bad[name], 0.0), refused=refused)
    try:
        view = parse_nodes(good["view"])
        settings: dict[str, str] = {}
        for name in ("settings", "save", "writing"):
            settings |= facts.parse_pairs(good.get(name, ()))
        own = next((node.id for node in view if node.is_myself), "")
        return replace(
            base, id=str(good.get("id", own)), view=view, cluster=facts.parse_cluster_info(good["cluster"]),
            info=good["info"], role=facts.parse_role(good["role"]) if "role" in good else None,
            links=facts.parse_links(good["links"]) if "links" in good else None, settings=settings, refused=refused,
        )  # fmt: skip
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return replace(base, error=f"its answer cannot be read: {error}", refused=refused)


def describe(error: Exception, seconds: float) -> str:
    """Return in plain words why a node gave no answer; nothing of a password is in the driver's texts."""
    from redis import exceptions

    if isinstance(error, exceptions.AuthenticationError):
        wrong = "WRONGPASS" in str(error) or "invalid" in str(error)
        return "it refuses our user and password" if wrong else f"it wants a password that we do not give ({error})"
    if isinstance(error, exceptions.NoPermissionError):
        return f"our user may not ask it ({error})"
    if isinstance(error, exceptions.BusyLoadingError):
        return "it is loading its data"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return f"no answer within {seconds:.1f} s; it is frozen, overloaded or cut off"
    if "refused" in str(error):
        return "nothing listens at its port"
    return str(error) or type(error).__name__
