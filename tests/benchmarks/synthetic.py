"""A config database as a cluster with very many chunks has it, and a proxy that counts what crosses the wire."""

from __future__ import annotations

import itertools
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import Binary, Int64, MaxKey, MinKey, ObjectId, Timestamp
from pymongo import UpdateOne

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient

KEY = {"createdAt": "hashed", "userId": 1}
BATCH = 20_000
INDEXES = (("uuid", "min"), ("uuid", "shard", "min"), ("uuid", "lastmod"))
STAMP = Timestamp(1_700_000_000, 1)


def fill(config: MongoClient[dict[str, Any]], shards: list[str], chunks: int, collections: int) -> str:
    """Write so many sharded collections with so many chunks in all, most of them on the first shard.

    Args:
        config: a connection to the config server itself.
        shards: names of registered shards.
        chunks: of all collections together.
        collections: how many.

    Returns:
        the namespace of the first one.
    """
    db = config["config"]
    db.collections.delete_many({})
    db.chunks.drop_indexes()
    db.chunks.delete_many({})
    identities = [Binary.from_uuid(uuid.uuid4()) for _ in range(collections)]
    written = itertools.chain.from_iterable(_chunks(identity, shards, chunks // collections) for identity in identities)
    while batch := list(itertools.islice(written, BATCH)):
        db.chunks.insert_many(batch, ordered=False)
    for fields in INDEXES:
        db.chunks.create_index([(field, 1) for field in fields], unique=True)
    document = {"lastmod": datetime.now(UTC), "timestamp": STAMP, "key": KEY, "unique": False}
    db.collections.insert_many(
        {"_id": f"bench.c{number:04}", "uuid": identity, "lastmodEpoch": ObjectId(), **document}
        for number, identity in enumerate(identities)
    )
    db.databases.update_one(
        {"_id": "bench"}, {"$set": {"primary": shards[0], "partitioned": True, "version": {}}}, upsert=True
    )
    return "bench.c0000"


def old_name() -> ObjectId:
    """Return an _id made a day ago, as those of chunks are that are not new."""
    return ObjectId((int(time.time()) - 86_400).to_bytes(4) + ObjectId().binary[4:])


def _chunks(identity: Binary, shards: list[str], number: int) -> Iterator[dict[str, Any]]:
    step = 2**63 // max(1, number)
    bounds = itertools.chain([MinKey()], (Int64(-(2**62) + step * each) for each in range(1, number)), [MaxKey()])
    for place, (low, high) in enumerate(itertools.pairwise(bounds)):
        shard = shards[0] if place % 10 else shards[place // 10 % len(shards)]
        yield {
            "_id": old_name(), "uuid": identity, "shard": shard, "lastmod": Timestamp(1, place),
            "min": {"createdAt": low, "userId": MinKey()}, "max": {"createdAt": high, "userId": MinKey()},
            "history": [{"validAfter": STAMP, "shard": shard}],
        }  # fmt: skip


def move(config: MongoClient[dict[str, Any]], namespace: str, donor: str, recipient: str, number: int) -> None:
    """Move so many chunks as the config server commits it: a new major version each, and one control chunk."""
    db = config["config"]
    found = db.collections.find_one({"_id": namespace})
    assert found is not None
    chosen = list(db.chunks.find({"uuid": found["uuid"], "shard": donor}).limit(number + 1))
    newest = db.chunks.find_one({"uuid": found["uuid"]}, sort=[("lastmod", -1)])
    assert newest is not None
    changes = []
    for major, chunk in enumerate(chosen[:number], newest["lastmod"].time + 1):
        history = [{"validAfter": Timestamp(int(time.time()) + 1, major), "shard": recipient}]
        moved = {"shard": recipient, "lastmod": Timestamp(major, 0), "history": history}
        changes.append(UpdateOne({"_id": chunk["_id"]}, {"$set": moved}))
    control = {"lastmod": Timestamp(newest["lastmod"].time + number, 1)}
    db.chunks.bulk_write([*changes, UpdateOne({"_id": chosen[-1]["_id"]}, {"$set": control})])


class Proxy:
    """Pass connections on to a server and count requests and bytes, whatever client makes them.

    Args:
        address: ``host:port`` of the server.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests = self.bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        from_server = source.getpeername() == self._target
        try:
            while data := source.recv(1 << 16):
                if from_server:
                    self.bytes += len(data)
                else:
                    self.requests += 1
                sink.sendall(data)
        except OSError:
            pass  # the other side has gone
        finally:
            source.close()
            sink.close()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()
