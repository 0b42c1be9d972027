"""The files of a dump as mongodump lays them out, so that mongorestore reads ours and we read its.

dump/<database>/<collection>.bson             documents one after the other, nothing around them
dump/<database>/<collection>.metadata.json    options and indexes in canonical Extended JSON
dump/<database>/prelude.json                  which server and tool made it
dump/<database>/<collection>.hashes           instead of all these where somebody else has the documents
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from bson import json_util

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.mongo.documents.digest import PROGRESS_EVERY, Digest, Digester, Progress, bucket_of, id_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

DUMP = "dump"
PARTIAL = "dump.partial"
MEGABYTE = 1 << 20
# The server's limit for a stored document, 16 MB and 16 KB of room for its own fields.
LARGEST_DOCUMENT = 16 * MEGABYTE + 16 * 1024
SMALLEST_DOCUMENT = 5

# Go's url.PathEscape, which mongodump uses, leaves these in a path segment besides letters and digits.
_UNESCAPED = "-_.~$&+=:@"


@dataclass(frozen=True)
class Survey:
    """What reading a .bson file from end to end found: its size in bytes, its checksum, its documents' digest."""

    bytes: int
    sha256: str
    digest: Digest


def file_stem(collection: str) -> str:
    """Return the file name, without ending, that mongodump gives a collection.

    Its rule for names longer than 238 bytes once escaped (mongo-tools, mongodump/prepare.go): the first 208, an escaped
    dollar sign, and the unpadded base64url of the SHA-1 of the plain name.
    """
    escaped = quote(collection, safe=_UNESCAPED)
    if len(escaped) <= 238:
        return escaped
    digest = hashlib.sha1(collection.encode(), usedforsecurity=False).digest()
    return f"{escaped[:208]}%24{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def data_file(folder: Path, namespace: str, root: str = DUMP) -> Path:
    """Return the .bson file of a namespace in a backup folder."""
    database, _, collection = namespace.partition(".")
    return folder / root / database / f"{file_stem(collection)}.bson"


def metadata_file(folder: Path, namespace: str, root: str = DUMP) -> Path:
    """Return the .metadata.json file of a namespace in a backup folder."""
    return data_file(folder, namespace, root).with_suffix(".metadata.json")


def encode_metadata(entry: Mapping[str, Any], indexes: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a .metadata.json file.

    Args:
        entry: the collection's listCollections entry.
        indexes: its listIndexes documents; ``ns``, which servers before 4.4 add, is left out as mongodump does.
    """
    document = {
        "options": entry.get("options", {}),
        "indexes": [{name: value for name, value in index.items() if name != "ns"} for index in indexes],
        "uuid": collection_uuid(entry),
        "collectionName": entry["name"],
        "type": entry.get("type", "collection"),
    }
    return json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS)


def decode_metadata(text: str) -> dict[str, Any]:
    """Read the text of a .metadata.json file; key order is kept."""
    options = json_util.CANONICAL_JSON_OPTIONS
    metadata: dict[str, Any] = json_util.loads(text, json_options=options)
    return metadata


def collection_uuid(entry: Mapping[str, Any]) -> str:
    """Return a listCollections entry's UUID as 32 lower-case hex characters; empty where the server gives none."""
    uuid = entry.get("info", {}).get("uuid")
    return "" if uuid is None else (getattr(uuid, "bytes", None) or bytes(uuid)).hex()


def documents_in(path: Path) -> Iterator[bytes]:
    """Give the documents of a .bson file."""
    with path.open("rb", buffering=MEGABYTE) as stream:
        for _, raw in walk(stream, str(path)):
            yield raw


def walk(stream: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Give the documents of a .bson file with their byte offsets, checking the frame of each.

    Args:
        stream: the open file, at its beginning.
        name: what error messages call it.

    Raises:
        VerificationFailed: a length is impossible, the file ends within a document, or a final NUL is missing.
    """
    offset = 0
    while header := stream.read(4):
        size = int.from_bytes(header, "little", signed=True)
        if len(header) == 4 and not SMALLEST_DOCUMENT <= size <= LARGEST_DOCUMENT:
            raise damaged(name, offset, f"a document claims {size} bytes")
        raw = header + stream.read(max(size - 4, 0))
        if len(header) < 4 or len(raw) < size:
            raise damaged(name, offset, f"the file ends {len(raw)} bytes into a document")
        if raw[-1]:
            raise damaged(name, offset, f"a document of {size} bytes does not end in a NUL byte")
        yield offset, raw
        offset += size


def survey(path: Path, name: str, on_progress: Progress | None = None) -> Survey:
    """Read a .bson file from end to end: sizes, checksum and digest, in flat memory."""
    digester, whole = Digester(), hashlib.sha256()
    with path.open("rb", buffering=MEGABYTE) as stream:
        for offset, raw in walk(stream, name):
            whole.update(raw)
            try:
                digester.add(raw)
            except VerificationFailed as error:
                raise damaged(name, offset, str(error)) from error
            if on_progress is not None and digester.documents % PROGRESS_EVERY == 0:
                on_progress(digester.documents, digester.bytes)
    if on_progress is not None:
        on_progress(digester.documents, digester.bytes)
    return Survey(digester.bytes, whole.hexdigest(), digester.digest())


def first_in(path: Path, name: str, buckets: list[int]) -> int | None:
    """Return the byte offset of the first document that falls into one of these buckets."""
    with path.open("rb", buffering=MEGABYTE) as stream:
        wanted = frozenset(buckets)
        return next((offset for offset, raw in walk(stream, name) if bucket_of(id_key(raw)) in wanted), None)


def damaged(name: str, offset: int, what: str) -> VerificationFailed:
    """Return the error for a file that is not what was written."""
    return VerificationFailed(
        f"{name}: at byte {offset}: {what}. The backup can't be trusted; take a new one.",
        {"file": name, "offset": offset},
    )


def checksum(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, in flat memory."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}


def create(path: Path) -> IO[bytes]:
    """Open a new file that only its owner may read: backups hold customer data."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=MEGABYTE)


def sync(stream: IO[bytes]) -> None:
    """Bring what was written to a file onto the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries onto the disk: without it a rename can be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step, on the disk when this returns."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step, on the disk when this returns."""
    temporary = path.with_name(path.name + ".partial")
    temporary.unlink(missing_ok=True)
    try:
        with create(temporary) as stream:
            stream.write(text.encode())
            sync(stream)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def publish(folder: Path) -> None:
    """Give the partial dump of a folder its final name: closed to other users and on the disk before and after."""
    partial = folder / PARTIAL
    # In reverse order what a folder holds comes before the folder.
    for path in [*sorted(partial.rglob("*"), reverse=True), partial]:
        if path.is_dir():
            path.chmod(0o700)
            sync_folder(path)
        else:
            path.chmod(0o600)
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    partial.rename(folder / DUMP)
    sync_folder(folder)


def require_space(folder: Path, needed: int) -> None:
    """Refuse when a folder's disk has less room than a dump needs and a tenth more.

    Raises:
        PreconditionFailed: names the path, the bytes needed and the bytes free.
    """
    wanted = needed + needed // 10
    if (free := free_bytes(folder)) < wanted:
        raise PreconditionFailed(
            f"The backup in {folder} needs {wanted} bytes ({needed} of data and a tenth more), but only {free} are "
            "free. Nothing was written. Free space or choose another folder."
        )


def free_bytes(folder: Path) -> int:
    """Return the bytes free on a folder's disk for this user."""
    return shutil.disk_usage(folder).free
