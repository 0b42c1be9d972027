"""The values of the key in a bounded sample: types, missing ones, arrays; and the largest documents."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.mongo.commands import retrying
from credscale.mongo.distribution import MEGABYTE
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.collection import no_collection, size_text
from credscale.mongo.preflight.look import SAMPLE_MILLISECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.mongo.facts import DataSize, Key
    from credscale.mongo.preflight.look import Look

MISSING_SHARE = 0.001
ARRAY_SEARCH_MILLISECONDS = 60_000
# Less than a twentieth of any collection that is sampled: then $sample jumps about instead of scanning everything.
LARGE_BYTES, SIZE_SAMPLE = 8 * MEGABYTE, 4_000
_TYPES = {
    "datetime": "date",
    "DatetimeMS": "date",
    "str": "string",
    "int": "number",
    "Int64": "number",
    "float": "number",
    "bool": "bool",
}


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
    command="find or $sample of _id and the key's fields, find_one with $type array",
    reason="A shard key holds no arrays, and equal values of different types lie apart.",
)
def key_values(look: Look) -> Iterator[Seen]:
    """Look at the types of the key's values; search all documents for arrays while it is quick."""
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
    seen = f"{field} holds an array in the document with _id {identity}"
    return Seen("stop", seen, "shard keys hold no arrays: correct these documents")


def kind_at(document: Mapping[str, Any], path: str) -> str:
    """Return the kind of value at a dotted path: ``array`` if one lies on it, ``null`` if it is missing."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if hasattr(value, "get") else None
        if isinstance(value, list):
            return "array"
    return "null" if value is None else _TYPES.get(type(value).__name__, type(value).__name__)


def _search_arrays(look: Look) -> Seen:
    from pymongo.errors import OperationFailure

    collection = look.ctx.clients.mongo(timeout=LONG_SECONDS)[look.database_name][look.collection_name]
    query = array_query(look.key)
    try:
        found = collection.find_one(query, {"_id": 1}, max_time_ms=ARRAY_SEARCH_MILLISECONDS)
    except OperationFailure as error:
        seen = f"the search of all documents for arrays was given up (code {error.code}); the sample has none"
        return Seen("unknown", seen, "let the index build find out: it refuses arrays (code 16766)")
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
    command="$bsonSize of all documents or of a $sample, with maxTimeMS",
    reason="Documents near 16 MB make batches of a migration fail at their limit.",
)
def large_documents(look: Look) -> Iterator[Seen]:
    """Look for the largest document of the sample."""
    nothing = no_values(look)
    if nothing is not None:
        yield nothing
        return
    stages: list[dict[str, Any]] = [] if look.size.documents <= SIZE_SAMPLE else [{"$sample": {"size": SIZE_SAMPLE}}]
    pipeline = [
        *stages,
        {"$project": {"bytes": {"$bsonSize": "$$ROOT"}}},
        {"$group": {"_id": None, "largest": {"$max": "$bytes"}, "documents": {"$sum": 1}}},
    ]
    collection = look.ctx.clients.mongo(timeout=LONG_SECONDS)[look.database_name][look.collection_name]
    options: dict[str, Any] = {"allowDiskUse": True, "maxTimeMS": SAMPLE_MILLISECONDS}
    found = retrying(lambda: list(collection.aggregate(pipeline, **options)))
    yield judge_sizes(found[0] if found else {}, sampled=bool(stages))


def judge_sizes(found: Mapping[str, Any], *, sampled: bool) -> Seen:
    """Judge the largest document.

    Args:
        found: ``largest`` in bytes, and how many ``documents`` were looked at.
        sampled: whether these are some of them only.
    """
    if found.get("largest") is None:
        return Seen("unknown", "the server told no sizes")
    extent = f"{'a sample of' if sampled else 'all'} {found['documents']} documents"
    seen = f"the largest of {extent} has {size_text(found['largest'])}"
    if found["largest"] > LARGE_BYTES:
        return Seen("warn", f"{seen}, more than 8 MB", "make such documents smaller before chunks move")
    return Seen("ok", seen)
