"""How big the collection may be: initial chunks, the reply that holds their bounds, the guide's threshold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.distribution import BALANCES_BYTES, MEGABYTE, chunks_by_shard
from credscale.mongo.cluster.facts import DUE_BYTES
from credscale.mongo.cluster.settings import LARGEST_CHUNK_MB
from credscale.mongo.cluster.shard_key import has_array, key_of
from credscale.mongo.documents.sampling import size_text
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.collection import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.mongo.cluster.facts import DataSize, Key
    from credscale.mongo.preflight.look import Look

MANY_CHUNKS, TOO_MANY_CHUNKS = 50_000, 200_000
# A vector of split points is one document: 16 MB, two bytes around each key; and no chunk gets more keys than this.
VECTOR_BYTES, AROUND_KEY, MOST_KEYS = 1 << 24, 2, 250_000


@check(
    35,
    "size-limit",
    command="collStats, the sample's keys, config.settings chunksize",
    reason="Above the limit the first split leaves one giant chunk, and many chunks make routing slow.",
)
def size_limit(look: Look) -> Iterator[Seen]:
    """Look how many chunks there will be, and whether sharding is due at all."""
    if not look.is_plain or not look.size.documents:
        yield no_collection(look) if not look.is_plain else Seen("unknown", "without documents there is no size")
        return
    yield judge_due(look.size.bytes)
    if look.sharded is not None:
        counts = chunks_by_shard(look.client, look.sharded, [shard.id for shard in look.shards])
        yield judge_chunks(sum(counts.values()))
        return
    splits_first = look.server.numbers < BALANCES_BYTES
    key_bytes = average_key_bytes(look.sample, look.key)
    if splits_first and key_bytes is None:
        yield Seen("unknown", "the sample has no document with a valid key, so its size is not known")
        return
    if key_bytes is None or not splits_first:
        yield judge_chunks(eventual_ranges(look.size, look.chunk_size_mb), look.chunk_size_mb)
        return
    yield judge_chunks(initial_chunks(look.size, look.chunk_size_mb), look.chunk_size_mb, at_once=True)
    yield judge_vector(look.size, look.chunk_size_mb, key_bytes)


def judge_due(size: int) -> Seen:
    """Say whether the guide's threshold for sharding is reached.

    Args:
        size: bytes of the collection, uncompressed.
    """
    if size >= DUE_BYTES:
        return Seen("ok", f"{size_text(size)}: above the 100 GB from which the guide shards")
    remedy = "consider whether sharding is due: there is no way back before 8.0"
    return Seen("note", f"{size_text(size)}; the guide shards above 100 GB", remedy)


def average_key_bytes(documents: Iterable[Mapping[str, Any]], key: Key) -> float | None:
    """Return the average size of a split point as BSON in bytes; None when no document has a valid key."""
    import bson

    sizes = [len(bson.encode(key_of(document, key))) for document in documents if not has_array(document, key)]
    return sum(sizes) / len(sizes) if sizes else None


def initial_chunks(size: DataSize, chunk_size_mb: int) -> int:
    """Return into how many chunks shardCollection splits a collection up to 6.0.2 (§1.3): half as big as configured."""
    average = max(1.0, size.bytes / size.documents)
    keys = max(1.0, min(chunk_size_mb * MEGABYTE / (2 * average), MOST_KEYS))
    return math.ceil(size.documents / keys)


def eventual_ranges(size: DataSize, chunk_size_mb: int) -> int:
    """Return into how many ranges the balancer of 6.0.3 and later may divide the collection."""
    return max(1, math.ceil(size.bytes / (chunk_size_mb * MEGABYTE)))


def judge_chunks(chunks: int, chunk_size_mb: int | None = None, *, at_once: bool = False) -> Seen:
    """Judge how many chunks there are or will be.

    Args:
        chunks: how many.
        chunk_size_mb: the size with which they are expected; None where they are there.
        at_once: whether shardCollection makes them all, as it does up to 6.0.2.
    """
    expected = f"about {chunks} chunks are expected with {chunk_size_mb} MB"
    text = f"{chunks} chunks" if chunk_size_mb is None else expected
    if chunks <= MANY_CHUNKS:
        return Seen("ok", text)
    is_stop = at_once and chunks > TOO_MANY_CHUNKS
    seen = f"{text}, more than {TOO_MANY_CHUNKS if is_stop else MANY_CHUNKS}: routers refresh slowly"
    remedy = "merge small chunks when the balancer is done"
    if chunk_size_mb is not None:
        remedy = _larger(chunk_size_mb, chunk_size_mb * chunks / MANY_CHUNKS, at_once=at_once)
    return Seen("stop" if is_stop else "warn", seen, remedy)


def judge_vector(size: DataSize, chunk_size_mb: int, key_bytes: float) -> Seen:
    """Judge whether the split points of the first split fit one reply of 16 MB (§1.3).

    Args:
        size: of the collection.
        chunk_size_mb: the configured size.
        key_bytes: average size of a split point.
    """
    most = VECTOR_BYTES / (key_bytes + AROUND_KEY) * chunk_size_mb * MEGABYTE / 2
    points = initial_chunks(size, chunk_size_mb) - 1
    told = f"the largest collection with keys of {key_bytes:.0f} B and {chunk_size_mb} MB has {size_text(most)}"
    if points * (key_bytes + AROUND_KEY) <= VECTOR_BYTES and size.bytes <= most:
        return Seen("ok", told)
    seen = f"{told}, this one has {size_text(size.bytes)}: what does not fit becomes one giant chunk"
    # Points times chunk size stay the same, so this much larger chunks give a vector and a size that fit.
    factor = max(points * (key_bytes + AROUND_KEY) / VECTOR_BYTES, size.bytes / most)
    return Seen("stop", seen, _larger(chunk_size_mb, chunk_size_mb * factor, at_once=True))


def _larger(chunk_size_mb: int, fitting: float, *, at_once: bool) -> str:
    """Return what to do where chunks are too small: the size that fits, or that none does.

    Args:
        chunk_size_mb: the size that is too small.
        fitting: the one that would do, in MB.
        at_once: whether shardCollection makes all chunks at first, which 6.0.3 and later does not.
    """
    if chunk_size_mb >= LARGEST_CHUNK_MB:
        otherwise = (
            "upgrade to 6.0.3 or later, or archive a part of the data" if at_once else "archive a part of the data"
        )
        return f"no chunk size helps, {LARGEST_CHUNK_MB} MB is the largest: {otherwise}"
    wanted = 2 ** math.ceil(math.log2(fitting))
    if wanted <= LARGEST_CHUNK_MB:
        return f"run with --chunk-size-mb {wanted}"
    return f"run with --chunk-size-mb {LARGEST_CHUNK_MB}, the largest; {fitting:.0f} would be needed"
