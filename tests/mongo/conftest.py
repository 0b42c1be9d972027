"""A cluster in memory for the unit tests of steps: it answers what it was built for and refuses everything else."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import Binary, MaxKey, MinKey
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMESPACE, KEY = "shop.orders", "createdAt:hashed,userId:1"
DATABASE, COLLECTION = NAMESPACE.split(".")
UUID = Binary(b"0123456789abcdef", 4)


class FakeCluster:
    """The state of a cluster and its answers.

    ``failures`` holds, by command name, errors raised by the next calls; ``log`` the commands and writes that changed
    something, in order; ``on_read`` is called at each balancerStatus, to let time pass; ``operations`` is what
    $currentOp shows; ``concerns`` says with which read concern each collection of the catalogue was last asked for.
    """

    def __init__(self) -> None:
        self.version = "5.0.28"
        self.mode, self.in_round = "full", False
        self.settings: dict[str, dict[str, Any]] = {}
        self.databases = {DATABASE: {"_id": DATABASE, "primary": "shard1", "partitioned": False}}
        self.collections: dict[str, dict[str, Any]] = {}
        self.chunks: list[dict[str, Any]] = []
        self.changelog: list[dict[str, Any]] = []
        self.indexes: list[dict[str, Any]] = [{"v": 2, "key": {"_id": 1}, "name": "_id_"}]
        self.options: dict[str, Any] = {}
        self.documents = 1000
        self.compliant = True
        self.failures: dict[str, list[Exception]] = {}
        self.operations: list[dict[str, Any]] = []
        self.migrations: list[dict[str, Any]] = []
        self.concerns: dict[str, str] = {}
        self.log: list[str] = []
        self.on_read: Callable[[], None] = lambda: None

    def __getitem__(self, name: str) -> FakeDatabase:
        return FakeDatabase(self, name)

    @property
    def admin(self) -> FakeDatabase:
        return self["admin"]

    def shard(self, key: dict[str, Any] | None = None, chunks: int = 4) -> None:
        """Shard the collection into chunks that all lie on shard1."""
        key = key if key is not None else {"createdAt": "hashed", "userId": 1}
        document = {"_id": NAMESPACE, "key": key, "uuid": UUID, "timestamp": 1}
        self.collections[NAMESPACE] = document
        bounds: list[Any] = [MinKey(), *range(1, chunks), MaxKey()]
        edges = [dict.fromkeys(key, bound) for bound in bounds]
        self.chunks = [
            {"uuid": UUID, "min": low, "max": high, "shard": "shard1"} for low, high in itertools.pairwise(edges)
        ]

    def move(self, number: int = 1) -> None:
        """Move chunks from shard1 to shard2."""
        for chunk in [each for each in self.chunks if each["shard"] == "shard1"][:number]:
            chunk["shard"] = "shard2"

    def command(self, _database: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a command."""
        name = next(iter(request))
        if self.failures.get(name):
            raise self.failures[name].pop(0)
        answer = getattr(self, f"do_{name}", None)
        if answer is None:
            raise AssertionError(f"nobody prepared an answer to {request}")
        return dict(answer(request)) | {"ok": 1.0}

    def do_hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"msg": "isdbgrid"}

    def do_buildInfo(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"version": self.version}

    def do_listShards(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"shards": [{"_id": name, "host": f"{name}/{name}:27018", "state": 1} for name in ("shard1", "shard2")]}

    def do_getShardMap(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"map": {}}

    def do_balancerStatus(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.on_read()
        return {"mode": self.mode, "inBalancerRound": self.in_round, "numBalancerRounds": 1}

    def do_balancerStop(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.log.append("balancerStop")
        self._persist("off")
        return {}

    def do_balancerStart(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.log.append("balancerStart")
        self._persist("full")
        return {}

    def _persist(self, mode: str) -> None:
        self.mode = mode
        self.settings.setdefault("balancer", {}).update({"mode": mode, "stopped": mode == "off"})
        self.settings.setdefault("autosplit", {})["enabled"] = mode == "full"

    def do_balancerCollectionStatus(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"balancerCompliant": self.compliant}

    def do_enableSharding(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.log.append("enableSharding")
        self.databases[request["enableSharding"]]["partitioned"] = True
        return {}

    def do_createIndexes(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.log.append("createIndexes")
        self.indexes += [{"v": 2, **index} for index in request["indexes"]]
        return {}

    def do_shardCollection(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = self.collections.get(request["shardCollection"])
        if found is not None and found["key"] != request["key"]:
            raise OperationFailure("sharding already enabled", 23)
        self.log.append("shardCollection")
        self.shard(request["key"])
        return {}

    def do_collStats(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        owners = {shard: sum(chunk["shard"] == shard for chunk in self.chunks) for shard in ("shard1", "shard2")}
        sizes = {shard: {"size": count * 1000} for shard, count in owners.items()}
        return {"count": self.documents, "size": self.documents * 100, "storageSize": 5000, "shards": sizes}


class FakeDatabase:
    """One database of the cluster."""

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def __getitem__(self, name: str) -> FakeCollection:
        return FakeCollection(self.cluster, f"{self.name}.{name}")

    def get_collection(self, name: str, **options: Any) -> FakeCollection:
        self.cluster.concerns[f"{self.name}.{name}"] = options["read_concern"].level
        return self[name]

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.cluster.command(self.name, request)

    def aggregate(self, _pipeline: list[Any], **_options: Any) -> list[Any]:
        if self.cluster.failures.get("currentOp"):
            raise self.cluster.failures["currentOp"].pop(0)
        return self.cluster.operations

    def list_collections(
        self,
        filter: dict[str, Any],  # noqa: A002
        **_options: Any,
    ) -> Iterator[dict[str, Any]]:
        if f"{self.name}.{filter['name']}" == NAMESPACE:
            entry = {"name": COLLECTION, "type": "collection", "options": self.cluster.options}
            yield {**entry, "info": {"uuid": UUID}}


class FakeCursor(list[dict[str, Any]]):
    """The found documents; sorting and limiting are the fake's own order."""

    def sort(self, *_order: Any) -> FakeCursor:  # type: ignore[override]
        return self

    def limit(self, count: int) -> FakeCursor:
        return FakeCursor(self[:count])


class FakeCollection:
    """One collection of the catalogue, or the user's."""

    def __init__(self, cluster: FakeCluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def _documents(self) -> list[dict[str, Any]]:
        cluster = self.cluster
        known: dict[str, list[dict[str, Any]]] = {
            "config.version": [{"_id": 1, "clusterId": "c1"}],
            "config.settings": [{"_id": name, **values} for name, values in cluster.settings.items()],
            "config.databases": list(cluster.databases.values()),
            "config.collections": list(cluster.collections.values()),
            "config.chunks": cluster.chunks,
            "config.changelog": cluster.changelog,
            "config.migrations": cluster.migrations,
        }
        return known[self.namespace]

    def find(self, query: dict[str, Any] | None = None, _projection: Any = None, **_options: Any) -> FakeCursor:
        wanted = {name: value for name, value in (query or {}).items() if not isinstance(value, dict)}
        return FakeCursor(
            document
            for document in self._documents()
            if all(document.get(name) == value for name, value in wanted.items())
        )

    def find_one(self, query: dict[str, Any], **_options: Any) -> dict[str, Any] | None:
        return next(iter(self.find(query)), None)

    def count_documents(self, query: dict[str, Any]) -> int:
        return len(self.find(query))

    def aggregate(self, pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = self.find(pipeline[0]["$match"])
        shards = sorted({document["shard"] for document in found})
        return [{"_id": shard, "n": sum(document["shard"] == shard for document in found)} for shard in shards]

    def list_indexes(self) -> list[dict[str, Any]]:
        return self.cluster.indexes

    def update_one(self, query: dict[str, Any], change: dict[str, Any], *, upsert: bool) -> None:
        assert self.namespace == "config.settings"
        assert upsert
        document = self.cluster.settings.setdefault(query["_id"], {})
        document.update(change["$set"])
        self.cluster.log.append(f"set {query['_id']} {change['$set']}")
        if "mode" in change["$set"]:
            self.cluster.mode = change["$set"]["mode"]


class FakeClients:
    """Hands out the fake cluster whatever the timeout."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster

    def mongo(self, **_options: float) -> FakeCluster:
        return self.cluster

    def mongo_uri(self) -> str:
        return "mongodb://unit:1/"

    def mongo_member(self, address: str, **_options: float) -> FakeCluster:
        raise AssertionError(f"nobody prepared an answer of {address}")


@pytest.fixture
def cluster() -> FakeCluster:
    """Return an unsharded cluster with two shards."""
    return FakeCluster()


@pytest.fixture
def make_context(cluster: FakeCluster) -> Callable[..., Context]:
    """Return a maker of contexts over the fake cluster."""

    def make(*, dry_run: bool = False, lease: Any = None) -> Context:
        environment = Environment.model_validate({"name": "unit", "mongo": {"uri": "mongodb://unit:1/"}})
        secrets = Secrets()
        clients: Any = FakeClients(cluster)
        return Context(environment, Journal(None, secrets.mask), clients, secrets, dry_run=dry_run, lease=lease)

    return make


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    """Return a context that makes changes."""
    return make_context()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses short, so that retries and polls do not slow the tests down."""
    monkeypatch.setattr("credscale.mongo.cluster.commands.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("credscale.mongo.sharding.steps.POLL_SECONDS", 0.01)
    monkeypatch.setattr("credscale.mongo.sharding.steps.BUSY_POLL_SECONDS", 0.01)
    monkeypatch.setattr("credscale.mongo.sharding.balancer_memory.PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("credscale.mongo.chunks.distribution.PAUSE_SECONDS", 0.001)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoClient[Any]]:
    """Yield a connection to a SecantusDB server process of its own, with an oplog."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = tmp_path_factory.mktemp("server")
    program = Path(sys.executable).with_name("secantusd-py")
    command = [program, "--port", str(port), "--host", "127.0.0.1", "--storage-path", storage, "--log-level", "ERROR"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with MongoClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=20_000) as connected:
                connected.admin.command("ping")
                yield connected
        finally:
            process.kill()  # its storage is thrown away
