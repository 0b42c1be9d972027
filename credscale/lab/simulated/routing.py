"""Which shard owns what: the routing table of one sharded collection, and the lock that guards its changes."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bson import Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from credscale.mongo.cluster.shard_key import ShardKey, hash_value, key_of, sort_key

Document = dict[str, Any]
Position = tuple[tuple[Any, ...], ...]


def position(bound: Mapping[str, Any]) -> Position:
    """Return a chunk bound as a tuple that compares in MongoDB's order."""
    return tuple(sort_key(value) for value in bound.values())


@dataclass(frozen=True)
class Chunk:
    """One chunk, as config.chunks has it."""

    identity: ObjectId
    low: Document
    high: Document
    shard: str
    lastmod: Timestamp
    jumbo: bool

    @cached_property
    def span(self) -> tuple[Position, Position]:
        """The bounds in comparable form."""
        return position(self.low), position(self.high)


@dataclass(frozen=True)
class RoutingTable:
    """The chunks of one collection, in key order."""

    ns: str
    uuid: Any
    epoch: ObjectId
    key: ShardKey
    chunks: tuple[Chunk, ...]

    @cached_property
    def _lows(self) -> list[Position]:
        return [chunk.span[0] for chunk in self.chunks]

    @cached_property
    def shards(self) -> list[str]:
        """The shards that own at least one chunk."""
        return sorted({chunk.shard for chunk in self.chunks})

    @property
    def major(self) -> int:
        """The highest major version of any chunk."""
        return max(chunk.lastmod.time for chunk in self.chunks)

    def position_of(self, document: Mapping[str, Any]) -> Position | None:
        """Return where a document stands in the key order; None when an array leaves it no place."""
        try:
            return position(key_of(document, self.key))
        except ValueError:
            return None

    def chunk_at(self, place: Position) -> Chunk:
        """Return the chunk that holds a place."""
        # Nothing sorts below MinKey, but a key value of MaxKey itself belongs to the last chunk.
        return self.chunks[max(0, bisect_right(self._lows, place) - 1)]

    def owner(self, place: Position | None) -> str | None:
        """Return the shard that owns a place."""
        return None if place is None else self.chunk_at(place).shard

    def exact_key(self, query: Mapping[str, Any]) -> Document | None:
        """Return the full shard key that a query fixes by equality, or None."""
        fixed = equalities(query)
        if any(field not in fixed for field in self.key):
            return None
        return self._bound(fixed, list(self.key))

    def targets(self, query: Mapping[str, Any]) -> list[str]:
        """Return the shards that may own documents matching a query."""
        fixed = equalities(query)
        prefix: list[str] = []
        for field in self.key:
            if field not in fixed:
                break
            prefix.append(field)
        if not prefix:
            return self.shards
        head = position(self._bound(fixed, prefix))
        rest = len(self.key) - len(prefix)
        first = max(0, bisect_right(self._lows, head + (sort_key(MinKey()),) * rest) - 1)
        last = bisect_right(self._lows, head + (sort_key(MaxKey()),) * rest)
        return sorted({chunk.shard for chunk in self.chunks[first:last]})

    def _bound(self, fixed: Document, fields: list[str]) -> Document:
        """Return the given key values as chunk bounds have them."""
        values = ((field, fixed[field], self.key[field]) for field in fields)
        return {field: Int64(hash_value(value)) if kind == "hashed" else value for field, value, kind in values}

    def chunk_between(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> Chunk | None:
        """Return the chunk with exactly these bounds."""
        index = bisect_left(self._lows, position(low))
        if index < len(self.chunks) and self.chunks[index].span == (position(low), position(high)):
            return self.chunks[index]
        return None


def equalities(query: Mapping[str, Any]) -> Document:
    """Return the fields that a query fixes to one value."""
    fixed: Document = {}
    for field, condition in query.items():
        if field == "$and":
            for part in condition:
                fixed |= equalities(part)
        elif not field.startswith("$"):
            if isinstance(condition, Mapping) and next(iter(condition), "").startswith("$"):
                if "$eq" not in condition:
                    continue
                condition = condition["$eq"]
            if not isinstance(condition, list | Regex):
                fixed[field] = condition
    return fixed


class SharedLock:
    """Many users or one changer; a changer that waits goes before users that come later."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._users = 0
        self._waiting = 0
        self._changing = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use what the lock guards."""
        with self._condition:
            self._condition.wait_for(lambda: not self._changing and not self._waiting)
            self._users += 1
        try:
            yield
        finally:
            with self._condition:
                self._users -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Change what the lock guards, alone."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._changing and not self._users)
                self._changing = True
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._changing = False
                self._condition.notify_all()
