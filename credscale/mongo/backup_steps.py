"""The backup before a migration: taken or recognised, verified, and tried by restoring it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, step
from credscale.mongo import facts
from credscale.mongo.leftovers import leftovers, new_folder, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from bson import Timestamp
    from pymongo.client_session import ClientSession

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

    def from_before_sharding(self) -> Manifest | None:
        """Return the newest verified backup from before a sharded collection was sharded: the only full baseline."""
        found = self.backups() if self.sharded else []
        return next((each for each in found if each.verified and not each.sharded_at_start), None)

    def newest(self) -> Manifest | None:
        """Return the newest finished backup of the collection in its present state; its data may be others."""
        return next((each for each in self.backups() if each.sharded_at_start or not self.sharded), None)

    def verified(self) -> Manifest | None:
        """Return the backup to rely on: one from before the sharding, else the newest that was found whole."""
        return self.from_before_sharding() or next((each for each in self.backups() if each.verified), None)

    def baseline(self) -> Manifest:
        """Return the backup to compare with.

        Raises:
            PreconditionFailed: there is no verified one.
        """
        found = self.verified()
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


def live_digest(ctx: Context, client: Client, namespace: str, session: ClientSession | None = None) -> Digest:
    """Digest a collection as it is now, telling the progress.

    Args:
        ctx: the run.
        client: a connection to mongos.
        namespace: ``database.collection``.
        session: a causally consistent session, to see at least what it has seen.
    """
    from credscale.mongo.digest import digest_documents
    from credscale.mongo.scan import scan_raw

    name, coll = facts.split_namespace(namespace)
    size = facts.data_size(client, namespace)
    return digest_documents(scan_raw(client[name][coll], session=session), _progress(ctx, size.bytes))


def logical_time(client: Client, namespace: str) -> Timestamp | None:
    """Return the time now, such that what is written from here on has a later one in the oplogs."""
    from credscale.mongo.backup import majority_time

    name, coll = facts.split_namespace(namespace)
    with client.start_session(causal_consistency=True) as session:
        return majority_time(client[name][coll], session)


def timed_digest(ctx: Context, client: Client, namespace: str) -> tuple[Digest, Timestamp | None, Timestamp | None]:
    """Digest a collection and return the logical times around it, as a backup has them.

    What the digest may not have seen has a later time in the oplogs than the first one.
    """
    from credscale.mongo.backup import majority_time

    name, coll = facts.split_namespace(namespace)
    with client.start_session(causal_consistency=True) as session:
        since = majority_time(client[name][coll], session)
        digest = live_digest(ctx, client, namespace, session)
        return digest, since, majority_time(client[name][coll], session)


def _progress(ctx: Context, total: int) -> Callable[[int, int], None]:
    return lambda _documents, done: ctx.progress(done, max(total, done), "bytes")


@step()
def backup(ctx: Context, *, namespace: str, backup_directory: str) -> Finding:
    """Take a backup of the collection and verify it, unless a verified one of the same data is there.

    Before the collection is sharded, "the same data" means an equal digest of every document; the oplogs then need to
    reach back to this look only, not to the backup's beginning. Once it is sharded, the newest backup from before is
    the baseline of the migration under way and is kept: what writers did since is told apart later by the oplogs.
    Folders in which a killed run left a part of a dump are removed.

    Args:
        namespace: ``database.collection``.
        backup_directory: the folder on this machine that holds all backups.
    """
    target = target_of(ctx, namespace, backup_directory)
    for leftover in leftovers(target.root):
        what = f"remove the unfinished backup {leftover.folder} of a killed run ({leftover.bytes / 1e6:.1f} MB)"
        ctx.apply(what, remove, leftover.folder)
    kept = _kept(ctx, target)
    if kept is not None:
        migrating = target.from_before_sharding() is not None
        reason = "is the baseline of the migration under way" if migrating else "holds the same data"
        found = "a real run reads it again" if ctx.dry_run else "it was read again and found whole"
        return Finding(f"the backup {kept.folder} {reason}; {found}", _output(kept, "kept"))
    client = ctx.clients.mongo()
    size = facts.data_size(client, namespace)
    folder = new_folder(target.root)
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
    before = target.from_before_sharding()
    found = before if before is not None else target.newest()
    times = None if found is None else {} if before is not None else _same_data(ctx, target, found)
    if found is None or times is None:
        return None
    if ctx.dry_run:  # reading the files and noting the time in the manifest is for real runs
        return found
    try:
        verified = _verify(ctx, found.folder, found.bytes)
    except VerificationFailed as problem:
        if before is not None:
            raise
        ctx.note(f"the backup {found.folder} is damaged, so a new one is taken: {problem}")
        return None
    return _mark(found.folder, times) if times else verified


def _same_data(ctx: Context, target: Target, manifest: Manifest) -> dict[str, Timestamp] | None:
    """Return None when the live data differ; otherwise what the manifest's logical times may be moved up to.

    Whatever was written before the look is either undone or in the backup, so the oplogs from there on explain all.
    """
    client = ctx.clients.mongo()
    # Once it is sharded, the size counts orphans too.
    if not target.sharded and facts.data_size(client, target.namespace).documents != manifest.documents:
        return None
    if ctx.dry_run:
        ctx.note("whether the newest backup holds the same data is not looked at: a real run compares every document")
        return {}
    digest, since, until = timed_digest(ctx, client, target.namespace)
    if digest.differing(manifest.digest):
        return None
    return {} if since is None or until is None else {"operation_time_start": since, "operation_time_end": until}


def _mark(folder: Path, times: dict[str, Timestamp]) -> Manifest:
    from credscale.mongo.backup import mark

    return mark(folder, **times)


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
    manifest = target.verified() or (target.newest() if ctx.dry_run else None)
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
