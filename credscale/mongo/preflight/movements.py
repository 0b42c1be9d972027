"""Chunks: what moves at the moment, and what would keep them where they are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bson import Int64, MaxKey, MinKey

from credscale.mongo.cluster import members, operations
from credscale.mongo.cluster.commands import retrying
from credscale.mongo.preflight.check import Seen, Severity, check, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.facts import Key, ShardedCollection
    from credscale.mongo.preflight.look import Look

HELD = 2  # the state of a distributed lock
CATALOGUED_UNTIL = (6,)  # config.migrations and config.locks tell of moves up to 5.x
LOCK_OF_THE_BALANCER = "balancer"
MOST_DELETIONS = 10_000
READ_MILLISECONDS = 5_000


@check(
    17,
    "migrations",
    command="config.migrations and config.locks state 2 (to 5.x), $currentOp, config.reshardingOperations",
    reason="A shard takes part in one migration at a time, and other changes of the catalogue hold its locks.",
)
def migrations(look: Look) -> Iterator[Seen]:
    """Look for moves, resharding and held locks anywhere in the cluster."""
    from pymongo.errors import PyMongoError

    old = look.server.numbers < CATALOGUED_UNTIL
    found = list(look.catalogue("migrations")) if old else []
    seen: list[Seen] = []
    try:
        found += operations.migrations(look.operations)
    except PyMongoError as error:
        told = unreadable(error)
        seen.append(Seen("unknown", f"operations under way: {told.finding}", told.remedy))
    moving = operations.in_words(found)
    locks = look.catalogue("locks", {"state": HELD}) if old else []
    seen += judge_moves(moving, look.namespace)
    seen += judge_locks(locks, set(moving), look.namespace)
    seen += judge_resharding(look.catalogue("reshardingOperations"), look.namespace)
    yield from seen or [Seen("ok", "nothing moves and nothing is resharded")]


def judge_moves(moving: Mapping[str, str], namespace: str) -> list[Seen]:
    """Judge the chunks that move: ours may, as an earlier run of this migration began it."""
    rows = []
    for moved, move in sorted(moving.items()):
        ours = moved == namespace
        remedy = "" if ours else "stop_balancer waits for it, up to half an hour"
        rows.append(Seen("note" if ours else "warn", f"a chunk of {moved} moves: {move}", remedy))
    return rows


def judge_locks(locks: Iterable[Mapping[str, Any]], moving: set[str], namespace: str) -> list[Seen]:
    """Judge distributed locks; the balancer's own and those of chunks that move are told elsewhere.

    Args:
        locks: the documents of config.locks that are held.
        moving: collections of which a chunk moves.
        namespace: ours; a lock on its database counts as well.
    """
    rows = []
    for lock in locks:
        name = str(lock["_id"])
        if name == LOCK_OF_THE_BALANCER or name in moving or str(lock.get("why", "")).startswith("Migrating chunk"):
            continue
        severity: Severity = "stop" if name in (namespace, namespace.partition(".")[0]) else "warn"
        seen = f"{name} is locked: {lock.get('why', 'no reason given')} ({lock.get('who', 'unknown')})"
        rows.append(Seen(severity, seen, "wait until that command is done"))
    return rows


def judge_resharding(found: Iterable[Mapping[str, Any]], namespace: str) -> list[Seen]:
    """Judge collections that are resharded; one at a time, and no chunk of them moves."""
    rows = []
    for each in found:
        other = str(each.get("ns", each.get("nss", "?")))
        near = other.partition(".")[0] == namespace.partition(".")[0]
        remedy = f'wait for it, or give it up: db.adminCommand({{abortReshardCollection: "{other}"}})'
        rows.append(Seen("stop" if near else "warn", f"{other} is being resharded ({each.get('state', '?')})", remedy))
    return rows


@check(
    49,
    "zones",
    command="config.tags of the collection, config.shards.tags",
    reason="shardCollection refuses a key that does not fit existing zones (72), or a zone without shards (50973).",
)
def zones(look: Look) -> Iterator[Seen]:
    """Compare the collection's zones with the wanted key and with the shards."""
    tags = look.catalogue("tags", {"ns": look.namespace})
    yield from judge_zones(tags, look.catalogue("shards"), look.key)


def judge_zones(tags: Sequence[Mapping[str, Any]], shards: Iterable[Mapping[str, Any]], key: Key) -> list[Seen]:
    """Judge the zones of a collection.

    Args:
        tags: its documents of config.tags.
        shards: the documents of config.shards.
        key: the wanted shard key.
    """
    served = {str(zone) for shard in shards for zone in shard.get("tags", [])}
    rows = [
        Seen("stop", f"the zone {zone} has no shard", f'run sh.addShardToZone("<shard>", "{zone}")')
        for zone in sorted({str(tag["tag"]) for tag in tags} - served)
    ]
    for tag in tags:
        bounds = [dict(tag[end]) for end in ("min", "max")]
        remedy = "remove it with sh.removeRangeFromZone, shard, then make it anew by the key"
        if any(list(bound) != list(key) for bound in bounds):
            seen = f"a range of the zone {tag['tag']} is of {', '.join(bounds[0])}, the key of {', '.join(key)}"
            rows.append(Seen("stop", seen, remedy))
        elif any(kind == "hashed" and not _is_hash(bound[name]) for bound in bounds for name, kind in key.items()):
            seen = f"a range of the zone {tag['tag']} has plain values where the key has hashes"
            rows.append(Seen("stop", seen, remedy))
    told = f"{len(tags)} ranges of zones fit the key" if tags else "the collection has no zones"
    return rows or [Seen("ok", told)]


def _is_hash(value: Any) -> bool:
    return isinstance(value, Int64 | MinKey | MaxKey)


@check(
    50,
    "balancing-allowed",
    command="config.collections: noBalance, allowMigrations, permitMigrations",
    reason="A collection that may not be balanced stays on its shard, while all else looks well.",
)
def balancing_allowed(look: Look) -> Iterator[Seen]:
    """Look whether the collection's chunks may move."""
    yield from judge_allowed(look.sharded, look.entry or {}, look.namespace)


def judge_allowed(sharded: ShardedCollection | None, entry: Mapping[str, Any], namespace: str) -> list[Seen]:
    """Judge a collection's own switches; each has a remedy of its own.

    Args:
        sharded: the sharded collection; None when it is not.
        entry: its document of config.collections.
        namespace: ``database.collection``.
    """
    if sharded is None:
        return [Seen("ok", "the collection is not sharded yet, so nothing keeps its chunks")]
    allow = f'db.adminCommand({{setAllowMigrations: "{namespace}", allowMigrations: true}})'
    # setAllowMigrations (4.4.11, 5.0.6 and later) writes permitMigrations; allowMigrations belongs to the server's own
    # changes of the catalogue, which take it away when they end.
    remedies = {
        "noBalance": (bool(entry.get("noBalance", False)), f'run sh.enableBalancing("{namespace}")'),
        "permitMigrations: false": (not entry.get("permitMigrations", True), f"run {allow}"),
        "allowMigrations: false": (
            not entry.get("allowMigrations", True),
            f"wait for the resharding or other change of the collection that has set it; if none is under way: {allow}",
        ),
    }
    rows = [
        Seen("warn", f"the collection's chunks stay where they are ({name}): start_balancer will refuse", remedy)
        for name, (holds, remedy) in remedies.items()
        if holds
    ]
    return rows or [Seen("ok", "the collection's chunks may move")]


@check(
    51,
    "range-deletions",
    command="config.rangeDeletions on every shard's primary",
    reason="A chunk waits for a shard that still has to delete an old copy of its range, 15 minutes after each move.",
)
def range_deletions(look: Look) -> Iterator[Seen]:
    """Count the ranges that shards still have to delete."""
    asked = {shard.id: look.primary(shard.id) for shard in look.shards}
    for shard, primary in asked.items():
        if primary is None:
            yield Seen("unknown", f"no member of {shard} that answers is its primary", "see the check replica-sets")
    names = {primary.address: shard for shard, primary in asked.items() if primary is not None}
    for address, found in look.ask_each(sorted(names), _deletions).items():
        if isinstance(found, Seen):
            yield Seen("unknown", f"the range deletions of {names[address]}: {found.finding}", found.remedy)
        else:
            yield from judge_deletions(names[address], found, look.namespace)
    if not asked:
        yield Seen("note", "there are no shards that could have something to delete")


def _deletions(client: Client) -> Counter[str]:
    """Count the ranges to delete by collection; of more than ``MOST_DELETIONS`` only so many are read."""
    tasks = client["config"]["rangeDeletions"]
    found = retrying(
        lambda: list(tasks.find({}, {"nss": 1}, limit=MOST_DELETIONS, max_time_ms=READ_MILLISECONDS)),
        deadline=members.MEMBER_DEADLINE,
    )
    return Counter(str(each.get("nss", "?")) for each in found)


def judge_deletions(shard: str, found: Mapping[str, int], namespace: str) -> list[Seen]:
    """Judge the ranges that a shard still has to delete.

    Args:
        shard: its name.
        found: how many by collection.
        namespace: ours.
    """
    rows = []
    for name, count in sorted(found.items()):
        remedy = f'to wait for them: db.adminCommand({{cleanupOrphaned: "{name}"}}) on the primary of {shard}'
        often = f"{count} or more" if count >= MOST_DELETIONS else str(count)
        whose = "of this collection" if name == namespace else f"of {name}"
        rows.append(Seen("warn", f"{shard} still has to delete {often} ranges {whose}", remedy))
    return rows or [Seen("ok", f"{shard} has no range to delete")]
