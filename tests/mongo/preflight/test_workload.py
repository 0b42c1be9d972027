"""What becomes of the applications' queries and writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from credscale.mongo.advice.queries import SWITCH_ON, Reading
from credscale.mongo.advice.shapes import make_shape
from credscale.mongo.cluster import facts
from credscale.mongo.preflight import workload

KEY = facts.parse_key("createdAt:hashed,userId:1")
NOTHING = Reading([], ["the profiler of s1 is off", f"no profiler has recorded a query on shop.orders; {SWITCH_ON}"])
OLD, NEW = (5, 0, 28), (8, 0, 4)


def reading(*shapes: Any, missing: tuple[str, ...] = ()) -> Reading:
    return Reading(list(shapes), list(missing))


def test_the_guides_key_broadcasts_queries_by_user() -> None:
    (row,) = workload.from_key(KEY)
    assert row.severity == "warn"
    assert "queries by userId alone" in row.finding
    assert row.remedy == "userId:hashed,createdAt:1 would target one shard"
    (row,) = workload.from_key(facts.parse_key("userId:1,createdAt:1"))
    assert (row.severity, row.finding) == ("note", "queries without userId go to every shard")
    assert workload.from_key({"_id": "hashed"})[0].remedy == "query by exact values"


def test_without_a_profiler_the_key_alone_speaks() -> None:
    rows = workload.judge_queries(NOTHING, KEY, "simple")
    assert [row.severity for row in rows] == ["warn", "unknown"]
    assert rows[1].finding == "no query of the applications is recorded; the profiler of s1 is off"
    assert rows[1].remedy == SWITCH_ON
    rows = workload.judge_writes(NOTHING, KEY, OLD, "simple")
    assert [row.severity for row in rows] == ["note", "warn"]  # what applications write can't be known wholly
    assert "findAndModify needs createdAt and userId" in rows[0].finding


def test_the_share_of_queries_that_go_to_every_shard() -> None:
    by_user = make_shape("find", {"userId": "u"}, count=30)
    exact = make_shape("find", {"createdAt": 5, "userId": "u"}, count=70)
    rows = workload.judge_queries(reading(by_user, exact, missing=("s2 was not asked",)), KEY, "simple")
    assert [row.severity for row in rows] == ["warn", "note"]
    assert rows[0].finding == "30% of 100 recorded queries would go to every shard: find userId (30)"
    rows = workload.judge_queries(reading(by_user, exact), facts.parse_key("userId:hashed,createdAt:1"), "simple")
    assert [(row.severity, row.finding) for row in rows] == [
        ("ok", "0% of 100 recorded queries would go to every shard")
    ]


def test_a_collation_makes_texts_go_to_every_shard() -> None:
    by_user = make_shape("find", {"userId": "u"})
    key = facts.parse_key("userId:1")
    assert workload.judge_queries(reading(by_user), key, "simple")[0].severity == "ok"
    assert workload.judge_queries(reading(by_user), key, "de")[0].severity == "warn"


@pytest.mark.parametrize(
    ("operation", "query", "version", "severity", "said"),
    [
        ("find_and_modify", {"_id": 1}, OLD, "stop", "61: Query for sharded findAndModify must contain the shard key"),
        ("update_one", {"userId": "u"}, OLD, "stop", "72: A {multi:false} update"),
        ("delete_one", {"userId": "u"}, (4, 4, 6), "stop", "61: A single delete"),
        ("find_and_modify", {"_id": 1}, NEW, "note", "allowed since 7.1"),
        ("update_one", {"createdAt": 5, "userId": "u"}, OLD, "ok", "none of 3 recorded writes is known to fail"),
        ("update_many", {"userId": "u"}, OLD, "note", "SERVER-20361"),
    ],
)
def test_recorded_writes(operation: str, query: Any, version: tuple[int, ...], severity: str, said: str) -> None:
    shape = make_shape(operation, query, {"$set": {"x": 1}}, count=3)
    rows = workload.judge_writes(reading(shape), KEY, version, "simple")
    assert rows[0].severity == severity
    assert said in rows[0].finding
    if severity == "stop":
        assert rows[0].remedy == "give createdAt and userId in its filter before the sharding"
        assert "ok" not in {row.severity for row in rows}


def test_reads_alone_say_nothing_of_writes() -> None:
    rows = workload.judge_writes(reading(make_shape("find", {"userId": "u"})), KEY, OLD, "simple")
    assert [row.severity for row in rows] == ["note", "warn"]
    assert rows[1].finding == "no write of the applications is recorded"


def test_a_missing_collection_has_no_workload() -> None:
    look: Any = SimpleNamespace(collection=None, namespace="shop.orders", rehearsal=False)
    for each in (workload.query_targeting, workload.writes_without_key):
        (row,) = each.run(look)
        assert row.severity == "unknown"
