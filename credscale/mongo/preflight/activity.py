"""What is under way in the cluster: index builds, long operations, change streams, clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster import operations
from credscale.mongo.preflight import connections
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.features import begun_by
from credscale.mongo.preflight.transactions import LONG_TRANSACTION_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.mongo.cluster.facts import Key
    from credscale.mongo.preflight.look import Look

LONG_OPERATION_SECONDS = 300.0
BUILDS = ("createIndexes", operations.INDEX_BUILD)
OPLOG = "local.oplog.rs"
# Judged by checks of their own, or harmless: index builds, moves, cursors that wait for changes.
ELSEWHERE = (*operations.CHANGING, *operations.MOVING)


@check(
    18,
    "index-builds",
    command="$currentOp: createIndexes, messages 'Index Build', commands that change the collection",
    reason="An index build on the collection aborts migrations, and other changes of it hold locks they need.",
)
def index_builds(look: Look) -> Iterator[Seen]:
    """Look for index builds and other changes of the collection; those of an earlier run are awaited, not refused."""
    yield from judge_changes(look.operations, look.namespace, look.key)
    yield from judge_builds(look.operations, look.namespace, look.key)


def judge_builds(running: Iterable[Mapping[str, Any]], namespace: str, key: Key) -> list[Seen]:
    """Judge the index builds under way.

    Args:
        running: what $currentOp shows.
        namespace: ``database.collection``.
        key: the wanted shard key; a build of its index was begun by an earlier run of this migration.
    """
    rows = []
    others = set()
    for operation in running:
        command = operation.get("command") or {}
        text = str(operation.get("msg", ""))
        if "createIndexes" not in command and not text.startswith(operations.INDEX_BUILD):
            continue
        where = f"{command.get('$db', '')}.{command['createIndexes']}" if "createIndexes" in command else ""
        place = f"on {operation['shard']} " if operation.get("shard") else ""
        if namespace not in (where, operation.get("ns")):
            others.add(where or str(operation.get("ns")))
        elif is_ours(command, key):
            finding = f"the index of the wanted key is being built {place}on {namespace}: an earlier run began it"
            rows.append(Seen("note", finding, "the step that needs it waits for it"))
        else:
            finding = f"an index is being built {place}on {namespace}{f' ({text})' if text else ''}"
            rows.append(Seen("stop", finding, "wait until it is done, or drop it with dropIndexes"))
    rows += [Seen("note", f"an index is being built on {name}: it slows the moves") for name in sorted(others)]
    return list(dict.fromkeys(rows)) or [Seen("ok", "no index is being built on any shard's primary")]


def judge_changes(running: Iterable[Mapping[str, Any]], namespace: str, key: Key) -> list[Seen]:
    """Judge the commands under way that change the collection otherwise than by an index build.

    Args:
        running: what $currentOp shows.
        namespace: ``database.collection``.
        key: the wanted shard key; sharding by it was begun by an earlier run of this migration.
    """
    rows = []
    for name, command in operations.changes_on(running, namespace):
        if name in BUILDS:
            continue
        if name in operations.SHARDING and is_ours(command, key):
            text = f"{name} on {namespace} with the wanted key is under way: an earlier run began it"
            rows.append(Seen("note", text, "the step that needs it waits for it"))
        else:
            rows.append(Seen("stop", f"{name} on {namespace} is under way", "wait until it is done"))
    return list(dict.fromkeys(rows))


def is_ours(command: Mapping[str, Any], key: Mapping[str, int | str]) -> bool:
    """Tell whether a command builds the index of the wanted key, or shards by it, and nothing else."""
    keys = [index.get("key", {}) for index in command.get("indexes", [])]
    if not keys:
        keys = [command.get("key") or command.get("shardKey") or {}]
    return all(list(found.items()) == list(key.items()) for found in keys)


@check(
    19,
    "long-operations",
    command="$currentOp: transaction.timeOpenMicros, secs_running",
    reason="A migration's critical section waits for open transactions and long reads of the collection.",
)
def long_operations(look: Look) -> Iterator[Seen]:
    """Look for transactions open for more than a minute and operations on the collection of more than five."""
    yield from judge_long(look.operations, look.namespace)


def judge_long(running: Iterable[Mapping[str, Any]], namespace: str) -> list[Seen]:
    """Judge how long transactions are open and operations on the collection run.

    Args:
        running: what $currentOp shows.
        namespace: ``database.collection``.
    """
    rows, count, longest = [], 0, 0.0
    for operation in running:
        seconds = float((operation.get("transaction") or {}).get("timeOpenMicros", 0)) / 1e6
        who = f"{_client(operation)} on {operation.get('shard', 'a shard')}"
        if seconds > LONG_TRANSACTION_SECONDS:
            rows.append(Seen("stop", f"a transaction of {who} is open for {seconds:.0f} s", _end_of(operation)))
        if operation.get("ns") != namespace or _is_elsewhere(operation):
            continue
        seconds, count = float(operation.get("secs_running", 0)), count + 1
        longest = max(longest, seconds)
        if seconds > LONG_OPERATION_SECONDS:
            name = next(iter(operation.get("command") or {}), str(operation.get("op", "operation")))
            rows.append(Seen("stop", f"{name} of {who} runs for {seconds:.0f} s on {namespace}", _end_of(operation)))
    quiet = f"{count} operations on {namespace} at this moment, the longest for {longest:.0f} s; no transaction is old"
    return rows or [Seen("ok", quiet)]


def _is_elsewhere(operation: Mapping[str, Any]) -> bool:
    command = operation.get("command") or {}
    building = str(operation.get("msg", "")).startswith(operations.INDEX_BUILD)
    return building or operation.get("type") == "idleCursor" or any(name in command for name in ELSEWHERE)


def _client(operation: Mapping[str, Any]) -> str:
    metadata = operation.get("clientMetadata") or {}
    application = operation.get("appName") or (metadata.get("application") or {}).get("name")
    return str(application or operation.get("client") or operation.get("client_s") or "an unnamed client")


def _end_of(operation: Mapping[str, Any]) -> str:
    """Return how to end an operation: by its number on a mongos, or by its session when it is idle."""
    if operation.get("opid") is not None:
        return f'wait for it, or end it: db.adminCommand({{killOp: 1, op: "{operation["opid"]}"}})'
    identity = (operation.get("lsid") or {}).get("id")
    if identity is None:
        return "wait until it is done"
    return f'wait for it, or end it: db.adminCommand({{killSessions: [{{id: UUID("{_uuid(identity)}")}}]}})'


def _uuid(value: Any) -> str:
    from uuid import UUID

    return str(value if isinstance(value, UUID) else UUID(bytes=bytes(value)))


@check(
    38,
    "change-streams",
    command="$currentOp with idleCursors: $changeStream, and readers of local.oplog.rs",
    reason="A reader of a shard's oplog sees moved documents as deletes and inserts; change streams by mongos do not.",
)
def change_streams(look: Look) -> Iterator[Seen]:
    """Look for change streams and for consumers of the oplog itself."""
    yield from judge_streams(look.operations, look.namespace)


def judge_streams(running: Iterable[Mapping[str, Any]], namespace: str) -> list[Seen]:
    """Judge who follows the changes.

    Args:
        running: what $currentOp shows, with idle cursors.
        namespace: ``database.collection``.
    """
    streams: dict[tuple[str, str], int] = {}
    readers: dict[tuple[str, str], int] = {}
    for operation in running:
        command = begun_by(operation)
        place = str(operation.get("ns", ""))
        if is_change_stream(command):
            if _covers(place, namespace):
                streams[place, _client(operation)] = streams.get((place, _client(operation)), 0) + 1
        elif place == OPLOG and not _is_internal(operation):
            where = str(operation.get("shard", "a shard"))
            readers[where, _client(operation)] = readers.get((where, _client(operation)), 0) + 1
    rows = [
        Seen(
            "warn",
            f"{who} reads the oplog of {where} itself (cursors: {count})",
            "make it a change stream by mongos before chunks move, or make it leave out entries with fromMigrate",
        )
        for (where, who), count in sorted(readers.items())
    ]
    rows += [
        Seen(
            "warn",
            f"{who} has a change stream on {place} (cursors on the shards' primaries: {count})",
            "see that it is opened by mongos: the resume tokens of a replica set are not valid there",
        )
        for (place, who), count in sorted(streams.items())
    ]
    return rows or [Seen("ok", "no change stream and no reader of the oplog is open on the primaries at this moment")]


def is_change_stream(command: Mapping[str, Any]) -> bool:
    """Tell whether a command opened a change stream; 6.0 shows shards its inner stages."""
    stages = command.get("pipeline") or []
    first = next(iter(stages[0]), "") if stages and isinstance(stages[0], dict) else ""
    return first == "$changeStream" or first.startswith("$_internalChangeStream")


def _covers(place: str, namespace: str) -> bool:
    """Tell whether a stream there sees the collection: on itself, its database or the whole cluster."""
    return place in (namespace, f"{namespace.partition('.')[0]}.$cmd.aggregate", "admin.$cmd.aggregate")


def _is_internal(operation: Mapping[str, Any]) -> bool:
    """Tell whether another member of the set reads: its name is the driver's, or there is no client at all."""
    metadata = operation.get("clientMetadata") or {}
    driver = str((metadata.get("driver") or {}).get("name", ""))
    return not metadata or driver.startswith(connections.INTERNAL)


@check(
    47,
    "drivers",
    command="$currentOp with idleConnections, grouped by clientMetadata, on routers and members",
    reason="An application connected to a shard itself misses the data that move, and what it writes becomes orphans.",
    real_only=True,
)
def drivers(look: Look) -> Iterator[Seen]:
    """Look who is connected, with which driver, and whether past mongos."""
    found = connections.read(look)
    yield from connections.judge(found, look.server.numbers, routers_left=connections.unasked(look))
