"""The proof after a migration: exact counts, and every document compared with the backup."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.core.errors import CredscaleError, PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, Status, probe, step
from credscale.mongo.backup.target import bytes_progress, logical_time, target_of
from credscale.mongo.chunks.distribution import Owned, active_migrations, owned_and_orphaned
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying
from credscale.mongo.documents.digest import digest_documents
from credscale.mongo.documents.scan import scan_raw
from credscale.mongo.documents.snapshot import View, estimated_seconds, is_moment_gone, view_of
from credscale.mongo.proof.comparison import Comparison, Proof, compare_with, no_oplog, written_since
from credscale.mongo.proof.duplicates import Neighbours, advice, confirmed, copy_rows
from credscale.mongo.proof.findings import finding_rows, loss_text, what_to_do

if TYPE_CHECKING:
    from pathlib import Path

    from bson import Timestamp

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.documents.digest import Digest

RECORD = "migration_verified.json"
COUNT_ATTEMPTS = 3
PAUSE_SECONDS = 1.0


@probe()
def verify_counts(ctx: Context, *, namespace: str, shard_key: str, backup_directory: str) -> Finding:
    """Count the documents exactly, and each shard's owned and orphaned ones apart.

    ``count`` without a filter counts orphans and documents under way (§4.1); here both numbers come from the shard-key
    index, the sum by way of mongos and the parts from each shard's own filter (§4.2, MongoDB 4.4 and later). Orphans
    wait for their deletion, 15 minutes by default, and are no fault. A difference to the backup may be writers' doing,
    and while they write no two counts are of one moment: ``verify_digest`` tells.

    Args:
        namespace: ``database.collection``.
        shard_key: such as ``createdAt:hashed,userId:1``.
        backup_directory: as for ``backup``.
    """
    client, key = ctx.clients.mongo(timeout=LONG_SECONDS), facts.parse_key(shard_key)
    if facts.sharded_collection(client, namespace) is None:
        raise PreconditionFailed(f"{namespace} is not sharded. Run shard_collection first")
    index = facts.supporting_index(facts.indexes(client, namespace), key)
    if index is None:
        raise PreconditionFailed(
            f"{namespace} has no index that starts with {facts.key_text(key)}: without it no chunk can move. Run "
            "create_shard_key_index"
        )
    exact, owned, spread = _counts(ctx, client, namespace, key, index.name)
    manifest = target_of(ctx, namespace, backup_directory).verified()
    output = _count_output(exact, owned, manifest)
    orphans = sum(shard.orphaned for shard in owned.values())
    parts = [spread or f"{exact} documents, the sum of what the shards own"]
    if orphans:
        parts.append(f"{orphans} orphans wait for their deletion")
    if manifest is not None and manifest.documents != exact:
        parts.append(f"the backup has {manifest.documents}; verify_digest tells whether writers explain it")
    return Finding("; ".join(parts), output)


def _counts(
    ctx: Context, client: Client, namespace: str, key: facts.Key, index: str
) -> tuple[int, dict[str, Owned], str]:
    """Count twice around the shards' own counts, since writers may be active.

    Returns:
        the sum, each shard's part, and how far they are apart where users' writes make every comparison futile.
    """
    since = logical_time(client, namespace)
    for attempt in range(COUNT_ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        before = _exact(client, namespace, index)
        owned = owned_and_orphaned(client, namespace, key, index)
        after = _exact(client, namespace, index)
        total = sum(shard.owned for shard in owned.values())
        if min(before, after) <= total <= max(before, after):
            return after, owned, ""
    moving = active_migrations(client).get(namespace)
    if moving:
        raise VerificationFailed(f"a chunk of {namespace} is moving ({moving}); count again when it is done")
    if _users_write(ctx, namespace, since):
        spread = f"{before} to {after} documents by mongos, {total} owned by the shards, counted while users write"
        ctx.note(f"{spread}: no two of these are of one moment, so verify_digest has to tell")
        return after, owned, spread
    rows = _owned_rows(owned)
    raise VerificationFailed(
        f"mongos counts {after} documents in {namespace}, the shards together own {total}. A document is owned twice "
        "or by nobody. Run flushRouterConfig on every mongos, count again, then run verify_digest. "
        f"{_keeps_running(ctx)}",
        {"rows": rows, "count": after, "owned": total},
    )


def _users_write(ctx: Context, namespace: str, since: Timestamp | None) -> bool:
    """Tell whether the oplogs show a user's write after a time; where they can't be read nobody is excused by them."""
    from bson import Timestamp
    from pymongo.errors import PyMongoError

    if since is None:
        return False
    try:
        return next(written_since(ctx, namespace, Timestamp(since.time, since.inc + 1)), None) is not None
    except (PyMongoError, CredscaleError):
        return False


def _keeps_running(ctx: Context) -> str:
    """Return what a probe, which changes nothing, leaves to the operator."""
    return (
        "The balancer is put back to what it was before the run; stop it with: "
        f"invoke mongo.stop-balancer --env {ctx.environment.name}"
    )


def _exact(client: Client, namespace: str, index: str) -> int:
    from pymongo.read_concern import ReadConcern

    name, coll = facts.split_namespace(namespace)
    collection = client.get_database(name, read_concern=ReadConcern("majority"))[coll]
    return retrying(lambda: collection.count_documents({}, hint=index))


def _owned_rows(owned: dict[str, Owned]) -> list[dict[str, Any]]:
    return [{"shard": shard, "owned": each.owned, "orphaned": each.orphaned} for shard, each in owned.items()]


def _count_output(exact: int, owned: dict[str, Owned], manifest: Manifest | None) -> dict[str, Any]:
    before = manifest.documents if manifest is not None else None
    return {
        "rows": _owned_rows(owned),
        "documents": exact,
        "orphaned": sum(shard.orphaned for shard in owned.values()),
        "before_after": [{"what": "documents, counted exactly", "before": before, "after": exact}],
    }


@dataclass(frozen=True)
class Reading:
    """A collection read from end to end and compared; ``view`` says whether all of it was seen at one moment."""

    live: Digest
    neighbours: Neighbours
    comparison: Comparison
    view: View


@probe(reads_all=True)
def verify_digest(ctx: Context, *, namespace: str, backup_directory: str) -> Finding:
    """Compare every document with the backup, and explain each difference by the shards' oplogs.

    A document that moved stays byte for byte the same, so any difference is either a writer's doing, which an oplog
    shows, or a loss. Also documents written since the backup and gone now are found, where the oplogs reach back, and
    every `_id` that two shards own.

    Where the shards keep enough history (5.0 and later), all of it is read as of one moment; elsewhere the buckets that
    differ are read again until two looks agree. The output says which.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
    """
    target = target_of(ctx, namespace, backup_directory)
    manifest = target.baseline()
    reading = _read(ctx, manifest)
    live, comparison = reading.live, reading.comparison
    output = _digest_output(manifest, reading)
    if comparison.proof is Proof.LOSS:
        found, not_asked = confirmed(ctx, namespace, reading.neighbours.ids)
        output |= {"rows": finding_rows(comparison.findings), "what_to_do": what_to_do(comparison.findings)}
        output |= {"copies": copy_rows(found), "not_checked": [*output["not_checked"], *not_asked]}
        text = loss_text(namespace, manifest, comparison)
        raise VerificationFailed(f"{text}. {_keeps_running(ctx)}", output)
    _refuse_duplicates(ctx, namespace, reading.neighbours, output)
    if comparison.proof is Proof.NONE:
        record = read_record(manifest.folder)
        if record is None:
            output |= {"rows": finding_rows(comparison.findings)}
            raise VerificationFailed(
                f"{namespace} differs from the backup {manifest.folder} in {comparison.buckets} of 1024 buckets, "
                f"and it cannot be proven that writers did it: {comparison.reason}. Mend that and run verify_digest "
                "again; where it can't be mended compare while nobody writes, or look at the documents named in the "
                "output",
                output,
            )
        output["not_checked"].append(
            f"differences to the backup of {manifest.finished}: {comparison.reason}; the "
            f"migration was verified at {record['time']}"
        )
        return Finding(f"the migration was verified at {record['time']}; what changed since is not compared", output)
    written = sum(comparison.concurrent.values())
    how = f"; {written} differences are writers' own, by the shards' oplogs" if written else ", byte for byte"
    if manifest.sharded_at_start:
        output["not_checked"].append(_taken_late(manifest))
        how += f"; {_taken_late(manifest)}"
    return Finding(f"{live.documents} documents compare with the backup of {manifest.documents}{how}", output)


def _read(ctx: Context, manifest: Manifest) -> Reading:
    """Read and compare as of one moment where that is possible, and without it where it turns out not to be."""
    from pymongo.errors import OperationFailure

    size = facts.data_size(ctx.clients.mongo(), manifest.namespace).bytes
    unreadable = no_oplog(ctx, manifest)  # asked before what can take hours, so that it can be mended before
    if unreadable:
        ctx.note(f"writers' doing can't be told from loss: {unreadable}")
    with view_of(ctx, manifest.namespace, estimated_seconds(manifest, size)) as view:
        try:
            return _read_in(ctx, manifest, view, size, unreadable)
        except OperationFailure as error:
            if view.session is None or not is_moment_gone(error):
                raise
            reason = f"the shards no longer hold the moment that was read (code {error.code})"
    ctx.note(f"{reason}; reading again without a snapshot")
    return _read_in(ctx, manifest, View(reason=reason), size, unreadable)


def _read_in(ctx: Context, manifest: Manifest, view: View, size: int, unreadable: str) -> Reading:
    if view.at is None:
        view = dataclasses.replace(view, began=logical_time(ctx.clients.mongo(), manifest.namespace))
    name, coll = facts.split_namespace(manifest.namespace)
    neighbours = Neighbours()
    documents = neighbours.watch(scan_raw(ctx.clients.mongo()[name][coll], session=view.session))
    live = digest_documents(documents, bytes_progress(ctx, size))
    return Reading(live, neighbours, compare_with(ctx, manifest, live, view, unreadable), view)


def _refuse_duplicates(ctx: Context, namespace: str, neighbours: Neighbours, output: dict[str, Any]) -> None:
    """Fail on `_id`s that two shards own, also when the backup had them already: they break the next move."""
    found, not_asked = confirmed(ctx, namespace, neighbours.ids)
    if not found:
        return
    ids = list(dict.fromkeys(each.id for each in found))
    output |= {"rows": copy_rows(found), "duplicated": ids}
    output["not_checked"] += not_asked
    raise VerificationFailed(
        f"{namespace} has {neighbours.count} _id in more than one document; the first is {ids[0]}. {advice(found)}. "
        f"{_keeps_running(ctx)}",
        output,
    )


def _taken_late(manifest: Manifest) -> str:
    return f"the baseline was taken after sharding; it proves nothing about moves before {manifest.started}"


def _digest_output(manifest: Manifest, reading: Reading) -> dict[str, Any]:
    before, live, comparison = manifest.digest, reading.live, reading.comparison
    pairs = (
        ("documents, read and compared", before.documents, live.documents),
        ("bytes", before.bytes, live.bytes),
        ("fingerprint of all contents", before.fingerprint, live.fingerprint),
    )
    before_after = [{"what": what, "before": old, "after": new} for what, old, new in pairs]
    return {
        "rows": before_after,
        "before_after": before_after,
        "documents": live.documents,
        "fingerprint": live.fingerprint,
        "folder": str(manifest.folder),
        "read": reading.view.text,
        "differing_buckets": comparison.buckets,
        "passes": comparison.passes,
        "concurrent": comparison.concurrent,
        "counts": comparison.counts,
        **comparison.findings,
        "not_checked": list(comparison.not_checked),
    }


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the note that a migration was verified against this backup; None when there is none."""
    path = folder / RECORD
    if not path.exists():
        return None
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


@step()
def record_verification(ctx: Context, *, namespace: str, backup_directory: str) -> Finding:
    """Note in the backup's folder that the migration was verified against it.

    Oplogs are short: a later run can't tell writers' differences any more, and finds here that it was done in time.
    Nothing is noted in a backup that was taken after the sharding, which says nothing about the moves before.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
    """
    manifest = target_of(ctx, namespace, backup_directory).baseline()
    if manifest.sharded_at_start:
        return Finding(f"nothing is noted: {_taken_late(manifest)}")
    record = read_record(manifest.folder)
    if record is not None:
        return Finding(f"the verification of {record['time']} is noted already", record)
    # SKIPPED is what a dry run makes of it.
    proof = next(
        (
            result
            for result in reversed(ctx.results)
            if result.step == "verify_digest"
            and result.params.get("namespace") == namespace
            and result.status in (Status.OK, Status.SKIPPED)
        ),
        None,
    )
    if proof is None:
        raise PreconditionFailed(f"{namespace} was not verified in this run. Run verify_digest before")
    note = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "documents": proof.output.get("documents"),
        "fingerprint": proof.output.get("fingerprint"),
        "concurrent": proof.output.get("concurrent"),
    }
    ctx.apply(f"note the verification in {manifest.folder / RECORD}", _write, manifest.folder, note)
    return Finding("the verification is noted in the backup's folder", note)


def _write(folder: Path, note: dict[str, Any]) -> None:
    from credscale.mongo.backup.dump_files import write_json

    write_json(folder / RECORD, note)
