"""The pre-flight's judgements: pure functions from facts to rows (reference §5)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.mongo.facts import supporting_index, version_numbers
from credscale.mongo.known_bugs import UNIQUE_COLLATION, bugs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from credscale.mongo.facts import Collection, Database, DataSize, Index, Key, Shard, ShardedCollection
    from credscale.mongo.members import OplogWindow
    from credscale.mongo.settings import BalancerSettings

Severity = Literal["stop", "warn", "note", "ok"]
MOST_INDEXES = 64
DUE_BYTES = 100 * 10**9  # the guide's threshold
MISSING_SHARE = 0.001
OLDEST = (4, 4)
LEAST_OPLOG_HOURS, SHORTEST_OPLOG_HOURS = 24.0, 2.0
PASS_BYTES = 20e6  # a second: one pass of backup or digest over a slow network


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how bad it is, what was seen and what to do."""

    check: str
    severity: Severity
    finding: str
    remedy: str = ""

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        return {"check": self.check, "severity": self.severity, "finding": self.finding, "remedy": self.remedy}


def versions(found: Mapping[str, str], *, rehearsal: bool) -> list[Check]:
    """Judge the versions of all servers.

    Args:
        found: version by server.
        rehearsal: whether this is a lab, where bugs that lose data only warn.
    """
    listed = sorted(set(found.values()), key=version_numbers)
    rows = []
    if len({version_numbers(version)[:2] for version in listed}) > 1:
        text = ", ".join(f"{server} {version}" for server, version in sorted(found.items()))
        rows.append(Check("versions", "stop", f"different releases: {text}", "finish the upgrade of all servers"))
    if version_numbers(listed[0])[:2] < OLDEST:
        rows.append(Check("versions", "stop", f"{listed[0]} has no compound hashed keys", "upgrade to 4.4 or later"))
    for version in listed:
        for bug in bugs_of(version_numbers(version)):
            severity: Severity = "warn" if bug.severity == "stop" and rehearsal else bug.severity
            rows.append(Check(f"version {version}", severity, f"{bug.ticket}: {bug.effect}", bug.remedy))
    good = all(row.severity == "note" for row in rows)
    return [Check("versions", "ok", ", ".join(listed)), *rows] if good else rows


def compatibility(found: Mapping[str, Mapping[str, Any]]) -> list[Check]:
    """Judge the feature compatibility versions of shard members (reference §5 row 3).

    Args:
        found: the document of featureCompatibilityVersion by member.
    """
    rows = []
    for member, document in sorted(found.items()):
        other = document.get("targetVersion") or document.get("previousVersion")
        if other:
            seen = f"{member} is on its way between {document.get('version')} and {other}"
            rows.append(
                Check("compatibility", "stop", seen, "finish setFeatureCompatibilityVersion: no chunk can move")
            )
    said = {str(document.get("version")) for document in found.values()}
    if len(said) > 1:
        text = ", ".join(f"{member} {document.get('version')}" for member, document in sorted(found.items()))
        rows.append(
            Check("compatibility", "stop", f"different: {text}", "run setFeatureCompatibilityVersion by mongos")
        )
    old = sorted(version for version in said if version_numbers(version)[:2] < OLDEST)
    if old:
        remedy = "run setFeatureCompatibilityVersion 4.4 or later by mongos"
        rows.append(Check("compatibility", "stop", f"{old[0]} has no compound hashed keys", remedy))
    return rows if rows or not found else [Check("compatibility", "ok", ", ".join(said))]


def oplog(shard: str, window: OplogWindow, wanted_hours: float, *, rehearsal: bool) -> Check:
    """Judge how far an oplog reaches back: the proof at the end needs it to reach back to the backup.

    An oplog that has hardly filled is short because it is young, and no measure of what it will hold.

    Args:
        shard: its name.
        window: the oplog.
        wanted_hours: how long backup, moves and proof may take together.
        rehearsal: whether this is a lab, whose data are soon made anew.
    """
    reach = f"the oplog of {shard} reaches back {window.hours:.1f} hours"
    if window.is_young:
        fill = "" if window.fill is None else f", {window.fill:.0%} of it is filled"
        return Check("oplog", "ok", f"{reach}, to its beginning{fill}")
    if window.hours >= wanted_hours:
        return Check("oplog", "ok", reach)
    severity: Severity = "stop" if window.hours < SHORTEST_OPLOG_HOURS else "warn"
    remedy = "enlarge it with replSetResizeOplog: without it nobody can tell writers' changes from losses"
    return Check("oplog", "note" if rehearsal else severity, f"{reach}, this may take {wanted_hours:.0f}", remedy)


def wanted_oplog_hours(size: DataSize) -> float:
    """Return how far oplogs should reach back: a day, or three times what one pass over the data takes."""
    return max(LEAST_OPLOG_HOURS, 3 * size.bytes / PASS_BYTES / 3600)


def running(operations: Sequence[tuple[str, Mapping[str, Any]]], namespace: str, key: Key) -> list[Check]:
    """Judge what is being done to the collection: what an earlier run of this migration began may go on.

    Args:
        operations: name and command of each, as ``operations.changes_on`` gives them.
        namespace: ``database.collection``.
        key: the wanted shard key.
    """
    rows = []
    for name, command in operations:
        if _is_ours(command, key):
            text = f"{name} on {namespace} with the wanted key is under way: an earlier run began it"
            rows.append(Check("operations", "note", text, "the step that needs it waits for it"))
        else:
            rows.append(Check("operations", "stop", f"{name} on {namespace} is under way", "wait until it is done"))
    return rows


def _is_ours(command: Mapping[str, Any], key: Key) -> bool:
    wanted = list(key.items())
    keys = [index.get("key", {}) for index in command.get("indexes", [])]
    if not keys:
        keys = [command.get("key") or command.get("shardKey") or {}]
    return all(list(found.items()) == wanted for found in keys)


def topology(is_mongos: bool, shards: Sequence[Shard]) -> list[Check]:
    """Judge router and shards."""
    if not is_mongos:
        return [Check("router", "stop", "mongo.uri leads to a mongod, not to a mongos", "name a mongos in mongo.uri")]
    rows = []
    if len(shards) < 2:
        rows.append(Check("shards", "stop", f"{len(shards)} shard: nothing to spread to", "add a shard"))
    for shard in shards:
        if shard.draining:
            remedy = "wait until it is removed, or run addShard to take the removal back"
            rows.append(Check("shards", "stop", f"{shard.id} is draining", remedy))
        if shard.state != 1:
            rows.append(Check("shards", "stop", f"{shard.id} has state {shard.state}, expected 1", "repair the shard"))
    return rows if rows else [Check("shards", "ok", ", ".join(shard.id for shard in shards))]


def collection_kind(namespace: str, collection: Collection | None, size: DataSize | None) -> list[Check]:
    """Judge what kind of collection it is."""
    if collection is None:
        return [Check("collection", "stop", f"{namespace} does not exist", "check the parameter namespace")]
    kind = "capped collection" if collection.options.get("capped") else collection.type
    if kind != "collection":
        return [Check("collection", "stop", f"{namespace} is a {kind}", "only plain collections can be sharded here")]
    if size is None or size.documents == 0:
        remedy = (
            "load the data first; an empty collection needs no migration: shard it directly with sh.shardCollection"
        )
        return [Check("collection", "stop", f"{namespace} is empty: there is nothing to migrate", remedy)]
    rows = [Check("collection", "ok", f"{size.documents} documents, {size.bytes / 1e6:.1f} MB")]
    if size.bytes < DUE_BYTES:
        due = f"{size.bytes / 1e9:.1f} GB; the guide shards above 100 GB"
        rows.append(Check("size", "note", due, "consider whether sharding is due: there is no way back before 8.0"))
    if collection.collation != "simple":
        seen = f"the default collation is {collection.collation}; the shard key uses the simple one"
        rows.append(Check("collation", "warn", seen, "queries without collation simple go to every shard"))
    return rows


def catalogue(database: Database | None, sharded: ShardedCollection | None, wanted: str) -> list[Check]:
    """Judge how database and collection are registered."""
    if database is None:
        remedy = "add the replica set that holds the data as a shard first"
        return [Check("database", "stop", "the cluster does not know the database", remedy)]
    rows = [Check("database", "ok", f"primary shard {database.primary}")]
    if sharded is None:
        rows.append(Check("shard key", "ok", f"not sharded yet, wanted {wanted}"))
    elif sharded.key_text != wanted:
        remedy = "use reshardCollection (5.0 and later), or run with the existing key"
        rows.append(Check("shard key", "stop", f"sharded by {sharded.key_text}, wanted {wanted}", remedy))
    else:
        rows.append(Check("shard key", "ok", f"sharded by {wanted} already"))
    if sharded is not None and sharded.no_balance:
        seen = "balancing is disabled for the collection (noBalance or allowMigrations)"
        rows.append(Check("balancing", "stop", seen, "run sh.enableBalancing"))
    return rows


def indexes(found: Sequence[Index], key: Key) -> list[Check]:
    """Judge the indexes against the shard key."""
    rows: list[Check] = []
    fields = list(key)
    for index in found:
        names = list(index.key)
        # The rule looks at field names only: every unique index starts with the key's fields, or with _id (§1.2).
        if index.unique and names[0] != "_id" and names[: len(fields)] != fields:
            seen = f"the unique index {index.name} does not start with {', '.join(fields)}"
            rows.append(Check("indexes", "stop", seen, "drop it or make it non-unique; sharded data can't enforce it"))
        elif index.unique and index.collation != "simple":
            seen = f"the unique index {index.name} has the collation {index.collation}"
            rows.append(Check("indexes", "warn", seen, f"see the {UNIQUE_COLLATION}: upgrade, or look for duplicates"))
        if index.ttl is not None:
            seen = f"the TTL index {index.name} deletes documents meanwhile"
            rows.append(Check("indexes", "warn", seen, "counts drift; the oplogs explain the deletions"))
    serving = supporting_index(found, key)
    if serving is None and len(found) >= MOST_INDEXES:
        seen = f"{len(found)} indexes, MongoDB allows {MOST_INDEXES}"
        rows.append(Check("indexes", "stop", seen, "drop an unused one to make room for the shard-key index"))
    text = f"{serving.name} serves the shard key" if serving is not None else "the shard-key index is still to be built"
    return rows if rows else [Check("indexes", "ok", text)]


def queries(key: Key) -> list[Check]:
    """Warn of the queries that such a key sends to every shard (reference §6)."""
    first, kind = next(iter(key.items()))
    if kind != "hashed":
        return []
    others = [name for name in key if name != first]
    example = f"queries by {others[0]} alone, and ranges of {first}," if others else f"ranges of {first}"
    remedy = f"{others[0]}:hashed,{first}:1 would target one shard" if others else "query by exact values"
    return [Check("queries", "warn", f"{example} go to every shard: only an exact {first} names one", remedy)]


def values(documents: Iterable[Mapping[str, Any]], key: Key) -> list[Check]:
    """Judge a sample of documents by the values of their key fields.

    Args:
        documents: with `_id` and the key fields.
        key: the shard key.
    """
    kinds: dict[str, Counter[str]] = {name: Counter() for name in key}
    rows: list[Check] = []
    total = 0
    for document in documents:
        total += 1
        for name in key:
            kind = _kind_at(document, name)
            if kind == "array" and not any(row.severity == "stop" for row in rows):
                rows.append(array_found(name, document["_id"]))
            kinds[name][kind] += 1
    for name, counter in kinds.items():
        missing = counter.pop("null", 0)
        if total and missing / total > MISSING_SHARE:
            seen = f"{name} is missing or null in {missing} of {total} documents looked at"
            rows.append(Check("key values", "warn", seen, "they all hash alike and stay together"))
        if len(counter) > 1:
            seen = f"{name} has values of the types {', '.join(sorted(counter))}"
            rows.append(Check("key values", "warn", seen, "equal values of different types lie apart"))
    return rows if rows else [Check("key values", "ok", f"one type each in {total} documents looked at")]


def array_found(field: str, identity: Any) -> Check:
    """Return the row for an array in the shard key, which the index build or every insert refuses."""
    seen = f"{field} holds an array in the document with _id {identity}"
    return Check("key values", "stop", seen, "shard keys hold no arrays: correct these documents")


def _kind_at(document: Mapping[str, Any], path: str) -> str:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if hasattr(value, "get") else None
        if isinstance(value, list):
            return "array"
    return "null" if value is None else _TYPES.get(type(value).__name__, type(value).__name__)


_TYPES = {"datetime": "date", "str": "string", "int": "number", "Int64": "number", "float": "number", "bool": "bool"}


def settings(found: BalancerSettings, moving: Mapping[str, str], jumbo: Mapping[str, int], ours: str) -> list[Check]:
    """Judge the balancer's settings and what it does at the moment.

    Args:
        found: the settings.
        moving: the chunks that move, in words by collection.
        jumbo: jumbo chunks by shard.
        ours: the collection of this migration.
    """
    rows = [Check("settings", "stop", problem, "correct config.settings") for problem in found.problems]
    for namespace, move in sorted(moving.items()):
        # A shard takes part in one migration at a time, and a round ends with its migrations.
        severity: Severity = "note" if namespace == ours else "warn"
        remedy = "" if namespace == ours else "stop_balancer waits for it, up to half an hour"
        rows.append(Check("migrations", severity, f"a chunk of {namespace} moves: {move}", remedy))
    marked = ", ".join(f"{shard} {count}" for shard, count in sorted(jumbo.items()))
    if marked:
        rows.append(Check("jumbo", "warn", f"jumbo chunks: {marked}", "the balancer does not move them: split them"))
    return rows if rows else [Check("settings", "ok", f"balancer {found.mode}, settings valid")]
