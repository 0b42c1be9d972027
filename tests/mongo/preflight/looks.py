"""A cluster of recorded replies: what a real 4.4.6 cluster answered, member by member, with single answers replaced."""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson import Timestamp, json_util
from pymongo import ReadPreference
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.mongo.cluster import facts
from credscale.mongo.preflight.look import Look

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.mongo.preflight.check import Check, Seen

RECORDED = Path(__file__).parents[2] / "cases/mongo/recorded"
NAMESPACE, KEY = "credibility_prod.analyses", "createdAt:hashed,userId:1"
ROUTER = "127.0.0.1:27017"
SETS = {
    "shard1ReplSet": ("127.0.0.1:27018", "127.0.0.1:27028", "127.0.0.1:27038"),
    "shard2ReplSet": ("127.0.0.1:27020",),
    "configReplSet": ("127.0.0.1:27019", "127.0.0.1:27029", "127.0.0.1:27039"),
}
LINE = '{"t":{"$date":"2026-11-23T11:14:24.885+00:00"},"s":"I","c":"NETWORK","msg":"Connection ended"}'
DEAD = ServerSelectionTimeoutError("no answer")
HANG_SECONDS = 0.02


def recorded(folder: str, name: str) -> Any:
    """Return a copy of a recorded reply."""
    return copy.deepcopy(_recorded(folder, name))


@functools.cache
def _recorded(folder: str, name: str) -> Any:
    """Read a recorded reply; what is recorded without a time zone comes back as pymongo returns it."""
    options = json_util.JSONOptions(tz_aware=False)
    text = (RECORDED / folder / f"{name}.json").read_text(encoding="utf-8")
    return json_util.loads(text, json_options=options)["reply"]


@dataclass(frozen=True)
class Read:
    """One read that a process was asked for.

    Args:
        kind: ``find``, ``aggregate`` or ``list``.
        namespace: of what.
        milliseconds: the limit on the server; None without one.
        secondaries: whether these may answer.
    """

    kind: str
    namespace: str
    milliseconds: int | None
    secondaries: bool = False


class Node:
    """One process: replies by command, documents by namespace; an exception among them is raised.

    ``asked`` has the commands and ``reads`` the reads, with their limits. A process that ``hangs`` keeps each who asks
    waiting and then does not answer; ``waited`` counts these.
    """

    def __init__(self, replies: Mapping[str, Any], documents: Mapping[str, Any] | None = None) -> None:
        self.replies, self.documents = dict(replies), dict(documents or {})
        self.asked: list[dict[str, Any]] = []
        self.reads: list[Read] = []
        self.hangs, self.waited = False, 0

    def __getitem__(self, name: str) -> Database:
        return Database(self, name)

    def wait(self) -> None:
        """Keep the caller waiting when this process hangs."""
        if self.hangs:
            self.waited += 1
            time.sleep(HANG_SECONDS)
            raise DEAD


class Database:
    """One database of a process."""

    def __init__(self, node: Node, name: str) -> None:
        self.node, self.name = node, name

    def __getitem__(self, name: str) -> Collection:
        return Collection(self.node, f"{self.name}.{name}")

    def get_collection(self, name: str, *, read_preference: Any = None, **_options: Any) -> Collection:
        return Collection(
            self.node, f"{self.name}.{name}", secondaries=read_preference == ReadPreference.SECONDARY_PREFERRED
        )

    def command(self, request: dict[str, Any]) -> Any:
        self.node.wait()
        self.node.asked.append(request)
        name = next(iter(request))
        for key in (f"{name} {request[name]}", *(f"{name} {each}" for each in request), name):
            if key in self.node.replies:
                return _given(self.node.replies[key])
        raise OperationFailure(f"no such command: {name}", 59)

    def list_collections(self, filter: dict[str, Any], *, maxTimeMS: int | None = None) -> Any:  # noqa: A002, N803
        self.node.wait()
        self.node.reads.append(Read("list", self.name, maxTimeMS))
        found = _given(self.node.documents.get("collections", []))
        return iter([each for each in found if all(each.get(name) == value for name, value in filter.items())])

    def aggregate(self, _pipeline: list[Any], *, maxTimeMS: int | None = None) -> list[dict[str, Any]]:  # noqa: N803
        self.node.wait()
        self.node.reads.append(Read("aggregate", self.name, maxTimeMS))
        return list(_given(self.node.documents.get("operations", [])))


class Collection:
    """One collection of a process."""

    def __init__(self, node: Node, namespace: str, *, secondaries: bool = False) -> None:
        self.node, self.namespace, self.secondaries = node, namespace, secondaries

    def _read(self, kind: str, milliseconds: int | None) -> Any:
        self.node.wait()
        self.node.reads.append(Read(kind, self.namespace, milliseconds, self.secondaries))
        return _given(self.node.documents.get(self.namespace, []))

    def find(
        self, query: dict[str, Any], _fields: Any = None, *, max_time_ms: int | None = None, limit: int = 0,
        sort: Any = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        found = self._read("find", max_time_ms)
        found = [each for each in found if all(each.get(name) == value for name, value in query.items())]
        found = found[::-1] if sort and sort[0][1] == -1 else found
        return found[: limit or None]

    def find_one(self, query: dict[str, Any], _fields: Any = None, **options: Any) -> dict[str, Any] | None:
        found = self.find(query, **options)
        return found[0] if found else None

    def aggregate(
        self,
        _pipeline: list[Any],
        *,
        maxTimeMS: int | None = None,  # noqa: N803
        allowDiskUse: bool = False,  # noqa: N803
    ) -> list[dict[str, Any]]:
        assert allowDiskUse in (True, False)
        return copy.deepcopy(list(self._read("aggregate", maxTimeMS)))

    def list_indexes(self) -> list[dict[str, Any]]:
        return [{"v": 2, "key": {"_id": 1}, "name": "_id_"}]


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def member(replica_set: str, address: str) -> Node:
    """Return a healthy member as it was recorded, at the present time."""
    status, hello = recorded("01-replica-sets", f"replSetGetStatus-{replica_set}"), None
    hello = recorded("01-replica-sets", f"hello-{replica_set}")
    for each in status["members"]:
        each["optimeDate"] = datetime(2026, 11, 23, 11, 13)  # noqa: DTZ001 - as pymongo returns dates
        each.pop("self", None)
        if each["name"] == address:
            each["self"] = True
            status["myState"] = each["state"]
    hello |= {
        "me": address,
        "isWritablePrimary": address == hello["primary"],
        "localTime": datetime.now(UTC).replace(tzinfo=None),
    }
    options = recorded("01-replica-sets", "getCmdLineOpts")
    options["parsed"]["sharding"]["clusterRole"] = "configsvr" if replica_set == "configReplSet" else "shardsvr"
    now = int(time.time())
    entries = [{"ts": Timestamp(now - 200_000, 1), "o": {"msg": "initiating set"}}, {"ts": Timestamp(now, 1), "o": {}}]
    return Node(
        {
            "buildInfo": recorded("01-replica-sets", "buildInfo") | {"version": "4.4.29"},
            "hello": hello,
            "replSetGetStatus": status,
            "getCmdLineOpts": options,
            "getParameter featureCompatibilityVersion": {"featureCompatibilityVersion": {"version": "4.4"}},
            "getParameter maxIndexBuildMemoryUsageMegabytes": {"maxIndexBuildMemoryUsageMegabytes": 200},
            "serverStatus": _recorded("01-replica-sets", "serverStatus-shard"),
            "hostInfo": recorded("01-replica-sets", "hostInfo"),
            "getLog startupWarnings": {"log": []},
            "getLog global": {"log": [LINE]},
            "replSetGetConfig": recorded("01-replica-sets", "replSetGetConfig-shard1ReplSet"),
            "connectionStatus": {"authInfo": {"authenticatedUsers": [], "authenticatedUserPrivileges": []}},
            "dbStats": {"fsTotalSize": 1000e9, "fsUsedSize": 100e9},
            "collStats oplog.rs": {"size": 500_000_000, "maxSize": 10_000_000_000},
        },
        {"local.oplog.rs": entries},
    )


def router() -> Node:
    """Return a mongos as it was recorded."""
    signs = recorded("02-add-shards", "config.mongos")
    return Node(
        {
            "hello": recorded("02-add-shards", "hello-mongos"),
            "buildInfo": {"version": "4.4.29"},
            "listShards": recorded("02-add-shards", "listShards"),
            "getShardMap": recorded("02-add-shards", "getShardMap"),
            "balancerStatus": {"mode": "off", "inBalancerRound": False, "numBalancerRounds": 3},
            "getCmdLineOpts": {"parsed": {"net": {"bindIp": "127.0.0.1"}}},
            "connectionStatus": {"authInfo": {"authenticatedUsers": [], "authenticatedUserPrivileges": []}},
            "getDefaultRWConcern": {"defaultWriteConcern": {"w": "majority", "wtimeout": 0}},
            "serverStatus": {"connections": {"current": 3, "available": 15_997}},
            "hostInfo": {"extra": {"maxOpenFiles": 64_000}},
            "collStats": {"count": 40_000, "size": 20_000_000, "storageSize": 8_000_000, "totalIndexSize": 1_000_000},
        },
        {
            "config.version": [{"_id": 1, "clusterId": "c1"}],
            "config.mongos": [{**signs[0], "mongoVersion": "4.4.29"}],
            "config.databases": [{"_id": "credibility_prod", "primary": "shard1ReplSet"}],
            "config.shards": recorded("02-add-shards", "config.shards"),
            "collections": [{"name": "analyses", "type": "collection", "options": {}, "info": {}}],
        },
    )


class Nodes:
    """All processes, in the place of the run's connections."""

    def __init__(self) -> None:
        self.nodes = {address: member(name, address) for name, group in SETS.items() for address in group}
        self.nodes[ROUTER] = router()

    @property
    def router(self) -> Node:
        return self.nodes[ROUTER]

    def mongo(self, **_options: float) -> Node:
        return self.router

    def mongo_router(self) -> str:
        return ROUTER

    def mongo_uri(self) -> str:
        return f"mongodb://{ROUTER}/"

    def mongo_member(self, address: str, **_options: float) -> Node:
        if address not in self.nodes:  # a router that was stopped long ago: config.mongos keeps it
            self.nodes[address] = Node({})
            self.nodes[address].hangs = True
        return self.nodes[address]

    def answer(self, name: str, reply: Any, *addresses: str) -> None:
        """Let processes answer otherwise; none named means all of them."""
        for address in addresses or tuple(self.nodes):
            self.nodes[address].replies[name] = reply

    def hang(self, address: str) -> None:
        """Let a process keep everybody waiting and answer nothing."""
        self.nodes[address].hangs = True

    def kill(self, address: str) -> None:
        """Let a process answer nothing any more."""
        node = self.nodes[address]
        node.replies = dict.fromkeys(node.replies, DEAD)
        node.documents = dict.fromkeys(node.documents, DEAD)


def context(nodes: Nodes, *, rehearsal: bool = False, **environment: Any) -> Context:
    """Return a run whose connections lead to these processes."""
    inventory: dict[str, Any] = {"name": "unit", "mongo": {"uri": f"mongodb://{ROUTER}/"}, **environment}
    if rehearsal:
        inventory["lab"] = {}
    secrets, clients = Secrets(), nodes
    given: Any = clients
    return Context(Environment.model_validate(inventory), Journal(None, secrets.mask), given, secrets)


def look_at(
    nodes: Nodes,
    *,
    window: str = "",
    rehearsal: bool = False,
    backup_directory: str = "",
    chunk_size_mb: int = 64,
    **environment: Any,
) -> Look:
    """Return a look at these processes."""
    ctx = context(nodes, rehearsal=rehearsal, **environment)
    return Look(ctx, NAMESPACE, facts.parse_key(KEY), chunk_size_mb, window, backup_directory)


def said(check: Check, look: Look) -> list[tuple[str, str]]:
    """Run a check; return severity and finding of each row."""
    return [(row.severity, row.seen.finding) for row in check.run(look)]


def severities(rows: Sequence[Seen]) -> list[str]:
    """Return the severities of rows in their order."""
    return [row.severity for row in rows]
