"""What is under way: index builds, long operations, change streams, clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from bson import json_util
from pymongo.errors import OperationFailure

from credscale.mongo.cluster import facts
from credscale.mongo.preflight import activity, connections
from credscale.mongo.preflight.check import unreadable
from credscale.mongo.preflight.look import Look
from credscale.mongo.preflight.members_asked import Member

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.mongo.preflight.check import Seen
    from credscale.mongo.preflight.connections import Clients

NAMESPACE = "shop.orders"
KEY = facts.parse_key("createdAt:hashed,userId:1")
RECORDED = Path(__file__).parents[2] / "cases/mongo/recorded"  # replies of a real 4.4.6 cluster
OURS = {"createIndexes": "orders", "indexes": [{"key": dict(KEY), "name": "k"}], "$db": "shop"}
OTHERS = {"createIndexes": "orders", "indexes": [{"key": {"x": 1}, "name": "x"}], "$db": "shop"}


def severities(rows: Sequence[Seen]) -> list[str]:
    return [row.severity for row in rows]


def moving() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json_util.loads((RECORDED / "06-balancing/currentOp.json").read_text())["reply"]
    return found


@pytest.mark.parametrize(
    ("operation", "severity", "said"),
    [
        ({"command": OTHERS, "shard": "s1"}, "stop", "an index is being built on s1 on shop.orders"),
        ({"command": OURS}, "note", "an earlier run began it"),
        ({"msg": "Index Build: scanning collection", "ns": NAMESPACE, "command": {}}, "stop", "scanning collection"),
        ({"msg": "Index Build: draining", "ns": NAMESPACE, "command": OURS}, "note", "wanted key"),
        ({"command": {**OTHERS, "createIndexes": "carts"}}, "note", "an index is being built on shop.carts: it slows"),
        ({"command": {"find": "orders", "$db": "shop"}}, "ok", "no index is being built"),
        ({"command": {"collMod": "orders", "$db": "shop"}}, "ok", "no index is being built"),
        ({"op": "none"}, "ok", "no index is being built"),
    ],
)
def test_index_builds(operation: dict[str, Any], severity: str, said: str) -> None:
    (row,) = activity.judge_builds([operation], NAMESPACE, KEY)
    assert row.severity == severity
    assert said in row.finding


@pytest.mark.parametrize(
    ("command", "severity"),
    [
        ({"shardCollection": NAMESPACE, "key": dict(KEY), "$db": "admin"}, "note"),
        ({"_shardsvrShardCollection": NAMESPACE, "key": dict(KEY), "$db": "admin"}, "note"),
        ({"shardCollection": NAMESPACE, "key": {"x": 1}, "$db": "admin"}, "stop"),
        ({"collMod": "orders", "$db": "shop"}, "stop"),
        ({"dropIndexes": "orders", "$db": "shop"}, "stop"),
        ({"collMod": "orders", "$db": "other"}, None),
        (OTHERS, None),
        ({"find": "orders", "$db": "shop"}, None),
    ],
)
def test_other_changes_of_the_collection(command: dict[str, Any], severity: str | None) -> None:
    rows = activity.judge_changes([{"command": command}, {"command": command}], NAMESPACE, KEY)
    assert severities(rows) == ([severity] if severity else [])


def test_a_change_stops_beside_the_builds() -> None:
    running = [{"command": {"collMod": "orders", "$db": "shop"}}]
    look: Any = SimpleNamespace(operations=running, namespace=NAMESPACE, key=KEY, rehearsal=False)
    assert [row.severity for row in activity.index_builds.run(look)] == ["stop", "ok"]


def test_one_build_on_two_threads_is_told_once() -> None:
    build = {"command": OTHERS, "shard": "s1"}
    assert len(activity.judge_builds([build, build], NAMESPACE, KEY)) == 1


@pytest.mark.parametrize("command", [{"shardCollection": NAMESPACE, "key": dict(KEY)}, {"shardKey": dict(KEY)}, OURS])
def test_what_an_earlier_run_began(command: dict[str, Any]) -> None:
    assert activity.is_ours(command, KEY)
    assert not activity.is_ours(command, {"createdAt": "hashed"})
    assert not activity.is_ours(command, {"userId": 1, "createdAt": "hashed"})


def test_a_migration_under_way_is_no_long_operation() -> None:
    (row,) = activity.judge_long(moving(), "credibility_prod.analyses")
    assert row.severity == "ok"
    assert activity.judge_builds(moving(), "credibility_prod.analyses", KEY)[0].severity == "ok"
    assert activity.judge_streams(moving(), "credibility_prod.analyses")[0].severity == "ok"


def test_long_operations_name_the_command_that_ends_them() -> None:
    report = {"ns": NAMESPACE, "secs_running": 301, "opid": "s1:7", "shard": "s1", "command": {"aggregate": "orders"}}
    (row,) = activity.judge_long([report | {"appName": "reports"}], NAMESPACE)
    assert (row.severity, row.finding) == ("stop", "aggregate of reports on s1 runs for 301 s on shop.orders")
    assert 'db.adminCommand({killOp: 1, op: "s1:7"})' in row.remedy
    assert severities(activity.judge_long([report | {"secs_running": 300}], NAMESPACE)) == ["ok"]
    assert severities(activity.judge_long([report | {"ns": "shop.carts"}], NAMESPACE)) == ["ok"]


def test_an_idle_transaction_is_ended_by_its_session() -> None:
    identity = UUID("3b1b9f8c-7b1f-4c39-9f0c-3a6f1d2c4b5a")
    idle = {
        "type": "idleSession",
        "shard": "s2",
        "transaction": {"timeOpenMicros": 61_000_000},
        "lsid": {"id": identity},
    }
    (row,) = activity.judge_long([idle], NAMESPACE)
    assert (row.severity, row.finding) == ("stop", "a transaction of an unnamed client on s2 is open for 61 s")
    assert f'killSessions: [{{id: UUID("{identity}")}}]' in row.remedy
    young = {"transaction": {"timeOpenMicros": 59_000_000}}
    assert severities(activity.judge_long([young], NAMESPACE)) == ["ok"]


STREAM = {"aggregate": "orders", "pipeline": [{"$changeStream": {}}], "$db": "shop"}


@pytest.mark.parametrize(
    "operation",
    [
        {"type": "idleCursor", "ns": NAMESPACE, "cursor": {"originatingCommand": STREAM, "tailable": True}},
        {"op": "getmore", "ns": NAMESPACE, "command": {"getMore": 1}, "cursor": {"originatingCommand": STREAM}},
        {"ns": "shop.$cmd.aggregate", "command": STREAM},
        {"ns": "admin.$cmd.aggregate", "command": STREAM},
        {"ns": NAMESPACE, "command": {"pipeline": [{"$_internalChangeStreamOplogMatch": {}}]}},
    ],
)
def test_change_streams_on_the_collection_its_database_or_everything(operation: dict[str, Any]) -> None:
    (row,) = activity.judge_streams([operation | {"appName": "cdc"}], NAMESPACE)
    assert row.severity == "warn"
    assert row.finding.startswith("cdc has a change stream on ")


def test_readers_of_the_oplog_that_are_no_members() -> None:
    reader = {"ns": "local.oplog.rs", "shard": "s1", "command": {"getMore": 1}}
    internal = {"clientMetadata": {"driver": {"name": "NetworkInterfaceTL", "version": "5.0.28"}}}
    consumer = {"clientMetadata": {"driver": {"name": "mongo-java-driver|sync"}, "application": {"name": "connect"}}}
    assert severities(activity.judge_streams([reader, reader | internal], NAMESPACE)) == ["ok"]
    (row,) = activity.judge_streams([reader | consumer], NAMESPACE)
    assert row.finding == "connect reads the oplog of s1 itself (cursors: 1)"
    other = {"ns": "shop.carts", "command": STREAM}
    assert severities(activity.judge_streams([other], NAMESPACE)) == ["ok"]


def test_operations_that_may_not_be_read_are_unknown() -> None:
    class Blind:
        rehearsal, namespace, key = False, NAMESPACE, KEY

        @property
        def operations(self) -> list[dict[str, Any]]:
            raise OperationFailure("not authorized", 13)

    look: Any = Blind()
    for each in (activity.index_builds, activity.long_operations, activity.change_streams):
        assert [row.severity for row in each.run(look)] == ["unknown"]


def group(driver: str = "", version: str = "", **others: Any) -> dict[str, Any]:
    identity: dict[str, Any] = {"driver": {"name": driver, "version": version}, "ours": False} | others
    return {"_id": identity, "connections": 3}


def clients(address: str, *groups: dict[str, Any], is_router: bool = False) -> dict[str, list[Clients] | Seen]:
    return {address: connections.parse(address, groups, is_router=is_router)}


INTERNAL = group("NetworkInterfaceTL", "7.0.9")


def test_an_application_past_mongos_stops() -> None:
    found = clients("a:1", INTERNAL, group("PyMongo", "4.6.0", application="billing", ours=True))
    (row,) = connections.judge(found, (7, 0, 9))
    assert row.severity == "stop"
    assert row.finding == (
        "billing (PyMongo 4.6.0) is connected straight to a:1 (3 connections), at work on the collection"
    )
    assert "--skip 'drivers=REASON' (shard-migrate: --skip-checks)" in row.remedy


@pytest.mark.parametrize(
    ("other", "severity"),
    [
        (group("PyMongo", "4.6.0", application="credscale"), "ok"),
        (group("MongoDB Internal Client", "7.0.9"), "ok"),
        (group("PyMongo", "4.6.0", application="billing", router="mongos1:27017"), "ok"),
        (group("nodejs|mongosh", "5.0", application="mongosh 2.1"), "note"),
        (group("mongo-go-driver", "v1.1.0", application="mongodb_exporter"), "note"),
        (group("nodejs", "6.9.0", application="MongoDB Compass"), "note"),
        (group(), "warn"),
        (group(application="haproxy-check"), "warn"),
        (group(ours=True), "stop"),
        (group("PyMongo", "4.6.0"), "stop"),
    ],
)
def test_who_may_be_connected_to_a_shard(other: dict[str, Any], severity: str) -> None:
    assert severities(connections.judge(clients("a:1", INTERNAL, other), (7, 0, 9))) == [severity]


@pytest.mark.parametrize(
    ("driver", "version", "server", "old"),
    [
        ("PyMongo", "4.3.3", (7, 0, 9), True),
        ("PyMongo|Motor", "4.4.0|3.1", (7, 0, 9), False),
        ("PyMongo", "3.12.0", (5, 0, 28), False),
        ("mongo-go-driver", "v1.11.0-cloud", (7, 0, 9), True),
        ("mongo-java-driver|mongo-scala-driver", "unknown|2.3.0", (7, 0, 9), False),
        ("mongo-csharp-driver", "2.28.0.0", (8, 0, 4), True),
        ("nodejs", "4.1.0", (6, 0, 9), False),
        ("homemade", "0.1", (8, 0, 4), False),
    ],
)
def test_drivers_older_than_the_server(driver: str, version: str, server: tuple[int, ...], old: bool) -> None:
    found = clients("mongos:1", group(driver, version, application="shop"), is_router=True)
    assert severities(connections.judge(found, server)) == ["warn" if old else "ok"]


def test_servers_that_show_nobody_are_named() -> None:
    refused: dict[str, list[Clients] | Seen] = {"b:1": unreadable(OperationFailure("no", 13))}
    rows = connections.judge(clients("a:1", INTERNAL) | clients("c:1", {"opid": 1}) | refused, (7, 0, 9))
    assert severities(rows) == ["warn"]  # who is connected can never be known wholly
    assert rows[0].finding == "2 of 3 servers do not show who is connected: c:1, b:1"


def test_routers_that_have_not_pinged_are_left_out() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    signs = [
        {"_id": "a:1", "ping": now}, {"_id": "b:1", "ping": now - timedelta(seconds=50)},
        {"_id": "c:1", "ping": now - timedelta(hours=1)}, {"_id": "d:1"},
    ]  # fmt: skip
    assert connections.pinging(signs) == ["a:1", "b:1"]
    assert connections.pinging([]) == []


class Servers:
    """Answers $currentOp by address, and remembers how it was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.asked = answers, {}  # type: ignore[var-annotated]

    def at(self, address: str) -> Any:
        def aggregate(pipeline: list[Any], *, maxTimeMS: int) -> Any:  # noqa: N803
            assert maxTimeMS <= 10_000
            self.asked[address] = pipeline
            answer = self.answers[address]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return {"admin": SimpleNamespace(aggregate=aggregate)}


def look_among(servers: Servers, routers: list[str], members: tuple[Member, ...]) -> Look:
    """Return a look at these routers, all of which live, and members."""
    clients_of = SimpleNamespace(mongo_router=lambda: routers[0])
    ctx: Any = SimpleNamespace(clients=clients_of, environment=SimpleNamespace(lab=None))
    look = Look(ctx, NAMESPACE, KEY, 0, "")
    look.__dict__ |= {
        "router_signs": [{"_id": name, "ping": datetime.now(UTC)} for name in routers], "members": members,
        "member": servers.at, "server": SimpleNamespace(numbers=(7, 0, 9)),
    }  # fmt: skip
    return look


def test_every_router_and_member_is_asked_once_and_the_dead_are_not_waited_for() -> None:
    refused = OperationFailure("no", 13)
    servers = Servers({"mongos:1": [group("PyMongo", "4.9.0", application="shop")], "a:1": [INTERNAL], "b:1": refused})
    found = (Member("a:1", "shard", "s1", "s1"), Member("b:1", "shard", "s1", "s1"), Member("c:1", "config", "", ""))
    dead = Member("d:1", "shard", "s2", "s2", problem="AutoReconnect: it does not answer")
    look = look_among(servers, ["mongos:1"], (*found, dead))
    (row,) = activity.drivers.run(look)
    assert (row.severity, row.seen.finding) == ("warn", "2 of 4 servers do not show who is connected: d:1, b:1")
    assert set(servers.asked) == {"mongos:1", "a:1", "b:1"}
    assert servers.asked["mongos:1"][0]["$currentOp"]["localOps"] is True
    assert "localOps" not in servers.asked["a:1"][0]["$currentOp"]


def test_of_hundreds_of_routers_some_are_asked_and_the_rest_is_told() -> None:
    names = [f"mongos{n}:1" for n in range(300)]
    servers = Servers({name: [group("PyMongo", "4.9.0", application="shop")] for name in names})
    rows = activity.drivers.run(look_among(servers, names, ()))
    assert len(servers.asked) == 32
    assert [row.severity for row in rows] == ["ok", "note"]
    assert rows[1].seen.finding == "32 routers were asked who is connected, 268 more were not"


def test_operations_are_read_once_and_within_limits() -> None:
    servers = Servers({"mongos": [{"op": "none"}]})
    look = Look(SimpleNamespace(clients=None), NAMESPACE, KEY, 1, "")  # type: ignore[arg-type]
    look.__dict__["client"] = servers.at("mongos")
    assert look.operations is look.operations
    options, match, limit = servers.asked["mongos"]
    assert options["$currentOp"] == {
        "allUsers": True, "idleConnections": False, "idleSessions": True, "idleCursors": True,
    }  # fmt: skip
    assert {"cursor.tailable": True} in match["$match"]["$or"]
    assert limit == {"$limit": 10_000}
