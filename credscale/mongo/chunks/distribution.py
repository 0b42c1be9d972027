"""How a collection's chunks and bytes lie on the shards, and what is left to move.

Up to 6.0.2 the balancer equalises the number of chunks, since 6.0.3 the bytes (§0.4).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.mongo.cluster.commands import config_collection, retrying, run
from credscale.mongo.cluster.facts import Server, ShardedCollection, data_size, indexes, shards, version_numbers
from credscale.mongo.cluster.operations import current, in_words, migrations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.mongo.cluster.commands import Client

BALANCES_BYTES = (6, 0, 3)
NO_MIGRATIONS = (6,)  # from here on config.migrations stays empty
MEGABYTE = 1 << 20
EVEN = 0.1  # shards whose bytes differ by less than a tenth are called even
ATTEMPTS, PAUSE_SECONDS = 3, 1.0  # what a split, a merge or an election under way shows is gone a moment later


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

    @property
    def is_even(self) -> bool:
        """Whether shards with nothing to move are alike: bytes within three ranges of each other need not be."""
        return not self.by_bytes or self._spread <= EVEN * max(self.bytes.values(), default=0)

    @property
    def _spread(self) -> int:
        return max(self.bytes.values(), default=0) - min(self.bytes.values(), default=0)

    @property
    def content(self) -> str:
        """Why the balancer moves nothing more, in words."""
        if self.is_even:
            return "the data lie evenly"
        return (
            f"the shards' data differ by {self._spread / MEGABYTE:.0f} MB, which is less than three ranges "
            f"({3 * self.range_bytes / MEGABYTE:.0f} MB), so the balancer moves nothing"
        )


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
        chunk_size_mb: the persisted chunk size; None for the default. The collection's own comes first.
    """
    names = [shard.id for shard in shards(client)]
    sizes = bytes_by_shard(client, server, sharded.namespace)
    return Distribution(
        chunks=chunks_by_shard(client, sharded, names),
        bytes=dict.fromkeys(names, 0) | sizes,
        range_bytes=range_bytes(server, chunk_size_mb, own=sharded.range_bytes),
        by_bytes=server.numbers >= BALANCES_BYTES,
    )


def range_bytes(server: Server, chunk_size_mb: int | None, *, own: int = 0) -> int:
    """Return the maximum size of a chunk in bytes.

    Args:
        server: its version decides the default.
        chunk_size_mb: the persisted size; None for the default.
        own: a collection's own size, which it may have since 5.3; 0 where the cluster's holds.
    """
    return own or (chunk_size_mb if chunk_size_mb is not None else default_chunk_mb(server)) * MEGABYTE


def chunks_by_shard(client: Client, sharded: ShardedCollection, names: Iterable[str]) -> dict[str, int]:
    """Count each shard's chunks in one command on the keys of one index alone, whatever their number (§3.3)."""
    chunks = config_collection(client, "chunks")
    pipeline = [{"$match": sharded.selector}, {"$group": {"_id": "$shard", "n": {"$sum": 1}}}]
    hint = covering_hint(client, next(iter(sharded.selector)))
    rows = retrying(lambda: list(chunks.aggregate(pipeline, **hint)))
    return dict.fromkeys(names, 0) | {str(row["_id"]): int(row["n"]) for row in rows}


def covering_hint(client: Client, identity: str) -> dict[str, Any]:
    """Return the option that makes a count by shard read an index and no chunk.

    Left to itself the planner may as well take an index without ``shard`` and fetch every chunk. A hint at an index
    that does not exist is an error, so it is given only where the index is there.

    Args:
        client: a connection to mongos.
        identity: what tells collections apart in config.chunks: ``uuid``, or ``ns`` up to FCV 4.4.
    """
    name = f"{identity}_1_shard_1_min_1"
    return {"hint": name} if any(index.name == name for index in indexes(client, "config.chunks")) else {}


def jumbo_by_shard(client: Client, sharded: ShardedCollection) -> dict[str, int]:
    """Count the chunks marked jumbo by shard; reads all of the collection's chunks, so not for every poll."""
    pipeline = [
        {"$match": {**sharded.selector, "jumbo": True}},
        {"$group": {"_id": "$shard", "n": {"$sum": 1}}},
    ]
    rows = retrying(lambda: list(config_collection(client, "chunks").aggregate(pipeline)))
    return {row["_id"]: int(row["n"]) for row in rows}


def bytes_by_shard(client: Client, server: Server, namespace: str) -> dict[str, int]:
    """Read a collection's bytes by shard: since 6.0.3 those it owns, before that with orphans (§3.3)."""
    if server.numbers < BALANCES_BYTES:
        return data_size(client, namespace).shards
    pipeline: list[dict[str, Any]] = [{"$shardedDataDistribution": {}}, {"$match": {"ns": namespace}}]
    return parse_owned_bytes(retrying(lambda: list(client["admin"].aggregate(pipeline))))


def parse_owned_bytes(documents: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Understand $shardedDataDistribution (since 6.0.3)."""
    return {shard["shardName"]: int(shard["ownedSizeBytes"]) for document in documents for shard in document["shards"]}


def range_problem(client: Client, sharded: ShardedCollection) -> str:
    """Return why the chunks do not tile the key space, empty when they do.

    A split or merge under way shows two halves of two moments, so a problem has to be seen several times.
    """
    chunks, problem = config_collection(client, "chunks"), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        problem = retrying(
            lambda: gap_in_ranges(chunks.find(sharded.selector, {"min": 1, "max": 1}).sort("min", 1), list(sharded.key))
        )
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

    Raises:
        PreconditionFailed: a shard did not get to the end of its index, three times.
    """
    from credscale.core.clients import LONG_SECONDS

    name, _, coll = namespace.partition(".")
    shown = next((path for path, kind in key.items() if kind != "hashed"), next(iter(key)))
    command = {
        "explain": {"find": coll, "filter": {}, "projection": {"_id": 0, shown: 1}, "hint": index},
        "verbosity": "executionStats",
        "maxTimeMS": int(LONG_SECONDS * 1000),
    }
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        reply = run(client, name, command)
        problems = unfinished(reply)
        if not problems:
            return parse_owned(reply)
    raise PreconditionFailed(
        f"{namespace} can't be counted on each shard: {'; '.join(problems)}. Nothing was changed. Check rs.status() "
        "and the log of the shard, then run the same command again"
    )


def unfinished(reply: Mapping[str, Any]) -> list[str]:
    """Say which shards broke off an explain with executionStats; their counts are parts, and the reply is ok: 1."""
    return [
        f"{shard['shardName']} broke off: {shard.get('errorMessage', 'it gives no reason')}"
        for shard in reply["executionStats"]["executionStages"].get("shards", [])
        if not shard.get("executionSuccess", True)
    ]


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


def active_migrations(client: Client) -> dict[str, str]:
    """Return the migrations under way, in words by collection.

    Up to 5.x config.migrations has those of the balancer; since 6.0 it stays empty and $currentOp shows all (§3.1).
    """
    if version_numbers(str(run(client, "admin", {"buildInfo": 1})["version"])) < NO_MIGRATIONS:
        found = retrying(lambda: list(config_collection(client, "migrations").find()))
    else:
        found = migrations(current(client))
    return in_words(found)


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
