"""Where a query goes agrees with the recorded explains, and is never one shard when the leading field is free."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bson import Regex, json_util
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.advice.targeting import (
    broadcasts,
    main_query_verdict,
    parse_main_query,
    recommended_key,
    target,
)
from credscale.mongo.cluster.facts import Key, key_text, parse_key

RECORDED = Path(__file__).parents[2] / "cases" / "mongo" / "recorded"
GUIDE = parse_key("createdAt:hashed,userId:1")
BY_USER = parse_key("userId:hashed,createdAt:1")
RANGED = parse_key("userId:1,createdAt:1")


@pytest.mark.parametrize(
    "path", sorted((RECORDED / "07-balanced").glob("explain-by-*.json")), ids=lambda path: path.stem
)
def test_recorded_explain(path: Path) -> None:
    """Two shards held chunks when these were recorded."""
    case = json_util.loads(path.read_text(encoding="utf-8"))
    plan = case["reply"]["queryPlanner"]["winningPlan"]
    found = target(GUIDE, case["request"]["command"]["explain"]["filter"])
    assert found.verdict == {"SINGLE_SHARD": "single", "SHARD_MERGE": "broadcast"}[plan["stage"]]
    assert len(plan["shards"]) == {"single": 1, "broadcast": 2}[found.verdict]


def test_there_are_recorded_explains() -> None:
    assert len(list((RECORDED / "07-balanced").glob("explain-by-*.json"))) == 4


@pytest.mark.parametrize(
    ("key", "query", "verdict"),
    [
        ("a:1,b:1", {"a": 1}, "single"),
        ("a:1,b:1", {"a": 1, "b": {"$gt": 2}}, "single"),
        ("a:1,b:1", {"b": 1}, "broadcast"),
        ("a:1,b:1", {}, "broadcast"),
        ("a:1,b:1", {"a": {"$gt": 1, "$lt": 9}}, "several"),
        ("a:hashed,b:1", {"a": {"$gt": 1, "$lt": 9}, "b": 1}, "broadcast"),
        ("a:1", {"a": {"$in": [1, 2]}}, "several"),
        ("a:hashed", {"a": {"$in": [1, 2]}}, "several"),
        ("a:hashed", {"a": {"$in": [1]}}, "single"),
        ("a:hashed", {"a": None}, "single"),
        ("a:hashed", {"a": {"$exists": False}}, "broadcast"),
        ("a:1", {"a": {"$exists": True}}, "broadcast"),
        ("a:1", {"a": {"$ne": 1}}, "broadcast"),
        ("a:1", {"a": {"$not": {"$gt": 1}}}, "broadcast"),
        ("a:1", {"a": {"$regex": "^x"}}, "several"),
        ("a:1", {"a": Regex("^x")}, "several"),
        ("a:1", {"a": re.compile("x")}, "broadcast"),
        ("a:1", {"a": {"$regex": "^x", "$options": "i"}}, "broadcast"),
        ("a:1", {"a": {"$regex": "^x|y"}}, "broadcast"),
        ("a:hashed", {"a": Regex("^x")}, "broadcast"),
        ("a:hashed", {"a": [1, 2]}, "broadcast"),
        ("a:1", {"$and": [{"b": 1}, {"a": {"$eq": 1}}]}, "single"),
        ("a:1", {"$or": [{"a": 1}, {"a": 2}]}, "several"),
        ("a:1", {"$or": [{"a": 1}, {"b": 2}]}, "broadcast"),
        ("a:1", {"$or": [{"a": 1}, {"b": 2}], "a": 3}, "single"),
        ("a:1", {"$nor": [{"a": 1}]}, "broadcast"),
        ("a:1", {"$expr": {"$eq": ["$a", 1]}}, "broadcast"),
        ("a:1", {"a": {"$gt": 1}, "$text": {"$search": "x"}}, "broadcast"),
        ("a:1", {"a": 1, "$text": {"$search": "x"}}, "single"),
        ("a.b:hashed", {"a.b": 1}, "single"),
        ("a.b:hashed", {"a": {"b": 1}}, "single"),
        ("a.b:hashed", {"a": {"c": 1}}, "broadcast"),
        ("a:1", {"a": {"$all": [1]}}, "single"),
        ("a:1", {"a": {"$elemMatch": {"b": 1}}}, "broadcast"),
    ],
)  # fmt: skip
def test_verdict(key: str, query: dict[str, Any], verdict: str) -> None:
    found = target(parse_key(key), query)
    assert found.verdict == verdict, found.reason


def test_another_collation_hides_strings_only() -> None:
    assert target(BY_USER, {"userId": "u"}, "de").verdict == "broadcast"
    assert "collation de" in target(BY_USER, {"userId": "u"}, "de").reason
    assert target(BY_USER, {"userId": 7}, "de").verdict == "single"
    assert target(RANGED, {"userId": {"$gt": "u"}}, "de").verdict == "broadcast"
    assert not target(RANGED, {"userId": 7, "createdAt": "x"}, "de").exact


def test_only_the_whole_key_is_exact() -> None:
    assert target(BY_USER, {"userId": 1, "createdAt": 2, "more": {"$gt": 1}}).exact
    assert not target(BY_USER, {"userId": 1}).exact
    assert not target(BY_USER, {"userId": 1, "createdAt": {"$gt": 2}}).exact
    assert not target(BY_USER, {"userId": {"$in": [1]}, "createdAt": 2}).exact


scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["x", "y"]))
conditions = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$eq", "$gt", "$lte", "$ne"]), scalars),
    st.builds(lambda values: {"$in": values}, st.lists(scalars, max_size=3)),
)
fields = st.sampled_from(["a", "b", "c"])
filters = st.recursive(
    st.dictionaries(fields, conditions, max_size=3),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts, more: {"$nor": parts, **more}, st.lists(inner, min_size=1, max_size=2), inner),
    ),
    max_leaves=5,
)
keys = st.sampled_from([parse_key(text) for text in ("a:1", "a:hashed", "a:1,b:1", "a:hashed,b:1", "a:1,b:hashed")])


def without(query: Any, field: str) -> Any:
    """Return a filter that says nothing of a field."""
    if isinstance(query, dict):
        return {name: without(value, field) for name, value in query.items() if name != field}
    return [without(each, field) for each in query] if isinstance(query, list) else query


@given(key=keys, query=filters)
def test_a_free_leading_field_is_never_one_shard(key: Key, query: dict[str, Any]) -> None:
    assert target(key, without(query, "a")).verdict == "broadcast"


@given(key=keys, query=filters, more=st.dictionaries(st.sampled_from(["b", "c"]), conditions, max_size=2))
def test_further_conditions_never_widen(key: Key, query: dict[str, Any], more: dict[str, Any]) -> None:
    width = {"single": 0, "several": 1, "broadcast": 2}
    narrower = {"$and": [query, more]}
    assert width[target(key, narrower).verdict] <= width[target(key, query).verdict]


def matches(query: dict[str, Any], value: int) -> bool:
    """Tell whether a document whose field a has this value, and no other field, may match a filter on a alone."""
    found = True
    for name, condition in query.items():
        if name == "$and":
            found &= all(matches(part, value) for part in condition)
        elif name == "$or":
            found &= any(matches(part, value) for part in condition)
        else:
            found &= value in condition["$in"] if isinstance(condition, dict) else value == condition
    return found


simple = st.recursive(
    st.builds(
        lambda condition: {"a": condition},
        st.one_of(st.integers(0, 4), st.builds(lambda v: {"$in": v}, st.lists(st.integers(0, 4), min_size=1))),
    ),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


@given(key=keys, query=simple)
def test_one_shard_means_at_most_one_value(key: Key, query: dict[str, Any]) -> None:
    if target(key, query).verdict == "single":
        assert sum(matches(query, value) for value in range(5)) <= 1


def test_main_query_is_read() -> None:
    assert parse_main_query(" userId , createdAt> ") == {"userId": "?", "createdAt": {"$gt": "?"}}
    assert broadcasts(GUIDE, "userId")
    assert broadcasts(GUIDE, "userId,createdAt>")
    assert not broadcasts(GUIDE, "createdAt")
    assert not broadcasts(BY_USER, "userId,createdAt>")


@pytest.mark.parametrize("text", ["", "userId,", "userId:1", "userId<", ">", "$where", "a..b", "userId,userId>", "a b"])
def test_main_query_that_is_none(text: str) -> None:
    with pytest.raises(EnvironmentInvalid, match="main query"):
        parse_main_query(text)


def test_the_guides_key_is_judged_as_the_reference_does() -> None:
    said = main_query_verdict(GUIDE, "userId")
    assert said.startswith("queries by userId go to every shard under createdAt:hashed,userId:1")
    assert "Ranges of createdAt go to every shard too" in said
    assert said.endswith("userId:hashed,createdAt:1 sends them to one shard")
    ranged = main_query_verdict(GUIDE, "userId,createdAt>")
    assert "only exact values of createdAt name a shard, because it is hashed" in ranged
    assert ranged.endswith("userId:hashed,createdAt:1 sends them to one shard")
    assert "go to one shard" in main_query_verdict(BY_USER, "userId")
    assert "createdAt:1 would target them" in main_query_verdict(GUIDE, "createdAt>")


@given(key=keys, main=st.sampled_from(["a", "b", "c", "b,c>", "c,a", "a>,b"]))
def test_the_recommended_key_serves_the_query(key: Key, main: str) -> None:
    better = recommended_key(key, main)
    assert better is not None
    assert target(better, parse_main_query(main)).verdict == "single"
    assert parse_key(key_text(better)) == better
