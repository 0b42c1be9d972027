"""A candidate is judged by the documents: how many values, how even, what grows, what can't be divided."""

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from credscale.mongo.advice.keys import Sample, divide, place, skew, study
from credscale.mongo.advice.shapes import make_shape
from credscale.mongo.advice.verdicts import QueryFacts, advice, assess, candidates, query_facts, rank, shape_rows
from credscale.mongo.cluster.facts import Key, key_text, parse_key

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
MB = 1 << 20


def identity(number: int) -> ObjectId:
    return ObjectId(struct.pack(">IQ", 1_700_000_000 + number, number))


def make_sample(count: int = 1000, *, users: int = 50, factor: int = 1, whale: float = 0.0, size: int = 1000) -> Sample:
    """Make documents in order of creation; one user has the given share of them."""
    chance = random.Random(7)
    documents = [
        {
            "_id": identity(number),
            "userId": "whale" if chance.random() < whale else f"u{chance.randrange(users)}",
            "createdAt": FIRST + timedelta(seconds=number),
        }
        for number in range(count)
    ]
    return Sample(documents, [size] * count, count * factor)


documents = st.lists(
    st.builds(
        lambda number, user, at: {"_id": identity(number), "userId": user, "createdAt": at},
        st.integers(0, 10_000),
        st.one_of(st.none(), st.integers(0, 5), st.sampled_from("abc"), st.lists(st.integers(), max_size=1)),
        st.one_of(st.none(), st.integers(-100, 100)),
    ),
    max_size=60,
)
keys = st.sampled_from(
    [parse_key(text) for text in ("userId:hashed", "userId:1,createdAt:1", "createdAt:hashed,userId:1", "_id:hashed")]
)


@given(found=documents, key=keys, shards=st.integers(1, 7))
def test_every_document_lands_on_one_shard(found: list[dict[str, Any]], key: Key, shards: int) -> None:
    sample = Sample(found, list(range(len(found))), len(found))
    facts = study(key, sample, shards)
    assert len(facts.existing) == shards
    placed = len(found) - facts.arrays
    assert sum(facts.existing) + sum(facts.newest or ()) == placed
    if facts.newest is None:
        heavy = sum(
            size for size, each in zip(sample.sizes, found, strict=True) if not isinstance(each["userId"], list)
        )
        assert sum(facts.existing_bytes) == (heavy if "userId" in key else sum(sample.sizes))
    assert 0 <= facts.missing <= 1
    assert facts.distinct_lead <= facts.distinct <= len(found)
    highest = skew(facts.existing)
    assert highest is None or 1 <= highest <= shards


@given(found=documents, key=keys, shards=st.integers(2, 5))
def test_equal_values_are_never_parted(found: list[dict[str, Any]], key: Key, shards: int) -> None:
    plain = [{**each, "userId": "x"} for each in found]
    once = divide(
        {each: place(plain[0], key) for each in range(len(plain))}, Sample(plain, [1] * len(plain), 9), shards
    )
    assert sum(count > 0 for count in once[0]) <= 1


def test_hashed_time_is_even_and_plain_time_is_not() -> None:
    sample = make_sample()
    hashed, plain = (study(parse_key(text), sample, 4) for text in ("createdAt:hashed,userId:1", "createdAt:1"))
    assert skew(hashed.existing) == pytest.approx(1, abs=0.05)
    assert (skew(hashed.newest) or 9) < 1.5
    assert not hashed.monotonic
    assert plain.correlation == pytest.approx(1)
    assert plain.newest == (0, 0, 0, 100)
    judged = assess(plain, QueryFacts(), 1000 * 1000, 64 * MB)
    assert "createdAt grows with time" in judged.reasons[0]
    assert judged.verdict == "poor"


def test_whale_is_indivisible_without_a_second_field() -> None:
    sample = make_sample(whale=0.6, size=MB)
    alone, paired = (study(parse_key(text), sample, 4) for text in ("userId:hashed", "userId:hashed,createdAt:1"))
    assert alone.largest_share == pytest.approx(0.6, abs=0.05)
    assert alone.largest_bytes == pytest.approx(600 * MB, rel=0.1)
    assert (skew(alone.existing) or 0) > 2
    assert skew(paired.existing) == pytest.approx(1, abs=0.05)
    assert paired.largest_bytes == 0
    assert "jumbo" in assess(alone, QueryFacts(), sample.bytes, 64 * MB).reasons[0]
    # What the whale adds stands at the end of its range, so it goes to one shard all the same.
    (reason,) = assess(paired, QueryFacts(), sample.bytes, 64 * MB).reasons
    assert "times the mean of new documents" in reason


def test_large_share_is_named_before_it_is_jumbo() -> None:
    judged = assess(study(parse_key("userId:hashed"), make_sample(whale=0.1), 2), QueryFacts(), 1e6, 64 * MB)
    assert "at the guide's 100 GB, more than a chunk" in "; ".join(judged.reasons)


def test_noise_of_a_sample_is_no_large_group() -> None:
    facts = study(parse_key("createdAt:hashed"), make_sample(factor=100_000), 2)
    assert facts.largest_bytes == 0
    assert facts.distinct > 1000


def test_few_values_can_not_be_divided() -> None:
    facts = study(parse_key("userId:hashed"), make_sample(users=5), 2)
    judged = assess(facts, QueryFacts(), 640 * MB, 64 * MB)
    assert any("about 5 values for 10 chunks" in reason for reason in judged.reasons)


def test_arrays_missing_and_mixed_types() -> None:
    found = [{"_id": identity(n), "userId": value} for n, value in enumerate(["a", 1, None, [1], "b"])]
    facts = study(parse_key("userId:hashed"), Sample(found, [1] * 5, 5), 2)
    assert (facts.arrays, facts.missing) == (1, 0.2)
    assert facts.types == {"userId": ("array", "number", "string")}
    judged = assess(facts, QueryFacts(), 5, MB)
    assert judged.verdict == "impossible"
    assert "1 documents hold an array" in judged.reasons[0]


def test_order_of_insertion_is_known_from_object_ids_only() -> None:
    found = [{"_id": f"id{n}", "userId": n} for n in range(100)]
    facts = study(parse_key("userId:1"), Sample(found, [1] * 100, 100), 2)
    assert facts.correlation is None
    assert facts.newest is None
    assert sum(facts.existing) == 100
    assert not facts.monotonic


SHAPES = [
    make_shape("find", {"userId": "u"}, count=60),
    make_shape("find", {"userId": "u", "createdAt": {"$gt": FIRST}}, count=30),
    make_shape("update_one", {"_id": 1}, {"$set": {"a": 1}}, count=6),
    make_shape("find_and_modify", {"_id": 1}, {"$set": {"a": 1}}, count=2),
    make_shape("insert", {}, count=1000),
    make_shape("update_one", {"userId": "u"}, {"$set": {"a": 1}}, count=2),
]


def test_shares_of_queries_are_weighted() -> None:
    guide = query_facts(parse_key("createdAt:hashed,userId:1"), SHAPES, (4, 4, 6))
    assert (guide.single, guide.several, guide.broadcast) == (0, 0, 1)
    assert guide.breaking == pytest.approx(0.4)
    better = query_facts(parse_key("userId:hashed,createdAt:1"), SHAPES, (4, 4, 6))
    assert better.single == pytest.approx(0.92)
    assert better.breaking == pytest.approx(0.2)
    assert better.unsure == pytest.approx(0.2)
    assert query_facts(parse_key("userId:1"), [], (4, 4, 6)) == QueryFacts()


def test_the_guides_key_loses_to_the_key_by_user() -> None:
    sample = make_sample(2000, users=200)
    found = candidates("", SHAPES, ["_id", "userId", "createdAt"])
    assert {"createdAt:hashed,userId:1", "userId:hashed,createdAt:1", "userId:1,createdAt:1", "userId:hashed",
            "_id:hashed"} == {key_text(key) for key in found}  # fmt: skip
    ranked = rank(
        [assess(study(key, sample, 2), query_facts(key, SHAPES, (4, 4, 6)), sample.bytes, 64 * MB) for key in found]
    )
    assert key_text(ranked[0].key) == "userId:hashed,createdAt:1"
    assert "The guide's createdAt:hashed,userId:1 is poor" in advice(ranked, "100 queries")
    row = ranked[0].row(1)
    assert (row["rank"], row["one shard"], row["writes that fail"]) == (1, "92.0%", "20.0%")


def test_candidates_of_another_collection_come_from_its_queries() -> None:
    shapes = [make_shape("find", {"tenant": 1, "day": {"$gt": 2}}, count=9), make_shape("find", {"order": 1}, count=1)]
    found = [key_text(key) for key in candidates("order:1; region:1,order:1", shapes, ["_id", "tenant"])]
    assert found[:3] == ["tenant:hashed,day:1", "tenant:1,day:1", "tenant:hashed"]
    assert {"_id:hashed", "order:1", "region:1,order:1"} <= set(found)
    assert "createdAt:hashed,userId:1" not in found


def test_shape_rows_have_a_column_for_each_key() -> None:
    rows = shape_rows(SHAPES, [parse_key("userId:hashed"), parse_key("_id:hashed")])
    assert len(rows) == 5
    assert rows[0] == {
        "query": "find userId", "seen": 60, "source": "", "userId:hashed": "single", "_id:hashed": "broadcast",
    }  # fmt: skip
