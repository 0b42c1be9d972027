"""Queries lose their values and keep what decides where they go; profiles, statistics and files are understood."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId, Regex
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.advice.queries import (
    initial_match,
    operation_name,
    parse_profiled,
    parse_statistics,
    profiled,
    query_statistics,
    read_file,
)
from credscale.mongo.advice.shapes import filter_text, frequent_fields, group, make_shape, redact_filter
from credscale.mongo.advice.targeting import target
from credscale.mongo.cluster.facts import Shard, parse_key

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.mongo.advice import queries

SECRET = "jane.doe@example.org"
secrets = st.one_of(
    st.just(SECRET), st.just(Regex(f"^{SECRET}")), st.lists(st.just(SECRET), max_size=4), st.just({"mail": SECRET})
)
asked = st.dictionaries(
    st.sampled_from(["userId", "createdAt", "other"]),
    st.one_of(
        secrets, st.builds(lambda n, v: {n: v}, st.sampled_from(["$eq", "$gt", "$ne", "$regex"]), st.just(SECRET))
    ),
)
filters = st.recursive(
    asked,
    lambda inner: st.builds(
        lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1)
    ),
    max_leaves=5,
)
KEYS = [parse_key(text) for text in ("userId:1,createdAt:1", "userId:hashed", "createdAt:hashed,userId:1")]


@given(query=filters)
def test_no_value_survives_and_targeting_stays(query: dict[str, Any]) -> None:
    kept = redact_filter(query)
    assert SECRET not in repr(kept)
    assert SECRET not in filter_text(kept)
    for key in KEYS:
        assert target(key, kept).verdict == target(key, query).verdict
        assert target(key, kept, "de").verdict == target(key, query, "de").verdict


def test_opaque_operators_and_updates_hold_no_values() -> None:
    query = {"$where": SECRET, "$expr": {"$eq": ["$a", SECRET]}, "$comment": SECRET, "$text": {"$search": SECRET}}
    shape = make_shape("update_one", query, [{"$set": {"a": SECRET}}, {"$unset": "b"}])
    assert SECRET not in repr(shape)
    assert shape.update == [{"$set": {"a": 1}}, {"$unset": "b"}]
    assert SECRET not in repr(make_shape("replace_one", {"_id": SECRET}, {"a": SECRET, "b": {"c": [SECRET]}}))


def test_same_shapes_are_counted_together() -> None:
    found = group(
        [make_shape("find", {"userId": name}, source="profiler") for name in "abc"]
        + [make_shape("find", {"userId": {"$in": ["a", "b", "c"]}}, source="profiler")]
        + [make_shape("find", {"userId": {"$in": ["a", "b"]}}, source="profiler")]
    )
    assert [(shape.text, shape.count) for shape in found] == [("find userId", 3), ("find userId in", 2)]


def test_shape_in_words() -> None:
    shape = make_shape(
        "find", {"userId": "u", "createdAt": {"$gte": 1, "$lt": 2}, "$or": [{"a": None}, {"b": {"$ne": 1}}]}
    )
    assert shape.text == "find userId, createdAt range, $or(a | b ne)"
    assert make_shape("update_one", {}, upsert=True).text == "update_one upsert everything"


def test_rare_fields_suggest_no_key() -> None:
    shapes = [make_shape("find", {"u": 1, "t": {"$gt": 1}}, count=99), make_shape("find", {"rare": 1}, count=1)]
    assert frequent_fields(shapes) == (["u"], ["t"])


COMMON = {"ns": "shop.orders", "millis": 3, "planSummary": "COLLSCAN", "appName": "web"}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"op": "query", "command": {"find": "orders", "filter": {"userId": "u"}, "$db": "shop"}}, "find userId"),
        ({"op": "query", "command": {"find": "orders", "$db": "shop"}}, "find everything"),
        (
            {"op": "command", "command": {"aggregate": "orders", "pipeline": [
                {"$match": {"userId": "u"}}, {"$sort": {"x": 1}}, {"$match": {"b": 1}}, {"$group": {"_id": 1}},
            ]}},
            "aggregate $and(userId | b)",
        ),
        ({"op": "command", "command": {"count": "orders", "query": {"a": 1}}}, "count a"),
        ({"op": "command", "command": {"distinct": "orders", "key": "x", "query": {"a": 1}}}, "distinct a"),
        (
            {"op": "command", "command": {"findAndModify": "orders", "query": {"_id": 1}, "update": {"$set": {"a": 1}},
                                          "upsert": True}},
            "find_and_modify upsert _id",
        ),
        ({"op": "update", "command": {"q": {"_id": 1}, "u": {"$set": {"a": 1}}, "multi": False, "upsert": False}},
         "update_one _id"),
        ({"op": "update", "command": {"q": {"a": 1}, "u": {"$set": {"a": 1}}, "multi": True}}, "update_many a"),
        ({"op": "update", "command": {"q": {"_id": 1}, "u": {"a": 1}, "upsert": True}}, "replace_one upsert _id"),
        ({"op": "update", "command": {"q": {"_id": 1}, "u": [{"$set": {"a": 1}}]}}, "update_one _id"),
        ({"op": "remove", "command": {"q": {"a": 1}, "limit": 1}}, "delete_one a"),
        ({"op": "remove", "command": {"q": {"a": 1}, "limit": 0}}, "delete_many a"),
        ({"op": "query", "command": {"$truncated": "{ find: ..."}}, None),
        ({"op": "command", "command": {"explain": {"find": "orders"}}}, None),
        ({"op": "update"}, None),
    ],
)  # fmt: skip
def test_profiled_operation(document: dict[str, Any], text: str | None) -> None:
    shape = parse_profiled({**COMMON, **document})
    assert (shape.text if shape is not None else None) == text


def test_collation_of_a_profiled_operation() -> None:
    command = {"find": "orders", "filter": {"a": "x"}, "collation": {"locale": "de", "strength": 2}}
    shape = parse_profiled({"op": "query", "command": command})
    assert shape is not None
    assert shape.collation == "de"


def test_match_after_another_stage_targets_nothing() -> None:
    assert initial_match([{"$group": {"_id": "$a"}}, {"$match": {"userId": 1}}]) == {}
    assert initial_match(None) == {}


def test_statistics_with_placeholders() -> None:
    shape = {
        "cmdNs": {"db": "shop", "coll": "orders"},
        "command": "find",
        "filter": {"$and": [{"userId": {"$eq": "?string"}}, {"status": {"$in": "?array<?string>"}}]},
    }
    found = parse_statistics({"key": {"queryShape": shape}, "metrics": {"execCount": 42}})
    assert found is not None
    assert (found.text, found.count) == ("find $and(userId | status in)", 42)
    assert target(parse_key("userId:hashed"), found.filter).verdict == "single"
    assert target(parse_key("status:hashed"), found.filter).verdict == "several"
    assert parse_statistics({"key": {}}) is None


@pytest.mark.parametrize(
    ("name", "operation"),
    [("updateOne", "update_one"), ("find_one_and_delete", "find_and_modify"), ("countDocuments", "count"),
     ("find", "find"), ("insertOne", "insert"), ("drop", None)],
)  # fmt: skip
def test_operation_name(name: str, operation: str | None) -> None:
    assert operation_name(name) == operation


def test_file_of_queries(tmp_path: Path) -> None:
    lines = [
        {
            "op": "find",
            "filter": {"userId": SECRET, "createdAt": {"$gte": {"$date": "2025-01-01T00:00:00Z"}}},
            "count": 900,
        },
        {
            "op": "findOneAndUpdate",
            "filter": {"_id": {"$oid": "6b041fbf641f6b6872ba7705"}},
            "update": {"$set": {"a": 1}},
        },
        {"op": "aggregate", "pipeline": [{"$match": {"a": 1}}]},
    ]
    path = tmp_path / "queries.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    found = read_file(str(path))
    assert [shape.text for shape in found] == ["find userId, createdAt range", "find_and_modify _id", "aggregate a"]
    assert found[0].count == 900
    assert isinstance(found[0].filter["createdAt"]["$gte"], datetime)
    assert found[1].filter["_id"] == ObjectId("0" * 24)
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1: not JSON"),
        ('{"op": "drop"}', "op must be one of find"),
        ("[]", "op must be one of"),
        ('{"op": "find", "filter": 1}', "filter must be a document, not int"),
        ('{"op": "find", "count": 0}', "count must be a positive whole number"),
        ('{"op": "find", "count": true}', "count must be a positive whole number"),
    ],
)
def test_file_that_is_wrong(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(line)
    with pytest.raises(EnvironmentInvalid, match=complaint):
        read_file(str(path))


def test_file_that_is_missing() -> None:
    with pytest.raises(EnvironmentInvalid, match="can't be read"):
        read_file("/nowhere/queries.jsonl")


class FakeMember:
    """A shard's primary with a profiler; remembers what was asked of it."""

    def __init__(self, status: Any, documents: list[dict[str, Any]]) -> None:
        self.status, self.documents = status, documents
        self.asked: dict[str, Any] = {}

    def __getitem__(self, _name: str) -> FakeMember:
        return self

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        if "hello" in request:
            return {"isWritablePrimary": True}
        assert request == {"profile": -1}
        if isinstance(self.status, Exception):
            raise self.status
        return dict(self.status)

    def find(self, query: dict[str, Any], _fields: Any, **options: Any) -> list[dict[str, Any]]:
        self.asked = {"query": query, **options}
        return self.documents

    def aggregate(self, _pipeline: Any, **_options: Any) -> list[dict[str, Any]]:
        if isinstance(self.status, Exception):
            raise self.status
        return self.documents


class FakeContext:
    """A context whose clients know one member."""

    def __init__(self, member: FakeMember) -> None:
        self.member, self.clients = member, self

    def mongo_member(self, _address: str, **_options: Any) -> FakeMember:
        return self.member


SHARD = Shard("s1", "s1", ("h:1",), 1, False)
FOUND = {"op": "query", "command": {"find": "orders", "filter": {"userId": "u"}}}


def read(member: FakeMember) -> queries.Reading:
    context: Any = FakeContext(member)
    return profiled(context, "shop.orders", [SHARD])


def test_profilers_of_all_shards_are_read_side_by_side() -> None:
    """Each waits until all others were asked too; one after another they would wait in vain."""
    meeting = threading.Barrier(3, timeout=30)

    class Slow(FakeMember):
        """Answers once all have been asked."""

        def find(self, query: dict[str, Any], _fields: Any, **options: Any) -> list[dict[str, Any]]:
            meeting.wait()
            return super().find(query, _fields, **options)

    class Bounded(FakeContext):
        """Remembers how long a reply may take."""

        def mongo_member(self, _address: str, **options: Any) -> FakeMember:
            assert options["timeout"] <= 30
            return self.member

    context: Any = Bounded(Slow({"was": 2}, [FOUND]))
    shards = [Shard(name, name, (f"{name}:1",), 1, False) for name in ("s1", "s2", "s3")]
    assert profiled(context, "shop.orders", shards).count == 3


def test_profile_is_read_within_bounds() -> None:
    member = FakeMember({"was": 2, "slowms": 100, "sampleRate": 1.0}, [FOUND, FOUND, {"op": "query", "command": {}}])
    found = read(member)
    assert [(shape.text, shape.count) for shape in found.shapes] == [("find userId", 2)]
    assert member.asked["limit"] == 10_000
    assert member.asked["sort"] == [("$natural", -1)]
    assert member.asked["max_time_ms"] > 0
    assert member.asked["query"]["appName"] == {"$ne": "credscale"}
    assert found.not_checked == ["1 operations recorded by s1 are cut off or of no known kind"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"was": 0}, "the profiler of s1 is off"),
        ({"was": 1, "slowms": 100, "sampleRate": 1.0}, "slower than 100 ms"),
        ({"was": 1, "slowms": 0, "sampleRate": 0.01}, "a sample of 1.00%"),
    ],
)
def test_profiler_that_misses_queries_is_named(status: dict[str, Any], said: str) -> None:
    assert said in read(FakeMember(status, [FOUND])).not_checked[0]


def test_no_profiled_query_says_how_to_record_some() -> None:
    (_, advice) = read(FakeMember({"was": 0}, [])).not_checked
    assert "db.setProfilingLevel(1, {slowms: 0, sampleRate: 0.01})" in advice
    assert "Risk: " in advice


def test_profile_settings_that_may_not_be_read_do_not_hide_the_profile() -> None:
    from pymongo.errors import OperationFailure

    found = read(FakeMember(OperationFailure("not authorized", 13), [FOUND]))
    assert found.shapes[0].text == "find userId"
    assert found.not_checked == ["the profiler's settings on s1 can't be read (13)"]


def test_statistics_that_are_refused_are_named() -> None:
    from pymongo.errors import OperationFailure

    refusing: Any = FakeMember(OperationFailure("Unrecognized pipeline stage name", 40324), [])
    assert query_statistics(refusing, "shop.orders").not_checked == [
        "$queryStats can't be read (40324); it is there on Atlas, from M10 on"
    ]


def test_dates_become_one_stand_in() -> None:
    kept = redact_filter({"createdAt": datetime(2026, 5, 1, tzinfo=UTC)})
    assert kept == {"createdAt": datetime(1970, 1, 1, tzinfo=UTC)}
