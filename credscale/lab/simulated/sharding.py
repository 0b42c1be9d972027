"""shardCollection: its refusals, and the chunks that a newly sharded collection begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bson import Int64, MaxKey, MinKey

from credscale.lab.simulated.contract import IDENTITY_COMMAND
from credscale.lab.simulated.indexes import all_indexes, collection_info, collection_uuid, unique_possible
from credscale.lab.simulated.replies import CommandFailed, Document, shell_text
from credscale.lab.simulated.routing import RoutingTable, position
from credscale.lab.simulated.settings import parse_settings
from credscale.mongo.cluster.shard_key import ShardKey, has_array, index_name, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.lab.simulated.backends import Backend
    from credscale.lab.simulated.cluster import Cluster
    from credscale.lab.simulated.wire import Peer

Piece = tuple[Document, Document, str]
_KEYS_PER_CHUNK = 250_000
_CHUNKS_PER_SHARD = 2


def shard_collection(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Shard a collection, or confirm that it is sharded just so."""
    ns, key = request["shardCollection"], request["key"]
    db = ns.partition(".")[0]
    with cluster.changing(ns) as table, cluster.ddl:
        database = cluster.catalog.database(db)
        if not database or not database["partitioned"]:
            raise CommandFailed(20, f"sharding not enabled for db {db}")
        _refuse_key(key, request)
        if table is not None:
            _refuse_other_key(cluster, table, key)
        else:
            _shard(cluster, request, cluster.shard(database["primary"]))
    return {"collectionsharded": ns, "ok": 1.0}


def _refuse_key(key: Mapping[str, Any], request: Document) -> None:
    """Raise for a key that is no shard key."""
    if not key:
        raise CommandFailed(72, "Shard key cannot be empty")
    hashed = 0
    for field, kind in key.items():
        numeric = not isinstance(kind, str | bool) and kind == 1
        hashed += kind == "hashed"
        if not (numeric or kind == "hashed") or hashed > 1:
            raise CommandFailed(
                2,
                f"Shard key {shell_text(key)} can contain at most one 'hashed' field, and/or multiple numerical "
                f"fields set to a value of 1. Failed to parse field {field}",
            )
    if hashed and request.get("unique"):
        raise CommandFailed(
            72,
            "Hashed shard keys cannot be declared unique. It's possible to ensure uniqueness on the hashed field by "
            "declaring an additional (non-hashed) unique index on the field.",
        )


def _refuse_other_key(cluster: Cluster, table: RoutingTable, key: Mapping[str, Any]) -> None:
    """Raise if a collection is sharded by another key."""
    if list(table.key.items()) != list(key.items()):
        document = cluster.catalog.db.collections.find_one({"_id": table.ns})
        told = f"sharding already enabled for collection {table.ns} with options"
        raise CommandFailed(23, f"{told} {shell_text(document)}")


def _shard(cluster: Cluster, request: Document, primary: Backend) -> None:
    """Check the collection, cut it into chunks and write its metadata."""
    ns, key = request["shardCollection"], dict(request["key"])
    empty = _check_collection(cluster, primary, ns, key)
    identity = collection_uuid(primary, ns)
    started = {"shardKey": key, "collection": ns, "uuid": identity, "empty": empty}
    where = f"{primary.name}:{primary.host}"
    cluster.catalog.log(primary, "shardCollection.start", ns, {**started, "primary": where})
    if empty and "hashed" in key.values() and next(iter(key.values())) == "hashed":
        shards = list(cluster.shards())
        pieces = _even_pieces(key, shards, int(request.get("numInitialChunks") or 0))
        for name in shards:
            copy_indexes(primary, cluster.shard(name), ns)
    else:
        chunk_bytes = parse_settings(cluster.catalog.settings()).chunk_bytes
        pieces = _pieces_of_data(primary, ns, key, chunk_bytes)
    epoch, stamp = cluster.catalog.create_collection(ns, identity, key, pieces)
    version = f"1|{len(pieces) - 1}||{epoch}||{shell_text(stamp)}"
    ended = {"version": version, "numChunks": len(pieces)}
    cluster.catalog.log(primary, "shardCollection.end", ns, ended)


def _check_collection(cluster: Cluster, primary: Backend, ns: str, key: ShardKey) -> bool:
    """Raise if a collection cannot be sharded by a key; create what is missing if it is empty, and return that."""
    db, _, collection = ns.partition(".")
    info = collection_info(primary, ns)
    if info and info.get("type") == "view":
        raise CommandFailed(166, "Views cannot be sharded.")
    if info and info.get("options", {}).get("capped"):
        raise CommandFailed(72, "can't shard a capped collection")
    if info is None:
        primary.demand(db, {"create": collection})
    indexes = all_indexes(cluster, primary, ns)
    for index in indexes:
        if index.get("unique") and not unique_possible(index["key"], key):
            raise CommandFailed(
                72,
                f"can't shard collection '{ns}' with unique index on {shell_text(index['key'])} and proposed shard "
                f"key {shell_text(key)}. Uniqueness can't be maintained unless shard key is a prefix",
            )
    empty = not primary.demand(db, {"count": collection})["n"]
    fitting = [index for index in indexes if list(index["key"].items())[: len(key)] == list(key.items())]
    if any(_is_usable(primary, ns, index, key) for index in fitting):
        return empty
    if fitting:
        raise CommandFailed(96, "couldn't find valid index for shard key")
    if not empty:
        told = "Please create an index that starts with the proposed shard key before sharding the collection"
        raise CommandFailed(72, told)
    _create_index(cluster, primary, ns, key)
    return True


def _is_usable(primary: Backend, ns: str, index: Mapping[str, Any], key: ShardKey) -> bool:
    """Tell whether an index that begins with the shard key can serve it."""
    if index.get("sparse") or "partialFilterExpression" in index or "collation" in index:
        return False
    if "hashed" in index["key"].values():
        return True
    projection = {"_id": 0, **dict.fromkeys(key, 1)}
    return not any(has_array(document, key) for document in primary.find(ns, {}, projection=projection))


def _create_index(cluster: Cluster, primary: Backend, ns: str, key: ShardKey) -> None:
    """Create the index of the shard key on an empty collection."""
    db, _, collection = ns.partition(".")
    spec = {"v": 2, "key": key, "name": index_name(key)}
    if "hashed" in key.values():
        cluster.catalog.add_hidden_index(ns, spec)
    else:
        primary.demand(db, {"createIndexes": collection, "indexes": [spec]})


def copy_indexes(source: Backend, target: Backend, ns: str) -> None:
    """Give a shard the collection and its indexes, as another shard has them."""
    db, _, collection = ns.partition(".")
    if source.name == target.name:
        return
    if collection_info(target, ns) is None:
        info = collection_info(source, ns) or {}
        # One command, so that a router killed in between leaves no collection under a UUID of its own.
        target.demand(db, {IDENTITY_COMMAND: collection, "uuid": info["info"]["uuid"], **info.get("options", {})})
    specs = source.demand(db, {"listIndexes": collection})["cursor"]["firstBatch"]
    missing = [
        {name: value for name, value in spec.items() if name != "ns"} for spec in specs if spec["name"] != "_id_"
    ]
    if missing:
        target.demand(db, {"createIndexes": collection, "indexes": missing})


def _even_pieces(key: ShardKey, shards: list[str], wanted: int) -> list[Piece]:
    """Cut the space of hashes into equal chunks, the same number in a row for each shard."""
    number = wanted or _CHUNKS_PER_SHARD * len(shards)
    interval = (2**63 - 1) // number * 2
    points = [0] if number % 2 == 0 else []
    current = interval if number % 2 == 0 else interval // 2
    for _ in range((number - 1) // 2):
        points += [current, -current]
        current += interval
    field, *others = key
    rest = dict.fromkeys(others, MinKey())
    bounds = [{field: Int64(point), **rest} for point in sorted(points)]
    in_a_row = max(1, number // len(shards))
    owners = [shards[index // in_a_row % len(shards)] for index in range(number)]
    return _between(key, bounds, owners)


def _pieces_of_data(primary: Backend, ns: str, key: ShardKey, chunk_bytes: int) -> list[Piece]:
    """Cut a collection that has documents into chunks of half the configured size, all on the primary shard."""
    db, _, collection = ns.partition(".")
    stats = primary.demand(db, {"collStats": collection})
    average = max(1.0, float(stats.get("avgObjSize") or 1))
    keys_per_chunk = min(_KEYS_PER_CHUNK, max(1, int(chunk_bytes / (2 * average))))
    projection = {"_id": 0, **dict.fromkeys(key, 1)}
    bounds = [key_of(document, key) for document in primary.find(ns, {}, projection=projection)]
    places = sorted(((position(bound), number) for number, bound in enumerate(bounds)), key=lambda each: each[0])
    points: list[Document] = []
    previous, passed = None, 0
    for place, number in places:
        passed += 1
        # A point must lie above the one before: documents of one key value cannot be parted.
        if passed > keys_per_chunk and place not in (previous, places[0][0]):
            points.append(bounds[number])
            previous, passed = place, 0
    return _between(key, points, [primary.name] * (len(points) + 1))


def _between(key: ShardKey, points: list[Document], owners: list[str]) -> list[Piece]:
    """Return the chunks that split points make."""
    lowest: Document = dict.fromkeys(key, MinKey())
    highest: Document = dict.fromkeys(key, MaxKey())
    return list(zip([lowest, *points], [*points, highest], owners, strict=True))
