"""Everything that must hold before a collection is sharded, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import PreconditionFailed
from credscale.core.step import Finding, probe
from credscale.mongo import checks, facts, members, operations
from credscale.mongo.checks import Check
from credscale.mongo.commands import config_collection, retrying, run
from credscale.mongo.distribution import active_migrations, jumbo_by_shard
from credscale.mongo.settings import SMALLEST_CHUNK_MB, balancer_settings
from credscale.mongo.state import wanted_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from credscale.mongo.commands import Client

LOOK_AT_ALL = 100_000  # documents; of more a sample is taken
SAMPLE = 50_000
ARRAY_SEARCH_MILLISECONDS = 60_000
LAG_WARN, LAG_STOP = 2.0, 10.0
CLEANS_UP_ITSELF = (5,)


@probe()
def preflight(
    ctx: Context, *, namespace: str, shard_key: str, chunk_size_mb: int = SMALLEST_CHUNK_MB, window: str = ""
) -> Finding:
    """Check parameters, servers, catalogue, indexes, data and settings before anything is changed.

    Args:
        namespace: ``database.collection``.
        shard_key: such as ``createdAt:hashed,userId:1``.
        chunk_size_mb: the chunk size that a later step will set; judged here, so that a wrong one fails early.
        window: the balancer window that a later step will set.
    """
    facts.split_namespace(namespace)
    wanted_state(shard_key, chunk_size_mb, window)
    client, key = ctx.clients.mongo(), facts.parse_key(shard_key)
    server = facts.server(client)
    rows = [Check("engine", "note" if server.engine == "simulated" else "ok", server.engine)]
    if not server.is_mongos:
        return _judge(ctx, [*rows, *checks.topology(False, ())], server)
    shards = facts.shards(client)
    rows += checks.topology(True, shards)
    rows += _servers(ctx, server, shards)
    rows += _collection(ctx, client, namespace, key, server)
    rows += _under_way(client, namespace, key)
    rows += _oplogs(ctx, client, namespace, shards)
    rows += _strays(ctx, client, namespace, shards)
    return _judge(ctx, rows, server)


def _judge(ctx: Context, rows: Sequence[Check], server: facts.Server) -> Finding:
    """Return the table, or raise one error that lists every stop with its remedy."""
    stops = [row for row in rows if row.severity == "stop"]
    warnings = [row for row in rows if row.severity == "warn"]
    if stops:
        for row in rows:
            ctx.note(f"{row.severity}: {row.check}: {row.finding}" + (f" ({row.remedy})" if row.remedy else ""))
        listed = "; ".join(f"{row.check}: {row.finding} ({row.remedy})" for row in stops)
        raise PreconditionFailed(
            f"{len(stops)} of {len(rows)} checks forbid the migration. Nothing was changed. {listed}"
        )
    output = {"rows": [row.row() for row in rows], "engine": server.engine, "warnings": len(warnings)}
    tail = f", {len(warnings)} of them with a warning" if warnings else ""
    return Finding(f"{len(rows)} checks allow the migration{tail}", output)


def _servers(ctx: Context, server: facts.Server, shards: Sequence[facts.Shard]) -> list[Check]:
    """Ask every member directly: is it there, how is its set, which version, compatible with which."""
    from pymongo.errors import OperationFailure, PyMongoError

    rows, versions, compatible = [], {"mongos": server.version}, {}
    for shard in shards:
        for address in shard.members:
            member = ctx.clients.mongo_member(address)
            try:
                build = run(member, "admin", {"buildInfo": 1}, deadline=members.MEMBER_DEADLINE)
                versions[address] = str(build["version"])
                rows += _health(shard.id, address, members.health(member))
                compatible[address] = members.compatibility(member)
            except OperationFailure as error:
                rows.append(Check("replica sets", "note", f"{address} does not tell its state: {error.code}"))
            except PyMongoError as error:
                remedy = "start it; a migration needs a majority of every shard"
                rows.append(
                    Check("replica sets", "stop", f"{address} does not answer ({type(error).__name__})", remedy)
                )
    rehearsal = ctx.environment.lab is not None
    healthy = [] if rows else [Check("replica sets", "ok", f"all members of {len(shards)} shards are healthy")]
    return [*rows, *healthy, *checks.versions(versions, rehearsal=rehearsal), *checks.compatibility(compatible)]


def _health(shard: str, address: str, health: members.Health) -> list[Check]:
    remedy = "repair the replica set first: migrations wait for a majority"
    rows = [Check("replica sets", "stop", f"{shard}, seen by {address}: {text}", remedy) for text in health.problems]
    if health.lag > LAG_WARN:
        severity: checks.Severity = "stop" if health.lag > LAG_STOP else "warn"
        rows.append(Check("replica sets", severity, f"{shard}: a secondary is {health.lag:.0f} s behind", remedy))
    return rows


def _collection(ctx: Context, client: Client, namespace: str, key: facts.Key, server: facts.Server) -> list[Check]:
    collection, sharded = facts.collection(client, namespace), facts.sharded_collection(client, namespace)
    plain = collection is not None and collection.type == "collection"
    size = facts.data_size(client, namespace) if plain else None
    rows = checks.collection_kind(namespace, collection, size)
    rows += checks.catalogue(facts.database(client, facts.split_namespace(namespace)[0]), sharded, facts.key_text(key))
    settings = balancer_settings(client)
    jumbo = jumbo_by_shard(client, sharded) if sharded is not None else {}
    rows += checks.settings(settings, _moving(client), jumbo, namespace)
    if sharded is None and server.numbers < CLEANS_UP_ITSELF and _leftover_chunks(client, namespace):
        seen = "config.chunks has chunks of this namespace, config.collections has no entry: an earlier run died"
        rows.append(Check("leftover chunks", "stop", seen, "delete these chunks by hand (4.4, error 51)"))
    if plain and size is not None and size.documents:
        rows += checks.indexes(facts.indexes(client, namespace), key)
        rows += _values(ctx, namespace, key, size.documents)
    return rows + checks.queries(key)


def _moving(client: Client) -> dict[str, str]:
    """Return the chunks that move anywhere in the cluster, from config.migrations (to 5.x) and from the shards."""
    from pymongo.errors import PyMongoError

    found = active_migrations(client)
    try:
        return found | operations.moves(operations.current(client))
    except PyMongoError:  # the next check says that operations can't be read
        return found


def _under_way(client: Client, namespace: str, key: facts.Key) -> list[Check]:
    """Look for index builds and other changes of the collection by somebody else."""
    from pymongo.errors import PyMongoError

    try:
        found = operations.changes_on(operations.current(client), namespace)
    except PyMongoError as error:
        seen = f"$currentOp can't be read ({getattr(error, 'code', None) or type(error).__name__})"
        return [Check("operations", "note", seen, "allow the user inprog to see index builds under way")]
    return checks.running(found, namespace, key) or [Check("operations", "ok", f"nothing changes {namespace}")]


def _oplogs(ctx: Context, client: Client, namespace: str, shards: Sequence[facts.Shard]) -> list[Check]:
    """Look how far each shard's oplog reaches back: the proof needs it to reach back to the backup."""
    from pymongo.errors import PyMongoError

    collection = facts.collection(client, namespace)
    if collection is None or collection.type != "collection":
        return []
    rows, rehearsal = [], ctx.environment.lab is not None
    hours = checks.wanted_oplog_hours(facts.data_size(client, namespace))
    for shard in shards:
        try:
            window = members.oplog_window(members.first_answering(ctx, shard))
        except PyMongoError as error:
            seen = f"the oplog of {shard.id} can't be read ({getattr(error, 'code', None) or type(error).__name__})"
            rows.append(Check("oplog", "note", seen, "allow the user to read the database local: the proof needs it"))
            continue
        if window is not None:
            rows.append(checks.oplog(shard.id, window, hours, rehearsal=rehearsal))
    return rows


def _leftover_chunks(client: Client, namespace: str) -> bool:
    return retrying(lambda: config_collection(client, "chunks").find_one({"ns": namespace})) is not None


def _values(ctx: Context, namespace: str, key: facts.Key, documents: int) -> list[Check]:
    """Look at the key fields of all documents, or of a sample; search all of them for arrays while it is quick."""
    name, coll = facts.split_namespace(namespace)
    collection = ctx.clients.mongo(timeout=LONG_SECONDS)[name][coll]
    fields = dict.fromkeys(["_id", *key], 1)
    if documents <= LOOK_AT_ALL:
        return checks.values(retrying(lambda: list(collection.find({}, fields))), key)
    pipeline: list[dict[str, Any]] = [{"$sample": {"size": SAMPLE}}, {"$project": fields}]
    rows = checks.values(retrying(lambda: list(collection.aggregate(pipeline, allowDiskUse=True))), key)
    return rows if any(row.severity == "stop" for row in rows) else [*rows, *_array_search(collection, key)]


def _array_search(collection: Any, key: facts.Key) -> list[Check]:
    from pymongo.errors import OperationFailure

    # An array anywhere on a dotted path counts, not only at its end.
    paths = [".".join(path.split(".")[: n + 1]) for path in key for n in range(path.count(".") + 1)]
    query = {"$or": [{path: {"$type": "array"}} for path in paths]}
    try:
        found = collection.find_one(query, {"_id": 1}, max_time_ms=ARRAY_SEARCH_MILLISECONDS)
    except OperationFailure as error:
        seen = f"the search of all documents for arrays was given up (code {error.code}); the sample has none"
        return [Check("key values", "note", seen, "the index build refuses arrays")]
    return [] if found is None else [checks.array_found(" or ".join(key), found["_id"])]


def _strays(ctx: Context, client: Client, namespace: str, shards: Sequence[facts.Shard]) -> list[Check]:
    """Look on each shard for a collection of the same name and another identity; migrations to it abort (207)."""
    from pymongo.errors import PyMongoError

    database = facts.database(client, facts.split_namespace(namespace)[0])
    collection, sharded = facts.collection(client, namespace), facts.sharded_collection(client, namespace)
    rows = []
    for shard in shards:
        if collection is None or database is None or shard.id == database.primary:
            continue
        try:
            uuid = members.uuid_on_shard(members.first_answering(ctx, shard), namespace)
        except PyMongoError as error:
            rows.append(Check("stray collection", "note", f"{shard.id} can't be asked ({type(error).__name__})"))
            continue
        if uuid is not None and (sharded is None or uuid != sharded.uuid):
            remedy = f"look at it on {shard.id} itself, then rename or drop it there"
            rows.append(Check("stray collection", "stop", f"{shard.id} has a {namespace} of its own", remedy))
    return rows
