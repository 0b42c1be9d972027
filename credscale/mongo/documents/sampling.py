"""Samples of a collection's documents, what their values are, and what a sample says of the whole.

Used by the pre-flight and by the advice on shard keys, so that both say the same of the same documents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.commands import MAX_TIME_EXPIRED, retrying
from credscale.mongo.cluster.facts import split_namespace
from credscale.mongo.cluster.members import MEMBER_DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pymongo.collection import Collection

    from credscale.mongo.cluster.commands import Client

LOOK_AT_ALL = 100_000  # documents; of more a sample is taken
SAMPLE = 50_000
# Below 5 % of the collection $sample takes documents at random; above it reads and sorts them all (manual).
SMALLEST_FACTOR = 21
SAMPLE_MILLISECONDS = 60_000
MISSING_SHARE = 0.001  # of documents without the key that is taken (reference §5 row 30)
SIZE_FIELD = "credscale_document_bytes"
UNAUTHORIZED = 13
HASH_DIGITS = 8
_KINDS = {
    "datetime": "date", "DatetimeMS": "date", "str": "string", "int": "number", "Int64": "number", "float": "number",
    "bool": "bool", "list": "array", "NoneType": "null",
}  # fmt: skip


def sample_size(documents: int, wanted: int = SAMPLE) -> int:
    """Return how many documents to look at: all of a small collection, else so few that the server jumps to them.

    Args:
        documents: in the collection.
        wanted: of a large one.
    """
    return documents if documents <= LOOK_AT_ALL else min(wanted, documents // SMALLEST_FACTOR)


def documents_of(client: Client, namespace: str) -> Collection[dict[str, Any]]:
    """Return a collection to sample: from secondaries where there are any, and whatever its values are.

    Dates beyond the year 9999 and texts that are no UTF-8 are no reason to look at nothing.
    """
    from bson.codec_options import CodecOptions, DatetimeConversion
    from pymongo import ReadPreference

    lenient: CodecOptions[dict[str, Any]] = CodecOptions(
        datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
    )
    name, collection = split_namespace(namespace)
    return client[name].get_collection(
        collection, codec_options=lenient, read_preference=ReadPreference.SECONDARY_PREFERRED
    )


def read_sample(
    collection: Collection[dict[str, Any]],
    fields: Iterable[str],
    documents: int,
    *,
    wanted: int = SAMPLE,
    deadline: float = MEMBER_DEADLINE,
) -> tuple[list[dict[str, Any]], list[int] | None]:
    """Read some fields of all documents or of a sample, and in the same pass how big each document is.

    Args:
        collection: as ``documents_of`` gives it.
        fields: dotted paths; ``_id`` comes with them.
        documents: in the collection.
        wanted: how many to look at in a large one.
        deadline: seconds for which a passing failure is waited for.

    Returns:
        the documents; bytes of each, or None where the server (a lab's) can't tell.

    Raises:
        OperationFailure: it took longer than ``SAMPLE_MILLISECONDS`` (50), or the user may not read (13).
    """
    from pymongo.errors import OperationFailure

    paths = sorted({"_id", *fields})
    # A path inside another projected one is included with it, and MongoDB refuses to be told twice.
    projection: dict[str, Any] = {path: 1 for path in paths if not any(path.startswith(f"{other}.") for other in paths)}
    first = [] if documents <= LOOK_AT_ALL else [{"$sample": {"size": sample_size(documents, wanted)}}]

    def read(wanted_fields: dict[str, Any]) -> list[dict[str, Any]]:
        pipeline: list[dict[str, Any]] = [*first, {"$project": wanted_fields}]
        options: dict[str, Any] = {"allowDiskUse": True, "maxTimeMS": SAMPLE_MILLISECONDS}
        return retrying(lambda: list(collection.aggregate(pipeline, **options)), deadline=deadline)

    try:
        found = read(projection | {SIZE_FIELD: {"$bsonSize": "$$ROOT"}})
    except OperationFailure as error:
        if error.code in (MAX_TIME_EXPIRED, UNAUTHORIZED):
            raise
        return read(projection), None  # a lab's engine has no $bsonSize, MongoDB has it since 4.4
    sizes = [int(document.pop(SIZE_FIELD, -1)) for document in found]
    return found, sizes if all(size >= 0 for size in sizes) else None


def value_at(document: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, or the array that lies on it; what is missing counts as null (§4.4)."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            return value
    return value


def kind_of(value: Any) -> str:
    """Return the kind of a value in words: types that compare alike in MongoDB are one kind."""
    name = type(value).__name__
    return "object" if isinstance(value, Mapping) else _KINDS.get(name, name)


def kind_at(document: Mapping[str, Any], path: str) -> str:
    """Return the kind of value at a dotted path: ``array`` if one lies on it, ``null`` if it is missing."""
    return kind_of(value_at(document, path))


def describe(value: Any) -> str:
    """Return what a value is without showing it: values are users' data, and findings are kept as evidence.

    The hash tells whether two findings speak of the same value: the first digits of SHA-256 of it as BSON.
    """
    import bson

    if value is None:
        return "null"
    digest = hashlib.sha256(bson.encode({"": value})).hexdigest()[:HASH_DIGITS]
    return f"{kind_of(value)} #{digest}"


def rank_correlation(values: Sequence[Any]) -> float:
    """Return Spearman's correlation of values with their positions; equal values share their mean rank."""
    size = len(values)
    by_value = sorted(range(size), key=lambda each: values[each])
    ranks = [0.0] * size
    start = 0
    while start < size:
        end = start
        while end + 1 < size and values[by_value[end + 1]] == values[by_value[start]]:
            end += 1
        for each in by_value[start : end + 1]:
            ranks[each] = (start + end) / 2
        start = end + 1
    mean = (size - 1) / 2
    together = sum((rank - mean) * (position - mean) for position, rank in enumerate(ranks))
    spread = sum((rank - mean) ** 2 for rank in ranks)
    steps = sum((position - mean) ** 2 for position in range(size))
    return together / math.sqrt(spread * steps) if spread and steps else 0.0


def estimate_distinct(counts: Iterable[int], total: int) -> float:
    """Estimate how many values there are in a collection from how often each was seen in a sample of it.

    Values seen once stand for the square root of the sampling factor each, the estimator that errs least in the worst
    case (Charikar and others, 2000); never more than there are documents.

    Args:
        counts: how often each value was seen.
        total: documents in the collection; as many as were seen when the sample is all of it.
    """
    found = list(counts)
    seen, once = sum(found), sum(count == 1 for count in found)
    if seen >= total:
        return float(len(found))
    return min(float(total), math.sqrt(total / seen) * once + len(found) - once) if seen else 0.0


def poisson_bound(seen: int) -> float:
    """Return how often something seen so often may be expected, with a certainty of 99 % at least (Poisson)."""
    return seen + 3 * math.sqrt(seen + 1) + 2


def size_text(size: float) -> str:
    """Return bytes in words, with the largest unit that leaves a number of one or more."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"
