"""Indexes, among them the hashed ones that SecantusDB does not have and that are only pretended to exist."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from credscale.lab.simulated.forwarding import forward, forward_write, namespace
from credscale.lab.simulated.replies import CommandFailed, Document, shell_text
from credscale.mongo.cluster.shard_key import has_array

if TYPE_CHECKING:
    from credscale.lab.simulated.backends import Backend
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.routing import RoutingTable
    from credscale.lab.simulated.wire import Peer


def create_indexes(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Create indexes on every shard that owns chunks; hashed ones in the catalog alone."""
    db, ns = request["$db"], namespace(request)
    if db in ("admin", "config"):
        return forward_write(cluster, request)
    cluster.ensure_primary(db)
    table = cluster.table(ns)
    specs = request["indexes"]
    hashed = [spec for spec in specs if "hashed" in spec["key"].values()]
    raw = {}
    for backend in _holders(cluster, ns, table):
        try:
            raw[backend.host] = _create_on(cluster, backend, request, hashed, table)
        except CommandFailed as error:
            failure = error.document()
            return {"raw": {backend.host: failure}, **failure}
    for spec in hashed:
        if not _is_known(spec, cluster.catalog.hidden_indexes(ns)):
            cluster.catalog.add_hidden_index(ns, {"v": 2, **spec})
    return {"raw": raw, "ok": 1.0}


def _holders(cluster: Cluster, ns: str, table: RoutingTable | None) -> list[Backend]:
    """Return the shards where a collection's indexes belong."""
    if table is not None:
        return [cluster.shard(name) for name in table.shards]
    primary = cluster.primary(ns.partition(".")[0])
    return [primary] if primary else []


def _create_on(
    cluster: Cluster, backend: Backend, request: Document, hashed: list[Document], table: RoutingTable | None
) -> Document:
    """Create the indexes on one shard and return the shard's answer."""
    db, ns = request["$db"], namespace(request)
    known = cluster.catalog.hidden_indexes(ns)
    existed = bool(shard_indexes(backend, ns))
    before = len(shard_indexes(backend, ns)) + len(known)
    plain = [spec for spec in request["indexes"] if spec not in hashed]
    for spec in plain:
        _refuse_unique(backend, ns, spec, table)
    for spec in hashed:
        _refuse_conflict(spec, known)
        _refuse_arrays(backend, ns, spec)
    if plain:
        backend.demand(db, {**request, "indexes": plain})
    elif not existed:
        backend.demand(db, {"create": request["createIndexes"]})
    new = sum(1 for spec in hashed if not _is_known(spec, known))
    after = len(shard_indexes(backend, ns)) + len(known) + new
    counts = {"numIndexesBefore": before if existed else before + 1, "numIndexesAfter": after}
    if after == before:
        return {**counts, "note": "all indexes already exist", "ok": 1.0}
    return {"createdCollectionAutomatically": not existed, **counts, "commitQuorum": "votingMembers", "ok": 1.0}


def shard_indexes(backend: Backend, ns: str) -> list[Document]:
    """Return the indexes a shard really has on a collection; none when it has no such collection."""
    db, _, collection = ns.partition(".")
    reply = backend.run(db, {"listIndexes": collection})
    if reply.get("ok"):
        return list(reply["cursor"]["firstBatch"])
    if reply.get("code") == 26:
        return []
    raise CommandFailed(reply.get("code"), str(reply.get("errmsg")))


def all_indexes(cluster: Cluster, backend: Backend, ns: str) -> list[Document]:
    """Return a shard's indexes and those pretended to exist."""
    real = shard_indexes(backend, ns)
    return real + cluster.catalog.hidden_indexes(ns) if real else []


def _is_known(spec: Mapping[str, Any], known: list[Document]) -> bool:
    """Tell whether an index exists under this name with this key."""
    return any(
        each["name"] == spec["name"] and list(each["key"].items()) == list(spec["key"].items()) for each in known
    )


def _refuse_conflict(spec: Mapping[str, Any], known: list[Document]) -> None:
    """Raise if the name or the key of a new index is taken by another index."""
    if _is_known(spec, known):
        return
    for each in known:
        if each["name"] == spec["name"]:
            told = "An existing index has the same name as the requested index."
            raise CommandFailed(86, f"{told} Requested index: {shell_text(spec)}, existing index: {shell_text(each)}")
        if list(each["key"].items()) == list(spec["key"].items()):
            raise CommandFailed(85, f"Index already exists with a different name: {each['name']}")


def _refuse_arrays(backend: Backend, ns: str, spec: Mapping[str, Any]) -> None:
    """Raise if a document has an array where a hashed index would look."""
    for document in backend.find(ns, {}, projection={"_id": 0, **dict.fromkeys(spec["key"], 1)}):
        for path in spec["key"]:
            if has_array(document, {path: 1}):
                told = "Error: hashed indexes do not currently support array values. Found array at path:"
                raise CommandFailed(16766, f"{_build_failed(backend, ns)} {told} {path}")


def _refuse_unique(backend: Backend, ns: str, spec: Mapping[str, Any], table: RoutingTable | None) -> None:
    """Raise if a unique index could not be kept unique across shards."""
    if table is not None and spec.get("unique") and not unique_possible(spec["key"], table.key):
        told = f"cannot create unique index over {shell_text(spec['key'])} with shard key pattern"
        raise CommandFailed(67, f"{_build_failed(backend, ns)} {told} {shell_text(table.key)}")


def unique_possible(index: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Tell whether uniqueness on one shard is uniqueness on all: the shard key is the index's prefix."""
    fields = list(index)
    return fields[0] == "_id" or fields[: len(key)] == list(key)


def _build_failed(backend: Backend, ns: str) -> str:
    """Return how MongoDB begins to tell of a failed index build."""
    identity = collection_uuid(backend, ns)
    shown = identity.as_uuid() if identity else "?"
    return f"Index build failed: {uuid.uuid4()}: Collection {ns} ( {shown} ) :: caused by ::"


def collection_info(backend: Backend, ns: str) -> Document | None:
    """Return a collection's entry in listCollections."""
    db, _, collection = ns.partition(".")
    reply = backend.demand(db, {"listCollections": 1, "filter": {"name": collection}})
    return next(iter(reply["cursor"]["firstBatch"]), None)


def collection_uuid(backend: Backend, ns: str) -> Any:
    """Return a collection's UUID as BSON binary."""
    return ((collection_info(backend, ns) or {}).get("info") or {}).get("uuid")


def list_indexes(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """List the indexes of a collection."""
    ns = namespace(request)
    backends = _holders(cluster, ns, cluster.table(ns))
    found = all_indexes(cluster, backends[0], ns) if backends else []
    if not found or request["$db"] in ("admin", "config"):
        return forward(cluster, request)
    return cluster.cursors.reply(ns, found, request)


def drop_indexes(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Drop indexes on every shard; MongoDB 5.0 lets even the shard key's index go."""
    db, ns, wanted = request["$db"], namespace(request), request["index"]
    if db in ("admin", "config"):
        return forward_write(cluster, request)
    hidden = cluster.catalog.hidden_indexes(ns)
    chosen = [each["name"] for each in hidden if wanted == "*" or _names(wanted, each)]
    raw = {}
    for backend in _holders(cluster, ns, cluster.table(ns)):
        number = len(shard_indexes(backend, ns)) + len(hidden)
        if wanted == "*" or not chosen:
            reply = backend.run(db, request)
            if not reply.get("ok"):
                failure = CommandFailed(reply.get("code"), str(reply.get("errmsg"))).document()
                return {"raw": {backend.host: failure}, **failure}
        raw[backend.host] = {"nIndexesWas": number, "ok": 1.0}
    cluster.catalog.drop_hidden_indexes(ns, chosen)
    return {"raw": raw, "ok": 1.0}


def _names(wanted: Any, index: Mapping[str, Any]) -> bool:
    """Tell whether a name, a key or a list of names means this index."""
    if isinstance(wanted, list):
        return index["name"] in wanted
    if isinstance(wanted, Mapping):
        return list(wanted.items()) == list(index["key"].items())
    return bool(wanted == index["name"])
