"""The backup before a migration: taken or recognised, verified, and tried by restoring it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, step
from credscale.mongo import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from credscale.mongo.backup import Access
    from credscale.mongo.backup_manifest import Manifest
    from credscale.mongo.commands import Client
    from credscale.mongo.digest import Digest

SCRATCH_DATABASE = "credscale_restore_check"


@dataclass(frozen=True)
class Target:
    """A collection as a backup knows it, and the folder that holds its backups."""

    namespace: str
    cluster_id: str
    uuid: str
    sharded: bool
    engine: str
    root: Path

    def backups(self) -> list[Manifest]:
        """Return the finished backups of exactly this collection, newest first."""
        from credscale.mongo.backup import find_backups

        return find_backups(self.root, self.namespace, self.cluster_id, self.uuid)

    def baseline(self) -> Manifest:
        """Return the newest verified backup.

        Raises:
            PreconditionFailed: there is none.
        """
        found = next((manifest for manifest in self.backups() if manifest.verified), None)
        if found is None:
            raise PreconditionFailed(
                f"there is no verified backup of {self.namespace} under {self.root}. Run backup first, with the same "
                "backup_directory"
            )
        return found


def target_of(ctx: Context, namespace: str, backup_directory: str) -> Target:
    """Read whose backups are wanted and where they lie: ``<backup_directory>/<environment>/<namespace>``.

    Raises:
        PreconditionFailed: the collection does not exist.
    """
    client = ctx.clients.mongo()
    collection = facts.collection(client, namespace)
    if collection is None:
        raise PreconditionFailed(f"{namespace} does not exist. Check the namespace")
    server = facts.server(client)
    return Target(
        namespace=namespace,
        cluster_id=server.cluster_id,
        uuid=collection.uuid,
        sharded=facts.sharded_collection(client, namespace) is not None,
        engine=server.engine,
        root=Path(backup_directory).expanduser() / ctx.environment.name / namespace,
    )


def live_digest(ctx: Context, client: Client, namespace: str) -> Digest:
    """Digest a collection as it is now, telling the progress."""
    from credscale.mongo.digest import digest_documents
    from credscale.mongo.scan import scan_raw

    name, coll = facts.split_namespace(namespace)
    size = facts.data_size(client, namespace)
    return digest_documents(scan_raw(client[name][coll]), _progress(ctx, size.bytes))


def _progress(ctx: Context, total: int) -> Callable[[int, int], None]:
    return lambda _documents, done: ctx.progress(done, max(total, done), "bytes")


@step()
def backup(ctx: Context, *, namespace: str, backup_directory: str) -> Finding:
    """Take a backup of the collection and verify it, unless a verified one of the same data is there.

    Before the collection is sharded, "the same data" means an equal digest of every document. Once it is sharded, the
    newest backup from before is the baseline of the migration under way and is kept: what writers did since is told
    apart later by the oplogs.

    Args:
        namespace: ``database.collection``.
        backup_directory: the folder on this machine that holds all backups.
    """
    target = target_of(ctx, namespace, backup_directory)
    kept = _kept(ctx, target)
    if kept is not None:
        reason = "is the baseline of the migration under way" if target.sharded else "holds the same data"
        found = "a real run reads it again" if ctx.dry_run else "it was read again and found whole"
        return Finding(f"the backup {kept.folder} {reason}; {found}", _output(kept, "kept"))
    client = ctx.clients.mongo()
    size = facts.data_size(client, namespace)
    folder = target.root / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    what = f"back up {namespace} ({size.documents} documents, {size.bytes / 1e6:.1f} MB) to {folder}"
    ctx.apply(what, _dump, ctx, client, target, folder, size.bytes)
    if ctx.planning:
        return Finding(f"{namespace} would be backed up to {target.root}", {"folder": str(target.root)})
    manifest = _verify(ctx, folder, size.bytes)
    return Finding(
        f"{manifest.documents} documents are in {folder}, read again and found whole", _output(manifest, "taken")
    )


def _kept(ctx: Context, target: Target) -> Manifest | None:
    """Return the backup that makes a new one needless, after reading its files again."""
    found = target.backups()
    if target.sharded:
        found = [manifest for manifest in found if manifest.verified and not manifest.sharded_at_start]
    if not found or not (target.sharded or _same_data(ctx, target, found[0])):
        return None
    if ctx.dry_run:  # reading the files and noting the time in the manifest is for real runs
        return found[0]
    try:
        return _verify(ctx, found[0].folder, found[0].bytes)
    except VerificationFailed as problem:
        if target.sharded:
            raise
        ctx.note(f"the backup {found[0].folder} is damaged, so a new one is taken: {problem}")
        return None


def _same_data(ctx: Context, target: Target, manifest: Manifest) -> bool:
    client = ctx.clients.mongo()
    if facts.data_size(client, target.namespace).documents != manifest.documents:
        return False
    if ctx.dry_run:
        ctx.note("the number of documents equals the newest backup's; a real run compares every document")
        return True
    return not live_digest(ctx, client, target.namespace).differing(manifest.digest)


def _dump(ctx: Context, client: Client, target: Target, folder: Path, needed: int) -> Manifest:
    from credscale.mongo.backup import BackupFacts, dump

    name, coll = facts.split_namespace(target.namespace)
    return dump(
        client[name][coll],
        folder,
        facts=BackupFacts(target.namespace, target.cluster_id, target.uuid, target.sharded),
        needed=needed,
        access=None if target.engine == "simulated" else _access(ctx),
        on_progress=_progress(ctx, needed),
    )


def _access(ctx: Context) -> Access:
    from pymongo.uri_parser import parse_uri

    from credscale.mongo.backup import Access

    uri = ctx.clients.mongo_uri()
    return Access(re.sub(r"(//[^:@/]*):[^@/]*@", r"\1@", uri), parse_uri(uri)["password"])


def _verify(ctx: Context, folder: Path, total: int) -> Manifest:
    from credscale.mongo.backup import verify

    return verify(folder, _progress(ctx, total))


def _output(manifest: Manifest, baseline: str) -> dict[str, Any]:
    return {
        "folder": str(manifest.folder),
        "documents": manifest.documents,
        "bytes": manifest.bytes,
        "fingerprint": manifest.digest.fingerprint,
        "engine": manifest.engine,
        "baseline": baseline,
        "verified": manifest.verified,
    }


@step()
def restore_check(ctx: Context, *, namespace: str, backup_directory: str, sample: int = 0) -> Finding:
    """Restore the newest backup into a scratch collection, compare every document, and drop it again.

    The scratch collection lies in the same cluster, unsharded, without indexes: it needs room for the data once more.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
        sample: restore only so many documents; 0 restores all.
    """
    client, coll = ctx.clients.mongo(), facts.split_namespace(namespace)[1]
    target, scratch = target_of(ctx, namespace, backup_directory), f"{SCRATCH_DATABASE}.{coll}"
    # A plan leaves the reading of a finished backup, which would verify it, to the real run.
    manifest = next((found for found in target.backups() if found.verified or ctx.dry_run), None)
    if manifest is None:
        ctx.require(False, PreconditionFailed(f"there is no verified backup under {target.root}. Run backup first"))
        ctx.apply(f"restore the backup into {scratch}, compare it and drop {scratch}", _restore)
        return Finding("the backup would be restored and compared once it is taken")
    wanted = min(sample, manifest.documents) if sample > 0 else manifest.documents
    done = manifest.restore_checked
    if done is not None and int(done["documents"]) >= wanted:
        return Finding(
            f"the backup {manifest.folder.name} was restored and compared already, at {done['time']}", dict(done)
        )
    limit = wanted if wanted < manifest.documents else None
    what = f"restore {wanted} documents of {manifest.folder.name} into {scratch}, compare them and drop it again"
    result = ctx.apply(what, _try_out, ctx, client, manifest, scratch, limit)
    if result is None:
        return Finding(f"{wanted} documents would be restored from {manifest.folder.name} and compared")
    return Finding(
        f"{wanted} documents were restored from {manifest.folder.name} and are byte for byte the same", result
    )


def _try_out(ctx: Context, client: Client, manifest: Manifest, scratch: str, limit: int | None) -> dict[str, Any]:
    """Restore, compare and drop as one change: what a killed run left half-way is worth nothing to the next one.

    A scratch collection that differs is left for looking at.
    """
    from credscale.mongo.backup import mark

    _drop_scratch(client)
    sent = _restore(ctx, client, manifest, scratch, limit)
    _compare(ctx, client, manifest, scratch, sent, limit)
    _drop_scratch(client)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    result = {"time": time, "documents": sent.documents, "namespace": scratch}
    mark(manifest.folder, restore_checked=result)
    return result


def _restore(ctx: Context, client: Client, manifest: Manifest, scratch: str, limit: int | None) -> Digest:
    from credscale.mongo.backup import restore

    name, coll = facts.split_namespace(scratch)
    return restore(manifest.folder, client[name][coll], limit=limit, on_progress=_progress(ctx, manifest.bytes))


def _compare(ctx: Context, client: Client, manifest: Manifest, scratch: str, sent: Digest, limit: int | None) -> None:
    expected = sent if limit is not None else manifest.digest
    found = live_digest(ctx, client, scratch)
    if found.differing(expected):
        raise VerificationFailed(
            f"{scratch} holds {found.documents} documents with fingerprint {found.fingerprint} after the restore, "
            f"expected {expected.documents} with {expected.fingerprint}. The backup {manifest.folder} can't be "
            f"trusted: look at {scratch}, then take a new backup. Nothing else was changed",
            {"expected": expected.fingerprint, "found": found.fingerprint, "scratch": scratch},
        )


def _drop_scratch(client: Client) -> None:
    """Drop the scratch database, which is ours alone; dropping its collection would leave it registered."""
    client.drop_database(SCRATCH_DATABASE)
