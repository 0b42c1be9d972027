"""The cluster's metadata: the documents of the config database, in the shapes of MongoDB 5.0."""

from __future__ import annotations

import itertools
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import Binary, Int64, ObjectId, Timestamp

from credscale.lab.simulated.routing import Chunk, RoutingTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from credscale.lab.simulated.backends import Backend
    from credscale.lab.simulated.replies import Document
    from credscale.mongo.cluster.shard_key import ShardKey

VERSION = "5.0.28"
HIDDEN_INDEXES = "credscale_lab_indexes"
_ticks = itertools.count(1)


def now() -> datetime:
    """Return the time as MongoDB stores it: UTC, in milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def cluster_time() -> Timestamp:
    """Return a timestamp later than all before it."""
    return Timestamp(int(time.time()), next(_ticks))


class Catalog:
    """Read and write config.* on the config server."""

    def __init__(self, config: Backend) -> None:
        self.config = config
        self.db = config.client["config"]
        self.router = ""

    def prepare(self, router: str) -> None:
        """Create what a new cluster's metadata begins with."""
        self.router = router
        self.db.version.update_one(
            {"_id": 1},
            {"$setOnInsert": {"minCompatibleVersion": 5, "currentVersion": 6, "clusterId": ObjectId()}},
            upsert=True,
        )
        for fields in (("uuid", "min"), ("uuid", "shard", "min"), ("uuid", "lastmod")):
            self.db.chunks.create_index([(field, 1) for field in fields], unique=True)

    def ping(self, started: float) -> None:
        """Write this router's sign of life."""
        sign = {"advisoryHostFQDNs": [], "mongoVersion": VERSION, "ping": now()}
        sign |= {"up": Int64(int(time.monotonic() - started)), "waiting": True}
        self.db.mongos.update_one({"_id": self.router}, {"$set": sign}, upsert=True)

    def settings(self) -> dict[str, Document]:
        """Return the documents of config.settings by _id."""
        return {document["_id"]: document for document in self.db.settings.find()}

    def shards(self) -> list[Document]:
        """Return the documents of config.shards."""
        return list(self.db.shards.find(sort=[("_id", 1)]))

    def add_shard(self, name: str, host: str) -> None:
        """Register a shard."""
        self.db.shards.insert_one({"_id": name, "host": host, "state": 1, "topologyTime": cluster_time()})

    def database(self, name: str) -> Document | None:
        """Return a database's document."""
        return self.db.databases.find_one({"_id": name})

    def add_database(self, name: str, primary: str, partitioned: bool) -> Document:
        """Register a database."""
        version = {"uuid": Binary.from_uuid(uuid.uuid4()), "timestamp": cluster_time(), "lastMod": 1}
        document = {"_id": name, "primary": primary, "partitioned": partitioned, "version": version}
        self.db.databases.insert_one(dict(document))
        return document

    def collections(self) -> list[Document]:
        """Return the documents of all sharded collections."""
        return list(self.db.collections.find(sort=[("_id", 1)]))

    def table(self, ns: str) -> RoutingTable | None:
        """Read the routing table of a collection; None when it is not sharded."""
        collection = self.db.collections.find_one({"_id": ns})
        if collection is None:
            return None
        chunks = tuple(
            Chunk(each["_id"], each["min"], each["max"], each["shard"], each["lastmod"], bool(each.get("jumbo")))
            for each in self.db.chunks.find({"uuid": collection["uuid"]}, sort=[("min", 1)])
        )
        return RoutingTable(ns, collection["uuid"], collection["lastmodEpoch"], collection["key"], chunks)

    def create_collection(
        self, ns: str, identity: Any, key: ShardKey, pieces: Sequence[tuple[Document, Document, str]]
    ) -> tuple[ObjectId, Timestamp]:
        """Write the chunks, then the collection, of a newly sharded collection; return its epoch and timestamp."""
        epoch, stamp = ObjectId(), cluster_time()
        # A crash between the two leaves chunks that no collection owns.
        self.db.chunks.delete_many({"uuid": identity})
        self.db.chunks.insert_many(
            {
                "uuid": identity,
                "min": low,
                "max": high,
                "shard": shard,
                "lastmod": Timestamp(1, number),
                "history": [{"validAfter": stamp, "shard": shard}],
            }
            for number, (low, high, shard) in enumerate(pieces)
        )
        document = {"_id": ns, "lastmodEpoch": epoch, "lastmod": now(), "timestamp": stamp, "uuid": identity}
        self.db.collections.insert_one({**document, "key": key, "unique": False})
        return epoch, stamp

    def commit_move(self, table: RoutingTable, chunk: Chunk, to: str) -> None:
        """Hand a chunk to another shard: a new major version for it, and for one chunk that stays on the donor."""
        major = table.major + 1
        change = {"shard": to, "lastmod": Timestamp(major, 0)}
        history = [{"validAfter": cluster_time(), "shard": to}]
        self.db.chunks.update_one({"_id": chunk.identity}, {"$set": {**change, "history": history}})
        left = (each for each in table.chunks if each.shard == chunk.shard and each is not chunk)
        if control := next(left, None):
            self.db.chunks.update_one({"_id": control.identity}, {"$set": {"lastmod": Timestamp(major, 1)}})

    def split(self, table: RoutingTable, chunk: Chunk, middle: Document) -> None:
        """Cut a chunk in two at a bound."""
        minor = max(each.lastmod.inc for each in table.chunks if each.lastmod.time == table.major)
        upper = {"uuid": table.uuid, "min": middle, "max": chunk.high, "shard": chunk.shard}
        history = [{"validAfter": cluster_time(), "shard": chunk.shard}]
        change = {"max": middle, "lastmod": Timestamp(table.major, minor + 1)}
        self.db.chunks.update_one({"_id": chunk.identity}, {"$set": change, "$unset": {"jumbo": ""}})
        self.db.chunks.insert_one({**upper, "lastmod": Timestamp(table.major, minor + 2), "history": history})

    def mark_jumbo(self, chunks: Iterable[Chunk]) -> None:
        """Mark chunks as too big to move."""
        for chunk in chunks:
            self.db.chunks.update_one({"_id": chunk.identity}, {"$set": {"jumbo": True}})

    def log(self, backend: Backend, what: str, ns: str, details: Mapping[str, Any], log: str = "changelog") -> None:
        """Append to config.changelog or config.actionlog in the name of a server."""
        moment = now()
        server = backend.address
        stamp = moment.isoformat(timespec="milliseconds")
        self.db[log].insert_one(
            {
                "_id": f"{server}-{stamp}-{ObjectId()}",
                "server": server,
                "shard": "config" if backend is self.config else backend.name,
                "clientAddr": "127.0.0.1",
                "time": moment,
                "what": what,
                "ns": ns,
                "details": dict(details),
            }
        )

    def hidden_indexes(self, ns: str) -> list[Document]:
        """Return the hashed indexes that are only pretended to exist on a collection."""
        return [document["spec"] for document in self.db[HIDDEN_INDEXES].find({"ns": ns}, sort=[("order", 1)])]

    def add_hidden_index(self, ns: str, spec: Document) -> None:
        """Remember a hashed index."""
        document = {"_id": {"ns": ns, "name": spec["name"]}, "ns": ns, "order": cluster_time(), "spec": spec}
        self.db[HIDDEN_INDEXES].insert_one(document)

    def drop_hidden_indexes(self, ns: str, names: Iterable[str] | None = None) -> None:
        """Forget hashed indexes, all of them when no names are given."""
        query: Document = {"ns": ns}
        if names is not None:
            query["spec.name"] = {"$in": list(names)}
        self.db[HIDDEN_INDEXES].delete_many(query)
