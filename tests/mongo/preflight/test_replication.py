"""The checks of replica sets and of what makes them a cluster."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from credscale.mongo.cluster.facts import DataSize, Shard
from credscale.mongo.cluster.members import Disk, OplogWindow
from credscale.mongo.preflight import oplogs, replication, topology
from credscale.mongo.preflight.check import Seen
from credscale.mongo.preflight.members_asked import Member
from tests.mongo.preflight.looks import ROUTER, Nodes, look_at, recorded, said, severities

NOON = datetime(2026, 11, 23, 12)  # noqa: DTZ001 - as pymongo returns dates
SHARDS = (Shard("s1", "s1", ("a:1",), 1, False), Shard("s2", "s2", ("b:1",), 1, False))


def view(me: str, **states: str) -> dict[str, Any]:
    """Return replSetGetStatus as one member gives it, all members up to date."""
    members = [
        {"name": name, "stateStr": state, "optimeDate": NOON, **({"self": True} if name == me else {})}
        for name, state in states.items()
    ]
    return {"set": "s1", "myState": 1 if states[me] == "PRIMARY" else 2, "members": members}


def group(*names: str, **changes: Any) -> dict[str, Member]:
    return {name: Member(name, "shard", "s1", "s1", **changes) for name in names}


def test_shards() -> None:
    assert severities(topology.judge_shards(SHARDS)) == ["ok"]
    assert topology.judge_shards(SHARDS[:1])[0].finding == "1 shard: there is nothing to spread to"
    draining = Shard("s2", "s2", ("b:1",), 0, True)
    assert severities(topology.judge_shards((SHARDS[0], draining))) == ["stop", "stop"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "SECONDARY"}, ["ok"]),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "RECOVERING"}, ["stop"]),
        ({"a": "SECONDARY", "b": "SECONDARY", "c": "SECONDARY"}, ["stop"]),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "ARBITER"}, ["warn"]),
        ({"a": "PRIMARY"}, ["warn"]),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "SECONDARY", "d": "SECONDARY"}, ["ok", "note"]),  # d is hidden
    ],
)
def test_states_and_shapes_of_a_set(states: dict[str, str], expected: list[str]) -> None:
    known = [name for name in states if name != "d" and states[name] != "ARBITER"]
    rows = replication.judge_set("s1", {"a": view("a", **states)}, group(*known), rehearsal=False)
    assert severities(rows) == expected


def test_a_lab_of_single_members_goes_on() -> None:
    rows = replication.judge_set("s1", {"a": view("a", a="PRIMARY")}, group("a"), rehearsal=True)
    assert severities(rows) == ["ok", "note"]
    rows = replication.judge_set(replication.CONFIG, {"a": view("a", a="PRIMARY")}, group("a"), rehearsal=False)
    assert "config servers" in rows[0].finding


def test_a_member_that_does_not_answer_stops_unless_its_set_sees_it() -> None:
    states = {"a": "PRIMARY", "b": "SECONDARY", "c": "SECONDARY"}
    members = group("a", "b") | group("c", problem="AutoReconnect: it does not answer")
    reachable = replication.judge_set("s1", {"a": view("a", **states)}, members, rehearsal=False)
    assert severities(reachable) == ["warn"]
    assert "while its set sees it as SECONDARY" in reachable[0].finding
    down = {**states, "c": "(not reachable/healthy)"}
    assert severities(replication.judge_set("s1", {"a": view("a", **down)}, members, rehearsal=False)) == ["stop"]
    assert severities(replication.judge_set("s1", {}, members, rehearsal=True)) == ["stop"]
    barred = group("a", problem="it does not let this user log in (code 18)", barred=True)
    assert severities(replication.judge_set("s1", {}, barred, rehearsal=False)) == ["unknown"]


def test_a_healthy_secondary_that_only_its_primary_sees_behind() -> None:
    """The recorded primary wrote a moment ago; what it knows of its secondaries is a heartbeat old: ten seconds."""
    status = recorded("01-replica-sets", "replSetGetStatus-shard1ReplSet")
    assert replication.judge_lag("s1", [status], {})[0].severity == "warn"
    own = {"members": [{**each, "optimeDate": status["members"][0]["optimeDate"]} for each in status["members"]]}
    assert severities(replication.judge_lag("s1", [status, own], {})) == ["ok"]


@given(st.integers(0, 1000), st.integers(0, 10))
def test_lag_is_what_all_views_agree_on(lag: int, stale: int) -> None:
    def seen(behind: int) -> dict[str, Any]:
        secondary = {"name": "b", "stateStr": "SECONDARY", "optimeDate": NOON - timedelta(seconds=behind)}
        return {"members": [{"name": "a", "stateStr": "PRIMARY", "optimeDate": NOON}, secondary]}

    (row,) = replication.judge_lag("s1", [seen(lag + stale), seen(lag)], {})
    expected = "stop" if lag > replication.LAG_STOP else "warn" if lag > replication.LAG_WARN else "ok"
    assert row.severity == expected


def test_a_delayed_member_is_not_behind() -> None:
    members = [
        {"name": "a", "stateStr": "PRIMARY", "optimeDate": NOON},
        {"name": "b", "stateStr": "SECONDARY", "optimeDate": NOON - timedelta(hours=1)},
    ]
    assert severities(replication.judge_lag("s1", [{"members": members}], {"b": 3600.0})) == ["ok"]
    assert severities(replication.judge_lag("s1", [{"members": members}], {})) == ["stop"]


@pytest.mark.parametrize(
    ("hours", "whole", "fill", "severity"),
    [
        (30.0, False, 1.0, "ok"),
        (10.0, False, 1.0, "warn"),
        (0.5, False, 0.9, "stop"),
        (0.1, True, 0.01, "warn"),  # too young to tell
        (0.1, True, 0.001, "ok"),
        (0.1, True, 0.99, "stop"),
        (0.1, False, 0.2, "warn"),
        (1.5, True, 0.4, "warn"),
        (1.2, True, 0.45, "warn"),
        (6.0, True, 0.2, "ok"),
        (0.2, True, None, "unknown"),
        (0.2, False, None, "stop"),
    ],
)
def test_oplogs(hours: float, whole: bool, fill: float | None, severity: str) -> None:
    window = OplogWindow(hours, whole, fill)
    assert oplogs.judge_oplog("a", window, 24.0, rehearsal=False).severity == severity
    assert oplogs.judge_oplog("a", window, 24.0, rehearsal=True).severity in ("ok", "note")
    of_config = oplogs.judge_oplog("a", window, 24.0, rehearsal=False, proves=False)
    assert of_config.severity == ("warn" if severity == "stop" else severity)


@pytest.mark.parametrize(
    ("size", "shards", "window", "wanted", "least"),
    [
        (None, 2, None, 24, 2),
        (10**6, 2, None, 24, 2),
        (10**11, 2, None, 24, 5.6),  # two passes of 1.4 h, half of it moves in 2.8 h
        (10**11, 4, None, 24, 6.9),  # more shards do not make the one donor quicker
        (10**12, 2, None, 55.6, 55.6),
        (10**12, 2, ("22:00", "02:00"), 175.6, 175.6),  # 27.8 h in nights of 4: the seventh begins after 144 h
        (10**6, 2, ("00:00", "12:00"), 36, 2),
    ],
)
def test_what_a_migration_asks_of_oplogs(
    size: int | None, shards: int, window: tuple[str, str] | None, wanted: float, least: float
) -> None:
    need = oplogs.needs(None if size is None else DataSize(1000, size, 1, 1, {}), shards, window)
    assert (round(need.wanted, 1), round(need.least, 1)) == (wanted, least)


@pytest.mark.parametrize(("hours", "severity"), [(200.0, "ok"), (60.0, "ok"), (50.0, "stop"), (30.0, "stop")])
def test_an_oplog_shorter_than_the_migration_stops(hours: float, severity: str) -> None:
    need = oplogs.needs(DataSize(10**9, 10**12, 1, 1, {}), 2, None)
    window = OplogWindow(hours, whole=False, fill=1.0)
    row = oplogs.judge_oplog("a", window, need.wanted, rehearsal=False, least=need.least)
    assert row.severity == severity
    if severity == "stop":
        assert "backup, moves and proof may take 56" in row.finding


def test_the_moves_themselves_push_entries_out() -> None:
    size = DataSize(10**8, 10**12, 1, 1, {})
    need = oplogs.needs(size, 2, None)
    window = OplogWindow(100.0, whole=False, fill=1.0, most=50 * 10**9)

    def judged(extra: float) -> Seen:
        return oplogs.judge_oplog("a", window, need.wanted, rehearsal=False, least=need.least, extra=extra)

    assert judged(0.0).severity == "ok"
    assert judged(need.received).severity == "stop"  # 500 GB through an oplog of 50 GB
    assert judged(need.received).finding.startswith("the oplog of a reaches back 100.0 hours, and 5.3 when it is")
    assert judged(need.given).severity == "ok"  # a donor writes but one short entry for each document


@given(
    st.floats(0.1, 1000), st.floats(0.01, 1.0), st.integers(1, 10**12), st.floats(2, 500), st.floats(0, 1e13),
)  # fmt: skip
def test_moves_never_lengthen_an_oplog(hours: float, fill: float, most: int, least: float, extra: float) -> None:
    window = OplogWindow(hours, whole=True, fill=fill, most=most)
    quiet, busy = oplogs.expected_hours(window, least, 0.0), oplogs.expected_hours(window, least, extra)
    assert quiet is not None
    assert busy is not None
    assert 0 < busy <= quiet * 1.000001
    assert quiet == pytest.approx(hours / fill)


def test_a_member_that_answers_nothing_is_told_as_in_every_check() -> None:
    nodes = Nodes()
    nodes.kill("127.0.0.1:27028")
    silent = [row.seen.member for row in replication.oplog_window.run(look_at(nodes)) if row.severity == "unknown"]
    assert silent == ["127.0.0.1:27028"]


def test_donor_and_recipient_are_judged_by_what_each_writes() -> None:
    nodes = Nodes()
    nodes.answer("collStats oplog.rs", {"size": 10**9, "maxSize": 10**9})
    nodes.answer("collStats", {"count": 10**6, "size": 400 * 10**9, "storageSize": 1, "totalIndexSize": 1}, ROUTER)
    rows = said(replication.oplog_window, look_at(nodes))
    assert {row[0] for row in rows if "27020" in row[1]} == {"stop"}
    assert {row[0] for row in rows if "27020" not in row[1]} == {"ok"}


def test_an_oplog_that_cannot_be_read_is_unknown() -> None:
    row = oplogs.judge_oplog("a", Seen("unknown", "the user may not look (code 13)"), 24.0, rehearsal=False)
    assert row.severity == "unknown"
    assert "read on the database local" in row.remedy
    assert oplogs.judge_oplog("a", None, 24.0, rehearsal=False).severity == "unknown"


def test_big_data_wants_a_longer_oplog() -> None:
    assert oplogs.wanted_hours(None) == oplogs.wanted_hours(DataSize(1, 1000, 1, 1, {})) == 24.0
    assert round(oplogs.wanted_hours(DataSize(10**9, 1 << 40, 1, 1, {}))) == 46


@pytest.mark.parametrize(
    ("hosts", "set_name", "expected"),
    [
        (["a:1", "b:1"], "rs", ["ok"]),
        (["a:1", "b:1", "c:1"], "rs", ["note"]),
        (["a:1", "B.example:1"], "rs", ["stop"]),
        (["a:1", "b:1"], "other", ["stop"]),
    ],
)
def test_names_in_the_catalogue(hosts: list[str], set_name: str, expected: list[str]) -> None:
    shard = Shard("s", "rs", ("a:1", "b:1"), 1, False)
    rows = topology.judge_seeds((shard,), {"a:1": {"setName": set_name, "hosts": hosts}})
    assert [row.severity for row in rows if row.severity != "ok"] == [each for each in expected if each != "ok"]


@pytest.mark.parametrize(
    ("addresses", "bound", "expected"),
    [
        (["127.0.0.1:1", "localhost:2"], "127.0.0.1", ["note"]),
        (["127.0.0.1:1", "db2:2"], "10.0.0.1", ["stop"]),
        (["db1:1", "db2:2"], "localhost", ["stop", "stop"]),
        (["db1:1", "db2:2"], "localhost,10.0.0.1", []),
    ],
)
def test_where_members_listen(addresses: list[str], bound: str, expected: list[str]) -> None:
    parsed = {address: {"net": {"bindIp": bound}} for address in addresses}
    assert severities(topology.judge_hosts(addresses, parsed)) == expected


def test_names_that_cannot_be_resolved() -> None:
    assert topology.unresolved([]) == []
    assert topology.unresolved(["127.0.0.1:1", "[::1]:1"]) == []


@pytest.mark.parametrize(
    ("reply", "version", "arbitrated", "severity"),
    [
        ({}, (4, 4, 29), [], "note"),
        ({"defaultWriteConcern": {"w": "majority"}}, (4, 4, 29), ["s1"], "ok"),
        ({"defaultWriteConcern": {"w": 1}, "defaultWriteConcernSource": "global"}, (5, 0, 28), [], "warn"),
        ({"defaultWriteConcern": {"w": 1}, "defaultWriteConcernSource": "implicit"}, (5, 0, 28), ["s1"], "stop"),
        ({"defaultWriteConcern": {"w": "majority"}, "defaultWriteConcernSource": "implicit"}, (5, 0, 28), [], "ok"),
        ({"defaultWriteConcern": {"w": "majority"}, "defaultWriteConcernSource": "implicit"}, (8, 0, 1), ["s"], "stop"),
    ],
)
def test_write_concerns(reply: dict[str, Any], version: tuple[int, ...], arbitrated: list[str], severity: str) -> None:
    assert topology.judge_write_concern(reply, version, arbitrated).severity == severity


def test_routers_that_live() -> None:
    old, new = {"_id": "a", "ping": NOON - timedelta(days=3)}, {"_id": "b", "ping": NOON}
    assert topology.judge_routers([old, new]).finding == "one router lives: b"
    assert topology.judge_routers([new, {"_id": "c", "ping": NOON - timedelta(seconds=5)}]).severity == "ok"
    assert topology.judge_routers([]).severity == "warn"


@pytest.mark.parametrize(
    ("disk", "severity"),
    [(Disk(100, 50), "ok"), (Disk(100, 81), "warn"), (Disk(0, 0), "unknown"), (Seen("unknown", "code 13"), "unknown")],
)
def test_disks_of_config_servers(disk: Disk | Seen, severity: str) -> None:
    assert topology.judge_config_disk("c:1", disk).severity == severity


def test_the_recorded_cluster_passes() -> None:
    look = look_at(Nodes())
    assert said(topology.shards, look) == [("ok", "2 shards: shard1ReplSet, shard2ReplSet")]
    rows = said(replication.replica_sets, look)
    assert rows[0] == ("ok", "shard1ReplSet: 1 PRIMARY, 2 SECONDARY")
    assert [row for row in rows if row[0] == "warn"] == [
        ("warn", "shard2ReplSet: members with data: 1, needed to survive the loss of one: 3")
    ]
    assert said(replication.replica_lag, look)[0] == ("ok", "shard1ReplSet: 2 secondaries at most 0.0 s behind")
    assert len(said(replication.oplog_window, look)) == 4
    assert said(topology.addresses, look)[0] == ("ok", "2 shards call their members as config.shards does")
    assert said(topology.default_write_concern, look) == [("ok", "writes wait for w:majority by default")]
    assert said(topology.routers, look) == [("warn", "one router lives: host:27017")]
    assert {row[0] for row in said(topology.config_servers, look)} == {"ok"}


def test_a_dead_shard_stops_in_a_lab_as_well() -> None:
    nodes = Nodes()
    nodes.kill("127.0.0.1:27020")
    rows = said(replication.replica_sets, look_at(nodes, rehearsal=True))
    assert [row[0] for row in rows if "27020" in row[1]] == ["stop"]


def test_oplogs_are_read_although_the_collections_size_cannot_be() -> None:
    nodes = Nodes()
    nodes.answer("collStats", OperationFailure("not authorized", 13), "127.0.0.1:27017")
    assert {row[0] for row in said(replication.oplog_window, look_at(nodes))} == {"ok"}


def test_an_oplog_of_one_member_that_may_not_be_read() -> None:
    nodes = Nodes()
    nodes.nodes["127.0.0.1:27028"].documents["local.oplog.rs"] = OperationFailure("not authorized", 13)
    rows = said(replication.oplog_window, look_at(nodes))
    assert [row[0] for row in rows] == ["ok", "unknown", "ok", "ok"]
