"""What a sample tells of the key's values, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from credscale.mongo import facts
from credscale.mongo.preflight import frequency, values
from credscale.mongo.preflight.frequency import count_values, judge_cardinality

KEY = facts.parse_key("createdAt:hashed,userId:1")
RANGED = facts.parse_key("createdAt:1,userId:1")
MEGABYTE = 1 << 20
SIZE = facts.DataSize(1000, 100_000, 0, 0, {})


def document(**fields: Any) -> dict[str, Any]:
    return {"_id": 7, "createdAt": "2026", "userId": "u", **fields}


def judged(*documents: dict[str, Any], key: facts.Key = KEY) -> list[Any]:
    return values.judge_values(documents, key, f"all {len(documents)} documents", SIZE, MEGABYTE)


def test_one_type_each_is_told() -> None:
    (row,) = judged(*[document()] * 3)
    assert (row.severity, row.finding) == ("ok", "one type each in all 3 documents: createdAt string, userId string")


def test_types_and_missing_values_of_the_key() -> None:
    rows = judged(document(), document(createdAt=5), document(userId=None))
    assert [row.severity for row in rows] == ["warn", "warn"]
    assert [row.finding for row in rows] == [
        "createdAt has values of the types number, string in all 3 documents",
        "userId is missing or null in 1 of all 3 documents",
    ]


def test_a_thousandth_of_missing_values_is_taken() -> None:
    assert [row.severity for row in judged(*[document()] * 999, document(userId=None))] == ["ok"]


def test_an_array_in_the_key_names_a_document() -> None:
    rows = judged(document(), document(userId=["u"]), document(userId=["v"]))
    assert [(row.severity, row.finding) for row in rows] == [
        ("stop", "userId holds an array in the document with _id 7")
    ]
    nested = {"_id": 8, "user": [{"id": 1}]}
    assert judged(nested, key={"user.id": 1})[0].severity == "stop"


def test_documents_without_any_key_may_fill_a_chunk() -> None:
    empty = {"_id": 1}
    rows = values.judge_values([empty, document()], KEY, "a sample of 2 documents", SIZE, 40_000)
    assert [row.severity for row in rows] == ["warn", "warn", "stop"]
    assert "the whole key is missing or null in 50.0% of a sample" in rows[-1].finding
    half = values.judge_values([document(userId=None)], KEY, "all 1 documents", SIZE, 40_000)
    assert [row.severity for row in half] == ["warn"]


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        ({"a": 1}, "a", "number"), ({"a": 1.5}, "a", "number"), ({"a": True}, "a", "bool"), ({"a": None}, "a", "null"),
        ({}, "a", "null"), ({"a": {"b": "x"}}, "a.b", "string"), ({"a": [{"b": 1}]}, "a.b", "array"),
        ({"a": 1}, "a.b", "null"), ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "a", "date"),
        ({"a": ObjectId()}, "a", "ObjectId"),
    ],
)  # fmt: skip
def test_kinds_of_values(value: dict[str, Any], path: str, kind: str) -> None:
    assert values.kind_at(value, path) == kind


def test_arrays_are_searched_for_on_the_whole_path() -> None:
    assert values.array_query({"user.home.id": 1, "user.name": 1}) == {
        "$or": [
            {"user": {"$type": "array"}}, {"user.home": {"$type": "array"}}, {"user.home.id": {"$type": "array"}},
            {"user.name": {"$type": "array"}},
        ]
    }  # fmt: skip


class Collection:
    """Answers the search for arrays and the sizes."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []  # type: ignore[var-annotated]

    def __getitem__(self, _name: str) -> Collection:
        return self

    def find_one(self, query: dict[str, Any], _fields: Any, max_time_ms: int) -> Any:
        self.asked.append((query, max_time_ms))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def aggregate(self, pipeline: list[Any], **options: Any) -> Any:
        self.asked.append((pipeline, options["maxTimeMS"]))
        return self.answer


def look(collection: Any, *documents: dict[str, Any], count: int = 10**9, key: facts.Key = KEY) -> Any:
    clients = SimpleNamespace(mongo=lambda **_options: collection)
    size = facts.DataSize(count, count * 1000, 0, 0, {})
    return SimpleNamespace(
        is_plain=True, sample=documents, key=key, size=size, sampled_all=count <= 100_000, chunk_size_mb=64, indexes=(),
        ctx=SimpleNamespace(clients=clients), database_name="shop", collection_name="orders", shards=("s1", "s2"),
        rehearsal=False, collection=None, namespace="shop.orders",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "severity", "said"),
    [
        (None, "ok", "all were searched"),
        ({"_id": 9}, "stop", "createdAt or userId holds an array in the document with _id 9"),
        (OperationFailure("time", 50), "unknown", "was given up (code 50); the sample has none"),
    ],
)
def test_what_the_sample_misses_is_searched_for(answer: Any, severity: str, said: str) -> None:
    collection = Collection(answer)
    rows = values.key_values.run(look(collection, document()))
    assert [row.severity for row in rows] == ["ok", severity]
    assert said in rows[1].seen.finding
    assert collection.asked[0][1] == 60_000


def test_nothing_is_searched_for_when_all_were_looked_at_or_an_array_is_known() -> None:
    collection = Collection(None)
    values.key_values.run(look(collection, document(), count=1))
    values.key_values.run(look(collection, document(userId=[1])))
    assert collection.asked == []


def test_an_empty_collection_tells_nothing() -> None:
    for each in (values.key_values, frequency.cardinality, frequency.monotonicity, values.large_documents):
        (row,) = each.run(look(Collection(None), count=0))
        assert (row.severity, row.seen.finding) == (
            "unknown",
            "the collection is empty: there are no values to look at",
        )


def spread(number: int, **fields: Any) -> list[dict[str, Any]]:
    return [document(createdAt=n, userId=f"u{n % 7}", **fields) for n in range(number)]


def test_many_values_fit() -> None:
    found = count_values(spread(1000), KEY)
    rows = judge_cardinality(found, SIZE, 10_000, 2, whole=True)
    assert [row.severity for row in rows] == ["ok", "ok"]
    assert rows[0].finding == "no value occurs twice in all 1000 documents, 100 B: less than a chunk"


def test_a_value_with_more_documents_than_a_chunk_is_jumbo() -> None:
    found = count_values([*spread(600), *[document(createdAt=9000)] * 400], KEY)
    rows = judge_cardinality(found, SIZE, 10_000, 2, whole=True)
    assert rows[0].severity == "stop"
    assert rows[0].finding.startswith(
        "the most frequent value (createdAt 9000, userId u) has 400 of all 1000 documents"
    )
    assert "about 40.0 kB, a chunk has 10.0 kB" in rows[0].finding


def test_a_sample_that_is_too_small_does_not_pretend() -> None:
    terabyte = facts.DataSize(10**9, 10**12, 0, 0, {})
    found = count_values(spread(50_000), KEY)
    rows = judge_cardinality(found, terabyte, 64 * MEGABYTE, 2, whole=False)
    assert rows[0].severity == "unknown"
    assert "the sample is too small to tell" in rows[0].finding
    small = judge_cardinality(found, facts.DataSize(10**6, 10**9, 0, 0, {}), 64 * MEGABYTE, 2, whole=False)
    assert small[0].severity == "ok"
    assert "with a certainty of 99 %" in small[0].finding
    twice = count_values([*spread(1000), *[document(createdAt=5000)] * 4], KEY)
    assert judge_cardinality(twice, terabyte, 64 * MEGABYTE, 2, whole=False)[0].severity == "unknown"


@given(st.floats(0.1, 200))
def test_the_bound_is_not_below_what_poisson_allows(expected: float) -> None:
    import math

    # the most that is seen with less than 1 % from below: then the bound must reach what was expected
    seen, below = 0, math.exp(-expected)
    term = below
    while below < 0.01:
        seen += 1
        term *= expected / seen
        below += term
    assert frequency.poisson_bound(seen) >= expected


@pytest.mark.parametrize(
    ("documents", "key", "severity"),
    [
        ([document(createdAt=n % 10, userId=n) for n in range(1000)], KEY, "warn"),
        ([document(createdAt=n % 10) for n in range(1000)], KEY, "stop"),
        ([document(createdAt=n % 10, userId=n) for n in range(1000)], {"createdAt": 1}, "stop"),
        ([document(createdAt=n) for n in range(1000)], {"createdAt": 1}, "ok"),
    ],
)
def test_few_values_of_the_first_field(documents: list[dict[str, Any]], key: facts.Key, severity: str) -> None:
    rows = judge_cardinality(count_values(documents, key), SIZE, 10_000, 2, whole=True)
    assert rows[1].severity == severity


def test_values_that_a_sample_saw_once_hint_at_more() -> None:
    found = count_values(spread(1000), KEY)
    big = facts.DataSize(10**8, 10**11, 0, 0, {})
    row = judge_cardinality(found, big, 64 * MEGABYTE, 2, whole=False)[1]
    assert row.severity == "ok"
    assert "of a sample (about 500500 in all)" in row.finding


def test_a_unique_key_needs_no_counting() -> None:
    assert frequency.unique_within([], {"_id": "hashed"}) == "_id is part of the key"
    unique = facts.Index("one", {"userId": 1}, unique=True)
    assert frequency.unique_within([unique], KEY) == "the index one is unique"
    for other in (
        facts.Index("one", {"orderId": 1}, unique=True), facts.Index("one", {"userId": 1}),
        facts.Index("one", {"userId": 1}, unique=True, partial=True),
        facts.Index("one", {"userId": 1}, unique=True, sparse=True),
    ):  # fmt: skip
        assert frequency.unique_within([other], KEY) == ""
    seen = look(None, document(), key={"_id": "hashed"})
    assert [row.seen.finding for row in frequency.cardinality.run(seen)] == [
        "_id is part of the key, so each key value has one document"
    ]


def test_only_arrays_give_no_values() -> None:
    found = count_values([document(userId=[1])], KEY)
    assert [row.severity for row in judge_cardinality(found, SIZE, 10_000, 2, whole=True)] == ["unknown"]


START = datetime(2026, 1, 1, tzinfo=UTC)


def inserted(*order: Any) -> list[dict[str, Any]]:
    return [
        {"_id": ObjectId.from_datetime(START + timedelta(seconds=n)), "createdAt": value}
        for n, value in enumerate(order)
    ]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (range(50), 1.0),
        (range(50, 0, -1), -1.0),
        ([n * n for n in range(50)], 1.0),
        ([n % 2 for n in range(50)], 0.03),
        ([1] * 50, None),
        (range(5), None),
        ([[n] for n in range(50)], None),
    ],
)
def test_rank_correlation_with_the_time_of_insertion(order: Any, expected: float | None) -> None:
    found = frequency.correlation(inserted(*order), "createdAt")
    assert found == (None if expected is None else pytest.approx(expected, abs=0.02))


@given(st.lists(st.integers(-5, 5), min_size=10, max_size=60))
def test_a_correlation_is_between_minus_one_and_one(order: list[int]) -> None:
    found = frequency.correlation(inserted(*order), "createdAt")
    assert found is None or -1.000001 <= found <= 1.000001
    if found is not None:
        back = frequency.correlation(inserted(*[-value for value in order]), "createdAt")
        assert back == pytest.approx(-found)


def test_ids_without_time_tell_no_order() -> None:
    assert frequency.correlation([document(createdAt=n) for n in range(50)], "createdAt") is None


@pytest.mark.parametrize(
    ("found", "kind", "severity", "said"),
    [
        (0.99, "hashed", "ok", "and hashing spreads it"),
        (0.1, "hashed", "ok", "createdAt is hashed: inserts spread"),
        (None, "hashed", "ok", "createdAt is hashed: inserts spread"),
        (0.99, 1, "warn", "every insert goes to one shard"),
        (-0.9, 1, "warn", "every insert goes to one shard"),
        (0.7, 1, "ok", "does not go with the time"),
        (0.0, 1, "ok", "does not go with the time"),
        (None, 1, "unknown", "the _ids tell no time"),
    ],
)
def test_a_ranged_key_that_grows_is_hot(found: float | None, kind: Any, severity: str, said: str) -> None:
    row = frequency.judge_order(found, "createdAt", kind, "all 50 documents")
    assert row.severity == severity
    assert said in row.finding


def test_the_order_of_the_sample_is_judged() -> None:
    (row,) = frequency.monotonicity.run(look(None, *inserted(*range(50)), key=RANGED))
    assert row.severity == "warn"
    assert row.seen.remedy.startswith("put createdAt:hashed first")


@pytest.mark.parametrize(("count", "sampled"), [(4000, False), (4001, True)])
def test_large_documents_are_looked_for_within_limits(count: int, sampled: bool) -> None:
    collection = Collection([{"_id": None, "largest": 9 * MEGABYTE, "documents": 4000}])
    (row,) = values.large_documents.run(look(collection, document(), count=count))
    assert row.severity == "warn"
    assert row.seen.finding.startswith(
        f"the largest of {'a sample of' if sampled else 'all'} 4000 documents has 9.4 MB"
    )
    pipeline, milliseconds = collection.asked[0]
    assert (pipeline[0] == {"$sample": {"size": 4000}}) == sampled
    assert milliseconds == 60_000


def test_sizes_that_were_not_told_are_unknown() -> None:
    assert values.judge_sizes({}, sampled=False).severity == "unknown"
    assert values.judge_sizes({"largest": 1000, "documents": 1}, sampled=False).severity == "ok"
