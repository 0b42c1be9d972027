"""Commands on the cluster itself: shards, databases, chunks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pymongo.errors import ConnectionFailure

from credscale.lab.simulated.backends import connect
from credscale.lab.simulated.cluster import Cluster, Move
from credscale.lab.simulated.forwarding import forward, forward_write, namespace
from credscale.lab.simulated.migration import move_chunk
from credscale.lab.simulated.replies import CommandFailed, Document, shell_text
from credscale.lab.simulated.routing import Chunk, RoutingTable, position
from credscale.mongo.cluster.shard_key import key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.lab.simulated.wire import Peer

_OWN_DATABASES = ("admin", "config", "local")


def list_shards(cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """List the registered shards."""
    return {"shards": cluster.catalog.shards(), "ok": 1.0}


def get_shard_map(cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Name the hosts of every shard and of the config servers."""
    hosts = {each["_id"]: each["host"] for each in cluster.catalog.shards()}
    return {"map": {"config": cluster.config.host, **hosts}, "ok": 1.0}


def add_shard(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Register a replica set as a shard, and the databases that it brings."""
    host = request["addShard"]
    set_name, slash, members = host.partition("/") if isinstance(host, str) else ("", "", "")
    if not set_name or not slash or not members:
        raise CommandFailed(9, f"Invalid connection string {host!r}: replica set url format is set/host:port")
    name = request.get("name") or set_name
    with cluster.ddl:
        hosts = _verified_hosts(set_name, host)
        known = {each["_id"]: each["host"] for each in cluster.catalog.shards()}
        if known.get(name, "").partition("/")[0] == set_name:
            return {"shardAdded": name, "ok": 1.0}
        if any(each.partition("/")[0] == set_name for each in known.values()):
            raise CommandFailed(20, f"A shard already exists containing the replica set '{set_name}'")
        backend = connect(name, hosts)
        databases = [each["name"] for each in backend.demand("admin", {"listDatabases": 1})["databases"]]
        brought = [database for database in databases if database not in _OWN_DATABASES]
        for database in brought:
            taken = cluster.catalog.database(database)
            if taken and taken["primary"] != name:
                told = f"because a local database '{database}' exists in another {taken['primary']}"
                raise CommandFailed(96, f"can't add shard '{hosts}' {told}")
        cluster.catalog.add_shard(name, hosts)
        for database in brought:
            if cluster.catalog.database(database) is None:
                cluster.catalog.add_database(database, name, partitioned=False)
        cluster.catalog.log(cluster.config, "addShard", "", {"name": name, "host": hosts})
    return {"shardAdded": name, "ok": 1.0}


def _verified_hosts(set_name: str, host: str) -> str:
    """Ask the replica set for its name and its members."""
    try:
        told = connect(set_name, host).client.admin.command("hello")
    except ConnectionFailure as error:
        raise _no_primary(set_name) from error
    if told.get("msg") == "isdbgrid":
        raise CommandFailed(20, "cannot add a mongos as a shard")
    if told.get("setName") != set_name:
        # MongoDB looks for a member of the set in vain, for 20 seconds; the lab says so at once.
        raise _no_primary(set_name)
    return f"{set_name}/{','.join(told['hosts'])}"


def _no_primary(set_name: str) -> CommandFailed:
    """Return the error of a replica set that no one answers for."""
    preference = '{ mode: "primary" }'
    return CommandFailed(133, f"Could not find host matching read preference {preference} for set {set_name}")


def enable_sharding(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Allow a database's collections to be sharded."""
    name, primary = request["enableSharding"], request.get("primaryShard")
    with cluster.ddl:
        database = cluster.catalog.database(name)
        if database is None:
            cluster.create_database(name, primary, partitioned=True)
            return {"ok": 1.0}
        if primary and database["primary"] != primary:
            told = f"database already created on a primary which is different from: {primary}"
            raise CommandFailed(48, told)
        cluster.catalog.db.databases.update_one({"_id": name}, {"$set": {"partitioned": True}})
    return {"ok": 1.0}


def _sharded(cluster: Cluster, ns: str) -> RoutingTable:
    """Return a collection's routing table, or raise."""
    table = cluster.table(ns)
    if table is None:
        raise CommandFailed(118, f"Collection {ns} is not sharded.")
    return table


def _named_chunk(table: RoutingTable, request: Mapping[str, Any]) -> Chunk:
    """Return the chunk that a command names by its bounds or by a document in it."""
    if "bounds" in request:
        low, high = request["bounds"]
        chunk = table.chunk_between(low, high)
        if chunk is None:
            raise CommandFailed(2, f"no chunk found with the shard key bounds [{shell_text(low)}, {shell_text(high)})")
        return chunk
    exact = table.exact_key(request.get("find") or {})
    if exact is None:
        raise CommandFailed(61, f"no shard key found in chunk query {shell_text(request.get('find'))}")
    return table.chunk_at(position(exact))


def move_one_chunk(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Move a chunk by hand, whatever the balancer is set to."""
    began = time.monotonic()
    ns = request["moveChunk"]
    table = _sharded(cluster, ns)
    to = request["to"]
    if to not in cluster.shards():
        raise CommandFailed(70, f"Could not move chunk in '{ns}' to shard '{to}' because that shard does not exist")
    chunk = _named_chunk(table, request)
    if chunk.shard != to:
        move_chunk(cluster, Move(ns, chunk, chunk.shard, to))
    return {"millis": int((time.monotonic() - began) * 1000), "ok": 1.0}


def split_chunk(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Cut a chunk in two."""
    ns = request["split"]
    with cluster.changing(ns):
        table = _sharded(cluster, ns)
        if "middle" in request:
            middle = request["middle"]
            chunk = table.chunk_at(position(middle))
            if list(middle) != list(table.key) or position(middle) == chunk.span[0]:
                told = f"new split key {shell_text(middle)} is a boundary key of existing chunk"
                raise CommandFailed(87, f"{told} [{shell_text(chunk.low)},{shell_text(chunk.high)})")
        else:
            chunk = _named_chunk(table, request)
            middle = _median(cluster, table, chunk)
        cluster.catalog.split(table, chunk, middle)
    details = {"before": {"min": chunk.low, "max": chunk.high}, "left": {"min": chunk.low, "max": middle}}
    after = {"right": {"min": middle, "max": chunk.high}, "owningShard": chunk.shard}
    cluster.catalog.log(cluster.config, "split", ns, {**details, **after})
    return {"ok": 1.0}


def _median(cluster: Cluster, table: RoutingTable, chunk: Chunk) -> Document:
    """Return the key in the middle of a chunk's documents."""
    backend = cluster.shard(chunk.shard)
    identities = cluster.keys(chunk.shard, table).between(*chunk.span)
    bounds = sorted((key_of(each, table.key) for each in backend.lookup(table.ns, identities)), key=position)
    above = [bound for bound in bounds[len(bounds) // 2 :] if position(bound) > chunk.span[0]]
    if not above or position(above[0]) == position(bounds[0]):
        raise CommandFailed(87, "cannot find median in chunk, possibly empty")
    return above[0]


def clear_jumbo_flag(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Let a jumbo chunk be moved again."""
    chunk = _named_chunk(_sharded(cluster, request["clearJumboFlag"]), request)
    cluster.catalog.db.chunks.update_one({"_id": chunk.identity}, {"$unset": {"jumbo": ""}})
    cluster.forget_tables()
    return {"ok": 1.0}


def drop(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Drop a collection, on every shard if it is sharded."""
    ns = namespace(request)
    if cluster.table(ns) is None:
        reply = forward_write(cluster, request)
        cluster.catalog.drop_hidden_indexes(ns)
        return reply
    _drop_sharded(cluster, ns)
    return {"ns": ns, "ok": 1.0}


def _drop_sharded(cluster: Cluster, ns: str) -> None:
    """Drop a sharded collection and its metadata."""
    db, _, collection = ns.partition(".")
    with cluster.changing(ns) as table, cluster.ddl:
        if table is None:
            return
        cluster.catalog.log(cluster.config, "dropCollection.start", ns, {})
        for shard in cluster.shards().values():
            shard.run(db, {"drop": collection})
        cluster.catalog.db.collections.delete_one({"_id": ns})
        cluster.catalog.db.chunks.delete_many({"uuid": table.uuid})
        cluster.catalog.drop_hidden_indexes(ns)
        cluster.catalog.log(cluster.config, "dropCollection", ns, {})


def drop_database(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Drop a database on every shard."""
    db = request["$db"]
    if db in _OWN_DATABASES:
        raise CommandFailed(20, f"Cannot drop the {db} database")
    for collection in cluster.catalog.collections():
        if collection["_id"].startswith(f"{db}."):
            _drop_sharded(cluster, collection["_id"])
    for shard in cluster.shards().values():
        shard.run(db, {"dropDatabase": 1})
    cluster.catalog.db.databases.delete_one({"_id": db})
    return {"dropped": db, "ok": 1.0}


def unsharded_only(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Pass on a command that is not done for sharded collections here."""
    if cluster.table(namespace(request)) is not None:
        raise CommandFailed(20, f"the lab's simulated mongos does not do {next(iter(request))} on sharded collections")
    return forward(cluster, request)
