"""The measured halves of the benchmarks, each in a process of its own so that its peak memory is its own.

python worker.py FOLDER serve | fill PORT COUNT | dump PORT COUNT | digest PORT COUNT | plain PORT COUNT
"""

from __future__ import annotations

import hashlib
import itertools
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bson
from pymongo import MongoClient

from credscale.lab.documents import make_documents
from credscale.mongo.backup import dump as backup
from credscale.mongo.backup import manifest as manifests
from credscale.mongo.documents import digest, scan


def serve(folder: Path) -> None:
    """Run a SecantusDB server until told to stop; print its port."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("secantusd-py")
    command = [
        program,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--storage-path",
        folder / "server",
        "--log-level",
        "ERROR",
    ]
    with subprocess.Popen(command) as process:
        try:
            MongoClient("127.0.0.1", port, directConnection=True).admin.command("ping")
            print(port, flush=True)
            process.wait()
        finally:
            process.kill()


def measure(folder: Path, what: str, port: int, count: int) -> dict[str, float]:
    """Dump, digest or plainly hash a collection; return seconds, megabytes and this process's peak memory."""
    client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", port, directConnection=True)
    collection = client["bench"][f"docs{count}"]
    start = time.perf_counter()
    if what == "dump":
        entry = next(iter(client["bench"].list_collections(filter={"name": collection.name})))
        facts = manifests.BackupFacts(collection.full_name, "bench", entry["info"]["uuid"].hex(), sharded=False)
        size = backup.dump(collection, folder / f"dump{count}", facts=facts, needed=0).bytes
    elif what == "plain":  # what people write when they have no tool
        whole, size = hashlib.sha256(), 0
        for document in collection.find().sort("_id", 1):
            raw = bson.encode(document)
            whole.update(raw)
            size += len(raw)
    else:
        size = digest.digest_documents(scan.scan_raw(collection)).bytes
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mb": size / 1e6, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main() -> None:
    """Do one thing."""
    folder, what, *rest = Path(sys.argv[1]), *sys.argv[2:]
    if what == "serve":
        serve(folder)
    elif what == "fill":
        port, count = map(int, rest)
        collection = MongoClient("127.0.0.1", port, directConnection=True)["bench"][f"docs{count}"]
        documents = make_documents(count)
        while batch := list(itertools.islice(documents, 1000)):
            collection.insert_many(batch, ordered=False)
    else:
        print(json.dumps(measure(folder, what, *map(int, rest))))


if __name__ == "__main__":
    main()
