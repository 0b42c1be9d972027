"""Cursors of the simulated mongos: results held here, and cursors held open on a shard."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import bson
from bson import Int64
from bson.raw_bson import RawBSONDocument

from credscale.lab.simulated.replies import CommandFailed, Document, long
from credscale.lab.simulated.wire import RAW

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.lab.simulated.backends import Backend

_FIRST_BATCH = 101
_BATCH_BYTES = 16_000_000
_IDLE_SECONDS = 600.0


@dataclass
class Cursor:
    """What a client has still to fetch: documents held here, or a cursor on a backend."""

    ns: str
    rest: list[RawBSONDocument] = field(default_factory=list)
    position: int = 0
    backend: Backend | None = None
    remote: int = 0
    used: float = field(default_factory=time.monotonic)

    def batch(self, size: int | None) -> list[RawBSONDocument]:
        """Return the next documents, as many as asked for and as fit in a message."""
        start, filled = self.position, 0
        while self.position < len(self.rest) and (size is None or self.position - start < size):
            filled += len(self.rest[self.position].raw)
            if filled > _BATCH_BYTES and self.position > start:
                break
            self.position += 1
        return self.rest[start : self.position]


class Cursors:
    """All open cursors, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Cursor] = {}
        self._last = int(time.time()) << 20

    def _keep(self, cursor: Cursor) -> Int64:
        """Give a cursor a number; forget those left alone for long."""
        with self._lock:
            oldest = time.monotonic() - _IDLE_SECONDS
            self._open = {number: each for number, each in self._open.items() if each.used > oldest}
            self._last += 1
            self._open[self._last] = cursor
            return Int64(self._last)

    def reply(self, ns: str, documents: Iterable[Any], request: Mapping[str, Any]) -> Document:
        """Answer a find or an aggregate with its first batch."""
        options = request.get("cursor", request)
        rest = [each if isinstance(each, RawBSONDocument) else _raw(each) for each in documents]
        cursor = Cursor(ns, rest)
        first = cursor.batch(int(options.get("batchSize", _FIRST_BATCH)))
        finished = cursor.position == len(cursor.rest) or request.get("singleBatch")
        number = long(0) if finished else self._keep(cursor)
        return {"cursor": {"firstBatch": first, "id": number, "ns": ns}, "ok": 1.0}

    def adopt(self, backend: Backend, reply: Mapping[str, Any]) -> Document:
        """Give a backend's open cursor a number of our own; its documents stay raw."""
        answer = dict(reply.items())
        cursor = dict(answer["cursor"].items())
        if cursor["id"]:
            cursor["id"] = self._keep(Cursor(cursor["ns"], backend=backend, remote=cursor["id"]))
        return {**answer, "cursor": cursor}

    def more(self, request: Mapping[str, Any]) -> Document:
        """Answer a getMore."""
        number = int(request["getMore"])
        with self._lock:
            cursor = self._open.get(number)
        if cursor is None:
            raise CommandFailed(43, f"cursor id {number} not found")
        cursor.used = time.monotonic()
        if cursor.backend is not None:
            return self._remote_more(number, cursor, request)
        size = request.get("batchSize")
        batch = cursor.batch(int(size) if size else None)
        finished = cursor.position == len(cursor.rest)
        if finished:
            self._forget(number)
        return {"cursor": {"nextBatch": batch, "id": long(0 if finished else number), "ns": cursor.ns}, "ok": 1.0}

    def _remote_more(self, number: int, cursor: Cursor, request: Mapping[str, Any]) -> Document:
        """Fetch the next batch from the backend that holds the cursor."""
        backend = cursor.backend
        if backend is None:
            raise CommandFailed(43, f"cursor id {number} not found")
        answer = backend.demand(str(request["$db"]), {**request, "getMore": Int64(cursor.remote)}, raw=True)
        batch = dict(answer["cursor"].items())
        if not batch["id"]:
            self._forget(number)
        return {**dict(answer.items()), "cursor": {**batch, "id": long(number if batch["id"] else 0)}}

    def kill(self, numbers: Iterable[int]) -> tuple[list[Int64], list[Int64]]:
        """Close cursors; return those that were open and those that were not."""
        killed: list[Int64] = []
        unknown: list[Int64] = []
        for number in numbers:
            (killed if self._forget(int(number)) else unknown).append(Int64(number))
        return killed, unknown

    def _forget(self, number: int) -> bool:
        """Drop a cursor."""
        with self._lock:
            return self._open.pop(number, None) is not None


def _raw(document: Mapping[str, Any]) -> RawBSONDocument:
    """Encode a document, so that every cursor holds bytes."""
    return RawBSONDocument(bson.encode(document), RAW)
