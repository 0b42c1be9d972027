"""Shard keys: parsed strictly, hashed as a real 4.4.6 cluster hashed them, ordered as BSON orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, decode, encode, json_util
from hypothesis import given
from hypothesis import strategies as st

from credscale.mongo.cluster.shard_key import has_array, hash_value, index_name, key_of, parse_shard_key, sort_key

VECTORS = Path(__file__).parents[2] / "cases" / "mongo" / "hash_vectors.json"
KEY: dict[str, int | str] = {"createdAt": "hashed", "userId": 1}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.binary(),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(lambda each: each.replace(microsecond=0)),  # noqa: DTZ001
    st.binary(min_size=12, max_size=12).map(ObjectId),
)


def vectors() -> list[dict[str, Any]]:
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=False)
    found: list[dict[str, Any]] = json_util.loads(VECTORS.read_text(encoding="utf-8"), json_options=options)
    return found


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: repr(vector["value"]))
def test_the_hash_is_the_one_a_real_cluster_computed(vector: dict[str, Any]) -> None:
    assert hash_value(vector["value"]) == vector["hash"]


def test_parse_reads_fields_in_order() -> None:
    assert list(parse_shard_key("createdAt:hashed, userId:1").items()) == list(KEY.items())
    assert parse_shard_key("a.b:1") == {"a.b": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not written"),
        ("createdAt", "not written"),
        ("createdAt:", "not written"),
        (":1", "not written"),
        ("createdAt:1,", "not written"),
        ("createdAt:-1", "may be 1 or hashed"),
        ("createdAt:2", "may be 1 or hashed"),
        ("createdAt:1.0", "may be 1 or hashed"),
        ("createdAt:Hashed", "may be 1 or hashed"),
        ("createdAt:hashed,createdAt:1", "named twice"),
        ("a:hashed,b:hashed", "more than one hashed"),
        ("a..b:1", "not a field path"),
        ("$a:1", "not a field path"),
    ],
)
def test_parse_refuses(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_shard_key(text)


def test_the_index_is_named_as_mongodb_names_it() -> None:
    assert index_name(KEY) == "createdAt_hashed_userId_1"
    assert index_name({"_id": 1}) == "_id_1"


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.just(1), min_size=1, max_size=4))
def test_what_is_written_is_parsed_back(key: dict[str, int | str]) -> None:
    assert parse_shard_key(",".join(f"{field}:{kind}" for field, kind in key.items())) == key


@given(scalars)
def test_a_value_hashes_alike_after_a_round_trip_through_bson(value: object) -> None:
    assert hash_value(decode(encode({"a": value}))["a"]) == hash_value(value)
    assert -(2**63) <= hash_value(value) < 2**63


@given(st.integers(-(2**50), 2**50))
def test_equal_numbers_hash_alike_whatever_their_type(number: int) -> None:
    same = [number, Int64(number), float(number), Decimal128(str(number))]
    assert len({hash_value(each) for each in same}) == 1
    assert len({sort_key(each) for each in same}) == 1


@given(st.lists(scalars, min_size=2, max_size=6))
def test_any_values_can_be_ordered(values: list[object]) -> None:
    ordered = sorted(values, key=sort_key)
    places = [sort_key(each) for each in ordered]
    assert places == sorted(places)
    assert sort_key(MinKey()) < places[0]
    assert places[-1] < sort_key(MaxKey())


def test_types_are_ordered_as_bson_orders_them() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    ascending = [
        MinKey(),
        None,
        float("nan"),
        float("-inf"),
        -1,
        Decimal128("0.5"),
        Int64(2**60),
        "",
        "Z",
        "a",
        "é",
        {},
        {"a": 1},
        {"a": 1, "b": 1},
        {"b": 1},
        {"a": "x"},
        [],
        [1],
        b"",
        b"zz",
        b"aaa",
        ObjectId("0" * 24),
        False,
        True,
        moment - timedelta(days=40000),
        moment,
        Timestamp(1, 2),
        Timestamp(2, 1),
        Regex("a"),
        MaxKey(),
    ]
    places = [sort_key(each) for each in ascending]
    assert places == sorted(places)
    assert len(set(places)) == len(places)


def test_a_date_without_zone_is_the_same_instant_in_utc() -> None:
    assert sort_key(datetime(2026, 1, 1)) == sort_key(datetime(2026, 1, 1, tzinfo=UTC))  # noqa: DTZ001


def test_the_key_of_a_document_is_what_chunk_bounds_hold() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    found = key_of({"userId": "u", "createdAt": moment, "x": 1}, KEY)
    assert list(found.items()) == [("createdAt", hash_value(moment)), ("userId", "u")]
    assert isinstance(found["createdAt"], Int64)


def test_what_is_missing_counts_as_null() -> None:
    assert key_of({}, KEY) == key_of({"createdAt": None, "userId": None}, KEY)
    assert key_of({}, KEY) == {"createdAt": 2338878944348059895, "userId": None}
    assert key_of({"a": 1}, {"a.b": 1}) == {"a.b": None}
    assert key_of({"a": {"b": 2}}, {"a.b": 1}) == {"a.b": 2}


@pytest.mark.parametrize("document", [{"userId": ["u"]}, {"createdAt": []}, {"userId": [], "createdAt": 1}])
def test_arrays_have_no_place_in_a_shard_key(document: dict[str, Any]) -> None:
    assert has_array(document, KEY)
    with pytest.raises(ValueError, match="holds an array"):
        key_of(document, KEY)


def test_arrays_count_on_the_whole_path_and_nowhere_else() -> None:
    assert has_array({"a": [{"b": 1}]}, {"a.b": 1})
    assert has_array({"a": {"b": [1]}}, {"a.b": 1})
    assert not has_array({"a": {"b": 1}, "c": [1]}, {"a.b": 1})
