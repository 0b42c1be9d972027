"""The commands of the simulated mongos, by name; anything else is refused as unknown."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from bson.errors import BSONError
from pymongo.errors import PyMongoError

from credscale.lab.simulated import admin, explain, indexes, reads, sharding, stats, writes
from credscale.lab.simulated.catalog import now
from credscale.lab.simulated.cluster import Cluster
from credscale.lab.simulated.forwarding import forward_write
from credscale.lab.simulated.replies import CommandFailed, Document
from credscale.lab.simulated.wire import Peer

if TYPE_CHECKING:
    from credscale.lab.simulated.balancer import Balancer

Command = Callable[[Cluster, Document, Peer], Document]

_REPLICA_SET_ONLY = ("replSetGetStatus", "replSetGetConfig", "replSetInitiate", "replSetStepDown", "replSetReconfig")
_NO_ADMIN_COMMAND = "may only be run against the admin database."
_ADMIN_ONLY = frozenset(
    {
        "listShards",
        "addShard",
        "enableSharding",
        "shardCollection",
        "moveChunk",
        "split",
        "balancerStart",
        "balancerStop",
        "balancerStatus",
        "balancerCollectionStatus",
        "getShardMap",
        "getDefaultRWConcern",
        "listDatabases",
    }
)

log = logging.getLogger(__name__)


def ok(_cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Agree without doing anything."""
    return {"ok": 1.0}


def _refuse_on_mongos(_cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Refuse a command of replica sets, in the words of mongos."""
    raise CommandFailed(None, f"{next(iter(request))} is not supported through mongos", info="mongos")


def _fsync(_cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Refuse to lock all shards at once, as releases before 5.0.22 did."""
    if request.get("lock"):
        raise CommandFailed(None, "can't do lock through mongos")
    return {"numFiles": 1, "all": {}, "ok": 1.0}


def _get_parameter(_cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Know no parameters; featureCompatibilityVersion is one of mongod's only."""
    if request["getParameter"] == "*":
        return {"ok": 1.0}
    raise CommandFailed(72, "no option found to get")


def _get_log(_cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Return an empty log."""
    if request["getLog"] == "*":
        return {"names": ["global", "startupWarnings"], "ok": 1.0}
    return {"totalLinesWritten": 0, "log": [], "ok": 1.0}


def _connection_status(_cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Say that nobody has to log in here."""
    nobody: Document = {"authenticatedUsers": [], "authenticatedUserRoles": []}
    if request.get("showPrivileges"):
        nobody["authenticatedUserPrivileges"] = []
    return {"authInfo": nobody, "ok": 1.0}


def _default_concern(_cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Return what 5.0 implies where nothing was set; on sets of one member every acknowledged write is at majority."""
    return {
        "defaultReadConcern": {"level": "local"},
        "defaultWriteConcern": {"w": "majority", "wtimeout": 0},
        "defaultWriteConcernSource": "implicit",
        "defaultReadConcernSource": "implicit",
        "localUpdateWallClockTime": now(),
        "ok": 1.0,
    }


def _whats_my_uri(_cluster: Cluster, _request: Document, peer: Peer) -> Document:
    """Tell the client its own address."""
    return {"you": peer.address, "ok": 1.0}


def _get_more(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Return a cursor's next batch."""
    return cluster.cursors.more(request)


def _kill_cursors(cluster: Cluster, request: Document, _peer: Peer) -> Document:
    """Close cursors."""
    killed, unknown = cluster.cursors.kill(request["cursors"])
    return {"cursorsKilled": killed, "cursorsNotFound": unknown, "cursorsAlive": [], "cursorsUnknown": [], "ok": 1.0}


def _command_line(cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Return the options of a mongos."""
    port = int(cluster.catalog.router.partition(":")[2])
    parsed = {"net": {"bindIp": "127.0.0.1", "port": port}, "sharding": {"configDB": cluster.config.host}}
    return {"argv": ["mongos"], "parsed": parsed, "ok": 1.0}


class Commands:
    """The table of commands, and the frame that every answer gets."""

    def __init__(self, cluster: Cluster, balancer: Balancer) -> None:
        self._cluster = cluster
        self._balancer = balancer
        self._table: dict[str, Command] = {
            **_process_commands(),
            **_data_commands(),
            **_cluster_commands(balancer),
            "aggregate": self._aggregate,
            "currentOp": self._current_op,
        }

    def answer(self, request: Document, peer: Peer) -> Document:
        """Run a command and return its reply, errors included."""
        name = next(iter(request), "")
        try:
            reply = self._run(name, request, peer)
        except CommandFailed as error:
            reply = error.document()
        except (PyMongoError, BSONError, KeyError, TypeError, ValueError, AttributeError) as error:
            # A malformed command of a kind nobody thought of must not end the connection without an answer.
            log.exception("the command %s failed", name)
            reply = CommandFailed(8, f"the lab's simulated mongos failed in {name}: {error!r}").document()
        # Shards count the operations within a second from one, each for itself: this is not after any of them.
        moment = Timestamp(int(time.time()), 0)
        signature = {"hash": b"\0" * 20, "keyId": 0}
        stamp = {"operationTime": moment, "$clusterTime": {"clusterTime": moment, "signature": signature}}
        return {**reply, **stamp}

    def _run(self, name: str, request: Document, peer: Peer) -> Document:
        """Find the command and run it."""
        command = self._table.get(name)
        if command is None:
            raise CommandFailed(59, f"no such cmd: {name} (the lab's simulated mongos does not do it)")
        if request.get("$db") != "admin" and name in _ADMIN_ONLY:
            raise CommandFailed(13, f"{name} {_NO_ADMIN_COMMAND}")
        if request.get("autocommit") is False:
            raise CommandFailed(20, "the lab's simulated mongos does not do transactions")
        faults = self._cluster.faults
        faults.hinder(self._cluster, name, request)
        reply = command(self._cluster, request, peer)
        faults.lose_reply(name)
        return reply

    def _aggregate(self, cluster: Cluster, request: Document, peer: Peer) -> Document:
        """Answer an aggregate; the one of a database knows $currentOp only."""
        if isinstance(request["aggregate"], str):
            return reads.aggregate(cluster, request, peer)
        stage, *rest = request["pipeline"]
        if "$currentOp" not in stage:
            told = f"the lab's simulated mongos does not do {next(iter(stage))} on a database"
            raise CommandFailed(59, told)
        running: list[Any] = self._balancer.current_operations()
        for each in rest:
            running = [one for one in running if _is_about(one, each.get("$match", {}))]
        return cluster.cursors.reply("admin.$cmd.aggregate", running, request)

    def _current_op(self, _cluster: Cluster, _request: Document, _peer: Peer) -> Document:
        """Answer the command that $currentOp replaced."""
        return {"inprog": self._balancer.current_operations(), "ok": 1.0}


def _is_about(operation: Document, query: Document) -> bool:
    """Match an operation against plain equalities; other conditions let it through."""
    plain = {name: value for name, value in query.items() if isinstance(value, str | int | bool)}
    return all(operation.get(name) == value for name, value in plain.items())


def _process_commands() -> dict[str, Command]:
    """Return the commands about this process and its connections."""
    return {
        "hello": stats.hello,
        "isMaster": stats.hello,
        "ismaster": stats.hello,
        "ping": ok,
        "buildInfo": stats.build_info,
        "buildinfo": stats.build_info,
        "serverStatus": stats.server_status,
        "hostInfo": stats.host_info,
        "connectionStatus": _connection_status,
        "getDefaultRWConcern": _default_concern,
        "whatsmyuri": _whats_my_uri,
        "getCmdLineOpts": _command_line,
        "getParameter": _get_parameter,
        "getLog": _get_log,
        "startSession": ok,
        "endSessions": ok,
        "refreshSessions": ok,
        "getMore": _get_more,
        "killCursors": _kill_cursors,
        "fsync": _fsync,
        **dict.fromkeys(_REPLICA_SET_ONLY, _refuse_on_mongos),
    }


def _data_commands() -> dict[str, Command]:
    """Return the commands about documents and collections."""
    return {
        "find": reads.find,
        "count": reads.count,
        "distinct": reads.distinct,
        "explain": explain.explain,
        "insert": writes.insert,
        "update": writes.update,
        "delete": writes.delete,
        "findAndModify": writes.find_and_modify,
        "findandmodify": writes.find_and_modify,
        "create": forward_write,
        "collMod": admin.unsharded_only,
        "validate": admin.unsharded_only,
        "drop": admin.drop,
        "dropDatabase": admin.drop_database,
        "createIndexes": indexes.create_indexes,
        "listIndexes": indexes.list_indexes,
        "dropIndexes": indexes.drop_indexes,
        "listCollections": stats.list_collections,
        "listDatabases": stats.list_databases,
        "collStats": stats.coll_stats,
        "collstats": stats.coll_stats,
        "dbStats": stats.db_stats,
        "dbstats": stats.db_stats,
    }


def _cluster_commands(balancer: Balancer) -> dict[str, Command]:
    """Return the commands about shards, chunks and the balancer."""
    return {
        "listShards": admin.list_shards,
        "getShardMap": admin.get_shard_map,
        "addShard": admin.add_shard,
        "enableSharding": admin.enable_sharding,
        "shardCollection": sharding.shard_collection,
        "moveChunk": admin.move_one_chunk,
        "split": admin.split_chunk,
        "clearJumboFlag": admin.clear_jumbo_flag,
        "flushRouterConfig": _flush,
        "balancerStart": balancer.start,
        "balancerStop": balancer.stop,
        "balancerStatus": balancer.status,
        "balancerCollectionStatus": balancer.collection_status,
    }


def _flush(cluster: Cluster, _request: Document, _peer: Peer) -> Document:
    """Forget the routing tables."""
    cluster.forget_tables()
    return {"flushed": True, "ok": 1.0}
