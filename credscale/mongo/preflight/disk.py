"""Whether the disks hold what a migration puts on them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.core.step import Finding, probe
from credscale.mongo.backup.baseline import NEEDED_BYTES
from credscale.mongo.backup.leftovers import leftovers
from credscale.mongo.backup.target import target_of
from credscale.mongo.cluster import facts, members
from credscale.mongo.cluster.commands import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from credscale.core.context import Context
    from credscale.mongo.backup.target import Target
    from credscale.mongo.cluster.commands import Client

Verdict = Literal["ok", "too small", "too full", "unknown"]
# Reference §5 row 8: of a file system after the migration; on a recipient; of the donor's index, which lies there twice
# while it is built and sorted.
CROWDED = 0.8
SHARE_HEADROOM, BUILD_FACTOR, BUILD_HEADROOM = 1.3, 2, 1.2
DUMP_HEADROOM = 1.1
INDEX_ENTRY_BYTES = 40  # a hashed entry and its suffix
WORKERS = 16


@dataclass(frozen=True)
class Space:
    """What a member says of its disk.

    Args:
        disk: its file system.
        oplog_growth: bytes by which its oplog may still grow until it has its maximum size; None where not told.
    """

    disk: members.Disk
    oplog_growth: int | None


def read_space(client: Client) -> Space:
    """Read a member's file system and how much its oplog may still grow.

    Asked on the database admin, which every member has; a recipient may not have the user's database yet.
    """
    from pymongo.errors import OperationFailure

    found = members.disk(client, "admin")
    try:
        stats = run(client, "local", {"collStats": "oplog.rs"}, deadline=members.MEMBER_DEADLINE)
    except OperationFailure:  # not allowed, or no such collection in a simulation: then the growth is not told
        stats = {}
    return Space(found, parse_oplog_growth(stats))


def parse_oplog_growth(stats: Mapping[str, Any]) -> int | None:
    """Understand collStats of local.oplog.rs; what it occupies already is no growth."""
    if "maxSize" not in stats:
        return None
    return max(0, int(stats["maxSize"]) - int(stats.get("storageSize", stats.get("size", 0))))


def verdict(needed: int, disk: members.Disk, crowded: float = CROWDED) -> Verdict:
    """Judge whether a member's file system holds what comes to it, and is not crowded then.

    Args:
        needed: bytes that come to it.
        disk: its file system.
        crowded: the share of it that may be used then.
    """
    if not disk.total:
        return "unknown"
    if disk.free < needed:
        return "too small"
    return "too full" if (disk.used + needed) / disk.total > crowded else "ok"


@dataclass(frozen=True)
class Room:
    """One file system: what is needed and what is free, in bytes; ``free`` None where it can't be read."""

    host: str
    purpose: str
    needed: int
    free: int | None
    verdict: Verdict

    @property
    def enough(self) -> bool:
        """Whether it holds; unknown counts as enough and is reported."""
        return self.verdict in ("ok", "unknown")

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        return {
            "host": self.host, "for": self.purpose, "needed": self.needed, "free": self.free, "verdict": self.verdict,
        }  # fmt: skip


def index_build_bytes(size: facts.DataSize) -> int:
    """Return how many bytes the build of the shard-key index occupies where the data lie, sorting included."""
    return size.documents * INDEX_ENTRY_BYTES * BUILD_FACTOR


def needed_on_shard(size: facts.DataSize, shard: str, shards: int, *, index_missing: bool, holds_all: bool) -> int:
    """Return how many bytes a shard's members need in addition, without the growth of a recipient's oplog.

    Args:
        size: the collection's.
        shard: the shard's name.
        shards: how many there are.
        index_missing: whether the shard-key index is still to be built.
        holds_all: whether this is the primary shard, from which the others' shares come.
    """
    if holds_all:
        return int(index_build_bytes(size) * BUILD_HEADROOM) if index_missing else 0
    index = size.documents * INDEX_ENTRY_BYTES if index_missing else 0
    share = (size.storage + size.indexes + index) / max(1, shards)
    present = size.shards.get(shard, 0) / max(1, size.bytes) * (size.storage + size.indexes)
    return int(max(0.0, share - present) * SHARE_HEADROOM)


@probe()
def verify_disk(
    ctx: Context,
    *,
    namespace: str,
    backup_directory: str,
    shard_key: str = "",
    restore_sample: int = 0,
    dump_elsewhere: bool = False,
    fullest_percent: int = 80,
) -> Finding:
    """Compare the free space of every shard member and of the backup folder with what the migration will need.

    A member's disk must also not be fuller than ``fullest_percent`` afterwards, as the pre-flight has it, but in a lab.
    Members are asked directly: through mongos only primaries answer (§3.3). In containers the numbers are those of the
    host's volume. What unfinished dumps of killed runs occupy counts as free, since ``backup`` removes them first.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
        shard_key: such as ``createdAt:hashed,userId:1``; counts the index in where it is missing.
        restore_sample: documents that the restore check puts on any one of the shards; 0 for all.
        dump_elsewhere: whether the documents of the backup lie on another host or in an external backup; then only
            their hashes lie in the backup folder, and nothing is restored for a trial.
        fullest_percent: how full a member's disk may be afterwards, 1 to 100.

    Raises:
        EnvironmentInvalid: ``fullest_percent`` is out of range.
        PreconditionFailed: a disk is too small or would be too full.
    """
    if not 1 <= fullest_percent <= 100:
        raise EnvironmentInvalid(f"fullest_percent must be from 1 to 100, not {fullest_percent}")
    crowded = 1.0 if ctx.environment.lab is not None else fullest_percent / 100  # a lab lies on somebody's full laptop
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
        with ThreadPoolExecutor(WORKERS, "disk") as pool:
            spaces = list(pool.map(lambda address: _space(ctx, address), shard.members))
        for address, space in zip(shard.members, spaces, strict=True):
            rooms.append(_member_room(address, purpose, needed, space, crowded, grows=not primary))
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
    places = "; ".join(
        f"{room.host} needs {room.needed} bytes for {room.purpose}, free {room.free}"
        + (", and would be fuller than --fullest-percent allows" if room.verdict == "too full" else "")
        for room in small
    )
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
    free = shutil.disk_usage(folder).free + freed
    return Room(str(folder), purpose, needed, free, "ok" if free >= needed else "too small")


def _member_room(address: str, purpose: str, needed: int, space: Space | None, crowded: float, *, grows: bool) -> Room:
    """Return the room on one member; the oplog of one that receives data grows with them."""
    if space is None or not space.disk.total:
        return Room(address, purpose, needed, None, "unknown")
    if grows and space.oplog_growth:
        needed, purpose = needed + space.oplog_growth, f"{purpose} and its oplog's growth"
    return Room(address, purpose, needed, space.disk.free, verdict(needed, space.disk, crowded))


def _space(ctx: Context, address: str) -> Space | None:
    from pymongo.errors import PyMongoError

    try:
        return read_space(ctx.clients.mongo_member(address, timeout=members.MEMBER_DEADLINE))
    except PyMongoError:
        return None  # reported in the row; the pre-flight judges members that do not answer
