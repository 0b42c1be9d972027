"""Measure how long six fresh Redis nodes take to be a cluster that is ready on every node, against redis-cli.

    python -m tests.benchmarks.redis_create [--rounds 5]

Each round starts six new servers for each of the two, in turn; the clock starts when all answer, and stops when the
gate of §1.4 has nothing to say on any node. ``redis-cli --cluster create`` ends before that; its own time is shown too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.deploy.forming import POLL_SECONDS, form_cluster
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Callable

NODES, REPLICAS, PATIENCE = 6, 1, 60.0
PASSWORD = "correct-horse-battery"
CONFIGS = {
    "stock": {"cluster-node-timeout": "15000", "repl-diskless-sync-delay": "5"},
    "ours": {"cluster-node-timeout": "5000", "repl-diskless-sync-delay": "0"},
}


def ours(nodes: RedisNodes) -> float:
    """Create with credscale; it waits for the gate by itself."""
    begin = time.perf_counter()
    form_cluster(nodes.client, nodes.addresses, replicas=REPLICAS, timeout=PATIENCE)
    return time.perf_counter() - begin


def theirs(nodes: RedisNodes) -> float:
    """Create with redis-cli; returns when that does."""
    program = shutil.which("redis-cli")
    if program is None:
        raise SystemExit("redis-cli is not on PATH")
    command = [program, "--cluster", "create", *nodes.addresses, "--cluster-replicas", str(REPLICAS), "--cluster-yes"]
    begin = time.perf_counter()
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE, env=os.environ | {"REDISCLI_AUTH": PASSWORD}
    )
    return time.perf_counter() - begin


def measured(create: Callable[[RedisNodes], float], options: dict[str, str]) -> tuple[float, float, float]:
    """Create once; return seconds until the tool returned, until all was ready, and that since the processes began."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = RedisNodes(Path(folder), password=PASSWORD, options=options)
        try:
            born = time.perf_counter()
            nodes.start(NODES)
            begin = time.perf_counter()
            returned = create(nodes)
            while gate(nodes.look(), nodes=NODES, replicas=REPLICAS):
                if time.perf_counter() - begin > PATIENCE:
                    raise SystemExit(f"not ready after {PATIENCE:.0f} s")
                time.sleep(POLL_SECONDS)
            end = time.perf_counter()
        finally:
            nodes.end()
    return returned, end - begin, end - born


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    table = Table("servers", "created by", "returned", "ready on every node", "since the start", "slowest", "ratio")
    for name, options in CONFIGS.items():
        found: dict[str, list[tuple[float, float, float]]] = {"credscale": [], "redis-cli": []}
        for _ in range(rounds):
            for tool, create in (("credscale", ours), ("redis-cli", theirs)):
                found[tool].append(measured(create, options))
        medians = {tool: statistics.median(ready for _, ready, _ in runs) for tool, runs in found.items()}
        for tool, runs in found.items():
            returned, _, since = (statistics.median(column) for column in zip(*runs, strict=True))
            table.add_row(
                f"{name}: {', '.join(f'{key} {value}' for key, value in options.items())}", tool, f"{returned:.2f} s",
                f"{medians[tool]:.2f} s", f"{since:.2f} s", f"{max(ready for _, ready, _ in runs):.2f} s",
                f"{medians[tool] / medians['credscale']:.1f}x",
            )  # fmt: skip
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
