"""What mongos, each shard and the backup say of a collection's options, indexes and UUID, in comparable form."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.mongo.backup import dump_files as files
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying, run
from credscale.mongo.cluster.members import MEMBER_DEADLINE, config_primary, first_answering

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.cluster.commands import Client

COMMAND_NOT_FOUND, UNAUTHORIZED = 59, 13
# `ns` is what servers before 4.4 add, `background` has no meaning since 4.2, the flags mean nothing when false.
_IGNORED = frozenset({"ns", "background"})
_FLAGS = frozenset({"unique", "sparse", "hidden"})
_OLD_OPTIONS = frozenset({"autoIndexId"})
# What these options mean where they are not set; a collMod that takes one back leaves the value itself behind.
NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "validator": {},
        "validationLevel": "strict",
        "validationAction": "error",
        "changeStreamPreAndPostImages": {"enabled": False},
    }
)


@dataclass(frozen=True)
class Place:
    """What one place says of a collection.

    Args:
        name: a shard, ``mongos``, ``config`` or ``the backup``.
        uuid: 32 hex characters; empty where it is not said.
        options: None where they are not said.
        indexes: by name, without what means nothing.
        hashed: whether it lists hashed indexes; the simulated shards do not.
    """

    name: str
    uuid: str
    options: Mapping[str, Any] | None = None
    indexes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hashed: bool = True


@dataclass(frozen=True)
class Check:
    """What a check of the server's own found, or why it could not be asked."""

    findings: tuple[str, ...] = ()
    not_checked: str = ""


def of_backup(manifest: Manifest) -> Place | None:
    """Read options and indexes as they were when the backup began; None where it keeps none, as an external one."""
    path = files.metadata_file(manifest.folder, manifest.namespace)
    try:
        metadata = files.decode_metadata(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Place(
        "the backup", manifest.collection_uuid, plain_options(metadata["options"]), by_name(metadata["indexes"])
    )


def of_mongos(client: Client, namespace: str) -> Place:
    """Ask the router: it shows what one shard has."""
    place = _ask(client, namespace, "mongos")
    if place is None:
        raise PreconditionFailed(f"{namespace} does not exist. Check the namespace")
    return place


def of_shard(ctx: Context, shard: facts.Shard, namespace: str, *, hashed: bool) -> tuple[Place | None, str]:
    """Ask a shard directly; where that is refused (8.0: role directShardOperations), its indexes by way of mongos.

    Args:
        ctx: the run.
        shard: which one.
        namespace: ``database.collection``.
        hashed: whether the shard lists hashed indexes.

    Returns:
        what it says, None when it has no such collection, and what could not be asked, empty when all could.
    """
    from pymongo.errors import OperationFailure, PyMongoError

    try:
        return _ask(first_answering(ctx, shard), namespace, shard.id, hashed=hashed), ""
    except OperationFailure as error:
        why = f"code {error.code}"
        if error.code == UNAUTHORIZED:
            why = "not authorized; since 8.0 that takes the role directShardOperations"
    except PyMongoError as error:
        why = type(error).__name__
    indexes = index_stats(ctx.clients.mongo(), namespace).get(shard.id)
    if indexes is None:
        return None, f"options, UUID and indexes on {shard.id}: it can't be asked directly ({why})"
    place = Place(shard.id, "", None, indexes)
    return place, f"options and UUID on {shard.id}: it can't be asked directly ({why})"


def _ask(client: Client, namespace: str, name: str, *, hashed: bool = True) -> Place | None:
    database, coll = facts.split_namespace(namespace)
    entry = retrying(
        lambda: next(iter(client[database].list_collections(filter={"name": coll})), None), deadline=MEMBER_DEADLINE
    )
    if entry is None:
        return None
    indexes = retrying(lambda: list(client[database][coll].list_indexes()), deadline=MEMBER_DEADLINE)
    uuid = facts.uuid_hex(entry.get("info", {}).get("uuid"))
    return Place(name, uuid, plain_options(entry.get("options", {})), by_name(indexes), hashed)


def index_stats(client: Client, namespace: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Read each shard's finished indexes through mongos; empty where that is not allowed or not shown per shard."""
    from pymongo.errors import OperationFailure

    database, coll = facts.split_namespace(namespace)
    try:
        rows = retrying(lambda: list(client[database][coll].aggregate([{"$indexStats": {}}])))
    except OperationFailure:  # the caller tells that the shard was not asked
        return {}
    return parse_index_stats(rows)


def parse_index_stats(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Understand $indexStats of mongos: shard and spec stand in it since 4.2.4, ``building`` while it is no index."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if "shard" in row and "spec" in row and not row.get("building"):
            found.setdefault(row["shard"], {}).update(by_name([row["spec"]]))
    return found


def server_check(client: Client, namespace: str) -> Check:
    """Run the server's own checkMetadataConsistency (7.0 and later, mongos only)."""
    from pymongo.errors import OperationFailure

    database, coll = facts.split_namespace(namespace)
    command = {"checkMetadataConsistency": coll, "checkIndexes": True}
    try:
        rows = retrying(lambda: list(client[database].cursor_command(command)))
    except OperationFailure as error:
        if error.code == COMMAND_NOT_FOUND:
            return Check(not_checked="checkMetadataConsistency: this server does not have it (7.0 has)")
        return Check(not_checked=f"checkMetadataConsistency: it was refused (code {error.code})")
    return Check(parse_inconsistencies(rows))


def parse_inconsistencies(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Understand the cursor of checkMetadataConsistency: ``{type, description, details}``, none when all is well."""
    return tuple(f"{row['type']}: {row.get('description', '')} {canonical(row.get('details', {}))}" for row in rows)


def index_monitor(ctx: Context) -> Check:
    """Read from the config primary of how many collections it found inconsistent indexes (checked every 600 s)."""
    from pymongo.errors import PyMongoError

    why = "no primary answered"
    try:
        primary = config_primary(ctx)
        if primary is not None:
            return parse_index_monitor(run(primary, "admin", {"serverStatus": 1}, deadline=MEMBER_DEADLINE))
    except PyMongoError as error:
        why = type(error).__name__
    return Check(not_checked=f"serverStatus.shardedIndexConsistency of the config servers: {why}")


def parse_index_monitor(reply: Mapping[str, Any]) -> Check:
    """Understand serverStatus of the config primary; it counts all collections and may be ten minutes old."""
    section = reply.get("shardedIndexConsistency")
    if section is None:
        return Check(not_checked="serverStatus.shardedIndexConsistency: the config primary does not show it")
    number = int(section.get("numShardedCollectionsWithInconsistentIndexes", 0))
    if not number:
        return Check()
    return Check((f"the config primary counts {number} collections with inconsistent indexes, maybe others than this",))


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that servers no longer have, and those that say what goes without saying."""
    return {
        name: value
        for name, value in options.items()
        if name not in _OLD_OPTIONS and not (name in NEUTRAL and canonical(value) == canonical(NEUTRAL[name]))
    }


def by_name(indexes: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return index documents by name, without what means nothing."""
    return {
        index["name"]: {
            name: True if name in _FLAGS else value
            for name, value in index.items()
            if name not in _IGNORED and not (name in _FLAGS and not value)
        }
        for index in indexes
    }


def canonical(value: Any) -> str:
    """Return a value as JSON text that is equal exactly when the values are: field order counts, number types do not.

    mongodump stores an index direction as int what a shell once sent as double.
    """
    from bson import json_util

    return json_util.dumps(_numbers_alike(value), json_options=json_util.RELAXED_JSON_OPTIONS)


def _numbers_alike(value: Any) -> Any:
    if isinstance(value, dict) or hasattr(value, "items"):
        return {name: _numbers_alike(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers_alike(each) for each in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, int) else value
