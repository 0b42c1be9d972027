"""Measure cluster_status and the delta poll against mongosh's sh.status(), on a synthetic config database.

    python tests/benchmarks/status.py [--sizes 10000,100000] [--collections 1,1000] [--mongosh PATH] [--verbose]

The server is the lab's SecantusDB behind the simulated mongos: its scans take 50 to 100 microseconds a chunk where
MongoDB's covered scan takes well under one. So read requests and bytes, which do not depend on the engine, before
seconds. mongosh comes with ``npm install mongosh``; its start is left out of its seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from credscale.core.clients import LONG_SECONDS, Clients
from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.lab import cluster as labs
from credscale.mongo.chunks.chunk_watch import ChunkWatch, tracked
from credscale.mongo.cluster import facts
from credscale.mongo.status import reads as status_reads
from credscale.mongo.status import screen as status
from tests.benchmarks.synthetic import Proxy, fill, move

if TYPE_CHECKING:
    from credscale.lab.state import LabState

PATIENT = 3600.0
SHELL = "const t = Date.now(); sh.status(%s); print('took ' + (Date.now() - t))"
MOVED = 10


def context(uri: str) -> Context:
    """Return a context on a router."""
    environment = Environment.model_validate({"name": "bench", "mongo": {"uri": uri}})
    secrets = Secrets()
    return Context(environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets)


def measured(uri: str, what: str, namespace: str, config: str) -> dict[str, Any]:
    """Do one thing in this process; return seconds, peak memory, and what belongs to it."""
    ctx = context(uri)
    client = ctx.clients.mongo(timeout=LONG_SECONDS)
    found: dict[str, Any] = {}
    start = time.perf_counter()
    if what == "status":
        seen = status_reads.look(ctx, seconds=PATIENT)
        found["unread"], found["chunks"] = seen.unread, sum(map(len, (seen.chunks or {}).values()))
        status.tables(seen)
        found["seconds"] = time.perf_counter() - start
    elif what == "nothing":
        client.admin.command("ping")
        found["seconds"] = time.perf_counter() - start
    else:
        found |= _delta(client, namespace, config)
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _delta(client: MongoClient[dict[str, Any]], namespace: str, config: str) -> dict[str, Any]:
    watch, names = ChunkWatch(client), [shard.id for shard in facts.shards(client)]
    collection = tracked(client, namespace)
    assert collection is not None
    start = time.perf_counter()
    before = watch.look(collection, names)
    counted = time.perf_counter() - start
    with MongoClient[dict[str, Any]](f"mongodb://{config}/", directConnection=True) as server:
        move(server, namespace, names[0], names[1], MOVED)
    engine, count = [0.0], watch._all_chunks

    def timed() -> int:
        start = time.perf_counter()
        number = count()
        engine[0] += time.perf_counter() - start
        return number

    watch._all_chunks = timed  # type: ignore[method-assign]
    start = time.perf_counter()
    after = watch.look(collection, names)
    polled, counting = time.perf_counter() - start, engine[0]
    right = after == watch.recount(collection, names) and after[names[1]] == before[names[1]] + MOVED
    return {
        "seconds": polled,
        "recount": counted,
        "count_command": counting,
        "recounts": watch.recounts,
        "right": right,
    }


def in_process(uri: str, what: str, namespace: str, config: str) -> dict[str, Any]:
    """Do one thing in a process of its own, so that its peak memory is its own, and count what crosses the wire."""
    proxy = Proxy(uri.removeprefix("mongodb://").rstrip("/"))
    command = [sys.executable, "-m", "tests.benchmarks.status", "--measure", what, "--namespace", namespace]
    command += ["--uri", f"mongodb://127.0.0.1:{proxy.port}/", "--config", config]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    proxy.close()
    return json.loads(done.stdout) | {"requests": proxy.requests, "bytes": proxy.bytes}


def in_mongosh(program: str, uri: str, argument: str = "") -> dict[str, Any]:
    """Run sh.status() in mongosh and count the same; the peak memory is of the largest mongosh so far."""
    proxy = Proxy(uri.removeprefix("mongodb://").rstrip("/"))
    command = [
        program,
        "--quiet",
        f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true",
        "--eval",
        SHELL % argument,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    proxy.close()
    if done.returncode:
        return {"failed": (done.stderr or done.stdout).strip().splitlines()[-1][:100]}
    took = int(done.stdout.rpartition("took ")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": took / 1000, "peak_mb": peak, "requests": proxy.requests, "bytes": proxy.bytes}


def measure(
    lab: LabState, chunks: int, collections: int, mongosh: str | None, arguments: list[str]
) -> list[tuple[str, ...]]:
    """Fill the config server and measure; sh.status() is run once with each of the arguments."""
    config = lab.process("config").plan.address
    with MongoClient[dict[str, Any]](f"mongodb://{config}/", directConnection=True) as server:
        shards = sorted(document["_id"] for document in server.config.shards.find())
        namespace = fill(server, shards, chunks, collections)
    label = f"{chunks:,} chunks, {collections:,} collections"
    nothing = in_process(lab.uri, "nothing", namespace, config)
    ours = in_process(lab.uri, "status", namespace, config)
    rows = [
        (label, "cluster_status", *_figures(ours), f"{ours['peak_mb'] - nothing['peak_mb']:.0f} MB over a ping", "")
    ]
    if ours["unread"]:
        rows.append((label, "not read", *[""] * 3, "; ".join(ours["unread"]), ""))
    for argument in arguments if mongosh is not None else ():
        theirs = in_mongosh(str(mongosh), lab.uri, argument)
        if "failed" in theirs:
            rows.append((label, f"mongosh sh.status({argument})", "failed", "", "", "", theirs["failed"]))
            continue
        ratio = (
            f"{theirs['seconds'] / ours['seconds']:.1f}x time, {theirs['requests'] / ours['requests']:.1f}x requests, "
            f"{theirs['bytes'] / ours['bytes']:.1f}x bytes"
        )
        rows.append((label, f"mongosh sh.status({argument})", *_figures(theirs), f"{theirs['peak_mb']:.0f} MB", ratio))
    delta = in_process(lab.uri, "delta", namespace, config)
    ratio = f"{delta['recount'] / delta['seconds']:.0f}x quicker than counting ({delta['recount']:.2f} s)"
    without = delta["seconds"] - delta["count_command"]
    ratio += f"; {delta['recount'] / without:.0f}x without the command count, which is O(1) in MongoDB only"
    figures = (f"{delta['seconds'] * 1000:.0f} ms", "", "")
    rows.append((label, f"delta poll after {MOVED} moves", *figures, f"right: {delta['right']}", ratio))
    return rows


def _figures(found: dict[str, Any]) -> tuple[str, str, str]:
    return f"{found['seconds']:.2f} s", f"{found['requests']}", f"{found['bytes'] / 1000:,.1f} kB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--collections", default="1,1000")
    parser.add_argument("--mongosh", default=shutil.which("mongosh"))
    parser.add_argument("--verbose", action="store_true", help="measure sh.status(true) too, which reads every chunk")
    parser.add_argument("--measure", choices=["status", "delta", "nothing"], help=argparse.SUPPRESS)
    for hidden in ("--uri", "--namespace", "--config"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.uri, arguments.measure, arguments.namespace, arguments.config)))
        return
    table = Table("config database", "what", "time", "requests", "replies", "memory", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        lab = labs.up(Path(folder) / "lab")
        try:
            with MongoClient[dict[str, Any]](lab.uri, directConnection=True) as client:
                client.admin.command({"balancerStop": 1})
            for size in map(int, arguments.sizes.split(",")):
                for collections in map(int, arguments.collections.split(",")):
                    for row in measure(
                        lab, size, collections, arguments.mongosh, ["", "true"][: 1 + arguments.verbose]
                    ):
                        table.add_row(*row)
                        print(*filter(None, row), sep=" | ", flush=True)  # a million chunks take the engine long
        finally:
            labs.down(Path(folder) / "lab", wipe=True)
    if arguments.mongosh is None:
        table.caption = "mongosh is not on PATH, so sh.status() was not measured"
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
