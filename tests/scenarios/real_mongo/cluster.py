"""A real cluster for the tests: 3 config servers, 2 shards of 3 members, a mongos; built by mongo-deploy itself."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from credscale.core.journal import read_journal
from credscale.lab.documents import make_documents
from credscale.lab.processes import free_ports
from credscale.testing import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.collection import Collection

ROOT = Path(__file__).parents[3]
PATIENCE = float(os.environ.get("CREDSCALE_PATIENCE", "1"))
DEADLINE = 1200.0 * PATIENCE
DOCUMENTS = 200_000
NAMESPACE = "credibility_prod.analyses"
PASSWORD = base64.urlsafe_b64encode(os.urandom(18)).decode()
CONFIG_SET, SHARD_SETS = "configReplSet", ("shard1ReplSet", "shard2ReplSet")
ENVIRONMENT = """\
name: real
policy: {{confirm: none}}
mongo:
  uri: file:{folder}/uri
  config_servers: {{replica_set: configReplSet, members: {config}}}
  shards:
    - {{replica_set: shard1ReplSet, members: {shard1}}}
    - {{replica_set: shard2ReplSet, members: {shard2}}}
  routers: {routers}
  deploy:
    security: {{key_file: "file:{folder}/key"}}
    admin: {{user: admin, password: "file:{folder}/password"}}
    start: process
    directory: {folder}/processes
    binaries: {binaries}
    cache_gb: 0.25
runbooks:
  shard-migrate:
    chunk_size_mb: 8
    window: ""
    backup_directory: {folder}/backups
    accept_scatter_gather: true
    fullest_percent: 99
    skip_checks: "known-bugs=made-up data; disk=a machine of tests; connections=a machine of tests"
"""
Client = MongoClient[dict[str, Any]]


class RealCluster:
    """The environment file, the command line, and connections to look behind both.

    Args:
        folder: where everything of it lies.
        binaries: the folder of mongod and mongos.
    """

    def __init__(self, folder: Path, binaries: str) -> None:
        self.folder, self.namespace = folder, NAMESPACE
        ports = [f"127.0.0.1:{port}" for port in free_ports(10)]
        self.members = {CONFIG_SET: ports[:3], SHARD_SETS[0]: ports[3:6], SHARD_SETS[1]: ports[6:9]}
        self.router = ports[9]
        for name, text in (
            ("uri", f"mongodb://admin:{PASSWORD}@{self.router}/?authSource=admin"),
            ("key", base64.b64encode(os.urandom(96)).decode()),
            ("password", PASSWORD),
        ):
            path = folder / name
            path.touch(0o600)
            path.write_text(text)
        self.environment = folder / "real.yaml"
        self.environment.write_text(
            ENVIRONMENT.format(
                folder=folder, binaries=binaries, config=json.dumps(ports[:3]), shard1=json.dumps(ports[3:6]),
                shard2=json.dumps(ports[6:9]), routers=json.dumps(ports[9:]),
            )
        )  # fmt: skip

    def connect(self, address: str) -> Client:
        """Return a direct connection to one process; the caller closes it."""
        return MongoClient(
            address, directConnection=True, username="admin", password=PASSWORD, serverSelectionTimeoutMS=20_000
        )

    def start(self, task: str, *flags: str) -> subprocess.Popen[str]:
        """Start a task and return its process."""
        command = [sys.executable, "-m", "invoke", task, "--env", str(self.environment), "--json", *flags]
        environ = os.environ | {"CREDSCALE_ARTIFACTS": str(self.folder / "artifacts"), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT, env=environ, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, task: str, *flags: str) -> tuple[int, dict[str, Any], str]:
        """Run a task to its end; return exit code, its JSON answer and everything it printed."""
        return self.finish(self.start(task, *flags))

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
        """Wait for a task's end."""
        try:
            out, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not done within {DEADLINE:.0f} s:\n{process.communicate()[0]}") from None
        answer: dict[str, Any] = {}
        with suppress(ValueError, IndexError):
            answer = json.loads(out.splitlines()[-1])
        return process.returncode, answer, out

    def events(self, runbook: str) -> Iterator[dict[str, Any]]:
        """Yield the events of the newest journal of a runbook."""
        folders = sorted((self.folder / "artifacts/real" / runbook).glob("*"), key=lambda path: path.stat().st_mtime)
        journal = folders[-1] / "journal.jsonl" if folders else None
        if journal is not None and journal.exists():
            yield from read_journal(journal)

    def wait_for_step(self, runbook: str, step: str, process: subprocess.Popen[str]) -> None:
        """Wait until a run has begun a step."""

        def begun() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{runbook} ended before {step}:\n{process.communicate()[0]}")
            return any(event["event"] == "step_started" and event["step"] == step for event in self.events(runbook))

        wait_for(begun, DEADLINE, every=0.2)

    def primary(self, replica_set: str) -> str:
        """Return the address of a replica set's primary."""

        def find() -> str | None:
            for address in self.members[replica_set]:
                with suppress(PyMongoError), self.connect(address) as client:
                    if client.admin.command("hello").get("isWritablePrimary"):
                        return address
            return None

        found = wait_for(find, 60.0 * PATIENCE, every=0.5)
        assert found is not None
        return found

    def elect(self, replica_set: str) -> None:
        """Make the primary step down and wait until another member is primary."""
        before = self.primary(replica_set)
        with self.connect(before) as client, suppress(AutoReconnect):
            client.admin.command("replSetStepDown", 20, secondaryCatchUpPeriodSecs=10)
        wait_for(lambda: self.primary(replica_set) != before, 60.0 * PATIENCE, every=0.5)

    def processes(self) -> dict[str, psutil.Process]:
        """Return the cluster's own processes by ``host:port``."""
        found = {}
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            config = next((word for word in words if str(self.folder / "processes") in word), None)
            if process.info["name"] in ("mongod", "mongos") and config is not None:
                port = Path(config).relative_to(self.folder / "processes").parts[0]
                found[f"127.0.0.1:{port}"] = process
        return found

    def kill(self, address: str) -> None:
        """Kill a process with SIGKILL."""
        process = self.processes()[address]
        process.kill()
        process.wait(30)

    def down(self) -> None:
        """Kill everything; nobody needs its data."""
        for process in self.processes().values():
            process.kill()

    def load(self, documents: int = DOCUMENTS) -> None:
        """Fill the collection."""
        with self.connect(self.router) as client:
            collection = self.collection(client)
            batch: list[dict[str, Any]] = []
            for document in make_documents(documents):
                batch.append(document)
                if len(batch) == 1000:
                    collection.insert_many(batch, ordered=False)
                    batch = []
            if batch:
                collection.insert_many(batch, ordered=False)

    def collection(self, client: Client) -> Collection[dict[str, Any]]:
        """Return the collection over a connection."""
        database, _, name = self.namespace.partition(".")
        return client[database][name]


class Writer(threading.Thread):
    """Write through mongos as the application does, and remember what must be there at the end.

    An operation whose outcome an election left open is remembered as open: it proves nothing either way.
    """

    def __init__(self, cluster: RealCluster) -> None:
        super().__init__(daemon=True)
        self.client = cluster.connect(cluster.router)
        self.collection = cluster.collection(self.client)
        self.views: dict[Any, int] = {}
        self.gone: set[Any] = set()
        self.open: set[Any] = set()
        self.done: Counter[str] = Counter()
        self.halt = threading.Event()
        self.failures: Counter[str] = Counter()
        self._known = list(self.collection.find({}, {"_id": 1, "createdAt": 1, "userId": 1}).limit(50_000))
        self._documents = make_documents(1_000_000, seed=77)

    def run(self) -> None:
        """Insert, update and delete by turns until halted."""
        turn = 0
        while not self.halt.wait(0.01):
            turn += 1
            victim = self._known.pop() if turn % 3 else next(self._documents)
            try:
                self._write(turn % 3, victim)
            except (AutoReconnect, OperationFailure) as error:
                self.open.add(victim["_id"])
                self.failures[f"{type(error).__name__} {getattr(error, 'code', None)}"] += 1
        self.client.close()

    def _write(self, kind: int, document: dict[str, Any]) -> None:
        key = {name: document[name] for name in ("_id", "createdAt", "userId")}
        if kind == 0:
            self.collection.insert_one(document)
            self.views[document["_id"]] = int(document.get("views", 0))
            self.done["inserted"] += 1
        elif kind == 1:
            found = self.collection.find_one_and_update(key, {"$inc": {"views": 1}}, return_document=True)
            assert found is not None
            self.views[document["_id"]] = found["views"]
            self.done["updated"] += 1
        else:
            self.done["deleted"] += self.collection.delete_one(key).deleted_count
            self.gone.add(document["_id"])

    def lost(self) -> list[str]:
        """Return what acknowledged writes left and the collection does not hold."""
        present = {row["_id"]: row.get("views", 0) for row in self.collection.find({}, {"views": 1})}
        wrong = [f"{each} is missing" for each in self.views if each not in present and each not in self.open]
        wrong += [f"{each} is back" for each in self.gone if each in present and each not in self.open]
        wrong += [
            f"{each} has {present[each]} views, acknowledged were {views}"
            for each, views in self.views.items()
            if each in present and each not in self.open and present[each] != views
        ]
        return wrong
