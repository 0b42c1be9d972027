"""Users' writes by document, in a temporary file: a day of writes does not fit into memory."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Self

import bson
from bson import Timestamp

from credscale.mongo.documents.digest import DocumentId, id_value
from credscale.mongo.documents.effects import Effect, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from credscale.mongo.documents.oplog import Operation

BATCH = 10_000
_Row = tuple[bytes, int, str, int, str, bytes]


@dataclass(frozen=True)
class Outcome:
    """What happened to one document.

    Args:
        id: the document.
        first: the first operation, ``first_ts`` its time.
        last_ts: the time of the last one.
        kinds: every operation's letter.
        state: what the last one leaves.
    """

    id: DocumentId
    first: str
    first_ts: Timestamp
    last_ts: Timestamp
    kinds: frozenset[str]
    state: State

    def did(self, ops: str) -> bool:
        """Return whether somebody did one of these operations on it."""
        return not self.kinds.isdisjoint(ops)


class Histories:
    """Operations in the order of documents and times; SQLite keeps them in a private file that is gone when closed.

    The file is in the folder for temporary files that SQLITE_TMPDIR or TMPDIR name, readable by this user alone. It
    takes about 150 bytes for an operation.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        # An empty name is SQLite's temporary database: in its cache while that suffices, in an unlinked file then.
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back, and nobody else reads it
        self._file.execute(
            "CREATE TABLE writes (id BLOB, ts INTEGER, shard TEXT, number INTEGER, op TEXT, effect BLOB, "
            "PRIMARY KEY (id, ts, shard, number)) WITHOUT ROWID"
        )
        rows = (_row(number, item) for number, item in enumerate(operations))
        while batch := list(islice(rows, BATCH)):
            self._file.execute("BEGIN")
            self._file.executemany("INSERT INTO writes VALUES (?, ?, ?, ?, ?, ?)", batch)
            self._file.execute("COMMIT")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the file."""
        self._file.close()

    def outcomes(self) -> Iterator[Outcome]:
        """Give what happened to each document, in the order of the ids' keys."""
        for key, rows in groupby(self._rows(), key=lambda row: row[0]):
            kinds, state, first, first_ts, ts = set[str](), State(exists=True), "", 0, 0
            for ts, op, effect in _ordered(rows):
                if not first:
                    first, first_ts = op, ts
                kinds.add(op)
                state = state.then(op, effect)
            yield Outcome(DocumentId(key, id_value(key)), first, _time(first_ts), _time(ts), frozenset(kinds), state)

    def states(self, item: DocumentId, since: Timestamp) -> Iterator[State]:
        """Give every state that a written document had from a time on: the one at that time, and after each write."""
        state, wanted = State(exists=True), _number(since)
        current = False
        for ts, op, effect in _ordered(self._rows("WHERE id = ?", item.key)):
            if ts > wanted:
                yield state
            state, current = state.then(op, effect), True
        if current:
            yield state

    def _rows(self, where: str = "", *values: Any) -> Iterator[_Row]:
        return self._file.execute(f"SELECT * FROM writes {where} ORDER BY id, ts, shard, number", values)  # noqa: S608 - fixed text


def _ordered(rows: Iterable[_Row]) -> Iterator[tuple[int, str, Effect]]:
    """Give a document's operations in their order.

    At one time a transaction can delete a document on one shard and insert it on another, which is a move: so the shard
    that ends with a deletion comes first.
    """
    for ts, together in groupby(rows, key=lambda row: row[1]):
        shards = [list(part) for _, part in groupby(together, key=lambda row: row[2])]
        for part in sorted(shards, key=lambda part: part[-1][4] != "d"):
            for row in part:
                yield ts, row[4], _unpacked(row[5])


def _row(number: int, item: Operation) -> _Row:
    return item.id.key, _number(item.ts), item.shard, number, item.op, _packed(item.effect)


def _packed(effect: Effect) -> bytes:
    return bson.encode({"w": effect.whole, "f": [[*path, value] for path, value in effect.fields]})


def _unpacked(data: bytes) -> Effect:
    found = bson.decode(data)
    return Effect(found["w"], tuple((tuple(each[:-1]), each[-1]) for each in found["f"]))


def _number(ts: Timestamp) -> int:
    # SQLite's integers are signed: the seconds have 32 bits until 2106.
    return (ts.time << 32) + ts.inc - (1 << 63)


def _time(number: int) -> Timestamp:
    whole = number + (1 << 63)
    return Timestamp(whole >> 32, whole & 0xFFFFFFFF)
