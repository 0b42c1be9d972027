"""Which shard owns a document, and since when.

Up to 5.2 a write to many documents, or the deletion by a TTL index, also meets orphans, and its oplog entry looks like
any other. It is told from a write to the document itself by the chunk's history: no shard but the owner can have
written the document after the owner took over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bson.raw_bson import RawBSONDocument

from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import config_collection, retrying
from credscale.mongo.cluster.shard_key import key_of
from credscale.mongo.documents.raw import RAW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bson import Timestamp

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.documents.digest import DocumentId
    from credscale.mongo.documents.oplog import Operation


@dataclass(frozen=True)
class Owner:
    """The shard that owns a document's chunk, and since when."""

    shard: str
    since: Timestamp


def owners(client: Client, namespace: str, found: Mapping[DocumentId, Sequence[bytes]]) -> dict[DocumentId, Owner]:
    """Return the owners of documents that were just read.

    Args:
        client: the connection to mongos.
        namespace: ``database.collection``.
        found: the raw documents of each `_id`; one of which there is none or several has no single owner and is left
            out, and so is one whose chunk has no history.
    """
    sharded = facts.sharded_collection(client, namespace)
    if sharded is None:
        return {}
    chunks = config_collection(client, "chunks")
    owned = {}
    for item, copies in found.items():
        if len(copies) != 1:
            continue
        try:
            key = key_of(RawBSONDocument(copies[0], RAW), sharded.key)
        except ValueError:  # an array, which no shard key holds: the document is not in any chunk
            continue
        query = {**sharded.selector, "min": {"$lte": key}, "max": {"$gt": key}}
        chunk = retrying(lambda query=query: chunks.find_one(query, sort=[("min", -1)]))  # type: ignore[misc]
        history = (chunk or {}).get("history") or [{}]
        if "validAfter" in history[0]:
            owned[item] = Owner(str(history[0]["shard"]), history[0]["validAfter"])
    return owned


def without_orphans(operations: Iterable[Operation], owned: Mapping[DocumentId, Owner]) -> Iterator[Operation]:
    """Leave out what other shards than the owner wrote after it took over: those were writes to orphans."""
    for operation in operations:
        owner = owned.get(operation.id)
        if owner is None or operation.shard == owner.shard or operation.ts <= owner.since:
            yield operation
