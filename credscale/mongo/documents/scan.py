"""One pass over a whole collection as raw BSON, going on where it was when a cursor dies.

One long cursor in `_id` order, not a query per page: a page per query asks each shard anew, and ``{_id: {$gt: last}}``
compares only within one BSON type, so it silently ends at the last number when strings follow. A lost cursor is
therefore reopened with ``min()`` on the `_id` index, which runs through all types.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed
from credscale.mongo.cluster.commands import CURSOR_LOST, is_passing
from credscale.mongo.cluster.failures import advised
from credscale.mongo.documents.digest import id_key, id_value
from credscale.mongo.documents.raw import RAW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

RETRIES = 8
LONGEST_PAUSE = 15.0


def scan_raw(
    collection: Collection[Any],
    *,
    batch_size: int = 0,
    start_after: Any = None,
    only_ids: bool = False,
    session: ClientSession | None = None,
    retries: int = RETRIES,
    timeout: float = 7 * 86_400.0,
) -> Iterator[bytes]:
    """Stream the raw documents of a collection in `_id` order.

    Reads with majority concern, so nothing is seen that a failover could take back. One server batch is in memory. With
    a causally consistent session every shard shows at least the state that the session has seen, and with a snapshot
    session every cursor, a reopened one too, sees the moment of the snapshot.

    Args:
        collection: the collection, through mongos or a replica set.
        batch_size: documents a batch; 0 leaves it to the server, which fills 16 MB.
        start_after: an `_id` after which to begin; None begins at the first. An `_id` that is null can't be given.
        only_ids: give documents that hold nothing but their `_id`.
        session: the session to read in; None lets the driver make one for each cursor.
        retries: how often in a row the cursor may be lost without a document in between.
        timeout: seconds after which a lost cursor is no longer reopened.

    Raises:
        ConnectFailed: the cursor was lost too often or too late; says how far the scan came.
    """
    deadline = time.monotonic() + timeout
    position = _Position.after(start_after)
    failures, done = 0, -1
    while True:
        try:
            yield from _read_on(collection, position, batch_size, only_ids, session)
        except _driver_errors() as error:
            failures, done = failures + 1 if position.documents == done else 1, position.documents
            if not is_passing(error, CURSOR_LOST):
                advised(error)
                raise
            if failures > retries or time.monotonic() >= deadline:
                raise ConnectFailed(_lost(collection, position, failures, error)) from error
        else:
            return
        time.sleep(pause_after(failures))


def pause_after(failures: int) -> float:
    """Return how long to wait before a cursor that was lost so often in a row is opened again."""
    return min(LONGEST_PAUSE, 0.25 * 2.0**failures)


def _read_on(
    collection: Collection[Any], position: _Position, batch_size: int, only_ids: bool, session: ClientSession | None
) -> Iterator[bytes]:
    """Read with one cursor from the position on, and move the position."""
    with _open(collection, position, batch_size, only_ids, session) as cursor:
        for document in cursor:
            if position.advance(document.raw):
                yield document.raw


class _Position:
    """How far a scan is, in a form that survives its cursor."""

    def __init__(self) -> None:
        self.key: bytes | None = None  # the `_id` last given out
        self.copies: float = 0  # how many documents with it: two shards can hold the same `_id`
        self.documents = 0
        self._skip: float = 0

    @classmethod
    def after(cls, value: Any) -> _Position:
        position = cls()
        if value is not None:
            from bson import encode

            position.key, position.copies = id_key(encode({"_id": value})), float("inf")
        return position

    def reopen(self) -> None:
        """Skip again what was given out of the `_id` at which the new cursor begins."""
        self._skip = self.copies

    def advance(self, raw: bytes) -> bool:
        """Return whether this document is new, and count it."""
        key = id_key(raw)
        if key == self.key:
            if self._skip > 0:
                self._skip -= 1
                return False
            self.copies += 1
        else:
            self.key, self.copies, self._skip = key, 1, 0
        self.documents += 1
        return True


def _open(
    collection: Collection[Any], position: _Position, batch_size: int, only_ids: bool, session: ClientSession | None
) -> Cursor[Any]:
    from pymongo.read_concern import ReadConcern

    raw = collection.with_options(codec_options=RAW, read_concern=ReadConcern("majority"))
    projection = {"_id": 1} if only_ids else None
    cursor = raw.find(projection=projection, session=session, batch_size=batch_size).sort("_id", 1).hint("_id_")
    position.reopen()
    return cursor if position.key is None else cursor.min([("_id", id_value(position.key))])


def _driver_errors() -> tuple[type[Exception], ...]:
    from pymongo.errors import ConnectionFailure, OperationFailure

    return (ConnectionFailure, OperationFailure)


def _lost(collection: Collection[Any], position: _Position, failures: int, error: Exception) -> str:
    return (
        f"Reading {collection.full_name} broke off after {position.documents} documents: the cursor was lost "
        f"{failures} times in a row, last with {type(error).__name__}. Nothing was changed. "
        "Check that the target answers, then run the step again."
    )
