"""The baseline beside a backup whose documents are elsewhere: every document's `_id` and hash, and nothing else.

dump/<database>/<collection>.hashes holds one small BSON document per document: its `_id`, and under ``h`` its hash.
A lost document can be named with it and not be brought back.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from credscale.mongo.backup import dump_files as files
from credscale.mongo.backup.native import counted
from credscale.mongo.backup.reading import Job, Reading
from credscale.mongo.documents.digest import Digester, bucket_of, document_hash, hashed, id_key, joined
from credscale.mongo.documents.scan import scan_raw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pymongo.client_session import ClientSession

HASH_BYTES = 16
NEEDED_BYTES = 100  # a document's `_id` and hash with what is around them, rounded up


def read_hashes(job: Job, session: ClientSession, *, tool: str, external: Mapping[str, Any]) -> Reading:
    """Read a collection and keep only its documents' hashes.

    Args:
        job: what to read and where to.
        session: a causally consistent session, to see at least what it has seen.
        tool: who has the documents themselves.
        external: what is known of that backup.
    """
    survey = write_hashes(job, session)
    remark = f"that is the baseline of the proof; the backup itself is of {external['time']}"
    return Reading("external", tool, survey, remark=remark, external=external)


def write_hashes(job: Job, session: ClientSession) -> files.Survey:
    """Write the file of hashes of a live collection into the unfinished dump."""
    path = hashes_file(job.folder, job.collection.full_name, files.PARTIAL)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    digester, whole = Digester(), hashlib.sha256()
    with files.create(path) as stream:
        for raw in counted(job, scan_raw(job.collection, session=session), digester):
            line = encode(id_key(raw), document_hash(raw))
            stream.write(line)
            whole.update(line)
        files.sync(stream)
    return files.Survey(digester.bytes, whole.hexdigest(), digester.digest())


def hashes_file(folder: Path, namespace: str, root: str = files.DUMP) -> Path:
    """Return the file of hashes of a namespace in a backup folder."""
    return files.data_file(folder, namespace, root).with_suffix(".hashes")


def encode(key: bytes, value: bytes) -> bytes:
    """Return the line of a document: BSON with its `_id`, byte for byte, and its hash."""
    elements = key[:1] + b"_id\0" + key[1:] + b"\x05h\0" + HASH_BYTES.to_bytes(4, "little") + b"\0" + value + b"\0"
    return (len(elements) + 4).to_bytes(4, "little") + elements


def baseline_hashes(folder: Path, namespace: str, buckets: Iterable[int]) -> dict[bytes, bytes]:
    """List the documents of some buckets as they were in the backup, for ``digest.compare``.

    Args:
        folder: the backup; with its documents, or with their hashes alone.
        namespace: ``database.collection``.
        buckets: the bucket numbers wanted.

    Returns:
        The hashes by id key, as ``digest.document_hashes`` gives them.
    """
    return joined(baseline(folder, namespace, frozenset(buckets)))


def baseline(folder: Path, namespace: str, buckets: frozenset[int] | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Give id key and hash of the documents of a backup, whether it holds the documents or their hashes alone.

    Args:
        folder: the backup.
        namespace: ``database.collection``.
        buckets: the bucket numbers wanted; None for all.
    """
    path = hashes_file(folder, namespace)
    if not path.exists():
        yield from hashed(files.documents_in(files.data_file(folder, namespace)), buckets)
        return
    for line in files.documents_in(path):
        key = id_key(line)
        if buckets is None or bucket_of(key) in buckets:
            yield key, line[-HASH_BYTES - 1 : -1]
