"""The manifest of a backup: what it holds, whose it is, and when it was last found whole."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import Timestamp

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.mongo.backup.dump_files import write_json
from credscale.mongo.documents.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class BackupFacts:
    """Whose backup it is.

    Args:
        namespace: ``database.collection``.
        cluster_id: the cluster's own identity, from config.version or the replica set's configuration.
        collection_uuid: 32 lower-case hex characters; a collection dropped and made anew has another.
        sharded: whether the collection is sharded as the backup begins.
    """

    namespace: str
    cluster_id: str
    collection_uuid: str
    sharded: bool


@dataclass(frozen=True)
class Manifest:
    """What a finished backup holds; times are UTC ISO-8601, sizes are bytes.

    Args:
        folder: where the backup lies; not stored, since folders move.
        engine: ``native``, ``mongodump``, or ``external`` where somebody else has the documents.
        operation_time_start: the logical time from which the oplogs tell what the backup may not have seen.
        files: size and SHA-256 by path within the folder.
        tool: the program that read, and its version.
        point: of which moment the documents are, as ``statement`` and ``at``; what the cluster did at ``start`` and
            ``end``; under ``looked_at`` the newest look that found the live documents equal, which the operation times
            are then of.
        external: what is known of the backup that somebody else took; None for a dump in this folder.
        verified: when every file was last read again and found whole.
        restore_checked: when, how many documents and into which namespace it was last restored and compared; for an
            external backup the reference of the test that the operator declared.
    """

    folder: Path
    engine: str
    namespace: str
    cluster_id: str
    collection_uuid: str
    sharded_at_start: bool
    started: str
    finished: str
    operation_time_start: Timestamp | None
    operation_time_end: Timestamp | None
    documents: int
    bytes: int
    files: Mapping[str, Mapping[str, Any]]
    digest: Digest
    tool: str = ""
    point: Mapping[str, Any] = field(default_factory=dict)
    external: Mapping[str, Any] | None = None
    verified: str | None = None
    restore_checked: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of manifest.json."""
        data: dict[str, Any] = {"format": FORMAT}
        for name in (item.name for item in dataclasses.fields(self) if item.name != "folder"):
            value = getattr(self, name)
            if isinstance(value, Timestamp):
                value = [value.time, value.inc]
            data[name] = value.to_json() if isinstance(value, Digest) else value
        return data


def read_manifest(folder: Path) -> Manifest:
    """Read a backup's manifest.

    Raises:
        PreconditionFailed: there is none: the backup was never finished.
        VerificationFailed: it can't be understood.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise PreconditionFailed(f"{path} does not exist: the backup was never finished. Take a new one.") from None
    except ValueError as error:
        raise VerificationFailed(f"{path} is no JSON ({error}). Take a new backup.") from error
    if data.get("format") != FORMAT:
        raise VerificationFailed(f"{path} has format {data.get('format')!r}; this version reads {FORMAT}.")
    try:
        fields = {item.name: data[item.name] for item in dataclasses.fields(Manifest) if item.name != "folder"}
        for name in ("operation_time_start", "operation_time_end"):
            fields[name] = Timestamp(*fields[name]) if fields[name] is not None else None
        fields["digest"] = Digest.from_json(fields["digest"])
        return Manifest(folder=folder, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationFailed(f"{path} lacks or garbles {error}. Take a new backup.") from error


def mark(folder: Path, **changes: Any) -> Manifest:
    """Change fields of a backup's manifest in one step."""
    manifest = dataclasses.replace(read_manifest(folder), **changes)
    write_json(folder / MANIFEST, manifest.to_json())
    return manifest


def find_backups(root: Path, namespace: str, cluster_id: str, collection_uuid: str) -> list[Manifest]:
    """Return the finished backups of exactly this collection among the folders of ``root``, newest first."""
    found = []
    for path in root.glob(f"*/{MANIFEST}"):
        try:
            manifest = read_manifest(path.parent)
        except VerificationFailed:
            continue
        if (manifest.namespace, manifest.cluster_id, manifest.collection_uuid) == (
            namespace,
            cluster_id,
            collection_uuid,
        ):
            found.append(manifest)
    return sorted(found, key=lambda manifest: manifest.finished, reverse=True)


@dataclass(frozen=True)
class Retained:
    """The finished backups below a folder: how many, and how many bytes they are."""

    backups: int
    bytes: int

    def to_json(self) -> dict[str, int]:
        """Return both as JSON data."""
        return dataclasses.asdict(self)

    @property
    def text(self) -> str:
        """Both for people."""
        return f"{self.backups} finished backups of {self.bytes / 1e6:.1f} MB"


def retained(root: Path) -> Retained:
    """Count the finished backups of a collection, of whatever identity. Which of them go is the operator's decision."""
    folders = [path.parent for path in root.glob(f"*/{MANIFEST}")]
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    return Retained(len(folders), sum(sizes))


def now() -> str:
    """Return the time as UTC ISO-8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def backup_gap(manifest: Manifest) -> tuple[str, ...]:
    """Say which documents are in no backup, where the baseline of hashes is younger than the documents' backup."""
    if not manifest.external:
        return ()
    taken = manifest.external.get("time")
    return (f"documents written between {taken} and {manifest.finished} are in no backup, their hashes alone are kept",)
