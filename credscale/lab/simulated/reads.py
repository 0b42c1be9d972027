"""Reads of sharded collections: whatever is asked, a document comes only from the shard that owns its chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from bson.raw_bson import RawBSONDocument

from credscale.lab.simulated.contract import MIGRATION_COMMENT
from credscale.lab.simulated.forwarding import SCRATCH, forward, namespace
from credscale.lab.simulated.replies import CommandFailed, Document
from credscale.lab.simulated.stats import collection_stages
from credscale.mongo.cluster.shard_key import sort_key

if TYPE_CHECKING:
    from credscale.lab.simulated.backends import Backend
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.routing import RoutingTable
    from credscale.lab.simulated.wire import Peer

_PASSED_ON = ("collation", "maxTimeMS", "let", "min", "max")
_SCRATCH_BYTES = 8_000_000


def find(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Answer a find."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward(cluster, request)
        return cluster.cursors.reply(table.ns, _found(cluster, table, request), request)


def _found(cluster: Cluster, table: RoutingTable, request: Document) -> Sequence[Any]:
    """Gather, order, cut and project the documents of a find."""
    sort = request.get("sort") or {}
    skip, limit = int(request.get("skip") or 0), int(request.get("limit") or 0)
    enough = skip + limit if limit and not sort else None
    documents = owned(cluster, table, request.get("filter") or {}, options(cluster, table, request), enough)
    for path, direction in reversed(sort.items()):
        if path == "$natural":
            documents = documents[:: int(direction)]
        else:
            documents.sort(key=lambda each: _order(each, path, direction), reverse=direction < 0)
    documents = documents[skip : skip + limit if limit else None]
    projection = request.get("projection") or {}
    if not projection:
        return documents
    if _is_plain(projection):
        return [_project(document, projection) for document in documents]
    with scratch(cluster, table.ns, documents) as (backend, name):
        return list(backend.read(request["$db"], {"find": name, "projection": projection}))


def options(cluster: Cluster, table: RoutingTable, request: Mapping[str, Any]) -> Document:
    """Return what a shard has to know of a read; a hint at an index that only seems to exist stays here."""
    passed = {name: request[name] for name in _PASSED_ON if name in request}
    hint = request.get("hint")
    hidden = cluster.catalog.hidden_indexes(table.ns) if hint else []
    if hint and not any(hint in (spec["name"], spec["key"]) for spec in hidden):
        passed["hint"] = hint
    return passed


def owned(
    cluster: Cluster, table: RoutingTable, query: Mapping[str, Any], passed: Document, enough: int | None = None
) -> list[RawBSONDocument]:
    """Return the matching documents, each from its owner, from all shards at once."""

    def fetch(name: str) -> list[RawBSONDocument]:
        found = cluster.shard(name).find(table.ns, query, **passed)
        return list(islice((each for each in found if table.owner(table.position_of(each)) == name), enough))

    targets = table.targets(query)
    if len(targets) == 1:
        return fetch(targets[0])
    with ThreadPoolExecutor(len(targets)) as pool:
        return list(chain.from_iterable(pool.map(fetch, targets)))


def matching(
    cluster: Cluster, table: RoutingTable, query: Mapping[str, Any], passed: Document
) -> dict[str, tuple[list[RawBSONDocument], int]]:
    """Return by shard the keys of the owned documents that match, and how many orphans match."""
    projection = {"_id": 1, **dict.fromkeys(table.key, 1)}
    result = {}
    for name in table.targets(query):
        found = list(cluster.shard(name).find(table.ns, query, projection=projection, **passed))
        mine = [each for each in found if table.owner(table.position_of(each)) == name]
        result[name] = (mine, len(found) - len(mine))
    return result


def count(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Answer a count: without a query from each shard's metadata, orphans included, as MongoDB does."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward(cluster, request)
        query = request.get("query") or {}
        if query:
            found = matching(cluster, table, query, options(cluster, table, request))
            shards = {name: len(mine) for name, (mine, _) in found.items()}
        else:
            command = {"count": request["count"]}
            shards = {name: cluster.shard(name).demand(request["$db"], command)["n"] for name in table.shards}
    skip, limit = int(request.get("skip") or 0), abs(int(request.get("limit") or 0))
    total = max(0, sum(shards.values()) - skip)
    return {"shards": shards, "n": min(total, limit) if limit else total, "ok": 1.0}


def distinct(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Answer a distinct."""
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward(cluster, request)
        documents = owned(cluster, table, request.get("query") or {}, options(cluster, table, request))
        with scratch(cluster, table.ns, documents) as (backend, name):
            reply = backend.demand(request["$db"], {"distinct": name, "key": request["key"]})
    return {"values": reply["values"], "ok": 1.0}


def aggregate(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Answer an aggregate on a collection."""
    pipeline = request["pipeline"]
    if pipeline and "$collStats" in pipeline[0]:
        stages = collection_stages(cluster, namespace(request), pipeline[0]["$collStats"])
        return _rest(cluster, namespace(request), request, pipeline[1:], stages)
    with cluster.using(namespace(request)) as table:
        if table is None:
            return forward(cluster, request)
        query, rest = _leading_match(pipeline)
        passed = options(cluster, table, request)
        if _is_count(rest):
            number = _count(cluster, table, query, passed)
            label = rest[0]["$group"]["_id"]
            return cluster.cursors.reply(table.ns, [{"_id": label, "n": number}] if number else [], request)
        return _rest(cluster, table.ns, request, rest, owned(cluster, table, query, passed))


def _leading_match(pipeline: list[Document]) -> tuple[Document, list[Document]]:
    """Split a pipeline into the query it starts with and what follows."""
    if pipeline and "$match" in pipeline[0]:
        return pipeline[0]["$match"], pipeline[1:]
    return {}, pipeline


def _is_count(pipeline: list[Document]) -> bool:
    """Recognize what drivers send for count_documents."""
    if len(pipeline) != 1 or set(pipeline[0]) != {"$group"}:
        return False
    group = pipeline[0]["$group"]
    return group.get("_id") in (1, None) and dict(group) == {"_id": group["_id"], "n": {"$sum": 1}}


def _count(cluster: Cluster, table: RoutingTable, query: Document, passed: Document) -> int:
    """Count the owned documents that match."""
    if query:
        return sum(len(mine) for mine, _ in matching(cluster, table, query, passed).values())
    return sum(cluster.keys(name, table).census(table)[0] for name in table.shards)


def _rest(cluster: Cluster, ns: str, request: Document, pipeline: list[Document], documents: Sequence[Any]) -> Document:
    """Run the rest of a pipeline over documents, on the database's primary shard."""
    if not pipeline:
        return cluster.cursors.reply(ns, documents, request)
    with scratch(cluster, ns, documents) as (backend, name):
        command = {"aggregate": name, "pipeline": pipeline, "cursor": {}, "allowDiskUse": True}
        command |= {option: request[option] for option in ("let", "collation") if option in request}
        return cluster.cursors.reply(ns, list(backend.read(request["$db"], command)), request)


@contextmanager
def scratch(cluster: Cluster, ns: str, documents: Sequence[Any]) -> Iterator[tuple[Backend, str]]:
    """Keep documents in a passing collection on the primary shard, where any query can run over them."""
    db = ns.partition(".")[0]
    backend = cluster.primary(db)
    if backend is None:
        raise CommandFailed(26, f"database {db} not found")
    name = f"{SCRATCH}{ObjectId()}"
    # Marked like a migration's writes: whoever follows the oplog has no use for them.
    comment = {"comment": MIGRATION_COMMENT}
    backend.demand(db, {"create": name, **comment})
    try:
        for batch in _by_size(documents):
            backend.demand(db, {"insert": name, "documents": batch, **comment})
        yield backend, name
    finally:
        backend.run(db, {"drop": name, **comment})


def _by_size(documents: Sequence[Any]) -> Iterator[list[Any]]:
    """Cut documents into batches that fit in a message."""
    batch: list[Any] = []
    size = 0
    for document in documents:
        length = len(document.raw) if isinstance(document, RawBSONDocument) else 1000
        if batch and size + length > _SCRATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch


def _is_plain(projection: Mapping[str, Any]) -> bool:
    """Tell whether a projection only names top-level fields."""
    return all(value in (0, 1) and "." not in name and "$" not in name for name, value in projection.items())


def _project(document: RawBSONDocument, projection: Mapping[str, Any]) -> Document:
    """Keep or leave out top-level fields."""
    named = {name for name, value in projection.items() if value}
    if named - {"_id"} or (named and len(projection) == 1):
        keep = named | ({"_id"} if projection.get("_id", 1) else set())
        return {name: value for name, value in document.items() if name in keep}
    return {name: value for name, value in document.items() if projection.get(name, 1)}


def _order(document: RawBSONDocument, path: str, direction: int) -> tuple[Any, ...]:
    """Return where a document stands in a sort; of an array its lowest element counts, or its highest."""
    values = [sort_key(value) for value in _values(document, path.split("."))]
    return (min if direction > 0 else max)(values)


def _values(value: Any, parts: list[str]) -> Iterator[Any]:
    """Yield all values at the end of a path, through arrays."""
    if isinstance(value, list):
        if not value:
            yield None
        for element in value:
            if not parts or isinstance(element, Mapping):
                yield from _values(element, parts) if parts else [element]
    elif not parts:
        yield value
    else:
        yield from _values(value.get(parts[0]) if isinstance(value, Mapping) else None, parts[1:])
