"""Samples and what they say: how many documents, which values, without showing any."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo import ReadPreference
from pymongo.errors import OperationFailure

from credscale.mongo.documents import sampling
from credscale.mongo.documents.sampling import SIZE_FIELD, estimate_distinct, poisson_bound, rank_correlation


@given(st.integers(0, 10**10), st.integers(1, 10**6))
def test_a_sample_is_all_of_it_or_less_than_a_twentieth(documents: int, wanted: int) -> None:
    size = sampling.sample_size(documents, wanted)
    assert size == documents if documents <= 100_000 else 0 < size <= min(wanted, documents / 20)


class Collection:
    """Answers with documents, and remembers how it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked, self.options = list(answers), [], {}  # type: ignore[var-annotated]

    def __getitem__(self, _name: str) -> Collection:
        return self

    def get_collection(self, _name: str, **options: Any) -> Collection:
        self.options = options
        return self

    def aggregate(self, pipeline: list[Any], **options: Any) -> Any:
        self.asked.append((pipeline, options))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def read(collection: Any, documents: int, *fields: str) -> Any:
    return sampling.read_sample(sampling.documents_of(collection, "shop.orders"), fields, documents)


def test_one_pass_on_a_secondary_reads_fields_and_sizes() -> None:
    collection = Collection([{"_id": 1, "a": 2, SIZE_FIELD: 40}])
    assert read(collection, 10**9, "a", "a.b", "c.d") == ([{"_id": 1, "a": 2}], [40])
    ((pipeline, options),) = collection.asked
    assert pipeline[0] == {"$sample": {"size": 50_000}}
    assert set(pipeline[1]["$project"]) == {"_id", "a", "c.d", SIZE_FIELD}
    assert options["maxTimeMS"] == 60_000
    assert collection.options["read_preference"] == ReadPreference.SECONDARY_PREFERRED


def test_a_small_collection_is_read_wholly() -> None:
    collection = Collection([])
    read(collection, 100_000, "a")
    assert [next(iter(stage)) for stage in collection.asked[0][0]] == ["$project"]


def test_a_server_that_knows_no_sizes_still_shows_the_fields() -> None:
    collection = Collection(OperationFailure("Unrecognized expression '$bsonSize'", 168), [{"_id": 1}])
    assert read(collection, 5, "a") == ([{"_id": 1}], None)


@pytest.mark.parametrize("code", [13, 50])
def test_a_read_that_is_refused_or_takes_too_long_is_not_tried_again(code: int) -> None:
    collection = Collection(OperationFailure("no", code))
    with pytest.raises(OperationFailure):
        read(collection, 5, "a")
    assert len(collection.asked) == 1


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        ({"a": 1}, "a", "number"), ({"a": 1.5}, "a", "number"), ({"a": True}, "a", "bool"), ({"a": None}, "a", "null"),
        ({}, "a", "null"), ({"a": {"b": "x"}}, "a.b", "string"), ({"a": [{"b": 1}]}, "a.b", "array"),
        ({"a": 1}, "a.b", "null"), ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "a", "date"),
        ({"a": ObjectId()}, "a", "ObjectId"), ({"a": {"b": 1}}, "a", "object"), ({"a": [1]}, "a", "array"),
    ],
)  # fmt: skip
def test_kinds_of_values(value: dict[str, Any], path: str, kind: str) -> None:
    assert sampling.kind_at(value, path) == kind


def test_values_are_told_apart_without_being_shown() -> None:
    one, same, other = (
        sampling.describe(each) for each in ("alice@example.org", "alice@example.org", "bob@example.org")
    )
    assert one == same != other
    assert one.startswith("string #")
    assert "alice" not in one
    assert sampling.describe(None) == "null"
    assert sampling.describe({"a": 1}).startswith("object #")


def test_distinct_values_of_a_sample() -> None:
    assert estimate_distinct([1, 3], 4) == 2
    assert estimate_distinct([1, 3], 400) == 11  # ten for the one seen once
    assert estimate_distinct([1] * 4, 10) <= 10
    assert estimate_distinct([], 10) == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=50), st.integers(0, 10**9))
def test_there_are_at_least_the_values_seen_and_no_more_than_documents(counts: list[int], more: int) -> None:
    total = sum(counts) + more
    assert len(counts) <= estimate_distinct(counts, total) <= total


@given(values=st.lists(st.integers(0, 20), min_size=2, max_size=40))
def test_rank_correlation_is_one(values: list[int]) -> None:
    assert -1.000001 <= rank_correlation(values) <= 1.000001
    assert rank_correlation(values[::-1]) == pytest.approx(-rank_correlation(values))


def test_rank_correlation_of_known_series() -> None:
    assert rank_correlation([1, 5, 9]) == pytest.approx(1)
    assert rank_correlation([9, 5, 1]) == pytest.approx(-1)
    assert rank_correlation([3, 3, 3]) == 0
    assert rank_correlation([1, 2, 2, 3]) == pytest.approx(0.9487, abs=1e-4)


@given(st.floats(0.1, 200))
def test_the_bound_is_not_below_what_poisson_allows(expected: float) -> None:
    # the most that is seen with less than 1 % from below: then the bound must reach what was expected
    seen, below = 0, math.exp(-expected)
    term = below
    while below < 0.01:
        seen += 1
        term *= expected / seen
        below += term
    assert poisson_bound(seen) >= expected


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (8.4e12, "8.4 TB")])
def test_sizes_in_words(size: float, text: str) -> None:
    assert sampling.size_text(size) == text
