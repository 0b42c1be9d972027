"""The values of the key in a bounded sample: types, missing ones, arrays; and the largest documents."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.distribution import MEGABYTE
from credscale.mongo.cluster.facts import supporting_index
from credscale.mongo.documents.sampling import MISSING_SHARE, describe, documents_of, kind_at, size_text
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.collection import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.mongo.cluster.facts import DataSize, Key
    from credscale.mongo.preflight.look import Look

# Without an index this reads all of the collection, so it is a short look on a secondary and no proof.
ARRAY_SEARCH_MILLISECONDS = 3_000
BUILD_REFUSES = "the build of the shard-key index looks at all documents and refuses arrays (code 16766)"
LARGE_BYTES = 8 * MEGABYTE


def no_values(look: Look) -> Seen | None:
    """Return the row of a collection whose values can't be looked at; None when they can."""
    if not look.is_plain:
        return no_collection(look)
    return None if look.sample else Seen("unknown", "the collection is empty: there are no values to look at")


def extent_of(look: Look) -> str:
    """Say how much was looked at."""
    whole = "all" if look.sampled_all else "a sample of"
    return f"{whole} {len(look.sample)} documents"


@check(
    30,
    "key-values",
    command="all or a $sample of _id and the key's fields, checkShardingIndex, find_one with $type array",
    reason="A shard key holds no arrays, and equal values of different types lie apart.",
)
def key_values(look: Look) -> Iterator[Seen]:
    """Look at the types of the key's values; the server's word, or a short search, tells of arrays in the rest."""
    nothing = no_values(look)
    if nothing is not None:
        yield nothing
        return
    chunk = look.chunk_size_mb * MEGABYTE
    rows = judge_values(look.sample, look.key, extent_of(look), look.size, chunk)
    yield from rows
    if not look.sampled_all and not any(" holds an array " in row.finding for row in rows):
        yield _search_arrays(look)


def judge_values(
    documents: Iterable[Mapping[str, Any]], key: Key, extent: str, size: DataSize, chunk_bytes: int
) -> list[Seen]:
    """Judge documents by the values of their key fields.

    Args:
        documents: with ``_id`` and the key fields.
        key: the shard key.
        extent: what they are, in words.
        size: of the whole collection.
        chunk_bytes: the chunk size.
    """
    kinds: dict[str, Counter[str]] = {name: Counter() for name in key}
    array: Seen | None = None
    total = empty = 0
    for document in documents:
        total += 1
        found = {name: kind_at(document, name) for name in key}
        empty += all(kind == "null" for kind in found.values())
        for name, kind in found.items():
            kinds[name][kind] += 1
            if kind == "array" and array is None:
                array = array_found(name, document["_id"])
    rows = [array] if array is not None else []
    for name, counter in kinds.items():
        missing = counter.pop("null", 0)
        counter.pop("array", 0)  # the row above says so
        if total and missing / total > MISSING_SHARE:
            seen = f"{name} is missing or null in {missing} of {extent}"
            rows.append(Seen("warn", seen, "fill the field: they all hash alike and stay together"))
        if len(counter) > 1:
            seen = f"{name} has values of the types {', '.join(sorted(counter))} in {extent}"
            rows.append(Seen("warn", seen, "make them one type: equal values of different types lie apart"))
    if empty and empty / total * size.bytes > chunk_bytes:
        seen = f"the whole key is missing or null in {empty / total:.1%} of {extent}: more than one chunk may hold"
        rows.append(Seen("stop", seen, "fill the fields of the key, or take another key"))
    types = ", ".join(f"{name} {next(iter(counter), 'null')}" for name, counter in kinds.items())
    return rows or [Seen("ok", f"one type each in {extent}: {types}")]


def array_found(field: str, identity: Any) -> Seen:
    """Return the row for an array in the shard key, which the index build or every insert refuses."""
    from bson import ObjectId

    # An ObjectId says nothing of a person, and the document is found by it; other values of _id may be anything.
    named = f"with _id {identity}" if isinstance(identity, ObjectId) else f"whose _id is a {describe(identity)}"
    remedy = f"shard keys hold no arrays: find these documents with {{{field!r}: {{$type: 'array'}}}} and correct them"
    return Seen("stop", f"{field} holds an array in the document {named}", remedy)


def _search_arrays(look: Look) -> Seen:
    """Say what is known of the documents that the sample does not have."""
    from pymongo.errors import PyMongoError

    serving = supporting_index(look.indexes, look.key)
    if serving is not None and look.index_refusal is None:
        return Seen("ok", f"the server takes {serving.name} for the key, so no document has an array there")
    try:
        found = documents_of(look.client, look.namespace).find_one(
            array_query(look.key), {"_id": 1}, max_time_ms=ARRAY_SEARCH_MILLISECONDS
        )
    except PyMongoError as error:
        code = getattr(error, "code", None)
        why = type(error).__name__ if code is None else f"code {code}"
        seen = f"the sample has no array; the search of all documents was given up ({why})"
        return Seen("note", f"{seen}: {BUILD_REFUSES}, before anything else is changed")
    if found is None:
        return Seen("ok", "no document has an array in the key's fields: all were searched")
    return array_found(" or ".join(look.key), found["_id"])


def array_query(key: Key) -> dict[str, Any]:
    """Return the filter for arrays in the key; one anywhere on a dotted path counts, not only at its end."""
    paths = [".".join(path.split(".")[: n + 1]) for path in key for n in range(path.count(".") + 1)]
    return {"$or": [{path: {"$type": "array"}} for path in dict.fromkeys(paths)]}


@check(
    36,
    "large-documents",
    command="$bsonSize in the sample of the key's fields",
    reason="Documents near 16 MB make batches of a migration fail at their limit.",
)
def large_documents(look: Look) -> Iterator[Seen]:
    """Look for the largest document of the sample."""
    nothing = no_values(look)
    yield nothing if nothing is not None else judge_sizes(look.sample_sizes, extent_of(look))


def judge_sizes(sizes: Sequence[int] | None, extent: str) -> Seen:
    """Judge the largest document.

    Args:
        sizes: bytes of each; None where the server can't tell.
        extent: what was looked at, in words.
    """
    if not sizes:
        return Seen("unknown", "the server told no sizes", "look at $bsonSize of some documents by hand")
    seen = f"the largest of {extent} has {size_text(max(sizes))}"
    if max(sizes) > LARGE_BYTES:
        return Seen("warn", f"{seen}, more than 8 MB", "make such documents smaller before chunks move")
    return Seen("ok", seen)
