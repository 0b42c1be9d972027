"""Compare a live collection with a backup, and divide the differences into writers' doing and loss."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from credscale.core.clients import LONG_SECONDS
from credscale.mongo import facts
from credscale.mongo.members import first_answering
from credscale.mongo.snapshot import View

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from bson import Timestamp
    from pymongo.client_session import ClientSession

    from credscale.core.context import Context
    from credscale.mongo.backup_manifest import Manifest
    from credscale.mongo.commands import Client
    from credscale.mongo.digest import Difference, Digest, DocumentId
    from credscale.mongo.oplog import Explained, Operation

PASSES = 3
PAUSE_SECONDS = 1.0
GROUP_DOCUMENTS = 2_000_000  # about 400 MB of hashes on each side
LOOKUP = 100
SHOWN_IDS = 1000
KINDS = ("lost", "lost_inserts", "unexpected_added", "unexpected_changed", "duplicated", "lost_deletes")


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


def compare_with(ctx: Context, manifest: Manifest, live: Digest, view: View = View()) -> Comparison:  # noqa: B008 - frozen
    """Compare a live collection's digest with a backup's and explain the differences.

    Args:
        ctx: the run; its clients reach mongos and the shards' members.
        manifest: the backup.
        live: the digest of the collection as it was just read.
        view: how it was read; of a snapshot, the differing buckets and the oplogs are read as of the same moment.
    """
    buckets = manifest.digest.differing(live)
    reason = no_oplog(ctx, manifest)
    if not reason:
        return _explained(ctx, manifest, buckets, view)
    if not buckets:
        sentence = f"documents that were written since the backup and are gone now: {reason}"
        return Comparison(Proof.WHOLE, 0, 0, findings=_named({}), not_checked=(sentence,))
    difference = _difference(ctx, manifest, buckets, view)
    found = {"lost": difference.missing, "unexpected_added": difference.added}
    found |= {"unexpected_changed": difference.changed, "duplicated": difference.duplicated}
    return Comparison(Proof.NONE, len(buckets), 1, findings=_named(found), counts=_counted(found), reason=reason)


def no_oplog(ctx: Context, manifest: Manifest) -> str:
    """Return why the oplogs can't tell what writers did since the backup; empty when they can."""
    from pymongo.errors import PyMongoError

    from credscale.mongo.oplog import covers

    since = manifest.operation_time_start
    if since is None:
        return "the backup holds no logical time from which the oplogs could be read"
    for shard in facts.shards(ctx.clients.mongo()):
        try:
            if not covers(first_answering(ctx, shard), since):
                return f"the oplog of {shard.id} no longer reaches back to the backup of {manifest.started}"
        except PyMongoError as error:
            return f"the oplog of {shard.id} can't be read ({type(error).__name__})"
    return ""


def _explained(ctx: Context, manifest: Manifest, buckets: list[int], view: View) -> Comparison:
    """Explain the differences; only what every look finds is believed."""
    from credscale.mongo.oplog import explain

    client, complete = ctx.clients.mongo(), _complete(manifest)

    def look() -> Explained:
        difference = _difference(ctx, manifest, buckets, view)
        operations = _operations(ctx, manifest, view)
        return explain(difference, operations, lambda ids: present(client, manifest, ids, view.session), complete)

    explained, findings, number = settled(look)
    concurrent = explained.concurrent
    written = {item.name: len(getattr(concurrent, item.name)) for item in dataclasses.fields(concurrent)}
    sentences = []
    if written["updated"]:
        sentences.append(
            f"the content of {written['updated']} documents that users wrote meanwhile: the oplogs tell that, not what"
        )
    proof = Proof.LOSS if findings else Proof.WHOLE
    return Comparison(
        proof, len(buckets), number, written, _named(findings), _counted(findings), not_checked=tuple(sentences)
    )


def settled(look: Callable[[], Explained]) -> tuple[Explained, dict[str, tuple[DocumentId, ...]], int]:
    """Look again until two looks suspect the same documents, or none is left.

    Writers go on between reading the oplogs and looking, so each look suspects a few documents wrongly, but not the
    same ones twice. What is truly lost stays lost.

    Args:
        look: reads the differences and the oplogs anew and explains one by the other.

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
        if not remaining or remaining == suspects or number == PASSES:
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
    """List what differs in these buckets, in groups of buckets that fit into memory."""
    from credscale.mongo.backup_baseline import baseline_hashes
    from credscale.mongo.digest import BUCKETS, Difference, compare, document_hashes
    from credscale.mongo.scan import scan_raw

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


def _operations(ctx: Context, manifest: Manifest, view: View) -> list[Operation]:
    """List what users wrote since the backup, up to the moment at which the collection is seen."""
    since, until = manifest.operation_time_start, view.at
    if since is None:
        return []
    return [item for item in written_since(ctx, manifest.namespace, since) if until is None or item.ts <= until]


def written_since(
    ctx: Context, namespace: str, since: Timestamp, ids: Collection[DocumentId] | None = None
) -> Iterator[Operation]:
    """Give what users wrote to a collection, shard after shard, each shard's in its order.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        since: the first time wanted.
        ids: only these documents; None gives all.
    """
    from credscale.mongo.oplog import user_operations

    shards = facts.shards(ctx.clients.mongo())
    for number, shard in enumerate(shards):
        ctx.progress(number, len(shards), "oplogs read")
        # Nothing is sent while the server looks through entries of other collections, however long that takes.
        connect = partial(first_answering, ctx, shard, timeout=LONG_SECONDS)
        yield from user_operations(connect, shard.id, namespace, since, ids)


def present(
    client: Client, manifest: Manifest, ids: set[DocumentId], session: ClientSession | None = None
) -> set[DocumentId]:
    """Return those ids that exist now, read at majority through mongos, or in a session's snapshot."""
    from bson.codec_options import CodecOptions
    from bson.raw_bson import RawBSONDocument
    from pymongo.read_concern import ReadConcern

    from credscale.mongo.commands import retrying
    from credscale.mongo.digest import document_id

    name, coll = facts.split_namespace(manifest.namespace)
    codec: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
    collection: Any = client[name].get_collection(coll, codec_options=codec, read_concern=ReadConcern("majority"))
    values = [item.value for item in ids]
    found: set[DocumentId] = set()
    for start in range(0, len(values), LOOKUP):
        query = {"_id": {"$in": values[start : start + LOOKUP]}}
        documents = retrying(lambda query=query: list(collection.find(query, {"_id": 1}, session=session)))  # type: ignore[misc]
        found |= {document_id(document.raw) for document in documents}
    return found & ids


def _named(findings: dict[str, tuple[DocumentId, ...]]) -> dict[str, list[str]]:
    """Return the ids in words, at most ``SHOWN_IDS`` of a kind."""
    return {kind: [id_text(item.value) for item in findings.get(kind, ())[:SHOWN_IDS]] for kind in KINDS}


def _counted(findings: dict[str, tuple[DocumentId, ...]]) -> dict[str, int]:
    return {kind: len(findings.get(kind, ())) for kind in KINDS}


def id_text(value: Any) -> str:
    """Return an `_id` for people and JSON: an ObjectId or text as it is, anything else as Extended JSON."""
    from bson import ObjectId, json_util

    return str(value) if isinstance(value, ObjectId | str) else json_util.dumps(value)
