"""The collection and its place in the catalogue, how big it may be, what it may not be used for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from credscale.mongo.cluster import facts
from credscale.mongo.preflight import collection, features, limits
from credscale.mongo.preflight.look import Look

NAMESPACE = "shop.orders"
KEY_TEXT = "createdAt:hashed,userId:1"
KEY = facts.parse_key(KEY_TEXT)
SIZE = facts.DataSize(1000, 100_000, 50_000, 10_000, {"s1": 100_000})
PLAIN = facts.Collection("orders", "collection", {}, "u")
DATABASE = facts.Database("shop", "s1", False)
SHARDED = facts.ShardedCollection(NAMESPACE, KEY, "u", False, False, {})
REFUSED = OperationFailure("not authorized", 13)


@pytest.mark.parametrize(
    ("found", "size", "said"),
    [
        (None, None, "does not exist"),
        (facts.Collection("v", "view", {}, ""), None, "is a view"),
        (facts.Collection("t", "timeseries", {}, ""), None, "is a timeseries"),
        (facts.Collection("c", "collection", {"capped": True}, ""), SIZE, "is a capped collection"),
        (PLAIN, facts.DataSize(0, 0, 0, 0, {}), "is empty: there is nothing to migrate"),
    ],
)
def test_collections_that_are_not_migrated(
    found: facts.Collection | None, size: facts.DataSize | None, said: str
) -> None:
    row = collection.judge_kind(NAMESPACE, found, size)
    assert row.severity == "stop"
    assert said in row.finding


def test_a_plain_collection_tells_its_size() -> None:
    row = collection.judge_kind(NAMESPACE, PLAIN, SIZE)
    assert (row.severity, row.finding) == ("ok", "1000 documents, 100.0 kB")


@pytest.mark.parametrize(
    ("database", "home", "found_on", "is_sharded", "severities", "said"),
    [
        (None, "", {"s1": None, "s2": "u"}, False, ["stop"], "does not know the database; s2 hold such a collection"),
        (DATABASE, "s1", {"s1": "u", "s2": None}, False, ["ok"], "primary shard s1, which holds the collection"),
        (DATABASE, "s1", {"s1": None, "s2": None}, False, ["ok"], "has no such collection yet"),
        (DATABASE, "s1", {"s1": None, "s2": "u"}, False, ["stop"], "sees the collection on s1, it is on s2"),
        (DATABASE, "s2", {"s1": None, "s2": "u"}, False, ["ok"], "primary shard s1, the collection is on s2"),
        (DATABASE, "s1", {"s1": None, "s2": "u"}, True, ["ok"], "the collection is sharded"),
        (DATABASE, "s1", {"s1": REFUSED, "s2": None}, False, ["note", "unknown"], "primary shard s1"),
    ],
)
def test_where_the_data_are(
    database: facts.Database | None, home: str, found_on: Any, is_sharded: bool, severities: list[str], said: str
) -> None:
    rows = collection.judge_database(database, home, found_on, is_sharded=is_sharded)
    assert [row.severity for row in rows] == severities
    assert said in rows[0].finding
    if severities == ["stop"] and database is not None:
        assert rows[0].remedy.startswith("stop here and look at shop on each shard itself")
        assert "do not use movePrimary" in rows[0].remedy


def test_the_key_of_a_sharded_collection_stays() -> None:
    assert collection.judge_key(None, KEY_TEXT).finding == f"not sharded yet, wanted {KEY_TEXT}"
    assert collection.judge_key(SHARDED, KEY_TEXT).severity == "ok"
    other = facts.ShardedCollection(NAMESPACE, {"_id": "hashed"}, "u", False, False, {})
    row = collection.judge_key(other, KEY_TEXT)
    assert row.severity == "stop"
    assert "sharded by _id:hashed, wanted createdAt" in row.finding
    swapped = facts.ShardedCollection(NAMESPACE, dict(reversed(KEY.items())), "u", False, False, {})
    assert collection.judge_key(swapped, KEY_TEXT).severity == "stop"


@pytest.mark.parametrize(
    ("found_on", "home", "sharded", "severities"),
    [
        ({"s1": "u", "s2": None}, "s1", None, ["ok"]),
        ({"s1": "u", "s2": "x"}, "s1", None, ["stop"]),
        ({"s1": "u", "s2": "u"}, "s1", None, ["stop"]),
        ({"s1": "u", "s2": "u"}, "s1", SHARDED, ["ok"]),
        ({"s1": "u", "s2": "x"}, "s1", SHARDED, ["stop"]),
        ({"s1": None, "s2": "u"}, "s2", None, ["ok"]),
        ({"s1": "u", "s2": REFUSED}, "s1", None, ["unknown"]),
        ({"s1": "u", "s2": "x", "s3": REFUSED}, "s1", None, ["stop", "unknown"]),
    ],
)
def test_collections_of_the_same_name(
    found_on: Any, home: str, sharded: facts.ShardedCollection | None, severities: list[str]
) -> None:
    rows = collection.judge_strays(NAMESPACE, found_on, home, sharded)
    assert [row.severity for row in rows] == severities
    if severities[0] == "stop":
        assert rows[0].finding == "s2 has a shop.orders of its own"


def test_chunks_without_a_collection() -> None:
    assert collection.judge_leftovers(NAMESPACE, False, by_namespace=True).severity == "ok"
    row = collection.judge_leftovers(NAMESPACE, True, by_namespace=True)
    assert row.severity == "stop"
    assert 'chunks.deleteMany({ns: "shop.orders"})' in row.remedy
    assert collection.judge_leftovers(NAMESPACE, True, by_namespace=False).severity == "note"


class Chunks:
    """Remembers how config.chunks was asked."""

    def __init__(self) -> None:
        self.queries: list[dict[str, Any]] = []

    def __getitem__(self, _name: str) -> Chunks:
        return self

    def get_collection(self, _name: str, **_options: Any) -> Chunks:
        return self

    def find_one(self, query: dict[str, Any], max_time_ms: int) -> dict[str, Any] | None:
        assert max_time_ms
        self.queries.append(query)
        return {"min": 1}


@pytest.mark.parametrize(
    ("version", "asked", "severity"),
    [((4, 4, 6), {"ns": NAMESPACE}, "stop"), ((5, 0, 28), {"uuid": b"\1" * 16}, "note")],
)
def test_leftover_chunks_are_asked_for_by_an_index(version: Any, asked: dict[str, Any], severity: str) -> None:
    chunks = Chunks()
    plain = facts.Collection("orders", "collection", {}, "01" * 16)
    look: Any = SimpleNamespace(
        sharded=None, entry=None, server=SimpleNamespace(numbers=version), namespace=NAMESPACE, collection=plain,
        client=chunks, rehearsal=False,
    )  # fmt: skip
    assert [row.severity for row in collection.leftover_chunks.run(look)] == [severity]
    assert [
        {name: bytes(value) if name == "uuid" else value} for query in chunks.queries for name, value in query.items()
    ] == [asked]
    look.entry = {"unsplittable": True}
    assert [row.severity for row in collection.leftover_chunks.run(look)] == ["ok"]


def test_a_collation_costs_targeting() -> None:
    assert collection.judge_collation("simple", KEY).severity == "ok"
    assert "SERVER-53335" in collection.judge_collation("de", KEY).finding
    row = collection.judge_collation("de", {"userId": 1})
    assert row.severity == "warn"
    assert "SERVER-53335" not in row.finding


def test_a_check_without_a_collection_is_unknown() -> None:
    look: Any = SimpleNamespace(collection=None, is_plain=False, namespace=NAMESPACE, rehearsal=False)
    for each in (collection.collation, limits.size_limit, features.features):
        (row,) = each.run(look)
        assert (row.severity, row.seen.finding) == (
            "unknown",
            "shop.orders does not exist: there is nothing to look at",
        )


def test_the_guides_threshold() -> None:
    assert limits.judge_due(100 * 10**9).severity == "ok"
    row = limits.judge_due(10**9)
    assert (row.severity, row.finding) == ("note", "1.0 GB; the guide shards above 100 GB")


def test_the_worked_example_of_the_reference() -> None:
    terabyte = facts.DataSize(10**9, 10**12, 0, 0, {})
    assert limits.initial_chunks(terabyte, 64) == pytest.approx(30_000, rel=0.1)
    assert limits.judge_chunks(limits.initial_chunks(terabyte, 64), 64).severity == "ok"


def test_as_many_chunks_as_were_measured() -> None:
    # 4.4.6: 40,000 documents in 44 chunks with 1 MB (data/mongo README)
    measured = facts.DataSize(40_000, 40_000 * 575, 0, 0, {})
    assert limits.initial_chunks(measured, 1) == pytest.approx(44, abs=2)


@pytest.mark.parametrize(
    ("chunks", "megabytes", "at_once", "severity", "remedy"),
    [
        (50_000, 64, True, "ok", ""),
        (50_001, 64, True, "warn", "run with --chunk-size-mb 128"),
        (200_001, 64, True, "stop", "run with --chunk-size-mb 512"),
        (200_001, 128, False, "warn", "run with --chunk-size-mb 1024"),
        (10**9, 64, True, "stop", "run with --chunk-size-mb 1024, the largest; 1280000 would be needed"),
        (
            200_001,
            1024,
            True,
            "stop",
            "no chunk size helps, 1024 MB is the largest: upgrade to 6.0.3 or later, or archive a part of the data",
        ),
        (200_001, 1024, False, "warn", "no chunk size helps, 1024 MB is the largest: archive a part of the data"),
        (300_000, None, False, "warn", "merge small chunks when the balancer is done"),
    ],
)
def test_too_many_chunks(chunks: int, megabytes: int | None, at_once: bool, severity: str, remedy: str) -> None:
    row = limits.judge_chunks(chunks, megabytes, at_once=at_once)
    assert (row.severity, row.remedy) == (severity, remedy)


@given(st.integers(1, 10**10), st.integers(30, 1 << 24), st.integers(1, 1024))
def test_expected_chunks_hold_no_more_than_half_the_size_or_one_document(
    documents: int, average: int, megabytes: int
) -> None:
    chunks = limits.initial_chunks(facts.DataSize(documents, documents * average, 0, 0, {}), megabytes)
    assert 1 <= chunks <= documents
    per_chunk = documents / chunks
    assert per_chunk <= max(1.0, min(250_000, megabytes * (1 << 20) / (2 * average))) * 1.001


def test_the_size_limit_of_the_manual() -> None:
    # 64 B keys and 64 MB: 8 TB; 128 B: 4 TB. Two more bytes go around each key.
    eight = facts.DataSize(8 * 10**9, 8 * 10**12, 0, 0, {})
    assert limits.judge_vector(eight, 64, 62).severity == "ok"
    row = limits.judge_vector(eight, 64, 126)
    assert row.severity == "stop"
    assert "one giant chunk" in row.finding
    assert row.remedy == "run with --chunk-size-mb 128"
    huge = facts.DataSize(10**12, 10**15, 0, 0, {})
    assert limits.judge_vector(huge, 1024, 126).remedy.startswith("no chunk size helps")


def test_keys_are_measured_as_they_stand_in_chunk_bounds() -> None:
    documents = [{"createdAt": "x" * 500, "userId": "u"}, {"createdAt": [1], "userId": "u"}]
    assert limits.average_key_bytes(documents, KEY) == 38  # an int64 and one letter
    assert limits.average_key_bytes(documents[1:], KEY) is None


def test_validators_and_encryption_are_told() -> None:
    assert features.judge_options({}, KEY) == []
    rows = features.judge_options(
        {"validator": {"x": 1}, "validationAction": "warn", "encryptedFields": {"fields": []}}, KEY
    )
    assert [row.severity for row in rows] == ["note", "warn"]
    assert "a validator (strict, warn)" in rows[0].finding


def test_fields_that_clients_encrypt() -> None:
    ssn = {"encrypt": {"bsonType": "string", "algorithm": "AEAD_AES_256_CBC_HMAC_SHA_512-Random"}}

    def told(properties: dict[str, Any], key: facts.Key = KEY) -> list[tuple[str, str]]:
        schema = {"$and": [{"$jsonSchema": {"bsonType": "object", **properties}}]}
        return [
            (row.severity, row.finding.split(" may be")[0])
            for row in features.judge_options({"validator": schema}, key)
        ]

    assert told({"properties": {"ssn": ssn}})[1:] == [
        ("note", "clients encrypt ssn by themselves; the key has none of them")
    ]
    assert told({"properties": {"userId": ssn}})[1:] == [("warn", "userId of the key")]
    nested = {"properties": {"user": {"properties": {"id": ssn}}}}
    assert told(nested, {"user.id": 1})[1:] == [("warn", "user.id of the key")]
    assert told({"patternProperties": {"^u": ssn}})[1:][0][0] == "warn"
    assert len(told({"properties": {"userId": {"bsonType": "string"}}})) == 1


@pytest.mark.parametrize(
    ("command", "severities"),
    [
        ({"mapReduce": "carts", "out": "orders", "$db": "shop"}, ["stop"]),
        ({"mapreduce": "carts", "out": {"replace": "orders"}, "$db": "shop"}, ["stop"]),
        ({"mapReduce": "carts", "out": {"merge": "orders"}, "$db": "shop"}, ["warn"]),
        ({"mapReduce": "carts", "out": {"merge": "orders", "db": "archive"}, "$db": "shop"}, []),
        ({"mapReduce": "orders", "out": {"inline": 1}, "$db": "shop"}, ["note"]),
        ({"mapReduce": "orders", "out": {"inline": 1}, "$db": "other"}, []),
        ({"find": "orders", "$db": "shop"}, []),
    ],
)
def test_map_reduce_into_the_collection(command: dict[str, Any], severities: list[str]) -> None:
    assert [row.severity for row in features.judge_map_reduce([{"command": command}], NAMESPACE)] == severities


JOIN = {"$lookup": {"from": "orders", "as": "o"}}


@pytest.mark.parametrize(
    ("stages", "version", "severity"),
    [
        ([JOIN], (5, 0, 28), "stop"),
        ([JOIN], (5, 1, 0), "note"),
        ([JOIN], (4, 4, 6), "stop"),
        ([{"$facet": {"a": [JOIN]}}], (5, 0, 28), "stop"),
        ([{"$lookup": {"from": "carts", "pipeline": [JOIN]}}], (5, 0, 28), "stop"),
        ([{"$graphLookup": {"from": "orders"}}], (5, 0, 28), "stop"),
        ([{"$lookup": {"from": "carts"}}], (4, 4, 6), "ok"),
        ([{"$unionWith": "orders"}], (4, 4, 6), "note"),
        ([{"$unionWith": {"coll": "orders"}}], (4, 4, 6), "note"),
        ([{"$out": "orders"}], (8, 0, 4), "stop"),
        ([{"$out": {"db": "shop", "coll": "orders"}}], (8, 0, 4), "stop"),
        ([{"$merge": {"into": "orders"}}], (8, 0, 4), "note"),
        ([{"$merge": {"into": {"db": "shop", "coll": "orders"}}}], (8, 0, 4), "note"),
        ([{"$merge": {"into": {"db": "archive", "coll": "orders"}}}], (8, 0, 4), "ok"),
        ([{"$match": {"from": "orders"}}], (4, 4, 6), "ok"),
    ],
)
def test_pipelines_that_a_sharded_collection_refuses(stages: Any, version: tuple[int, ...], severity: str) -> None:
    rows = features.judge_pipelines({"the view v": stages}, NAMESPACE, version)
    assert rows[0].severity == severity
    assert (rows[-1].severity == "ok") == (severity != "stop")


def test_views_are_judged_even_when_operations_may_not_be_read() -> None:
    view = {"name": "v", "type": "view", "options": {"viewOn": "carts", "pipeline": [JOIN]}}

    class Blind:
        collection, database_name, collection_name, rehearsal, namespace = PLAIN, "shop", "orders", False, NAMESPACE
        key = KEY
        server = SimpleNamespace(numbers=(4, 4, 6))
        client = {"shop": SimpleNamespace(list_collections=lambda **_options: iter([view]))}  # noqa: RUF012

        @property
        def operations(self) -> list[dict[str, Any]]:
            raise REFUSED

    look: Any = Blind()
    assert [row.severity for row in features.features.run(look)] == ["warn", "stop"]


def test_aggregates_under_way_are_read() -> None:
    running = [
        {"ns": "shop.carts", "command": {"aggregate": "carts", "pipeline": [JOIN], "$db": "shop"}},
        {"ns": "other.carts", "command": {"aggregate": "carts", "pipeline": [JOIN], "$db": "other"}},
        {"ns": "shop.orders", "command": {"find": "orders", "$db": "shop"}},
    ]
    assert features.running_pipelines(running, "shop") == {"an aggregate under way on shop.carts": [JOIN]}


def test_a_getmore_tells_its_pipeline_with_its_cursor() -> None:
    began = {"aggregate": "carts", "pipeline": [JOIN], "$db": "shop"}
    getmore = {"getMore": 7, "collection": "carts", "$db": "shop"}
    running = [{"op": "getmore", "ns": "shop.carts", "command": getmore, "cursor": {"originatingCommand": began}}]
    found = features.running_pipelines(running, "shop")
    assert [row.severity for row in features.judge_pipelines(found, NAMESPACE, (4, 4, 6))] == ["stop"]


def test_the_size_limit_of_each_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "chunks_by_shard", lambda *_: {"s1": 60_000, "s2": 1})
    sample = [{"_id": ObjectId(), "createdAt": 1, "userId": "u"}]
    shards = [facts.Shard(name, name, ("a:1",), 1, False) for name in ("s1", "s2")]
    parts = {
        "is_plain": True, "collection": PLAIN, "size": SIZE, "sharded": None, "chunk_size_mb": 1, "sample": sample,
        "key": KEY, "rehearsal": False, "shards": shards, "client": None, "namespace": NAMESPACE,
    }  # fmt: skip

    def said(**others: Any) -> list[tuple[str, str]]:
        look: Any = SimpleNamespace(**(parts | others))
        return [(row.severity, row.seen.finding.split(",")[0]) for row in limits.size_limit.run(look)]

    old, new = SimpleNamespace(numbers=(6, 0, 2)), SimpleNamespace(numbers=(6, 0, 3))
    assert [severity for severity, _ in said(server=old)] == ["note", "ok", "ok"]
    assert said(server=new)[1:] == [("ok", "about 1 chunks are expected with 1 MB")]
    assert said(server=old, sample=[])[1:] == [("unknown", "the sample has no document with a valid key")]
    assert said(server=old, sharded=SHARDED)[1:] == [("warn", "60001 chunks")]


def real_look(documents: dict[str, list[dict[str, Any]]], shards: dict[str, Any]) -> Look:
    """Return a Look over a catalogue of these documents, whose shards answer with a UUID, None or an error."""
    from pymongo.errors import ServerSelectionTimeoutError

    ctx: Any = SimpleNamespace(clients=None, environment=SimpleNamespace(lab=None))
    look = Look(ctx, NAMESPACE, KEY, 1, "")
    look.__dict__["client"] = Catalogue(documents)
    look.__dict__["shards"] = tuple(facts.Shard(name, name, (f"{name}:1",), 1, False) for name in shards)

    def on_primary(name: str) -> Any:
        if shards[name] is None:
            raise ServerSelectionTimeoutError(f"no member of {name} that answers is its primary")
        return {"shop": SimpleNamespace(list_collections=lambda **_options: iter(shards[name]))}

    look.on_primary = on_primary  # type: ignore[method-assign]
    return look


class Catalogue(dict[str, list[dict[str, Any]]]):
    """The database config, whatever it is asked for."""

    def __getitem__(self, _name: str) -> Any:
        return self

    def get_collection(self, name: str, **_options: Any) -> Any:
        return SimpleNamespace(find_one=lambda _query: next(iter(self.get(name, [])), None))


def test_the_home_of_an_unsharded_collection() -> None:
    database = {"_id": "shop", "primary": "s1"}
    assert real_look({}, {}).home == ""
    assert real_look({"databases": [database]}, {}).home == "s1"
    moved = {"_id": NAMESPACE, "uuid": b"u", "unsplittable": True, "key": {"_id": 1}}
    catalogue = {"databases": [database], "collections": [moved], "chunks": [{"shard": "s2"}]}
    assert real_look(catalogue, {}).home == "s2"


def test_each_shard_is_asked_for_the_collection_by_itself() -> None:
    entry = {"name": "orders", "info": {"uuid": UUID(int=1)}}
    look = real_look({"databases": [{"_id": "shop", "primary": "s1"}]}, {"s1": [entry], "s2": [], "s3": None})
    assert look.found_on["s1"] == UUID(int=1).hex
    assert look.found_on["s2"] is None
    rows = collection.stray_collection.run(look)
    assert [(row.severity, "s3" in row.seen.finding) for row in rows] == [("unknown", True)]


def test_a_shard_of_80_that_refuses_direct_reads_names_the_role() -> None:
    (row,) = collection.judge_strays(NAMESPACE, {"s2": REFUSED}, "s1", None)
    assert row.finding == "s2: the user may not look (code 13)"
    assert "directShardOperations" in row.remedy
