"""Read what ``diagnose`` looks at; done only when nothing has moved for long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.diagnosis import LONG_SECONDS, StallFacts
from credscale.mongo.chunks.distribution import jumbo_by_shard
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import config_collection, retrying, run
from credscale.mongo.cluster.members import config_primary
from credscale.mongo.cluster.operations import changes_on, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from credscale.core.context import Context
    from credscale.mongo.chunks.distribution import Distribution
    from credscale.mongo.chunks.moves import MoveEvent
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.facts import ShardedCollection
    from credscale.mongo.cluster.settings import BalancerSettings

MEMBER_SECONDS = 3.0


def stall_facts(
    ctx: Context, settings: BalancerSettings, sharded: ShardedCollection, found: Distribution,
    moves: Sequence[MoveEvent], now: datetime,
) -> StallFacts:  # fmt: skip
    """Ask the cluster for everything that may keep chunks from moving; what does not answer is named, not waited for.

    Args:
        ctx: the run.
        settings: the balancer's.
        sharded: the collection.
        found: its distribution.
        moves: migration events, newest first.
        now: the config primary's local time.
    """
    client, unasked = ctx.clients.mongo(), list[str]()
    listed = _try(unasked, "listShards", lambda: run(client, "admin", {"listShards": 1})["shards"], [])
    tags = _try(unasked, "config.tags", lambda: _zones_of(client, sharded.namespace), ())
    operations = _try(unasked, "$currentOp", lambda: current(client), [])
    members = ask_primaries(ctx, listed, sharded.namespace, unasked)
    return StallFacts(
        settings, sharded, found, jumbo_by_shard(client, sharded), moves, now,
        draining=tuple(str(each["_id"]) for each in listed if each.get("draining")),
        full=full_shards(listed, found.bytes),
        zones={zone: tuple(str(each["_id"]) for each in listed if zone in each.get("tags", ())) for zone in tags},
        range_deletions={shard: each["deletions"] for shard, each in members.items() if "deletions" in each},
        transitions=tuple(shard for shard, each in members.items() if in_transition(each.get("fcv", {}))),
        elected=_try(unasked, "the config servers' election", lambda: _elected(ctx), None),
        building=tuple(name for name, _ in changes_on(operations, sharded.namespace)),
        conflicts={shard: conflicts(each["status"]) for shard, each in members.items() if "status" in each},
        long_running=long_running(operations, sharded.namespace),
        chunk_bytes={shard: size for shard, each in members.items() if (size := chunk_bytes(each.get("status", {})))},
        unasked=tuple(unasked),
    )  # fmt: skip


def _try(unasked: list[str], what: str, read: Callable[[], Any], otherwise: Any) -> Any:
    """Return what is read; where it can't be, say so and go on: a diagnosis with a gap is better than none."""
    from pymongo.errors import PyMongoError

    try:
        return read()
    except PyMongoError as error:
        unasked.append(f"{what} ({type(error).__name__})")
        return otherwise


def _zones_of(client: Client, namespace: str) -> tuple[str, ...]:
    found = retrying(lambda: list(config_collection(client, "tags").find({"ns": namespace}, {"tag": 1})))
    return tuple(sorted({str(each["tag"]) for each in found}))


def ask_primaries(
    ctx: Context, listed: Iterable[Mapping[str, Any]], namespace: str, unasked: list[str]
) -> dict[str, dict[str, Any]]:
    """Ask every shard's primary side by side for its sharding status, range deletions and compatibility version."""
    shards = facts.parse_shards({"shards": list(listed)})
    if not shards:
        return {}
    connections = {shard.id: [ctx.clients.mongo_member(address) for address in shard.members] for shard in shards}
    with ThreadPoolExecutor(max_workers=min(32, len(shards))) as pool:
        replies = dict(
            zip(connections, pool.map(lambda each: _ask(each, namespace), connections.values()), strict=True)
        )
    for shard, reply in replies.items():
        if reply.get("problem"):
            unasked.append(f"{shard} ({reply['problem']})")
    return replies


def _ask(connections: Iterable[Client], namespace: str) -> dict[str, Any]:
    import pymongo
    from pymongo.errors import PyMongoError

    problem = "no primary answered"
    for member in connections:
        found: dict[str, Any] = {}
        try:
            with pymongo.timeout(MEMBER_SECONDS):
                if not member["admin"].command({"hello": 1}).get("isWritablePrimary"):
                    continue
                found["status"] = member["admin"].command({"serverStatus": 1})
                found["deletions"] = member["config"]["rangeDeletions"].count_documents({"nss": namespace})
                found["fcv"] = member["admin"].command({"getParameter": 1, "featureCompatibilityVersion": 1})
        except PyMongoError as error:
            problem = type(error).__name__
        if found:
            return found | ({} if "fcv" in found else {"problem": problem})
    return {"problem": problem}


def full_shards(listed: Iterable[Mapping[str, Any]], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the shards that have reached their maxSize in MB (up to 4.4), as far as this collection alone tells."""
    return tuple(
        str(each["_id"])
        for each in listed
        if each.get("maxSize") and sizes.get(str(each["_id"]), 0) >= int(each["maxSize"]) << 20
    )


def in_transition(reply: Mapping[str, Any]) -> bool:
    """Tell from getParameter's reply whether setFeatureCompatibilityVersion has begun and not ended (§1.7)."""
    version = reply.get("featureCompatibilityVersion", {})
    return "targetVersion" in version or "previousVersion" in version


def conflicts(status: Mapping[str, Any]) -> int:
    """Return how many migrations a donor has given up for an index operation since it started."""
    statistics = status.get("shardingStatistics", {})
    return int(statistics.get("countDonorMoveChunkAbortConflictingIndexOperation", 0))


def chunk_bytes(status: Mapping[str, Any]) -> int:
    """Return the chunk size of the shard's last successful refresh of the settings (§3.3); 0 where it does not say."""
    return int(status.get("sharding", {}).get("maxChunkSizeInBytes", 0))


def long_running(operations: Iterable[Mapping[str, Any]], namespace: str) -> tuple[str, ...]:
    """Return transactions, and cursors on the collection, that have been open for more than ten minutes, in words."""
    found = []
    for each in operations:
        transaction = each.get("transaction") or {}
        seconds = max(
            int(transaction.get("timeOpenMicros", 0)) / 1e6,
            float(each.get("secs_running", 0)) if each.get("ns") == namespace else 0.0,
        )
        if seconds > LONG_SECONDS:
            kind = "a transaction" if transaction else str(each.get("op", "an operation"))
            found.append(f"{kind} on {each.get('shard', each.get('host', '?'))} for {seconds / 60:.0f} min")
    return tuple(found)


def _elected(ctx: Context) -> float | None:
    """Return the seconds since the config servers elected their primary; None while they have none."""
    import pymongo

    primary = config_primary(ctx)
    if primary is None:
        return None
    with pymongo.timeout(MEMBER_SECONDS):
        return seconds_since_election(primary["admin"].command({"replSetGetStatus": 1}))


def seconds_since_election(reply: Mapping[str, Any]) -> float | None:
    """Understand replSetGetStatus: how long its primary has been one."""
    for member in reply["members"]:
        if member["stateStr"] == "PRIMARY" and "electionDate" in member:
            return float((reply["date"] - member["electionDate"]).total_seconds())
    return None
