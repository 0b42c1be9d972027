"""Backups of one collection that are verified and found again.

A backup is a folder with mongodump's layout under ``dump/`` and a ``manifest.json``. The manifest is written last, so a
folder without one was never finished. It names cluster and collection UUID, so that a later run takes up its own
backup and no other, and the logical time at which reading began: the shards' oplogs explain what changed since.
"""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING, Any

from pymongo.read_concern import ReadConcern

from credscale.core.errors import PreconditionFailed
from credscale.mongo.backup import dump_files as files
from credscale.mongo.backup.manifest import (
    MANIFEST,
    BackupFacts,
    Manifest,
    mark,
    now,
    read_manifest,
    retained,
)
from credscale.mongo.backup.native import read_native
from credscale.mongo.backup.point import UNKNOWN, Surroundings, describe
from credscale.mongo.backup.reading import Engine, Job, Reading, refuse_unsupported
from credscale.mongo.cluster.commands import retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from bson import Timestamp
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from credscale.mongo.documents.digest import Progress

# No room, above a quota, larger than the file system or a limit allows: the remedy is the same.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def dump(
    collection: Collection[Any],
    folder: Path,
    *,
    facts: BackupFacts,
    needed: int,
    read: Engine = read_native,
    look: Callable[[], Surroundings] = lambda: UNKNOWN,
    on_progress: Progress | None = None,
) -> Manifest:
    """Back up one collection.

    Args:
        collection: the collection, through mongos or a replica set.
        folder: the backup's own folder; made where missing, closed to other users.
        facts: whose backup it is.
        needed: bytes that will be written, such as the collection's uncompressed data size.
        read: the engine.
        look: tells what the cluster does, before the pass and after it.
        on_progress: called with documents and bytes so far.

    Raises:
        PreconditionFailed: the folder is in use, the disk too small or full, or the collection not what the facts say.
        CredscaleError: mongodump failed.
    """
    entry = _collection_entry(collection, facts)
    _prepare(folder, needed)
    started, before = now(), look()
    job = Job(collection, folder, entry, on_progress)
    try:
        with collection.database.client.start_session(causal_consistency=True) as session:
            since = majority_time(collection, session)
            reading = read(job, session)
            until = majority_time(collection, session)
        if reading.at is not None:  # it holds all up to there and nothing after
            since = until = reading.at
        after = look()
        files.publish(folder)
        manifest = Manifest(
            folder=folder,
            engine=reading.engine,
            tool=reading.tool,
            namespace=facts.namespace,
            cluster_id=facts.cluster_id,
            collection_uuid=facts.collection_uuid,
            sharded_at_start=facts.sharded,
            started=started,
            finished=now(),
            operation_time_start=since,
            operation_time_end=until,
            point=_point(reading, since, until, before, after),
            documents=reading.survey.digest.documents,
            bytes=reading.survey.bytes,
            files=_file_facts(folder, facts.namespace, reading.survey),
            digest=reading.survey.digest,
            external=reading.external,
        )
        files.write_json(folder / MANIFEST, manifest.to_json())
    except BaseException as error:
        _clean_up(folder, needed, error)
        raise
    return manifest


def _point(
    reading: Reading, since: Timestamp | None, until: Timestamp | None, before: Surroundings, after: Surroundings
) -> dict[str, Any]:
    at = reading.at
    statement = describe(at, since, until, before, after) + (f"; {reading.remark}" if reading.remark else "")
    moment = None if at is None else [at.time, at.inc]
    return {"statement": statement, "at": moment, "start": before.to_json(), "end": after.to_json()}


def verify(folder: Path, on_progress: Progress | None = None) -> Manifest:
    """Read every file of a backup again and compare it with the manifest, then note the time in it.

    Raises:
        VerificationFailed: names the file and the byte offset; ``output`` holds both.
    """
    manifest = read_manifest(folder)
    data = files.data_file(folder, manifest.namespace)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise files.damaged(str(path), 0, "the file is gone")
        if path == data:
            _verify_data(path, manifest, expected, on_progress)
        elif (seen := files.checksum(path)) != expected:
            offset = min(seen["bytes"], expected["bytes"])
            raise files.damaged(str(path), offset if seen["bytes"] != expected["bytes"] else 0, _mismatch(seen))
    return mark(folder, verified=now())


def read_documents(folder: Path) -> Iterator[bytes]:
    """Stream the raw documents of a backup in the order in which they were written.

    Raises:
        PreconditionFailed: somebody else has the documents.
    """
    manifest = read_manifest(folder)
    if manifest.external is not None:
        raise PreconditionFailed(f"{folder} holds hashes only; the documents are in {manifest.external['id']}.")
    yield from files.documents_in(files.data_file(folder, manifest.namespace))


def _collection_entry(collection: Collection[Any], facts: BackupFacts) -> Mapping[str, Any]:
    name = collection.full_name
    if name != facts.namespace:
        raise PreconditionFailed(f"The facts are about {facts.namespace}, the collection is {name}.")
    found = retrying(lambda: list(collection.database.list_collections(filter={"name": collection.name})))
    entry = next(iter(found), None)
    if entry is None:
        raise PreconditionFailed(f"{name} does not exist; there is nothing to back up.")
    refuse_unsupported(entry)
    if (uuid := files.collection_uuid(entry)) and uuid != facts.collection_uuid:
        raise PreconditionFailed(
            f"{name} has UUID {uuid}, expected {facts.collection_uuid}: it was dropped and made anew. "
            "Read the facts again."
        )
    return entry


def _prepare(folder: Path, needed: int) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    if (folder / MANIFEST).exists() or (folder / files.DUMP).exists():
        raise PreconditionFailed(f"{folder} holds a backup already; a new one needs its own folder.")
    shutil.rmtree(folder / files.PARTIAL, ignore_errors=True)  # a killed run's
    files.require_space(folder, needed)
    (folder / files.PARTIAL).mkdir(mode=0o700)


def majority_time(collection: Collection[Any], session: ClientSession) -> Timestamp | None:
    """Return a time such that what is not yet readable at majority has a later one in the oplog.

    A plain reply names the last write applied, which a majority read need not see yet; a majority read names the state
    it saw. The session then holds every later read to at least this state, on every shard.
    """
    majority = collection.with_options(read_concern=ReadConcern("majority"))
    retrying(lambda: majority.find_one({}, {"_id": 1}, session=session))
    return session.operation_time


def _clean_up(folder: Path, needed: int, error: BaseException) -> None:
    free = files.free_bytes(folder)
    for name in (files.PARTIAL, files.DUMP):  # without a manifest the published dump is unfinished too
        shutil.rmtree(folder / name, ignore_errors=True)
    if isinstance(error, OSError) and error.errno in FULL:
        left = [folder / name for name in (files.PARTIAL, files.DUMP) if (folder / name).exists()]
        done = (
            f"The unfinished files in {left[0]} could not be removed." if left else "The unfinished files were removed."
        )
        raise PreconditionFailed(
            f"The disk of {folder} is full ({error.strerror}): the backup needs about {needed} bytes, {free} were "
            f"left. {done} Beside it lie {retained(folder.parent).text}, which are never removed here. Free space, by "
            "moving away those of them that are no longer needed, or choose another folder, then run again."
        ) from error


def _file_facts(folder: Path, namespace: str, survey: files.Survey) -> dict[str, dict[str, Any]]:
    data = files.data_file(folder, namespace)
    found = {}
    for path in sorted(item for item in (folder / files.DUMP).rglob("*") if item.is_file()):
        is_data = path == data
        facts = {"bytes": survey.bytes, "sha256": survey.sha256} if is_data else files.checksum(path)
        found[path.relative_to(folder).as_posix()] = facts
    return found


def _verify_data(path: Path, manifest: Manifest, expected: Mapping[str, Any], on_progress: Progress | None) -> None:
    name = str(path)
    survey = files.survey(path, name, on_progress)
    if survey.bytes != expected["bytes"]:
        offset = min(survey.bytes, expected["bytes"])
        raise files.damaged(name, offset, f"the file has {survey.bytes} bytes, the manifest says {expected['bytes']}")
    buckets = manifest.digest.differing(survey.digest)
    if buckets:
        offset = files.first_in(path, name, buckets) or 0
        raise files.damaged(name, offset, "here or later a document differs from the one that was written")
    if survey.sha256 != expected["sha256"]:
        raise files.damaged(name, 0, _mismatch({"sha256": survey.sha256}))


def _mismatch(seen: Mapping[str, Any]) -> str:
    return f"the content is not what the manifest says; its SHA-256 is now {seen['sha256']}"
