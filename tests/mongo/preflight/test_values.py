"""What a sample tells of the key's values, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect, OperationFailure

from credscale.mongo.cluster import facts
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
    assert [row.severity for row in rows] == ["stop"]
    assert rows[0].finding.startswith("userId holds an array in the document whose _id is a number #")
    assert "{'userId': {$type: 'array'}}" in rows[0].remedy
    nested = {"_id": 8, "user": [{"id": 1}]}
    assert judged(nested, key={"user.id": 1})[0].severity == "stop"
    named = ObjectId()
    assert judged(document(_id=named, userId=["u"]))[0].finding.endswith(f"in the document with _id {named}")


def test_no_value_of_a_user_is_shown() -> None:
    """What findings say goes to terminals, tickets and the evidence."""
    documents = [document(_id="alice@example.org", userId="alice@example.org") for _ in range(100)]
    arrays = [document(_id="bob@example.org", userId=["bob@example.org"])]
    rows = [
        *judge_cardinality(count_values(documents, KEY), SIZE, 1000, 2, whole=True),
        *judged(*documents), *judged(*arrays), values.array_found("userId", "bob@example.org"),
    ]  # fmt: skip
    assert "@" not in " ".join(f"{row.finding} {row.remedy}" for row in rows)
    assert "userId string #" in rows[0].finding


def test_documents_without_any_key_may_fill_a_chunk() -> None:
    empty = {"_id": 1}
    rows = values.judge_values([empty, document()], KEY, "a sample of 2 documents", SIZE, 40_000)
    assert [row.severity for row in rows] == ["warn", "warn", "stop"]
    assert "the whole key is missing or null in 50.0% of a sample" in rows[-1].finding
    half = values.judge_values([document(userId=None)], KEY, "all 1 documents", SIZE, 40_000)
    assert [row.severity for row in half] == ["warn"]


def test_arrays_are_searched_for_on_the_whole_path() -> None:
    assert values.array_query({"user.home.id": 1, "user.name": 1}) == {
        "$or": [
            {"user": {"$type": "array"}}, {"user.home": {"$type": "array"}}, {"user.home.id": {"$type": "array"}},
            {"user.name": {"$type": "array"}},
        ]
    }  # fmt: skip


class Collection:
    """Answers the search for arrays, and remembers how it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked, self.options = answer, [], {}  # type: ignore[var-annotated]

    def __getitem__(self, _name: str) -> Collection:
        return self

    def get_collection(self, _name: str, **options: Any) -> Collection:
        self.options = options
        return self

    def find_one(self, query: dict[str, Any], _fields: Any, max_time_ms: int) -> Any:
        self.asked.append((query, max_time_ms))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def look(collection: Any, *documents: dict[str, Any], count: int = 10**9, key: facts.Key = KEY) -> Any:
    size = facts.DataSize(count, count * 1000, 0, 0, {})
    return SimpleNamespace(
        is_plain=True, sample=documents, key=key, size=size, sampled_all=count <= 100_000, chunk_size_mb=64, indexes=(),
        client=collection, shards=("s1", "s2"), rehearsal=False, collection=None, namespace="shop.orders",
        sample_sizes=None, index_refusal=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "severity", "said"),
    [
        (None, "ok", "all were searched"),
        ({"_id": 9}, "stop", "createdAt or userId holds an array in the document whose _id is a number #"),
        (OperationFailure("time", 50), "note", "the search of all documents was given up (code 50): the build of the"),
        (AutoReconnect("gone"), "note", "was given up (AutoReconnect)"),
    ],
)
def test_what_the_sample_misses_is_searched_for_shortly_on_a_secondary(answer: Any, severity: str, said: str) -> None:
    collection = Collection(answer)
    rows = values.key_values.run(look(collection, document()))
    assert [row.severity for row in rows] == ["ok", severity]
    assert said in rows[1].seen.finding
    if severity == "note":
        assert "refuses arrays (code 16766)" in rows[1].seen.finding
    assert collection.asked[0][1] == 3_000
    assert collection.options["read_preference"] == ReadPreference.SECONDARY_PREFERRED


def test_nothing_is_searched_for_where_it_is_known() -> None:
    collection = Collection(None)
    values.key_values.run(look(collection, document(), count=1))
    values.key_values.run(look(collection, document(userId=[1])))
    served = look(collection, document())
    served.indexes = (facts.Index("serving", KEY),)
    rows = values.key_values.run(served)
    assert rows[1].seen.finding == "the server takes serving for the key, so no document has an array there"
    assert collection.asked == []
    served.index_refusal = OperationFailure("multikey", 96)
    values.key_values.run(served)
    assert len(collection.asked) == 1


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
    assert rows[0].finding == "no value occurs twice in all 1000 documents"


def test_a_value_with_more_documents_than_a_chunk_is_jumbo() -> None:
    found = count_values([*spread(600), *[document(createdAt=9000)] * 400], KEY)
    rows = judge_cardinality(found, SIZE, 10_000, 2, whole=True)
    assert rows[0].severity == "stop"
    assert rows[0].finding.startswith("the most frequent value (createdAt number #")
    assert "has 400 of all 1000 documents: about 40.0 kB, a chunk has 10.0 kB" in rows[0].finding


TERABYTE = facts.DataSize(10**9, 10**12, 0, 0, {})


def test_a_sample_without_a_repeated_value_speaks_for_a_terabyte() -> None:
    found = count_values(spread(50_000), KEY)
    rows = judge_cardinality(found, TERABYTE, 64 * MEGABYTE, 2, whole=False)
    assert [row.severity for row in rows] == ["ok", "ok"]
    assert "a value has 5.0 kB at most on the average (certainty 99 %), less than a chunk" in rows[0].finding
    assert "a single value that fills a chunk would have been seen twice with 85%" in rows[0].finding
    small = judge_cardinality(found, facts.DataSize(10**6, 10**9, 0, 0, {}), 64 * MEGABYTE, 2, whole=False)
    assert small[0].severity == "ok"
    assert "with a certainty of 99 %" in small[0].finding


@given(st.lists(st.integers(0, 10**6), min_size=50, max_size=400), st.integers(10, 10**7))
def test_sharing_is_not_estimated_below_what_the_pairs_say(numbers: list[int], factor: int) -> None:
    """An estimate with a certainty can't be less than the plain estimate: the share of equal pairs."""
    found = count_values([document(createdAt=n) for n in numbers], KEY)
    total = len(numbers) * factor
    size = facts.DataSize(total, total * 1000, 0, 0, {})
    pairs = sum(one == other for place, one in enumerate(numbers) for other in numbers[:place])
    share = pairs / (len(numbers) * (len(numbers) - 1) / 2)
    assert frequency.shared_bytes(found, size) >= share * size.bytes


def test_a_value_seen_some_times_in_a_sample_is_not_decided() -> None:
    some = count_values([*spread(50_000), *[document(createdAt=10**6)] * 4], KEY)
    row = judge_cardinality(some, TERABYTE, 64 * MEGABYTE, 2, whole=False)[0]
    assert row.severity == "unknown"
    assert "the sample is too small to tell" in row.finding
    assert "$group" not in row.remedy
    many = count_values([*spread(50_000), *[document(createdAt=10**6)] * 5], KEY)
    assert judge_cardinality(many, TERABYTE, 64 * MEGABYTE, 2, whole=False)[0].severity == "stop"


def test_the_bytes_of_the_frequent_documents_count_where_they_are_told() -> None:
    documents = [*spread(1000), *[document(createdAt=5000)] * 50]
    found = count_values(documents, KEY, [1000] * 1000 + [10] * 50)
    size = facts.DataSize(1050, 1_000_500, 0, 0, {})
    assert judge_cardinality(found, size, 10_000, 2, whole=True)[0].severity == "ok"
    assert judge_cardinality(count_values(documents, KEY), size, 10_000, 2, whole=True)[0].severity == "stop"


def test_few_documents_with_a_key_of_their_own_are_fine() -> None:
    ten = [document(createdAt=n, userId=n) for n in range(10)]
    big = facts.DataSize(10, 10 * 16 * MEGABYTE, 0, 0, {})
    assert [row.severity for row in judge_cardinality(count_values(ten, KEY), big, MEGABYTE, 2, whole=True)] == [
        "ok", "ok",
    ]  # fmt: skip
    twice = [document(createdAt=n // 2) for n in range(10)]
    rows = judge_cardinality(count_values(twice, {"createdAt": 1}), SIZE, MEGABYTE, 2, whole=True)
    assert rows[1].severity == "stop"


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
    assert "of a sample (about 316228 in all)" in row.finding


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


def test_large_documents_are_looked_for_in_the_same_sample() -> None:
    seen = look(None, document(), document())
    seen.sample_sizes = [1000, 9 * MEGABYTE]
    (row,) = values.large_documents.run(seen)
    assert (row.severity, row.seen.finding) == (
        "warn", "the largest of a sample of 2 documents has 9.4 MB, more than 8 MB",
    )  # fmt: skip


def test_sizes_that_were_not_told_are_unknown() -> None:
    assert values.judge_sizes(None, "all 2 documents").severity == "unknown"
    assert values.judge_sizes([1000], "all 1 documents").severity == "ok"
