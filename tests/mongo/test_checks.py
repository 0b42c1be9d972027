"""The pre-flight's judgements, one behaviour each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import Timestamp
from pymongo.errors import OperationFailure

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo import checks, facts, members, operations
from credscale.mongo.checks import Check
from credscale.mongo.disk import needed_on_shard
from credscale.mongo.preflight.step import preflight
from credscale.mongo.settings import parse_settings
from tests.mongo.conftest import KEY, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

PARSED = facts.parse_key(KEY)
SIZE = facts.DataSize(1000, 100_000, 50_000, 10_000, {"shard1": 100_000})
PLAIN = facts.Collection("orders", "collection", {}, "u")
SHARDS = (facts.Shard("s1", "s1", ("a:1",), 1, False), facts.Shard("s2", "s2", ("b:1",), 1, False))


def severities(rows: Sequence[Check]) -> set[str]:
    return {row.severity for row in rows}


@pytest.mark.parametrize(
    ("version", "rehearsal", "severity"),
    [
        ("4.4.6", False, "stop"),
        ("4.4.6", True, "warn"),
        ("4.4.29", False, "ok"),
        ("5.0.28", False, "ok"),
        ("4.4.22", False, "warn"),
        ("5.0.18", False, "warn"),
        ("6.0.4", False, "stop"),
        ("7.0.14", False, "ok"),
        ("4.2.24", True, "stop"),
    ],
)
def test_known_bad_versions(version: str, rehearsal: bool, severity: str) -> None:
    found = severities(checks.versions({"mongos": version}, rehearsal=rehearsal))
    assert severity in found
    if severity == "ok":
        assert found <= {"ok", "note"}


def test_two_releases_at_once() -> None:
    rows = checks.versions({"mongos": "7.0.14", "a:1": "6.0.16"}, rehearsal=True)
    assert rows[0].finding == "different releases: a:1 6.0.16, mongos 7.0.14"


def test_topology() -> None:
    assert severities(checks.topology(True, SHARDS)) == {"ok"}
    assert "leads to a mongod" in checks.topology(False, SHARDS)[0].finding
    assert checks.topology(True, SHARDS[:1])[0].finding == "1 shard: nothing to spread to"
    draining = facts.Shard("s2", "s2", ("b:1",), 0, True)
    assert [row.severity for row in checks.topology(True, (SHARDS[0], draining))] == ["stop", "stop"]


@pytest.mark.parametrize(
    ("collection", "size", "said"),
    [
        (None, None, "does not exist"),
        (facts.Collection("v", "view", {}, ""), None, "is a view"),
        (facts.Collection("t", "timeseries", {}, ""), None, "is a timeseries"),
        (facts.Collection("c", "collection", {"capped": True}, ""), SIZE, "is a capped collection"),
        (PLAIN, facts.DataSize(0, 0, 0, 0, {}), "is empty: there is nothing to migrate"),
    ],
)
def test_collections_that_are_not_migrated(
    collection: facts.Collection | None, size: facts.DataSize | None, said: str
) -> None:
    rows = checks.collection_kind(NAMESPACE, collection, size)
    assert rows[0].severity == "stop"
    assert said in rows[0].finding


def test_small_data_and_a_collation_are_only_told() -> None:
    collation = facts.Collection("c", "collection", {"collation": {"locale": "de"}}, "")
    assert severities(checks.collection_kind(NAMESPACE, collation, SIZE)) == {"ok", "note", "warn"}


@pytest.mark.parametrize(
    ("index", "severity"),
    [
        (facts.Index("u", {"orderId": 1}, unique=True), "stop"),
        (facts.Index("u", {"createdAt": 1, "userId": 1, "x": 1}, unique=True), "ok"),
        (facts.Index("u", {"userId": 1, "createdAt": 1}, unique=True), "stop"),
        (facts.Index("u", {"_id": 1, "x": 1}, unique=True), "ok"),
        (facts.Index("t", {"createdAt": 1}, ttl=60.0), "warn"),
        (facts.Index("u", {"_id": 1, "x": 1}, unique=True, collation="de"), "warn"),
    ],
)
def test_indexes_that_forbid_or_disturb(index: facts.Index, severity: str) -> None:
    assert severities(checks.indexes([index], PARSED)) == {severity}


def test_no_room_for_another_index() -> None:
    full = [facts.Index(f"i{n}", {f"f{n}": 1}) for n in range(64)]
    assert severities(checks.indexes(full, PARSED)) == {"stop"}
    assert severities(checks.indexes([*full, facts.Index("k", PARSED)], PARSED)) == {"ok"}


def test_the_guides_key_broadcasts_queries_by_user() -> None:
    row = checks.queries(PARSED)[0]
    assert row.severity == "warn"
    assert "queries by userId alone" in row.finding
    assert row.remedy == "userId:hashed,createdAt:1 would target one shard"
    assert checks.queries(facts.parse_key("userId:1,createdAt:1")) == []


def document(**values: Any) -> dict[str, Any]:
    return {"_id": 7, "createdAt": "2026", "userId": "u", **values}


def test_values_of_the_key() -> None:
    assert severities(checks.values([document()] * 3, PARSED)) == {"ok"}
    rows = checks.values([document(), document(createdAt=5), document(userId=None)], PARSED)
    assert [row.finding for row in rows] == [
        "createdAt has values of the types number, string",
        "userId is missing or null in 1 of 3 documents looked at",
    ]


def test_an_array_in_the_key_names_a_document() -> None:
    row = checks.values([document(), document(userId=["u"])], PARSED)[0]
    assert (row.severity, row.finding) == ("stop", "userId holds an array in the document with _id 7")
    nested = {"_id": 8, "user": [{"id": 1}]}
    assert checks.values([nested], {"user.id": 1})[0].severity == "stop"


def test_catalogue() -> None:
    database = facts.Database("shop", "s1", False)
    assert checks.catalogue(None, None, KEY)[0].severity == "stop"
    assert severities(checks.catalogue(database, None, KEY)) == {"ok"}
    other = facts.ShardedCollection(NAMESPACE, {"_id": "hashed"}, "u", False, False, {})
    assert "sharded by _id:hashed, wanted createdAt" in checks.catalogue(database, other, KEY)[1].finding


def test_settings_and_migrations() -> None:
    good = parse_settings([], {"mode": "full"})
    assert severities(checks.settings(good, {}, {}, NAMESPACE)) == {"ok"}
    rows = checks.settings(good, {"shop.other": "s1 -> s2", NAMESPACE: "s2 -> s1"}, {"s1": 2}, NAMESPACE)
    assert [(row.check, row.severity) for row in rows] == [
        ("migrations", "note"),
        ("migrations", "warn"),
        ("jumbo", "warn"),
    ]
    bad = parse_settings([{"_id": "chunksize", "value": 0}], {"mode": "full"})
    assert severities(checks.settings(bad, {}, {}, NAMESPACE)) == {"stop"}


def test_every_stop_is_listed_with_its_remedy(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(ctx, "note", notes.append)
    module = "credscale.mongo.preflight.step"
    monkeypatch.setattr(f"{module}._servers", lambda *_: [Check("a", "stop", "first", "do this")])
    monkeypatch.setattr(f"{module}._strays", lambda *_: [Check("b", "stop", "second", "do that")])
    monkeypatch.setattr(f"{module}._oplogs", lambda *_: [])
    monkeypatch.setattr(f"{module}._values", lambda *_: [])
    with pytest.raises(StepFailed, match=r"a: first \(do this\); b: second \(do that\)"):
        preflight(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert len(notes) > 8


def test_room_on_the_shards() -> None:
    share = needed_on_shard(SIZE, "shard2", 2, index_missing=False, holds_all=False)
    assert share == 39_000  # half of data and indexes, and 30 %
    assert needed_on_shard(SIZE, "shard1", 2, index_missing=True, holds_all=True) == 80_000
    assert needed_on_shard(SIZE, "shard1", 2, index_missing=False, holds_all=True) == 0
    there = facts.DataSize(1000, 100_000, 50_000, 10_000, {"shard1": 50_000, "shard2": 50_000})
    assert needed_on_shard(there, "shard2", 2, index_missing=False, holds_all=False) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"namespace": "orders"}, r"database\.collection"),
        ({"shard_key": "createdAt:-1"}, "may be 1 or hashed"),
        ({"chunk_size_mb": 2048}, "from 1 to 1024"),
        ({"window": "2am"}, "HH:MM-HH:MM"),
    ],
)
def test_wrong_parameters_fail_before_anything_is_asked(ctx: Context, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(StepFailed, match=said):
        preflight(ctx, **{"namespace": NAMESPACE, "shard_key": KEY} | wrong)


def test_the_alert_about_unique_indexes_is_told() -> None:
    found = checks.versions({"mongos": "7.0.31"}, rehearsal=False)
    assert any("alert of 2026-05" in row.finding for row in found)
    assert not any("alert of 2026-05" in row.finding for row in checks.versions({"m": "7.0.32"}, rehearsal=False))


@pytest.mark.parametrize(
    ("found", "severity", "said"),
    [
        ({"a": {"version": "5.0"}, "b": {"version": "5.0"}}, "ok", "5.0"),
        ({"a": {"version": "5.0"}, "b": {"version": "4.4"}}, "stop", "different: a 5.0, b 4.4"),
        ({"a": {"version": "5.0", "targetVersion": "6.0"}}, "stop", "a is on its way between 5.0 and 6.0"),
        ({"a": {"version": "5.0", "previousVersion": "6.0"}}, "stop", "a is on its way between 5.0 and 6.0"),
        ({"a": {"version": "4.2"}}, "stop", "4.2 has no compound hashed keys"),
    ],
)
def test_compatibility_versions(found: dict[str, dict[str, Any]], severity: str, said: str) -> None:
    rows = checks.compatibility(found)
    assert [(row.severity, row.finding) for row in rows] == [(severity, said)]
    assert checks.compatibility({}) == []


@pytest.mark.parametrize(
    ("window", "rehearsal", "severity"),
    [
        (members.OplogWindow(50.0, whole=False, fill=1.0), False, "ok"),
        (members.OplogWindow(10.0, whole=False, fill=1.0), False, "warn"),
        (members.OplogWindow(1.0, whole=False, fill=1.0), False, "stop"),
        (members.OplogWindow(1.0, whole=False, fill=1.0), True, "note"),
        (members.OplogWindow(0.1, whole=True, fill=None), False, "ok"),
        (members.OplogWindow(0.1, whole=False, fill=0.01), False, "ok"),
        (members.OplogWindow(1.0, whole=True, fill=0.95), False, "stop"),
        (members.OplogWindow(1.0, whole=False, fill=None), False, "stop"),
    ],
)
def test_how_far_an_oplog_reaches_back(window: members.OplogWindow, rehearsal: bool, severity: str) -> None:
    assert checks.oplog("s1", window, 24.0, rehearsal=rehearsal).severity == severity


def test_big_data_need_a_longer_oplog() -> None:
    assert checks.wanted_oplog_hours(SIZE) == 24.0
    assert checks.wanted_oplog_hours(facts.DataSize(1, 10**12, 0, 0, {})) == pytest.approx(41.7, abs=0.1)


def test_parse_oplog_window() -> None:
    first = {"ts": Timestamp(1000, 1), "o": {"msg": "initiating set"}}
    last = {"ts": Timestamp(1000 + 7200, 1), "o": {}}
    found = members.parse_oplog_window(first, last, {"size": 30, "maxSize": 100})
    assert found == members.OplogWindow(2.0, whole=True, fill=0.3)
    assert members.parse_oplog_window(first, last, {}) == members.OplogWindow(2.0, whole=True, fill=None)
    assert members.parse_oplog_window(None, None, {}) is None


OURS = {"createIndexes": "orders", "indexes": [{"key": dict(PARSED), "name": "k"}], "$db": "shop"}
OTHERS = {"createIndexes": "orders", "indexes": [{"key": {"x": 1}, "name": "x"}], "$db": "shop"}


@pytest.mark.parametrize(
    ("operation", "severity"),
    [
        ({"command": OTHERS}, "stop"),
        ({"command": OURS}, "note"),
        ({"msg": "Index Build: scanning collection", "ns": NAMESPACE, "command": {}}, "stop"),
        ({"command": {"shardCollection": NAMESPACE, "key": dict(PARSED), "$db": "admin"}}, "note"),
        ({"command": {"shardCollection": NAMESPACE, "key": {"x": 1}, "$db": "admin"}}, "stop"),
        ({"command": {"collMod": "orders", "$db": "shop"}}, "stop"),
        ({"command": {"collMod": "orders", "$db": "other"}}, None),
        ({"command": {"find": "orders", "$db": "shop"}}, None),
        ({"op": "none"}, None),
    ],
)
def test_what_is_being_done_to_the_collection(operation: dict[str, Any], severity: str | None) -> None:
    rows = checks.running(operations.changes_on([operation], NAMESPACE), NAMESPACE, PARSED)
    assert [row.severity for row in rows] == ([severity] if severity else [])


def test_moves_of_any_collection_are_seen() -> None:
    moving = {"command": {"moveChunk": "shop.other", "fromShard": "s1", "toShard": "s2"}}
    assert operations.moves([moving, {"op": "none"}]) == {"shop.other": "s1 -> s2"}


def test_another_collections_moves_are_told_before_it_is_sharded(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "credscale.mongo.preflight.step"
    for name in ("_servers", "_strays", "_values", "_oplogs"):
        monkeypatch.setattr(f"{module}.{name}", lambda *_: [])
    cluster.migrations = [{"ns": "shop.other", "fromShard": "shard1", "toShard": "shard2"}]
    cluster.operations = [{"command": {"moveChunk": "shop.third", "fromShard": "shard2", "toShard": "shard1"}}]
    rows = preflight(ctx, namespace=NAMESPACE, shard_key=KEY).output["rows"]
    told = [row["finding"] for row in rows if row["check"] == "migrations"]
    assert told == ["a chunk of shop.other moves: shard1 -> shard2", "a chunk of shop.third moves: shard2 -> shard1"]
    cluster.operations = [{"command": OTHERS}]
    with pytest.raises(StepFailed, match=r"createIndexes on shop\.orders is under way"):
        preflight(ctx, namespace=NAMESPACE, shard_key=KEY)
    cluster.operations, cluster.failures["currentOp"] = [], [OperationFailure("no", 13), OperationFailure("no", 13)]
    assert preflight(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.OK
