"""Whether the disks hold what a migration puts on them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.core.step import Finding, probe
from credscale.mongo import facts, members
from credscale.mongo.backup_steps import target_of

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.context import Context
    from credscale.mongo.backup_steps import Target

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
def verify_disk(ctx: Context, *, namespace: str, backup_directory: str, shard_key: str = "") -> Finding:
    """Compare the free space of every shard member and of the backup folder with what the migration will need.

    Members are asked directly: through mongos only primaries answer (§3.3). In containers the numbers are those of the
    host's volume.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
        shard_key: such as ``createdAt:hashed,userId:1``; counts the index in where it is missing.
    """
    client, name = ctx.clients.mongo(), facts.split_namespace(namespace)[0]
    target, size = target_of(ctx, namespace, backup_directory), facts.data_size(client, namespace)
    missing = bool(shard_key) and not facts.supporting_index(
        facts.indexes(client, namespace), facts.parse_key(shard_key)
    )
    database, shards = facts.database(client, name), facts.shards(client)
    rooms = [_local_room(target, size)]
    for shard in shards:
        primary = database is not None and shard.id == database.primary
        needed = needed_on_shard(size, shard.id, len(shards), index_missing=missing, holds_all=primary)
        purpose = f"index and moves on {shard.id}" if primary else f"a share of the data on {shard.id}"
        rooms += [Room(address, purpose, needed, _free(ctx, address, name)) for address in shard.members]
    rows = [room.row() for room in rooms]
    small = [room for room in rooms if not room.enough]
    if small:
        for row in rows:
            ctx.note(
                f"{row['host']}: {row['verdict']}, needs {row['needed']} bytes for {row['for']}, free {row['free']}"
            )
        places = "; ".join(
            f"{room.host} needs {room.needed} bytes for {room.purpose}, free {room.free}" for room in small
        )
        raise PreconditionFailed(
            f"too little disk space: {places}. Nothing was changed. Free space or add disks, then run again"
        )
    unknown = [room.host for room in rooms if room.free is None]
    tail = f"; not readable: {', '.join(unknown)}" if unknown else ""
    return Finding(f"{len(rooms) - len(unknown)} file systems have room for the migration{tail}", {"rows": rows})


def _local_room(target: Target, size: facts.DataSize) -> Room:
    """Return the room for the dump; none is needed where a verified one is kept as the baseline."""
    kept = target.sharded and any(manifest.verified for manifest in target.backups())
    folder: Path = target.root.resolve()
    while not folder.exists():
        folder = folder.parent
    needed = 0 if kept else int(size.bytes * DUMP_HEADROOM)
    return Room(str(folder), "the backup on this machine", needed, shutil.disk_usage(folder).free)


def _free(ctx: Context, address: str, database: str) -> int | None:
    from pymongo.errors import PyMongoError

    try:
        found = members.disk(ctx.clients.mongo_member(address), database)
    except PyMongoError:
        return None  # reported in the row; the pre-flight judges members that do not answer
    return found.free if found.total else None
