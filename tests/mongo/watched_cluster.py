"""The fake cluster with what monitoring reads besides: versions of chunks, a changelog with an end, sessions."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bson import ObjectId, Timestamp
from pymongo.errors import ServerSelectionTimeoutError

from tests.mongo.conftest import NAMESPACE, FakeCluster, FakeCollection, FakeCursor, FakeDatabase

if TYPE_CHECKING:
    from typing import Self

COMMIT_SECONDS = 10.0


class WatchedCluster(FakeCluster):
    """Bump versions and write the changelog as the config server does; ``reads`` counts what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[dict[str, Any]] = []
        self.actionlog: list[dict[str, Any]] = []
        self.routers: list[dict[str, Any]] = []
        self.reads: list[str] = []
        self.born = datetime(2026, 1, 1, tzinfo=UTC)
        self.numbers = itertools.count(1)
        self.members = {f"shard{n}:27018": FakeMember(f"shard{n}:27018", f"shard{n}") for n in (1, 2)}
        self.members["config1:27019"] = FakeMember("config1:27019", "configReplSet")

    def __getitem__(self, name: str) -> WatchedDatabase:
        return WatchedDatabase(self, name)

    def shard(self, key: dict[str, Any] | None = None, chunks: int = 4) -> None:
        super().shard(key, chunks)
        for number, chunk in enumerate(self.chunks):
            chunk |= {"_id": ObjectId(), "lastmod": Timestamp(1, number)}

    def move(self, number: int = 1) -> None:
        for chunk in [each for each in self.chunks if each["shard"] == "shard1"][:number]:
            major = max(each["lastmod"].time for each in self.chunks) + 1
            chunk |= {"shard": "shard2", "lastmod": Timestamp(major, 0)}
            if left := [each for each in self.chunks if each["shard"] == "shard1"]:
                left[0]["lastmod"] = Timestamp(major, 1)
            self.tell("moveChunk.commit")

    def split(self) -> None:
        """Cut one chunk of shard1 in two, as the balancer does up to 6.0.2."""
        major = max(each["lastmod"].time for each in self.chunks)
        self.chunks.append({**self.chunks[-1], "_id": ObjectId(), "shard": "shard1", "lastmod": Timestamp(major, 99)})

    def tell(self, what: str, **details: Any) -> None:
        """Write a line of config.changelog, ten seconds after the one before."""
        number = next(self.numbers)
        moment = self.born + timedelta(seconds=COMMIT_SECONDS * number)
        ends = {"from": "shard1", "to": "shard2"}
        line = {"_id": number, "what": what, "ns": NAMESPACE, "time": moment, "details": {**ends, **details}}
        self.changelog.append(line)

    def do_getShardMap(self, _request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"map": {"config": "configReplSet/config1:27019"}}

    def start_session(self, *, causal_consistency: bool) -> FakeSession:
        assert not causal_consistency
        return FakeSession()

    def do_count(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"n": len(self.chunks)} if request["count"] == "chunks" else {"n": 0}


class FakeSession:
    operation_time = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""


class Newest(FakeCursor):
    """Documents in an order, limited, in a ``with`` block."""

    def sort(self, *order: Any) -> Newest:  # type: ignore[override]
        name, way = order
        if name == "$natural":
            return Newest(self[::way])
        return Newest(sorted(self, key=lambda each: each[name], reverse=way < 0))

    def limit(self, count: int) -> Newest:
        return Newest(self[:count])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""


class WatchedDatabase(FakeDatabase):
    cluster: WatchedCluster

    def __getitem__(self, name: str) -> WatchedCollection:
        return WatchedCollection(self.cluster, f"{self.name}.{name}")


class WatchedCollection(FakeCollection):
    cluster: WatchedCluster

    def _documents(self) -> list[dict[str, Any]]:
        more = {
            "config.tags": self.cluster.tags,
            "config.actionlog": self.cluster.actionlog,
            "config.mongos": self.cluster.routers,
        }
        return more[self.namespace] if self.namespace in more else super()._documents()

    def find(self, query: dict[str, Any] | None = None, _projection: Any = None, **_options: Any) -> Newest:
        self.cluster.reads.append(f"find {self.namespace}")
        found = Newest(super().find(query, _projection))
        newer = (query or {}).get("lastmod", {}).get("$gt")
        return found if newer is None else Newest(each for each in found if each["lastmod"] > newer)

    def aggregate(self, pipeline: list[dict[str, Any]], **_options: Any) -> list[dict[str, Any]]:
        self.cluster.reads.append(f"aggregate {self.namespace}")
        return super().aggregate(pipeline)


class FakeMember:
    """One member of a shard or of the config servers; ``replies`` by command name may be replaced by a test."""

    def __init__(self, address: str, replica_set: str, version: str = "5.0.28") -> None:
        now = datetime(2026, 1, 1, 12, tzinfo=UTC)
        one = {"name": address, "stateStr": "PRIMARY", "optimeDate": now, "electionDate": now - timedelta(days=3)}
        self.down, self.deletions = False, 0
        self.replies: dict[str, dict[str, Any]] = {
            "hello": {"isWritablePrimary": True, "setName": replica_set},
            "serverStatus": {"sharding": {"maxChunkSizeInBytes": 64 << 20}, "shardingStatistics": {}},
            "getParameter": {"featureCompatibilityVersion": {"version": "5.0"}},
            "replSetGetStatus": {"set": replica_set, "date": now, "members": [one]},
            "buildInfo": {"version": version},
            "dbStats": {"fsTotalSize": 100, "fsUsedSize": 40},
            "getLog": {"log": ['{"t":{"$date":"2026-11-23T11:14:24.885+00:00"}}']},
        }

    def __getitem__(self, _name: str) -> FakeMember:
        return self

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.down:
            raise ServerSelectionTimeoutError("connection refused")
        return self.replies[next(iter(request))]

    def count_documents(self, _query: dict[str, Any]) -> int:
        return self.deletions
