"""Documents with the same `_id` on more than one shard.

A shard keeps `_id` unique only for itself (§4.3). Two documents that one `_id` names and that lie in different chunks
are both owned, and mongos returns both: this is what is looked for here. They break migrations ("has the same _id",
E11000) and reshardCollection (§3.6). A copy in a chunk that its shard does not own is an orphan; mongos hides it, and
``verify_counts`` counts it. Two owned copies with the same shard key cannot be: one chunk has one owner.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying
from credscale.mongo.cluster.members import first_answering
from credscale.mongo.cluster.shard_key import sort_key
from credscale.mongo.documents.digest import DocumentId, document_hash, document_id, id_key, id_value
from credscale.mongo.documents.raw import RAW
from credscale.mongo.documents.scan import scan_raw
from credscale.mongo.proof.comparison import LOOKUP, PAUSE_SECONDS, SHOWN_IDS, id_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

# Types whose values are equal to the server across types: double, int, long, decimal.
_NUMBERS = b"\x01\x10\x12\x13"
_OBJECT_ID = b"\x07_id\0"
PROGRESS_EVERY = 10_000


class Neighbours:
    """Finds the `_id`s that come more than once in a stream in `_id` order, by the server's equality of numbers.

    ``ids`` holds the first ``SHOWN_IDS`` of them, ``count`` says how many there are.
    """

    def __init__(self) -> None:
        self.ids: list[DocumentId] = []
        self.count = 0

    def watch(self, documents: Iterable[bytes]) -> Iterator[bytes]:
        """Pass a stream on and look at each document's `_id`."""
        last: Any = None
        found = False
        for raw in documents:
            key = identity(raw)
            if key != last:
                last, found = key, False
            elif not found:
                found = True
                self.count += 1
                if len(self.ids) < SHOWN_IDS:
                    self.ids.append(document_id(raw))
            yield raw


def identity(raw: bytes) -> Any:
    """Return what two documents share exactly if a unique index of `_id` would not take both (top-level numbers)."""
    if raw[4:9] == _OBJECT_ID:  # nearly always, and a whole collection passes here
        return raw[4:21]
    key = id_key(raw)
    return sort_key(id_value(key)) if key[0] in _NUMBERS else key


@dataclass(frozen=True)
class Copy:
    """One of several documents with the same `_id`.

    Args:
        id: the `_id` in words.
        key: its shard key value as Extended JSON.
        shard: which shard holds it; empty where the shards could not be asked.
        remove: the mongosh command that deletes this copy and no other.
    """

    id: str
    key: str
    shard: str
    remove: str


def copies(ctx: Context, namespace: str, ids: Iterable[DocumentId]) -> tuple[list[Copy], list[str]]:
    """List the documents that share an `_id`, as mongos returns them now, and where each lies.

    Args:
        ctx: the run.
        namespace: ``database.collection``, sharded.
        ids: the suspected `_id`s; those that are there once are left out.

    Returns:
        the copies, and which shards could not be asked, one sentence each.
    """
    client, name = ctx.clients.mongo(), facts.split_namespace(namespace)
    wanted = list(ids)
    by_id: dict[Any, list[Any]] = {}
    for document in _find(client, name, wanted):
        by_id.setdefault(identity(document.raw), []).append(document)
    several = {each: found for each, found in by_id.items() if len(found) > 1}
    if not several:
        return [], []
    suspects = [document_id(found[0].raw) for found in several.values()]
    where, not_asked = _where(ctx, name, suspects)
    sharded = facts.sharded_collection(client, namespace)
    key = sharded.key if sharded is not None else {}
    listed = [
        Copy(
            id_text(document_id(document.raw).value),
            _text({path: _value(document, path) for path in key}),
            ", ".join(where.get(document_hash(document.raw), ())),
            _remove(name, document, key),
        )
        for found in several.values()
        for document in found
    ]
    return listed, not_asked


def _find(client: Client, name: tuple[str, str], ids: list[DocumentId]) -> Iterator[Any]:
    from pymongo.read_concern import ReadConcern

    collection: Any = client[name[0]].get_collection(name[1], codec_options=RAW, read_concern=ReadConcern("majority"))
    for start in range(0, len(ids), LOOKUP):
        query = {"_id": {"$in": [item.value for item in ids[start : start + LOOKUP]]}}
        yield from retrying(lambda query=query: list(collection.find(query)))  # type: ignore[misc]


def _where(ctx: Context, name: tuple[str, str], ids: list[DocumentId]) -> tuple[dict[bytes, list[str]], list[str]]:
    """Return by document hash which shards hold it, each shard asked directly, and those that did not answer."""
    from pymongo.errors import PyMongoError

    where: dict[bytes, list[str]] = {}
    not_asked = []
    for shard in facts.shards(ctx.clients.mongo()):
        try:
            for document in _find(first_answering(ctx, shard), name, ids):
                where.setdefault(document_hash(document.raw), []).append(shard.id)
        except PyMongoError as error:
            why = getattr(error, "code", None) or type(error).__name__
            not_asked.append(f"what {shard.id} itself holds: it was not to be asked directly ({why})")
    return where, not_asked


def _value(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for part in path.split("."):
        value = value.get(part) if hasattr(value, "get") else None
    return value


def _text(value: Any) -> str:
    from bson import json_util

    return json_util.dumps(value)


def _remove(name: tuple[str, str], document: Any, key: Mapping[str, Any]) -> str:
    """Return the command that deletes one copy: the whole shard key names it, `_id` alone would name all."""
    import json

    query = {"_id": document["_id"], **{path: _value(document, path) for path in key}}
    return (
        f"db.getSiblingDB({json.dumps(name[0])}).getCollection({json.dumps(name[1])})"
        f".deleteOne(EJSON.parse({json.dumps(_text(query))}))"
    )


def advice(found: list[Copy]) -> str:
    """Return what to do about duplicates."""
    return (
        f"Decide for each _id which document is the right one (the backup holds the one from before), then delete the "
        f"other through mongos by its full shard key, such as {found[-1].remove}. Until then chunks that hold them "
        "cannot move and reshardCollection fails"
    )


def copy_rows(found: list[Copy]) -> list[dict[str, Any]]:
    """Return copies as rows of a table."""
    return [
        {"_id": each.id, "shard key": each.key, "shard": each.shard or "not asked", "delete with": each.remove}
        for each in found
    ]


@probe(reads_all=True)
def verify_unique_ids(ctx: Context, *, namespace: str) -> Finding:
    """Read every `_id` in order through mongos and find those that more than one owned document has.

    ``verify_digest`` finds them on its way; this one is for a collection without a baseline, such as before
    reshardCollection. Orphans are no duplicates: mongos hides them.

    Args:
        namespace: ``database.collection``.
    """
    client, (name, coll) = ctx.clients.mongo(), facts.split_namespace(namespace)
    if facts.sharded_collection(client, namespace) is None:
        raise PreconditionFailed(f"{namespace} is not sharded: its shard keeps _id unique by itself")
    neighbours, number = Neighbours(), 0
    total = facts.data_size(client, namespace).documents
    for number, _ in enumerate(neighbours.watch(scan_raw(client[name][coll], only_ids=True)), 1):
        if number % PROGRESS_EVERY == 0:
            ctx.progress(number, max(total, number), "documents")
    found, not_asked = confirmed(ctx, namespace, neighbours.ids)
    if found:
        raise VerificationFailed(
            f"{namespace} has {neighbours.count} _id in more than one document; the first is {found[0].id}. "
            f"{advice(found)}",
            {"rows": copy_rows(found), "duplicated": list(dict.fromkeys(each.id for each in found)),
             "not_checked": not_asked},
        )  # fmt: skip
    return Finding(f"{number} documents have an _id of their own", {"documents": number})


def confirmed(ctx: Context, namespace: str, ids: list[DocumentId]) -> tuple[list[Copy], list[str]]:
    """List the duplicates that are still there at a second look.

    Changing a shard key value moves a document from shard to shard, so a scan can meet it twice.
    """
    if not ids:
        return [], []
    time.sleep(PAUSE_SECONDS)
    return copies(ctx, namespace, ids)
