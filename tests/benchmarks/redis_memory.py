"""Measure the memory report against the guide's shell loop, on 6 and on 100 real nodes, in one run.

    python -m tests.benchmarks.redis_memory [--primaries 3,50] [--rounds 7] [--keys 200]

The loop is the guide's: ``redis-cli -p PORT info memory | grep used_memory_human`` for every port, one after the other.
It shows one number a node; the report reads all of them, judges them and, unless told otherwise, draws keys. A round
opens new connections, and the order of the contestants changes from round to round. The last line is the whole command,
with Python's start, the journal and the signed evidence.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from credscale.core.redis_clients import cluster_redis
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.memory.report import redis_memory
from credscale.testing import wait_for
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Callable

LOOP = "shell loop"
COMMAND = "invoke redis.redis-memory --interval 0"
OPTIONS = {"cluster-node-timeout": "15000", "appendonly": "no"}


def report(nodes: RedisNodes, *, sample: int) -> None:
    """Make one report over new connections."""
    ctx = nodes.context()
    rows = redis_memory(ctx, interval=0.0, sample=sample).output["rows"]
    ctx.clients.close()
    assert len(rows) == len(nodes.addresses)
    assert all(row["used"] for row in rows)


def shell_loop(nodes: RedisNodes) -> None:
    """Do what the guide does."""
    places = " ".join(address.replace(":", "/") for address in nodes.addresses)
    script = (
        f"for place in {places}; do "
        'redis-cli -h "${place%/*}" -p "${place#*/}" info memory | grep used_memory_human; done'
    )
    out = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True, timeout=120).stdout
    assert out.count("used_memory_human") == len(nodes.addresses)


def command(nodes: RedisNodes, folder: Path) -> None:
    """Run the whole command once."""
    own = {"CREDSCALE_ARTIFACTS": str(folder / "artifacts"), "CREDSCALE_KEY_DIR": str(folder / "keys")}
    subprocess.run(
        [sys.executable, "-m", *shlex.split(COMMAND), "--env", str(nodes.environment())], check=True,
        capture_output=True, timeout=120, cwd=Path(__file__).parents[2], env=os.environ | own,
    )  # fmt: skip


def fill(nodes: RedisNodes, keys: int) -> None:
    """Write so many keys a primary, half of them with an expiry."""
    with cluster_redis(nodes.addresses[:3], 2.0) as client:
        for number in range(keys * len(nodes.addresses) // 2):
            client.set(f"session:{number}", "x" * 200, ex=3600 if number % 2 else None)


def measure(primaries: int, rounds: int, keys: int, console: Console) -> None:
    """Start a cluster of so many primaries with a replica each, and print what everything takes on it."""
    folder = Path(tempfile.mkdtemp(prefix="credscale-memory-"))
    nodes = RedisNodes(folder, options=OPTIONS, hosts=10)
    try:
        nodes.start_formed(primaries)
        wait_for(lambda: not gate(nodes.look()), 90, every=0.5)
        wait_for(lambda: _filled(nodes, keys), 30)
        contestants: dict[str, Callable[[], None]] = {
            LOOP: lambda: shell_loop(nodes),
            "report, the same question: no keys drawn": lambda: report(nodes, sample=0),
            "report as it comes: 500 keys a primary": lambda: report(nodes, sample=500),
            COMMAND: lambda: command(nodes, folder),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds):
            names = list(contestants)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begin = time.perf_counter()
                contestants[name]()
                times[name].append(time.perf_counter() - begin)
    finally:
        nodes.end()
    table = Table(title=f"{2 * primaries} nodes, {rounds} rounds", title_justify="left")
    for column in ("what", "median (ms)", "least", "most", "times as fast as the loop"):
        table.add_column(column, justify="left" if column == "what" else "right")
    loop = statistics.median(times[LOOP])
    for name, found in times.items():
        middle = statistics.median(found)
        values = (middle * 1000, min(found) * 1000, max(found) * 1000)
        table.add_row(name, *(f"{value:.0f}" for value in values), f"{loop / middle:.1f}")
    console.print(table)


def _filled(nodes: RedisNodes, keys: int) -> bool:
    try:
        fill(nodes, keys)
    except RedisError:  # it refuses writes for its first 2 s
        return False
    return True


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--primaries", default="3,50")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keys", type=int, default=200, help="a primary")
    given = parser.parse_args()
    console = Console(width=110)
    for primaries in map(int, given.primaries.split(",")):
        measure(primaries, given.rounds, given.keys, console)


if __name__ == "__main__":
    main()
