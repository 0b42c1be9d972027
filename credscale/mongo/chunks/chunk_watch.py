"""Follow a collection's chunk counts: all of them counted once, then only what has changed (reference §3.3).

Counting reads the keys of one index on the config servers and returns a row per shard; a look afterwards returns a
document per chunk that changed. Neither brings the chunks themselves here, so memory stays flat whatever their number.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from credscale.mongo.chunks.chunk_counts import ChunkCounts, Version, pair, parse_changed
from credscale.mongo.chunks.distribution import chunks_by_shard
from credscale.mongo.cluster.commands import config_collection, retrying, run
from credscale.mongo.cluster.facts import parse_sharded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.facts import ShardedCollection

T = TypeVar("T")
MOST_CHANGES = 2000  # beyond these a full count is cheaper
COUNT_ATTEMPTS = 5
COUNT_PAUSE = 10.0  # between two full counts, in multiples of what one takes; autosplit can ask for one at every look
LONGEST_PAUSE = 30.0  # seconds between them in any case: a count also takes as long as mongos was away during it
NOTHING: Version = (0, 0)


@dataclass(frozen=True)
class Tracked:
    """A sharded collection.

    Args:
        sharded: its facts.
        identity: what changes when its chunks start anew: drop, refine, reshard.
    """

    sharded: ShardedCollection
    identity: tuple[str, ...]


def tracked(client: Client, namespace: str) -> Tracked | None:
    """Read how a collection is sharded; None when it is not."""
    return parse_tracked(retrying(lambda: config_collection(client, "collections").find_one({"_id": namespace})))


def parse_tracked(document: Mapping[str, Any] | None) -> Tracked | None:
    """Understand a document of config.collections."""
    sharded = parse_sharded(document)
    if sharded is None or document is None:
        return None
    identity = tuple(str(document.get(name, "")) for name in ("uuid", "lastmodEpoch", "timestamp"))
    return Tracked(sharded, identity)


class ChunkWatch:
    """Keep the chunk counts of one collection.

    Args:
        client: a connection to mongos.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._identity: tuple[str, ...] = ()
        self._counts: ChunkCounts | None = None
        self._others = 0
        self._due = 0.0
        self.recounts = 0  # how often all chunks were counted, which tests and the benchmark look at

    def look(self, found: Tracked, shards: Iterable[str]) -> dict[str, int]:
        """Return the chunks of each shard now.

        Args:
            found: the collection, read for this look.
            shards: the registered shards; each is named in the result.
        """
        names = tuple(shards)
        known = self._counts if found.identity == self._identity else None
        counts = self._apply_changes(known, found) if known is not None else None
        if counts is None and (known is None or time.monotonic() >= self._due):
            return self.recount(found, names)
        if counts is not None:
            self._counts = known = counts
        # Until the next full count is due, what was known last: the version stays, so no change is passed over.
        return dict.fromkeys(names, 0) | dict(known.by_shard if known is not None else {})

    def recount(self, found: Tracked, shards: Iterable[str]) -> dict[str, int]:
        """Count all chunks: what proves that a collection is balanced is never derived."""
        names, started = tuple(shards), time.monotonic()
        self._identity, self._counts, stable = found.identity, None, False
        for _ in range(COUNT_ATTEMPTS):
            clock, (before, polled) = self._clock(), self._newest(found.sharded)
            by_shard = chunks_by_shard(self._client, found.sharded, names)
            stable = self._newest(found.sharded)[0] == before
            self.recounts += 1
            if stable:
                self._others = self._all_chunks() - sum(by_shard.values())
                self._counts = ChunkCounts(by_shard, before, clock, polled)
                break
        ended = time.monotonic()
        self._due = ended + min(LONGEST_PAUSE, COUNT_PAUSE * (ended - started))
        # Not stable: chunks changed during each count, so the next look counts again.
        return by_shard

    def _apply_changes(self, counts: ChunkCounts, found: Tracked) -> ChunkCounts | None:
        from bson import Timestamp

        newer = {**found.sharded.selector, "lastmod": {"$gt": Timestamp(*counts.version)}}
        documents, polled = self._read(newer, 1, MOST_CHANGES + 1)
        if len(documents) > MOST_CHANGES:
            return None
        everything = self._all_chunks()
        if not documents:  # whatever came or went is another collection's
            self._others = everything - counts.total
        return counts.apply(parse_changed(documents), everything - self._others, polled)

    def _newest(self, sharded: ShardedCollection) -> tuple[Version, Version | None]:
        documents, polled = self._read(sharded.selector, -1, 1)
        return (pair(documents[0]["lastmod"]) if documents else NOTHING), polled

    def _read(self, query: dict[str, Any], order: int, limit: int) -> tuple[list[dict[str, Any]], Version | None]:
        """Read by version, on its index, and the cluster time of the reply."""
        fields = {"lastmod": 1, "shard": 1, "history": 1}
        chunks = config_collection(self._client, "chunks")
        with self._client.start_session(causal_consistency=False) as session:
            documents = retrying(
                lambda: list(chunks.find(query, fields, session=session).sort("lastmod", order).limit(limit))
            )
            stamp = session.operation_time
        return documents, pair(stamp) if stamp is not None else None

    def _all_chunks(self) -> int:
        """Return the number of all collections' chunks, which the server keeps and does not count."""
        return int(run(self._client, "config", {"count": "chunks"})["n"])

    def _clock(self) -> datetime | None:
        moment = run(self._client, "admin", {"hello": 1}).get("localTime")
        return with_zone(moment) if moment is not None else None


def with_zone(moment: datetime) -> datetime:
    """Return a time read from a reply, which is UTC without saying so unless the driver is told otherwise."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class Paced(Generic[T]):
    """Keep a value that is costly to read, and read it again only after so many times as long as reading it took.

    Args:
        share: that multiple.
        least: seconds in which it is not read again in any case.
    """

    def __init__(self, share: float = 10.0, least: float = 0.0) -> None:
        self._share, self.least = share, least
        self._due = 0.0
        self._value: list[T] = []

    def get(self, read: Callable[[], T], *, fresh: bool = False) -> T:
        """Return the kept value, or a new one when it is due.

        Args:
            read: reads the value; called with nothing.
            fresh: read it now in any case.
        """
        started = time.monotonic()
        if fresh or not self._value or started >= self._due:
            self._value = [read()]
            ended = time.monotonic()
            self._due = ended + max(self.least, self._share * (ended - started))
        return self._value[0]
