"""Make one move of ``plan_creation`` on real nodes, through a direct connection to each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, VerificationFailed
from credscale.redis_cluster.cluster.facts import LINKS_SINCE, parse_links
from credscale.redis_cluster.cluster.nodes import parse_nodes
from credscale.redis_cluster.cluster.slots import numbers, subtract
from credscale.redis_cluster.cluster.views import describe
from credscale.redis_cluster.deploy.plan import ADD_SLOTS, KNOCK, MEET, REPLICATE, SET_EPOCH, TELL, Move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.redis_cluster.cluster.views import Connect, Look, NodeView

CALL_SECONDS = 2.0
KNOCK_SECONDS, KNOCK_PAUSE = 2.0, 0.1
CHANNEL = "credscale:knock"
RANGES_SINCE = LINKS_SINCE  # CLUSTER ADDSLOTSRANGE and LINKS are of the same release (§1.5)


def make(connect: Connect, found: Look, move: Move) -> tuple[str, ...]:
    """Make one move.

    Args:
        connect: returns the client of an address.
        found: the look by which it was planned.
        move: the move.

    Returns:
        the nodes at which it was left out because our user may not; only for ``KNOCK``.

    Raises:
        VerificationFailed: a node refuses it, and is not as the move would have made it.
        ConnectFailed: a node does not answer.
    """
    nodes = {node.address: node for node in found.nodes}
    if move.kind == TELL:
        for node in found.nodes:
            _meet(connect, node, [other for other in found.nodes if other is not node])
        return ()
    if move.kind == KNOCK:
        return _knock(connect, found.nodes)
    node = nodes[move.address]
    if move.kind == MEET:
        _meet(connect, node, [nodes[peer] for peer in move.peers])
    elif move.kind == REPLICATE:
        _accepted(node, _send(connect, node, ["CLUSTER", "REPLICATE", nodes[move.primary].id]))
    else:
        _claim(connect, node, move)
    return ()


def _claim(connect: Connect, node: NodeView, move: Move) -> None:
    """Set an epoch or add slots; what somebody else did at the same time is well if it is the same."""
    if move.kind == SET_EPOCH:
        words: list[str | int] = ["CLUSTER", "SET-CONFIG-EPOCH", move.epoch]
    elif node.server.numbers >= RANGES_SINCE:
        words = ["CLUSTER", "ADDSLOTSRANGE", *(end for pair in move.slots for end in pair)]
    else:
        words = ["CLUSTER", "ADDSLOTS", *numbers(move.slots)]
    reply, text = _send(connect, node, words, ["CLUSTER", "NODES"])
    view = parse_nodes(str(text))
    me = next(each for each in view if each.is_myself)
    if move.kind == ADD_SLOTS and subtract(move.slots, me.slots):
        _accepted(node, [reply])
    if move.kind == SET_EPOCH and not me.epoch and len(view) == 1:
        _accepted(node, [reply])


def _meet(connect: Connect, node: NodeView, peers: Sequence[NodeView]) -> None:
    """Have a node meet others: by the address they announce, which is an IP address, or by the one we resolved."""
    places = [(peer.ip, peer.me) for peer in peers if peer.me is not None]
    commands: list[list[str | int]] = [["CLUSTER", "MEET", me.host or ip, me.port, me.bus_port] for ip, me in places]
    _accepted(node, _send(connect, node, *commands))


def _knock(connect: Connect, nodes: Sequence[NodeView]) -> tuple[str, ...]:
    """Send a message to nobody, which every node passes on over its connection to every other, until all show.

    A connection over which nodes have just met anew is made again within 0.1 s, so that the first message may miss it.
    """
    from redis.exceptions import NoPermissionError

    deadline = time.monotonic() + KNOCK_SECONDS
    while True:
        refusing = []
        for node in nodes:
            replies = _send(connect, node, ["PUBLISH", CHANNEL, ""])
            if isinstance(replies[0], NoPermissionError):
                refusing.append(node.address)
            else:
                _accepted(node, replies)
        if refusing or _linked(connect, nodes) or time.monotonic() >= deadline:
            return tuple(refusing)
        time.sleep(KNOCK_PAUSE)


def _linked(connect: Connect, nodes: Sequence[NodeView]) -> bool:
    """Tell whether every node shows its connections to and from every other, or cannot (before 7.0)."""
    wanted = {(way, node.id) for node in nodes for way in ("to", "from")}
    for node in nodes:
        if node.links is None:
            continue
        (reply,) = replies = _send(connect, node, ["CLUSTER", "LINKS"])
        _accepted(node, replies)
        shown = {(link.direction, link.peer) for link in parse_links(reply)}
        if wanted - shown - {("to", node.id), ("from", node.id)}:
            return False
    return True


def _send(connect: Connect, node: NodeView, *commands: Sequence[str | int]) -> list[Any]:
    """Send commands to a node in one go; return their replies, refusals among them as exceptions."""
    from redis.exceptions import RedisError

    try:
        pipeline: Any = connect(node.place, CALL_SECONDS).pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        return list(pipeline.execute(raise_on_error=False))
    except (RedisError, OSError) as error:
        told = describe(error, CALL_SECONDS)
        raise ConnectFailed(
            f"{node.address} at {' '.join(map(str, commands[0][:2]))}: {told}. What was done before stays; look at its "
            "process and run the same command again"
        ) from error


def _accepted(node: NodeView, replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise VerificationFailed(
                f"{node.address} refuses the move: {reply}. What was done before stays; run the same command again, "
                "which looks anew"
            ) from reply
