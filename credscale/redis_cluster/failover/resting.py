"""Wait until the last election of a node is long past, because a second one within that time is not an election.

Seen with Redis 7.0.15: a replica that won an election, was failed back, and is asked again within twice the election
timeout still counts the votes of the first one. It declares itself elected without asking anybody, with its old epoch,
and is overruled by the other nodes 50 to 160 ms later (four of four tries, though all views agreed). What a client
wrote to it meanwhile would be lost, and clients of the true primary stay paused for 5 s. No command tells when a node
was last elected, but a link that is older shows that neither of its ends was elected since.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.failover.plan import Move

NODE_TIMEOUT = 15_000  # milliseconds; the server's default
LEAST_TIMEOUT = 2_000
MARGIN_SECONDS = 1.0
REPLY_SECONDS = 1.0
_AGE = re.compile(r"\bage=(\d+)")


class Rested:
    """Since when nodes are known not to have been elected, on this process's monotonic clock, by their id."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def linked(self, move: Move, age: float) -> None:
        """Take note of a link that has been up for ``age`` seconds between a replica and its primary."""
        for node_id in (move.primary, move.replica):
            self._since[node_id] = min(time.monotonic() - age, self._since.get(node_id, time.monotonic()))

    def elected(self, node_id: str) -> None:
        """Take note that a node was just elected."""
        self._since[node_id] = time.monotonic()

    def seconds(self, node_id: str) -> float:
        """Return for how long it is known not to have been elected."""
        return time.monotonic() - self._since.get(node_id, time.monotonic())


def window(found: Look, node_id: str) -> float:
    """Return for how many seconds a node keeps the votes of an election: 2 x max(2 x node timeout, 2 s) and more."""
    seen = found.asked(node_id)
    setting = seen.settings.get("cluster-node-timeout", "") if seen is not None else ""
    timeout = int(setting) if setting.isdecimal() else NODE_TIMEOUT
    return 2 * max(2 * timeout, LEAST_TIMEOUT) / 1000 + MARGIN_SECONDS


def link_age(client: Any) -> float:
    """Return for how many seconds a replica's link to its primary has been up; 0 where it does not tell."""
    from redis.exceptions import RedisError

    try:
        found = _AGE.search(str(client.execute_command("CLIENT", "LIST", "TYPE", "master")))
    except (RedisError, OSError):
        return 0.0
    return float(found[1]) if found else 0.0


def rest(ctx: Context, found: Look, move: Move, rested: Rested) -> None:
    """Wait until the replica of a move can be asked to take over.

    Args:
        ctx: the run.
        found: a look that shows it as the replica of the move's primary.
        move: who takes over from whom.
        rested: what is known of earlier elections; gets to know more.
    """
    target = found.asked(move.replica)
    if target is None or target.me is None or target.me.primary_id != move.primary:
        return  # its turn comes later
    client = ctx.clients.redis_node(target.place, timeout=REPLY_SECONDS)
    rested.linked(move, link_age(client))
    wanted = window(found, move.replica)

    def enough() -> tuple[bool, str]:
        seconds = rested.seconds(move.replica)
        return seconds >= wanted, f"{target.address} is known to have been no candidate for {seconds:.0f} s"

    what = f"the last election of {target.address} is {wanted:.0f} s past, or its votes would be counted again"
    ctx.wait_until(what, enough, wanted + REPLY_SECONDS, every=0.2)
