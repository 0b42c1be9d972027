"""Move 4,096 slots to a new primary, by credscale and by redis-cli, a client writing all the time.

    python tests/benchmarks/redis_reshard.py [--keys 30000] [--bytes 100] [--runs 1]

Each run forms a new cluster of three primaries with a replica each on this machine, fills it, adds an empty primary and
rebalances. Nothing here asserts a time; read the table. CREDSCALE_REDIS_SERVER names another server.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from redis.cluster import RedisCluster
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from credscale.redis_cluster.cluster.nodes import primaries  # noqa: E402
from credscale.redis_cluster.cluster.slots import count  # noqa: E402
from runbooks.redis_add_node import redis_add_node  # noqa: E402
from tests.scenarios.redis.conftest import RedisNodes  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "benchmark"
BATCH = 1000


def client(nodes: RedisNodes) -> RedisCluster:
    """Return an ordinary cluster client."""
    host, _, port = nodes.addresses[0].rpartition(":")
    return RedisCluster(host, int(port), password=PASSWORD, socket_timeout=10)


def fill(nodes: RedisNodes, keys: int, size: int) -> None:
    """Write the keys."""
    made = client(nodes)
    for start in range(0, keys, BATCH):
        pipeline = made.pipeline()
        for number in range(start, min(keys, start + BATCH)):
            pipeline.set(f"key:{number}", "x" * size)
        pipeline.execute()
    made.close()


class Writer:
    """Writes all the time and remembers the longest time between two acknowledged writes."""

    def __init__(self, nodes: RedisNodes) -> None:
        self.client, self.gap, self.acked, self.errors = client(nodes), 0.0, 0, Counter[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            try:
                self.client.set(f"written:{self.acked % 5000}", self.acked)
            except Exception as error:
                self.errors[type(error).__name__] += 1
                continue
            now = time.monotonic()
            self.gap, last, self.acked = max(self.gap, now - last), now, self.acked + 1
            time.sleep(0.001)

    def end(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        self.client.close()


def by_credscale(nodes: RedisNodes) -> None:
    """Run the runbook in a process of its own, as redis-cli runs in one."""
    code = (
        "import sys\n"
        "from credscale.core.clients import Clients; from credscale.core.context import Context\n"
        "from credscale.core.environment import load; from credscale.core.journal import Journal\n"
        "from credscale.core.secrets import Secrets; from runbooks.redis_rebalance import redis_rebalance\n"
        "secrets, environment = Secrets(), load(sys.argv[1])\n"
        "ctx = Context(environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets)\n"
        "redis_rebalance(ctx, use_empty=True)\n"
        "print(ctx.results[1].summary)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(nodes.environment())], cwd=ROOT, check=True, text=True,
                          capture_output=True)  # fmt: skip
    print(done.stdout.strip(), flush=True)


def by_redis_cli(pipeline: int) -> Callable[[RedisNodes], None]:
    """Return what runs redis-cli with a number of keys for each MIGRATE."""

    def rebalance(nodes: RedisNodes) -> None:
        command = ["redis-cli", "--cluster", "rebalance", nodes.addresses[0], "--cluster-use-empty-masters",
                   "--cluster-pipeline", str(pipeline)]  # fmt: skip
        environment = os.environ | {"REDISCLI_AUTH": PASSWORD}
        subprocess.run(command, env=environment, check=True, capture_output=True)

    return rebalance


def measure(rebalance: Callable[[RedisNodes], None], keys: int, size: int) -> tuple[str, str, str, str, str]:
    """Return seconds, the writer's longest gap, its writes and errors, and the slots of each primary, as texts."""
    options = {"maxmemory": "1gb", "cluster-node-timeout": "5000"}
    with tempfile.TemporaryDirectory() as folder:
        nodes = RedisNodes(Path(folder), password=PASSWORD, options=options)
        try:
            nodes.form(nodes.start(6))
            fill(nodes, keys, size)
            (new,) = nodes.start(1)
            redis_add_node(nodes.context(), node=new)
            writer = Writer(nodes)
            try:
                time.sleep(0.5)
                writer.gap = 0.0
                begin = time.monotonic()
                rebalance(nodes)
                seconds = time.monotonic() - begin
            finally:
                writer.end()
            owned = " ".join(str(count(node.slots)) for node in primaries(nodes.look().topology))
        finally:
            nodes.end()
    gap, errors = f"{1000 * writer.gap:.0f} ms", str(dict(writer.errors) or 0)
    return f"{seconds:.1f}", gap, str(writer.acked), errors, owned


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=30_000)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    table = Table("what", "seconds", "longest gap", "writes", "errors", "slots afterwards")
    ways = {
        "credscale redis-rebalance": by_credscale,
        "redis-cli, pipeline 10": by_redis_cli(10),
        "redis-cli, pipeline 100": by_redis_cli(100),
    }
    for _ in range(arguments.runs):  # in turn, so that a machine that slows down slows all
        for name, way in ways.items():
            table.add_row(name, *measure(way, arguments.keys, arguments.bytes))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
