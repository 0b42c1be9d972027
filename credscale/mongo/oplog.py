"""What writers did, from the shards' own oplogs, to tell it from what a migration lost.

A migration marks its own entries ``fromMigrate``; every other entry on a namespace is a user's. A transaction is one
or several ``applyOps`` commands. Three of its forms are not what they seem when read one entry at a time: an entry with
``prepare`` counts only once a ``commitTransaction`` follows (its time is the commit's), one with ``partialTxn`` only
once the last entry of its transaction is written, and both can have begun before the time asked for. So operations are
given out at the entry that makes them real, and its chain of ``prevOpTime`` is followed back from there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.read_concern import ReadConcern

from credscale.core.errors import VerificationFailed
from credscale.mongo.digest import Difference, DocumentId, document_id

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
    client: MongoClient[Any], shard: str, namespace: str, since: Timestamp, ids: Collection[DocumentId] | None = None
) -> Iterator[Operation]:
    """Read what users wrote to a collection on one shard, oldest first.

    Operations of one transaction have one time and come in their order within it.

    Args:
        client: connected to a member of the shard, not to mongos.
        shard: the shard's name, for the operations.
        namespace: ``database.collection``.
        since: the first time wanted.
        ids: only these documents; None gives all.

    Raises:
        VerificationFailed: a transaction began before the oplog's first entry.
    """
    oplog = _oplog(client)
    entries = oplog.find(
        {
            "ts": {"$gte": since},
            "fromMigrate": {"$ne": True},
            "$or": [
                {"op": {"$in": ["i", "u", "d"]}, "ns": namespace},
                {"op": "c", "o.applyOps": {"$exists": True}},
                {"op": "c", "o.commitTransaction": {"$exists": True}},
            ],
        }
    )
    for entry in entries:
        ts = entry["ts"]
        if entry["op"] != "c":
            operations: Iterable[Mapping[str, Any]] = [entry]
        elif "commitTransaction" in entry["o"]:
            ts = entry["o"].get("commitTimestamp", ts)
            operations = _transaction(oplog, entry, shard)
        elif entry["o"].get("prepare") or entry["o"].get("partialTxn"):
            continue
        else:
            operations = _transaction(oplog, entry, shard)
        for operation in operations:
            if operation["ns"] != namespace or operation["op"] not in ("i", "u", "d"):
                continue
            # `o` of an update is the change; which document it is stands in `o2`.
            item = document_id(operation["o2" if operation["op"] == "u" else "o"].raw)
            if ids is None or item in ids:
                yield Operation(item, operation["op"], ts, shard)


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
) -> Explained:
    """Divide a difference into users' writes and the rest.

    Invariant: an id of the difference is explained only by an operation on that very id. One that the last operation
    deleted is never explained as being here now, nor one that it wrote as being gone.

    A scan is no point in time: a document deleted after the scan passed it, or inserted again, contradicts its last
    operation. Such an id is looked up as it is now. Writers go on between reading the oplogs and looking, so before
    believing a finding read the operations again and call this once more: what is truly lost stays lost.

    Args:
        difference: baseline against the present.
        operations: of all shards since the baseline began, each shard's in its order.
        present: given ids, returns those that exist now, read at majority.
    """
    replay = _Replay(operations)
    alive, dead = replay.outcome()
    here = present(alive | dead) if alive or dead else set()
    resurrected, vanished = dead & here, alive - here
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


class _Replay:
    """What happened to each document, and what happened last."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._kinds: dict[DocumentId, set[str]] = defaultdict(set)
        # At one time a transaction can delete a document on one shard and insert it on another, which is a move; the
        # order of the two is unknown. So the last time is kept with each shard's last operation in it.
        self._last: dict[DocumentId, tuple[Timestamp, dict[str, str]]] = {}
        for item in operations:
            self._kinds[item.id].add(item.op)
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
        entry = oplog.find_one({"ts": before})
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
