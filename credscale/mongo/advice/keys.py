"""How a shard key would divide a collection, from a sample of its documents; pure (reference §4.4, §4.5, §5 row 31)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bson import Int64, ObjectId

from credscale.mongo.cluster.shard_key import has_array, hash_value, sort_key
from credscale.mongo.documents.sampling import estimate_distinct, kind_of, rank_correlation, value_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.mongo.cluster.facts import Key

Place = tuple[tuple[Any, ...], ...]

NEWEST_SHARE = 0.1  # stands for what will be inserted next
MONOTONIC = 0.7  # also the server's threshold in analyzeShardKey
LEAST_SEEN = 5  # a value seen less often in a sample is noise, and no large group
FEWEST_ORDERED = 20


@dataclass(frozen=True)
class Sample:
    """Documents of a collection.

    Args:
        documents: each with ``_id`` and the fields of every candidate.
        sizes: bytes of each.
        total: documents in the collection.
    """

    documents: Sequence[Mapping[str, Any]]
    sizes: Sequence[int]
    total: int

    @property
    def whole(self) -> bool:
        """Whether it is the collection."""
        return len(self.documents) >= self.total

    @property
    def factor(self) -> float:
        """How many documents one of the sample stands for."""
        return max(1.0, self.total / len(self.documents)) if self.documents else 1.0

    @property
    def bytes(self) -> float:
        """The bytes of the whole collection, estimated from the sample."""
        return sum(self.sizes) * self.factor

    @cached_property
    def order(self) -> list[int] | None:
        """The positions of the documents in the order of their insertion; None unless every _id is an ObjectId."""
        if not all(isinstance(document.get("_id"), ObjectId) for document in self.documents):
            return None
        return sorted(range(len(self.documents)), key=lambda each: self.documents[each]["_id"].binary)


@dataclass(frozen=True)
class KeyFacts:
    """What the sample says of one candidate.

    Args:
        key: the candidate.
        arrays: documents of the sample in which a key field holds an array, which MongoDB refuses.
        missing: the share in which a key field is missing or null.
        types: the kinds of values by field, without null.
        distinct: estimated values of the whole key; exact when the sample is the collection.
        distinct_lead: the same of the leading field.
        largest_share: share of the documents with the most frequent value of the whole key, 0 when only noise.
        largest_bytes: bytes of these documents in the collection: a chunk can't be smaller.
        correlation: rank correlation of a ranged leading field with the order of insertion; None when unknown.
        existing: documents of the sample on each shard when the older nine tenths are divided evenly.
        newest: the newest tenth under the same division, which stands for future inserts; None when unknown.
        existing_bytes: the bytes of ``existing``.
    """

    key: Key
    arrays: int
    missing: float
    types: dict[str, tuple[str, ...]]
    distinct: float
    distinct_lead: float
    largest_share: float
    largest_bytes: float
    correlation: float | None
    existing: tuple[int, ...]
    newest: tuple[int, ...] | None
    existing_bytes: tuple[int, ...]

    @property
    def monotonic(self) -> bool:
        """Whether new documents all fall at one end of the key's range."""
        return self.correlation is not None and abs(self.correlation) >= MONOTONIC


def skew(counts: Sequence[int] | None) -> float | None:
    """Return the fullest shard in relation to the mean: 1 is even, the number of shards is all on one."""
    if not counts or not sum(counts):
        return None
    return max(counts) / (sum(counts) / len(counts))


def study(key: Key, sample: Sample, shards: int) -> KeyFacts:
    """Look at a sample of documents under a candidate key.

    Args:
        key: the candidate.
        sample: the documents.
        shards: over how many they would be spread.
    """
    fits = [each for each, document in enumerate(sample.documents) if not has_array(document, key)]
    places = {each: place(sample.documents[each], key) for each in fits}
    groups = Counter(places.values())
    leads = Counter(found[0] for found in places.values())
    common, seen = groups.most_common(1)[0] if groups else ((), 0)
    counts = seen > 1 if sample.whole else seen >= LEAST_SEEN
    share = seen / len(sample.documents) if sample.documents and counts else 0.0
    in_group = sum(sample.sizes[each] for each, found in places.items() if found == common) if counts else 0
    existing, newest, heavy = divide(places, sample, shards)
    total = groups.total() if sample.whole else sample.total
    return KeyFacts(
        key=key,
        arrays=len(sample.documents) - len(fits),
        missing=_missing(sample, key),
        types=_types(sample, key),
        distinct=estimate_distinct(groups.values(), total),
        distinct_lead=estimate_distinct(leads.values(), total),
        largest_share=share,
        largest_bytes=in_group * sample.factor,
        correlation=_correlation(places, sample, key),
        existing=existing,
        newest=newest,
        existing_bytes=heavy,
    )


def place(document: Mapping[str, Any], key: Key) -> Place:
    """Return where a document stands in the order of a key, by MongoDB's own hash where that is hashed."""
    return tuple(
        sort_key(Int64(hash_value(value_at(document, field))) if kind == "hashed" else value_at(document, field))
        for field, kind in key.items()
    )


def divide(
    places: Mapping[int, Place], sample: Sample, shards: int
) -> tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, ...]]:
    """Divide documents as a balanced cluster holds them: into ranges of the key with equally many in each.

    MongoDB splits a collection that has data where the data are (§1.3), so the ranges are those of the documents, also
    for a hashed key. Documents with the same value of the whole key can't be parted. The ranges come from the older
    nine tenths; the newest tenth then shows where inserts would go.

    Args:
        places: where each document stands, by its position in the sample.
        sample: the documents, with their sizes and order of insertion.
        shards: how many ranges.

    Returns:
        documents of the older part on each shard; of the newest, None when the order of insertion is not known; bytes
        of the older part.
    """
    order = [each for each in sample.order if each in places] if sample.order is not None else list(places)
    known = sample.order is not None and len(order) >= FEWEST_ORDERED
    old = order[: math.ceil(len(order) * (1 - NEWEST_SHARE))] if known else order
    ranked = sorted(places[each] for each in old)
    bounds = [ranked[len(ranked) * number // shards] for number in range(1, shards)] if ranked else []
    counts, heavy = [0] * shards, [0] * shards
    for each in old:
        shard = bisect_right(bounds, places[each])
        counts[shard] += 1
        heavy[shard] += sample.sizes[each]
    if not known:
        return tuple(counts), None, tuple(heavy)
    new = [0] * shards
    for each in order[len(old) :]:
        new[bisect_right(bounds, places[each])] += 1
    return tuple(counts), tuple(new), tuple(heavy)


def _missing(sample: Sample, key: Key) -> float:
    if not sample.documents:
        return 0.0
    lacking = sum(any(value_at(document, field) is None for field in key) for document in sample.documents)
    return lacking / len(sample.documents)


def _types(sample: Sample, key: Key) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {field: set() for field in key}
    for document in sample.documents:
        for field in key:
            value = value_at(document, field)
            if value is not None:
                found[field].add(kind_of(value))
    return {field: tuple(sorted(names)) for field, names in found.items()}


def _correlation(places: Mapping[int, Place], sample: Sample, key: Key) -> float | None:
    """Return the rank correlation of the leading field with insertion; 0 for a hashed one."""
    if next(iter(key.values())) == "hashed":
        return 0.0
    if sample.order is None or len(places) < FEWEST_ORDERED:
        return None
    return rank_correlation([places[each][0] for each in sample.order if each in places])
