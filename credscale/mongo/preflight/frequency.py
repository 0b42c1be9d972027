"""How often the key's values occur in a bounded sample, and whether they grow with the time of insertion."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.distribution import MEGABYTE
from credscale.mongo.cluster.shard_key import has_array, sort_key
from credscale.mongo.documents.sampling import (
    describe,
    estimate_distinct,
    kind_at,
    poisson_bound,
    rank_correlation,
    size_text,
    value_at,
)
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.values import extent_of, no_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.mongo.cluster.facts import DataSize, Index, Key
    from credscale.mongo.preflight.look import Look

VALUES_PER_CHUNK = 10
# Of a value seen less often in a sample nobody can say how many documents it has.
SEEN_OFTEN = 5
MONOTONE = 0.7
FEWEST_ORDERED = 10


@check(
    31,
    "cardinality",
    command="find or $sample of the key's fields",
    reason="Documents of one key value cannot be divided: more of them than a chunk holds become a jumbo chunk.",
)
def cardinality(look: Look) -> Iterator[Seen]:
    """Look whether the key has enough values, and whether one has too many documents."""
    nothing = no_values(look)
    if nothing is not None:
        yield nothing
        return
    unique = unique_within(look.indexes, look.key)
    if unique:
        yield Seen("ok", f"{unique}, so each key value has one document")
        return
    chunk = look.chunk_size_mb * MEGABYTE
    found = count_values(look.sample, look.key, look.sample_sizes)
    yield from judge_cardinality(found, look.size, chunk, len(look.shards), whole=look.sampled_all)


def unique_within(indexes: Iterable[Index], key: Key) -> str:
    """Return what makes each value of the key unique, in words; empty when nothing does."""
    if "_id" in key:
        return "_id is part of the key"
    for index in indexes:
        if index.unique and not index.sparse and not index.partial and set(index.key) <= set(key):
            return f"the index {index.name} is unique"
    return ""


@dataclass(frozen=True)
class Values:
    """How often values occur in a sample.

    Args:
        documents: how many were looked at.
        keys: how many different values of the whole key they have.
        leads: how often each value of its first field occurs.
        fields: how many fields the key has.
        most: how often the most frequent value of the whole key occurs.
        example: the kinds of that value's fields, in words; the values themselves are users' data.
        pairs: how many pairs of documents have the same value of the whole key.
        example_bytes: the bytes of a document with the most frequent value on average; None where sizes are not told.
    """

    documents: int
    keys: int
    leads: tuple[int, ...]
    fields: int
    most: int
    example: str
    pairs: int
    example_bytes: float | None


def count_values(documents: Sequence[Mapping[str, Any]], key: Key, sizes: Sequence[int] | None = None) -> Values:
    """Count the values of the key; documents with an array in it are left out, the check key-values names one.

    Args:
        documents: the sample.
        key: the shard key.
        sizes: bytes of each document; None where they are not told.
    """
    whole: Counter[tuple[Any, ...]] = Counter()
    first: Counter[tuple[Any, ...]] = Counter()
    heavy: Counter[tuple[Any, ...]] = Counter()
    shown: dict[tuple[Any, ...], list[Any]] = {}
    for number, document in enumerate(documents):
        if has_array(document, key):
            continue
        values = [value_at(document, path) for path in key]
        each = tuple(sort_key(value) for value in values)
        whole[each] += 1
        first[each[0]] += 1
        heavy[each] += sizes[number] if sizes is not None else 0
        shown.setdefault(each, values)
    frequent, most = whole.most_common(1)[0] if whole else ((), 0)
    return Values(
        documents=whole.total(),
        keys=len(whole),
        leads=tuple(first.values()),
        fields=len(key),
        most=most,
        example=", ".join(
            f"{name} {describe(value)}" for name, value in zip(key, shown.get(frequent, []), strict=False)
        ),
        pairs=sum(math.comb(count, 2) for count in whole.values()),
        example_bytes=heavy[frequent] / most if sizes is not None and most else None,
    )


def judge_cardinality(found: Values, size: DataSize, chunk_bytes: int, shards: int, *, whole: bool) -> list[Seen]:
    """Judge how many values there are and how many documents one has.

    Args:
        found: of the sample.
        size: of the whole collection.
        chunk_bytes: the chunk size.
        shards: how many shards the data shall spread to.
        whole: whether all documents were looked at.
    """
    if not found.documents:
        return [Seen("unknown", "no document of the sample has a valid key", "see the check key-values")]
    return [
        _judge_largest(found, size, chunk_bytes, whole=whole),
        _judge_number(found, size, chunk_bytes, shards, whole),
    ]


def _judge_largest(found: Values, size: DataSize, chunk_bytes: int, *, whole: bool) -> Seen:
    """Judge the most frequent value of the whole key: its documents stay together."""
    extent = f"{'all' if whole else 'a sample of'} {found.documents} documents"
    text = f"the most frequent value ({found.example}) has {found.most} of {extent}"
    if found.most == 1:
        text = f"no value occurs twice in {extent}"
    average = found.example_bytes if found.example_bytes is not None else size.bytes / max(1, size.documents)
    per_seen = average * (1 if whole else max(1.0, size.documents / found.documents))
    likely = found.most * per_seen
    if likely > chunk_bytes and found.most > 1 and (whole or found.most >= SEEN_OFTEN):
        seen = f"{text}: about {size_text(likely)}, a chunk has {size_text(chunk_bytes)}"
        return Seen("stop", seen, "put a field with more values into the key: what has one value becomes a jumbo chunk")
    if whole:
        # A document alone is never parted, however small chunks are.
        return Seen("ok", text if found.most == 1 else f"{text}, {size_text(likely)}: less than a chunk")
    most = poisson_bound(found.most) * per_seen
    if most <= chunk_bytes:
        return Seen("ok", f"{text}: less than {size_text(most)} with a certainty of 99 %, so it fits a chunk")
    shared = shared_bytes(found, size)
    if found.most <= 2 and shared <= chunk_bytes:
        certain = 1 - _at_most_once(chunk_bytes / max(1.0, per_seen))
        seen = f"{text}: a value has {size_text(shared)} at most on the average (certainty 99 %), less than a chunk"
        return Seen("ok", f"{seen}; a single value that fills a chunk would have been seen twice with {certain:.0%}")
    seen = f"{text}: it may have up to {size_text(most)}, more than a chunk; the sample is too small to tell"
    remedy = (
        "count the documents of that one value by an index of the key's fields, on a secondary and with maxTimeMS, or "
        "run analyzeShardKey (7.0 and later)"
    )
    return Seen("unknown", seen, remedy)


def shared_bytes(found: Values, size: DataSize) -> float:
    """Return how many bytes have the same value as a document taken at random, at most with a certainty of 99 %.

    Of all pairs of documents in a sample as many have one value as of all pairs in the collection (the birthday
    problem), so that 50,000 documents tell of a terabyte what counting each value could not.
    """
    share = poisson_bound(found.pairs) / math.comb(max(2, found.documents), 2)
    return (1 + share * size.documents) * size.bytes / max(1, size.documents)


def _at_most_once(expected: float) -> float:
    """Return how likely something expected so often is seen at most once (Poisson)."""
    return math.exp(-expected) * (1 + expected)


def _judge_number(found: Values, size: DataSize, chunk_bytes: int, shards: int, whole: bool) -> Seen:
    """Judge the number of different values, of the whole key and of its first field."""
    chunks = max(math.ceil(size.bytes / chunk_bytes), shards)
    # A key that is different in every document has as many values as it can have.
    total = found.documents if whole else max(size.documents, found.documents)
    wanted = min(VALUES_PER_CHUNK * chunks, total)
    leading = estimate_distinct(found.leads, total)
    text = f"{len(found.leads)} different values of the first field among {found.documents} documents"
    if not whole:
        text += f" of a sample (about {leading:.0f} in all)"
    if leading >= wanted:
        return Seen("ok", f"{text}, enough for {chunks} chunks")
    seen = f"{text}; {chunks} chunks want {wanted}"
    if len(found.leads) == found.documents:
        return Seen("ok", f"{text}, none of them twice: nothing keeps documents together")
    if found.fields > 1 and found.keys > len(found.leads):
        return Seen(
            "warn", seen, "see whether the other fields divide what has one first value: queries by it ask more shards"
        )
    return Seen("stop", seen, "take a key with more values, or larger chunks")


@check(
    32,
    "monotonicity",
    command="the sample's leading field against the time in _id",
    reason="A ranged key that grows with time sends every insert to the shard with the last chunk.",
)
def monotonicity(look: Look) -> Iterator[Seen]:
    """Look whether the first field of the key grows with the time of insertion."""
    nothing = no_values(look)
    if nothing is not None:
        yield nothing
        return
    name, kind = next(iter(look.key.items()))
    yield judge_order(correlation(look.sample, name), name, kind, extent_of(look))


def correlation(documents: Iterable[Mapping[str, Any]], path: str) -> float | None:
    """Return the rank correlation of a field with the order of ``_id``; None with too few ObjectIds, or one value."""
    from bson import ObjectId

    found = [
        (document["_id"].binary, sort_key(value_at(document, path)))
        for document in documents
        if isinstance(document.get("_id"), ObjectId) and kind_at(document, path) not in ("array", "null")
    ]
    values = [value for _, value in sorted(found, key=lambda pair: pair[0])]
    if len(values) < FEWEST_ORDERED or len(set(values)) < 2:
        return None
    return rank_correlation(values)


def judge_order(found: float | None, name: str, kind: int | str, extent: str) -> Seen:
    """Judge how the first field of the key goes with time.

    Args:
        found: the rank correlation, -1 to 1; None when it can't be told.
        name: the field.
        kind: 1 or ``hashed``.
        extent: what was looked at.
    """
    told = f"{name} goes with the time of insertion (rank correlation {found:.2f}, {extent})" if found else ""
    if kind == "hashed":
        seen = (
            f"{told}, and hashing spreads it"
            if found and abs(found) > MONOTONE
            else f"{name} is hashed: inserts spread"
        )
        return Seen("ok", seen)
    if found is None:
        return Seen("unknown", f"in {extent} the _ids tell no time, or {name} has one value", "tell by the application")
    if abs(found) > MONOTONE:
        remedy = f"put {name}:hashed first, or a field before it that does not grow"
        return Seen("warn", f"{told}: every insert goes to one shard", remedy)
    return Seen("ok", f"{name} does not go with the time of insertion (rank correlation {found:.2f}, {extent})")
