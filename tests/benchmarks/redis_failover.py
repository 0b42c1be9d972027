"""Measure our manual failover against `redis-cli cluster failover`, with the same clients writing.

    python -m tests.benchmarks.redis_failover [--runs 20] [--rate 200] [--node-timeout 1000]

Six real servers on this machine, three primaries with a replica each. Each run fails the next shard over, ours and
redis-cli in turn, while two clients write to every shard; before redis-cli, too, the last election of a node has to be
past (see failover/resting.py). The gap is the longest time between two acknowledged writes of the shard; every
acknowledged write is looked for afterwards. redis-cli returns when the server has said OK; both are followed until
every node sees the new roles. Loopback and two busy cores: compare the rows, not the milliseconds.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from credscale.core.step import Finding, step
from credscale.redis_cluster.cluster.nodes import primaries, replicas_of
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.failover.confirmation import before, unconfirmed
from credscale.redis_cluster.failover.execution import SETTLE_SECONDS, flips
from credscale.redis_cluster.failover.plan import Move
from credscale.redis_cluster.failover.resting import Rested, rest
from credscale.redis_cluster.failover.steps import fail_over
from credscale.redis_cluster.measuring.probing import Writers
from credscale.testing import wait_for
from tests.scenarios.redis.conftest import PRIMARIES, RedisNodes

if TYPE_CHECKING:
    from credscale.core.context import Context

CLIENTS = ("direct", "cluster")


@step()
def with_redis_cli(ctx: Context, *, shard: int, rate: int) -> Finding:
    """Fail a shard over with redis-cli, measured the same way."""
    found = look(ctx, links=False)
    owner = primaries(found.topology)[shard]
    heir = replicas_of(found.topology, owner.id)[0]
    was, name = before(found, owner.id, heir.id), found.name(heir.id)
    host, _, port = name.rpartition(":")
    rest(ctx, found, Move(owner.id, heir.id), Rested())
    client: Any = ctx.clients.redis_node(name, timeout=1.0)
    with Writers(ctx, found, rate=rate) as writers:
        writers.settle(SETTLE_SECONDS)
        writers.mark("asked", name)
        subprocess.run(["redis-cli", "-h", host, "-p", port, "cluster", "failover"], check=True, capture_output=True)
        if not flips(client, 10):
            raise RuntimeError("no failover happened")
        writers.mark("flipped", name)
        wait_for(lambda: not unconfirmed(look(ctx, links=False), was), 60, every=0.1)
        writers.mark("confirmed", name)
        writers.settle(SETTLE_SECONDS)
        return Finding("", writers.finish().output())


def figures(output: dict[str, Any], shard: str) -> dict[str, float]:
    """Return what is compared, in milliseconds and writes."""
    gaps = {row["client"]: row["longest_gap_ms"] for row in output["rows"] if row["shard"] == shard}
    times = {mark["event"]: mark["t_ms"] for mark in output["timeline"]}
    return gaps | {
        "flip": output["role_flip_ms"], "agreed": times["confirmed"] - times["asked"],
        "lost": output["lost_acknowledged_writes"] + output["unread_writes"], "acked": output["acknowledged_writes"],
    }  # fmt: skip


def one(nodes: RedisNodes, who: str, number: int, rate: int) -> dict[str, float]:
    """Fail a shard over in one of the two ways."""
    ctx = nodes.context()
    found = look(ctx, links=False)
    shard = found.name(primaries(found.topology)[number].id)
    if who == "credscale":
        return figures(fail_over(ctx, primary=shard, rate=rate).output, shard)
    return figures(with_redis_cli(ctx, shard=number, rate=rate).output, shard)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--node-timeout", default="1000")
    arguments = parser.parse_args()
    seen: dict[str, list[dict[str, float]]] = {"credscale": [], "redis-cli": []}
    with tempfile.TemporaryDirectory() as folder:
        nodes = RedisNodes(Path(folder), options={"cluster-node-timeout": arguments.node_timeout})
        try:
            nodes.form(nodes.start(6))
            for number in range(arguments.runs):
                for place, who in enumerate(sorted(seen, reverse=bool(number % 2))):
                    seen[who].append(one(nodes, who, (2 * number + place) % PRIMARIES, arguments.rate))
                    print(who, seen[who][-1], flush=True)
        finally:
            nodes.end()
    table = Table("", "runs", "gap direct (ms) median/max", "gap cluster client", "role flip", "all agree", "lost")
    for who, rows in seen.items():
        cells = [_both([row[name] for row in rows]) for name in (*CLIENTS, "flip", "agreed")]
        lost, acked = (sum(row[name] for row in rows) for name in ("lost", "acked"))
        table.add_row(who, str(len(rows)), *cells, f"{lost:.0f} of {acked:,.0f}")
    Console(width=140).print(table)


def _both(values: list[float]) -> str:
    return f"{median(values):.0f} / {max(values):.0f}"


if __name__ == "__main__":
    main()
