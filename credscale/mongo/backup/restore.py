"""Restoring a backup, or a random sample of it, into a scratch collection, with its options and indexes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from bson.raw_bson import RawBSONDocument
from pymongo import WriteConcern

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.mongo.backup import dump_files as files
from credscale.mongo.backup.dump import read_documents
from credscale.mongo.backup.manifest import read_manifest
from credscale.mongo.cluster.commands import is_passing, retrying
from credscale.mongo.documents.digest import Digest, Digester, Progress
from credscale.mongo.documents.raw import RAW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pymongo.collection import Collection
    from pymongo.errors import BulkWriteError

BATCH_DOCUMENTS = 1000
MAJORITY_MILLISECONDS = 60_000
BATCH_BYTES = 16 * files.MEGABYTE
SIMPLE = {"locale": "simple"}
NAMESPACE_EXISTS, DUPLICATE_KEY = 48, 11000
# Servers before 4.0 listed autoIndexId; later ones refuse it.
_FORMER_OPTIONS = frozenset({"autoIndexId"})


def restore(
    folder: Path, scratch: Collection[Any], *, sample: int | None = None, on_progress: Progress | None = None
) -> Digest:
    """Restore a backup into an empty scratch collection, with its options and without its indexes.

    Args:
        folder: the backup.
        scratch: a collection that does not exist yet.
        sample: so many documents, drawn at random from the whole backup; None restores all.
        on_progress: called with documents and bytes after each batch.

    Returns:
        The digest of the documents sent, to compare with a digest of what the scratch collection then holds.

    Raises:
        PreconditionFailed: the scratch collection exists.
        VerificationFailed: the server refused documents.
    """
    manifest = read_manifest(folder)
    if _entry(scratch) is not None:
        raise PreconditionFailed(
            f"{scratch.full_name} exists; a backup is only restored into a new collection. Drop it or name another."
        )
    _create(scratch, _options(_metadata(folder)))
    documents = read_documents(folder)
    if sample is not None:
        documents = draw(documents, manifest.documents, sample, random.SystemRandom())
    # The comparison reads at majority, and before 5.0 the implicit write concern is w: 1: it could miss the last batch.
    concern = WriteConcern("majority", wtimeout=MAJORITY_MILLISECONDS)
    raw_scratch = scratch.with_options(codec_options=RAW, write_concern=concern)
    digester = Digester()
    for batch in _batches(documents):
        _insert(raw_scratch, batch)
        for raw in batch:
            digester.add(raw)
        if on_progress is not None:
            on_progress(digester.documents, digester.bytes)
    return digester.digest()


def draw(documents: Iterable[bytes], total: int, wanted: int, randomness: random.Random) -> Iterator[bytes]:
    """Draw documents so that every set of so many is equally likely, in one pass and their order (Knuth, 3.4.2 S).

    Args:
        documents: ``total`` documents.
        total: how many there are.
        wanted: how many to draw; all where there are fewer.
        randomness: where chance comes from.
    """
    missing = wanted
    for number, raw in enumerate(documents):
        if missing <= 0:
            return
        if randomness.randrange(max(1, total - number)) < missing:
            missing -= 1
            yield raw


def restore_indexes(folder: Path, scratch: Collection[Any]) -> list[str]:
    """Build the backup's indexes on a restored collection, and compare options and indexes with the backup's.

    Call it after the documents were compared: an index that expires documents begins at once.

    Args:
        folder: the backup.
        scratch: the restored collection; through a connection that waits as long as an index build lasts.

    Returns:
        The names of the indexes, without that on `_id`.

    Raises:
        VerificationFailed: an index can't be built, or options or indexes are not the backup's.
    """
    from pymongo.errors import OperationFailure

    metadata = _metadata(folder)
    specs = index_specs(metadata["indexes"], collated="collation" in metadata["options"])
    for spec in specs:
        command = {"createIndexes": scratch.name, "indexes": [spec]}
        try:
            retrying(lambda command=command: scratch.database.command(command))  # type: ignore[misc]
        except OperationFailure as error:
            if is_passing(error):
                raise
            # Without its cause: a duplicate key's text quotes the document.
            raise VerificationFailed(
                f"{scratch.full_name}: the index {spec['name']} of the backup can't be built (code {error.code}), so "
                "the backup does not restore as it is. Nothing else was changed. Repair the index on the collection "
                "itself, then take a new backup",
                {"index": spec["name"], "code": error.code},
            ) from None
    _compare_structure(metadata, specs, scratch)
    return [str(spec["name"]) for spec in specs]


def index_specs(indexes: Iterable[Mapping[str, Any]], *, collated: bool) -> list[dict[str, Any]]:
    """Return what createIndexes is to be given for the indexes of a backup; that on `_id` comes by itself.

    Args:
        indexes: listIndexes documents.
        collated: whether the collection has a collation of its own. An index that is listed without one has the simple
            one then, and would inherit the collection's unless told.
    """
    specs = []
    for index in indexes:
        if list(index["key"].items()) == [("_id", 1)]:
            continue
        spec = {name: value for name, value in index.items() if name != "ns"}
        specs.append(spec | ({"collation": SIMPLE} if collated and "collation" not in spec else {}))
    return specs


def structure_differences(
    options: Mapping[str, Any],
    specs: Sequence[Mapping[str, Any]],
    found_options: Mapping[str, Any],
    found_indexes: Iterable[Mapping[str, Any]],
) -> list[str]:
    """Name the options and indexes in which a restored collection differs from its backup.

    Args:
        options: the backup's collection options.
        specs: its indexes, as ``index_specs`` gives them.
        found_options: the restored collection's options.
        found_indexes: its listIndexes documents.
    """
    names = sorted(options.keys() | found_options.keys())
    differing = [f"option {name}" for name in names if options.get(name) != found_options.get(name)]
    expected = {str(spec["name"]): _comparable(spec) for spec in specs}
    found = {str(spec["name"]): _comparable(spec) for spec in index_specs(found_indexes, collated=False)}
    names = sorted(expected.keys() | found.keys())
    return differing + [f"index {name}" for name in names if expected.get(name) != found.get(name)]


def _comparable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return an index in a form that is equal for equal indexes: the order of its key's fields counts, others' not."""
    plain = {name: value for name, value in spec.items() if (name, value) != ("collation", SIMPLE)}
    return plain | {"key": list(spec["key"].items())}


def _compare_structure(
    metadata: Mapping[str, Any], specs: Sequence[Mapping[str, Any]], scratch: Collection[Any]
) -> None:
    entry = _entry(scratch) or {}
    indexes = retrying(lambda: list(scratch.list_indexes()))
    differing = structure_differences(_options(metadata), specs, entry.get("options", {}), indexes)
    if differing:
        raise VerificationFailed(
            f"{scratch.full_name} has the documents of the backup, but differs from it in {', '.join(differing)}. "
            f"Nothing else was changed. Compare {scratch.full_name} with the backup's .metadata.json, then drop it",
            {"differing": differing},
        )


def _metadata(folder: Path) -> dict[str, Any]:
    path = files.metadata_file(folder, read_manifest(folder).namespace)
    return files.decode_metadata(path.read_text())


def _options(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata["options"].items() if name not in _FORMER_OPTIONS}


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for raw in documents:
        if batch and (len(batch) >= BATCH_DOCUMENTS or size + len(raw) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    if batch:
        yield batch


def _entry(scratch: Collection[Any]) -> Mapping[str, Any] | None:
    """Return the collection as listCollections shows it; None when it is not there."""
    return retrying(lambda: next(iter(scratch.database.list_collections(filter={"name": scratch.name})), None))


def _create(scratch: Collection[Any], options: Mapping[str, Any]) -> None:
    """Create a collection that was seen not to be there; found there at a second attempt, the first had made it."""
    from pymongo.errors import OperationFailure

    attempts = 0

    def create() -> None:
        nonlocal attempts
        attempts += 1
        try:
            scratch.database.command({"create": scratch.name, **options})
        except OperationFailure as error:
            if error.code != NAMESPACE_EXISTS or attempts == 1:
                raise

    retrying(create)


def _insert(collection: Collection[Any], batch: list[bytes]) -> None:
    """Insert documents; what an interrupted attempt had inserted is not refused, and compared with the rest later."""
    from pymongo.errors import BulkWriteError

    documents = [RawBSONDocument(raw) for raw in batch]
    attempts = 0

    def insert() -> None:
        nonlocal attempts
        attempts += 1
        try:
            # Documents older than the collection's validator are valid data; an update or insert alone is held to it.
            collection.insert_many(documents, ordered=False, bypass_document_validation=True)
        except BulkWriteError as error:
            if is_passing(error):
                raise
            _refuse(collection, batch, error, DUPLICATE_KEY if attempts > 1 else None)

    retrying(insert)


def _refuse(collection: Collection[Any], batch: list[bytes], error: BulkWriteError, expected: int | None) -> None:
    """Raise what the server refused, except for one code."""
    refused = [item for item in error.details.get("writeErrors", []) if item.get("code") != expected]
    if refused:
        codes = sorted({item.get("code") for item in refused})
        # Without its cause: the driver's text quotes whole documents.
        raise VerificationFailed(
            f"{collection.full_name} refused {len(refused)} of {len(batch)} restored documents with codes {codes}. "
            "Drop the scratch collection and look at the backup."
        ) from None
