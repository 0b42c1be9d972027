"""Compare a live collection with a backup, and divide the differences into writers' doing and loss."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.mongo.backup.manifest import backup_gap
from credscale.mongo.backup.target import logical_time
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.members import first_answering
from credscale.mongo.documents.digest import BUCKETS
from credscale.mongo.documents.raw import RAW
from credscale.mongo.documents.snapshot import View

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from bson import Timestamp
    from pymongo.client_session import ClientSession

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.facts import Shard
    from credscale.mongo.documents.digest import Difference, Digest, DocumentId
    from credscale.mongo.documents.oplog import Operation
    from credscale.mongo.proof.explanation import Explained

PASSES = 3
PAUSE_SECONDS = 1.0
GROUP_DOCUMENTS = 2_000_000  # about 400 MB of hashes on each side
LOOKUP = 100
SHOWN_IDS = 1000
KINDS = (
    "lost",
    "lost_inserts",
    "lost_updates",
    "unexpected_added",
    "unexpected_changed",
    "duplicated",
    "lost_deletes",
)
NO_RIGHTS = frozenset({13, 18})  # Unauthorized, AuthenticationFailed
NO_VIEW = View()


class Proof(Enum):
    """What the comparison proves: nothing is lost, something is, or that it can't be told."""

    WHOLE = 1
    LOSS = 2
    NONE = 3


@dataclass(frozen=True)
class Comparison:
    """A comparison's result.

    Args:
        proof: the verdict.
        buckets: how many of the 1024 buckets differ.
        passes: how often the differing buckets were read.
        concurrent: differences that writers made, by kind.
        findings: `_id`s in words by kind, for what nobody explains; at most ``SHOWN_IDS`` of each.
        counts: how many there are of each kind, shown or not.
        reason: why it can't be told.
        not_checked: what this comparison leaves open, one sentence each.
    """

    proof: Proof
    buckets: int
    passes: int
    concurrent: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    not_checked: tuple[str, ...] = ()


def compare_with(
    ctx: Context, manifest: Manifest, live: Digest, view: View = NO_VIEW, unreadable: str | None = None
) -> Comparison:
    """Compare a live collection's digest with a backup's and explain the differences.

    Args:
        ctx: the run; its clients reach mongos and the shards' members.
        manifest: the backup.
        live: the digest of the collection as it was just read.
        view: how it was read; of a snapshot, the differing buckets and the oplogs are read as of the same moment.
        unreadable: what ``no_oplog`` said before the collection was read; None asks it now.
    """
    from credscale.mongo.documents.oplog import OplogUnusable

    buckets = manifest.digest.differing(live)
    reason = no_oplog(ctx, manifest) if unreadable is None else unreadable
    if not reason:
        try:
            return _explained(ctx, manifest, buckets, view)
        except OplogUnusable as error:
            reason = str(error)
    gap = backup_gap(manifest)
    if not buckets:
        sentence = f"documents that were written since the backup and are gone or as before now: {reason}"
        return Comparison(Proof.WHOLE, 0, 0, findings=_named({}), not_checked=(sentence, *gap))
    difference = _difference(ctx, manifest, buckets, view)
    found = {"lost": difference.missing, "unexpected_added": difference.added}
    found |= {"unexpected_changed": difference.changed, "duplicated": difference.duplicated}
    return Comparison(
        Proof.NONE, len(buckets), 1, findings=_named(found), counts=_counted(found), reason=reason, not_checked=gap
    )


def no_oplog(ctx: Context, manifest: Manifest) -> str:
    """Return why the oplogs can't tell what writers did since the backup, and what helps; empty when they can."""
    from pymongo.errors import OperationFailure, PyMongoError

    from credscale.mongo.cluster.commands import retrying
    from credscale.mongo.documents.oplog import covers

    since = manifest.operation_time_start
    if since is None:
        return "the backup holds no logical time from which the oplogs could be read"
    shards = facts.shards(ctx.clients.mongo())
    removed = set((manifest.point.get("start") or {}).get("shards", ())) - {shard.id for shard in shards}
    if removed:
        return f"what was written on {', '.join(sorted(removed))} is not known: removed since the backup"
    for shard in shards:
        try:
            if not retrying(lambda shard=shard: covers(first_answering(ctx, shard), since)):  # type: ignore[misc]
                return f"the oplog of {shard.id} no longer reaches back to the backup of {manifest.started}"
        except OperationFailure as error:
            return f"the oplog of {shard.id} can't be read (code {error.code}{_rights(shard.id, error.code)})"
        except PyMongoError as error:
            return f"the oplog of {shard.id} can't be read ({type(error).__name__}): check its members"
    return ""


def _rights(shard: str, code: int | None) -> str:
    """Return what helps against a refusal: the users of a shard are its own (§2.5)."""
    if code not in NO_RIGHTS:
        return ""
    what = "does not know the user or its password" if code == 18 else "does not let the user read it"
    return (
        f": {shard} {what}; create on each shard the user of mongo.uri with the same name and password, clusterMonitor "
        "and read on local, from 8.0 also directShardOperations"
    )


def _explained(ctx: Context, manifest: Manifest, buckets: list[int], view: View) -> Comparison:
    """Explain the differences; only what every look finds is believed."""
    explained, findings, number = settled(
        # What is of one moment looks the same each time.
        lambda: _look(ctx, manifest, buckets, view),
        PASSES if view.at is None else 1,
    )
    concurrent = explained.concurrent
    written = {item.name: len(getattr(concurrent, item.name)) for item in dataclasses.fields(concurrent)}
    sentences = []
    if explained.partly:
        sentences.append(
            f"the content of {explained.partly} documents that users wrote meanwhile, but for the fields that they set "
            "last: the oplogs do not tell the rest"
        )
    if explained.equal_again:
        sentences.append(
            f"{explained.equal_again} documents were written since the backup and are equal to it all the same; "
            f"for {explained.equal_unknown} of them the oplogs do not tell whether that is what was written"
        )
    proof = Proof.LOSS if findings else Proof.WHOLE
    remarks = (*sentences, *backup_gap(manifest))
    return Comparison(proof, len(buckets), number, written, _named(findings), _counted(findings), not_checked=remarks)


def _look(ctx: Context, manifest: Manifest, buckets: list[int], view: View) -> Explained:
    """Read the differences and the oplogs, and explain the ones by the others."""
    from credscale.mongo.proof.explanation import Times, explain

    client = ctx.clients.mongo()
    difference = _difference(ctx, manifest, buckets, view)
    reached = view.at or logical_time(client, manifest.namespace)
    again = partial(written_again, ctx, manifest, at=view.at)
    return explain(
        difference,
        _operations(ctx, manifest, view, reached),
        lambda ids: documents_now(client, manifest, ids, view.session),
        Times(_complete(manifest), view.at or view.began, reached),
        again,
    )


def written_again(
    ctx: Context, manifest: Manifest, found: Mapping[DocumentId, Sequence[bytes]], at: Timestamp | None = None
) -> Iterator[Operation]:
    """Read again what users wrote to some documents since the backup, without what met orphans of them.

    Args:
        ctx: the run.
        manifest: the backup.
        found: the documents as they were just seen, by `_id`.
        at: up to when they are read; None is now.
    """
    from credscale.mongo.proof.ownership import owners, without_orphans

    client, since = ctx.clients.mongo(), manifest.operation_time_start
    if since is None:
        return iter(())
    until = at or logical_time(client, manifest.namespace)
    written = written_since(ctx, manifest.namespace, since, found.keys(), until)
    written = (item for item in written if at is None or item.ts <= at)
    return without_orphans(written, owners(client, manifest.namespace, found))


def settled(
    look: Callable[[], Explained], passes: int = PASSES
) -> tuple[Explained, dict[str, tuple[DocumentId, ...]], int]:
    """Look again until two looks suspect the same documents, or none is left.

    Writers go on between reading the oplogs and looking, so each look suspects a few documents wrongly, but not the
    same ones twice. What is truly lost stays lost.

    Args:
        look: reads the differences and the oplogs anew and explains one by the other.
        passes: how many looks at most.

    Returns:
        the last look, the documents by kind that every look found unexplained (empty when there are none), and the
        number of looks.
    """
    suspects, number = None, 0
    while True:
        number += 1
        found = look()
        seen = {item for kind in KINDS for item in getattr(found, kind)}
        remaining = seen if suspects is None else suspects & seen
        if not remaining or remaining == suspects or number >= passes:
            break
        suspects = remaining
        time.sleep(PAUSE_SECONDS)
    kinds = {kind: tuple(item for item in getattr(found, kind) if item in remaining) for kind in KINDS}
    return found, {kind: items for kind, items in kinds.items() if items}, number


def _complete(manifest: Manifest) -> Timestamp | None:
    """Return a time at which the backup had read everything; routers that round down may be a second behind."""
    from bson import Timestamp

    end = manifest.operation_time_end
    return None if end is None else Timestamp(end.time + 1, 0)


def _difference(ctx: Context, manifest: Manifest, buckets: list[int], view: View) -> Difference:
    """List what differs in these buckets."""
    from credscale.mongo.backup.baseline import baseline
    from credscale.mongo.documents.digest import Difference, hashed
    from credscale.mongo.documents.scan import scan_raw
    from credscale.mongo.proof.joining import OutOfOrderError, difference

    if not buckets:
        return Difference()
    name, coll = facts.split_namespace(manifest.namespace)
    wanted = frozenset(buckets)
    before = baseline(manifest.folder, manifest.namespace, wanted)
    live = hashed(scan_raw(ctx.clients.mongo()[name][coll], session=view.session), wanted)
    expected = manifest.documents * len(buckets) // BUCKETS
    try:
        return difference(
            before, live, lambda number: ctx.progress(number, max(number, expected), "documents compared")
        )
    except OutOfOrderError:
        ctx.note("the documents are not in the order of _id, in the backup or here; comparing bucket by bucket")
        return _by_buckets(ctx, manifest, buckets, view)


def _by_buckets(ctx: Context, manifest: Manifest, buckets: list[int], view: View) -> Difference:
    """List what differs in these buckets where no order helps: in groups that fit into memory, a scan for each."""
    from credscale.mongo.backup.baseline import baseline_hashes
    from credscale.mongo.documents.digest import Difference, compare, document_hashes
    from credscale.mongo.documents.scan import scan_raw

    name, coll = facts.split_namespace(manifest.namespace)
    at_once = max(1, GROUP_DOCUMENTS * BUCKETS // max(1, manifest.documents))
    parts = []
    for start in range(0, len(buckets), at_once):
        group = buckets[start : start + at_once]
        before = baseline_hashes(manifest.folder, manifest.namespace, group)
        live = scan_raw(ctx.clients.mongo()[name][coll], session=view.session)
        parts.append(compare(before, document_hashes(live, group)))
        ctx.progress(start + len(group), len(buckets), "buckets")
    fields = [item.name for item in dataclasses.fields(Difference)]
    return Difference(**{each: tuple(item for part in parts for item in getattr(part, each)) for each in fields})


def _operations(ctx: Context, manifest: Manifest, view: View, reached: Timestamp | None) -> Iterator[Operation]:
    """Give what users wrote since the backup, up to the moment at which the collection is seen."""
    since, until = manifest.operation_time_start, view.at
    if since is None:
        return iter(())
    written = written_since(ctx, manifest.namespace, since, until=reached)
    return (item for item in written if until is None or item.ts <= until)


def written_since(
    ctx: Context,
    namespace: str,
    since: Timestamp,
    ids: Collection[DocumentId] | None = None,
    until: Timestamp | None = None,
) -> Iterator[Operation]:
    """Give what users wrote to a collection, shard after shard, each shard's in its order.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        since: the first time wanted.
        ids: only these documents; None gives all.
        until: everything up to here has to be among it; a member that is not there yet is waited for.

    Raises:
        OplogUnusable: an oplog does not hold all of that.
    """
    from credscale.mongo.documents.oplog import user_operations

    shards = facts.shards(ctx.clients.mongo())
    for number, shard in enumerate(shards):
        ctx.progress(number, len(shards), "oplogs read")
        yield from user_operations(partial(_member, ctx, shard, until), shard.id, namespace, since, ids)


def _member(ctx: Context, shard: Shard, until: Timestamp | None) -> Client:
    """Connect to a member of a shard that has everything up to a time."""
    from credscale.mongo.documents.oplog import await_majority

    # Nothing is sent while the server looks through entries of other collections, however long that takes.
    member = first_answering(ctx, shard, timeout=LONG_SECONDS)
    if until is not None:
        await_majority(member, shard.id, until)
    return member


def documents_now(
    client: Client, manifest: Manifest, ids: set[DocumentId], session: ClientSession | None = None
) -> dict[DocumentId, list[bytes]]:
    """Return the raw documents that have these ids now, read at majority through mongos, or in a session's snapshot."""
    from pymongo.read_concern import ReadConcern

    from credscale.mongo.cluster.commands import retrying
    from credscale.mongo.documents.digest import document_id

    name, coll = facts.split_namespace(manifest.namespace)
    collection: Any = client[name].get_collection(coll, codec_options=RAW, read_concern=ReadConcern("majority"))
    values = [item.value for item in ids]
    found: dict[DocumentId, list[bytes]] = {}
    for start in range(0, len(values), LOOKUP):
        query = {"_id": {"$in": values[start : start + LOOKUP]}}
        for document in retrying(lambda query=query: list(collection.find(query, session=session))):  # type: ignore[misc]
            item = document_id(document.raw)
            if item in ids:
                found.setdefault(item, []).append(document.raw)
    return found


def _named(findings: dict[str, tuple[DocumentId, ...]]) -> dict[str, list[str]]:
    """Return the ids in words, at most ``SHOWN_IDS`` of a kind."""
    return {kind: [id_text(item.value) for item in findings.get(kind, ())[:SHOWN_IDS]] for kind in KINDS}


def _counted(findings: dict[str, tuple[DocumentId, ...]]) -> dict[str, int]:
    return {kind: len(findings.get(kind, ())) for kind in KINDS}


def id_text(value: Any) -> str:
    """Return an `_id` for people and JSON: an ObjectId or text as it is, anything else as Extended JSON."""
    from bson import ObjectId, json_util

    return str(value) if isinstance(value, ObjectId | str) else json_util.dumps(value)
