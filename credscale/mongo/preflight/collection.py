"""The collection and its place in the catalogue: kind, database, key, strays, chunks, collation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.commands import config_collection, retrying
from credscale.mongo.cluster.facts import key_text
from credscale.mongo.documents.sampling import size_text
from credscale.mongo.preflight.check import UNAUTHORIZED, Seen, check, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from credscale.mongo.cluster.facts import Collection, Database, DataSize, Key, ShardedCollection
    from credscale.mongo.preflight.look import Look

READ_MILLISECONDS = 10_000
CLEANS_UP_ITSELF = (5,)


def no_collection(look: Look) -> Seen:
    """Return the row of a check that needs a plain collection and has none; the check ``collection`` stops for it."""
    kind = "does not exist" if look.collection is None else f"is a {look.collection.type}"
    return Seen("unknown", f"{look.namespace} {kind}: there is nothing to look at", "see the check collection")


@check(
    21,
    "collection",
    command="listCollections with the name, collStats",
    reason="Only a plain collection with documents can be migrated.",
)
def collection(look: Look) -> Iterator[Seen]:
    """Look whether the collection is there, plain and not empty."""
    yield judge_kind(look.namespace, look.collection, look.size if look.is_plain else None)


def judge_kind(namespace: str, found: Collection | None, size: DataSize | None) -> Seen:
    """Judge what kind of collection it is.

    Args:
        namespace: ``database.collection``.
        found: as listCollections shows it.
        size: of a plain one.
    """
    if found is None:
        return Seen("stop", f"{namespace} does not exist", "check the parameter namespace")
    kind = "capped collection" if found.options.get("capped") else found.type
    if kind != "collection":
        return Seen("stop", f"{namespace} is a {kind}", "only plain collections can be sharded here")
    if size is None or size.documents == 0:
        remedy = (
            "load the data first; an empty collection needs no migration: shard it directly with sh.shardCollection"
        )
        return Seen("stop", f"{namespace} is empty: there is nothing to migrate", remedy)
    return Seen("ok", f"{size.documents} documents, {size_text(size.bytes)}")


@check(
    22,
    "database",
    command="config.databases, listCollections on every shard's primary",
    reason="The command shardCollection works on the shard that the catalogue names; the data must be there.",
)
def database(look: Look) -> Iterator[Seen]:
    """Look whether the catalogue names the shard that holds the data."""
    yield from judge_database(look.database, look.home, look.found_on, is_sharded=look.sharded is not None)


def judge_database(
    found: Database | None, home: str, found_on: Mapping[str, str | Exception | None], *, is_sharded: bool
) -> list[Seen]:
    """Judge where the catalogue sees the database and where the data are.

    Args:
        found: its registration.
        home: the shard on which the catalogue sees the unsharded collection.
        found_on: by shard the UUID of the collection there, None, or why it is not told.
        is_sharded: whether the collection is sharded; then its data may lie anywhere.
    """
    holders = sorted(shard for shard, uuid in found_on.items() if isinstance(uuid, str))
    if found is None:
        held = f"; {' and '.join(holders)} hold such a collection" if holders else ""
        remedy = "add the replica set that holds the data as a shard first"
        return [Seen("stop", f"the cluster does not know the database{held}", remedy)]
    place = f"primary shard {found.primary}" + (f", the collection is on {home}" if home != found.primary else "")
    if is_sharded:
        return [Seen("ok", f"{place}; the collection is sharded")]
    told = found_on.get(home)
    if isinstance(told, Exception):
        return [Seen("note", place), _refused(home, told)]
    if told is None and holders:
        seen = f"the catalogue sees the collection on {home}, it is on {' and '.join(holders)}"
        # movePrimary is no remedy: its target already holds the namespace, and it loses writes (SERVER-70437) or leaves
        # inconsistent metadata (SERVER-68511).
        remedy = (
            f"stop here and look at {found.name} on each shard itself; save the collection that has the data with "
            f"mongodump there, rename what is in the way, then restore it through mongos (do not use movePrimary)"
        )
        return [Seen("stop", seen, remedy)]
    return [
        Seen("ok", f"{place}, which {'holds the collection' if told is not None else 'has no such collection yet'}")
    ]


def _refused(shard: str, error: Exception) -> Seen:
    """Return the row of a shard that can't be looked at; 8.0 refuses direct reads without directShardOperations."""
    told = unreadable(error)
    if getattr(error, "code", None) != UNAUTHORIZED:
        return Seen("unknown", f"{shard}: {told.finding}", told.remedy)
    remedy = (
        "give the user listCollections there (8.0: the role directShardOperations), or look by mongos (7.0 and later): "
        "db.runCommand({checkMetadataConsistency: 1})"
    )
    return Seen("unknown", f"{shard}: {told.finding}", remedy)


@check(
    23,
    "shard-key",
    command="config.collections",
    reason="A sharded collection keeps its key: shardCollection with another one fails with code 23.",
)
def shard_key(look: Look) -> Iterator[Seen]:
    """Look whether the collection is sharded already, and by which key."""
    yield judge_key(look.sharded, key_text(look.key))


def judge_key(found: ShardedCollection | None, wanted: str) -> Seen:
    """Judge the key by which the collection is sharded already.

    Args:
        found: the sharded collection; None when it is not.
        wanted: the key as parameters write it.
    """
    if found is None:
        return Seen("ok", f"not sharded yet, wanted {wanted}")
    if found.key_text == wanted:
        return Seen("ok", f"sharded by {wanted} already")
    remedy = "use reshardCollection (5.0 and later), or run with the existing key"
    return Seen("stop", f"sharded by {found.key_text}, wanted {wanted}", remedy)


@check(
    24,
    "stray-collection",
    command="listCollections on every shard's primary",
    reason="A collection of the same name and another identity makes every migration to its shard abort (code 207).",
)
def stray_collection(look: Look) -> Iterator[Seen]:
    """Look on each shard for a collection of the same name that is not this one."""
    yield from judge_strays(look.namespace, look.found_on, look.home, look.sharded)


def judge_strays(
    namespace: str, found_on: Mapping[str, str | Exception | None], home: str, sharded: ShardedCollection | None
) -> list[Seen]:
    """Judge the collections of this name on other shards.

    Args:
        namespace: ``database.collection``.
        found_on: by shard the UUID of the collection there, None, or why it is not told.
        home: the shard where the unsharded collection belongs.
        sharded: the sharded collection, whose UUID is the right one everywhere.
    """
    rows = []
    for shard, uuid in sorted(found_on.items()):
        if isinstance(uuid, Exception):
            rows.append(_refused(shard, uuid))
        elif uuid is not None and (uuid != sharded.uuid if sharded is not None else shard != home):
            remedy = f"look at it on {shard} itself, then rename or drop it there"
            rows.append(Seen("stop", f"{shard} has a {namespace} of its own", remedy))
    return rows or [Seen("ok", f"none of {len(found_on)} shards has another {namespace}")]


@check(
    25,
    "leftover-chunks",
    command="config.chunks by ns (4.4) or uuid, config.collections",
    reason="On 4.4 chunks left by a shardCollection that died make the next one fail with code 51.",
)
def leftover_chunks(look: Look) -> Iterator[Seen]:
    """Look for chunks without an entry of the collection."""
    if look.sharded is not None or (look.entry or {}).get("unsplittable"):
        yield Seen("ok", "the chunks belong to the collection's entry in the catalogue")
        return
    by_namespace = look.server.numbers < CLEANS_UP_ITSELF
    # From 5.0 on chunks carry the UUID; there is no index on ns then, and config.chunks may be long.
    query = {"ns": look.namespace} if by_namespace else {"uuid": _uuid(look)}
    if query.get("uuid", "") is None:
        yield Seen("ok", "without a collection there are no chunks of it")
        return
    chunks = config_collection(look.client, "chunks")
    found = retrying(lambda: chunks.find_one(query, max_time_ms=READ_MILLISECONDS))
    yield judge_leftovers(look.namespace, found is not None, by_namespace=by_namespace)


def _uuid(look: Look) -> Any:
    from bson import Binary

    return Binary(bytes.fromhex(look.collection.uuid), 4) if look.collection and look.collection.uuid else None


def judge_leftovers(namespace: str, found: bool, *, by_namespace: bool) -> Seen:
    """Judge chunks that belong to no sharded collection.

    Args:
        namespace: ``database.collection``.
        found: whether there are any.
        by_namespace: whether this is 4.4, which does not clean up by itself.
    """
    if not found:
        return Seen("ok", "config.chunks has none of this collection")
    seen = "config.chunks has chunks of this collection, config.collections has no entry: an earlier run died"
    if not by_namespace:
        return Seen("note", f"{seen}; 5.0 and later clean up by themselves")
    command = f'db.getSiblingDB("config").chunks.deleteMany({{ns: "{namespace}"}})'
    return Seen("stop", seen, f"save config.chunks, then delete them on mongos: {command}")


@check(
    28,
    "collation",
    command="listCollections: options.collation",
    reason="Chunks are kept in simple order; a query in another collation cannot be sent to one shard.",
)
def collation(look: Look) -> Iterator[Seen]:
    """Look whether the collection has a default collation."""
    yield no_collection(look) if look.collection is None else judge_collation(look.collection.collation, look.key)


def judge_collation(locale: str, key: Key) -> Seen:
    """Judge the default collation.

    Args:
        locale: ``simple`` where there is none.
        key: the wanted shard key.
    """
    if locale == "simple":
        return Seen("ok", "the default collation is the simple one")
    hashed = "; SERVER-53335: without the latest patch they may even miss documents" if "hashed" in key.values() else ""
    seen = f"the default collation is {locale}, the shard key uses the simple one: queries go to every shard{hashed}"
    return Seen("warn", seen, "name the collation {locale: 'simple'} in the queries that shall go to one shard")
