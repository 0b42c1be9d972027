"""What writers did, from the shards' own oplogs, to tell it from what a migration lost.

A migration marks its own entries ``fromMigrate``; every other entry on a namespace is a user's. A transaction is one
or several ``applyOps`` commands. Three of its forms are not what they seem when read one entry at a time: an entry with
``prepare`` counts only once a ``commitTransaction`` follows (its time is the commit's), one with ``partialTxn`` only
once the last entry of its transaction is written, and both can have begun before the time asked for. So operations are
given out at the entry that makes them real, and its chain of ``prevOpTime`` is followed back from there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.read_concern import ReadConcern

from credscale.core.errors import ConnectFailed, VerificationFailed
from credscale.mongo.commands import CURSOR_LOST, is_passing, retrying
from credscale.mongo.digest import Difference, DocumentId, document_id
from credscale.mongo.failures import advised
from credscale.mongo.scan import RETRIES, pause_after

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from pymongo import MongoClient
    from pymongo.collection import Collection as MongoCollection

_NO_TIME = Timestamp(0, 0)


@dataclass(frozen=True)
class Operation:
    """One document written by a user.

    Args:
        id: the document.
        op: "i" insert, "u" update or replace, "d" delete.
        ts: when it became visible: the entry's time, or the commit's of a prepared transaction.
        shard: on which shard.
    """

    id: DocumentId
    op: str
    ts: Timestamp
    shard: str


def covers(client: MongoClient[Any], since: Timestamp) -> bool:
    """Return whether a member's oplog still reaches back to a time; an oplog that is empty or gone does not."""
    first = _oplog(client).find_one({}, sort=[("$natural", 1)])
    return first is not None and bool(first["ts"] <= since)


def user_operations(
    connect: Callable[[], MongoClient[Any]],
    shard: str,
    namespace: str,
    since: Timestamp,
    ids: Collection[DocumentId] | None = None,
) -> Iterator[Operation]:
    """Read what users wrote to a collection on one shard, oldest first.

    Operations of one transaction have one time and come in their order within it. A lost cursor is opened again after
    the last entry, on whichever member then answers: at majority all have the same.

    Args:
        connect: returns a connection to a member of the shard, not to mongos, on which a reply may take hours:
            nothing is sent while the server looks through entries that are not wanted.
        shard: the shard's name, for the operations.
        namespace: ``database.collection``.
        since: the first time wanted.
        ids: only these documents; None gives all.

    Raises:
        VerificationFailed: a transaction began before the oplog's first entry, or the entries after a lost cursor are
            gone.
        ConnectFailed: the cursor was lost too often in a row.
    """
    for oplog, entry in _entries(connect, shard, namespace, since):
        ts, operations = _made_real(oplog, entry, shard)
        for operation in operations:
            if operation["ns"] != namespace or operation["op"] not in ("i", "u", "d"):
                continue
            # `o` of an update is the change; which document it is stands in `o2`.
            item = document_id(operation["o2" if operation["op"] == "u" else "o"].raw)
            if ids is None or item in ids:
                yield Operation(item, operation["op"], ts, shard)


def _entries(
    connect: Callable[[], MongoClient[Any]], shard: str, namespace: str, since: Timestamp
) -> Iterator[tuple[MongoCollection[Any], Mapping[str, Any]]]:
    """Give the entries that may hold operations on a collection, each with the oplog that it was read from."""
    from pymongo.errors import ConnectionFailure, OperationFailure

    last, failed_at, failures = _NO_TIME, _NO_TIME, 0
    while True:
        try:
            client = connect()
            oplog = _oplog(client)
            if last > _NO_TIME and not covers(client, last):
                raise _rolled_over(shard, last)
            for entry in oplog.find(_wanted(namespace, {"$gt": last} if last > _NO_TIME else {"$gte": since})):
                last = entry["ts"]
                yield oplog, entry
        except (ConnectionFailure, OperationFailure) as error:
            failures, failed_at = failures + 1 if last == failed_at else 1, last
            if not is_passing(error, CURSOR_LOST):
                advised(error)
                raise
            if failures > RETRIES:
                raise ConnectFailed(
                    f"Reading the oplog of {shard} broke off at {last}: the cursor was lost {failures} times in a row, "
                    f"last with {type(error).__name__}. Nothing was changed. Check its members, then run the step again"
                ) from error
        else:
            return
        time.sleep(pause_after(failures))


def _wanted(namespace: str, times: Mapping[str, Timestamp]) -> dict[str, Any]:
    return {
        "ts": times,
        "fromMigrate": {"$ne": True},
        "$or": [
            {"op": {"$in": ["i", "u", "d"]}, "ns": namespace},
            {"op": "c", "o.applyOps": {"$exists": True}},
            {"op": "c", "o.commitTransaction": {"$exists": True}},
        ],
    }


def _rolled_over(shard: str, last: Timestamp) -> VerificationFailed:
    return VerificationFailed(
        f"The oplog of {shard} was read up to {last}, and after a lost connection no longer reaches back to there. "
        "Differences can't be explained; compare while nobody writes."
    )


def _made_real(
    oplog: MongoCollection[Any], entry: Mapping[str, Any], shard: str
) -> tuple[Timestamp, Iterable[Mapping[str, Any]]]:
    """Return the operations that an entry makes real, and when they became visible."""
    content = entry["o"]
    if entry["op"] != "c":
        return entry["ts"], [entry]
    if "commitTransaction" in content:
        return content.get("commitTimestamp", entry["ts"]), _transaction(oplog, entry, shard)
    if content.get("prepare") or content.get("partialTxn"):
        return entry["ts"], []
    return entry["ts"], _transaction(oplog, entry, shard)


@dataclass(frozen=True)
class Concurrent:
    """The differences that users' own writes explain."""

    inserted: tuple[DocumentId, ...] = ()
    updated: tuple[DocumentId, ...] = ()
    deleted: tuple[DocumentId, ...] = ()


@dataclass(frozen=True)
class Explained:
    """A difference, divided into what users did and what nobody did.

    Args:
        concurrent: users did it.
        lost: in the baseline, gone now, and nobody deleted them.
        unexpected_added: not in the baseline, here now, and nobody inserted them, or they were deleted.
        unexpected_changed: other content, and nobody wrote them.
        duplicated: in more copies than before.
        lost_inserts: written since the baseline, gone now, and nobody deleted them. No difference shows these.
        lost_deletes: deleted since the baseline and here all the same.
    """

    concurrent: Concurrent = field(default_factory=Concurrent)
    lost: tuple[DocumentId, ...] = ()
    unexpected_added: tuple[DocumentId, ...] = ()
    unexpected_changed: tuple[DocumentId, ...] = ()
    duplicated: tuple[DocumentId, ...] = ()
    lost_inserts: tuple[DocumentId, ...] = ()
    lost_deletes: tuple[DocumentId, ...] = ()

    @property
    def clean(self) -> bool:
        """Return whether users' writes explain everything."""
        return not (
            self.lost
            or self.unexpected_added
            or self.unexpected_changed
            or self.duplicated
            or self.lost_inserts
            or self.lost_deletes
        )


def explain(
    difference: Difference,
    operations: Iterable[Operation],
    present: Callable[[set[DocumentId]], set[DocumentId]],
    complete: Timestamp | None = None,
) -> Explained:
    """Divide a difference into users' writes and the rest.

    Invariant: an id of the difference is explained only by an operation on that very id. One that the last operation
    deleted is never explained as being here now, nor one that it wrote as being gone.

    A scan is no point in time: a document deleted after the scan passed it, or inserted again, contradicts its last
    operation. Such an id is looked up as it is now, and so is every written one of the difference. Writers go on
    between reading the oplogs and looking, so before believing a finding read the operations again and call this once
    more: what is truly lost stays lost.

    Args:
        difference: baseline against the present.
        operations: of all shards since the baseline began, each shard's in its order.
        present: given ids, returns those that exist now, read at majority.
        complete: a time at which the baseline was complete, so that a document first written later was in it exactly
            if that write was no insert; None where no such time is known, and then every written id is looked up.
    """
    replay = _Replay(operations)
    resurrected, vanished = _contradictions(replay, difference, present, complete)
    deleted = [item for item in difference.missing if replay.did(item, "d") and item not in vanished]
    inserted = [item for item in difference.added if replay.did(item, "iu") and item not in resurrected]
    updated = [item for item in difference.changed if replay.did(item, "iu") and item not in resurrected]
    # Changing a shard key value moves a document by a delete and an insert; a scan can meet it on both shards.
    moved = [item for item in difference.duplicated if replay.did(item, "d") and replay.did(item, "i")]
    return Explained(
        concurrent=Concurrent(tuple(inserted), tuple(dict.fromkeys([*updated, *moved])), tuple(deleted)),
        lost=_without(difference.missing, deleted),
        unexpected_added=_without(difference.added, inserted),
        unexpected_changed=_without(difference.changed, updated),
        duplicated=_without(difference.duplicated, moved),
        lost_inserts=_without(sorted(vanished, key=_key), difference.missing),
        lost_deletes=_without(sorted(resurrected, key=_key), [*difference.added, *difference.changed]),
    )


def _contradictions(
    replay: _Replay,
    difference: Difference,
    present: Callable[[set[DocumentId]], set[DocumentId]],
    complete: Timestamp | None,
) -> tuple[set[DocumentId], set[DocumentId]]:
    """Return the ids that are here though deleted last, and those that are gone though written last."""
    alive, dead = replay.outcome()
    doubtful = _doubtful(replay, difference, alive, complete)
    here = present(doubtful) if doubtful else set()
    return dead & here, (alive & doubtful) - here


def _doubtful(
    replay: _Replay, difference: Difference, alive: set[DocumentId], complete: Timestamp | None
) -> set[DocumentId]:
    """Return the written ids that have to be looked up: those of the difference, and those the scan saw otherwise."""
    differing = {*difference.missing, *difference.added, *difference.changed, *difference.duplicated}
    doubtful = set()
    for item, (ts, op) in replay.first.items():
        # What is not in the difference was seen by the scan exactly if it was in the baseline.
        seen = op != "i"
        if item in differing or complete is None or ts <= complete or seen != (item in alive):
            doubtful.add(item)
    return doubtful


class _Replay:
    """What happened to each document, what happened first and what last."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._kinds: dict[DocumentId, set[str]] = defaultdict(set)
        self.first: dict[DocumentId, tuple[Timestamp, str]] = {}
        # At one time a transaction can delete a document on one shard and insert it on another, which is a move; the
        # order of the two is unknown. So the last time is kept with each shard's last operation in it.
        self._last: dict[DocumentId, tuple[Timestamp, dict[str, str]]] = {}
        for item in operations:
            self._kinds[item.id].add(item.op)
            # At one time a move between shards is a delete and an insert: then the document was there before.
            first = self.first.get(item.id)
            if first is None or item.ts < first[0] or (item.ts == first[0] and item.op != "i"):
                self.first[item.id] = (item.ts, item.op)
            ts, by_shard = self._last.get(item.id, (_NO_TIME, {}))
            if item.ts > ts:
                self._last[item.id] = (item.ts, {item.shard: item.op})
            elif item.ts == ts:
                by_shard[item.shard] = item.op

    def did(self, item: DocumentId, ops: str) -> bool:
        """Return whether somebody did one of these operations on a document."""
        return not self._kinds.get(item, set()).isdisjoint(ops)

    def outcome(self) -> tuple[set[DocumentId], set[DocumentId]]:
        """Return the ids that the last operation leaves, and those that it deletes."""
        alive = {item for item, (_, by_shard) in self._last.items() if set(by_shard.values()) != {"d"}}
        return alive, self._last.keys() - alive


def _without(items: Iterable[DocumentId], explained: Iterable[DocumentId]) -> tuple[DocumentId, ...]:
    known = set(explained)
    return tuple(item for item in items if item not in known)


def _key(item: DocumentId) -> bytes:
    return item.key


def _oplog(client: MongoClient[Any]) -> MongoCollection[Any]:
    codec: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
    # At majority: an entry that a failover rolls back would explain what never happened.
    return client.get_database("local", codec_options=codec, read_concern=ReadConcern("majority"))["oplog.rs"]


def _transaction(oplog: MongoCollection[Any], last: Mapping[str, Any], shard: str) -> list[Mapping[str, Any]]:
    """Return the operations of a transaction, given its last entry, in their order.

    Statements of one retryable session are chained by ``prevOpTime`` too, but each stands for itself, so an entry
    belongs to the transaction only if it says that it is a part.
    """
    entries = [last]
    while (before := entries[-1].get("prevOpTime", {}).get("ts", _NO_TIME)) > _NO_TIME:
        entry = retrying(lambda before=before: oplog.find_one({"ts": before}))  # type: ignore[misc]
        if entry is None and ("commitTransaction" in last["o"] or "count" in last["o"]):
            raise VerificationFailed(
                f"The oplog of {shard} no longer holds the beginning (at {before}) of a transaction that ended at "
                f"{last['ts']}. Differences can't be explained there; compare while nobody writes."
            )
        if entry is None or not (entry["o"].get("partialTxn") or entry["o"].get("prepare")):
            break
        entries.append(entry)
    return [operation for entry in reversed(entries) for operation in _flatten(entry["o"].get("applyOps", []))]


def _flatten(operations: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for operation in operations:
        if operation["op"] == "c" and "applyOps" in operation["o"]:
            yield from _flatten(operation["o"]["applyOps"])
        elif not operation.get("fromMigrate", False):
            yield operation
