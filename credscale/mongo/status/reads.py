"""One look at a whole cluster: everything is asked side by side, and what does not answer in time is left out.

The number of commands depends on the number of members alone: all collections' chunks are counted by one command for
each way chunks are identified (``ns`` up to FCV 4.4, ``uuid`` since), which reads the keys of one index (§3.3).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.mongo_lease import kept_in
from credscale.mongo.chunks import moves
from credscale.mongo.chunks.chunk_watch import with_zone
from credscale.mongo.chunks.distribution import BALANCES_BYTES, NO_MIGRATIONS
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import config_collection, run
from credscale.mongo.cluster.members import config_members
from credscale.mongo.cluster.operations import MOVING, migrations
from credscale.mongo.cluster.settings import parse_settings
from credscale.mongo.status.members import Member, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.settings import BalancerSettings

ROUTER_SECONDS = 2.5
MOST_WORKERS = 64
HISTORY = timedelta(hours=24)
NEWEST_ACTIONS = 20
EITHER = {"$ifNull": ["$uuid", "$ns"]}
Counts = dict[str, dict[str, int]]  # by collection and shard


@dataclass(frozen=True)
class Seen:
    """Everything one look found; what could not be read has its empty value here and stands in ``unread``."""

    server: facts.Server
    now: datetime
    shards: list[dict[str, Any]]
    settings: BalancerSettings | None
    collections: list[dict[str, Any]]
    chunks: Counts | None
    jumbo: Counts | None
    bytes: Counts | None
    orphans: dict[str, int] | None
    zoned: frozenset[str]
    routers: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    running: list[dict[str, Any]]
    kept: dict[str, Any]
    members: list[Member]
    unread: list[str]


def look(ctx: Context, *, seconds: float = ROUTER_SECONDS) -> Seen:
    """Ask routers, config servers and all members of all shards at once.

    Args:
        ctx: the run.
        seconds: the deadline of a single read; what does not end in it is named in ``unread``.
    """
    client = ctx.clients.mongo()
    server = facts.server(client)
    now = with_zone(run(client, "admin", {"hello": 1})["localTime"])
    listed = run(client, "admin", {"listShards": 1})["shards"]
    owners = dict.fromkeys(config_members(client), "config")
    owners |= {address: shard.id for shard in facts.parse_shards({"shards": listed}) for address in shard.members}
    connections = {address: ctx.clients.mongo_member(address) for address in owners}
    reads: dict[str, Callable[[], Any]] = _router_reads(client, server, now, seconds)
    asks: dict[str, Callable[[], Any]] = {
        address: lambda address=address: ask(address, owners[address], connections[address])  # type: ignore[misc]
        for address in owners
    }
    found, unread = side_by_side(reads | asks, seconds)
    # 8.0 lists unsharded collections as well.
    collections = [each for each in found.get("collections", []) if facts.parse_sharded(each) is not None]
    members = [found.get(address, Member(address, owners[address], problem="no answer in time")) for address in owners]
    distribution = found.get("bytes")
    return Seen(
        server=server, now=now, shards=list(listed), settings=found.get("settings"), collections=collections,
        chunks=by_collection(found["chunks"], collections) if "chunks" in found else None,
        jumbo=by_collection(found["jumbo chunks"], collections) if "jumbo chunks" in found else None,
        bytes=owned_bytes(distribution) if distribution is not None else None,
        orphans=orphans(distribution) if distribution is not None else None,
        zoned=frozenset(found.get("zones", [])), routers=found.get("routers", []),
        outcomes=moves.outcomes(found.get("migrations of 24 h", [])), actions=found.get("balancer rounds", []),
        running=found.get("migrations under way", []), kept=found.get("what credscale keeps", {}), members=members,
        unread=[text for text in unread if text.partition(" (")[0] not in owners],
    )  # fmt: skip


def side_by_side(reads: Mapping[str, Callable[[], Any]], seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Do all reads at once, each within a deadline that also bounds a name server that hangs.

    Args:
        reads: by name.
        seconds: the deadline of all of them.

    Returns:
        what was read by name, and a sentence for each read that failed.
    """
    from pymongo.errors import PyMongoError

    pool = ThreadPoolExecutor(max_workers=min(MOST_WORKERS, max(1, len(reads))))
    futures = {name: pool.submit(_within, seconds, read) for name, read in reads.items()}
    # Beyond this many at a time they queue, so a large cluster gets a deadline for each turn.
    turns = -(-len(reads) // MOST_WORKERS)
    wait(futures.values(), timeout=seconds * turns)
    pool.shutdown(wait=False, cancel_futures=True)
    found, unread = {}, []
    for name, future in futures.items():
        if not future.done() or future.cancelled():
            unread.append(f"{name} (no answer within {seconds:.1f} s)")
            continue
        error = future.exception()
        if error is None:
            found[name] = future.result()
        elif isinstance(error, PyMongoError):
            unread.append(f"{name} ({type(error).__name__})")
        else:
            raise error
    return found, unread


def _within(seconds: float, read: Callable[[], Any]) -> Any:
    import pymongo

    with pymongo.timeout(seconds * 0.9):
        return read()


def _router_reads(client: Client, server: facts.Server, now: datetime, seconds: float) -> dict[str, Callable[[], Any]]:
    config = client["config"]
    reads: dict[str, Callable[[], Any]] = {
        "settings": lambda: _settings(client),
        "collections": lambda: list(config_collection(client, "collections").find({})),
        "chunks": lambda: _count(client),
        "jumbo chunks": lambda: _count_jumbo(client),
        "zones": lambda: config["tags"].distinct("ns"),
        "routers": lambda: list(config["mongos"].find({})),
        "migrations of 24 h": lambda: moves.outcome_groups(client, now - HISTORY, timeout=seconds),
        "balancer rounds": lambda: list(config["actionlog"].find({}).sort("time", -1).limit(NEWEST_ACTIONS)),
        "migrations under way": lambda: _running(client, server),
        "what credscale keeps": lambda: kept_in(client),
    }
    if server.numbers >= BALANCES_BYTES:
        reads["bytes"] = lambda: list(client["admin"].aggregate([{"$shardedDataDistribution": {}}]))
    return reads


def _settings(client: Client) -> BalancerSettings:
    # Without the repetitions of ``run``: nobody waits for this screen until an election is over.
    documents, status = list(config_collection(client, "settings").find({})), {"balancerStatus": 1}
    return parse_settings(documents, client["admin"].command(status))


def _running(client: Client, server: facts.Server) -> list[dict[str, Any]]:
    """Read the migrations under way: up to 5.x the balancer writes them down, later only $currentOp knows (§3.1)."""
    if server.numbers < NO_MIGRATIONS:
        return list(client["config"]["migrations"].find({}))
    named: list[dict[str, Any]] = [{f"command.{name}": {"$exists": True}} for name in MOVING]
    pipeline: list[dict[str, Any]] = [
        {"$currentOp": {"allUsers": True, "idleConnections": False}},
        {"$match": {"$or": named}},
    ]
    return migrations(client["admin"].aggregate(pipeline))


def _count(client: Client) -> list[dict[str, Any]]:
    """Count chunks by collection and shard on the keys of an index.

    While FCV 5.0 is being set both identities exist side by side: then each has its index and its turn.
    """
    chunks = config_collection(client, "chunks")
    present = {str(index["name"]) for index in chunks.list_indexes()}
    hints = {identity: f"{identity}_1_shard_1_min_1" for identity in ("uuid", "ns")}
    rows = [
        row
        for identity, hint in hints.items()
        if hint in present
        for row in chunks.aggregate([_by(f"${identity}")], hint=hint)
    ]
    if not any(hint in present for hint in hints.values()):  # somebody has dropped it: slower, and no less right
        rows = list(chunks.aggregate([_by(EITHER)]))
    return [row for row in rows if row["_id"].get("of") is not None]


def _count_jumbo(client: Client) -> list[dict[str, Any]]:
    """Count jumbo chunks; no index has the flag, so the server reads all chunks (§3.3)."""
    return list(config_collection(client, "chunks").aggregate([{"$match": {"jumbo": True}}, _by(EITHER)]))


def _by(identity: Any) -> dict[str, Any]:
    return {"$group": {"_id": {"of": identity, "shard": "$shard"}, "n": {"$sum": 1}}}


def by_collection(rows: list[dict[str, Any]], collections: list[dict[str, Any]]) -> Counts:
    """Give counted chunks to their collections; a row of no sharded collection is what a drop has left behind."""
    names: dict[str, str] = {}
    for document in collections:
        identity = facts.chunk_selector(document)
        names[_text(next(iter(identity.values())))] = str(document["_id"])
    found: Counts = {name: {} for name in names.values()}
    for row in rows:
        name = names.get(_text(row["_id"]["of"]))
        if name is not None:
            shard = str(row["_id"]["shard"])
            found[name][shard] = found[name].get(shard, 0) + int(row["n"])
    return found


def _text(identity: Any) -> str:
    return identity if isinstance(identity, str) else facts.uuid_hex(identity)


def owned_bytes(documents: list[dict[str, Any]]) -> Counts:
    """Understand $shardedDataDistribution of all collections."""
    return {each["ns"]: {one["shardName"]: int(one["ownedSizeBytes"]) for one in each["shards"]} for each in documents}


def orphans(documents: list[dict[str, Any]]) -> dict[str, int]:
    """Return the orphaned documents of each shard from $shardedDataDistribution."""
    found: dict[str, int] = {}
    for each in documents:
        for one in each["shards"]:
            found[one["shardName"]] = found.get(one["shardName"], 0) + int(one.get("numOrphanedDocs", 0))
    return found
