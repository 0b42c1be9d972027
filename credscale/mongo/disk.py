"""Whether the disks hold what a migration puts on them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.core.step import Finding, probe
from credscale.mongo import facts, members
from credscale.mongo.backup_baseline import NEEDED_BYTES
from credscale.mongo.backup_target import target_of
from credscale.mongo.leftovers import leftovers

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.context import Context
    from credscale.mongo.backup_target import Target

HEADROOM = 1.3  # for the oplog and for writes meanwhile (reference §5 row 8)
DUMP_HEADROOM = 1.1
INDEX_ENTRY_BYTES = 80  # a hashed entry and its suffix, twice while it is built and sorted


@dataclass(frozen=True)
class Room:
    """One file system: what is needed and what is free, in bytes; ``free`` None where it can't be read."""

    host: str
    purpose: str
    needed: int
    free: int | None

    @property
    def enough(self) -> bool:
        """Whether it holds; unknown counts as enough and is reported."""
        return self.free is None or self.free >= self.needed

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        verdict = "unknown" if self.free is None else "ok" if self.enough else "too small"
        return {"host": self.host, "for": self.purpose, "needed": self.needed, "free": self.free, "verdict": verdict}


def needed_on_shard(size: facts.DataSize, shard: str, shards: int, *, index_missing: bool, holds_all: bool) -> int:
    """Return how many bytes a shard's members need in addition.

    Args:
        size: the collection's.
        shard: the shard's name.
        shards: how many there are.
        index_missing: whether the shard-key index is still to be built.
        holds_all: whether this is the primary shard, from which the others' shares come.
    """
    index = size.documents * INDEX_ENTRY_BYTES if index_missing else 0
    if holds_all:
        return index
    share = (size.storage + size.indexes + index) / max(1, shards)
    present = size.shards.get(shard, 0) / max(1, size.bytes) * (size.storage + size.indexes)
    return int(max(0.0, share - present) * HEADROOM)


@probe()
def verify_disk(
    ctx: Context,
    *,
    namespace: str,
    backup_directory: str,
    shard_key: str = "",
    restore_sample: int = 0,
    dump_elsewhere: bool = False,
) -> Finding:
    """Compare the free space of every shard member and of the backup folder with what the migration will need.

    Members are asked directly: through mongos only primaries answer (§3.3). In containers the numbers are those of the
    host's volume. What unfinished dumps of killed runs occupy counts as free, since ``backup`` removes them first.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
        shard_key: such as ``createdAt:hashed,userId:1``; counts the index in where it is missing.
        restore_sample: documents that the restore check puts on any one of the shards; 0 for all.
        dump_elsewhere: whether the documents of the backup lie on another host or in an external backup; then only
            their hashes lie in the backup folder, and nothing is restored for a trial.
    """
    client, name = ctx.clients.mongo(), facts.split_namespace(namespace)[0]
    target, size = target_of(ctx, namespace, backup_directory), facts.data_size(client, namespace)
    missing = bool(shard_key) and not facts.supporting_index(
        facts.indexes(client, namespace), facts.parse_key(shard_key)
    )
    database, shards = facts.database(client, name), facts.shards(client)
    rooms = [_local_room(target, size, dump_elsewhere=dump_elsewhere)]
    restored = 0 if dump_elsewhere else needed_to_restore(target, size, restore_sample)
    for shard in shards:
        primary = database is not None and shard.id == database.primary
        needed = needed_on_shard(size, shard.id, len(shards), index_missing=missing, holds_all=primary)
        purpose = f"index and moves on {shard.id}" if primary else f"a share of the data on {shard.id}"
        # The cluster chooses the shard of the restore check's database itself.
        needed, purpose = needed + restored, purpose + (" and the restore check" if restored else "")
        rooms += [Room(address, purpose, needed, _free(ctx, address, name)) for address in shard.members]
    rows = [room.row() for room in rooms]
    if not all(room.enough for room in rooms):
        _refuse(ctx, rooms)
    unknown = [room.host for room in rooms if room.free is None]
    tail = f"; not readable: {', '.join(unknown)}" if unknown else ""
    return Finding(f"{len(rooms) - len(unknown)} file systems have room for the migration{tail}", {"rows": rows})


def _refuse(ctx: Context, rooms: list[Room]) -> None:
    for row in (room.row() for room in rooms):
        ctx.note(f"{row['host']}: {row['verdict']}, needs {row['needed']} bytes for {row['for']}, free {row['free']}")
    small = [room for room in rooms if not room.enough]
    places = "; ".join(f"{room.host} needs {room.needed} bytes for {room.purpose}, free {room.free}" for room in small)
    raise PreconditionFailed(
        f"too little disk space: {places}. Nothing was changed. Free space or add disks, then run again"
    )


def needed_to_restore(target: Target, size: facts.DataSize, sample: int) -> int:
    """Return the bytes that the restore check occupies for its time; none where it was done already.

    Args:
        target: whose backup is tried.
        size: the collection's.
        sample: documents to restore; 0 for all.
    """
    wanted = min(sample, size.documents) if sample > 0 else size.documents
    kept = target.verified()
    done = kept.restore_checked if kept is not None else None
    if kept is not None and done is not None and int(done["documents"]) >= min(wanted, kept.documents):
        return 0
    return int((size.storage + size.indexes) * wanted / max(1, size.documents))


def _local_room(target: Target, size: facts.DataSize, *, dump_elsewhere: bool) -> Room:
    """Return the room for the dump or its hashes; none where one is kept, or will be unless its data differ."""
    newest = target.newest()
    kept = target.from_before_sharding() is not None or (newest is not None and newest.documents == size.documents)
    folder: Path = target.root.resolve()
    while not folder.exists():
        folder = folder.parent
    whole = size.documents * NEEDED_BYTES if dump_elsewhere else int(size.bytes * DUMP_HEADROOM)
    needed, what = 0 if kept else whole, "hashes of the backup" if dump_elsewhere else "backup"
    freed, purpose = sum(each.bytes for each in leftovers(target.root)), f"the {what} on this machine"
    if freed:
        purpose += f" (free with the {freed} bytes of unfinished dumps, which are removed first)"
    return Room(str(folder), purpose, needed, shutil.disk_usage(folder).free + freed)


def _free(ctx: Context, address: str, database: str) -> int | None:
    from pymongo.errors import PyMongoError

    try:
        found = members.disk(ctx.clients.mongo_member(address), database)
    except PyMongoError:
        return None  # reported in the row; the pre-flight judges members that do not answer
    return found.free if found.total else None
