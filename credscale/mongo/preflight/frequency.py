"""How often the key's values occur in a bounded sample, and whether they grow with the time of insertion."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.mongo.distribution import MEGABYTE
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.collection import size_text
from credscale.mongo.preflight.values import extent_of, kind_at, no_values
from credscale.mongo.shard_key import has_array, sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.mongo.facts import DataSize, Index, Key
    from credscale.mongo.preflight.look import Look

VALUES_PER_CHUNK = 10
# Of a value seen less often in a sample nobody can say how many documents it has.
SEEN_OFTEN = 5
MONOTONE = 0.7
LONGEST_EXAMPLE = 60


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
    found = count_values(look.sample, look.key)
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
        leading: how many of its first field.
        fields: how many fields the key has.
        most: how often the most frequent value of the whole key occurs.
        example: that value, in words.
        leading_twice: how many values of the first field occur once, and how many twice.
    """

    documents: int
    keys: int
    leading: int
    fields: int
    most: int
    example: str
    leading_twice: tuple[int, int]


def count_values(documents: Sequence[Mapping[str, Any]], key: Key) -> Values:
    """Count the values of the key; documents with an array in it are left out, the check key-values names one."""
    whole: Counter[tuple[Any, ...]] = Counter()
    first: Counter[tuple[Any, ...]] = Counter()
    shown: dict[tuple[Any, ...], list[Any]] = {}
    for document in documents:
        if has_array(document, key):
            continue
        values = [_value_at(document, path) for path in key]
        each = tuple(sort_key(value) for value in values)
        whole[each] += 1
        first[each[0]] += 1
        shown.setdefault(each, values)
    frequent, most = whole.most_common(1)[0] if whole else ((), 0)
    text = ", ".join(
        f"{name} {str(value)[:LONGEST_EXAMPLE]}" for name, value in zip(key, shown.get(frequent, []), strict=False)
    )
    occurrences = Counter(first.values())
    twice = occurrences[1], occurrences[2]
    return Values(whole.total(), len(whole), len(first), len(key), most, text, twice)


def _value_at(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if hasattr(value, "get") else None
    return value


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
        return [Seen("unknown", "no document of the sample has a valid key")]
    return [
        _judge_largest(found, size, chunk_bytes, whole=whole),
        _judge_number(found, size, chunk_bytes, shards, whole),
    ]


def _judge_largest(found: Values, size: DataSize, chunk_bytes: int, *, whole: bool) -> Seen:
    """Judge the most frequent value of the whole key: its documents stay together."""
    per_document = size.bytes / found.documents  # of the sample: each stands for so many bytes
    extent = f"{'all' if whole else 'a sample of'} {found.documents} documents"
    text = f"the most frequent value ({found.example}) has {found.most} of {extent}"
    if found.most == 1:
        text = f"no value occurs twice in {extent}"
    likely = found.most * per_document
    if likely > chunk_bytes and (whole or found.most >= SEEN_OFTEN):
        seen = f"{text}: about {size_text(likely)}, a chunk has {size_text(chunk_bytes)}"
        return Seen("stop", seen, "put a field with more values into the key: what has one value becomes a jumbo chunk")
    if whole:
        return Seen("ok", f"{text}, {size_text(likely)}: less than a chunk")
    most = poisson_bound(found.most) * per_document
    if most <= chunk_bytes:
        return Seen("ok", f"{text}: less than {size_text(most)} with a certainty of 99 %, so it fits a chunk")
    seen = f"{text}: it may have up to {size_text(most)}, more than a chunk; the sample is too small to tell"
    remedy = "count on a hidden secondary with $group and allowDiskUse, or run analyzeShardKey (7.0 and later)"
    return Seen("unknown", seen, remedy)


def poisson_bound(seen: int) -> float:
    """Return how often something seen so often may be expected, with a certainty of 99 % at least (Poisson)."""
    return seen + 3 * math.sqrt(seen + 1) + 2


def _judge_number(found: Values, size: DataSize, chunk_bytes: int, shards: int, whole: bool) -> Seen:
    """Judge the number of different values, of the whole key and of its first field."""
    chunks = max(math.ceil(size.bytes / chunk_bytes), shards)
    wanted = VALUES_PER_CHUNK * chunks
    once, twice = found.leading_twice
    # Chao's estimate: what was seen once hints at what was not seen; without pairs it stays a lower bound.
    unseen = 0.0 if whole else once * (once - 1) / (2 * (twice + 1))
    leading = min(found.leading + unseen, size.documents)
    text = f"{found.leading} different values of the first field among {found.documents} documents"
    if not whole:
        text += f" of a sample (about {leading:.0f} in all)"
    if leading >= wanted:
        return Seen("ok", f"{text}, enough for {chunks} chunks")
    seen = f"{text}; {chunks} chunks want {wanted}"
    if found.fields > 1 and found.keys > found.leading:
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
    """Return the rank correlation of a field with the time in ``_id``; None with too few ObjectIds, or one value."""
    from bson import ObjectId

    pairs = [
        (document["_id"].generation_time.timestamp(), sort_key(_value_at(document, path)))
        for document in documents
        if isinstance(document.get("_id"), ObjectId) and kind_at(document, path) not in ("array", "null")
    ]
    if len(pairs) < VALUES_PER_CHUNK:
        return None
    times, values = _ranks([pair[0] for pair in pairs]), _ranks([pair[1] for pair in pairs])
    middle = (len(pairs) - 1) / 2
    spread = math.sqrt(sum((rank - middle) ** 2 for rank in times) * sum((rank - middle) ** 2 for rank in values))
    if not spread:
        return None
    return sum((one - middle) * (other - middle) for one, other in zip(times, values, strict=True)) / spread


def _ranks(values: Sequence[Any]) -> list[float]:
    """Return each value's rank; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop + 1 < len(order) and values[order[stop + 1]] == values[order[start]]:
            stop += 1
        for place in order[start : stop + 1]:
            ranks[place] = (start + stop) / 2
        start = stop + 1
    return ranks


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
