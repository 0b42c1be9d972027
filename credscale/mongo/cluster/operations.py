"""What is being done to a collection at this moment, from $currentOp of shards, router and config servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.commands import retrying
from credscale.mongo.cluster.members import MEMBER_DEADLINE, MEMBER_MILLISECONDS, config_members

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

Operation = dict[str, Any]

# The user's command and the forms in which it goes on to config servers (4.4) and shards (4.4 and 5.0).
SHARDING = (
    "shardCollection", "_configsvrShardCollection", "_shardsvrShardCollection", "_shardsvrCreateCollection",
    "_shardsvrCreateCollectionParticipant",
)  # fmt: skip
CHANGING = (
    *SHARDING, "createIndexes", "dropIndexes", "collMod", "drop", "renameCollection", "convertToCapped", "compact",
    "reshardCollection", "refineCollectionShardKey", "unshardCollection", "moveCollection",
)  # fmt: skip
MOVING = ("moveChunk", "moveRange", "_shardsvrMoveRange")
INDEX_BUILD = "Index Build"  # how the messages of the threads that build an index begin
BUILDING = ("createIndexes", "index build")


def current(client: Client, *, router: bool = False) -> list[Operation]:
    """Read the operations under way: through mongos those of every shard's primary.

    Args:
        client: a connection to mongos or to a member.
        router: those of mongos itself instead.
    """
    options = {"allUsers": True, "idleConnections": False} | ({"localOps": True} if router else {})
    pipeline = [{"$currentOp": options}]
    return retrying(
        lambda: list(client["admin"].aggregate(pipeline, maxTimeMS=MEMBER_MILLISECONDS)), deadline=MEMBER_DEADLINE
    )


def changes_on(operations: Iterable[Mapping[str, Any]], namespace: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the operations that change a collection's indexes, options or place: name and command of each."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for operation in operations:
        command = operation.get("command") or {}
        name = next((each for each in CHANGING if _names(command, each, namespace)), "")
        building = str(operation.get("msg", "")).startswith(INDEX_BUILD) and operation.get("ns") == namespace
        if name or building:
            found.append((name or "index build", command))
    return found


def migrations(operations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give operations of $currentOp the form of config.migrations; a move shows on both of its shards."""
    found = {}
    for operation in operations:
        command = operation.get("command") or {}
        name = next((each for each in MOVING if each in command), None)
        if name is not None:
            row = {"ns": command[name], "fromShard": command.get("fromShard"), "toShard": command.get("toShard")}
            found[tuple(row.values())] = row
    return list(found.values())


def in_words(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return migrations under way in words by collection; since 6.0 one collection can have several.

    Args:
        found: documents of config.migrations, or what ``migrations`` gave.
    """
    moves: dict[str, dict[str, None]] = {}
    for each in found:
        text = f"{each.get('fromShard') or '?'} -> {each.get('toShard') or '?'}"
        moves.setdefault(str(each["ns"]), {})[text] = None
    return {namespace: ", ".join(texts) for namespace, texts in moves.items()}


def _names(command: Mapping[str, Any], name: str, namespace: str) -> bool:
    """Tell whether a command of this name is about the collection, named whole or beside its database."""
    value, database = command.get(name), command.get("$db")
    return value is not None and namespace in (value, f"{database}.{value}")


def sharding_at_work(ctx: Context, namespace: str) -> bool | None:
    """Tell whether a shardCollection of this collection is at work in the cluster; None when it can't be told."""
    from pymongo.errors import PyMongoError

    client = ctx.clients.mongo()
    try:
        operations = current(client) + current(client, router=True)
        for address in config_members(client):
            operations += current(ctx.clients.mongo_member(address, timeout=MEMBER_DEADLINE))
    except PyMongoError:
        return None
    return any(name in SHARDING for name, _ in changes_on(operations, namespace))


def sharding_under_way(ctx: Context, namespace: str) -> str:
    """Return whether a shardCollection of this collection is at work somewhere, in words; empty when none is."""
    at_work = sharding_at_work(ctx, namespace)
    if at_work is None:
        return f"it can't be told whether shardCollection of {namespace} is still at work"
    return f"shardCollection of {namespace} is still at work in the cluster" if at_work else ""


def builds(operations: Iterable[Mapping[str, Any]], namespace: str) -> list[Mapping[str, Any]]:
    """Return the operations that build an index of a collection: the command and the server's own threads."""
    return [each for each in operations if {name for name, _ in changes_on([each], namespace)} & set(BUILDING)]
