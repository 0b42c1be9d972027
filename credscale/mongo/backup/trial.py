"""Trying a backup: it is restored into a scratch collection, compared and dropped again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, step
from credscale.mongo.backup.source import source_id
from credscale.mongo.backup.target import bytes_progress, live_digest, target_of
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.documents.digest import Digest

SCRATCH_DATABASE = "credscale_restore_check"


@step()
def restore_check(
    ctx: Context, *, namespace: str, backup_directory: str, sample: int = 0, external_restore_tested: str = ""
) -> Finding:
    """Restore the newest backup into a scratch collection, compare documents, options and indexes, and drop it again.

    The scratch collection lies in the same cluster, unsharded: it needs room for the data and its indexes once more. A
    sample is drawn at random from the whole backup. An external backup can't be restored from here: the operator names
    the proof of its last restore test, or the step reports that it was not checked.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
        sample: restore only so many documents; 0 restores all.
        external_restore_tested: where the restore test of an external backup is recorded, such as a ticket.
    """
    client, coll = ctx.clients.mongo(), facts.split_namespace(namespace)[1]
    target, scratch = target_of(ctx, namespace, backup_directory), f"{SCRATCH_DATABASE}.{coll}"
    # A plan leaves the reading of a finished backup, which would verify it, to the real run.
    manifest = target.verified() or (target.newest() if ctx.dry_run else None)
    if manifest is None:
        ctx.require(False, PreconditionFailed(f"there is no verified backup under {target.root}. Run backup first"))
        ctx.apply(f"restore the backup into {scratch}, compare it and drop {scratch}", _restore)
        return Finding("the backup would be restored and compared once it is taken")
    if manifest.external is not None:
        return _declared_tested(ctx, manifest, external_restore_tested)
    wanted = min(sample, manifest.documents) if sample > 0 else manifest.documents
    done = manifest.restore_checked
    if done is not None and int(done["documents"]) >= wanted:
        return Finding(
            f"the backup {manifest.folder.name} was restored and compared already, at {done['time']}", dict(done)
        )
    part = wanted if wanted < manifest.documents else None
    chosen = "documents, drawn at random from" if part is not None else "documents of"
    what = f"restore {wanted} {chosen} {manifest.folder.name} into {scratch}, compare them and drop it again"
    result = ctx.apply(what, _try_out, ctx, client, manifest, scratch, part)
    if result is None:
        return Finding(f"{wanted} documents would be restored from {manifest.folder.name} and compared")
    built = len(result["indexes"])
    return Finding(
        f"{wanted} documents were restored from {manifest.folder.name} and are byte for byte the same; options and "
        f"{built} indexes are too",
        result,
    )


def _declared_tested(ctx: Context, manifest: Manifest, reference: str) -> Finding:
    """Record that an external backup's restore was tested by somebody, or say that nobody did."""
    from credscale.mongo.backup.manifest import mark

    name, done = source_id(manifest), manifest.restore_checked
    if not reference and done is None:
        sentence = f"whether {name} restores: it can't be restored from here"
        ctx.note(f"not checked: {sentence}. Name the proof of a restore test as external_restore_tested")
        return Finding(
            f"not checked: {sentence}, and no proof of a restore test is named (external_restore_tested)",
            {"not_checked": [sentence], "external": name},
        )
    if done is None or (reference and done["reference"] != reference):
        time = datetime.now(UTC).isoformat(timespec="seconds")
        done = {"time": time, "documents": 0, "namespace": "", "reference": reference}
        ctx.apply(
            f"note that the restore of {name} was tested: {reference}", mark, manifest.folder, restore_checked=done
        )
    return Finding(
        f"the operator declares the restore of {name} tested: {done['reference']}; not checked here",
        {**done, "external": name, "not_checked": [f"the restore test {done['reference']} itself"]},
    )


def _try_out(ctx: Context, client: Client, manifest: Manifest, scratch: str, part: int | None) -> dict[str, Any]:
    """Restore, compare and drop as one change: what a killed run left half-way is worth nothing to the next one.

    A scratch collection that differs is left for looking at.
    """
    from credscale.mongo.backup.manifest import mark
    from credscale.mongo.backup.restore import restore_indexes

    name, coll = facts.split_namespace(scratch)
    _drop_scratch(client)
    sent = _restore(ctx, client, manifest, scratch, part)
    _compare(ctx, client, manifest, scratch, sent, part)
    # After the documents were compared: an index that expires documents would begin at once.
    indexes = restore_indexes(manifest.folder, ctx.clients.mongo(timeout=LONG_SECONDS)[name][coll])
    _drop_scratch(client)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    result = {"time": time, "documents": sent.documents, "namespace": scratch, "indexes": indexes}
    mark(manifest.folder, restore_checked=result)
    return result


def _restore(ctx: Context, client: Client, manifest: Manifest, scratch: str, part: int | None) -> Digest:
    from credscale.mongo.backup.restore import restore

    name, coll = facts.split_namespace(scratch)
    return restore(manifest.folder, client[name][coll], sample=part, on_progress=bytes_progress(ctx, manifest.bytes))


def _compare(ctx: Context, client: Client, manifest: Manifest, scratch: str, sent: Digest, part: int | None) -> None:
    expected = sent if part is not None else manifest.digest
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
    retrying(lambda: client.drop_database(SCRATCH_DATABASE))
