"""What writers did, from the shards' own oplogs, to tell it from what a migration lost.

A migration marks its own entries ``fromMigrate``; every other entry on a namespace is a user's. A transaction is one
or several ``applyOps`` commands. Three of its forms are not what they seem when read one entry at a time: an entry with
``prepare`` counts only once a ``commitTransaction`` follows (its time is the commit's), one with ``partialTxn`` only
once the last entry of its transaction is written, and both can have begun before the time asked for. So operations are
given out at the entry that makes them real, and its chain of ``prevOpTime`` is followed back from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from pymongo.read_concern import ReadConcern

from credscale.core.errors import ConnectFailed, VerificationFailed
from credscale.mongo.cluster.commands import CURSOR_LOST, hello, is_passing, retrying
from credscale.mongo.cluster.failures import advised
from credscale.mongo.documents.digest import DocumentId, document_id
from credscale.mongo.documents.effects import UNKNOWN, Effect, of_insert, of_update
from credscale.mongo.documents.raw import RAW
from credscale.mongo.documents.scan import RETRIES, pause_after

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from pymongo import MongoClient
    from pymongo.collection import Collection as MongoCollection

_NO_TIME = Timestamp(0, 0)
INITIATION = "initiating set"  # the first entry of a new replica set
MAJORITY_SECONDS, MAJORITY_PAUSE = 60.0, 0.5


@dataclass(frozen=True)
class Operation:
    """One document written by a user.

    Args:
        id: the document.
        op: "i" insert, "u" update or replace, "d" delete.
        ts: when it became visible: the entry's time, or the commit's of a prepared transaction.
        shard: on which shard.
        effect: what it says of the document that it leaves.
    """

    id: DocumentId
    op: str
    ts: Timestamp
    shard: str
    effect: Effect = UNKNOWN


class OplogUnusable(VerificationFailed):
    """An oplog no longer tells, or does not tell yet, all that users wrote: differences can't be explained by it."""


def covers(client: MongoClient[Any], since: Timestamp) -> bool:
    """Return whether a member's oplog holds all that users wrote to its shard since a time.

    One that is empty or gone does not. One that begins with its replica set's initiation does, however young it is:
    the shard was added later, and before there was nothing to write to.
    """
    first = _oplog(client).find_one({}, sort=[("$natural", 1)])
    return first is not None and (bool(first["ts"] <= since) or first.get("o", {}).get("msg") == INITIATION)


def await_majority(client: MongoClient[Any], shard: str, until: Timestamp, deadline: float = MAJORITY_SECONDS) -> None:
    """Wait until all writes up to a time are readable at majority on a member.

    A secondary can lag, and a new primary has to commit an entry of its own first; an idle shard's time goes on with
    the entry that its primary writes every 10 seconds.

    Raises:
        OplogUnusable: it is not there in time.
    """
    give_up = time.monotonic() + deadline
    while True:
        reached = hello(client).get("lastWrite", {}).get("majorityOpTime", {}).get("ts", _NO_TIME)
        if reached >= until:
            return
        if time.monotonic() >= give_up:
            raise OplogUnusable(
                f"the asked member of {shard} has at majority only what was written up to {reached}, not yet what was "
                f"written up to {until}: look for members that are down or lag behind"
            )
        time.sleep(MAJORITY_PAUSE)


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
        OplogUnusable: the oplog does not reach back to ``since``, or after a lost cursor to the last entry, or a
            transaction began before its first entry.
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
                yield Operation(item, operation["op"], ts, shard, _effect(operation))


def _effect(operation: Mapping[str, Any]) -> Effect:
    if operation["op"] == "d":
        return UNKNOWN
    return (of_insert if operation["op"] == "i" else of_update)(operation["o"].raw)


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
            # Each opening may be on another member, whose oplog can be shorter.
            if not covers(client, max(last, since)):
                raise _too_short(shard, since, last)
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


def _too_short(shard: str, since: Timestamp, last: Timestamp) -> OplogUnusable:
    read = f" (read up to {last} before a connection was lost)" if last > _NO_TIME else ""
    return OplogUnusable(
        f"the oplog of {shard} no longer reaches back to {max(last, since).as_datetime().isoformat()}{read}"
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


def _oplog(client: MongoClient[Any]) -> MongoCollection[Any]:
    # At majority: an entry that a failover rolls back would explain what never happened.
    return client.get_database("local", codec_options=RAW, read_concern=ReadConcern("majority"))["oplog.rs"]


def _transaction(oplog: MongoCollection[Any], last: Mapping[str, Any], shard: str) -> list[Mapping[str, Any]]:
    """Return the operations of a transaction, given its last entry, in their order.

    Statements of one retryable session are chained by ``prevOpTime`` too, but each stands for itself, so an entry
    belongs to the transaction only if it says that it is a part.
    """
    entries = [last]
    while (before := entries[-1].get("prevOpTime", {}).get("ts", _NO_TIME)) > _NO_TIME:
        entry = retrying(lambda before=before: oplog.find_one({"ts": before}))  # type: ignore[misc]
        if entry is None and ("commitTransaction" in last["o"] or "count" in last["o"]):
            raise OplogUnusable(
                f"the oplog of {shard} no longer holds the beginning (at {before}) of a transaction that ended at "
                f"{last['ts']}"
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
