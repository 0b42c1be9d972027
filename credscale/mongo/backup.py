"""Backups of one collection that are verified, found again, and tried by restoring.

A backup is a folder with mongodump's layout under ``dump/`` and a ``manifest.json``. The manifest is written last, so a
folder without one was never finished. It names cluster and collection UUID, so that a later run takes up its own
backup and no other, and the logical time at which reading began: the shards' oplogs explain what changed since.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.mongo import dump_files as files
from credscale.mongo.backup_manifest import MANIFEST, BackupFacts, Manifest, find_backups, mark, now, read_manifest
from credscale.mongo.digest import PROGRESS_EVERY, Digest, Digester, Progress
from credscale.mongo.mongodump import Access, mongodump_path, run_mongodump
from credscale.mongo.scan import scan_raw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bson import Timestamp
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

__all__ = [
    "Access",
    "BackupFacts",
    "Manifest",
    "dump",
    "find_backups",
    "majority_time",
    "mark",
    "mongodump_path",
    "read_documents",
    "read_manifest",
    "refuse_unsupported",
    "restore",
    "verify",
]

TOOL_VERSION = "credscale-native-1"
BATCH_DOCUMENTS = 1000
BATCH_BYTES = 16 * files.MEGABYTE


def refuse_unsupported(entry: Mapping[str, Any]) -> None:
    """Refuse what is no plain collection.

    Args:
        entry: the collection's listCollections entry.

    Raises:
        PreconditionFailed: names the collection and its kind.
    """
    options = entry.get("options", {})
    kind = entry.get("type", "collection")
    if options.get("capped"):
        kind = "capped"
    elif options.get("clusteredIndex"):
        kind = "clustered"  # it has no `_id_` index, along which everything here reads
    elif entry["name"].startswith("system."):
        kind = "system"
    if kind != "collection":
        raise PreconditionFailed(
            f"{entry['name']} is of the kind {kind!r}; only plain collections can be backed up here."
        )


def dump(
    collection: Collection[Any],
    folder: Path,
    *,
    facts: BackupFacts,
    needed: int,
    access: Access | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """Back up one collection.

    Args:
        collection: the collection, through mongos or a replica set.
        folder: the backup's own folder; made where missing, closed to other users.
        facts: whose backup it is.
        needed: the collection's uncompressed data size in bytes, as collStats gives it.
        access: lets mongodump do it where it is installed; without it this process does.
        on_progress: called with documents and bytes so far.

    Raises:
        PreconditionFailed: the folder is in use, the disk too small or full, or the collection not what the facts say.
        CredscaleError: mongodump failed.
    """
    entry = _collection_entry(collection, facts)
    _prepare(folder, needed)
    started = now()
    try:
        reading = _read(collection, folder, entry, access, on_progress)
        files.publish(folder)
        manifest = _manifest(folder, facts, started, reading)
        files.write_json(folder / MANIFEST, manifest.to_json())
    except BaseException as error:
        _clean_up(folder, needed, error)
        raise
    return manifest


def _manifest(folder: Path, facts: BackupFacts, started: str, reading: _Reading) -> Manifest:
    return Manifest(
        folder=folder,
        engine=reading.engine,
        namespace=facts.namespace,
        cluster_id=facts.cluster_id,
        collection_uuid=facts.collection_uuid,
        sharded_at_start=facts.sharded,
        started=started,
        finished=now(),
        operation_time_start=reading.since,
        operation_time_end=reading.until,
        documents=reading.survey.digest.documents,
        bytes=reading.survey.bytes,
        files=_file_facts(folder, facts.namespace, reading.survey),
        digest=reading.survey.digest,
    )


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
    """Stream the raw documents of a backup in the order in which they were written."""
    path = files.data_file(folder, read_manifest(folder).namespace)
    with path.open("rb", buffering=files.MEGABYTE) as stream:
        for _, raw in files.walk(stream, str(path)):
            yield raw


def restore(
    folder: Path, scratch: Collection[Any], *, limit: int | None = None, on_progress: Progress | None = None
) -> Digest:
    """Restore a backup into an empty scratch collection, with its options and without its indexes.

    Args:
        folder: the backup.
        scratch: a collection that does not exist yet.
        limit: at most so many documents, from the beginning; None restores all.
        on_progress: called with documents and bytes after each batch.

    Returns:
        The digest of the documents sent, to compare with a digest of what the scratch collection then holds.

    Raises:
        PreconditionFailed: the scratch collection exists.
        VerificationFailed: the server refused documents.
    """
    manifest = read_manifest(folder)
    if next(scratch.database.list_collections(filter={"name": scratch.name}), None) is not None:
        raise PreconditionFailed(
            f"{scratch.full_name} exists; a backup is only restored into a new collection. Drop it or name another."
        )
    metadata = files.decode_metadata(files.metadata_file(folder, manifest.namespace).read_text())
    # Servers before 4.0 listed autoIndexId; later ones refuse it.
    options = {name: value for name, value in metadata["options"].items() if name != "autoIndexId"}
    scratch.database.command({"create": scratch.name, **options})
    codec: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
    raw_scratch = scratch.with_options(codec_options=codec)
    digester = Digester()
    for batch in _batches(read_documents(folder), limit):
        _insert(raw_scratch, batch)
        for raw in batch:
            digester.add(raw)
        if on_progress is not None:
            on_progress(digester.documents, digester.bytes)
    return digester.digest()


def _collection_entry(collection: Collection[Any], facts: BackupFacts) -> Mapping[str, Any]:
    name = collection.full_name
    if name != facts.namespace:
        raise PreconditionFailed(f"The facts are about {facts.namespace}, the collection is {name}.")
    entry = next(collection.database.list_collections(filter={"name": collection.name}), None)
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


@dataclass(frozen=True)
class _Reading:
    """One pass over the collection into the unfinished dump, and the logical times around it."""

    engine: str
    since: Timestamp | None
    until: Timestamp | None
    survey: files.Survey


def _read(
    collection: Collection[Any],
    folder: Path,
    entry: Mapping[str, Any],
    access: Access | None,
    on_progress: Progress | None,
) -> _Reading:
    program = mongodump_path() if access is not None else None
    with collection.database.client.start_session(causal_consistency=True) as session:
        since = majority_time(collection, session)
        if access is not None and program is not None:
            namespace = collection.full_name
            run_mongodump(program, access, namespace, folder / files.PARTIAL, on_progress=on_progress)
            data = files.data_file(folder, namespace, files.PARTIAL)
            survey = files.survey(data, str(data), on_progress)
        else:
            survey = _dump_native(collection, folder, entry, session, on_progress)
        engine = "native" if program is None else "mongodump"
        return _Reading(engine, since, majority_time(collection, session), survey)


def _dump_native(
    collection: Collection[Any],
    folder: Path,
    entry: Mapping[str, Any],
    session: ClientSession,
    on_progress: Progress | None,
) -> files.Survey:
    namespace = collection.full_name
    data = files.data_file(folder, namespace, files.PARTIAL)
    data.parent.mkdir(mode=0o700)
    indexes = list(collection.list_indexes())
    files.write_text(files.metadata_file(folder, namespace, files.PARTIAL), files.encode_metadata(entry, indexes))
    server = collection.database.client.server_info()["version"]
    files.write_json(data.parent / "prelude.json", {"ServerVersion": server, "ToolVersion": TOOL_VERSION})
    digester, whole = Digester(), hashlib.sha256()
    with files.create(data) as stream:
        for raw in scan_raw(collection, session=session):
            stream.write(raw)
            whole.update(raw)
            digester.add(raw)
            if on_progress is not None and digester.documents % PROGRESS_EVERY == 0:
                on_progress(digester.documents, digester.bytes)
        files.sync(stream)
    if on_progress is not None:
        on_progress(digester.documents, digester.bytes)
    return files.Survey(digester.bytes, whole.hexdigest(), digester.digest())


def majority_time(collection: Collection[Any], session: ClientSession) -> Timestamp | None:
    """Return a time such that what is not yet readable at majority has a later one in the oplog.

    A plain reply names the last write applied, which a majority read need not see yet; a majority read names the state
    it saw. The session then holds every later read to at least this state, on every shard.
    """
    collection.with_options(read_concern=ReadConcern("majority")).find_one({}, {"_id": 1}, session=session)
    return session.operation_time


def _clean_up(folder: Path, needed: int, error: BaseException) -> None:
    free = files.free_bytes(folder)
    for name in (files.PARTIAL, files.DUMP):  # without a manifest the published dump is unfinished too
        shutil.rmtree(folder / name, ignore_errors=True)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise PreconditionFailed(
            f"The disk of {folder} is full: the backup needs about {needed} bytes, {free} were left. The unfinished "
            "files were removed. Free space or choose another folder, then run again."
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


def _batches(documents: Iterator[bytes], limit: int | None) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for number, raw in enumerate(documents):
        if limit is not None and number >= limit:
            break
        if batch and (len(batch) >= BATCH_DOCUMENTS or size + len(raw) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    if batch:
        yield batch


def _insert(collection: Collection[Any], batch: list[bytes]) -> None:
    # Documents older than the collection's validator are valid data; an update or insert alone is held to it.
    try:
        collection.insert_many([RawBSONDocument(raw) for raw in batch], ordered=False, bypass_document_validation=True)
    except BulkWriteError as error:
        refused = error.details.get("writeErrors", [])
        codes = sorted({item.get("code") for item in refused})
        # Without its cause: the driver's text quotes whole documents.
        raise VerificationFailed(
            f"{collection.full_name} refused {len(refused)} of {len(batch)} restored documents with codes {codes}. "
            "Drop the scratch collection and look at the backup."
        ) from None
