"""Print how fast the native engine is against the loop a user would write, and against mongodump where it is on PATH.

    python tests/benchmarks/backup.py [--documents 200000] [--runs 3]

All read the same collection from the same server with one reader, in turn and in processes of their own, so a machine
that slows down slows all. The native engine, and it alone, also digests every document and hashes the file; for
mongodump the reading that the engine adds to it is measured too. Every figure is the median of the runs. The speed is
mostly the server's: SecantusDB, which is used here, needs as long for each of the native engine's two reads of the
cluster time as for all documents, where MongoDB needs no time. The CPU time is the client's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def collection_on(port: int, count: int) -> Any:
    """Return the collection that worker.py filled."""
    from pymongo import MongoClient

    return MongoClient("127.0.0.1", port, directConnection=True)["bench"][f"docs{count}"]


def native(folder: Path, port: int, count: int, access: Any = None) -> int:
    """Back up with the native engine, or with mongodump where it is given access; return the bytes."""
    from credscale.mongo.backup import dump as backup
    from credscale.mongo.backup import manifest as manifests
    from credscale.mongo.backup.engine import find_mongodump, read_mongodump
    from credscale.mongo.backup.native import read_native

    collection = collection_on(port, count)
    entry = next(iter(collection.database.list_collections(filter={"name": collection.name})))
    facts = manifests.BackupFacts(collection.full_name, "bench", entry["info"]["uuid"].hex(), sharded=False)
    tool = find_mongodump() if access is not None else None
    read = read_native if tool is None else partial(read_mongodump, tool=tool, access=access)
    return backup.dump(collection, folder, facts=facts, needed=0, read=read).bytes


def mongodump(folder: Path, port: int, count: int) -> int:
    """Back up with mongodump and read its file, as the engine does."""
    from credscale.mongo.backup.mongodump import Access

    return native(folder, port, count, Access(f"mongodb://127.0.0.1:{port}/"))


def bare_mongodump(folder: Path, port: int, count: int) -> int:
    """Run mongodump alone."""
    target = ["--uri", f"mongodb://127.0.0.1:{port}/", "--db", "bench", "--collection", f"docs{count}"]
    subprocess.run(["mongodump", *target, "--out", folder], check=True, capture_output=True)
    return (folder / "bench" / f"docs{count}.bson").stat().st_size


def loop(folder: Path, port: int, count: int) -> int:
    """Back up with the loop a user would write: decode, encode, write."""
    import bson

    folder.mkdir()
    size = 0
    with (folder / "dump.bson").open("wb") as file:
        for document in collection_on(port, count).find():
            size += file.write(bson.encode(document))
    return size


WAYS: dict[str, Callable[[Path, int, int], int]] = {
    "native engine": native,
    "pymongo loop, nothing checked": loop,
    "mongodump alone": bare_mongodump,
    "mongodump engine": mongodump,
}


def measured(way: str, port: str, count: int) -> tuple[float, float]:
    """Return MB a second and CPU seconds a GB of one way, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--way", way, "--folder", f"{folder}/out", "--port", port]
        done = subprocess.run([*command, "--documents", str(count)], check=True, capture_output=True, text=True)
        speed, cost = json.loads(done.stdout)
        return speed, cost


def compare(count: int, runs: int) -> Table:
    """Measure all ways in turn."""
    ways = [way for way in WAYS if "mongodump" not in way or shutil.which("mongodump")]
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        worker = [sys.executable, str(Path(__file__).with_name("worker.py")), folder]
        server = subprocess.Popen([*worker, "serve"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            subprocess.run([*worker, "fill", port, str(count)], check=True)
            for number in range(runs + 1):
                for way in ways:
                    figures = measured(way, port, count)
                    if number:  # the first round warms the server up
                        found[way].append(figures)
        finally:
            server.terminate()
            server.wait(30)
    return table(count, found)


def table(count: int, found: dict[str, list[tuple[float, float]]]) -> Table:
    """Return the figures, each also as a ratio against the native engine."""
    title = f"backup of {count} documents, one reader"
    shown = Table("way", "MB/s", "native engine's against it", "CPU s/GB", "native engine's against it", title=title)
    ours = medians(found["native engine"])
    for way in WAYS:
        if way in found:
            speed, cost = medians(found[way])
            shown.add_row(way, f"{speed:.1f}", f"{ours[0] / speed:.2f}", f"{cost:.1f}", f"{ours[1] / cost:.2f}")
        else:
            shown.add_row(way, "not measured: mongodump is not on PATH", "-", "-", "-")
    return shown


def medians(figures: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the median of each figure by itself."""
    return statistics.median(speed for speed, _ in figures), statistics.median(cost for _, cost in figures)


def main() -> None:
    """Compare, or measure one way once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=[*WAYS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is None:
        Console(width=110).print(compare(given.documents, given.runs))
        return
    for module in ("bson", "pymongo", "credscale.mongo.backup.dump", "credscale.mongo.backup.engine"):
        importlib.import_module(module)  # before the clock runs
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    size = WAYS[given.way](given.folder, given.port, given.documents)
    used = sum(os.times()[:4]) - cpu  # with that of a mongodump
    print(json.dumps([size / 1e6 / (time.perf_counter() - start), used / size * 1e9]))


if __name__ == "__main__":
    main()
