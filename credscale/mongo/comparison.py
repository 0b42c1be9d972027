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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bson import Timestamp

    from credscale.core.context import Context
    from credscale.mongo.backup_manifest import Manifest
    from credscale.mongo.commands import Client
    from credscale.mongo.digest import Difference, Digest, DocumentId
    from credscale.mongo.oplog import Operation

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
        findings: `_id`s in words by kind, for what nobody explains.
        reason: why it can't be told.
        not_checked: what this comparison leaves open, one sentence each.
    """

    proof: Proof
    buckets: int
    passes: int
    concurrent: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    reason: str = ""
    not_checked: tuple[str, ...] = ()


def compare_with(ctx: Context, manifest: Manifest, live: Digest) -> Comparison:
    """Compare a live collection's digest with a backup's and explain the differences.

    Args:
        ctx: the run; its clients reach mongos and the shards' members.
        manifest: the backup.
        live: the digest of the collection as it was just read.
    """
    buckets = manifest.digest.differing(live)
    reason = _no_oplog(ctx, manifest)
    if not reason:
        return _explained(ctx, manifest, buckets)
    if not buckets:
        sentence = f"documents that were written since the backup and are gone now: {reason}"
        return Comparison(Proof.WHOLE, 0, 0, findings=_named({}), not_checked=(sentence,))
    difference = _difference(ctx, manifest, buckets)
    findings = {"lost": difference.missing, "unexpected_added": difference.added}
    findings |= {"unexpected_changed": difference.changed, "duplicated": difference.duplicated}
    return Comparison(Proof.NONE, len(buckets), 1, findings=_named(findings), reason=reason)


def _no_oplog(ctx: Context, manifest: Manifest) -> str:
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


def _explained(ctx: Context, manifest: Manifest, buckets: list[int]) -> Comparison:
    """Explain the differences; only what every look finds is believed.

    Writers go on between reading the oplogs and looking, so each look suspects a few documents wrongly, but not the
    same ones twice. What is truly lost stays lost.
    """
    from credscale.mongo.oplog import explain

    client, suspects, complete = ctx.clients.mongo(), None, _complete(manifest)
    number = 0
    while True:
        number += 1
        difference = _difference(ctx, manifest, buckets)
        found = explain(difference, _operations(ctx, manifest), lambda ids: _present(client, manifest, ids), complete)
        seen = {item for kind in KINDS for item in getattr(found, kind)}
        remaining = seen if suspects is None else suspects & seen
        if not remaining or remaining == suspects or number == PASSES:
            break
        suspects = remaining
        time.sleep(PAUSE_SECONDS)
    findings = {kind: tuple(item for item in getattr(found, kind) if item in remaining) for kind in KINDS}
    written = {item.name: len(getattr(found.concurrent, item.name)) for item in dataclasses.fields(found.concurrent)}
    sentences = []
    if written["updated"]:
        sentences.append(
            f"the content of {written['updated']} documents that users wrote meanwhile: the oplogs tell that, not what"
        )
    proof = Proof.LOSS if remaining else Proof.WHOLE
    return Comparison(proof, len(buckets), number, written, _named(findings), not_checked=tuple(sentences))


def _complete(manifest: Manifest) -> Timestamp | None:
    """Return a time at which the backup had read everything; routers that round down may be a second behind."""
    from bson import Timestamp

    end = manifest.operation_time_end
    return None if end is None else Timestamp(end.time + 1, 0)


def _difference(ctx: Context, manifest: Manifest, buckets: list[int]) -> Difference:
    """List what differs in these buckets, in groups of buckets that fit into memory."""
    from credscale.mongo.backup import read_documents
    from credscale.mongo.digest import BUCKETS, Difference, compare, document_hashes
    from credscale.mongo.scan import scan_raw

    name, coll = facts.split_namespace(manifest.namespace)
    at_once = max(1, GROUP_DOCUMENTS * BUCKETS // max(1, manifest.documents))
    parts = []
    for start in range(0, len(buckets), at_once):
        group = buckets[start : start + at_once]
        before = document_hashes(read_documents(manifest.folder), group)
        parts.append(compare(before, document_hashes(scan_raw(ctx.clients.mongo()[name][coll]), group)))
        ctx.progress(start + len(group), len(buckets), "buckets")
    fields = [item.name for item in dataclasses.fields(Difference)]
    return Difference(**{each: tuple(item for part in parts for item in getattr(part, each)) for each in fields})


def _operations(ctx: Context, manifest: Manifest) -> list[Operation]:
    since = manifest.operation_time_start
    return [] if since is None else list(written_since(ctx, manifest.namespace, since))


def written_since(ctx: Context, namespace: str, since: Timestamp) -> Iterator[Operation]:
    """Give what users wrote to a collection, shard after shard, each shard's in its order."""
    from credscale.mongo.oplog import user_operations

    shards = facts.shards(ctx.clients.mongo())
    for number, shard in enumerate(shards):
        ctx.progress(number, len(shards), "oplogs read")
        # Nothing is sent while the server looks through entries of other collections, however long that takes.
        connect = partial(first_answering, ctx, shard, timeout=LONG_SECONDS)
        yield from user_operations(connect, shard.id, namespace, since)


def _present(client: Client, manifest: Manifest, ids: set[DocumentId]) -> set[DocumentId]:
    """Return those ids that exist now, read at majority through mongos."""
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
        documents = retrying(lambda query=query: list(collection.find(query, {"_id": 1})))  # type: ignore[misc]
        found |= {document_id(document.raw) for document in documents}
    return found & ids


def _named(findings: dict[str, tuple[DocumentId, ...]]) -> dict[str, list[str]]:
    """Return the ids in words, at most ``SHOWN_IDS`` of a kind."""
    return {kind: [id_text(item.value) for item in findings.get(kind, ())[:SHOWN_IDS]] for kind in KINDS}


def id_text(value: Any) -> str:
    """Return an `_id` for people and JSON: an ObjectId or text as it is, anything else as Extended JSON."""
    from bson import ObjectId, json_util

    return str(value) if isinstance(value, ObjectId | str) else json_util.dumps(value)
