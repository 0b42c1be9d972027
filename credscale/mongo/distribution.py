"""How a collection's chunks and bytes lie on the shards, and what is left to move.

Up to 6.0.2 the balancer equalises the number of chunks, since 6.0.3 the bytes (§0.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from credscale.mongo.commands import config_collection, retrying, run
from credscale.mongo.facts import Server, ShardedCollection, data_size, shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from credscale.mongo.commands import Client

BALANCES_BYTES = (6, 0, 3)
MEGABYTE = 1 << 20
MOVE_EVENTS = ("moveChunk.commit", "moveChunk.from", "moveChunk.to", "moveChunk.error")


@dataclass(frozen=True)
class Distribution:
    """Where a collection's data lie.

    Args:
        chunks: by shard; every shard is named.
        bytes: by shard; up to 6.0.2 with orphans.
        range_bytes: the maximum size of a chunk.
        by_bytes: whether this server balances by bytes.
    """

    chunks: dict[str, int]
    bytes: dict[str, int]
    range_bytes: int
    by_bytes: bool

    @property
    def remaining(self) -> int:
        """How many chunks are still to move until the balancer is content (an estimate when it goes by bytes)."""
        return remaining_bytes_moves(self) if self.by_bytes else remaining_moves(self.chunks)

    @property
    def text(self) -> str:
        """The chunks of each shard in words."""
        return ", ".join(f"{shard} {count}" for shard, count in sorted(self.chunks.items()))


def remaining_moves(chunks: Mapping[str, int]) -> int:
    """Return how many moves the balancer of up to 6.0.2 still makes.

    It takes from the fullest shard and gives to the emptiest, and stops as soon as either has the ideal number: the
    rounded mean (``_singleZoneBalance``, S44, §3.5). So each move lessens both sums by one, and the smaller one counts.
    """
    if not chunks:
        return 0
    ideal = math.floor(sum(chunks.values()) / len(chunks) + 0.5)  # roundf: halves away from zero
    surplus = sum(max(0, count - ideal) for count in chunks.values())
    deficit = sum(max(0, ideal - count) for count in chunks.values())
    return min(surplus, deficit)


def remaining_bytes_moves(distribution: Distribution) -> int:
    """Return how many moves are left when bytes are balanced: none while they differ by less than three ranges."""
    sizes = list(distribution.bytes.values())
    if not sizes or max(sizes) - min(sizes) < 3 * distribution.range_bytes:
        return 0
    mean = sum(sizes) / len(sizes)
    return math.ceil(sum(max(0.0, size - mean) for size in sizes) / distribution.range_bytes)


def movable(chunks: Mapping[str, int], jumbo: Mapping[str, int]) -> int:
    """Return how many of the surplus chunks are not jumbo; the balancer does not move jumbo ones."""
    if not chunks:
        return 0
    ideal = math.floor(sum(chunks.values()) / len(chunks) + 0.5)
    return sum(min(max(0, count - ideal), count - jumbo.get(shard, 0)) for shard, count in chunks.items())


def default_chunk_mb(server: Server) -> int:
    """Return the server's default chunk size in MB."""
    return 128 if server.numbers >= (6,) else 64


def distribution(client: Client, server: Server, sharded: ShardedCollection, chunk_size_mb: int | None) -> Distribution:
    """Read where a collection's data lie.

    Args:
        client: a connection to mongos.
        server: its version decides what is balanced.
        sharded: the collection.
        chunk_size_mb: the persisted chunk size; None for the default.
    """
    names = [shard.id for shard in shards(client)]
    by_bytes = server.numbers >= BALANCES_BYTES
    sizes = _owned_bytes(client, sharded.namespace) if by_bytes else data_size(client, sharded.namespace).shards
    megabytes = chunk_size_mb if chunk_size_mb is not None else default_chunk_mb(server)
    return Distribution(
        chunks=chunks_by_shard(client, sharded, names),
        bytes=dict.fromkeys(names, 0) | sizes,
        range_bytes=megabytes * MEGABYTE,
        by_bytes=by_bytes,
    )


def chunks_by_shard(client: Client, sharded: ShardedCollection, names: Iterable[str]) -> dict[str, int]:
    """Count each shard's chunks; one covered count per shard on (uuid or ns, shard), cheap with a million (§3.3)."""
    chunks = config_collection(client, "chunks")
    return {
        name: retrying(lambda shard=name: chunks.count_documents({**sharded.selector, "shard": shard}))  # type: ignore[misc]
        for name in names
    }


def jumbo_by_shard(client: Client, sharded: ShardedCollection) -> dict[str, int]:
    """Count the chunks marked jumbo by shard; reads all of the collection's chunks, so not for every poll."""
    pipeline = [
        {"$match": {**sharded.selector, "jumbo": True}},
        {"$group": {"_id": "$shard", "n": {"$sum": 1}}},
    ]
    rows = retrying(lambda: list(config_collection(client, "chunks").aggregate(pipeline)))
    return {row["_id"]: int(row["n"]) for row in rows}


def _owned_bytes(client: Client, namespace: str) -> dict[str, int]:
    pipeline: list[dict[str, Any]] = [{"$shardedDataDistribution": {}}, {"$match": {"ns": namespace}}]
    return parse_owned_bytes(retrying(lambda: list(client["admin"].aggregate(pipeline))))


def parse_owned_bytes(documents: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Understand $shardedDataDistribution (since 6.0.3)."""
    return {shard["shardName"]: int(shard["ownedSizeBytes"]) for document in documents for shard in document["shards"]}


def range_problem(client: Client, sharded: ShardedCollection, *, attempts: int = 3) -> str:
    """Return why the chunks do not tile the key space, empty when they do.

    A split or merge under way shows two halves of two moments, so a problem has to be seen several times.
    """
    problem = ""
    for _ in range(attempts):
        cursor = config_collection(client, "chunks").find(sharded.selector, {"min": 1, "max": 1}).sort("min", 1)
        problem = gap_in_ranges(cursor, list(sharded.key))
        if not problem:
            return ""
    return problem


def gap_in_ranges(ranges: Iterable[Mapping[str, Any]], fields: list[str]) -> str:
    """Return the first break in ranges ordered by ``min``; empty when they reach from MinKey to MaxKey."""
    from bson import MaxKey, MinKey

    expected: Any = dict.fromkeys(fields, MinKey())
    number = 0
    for number, chunk in enumerate(ranges, 1):
        if dict(chunk["min"]) != expected:
            return f"chunk {number} begins at {dict(chunk['min'])}, the one before ends at {expected}"
        expected = dict(chunk["max"])
    if number == 0:
        return "there are no chunks"
    return "" if expected == dict.fromkeys(fields, MaxKey()) else f"the last chunk ends at {expected}"


@dataclass(frozen=True)
class Owned:
    """What one shard holds: documents it owns, and orphans that wait for their deletion."""

    owned: int
    orphaned: int


def owned_and_orphaned(client: Client, namespace: str, key: Mapping[str, Any], index: str) -> dict[str, Owned]:
    """Count each shard's owned and orphaned documents on the shard-key index alone (§4.2).

    Args:
        client: a connection to mongos whose timeout allows a scan of the index.
        namespace: ``database.collection``.
        key: the shard key; one of its plain fields is projected, so that the plan is covered.
        index: the name of the shard-key index.
    """
    from credscale.core.clients import LONG_SECONDS

    name, _, coll = namespace.partition(".")
    shown = next((path for path, kind in key.items() if kind != "hashed"), next(iter(key)))
    command = {
        "explain": {"find": coll, "filter": {}, "projection": {"_id": 0, shown: 1}, "hint": index},
        "verbosity": "executionStats",
        "maxTimeMS": int(LONG_SECONDS * 1000),
    }
    return parse_owned(run(client, name, command))


def parse_owned(reply: Mapping[str, Any]) -> dict[str, Owned]:
    """Understand explain with executionStats: ``SHARDING_FILTER`` returns the owned and skips the orphans.

    Since 6.0 the slot-based engine shows no such stage; there the keys examined beyond those returned are the orphans.
    """
    stages = reply["executionStats"]["executionStages"]
    found = {}
    for shard in stages.get("shards", []):
        stage: Any = shard.get("executionStages", {})
        while stage and stage.get("stage") != "SHARDING_FILTER":
            stage = stage.get("inputStage")
        returned = int(shard["nReturned"])
        if stage:
            found[shard["shardName"]] = Owned(int(stage["nReturned"]), int(stage.get("chunkSkips", 0)))
        else:
            found[shard["shardName"]] = Owned(returned, max(0, int(shard.get("totalKeysExamined", 0)) - returned))
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class MoveEvent:
    """A line of config.changelog about a migration; ``seconds`` is how long its steps took."""

    time: datetime
    what: str
    donor: str
    recipient: str
    outcome: str
    error: str
    documents: int = 0
    bytes: int = 0
    seconds: float = field(default=0.0)


def recent_moves(client: Client, namespace: str, *, limit: int = 100) -> tuple[MoveEvent, ...]:
    """Read the newest migration events, newest first; config.changelog has no index but its natural order (§3.4)."""
    query = {"what": {"$in": list(MOVE_EVENTS)}, "ns": namespace}
    changelog = config_collection(client, "changelog")
    return parse_moves(retrying(lambda: list(changelog.find(query).sort("$natural", -1).limit(limit))))


def parse_moves(documents: Iterable[Mapping[str, Any]]) -> tuple[MoveEvent, ...]:
    """Understand documents of config.changelog; events that are no outcome of a move are left out."""
    found = []
    for document in documents:
        if document["what"] not in MOVE_EVENTS:
            continue
        details = document.get("details", {})
        counts = details.get("counts", {})
        steps = sum(int(value) for name, value in details.items() if name.startswith("step "))
        # Only the recipient writes a reason; moveChunk.from never does in 4.4 and 5.0 (§0.6).
        outcome = details.get("note", "success" if document["what"] == "moveChunk.commit" else "aborted")
        found.append(
            MoveEvent(
                time=document["time"],
                what=document["what"],
                donor=str(details.get("from", "")),
                recipient=str(details.get("to", "")),
                outcome=str(outcome),
                error=str(details.get("errmsg", "")),
                documents=int(counts.get("cloned", 0)),
                bytes=int(counts.get("clonedBytes", 0)),
                seconds=steps / 1000,
            )
        )
    return tuple(found)


def active_migrations(client: Client) -> dict[str, str]:
    """Return the balancer's migrations under way, in words by collection (config.migrations, up to 5.x)."""
    found = retrying(lambda: list(config_collection(client, "migrations").find()))
    return {str(each["ns"]): f"{each.get('fromShard')} -> {each.get('toShard')}" for each in found}


def is_compliant(client: Client, namespace: str) -> bool | None:
    """Ask balancerCollectionStatus; None where the command is unknown. Never enough on its own (§0.3)."""
    from pymongo.errors import OperationFailure

    try:
        reply = run(client, "admin", {"balancerCollectionStatus": namespace})
    except OperationFailure as error:
        if error.code == 59:  # CommandNotFound: before 4.4
            return None
        raise
    return bool(reply["balancerCompliant"])
