"""Reading single documents back the way applications do: by the shard key, and by `_id` alone."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.mongo.backup.baseline import baseline
from credscale.mongo.backup.target import logical_time, target_of
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying, run
from credscale.mongo.documents.digest import Difference, DocumentId, document_hash, document_id, id_value
from credscale.mongo.documents.raw import RAW
from credscale.mongo.proof.comparison import documents_now, id_text, no_oplog, settled, written_again, written_since
from credscale.mongo.proof.findings import finding_rows, what_to_do, whereabouts
from credscale.mongo.proof.verification import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.proof.explanation import Explained

EXPLAINED = 100  # of the sample, how many reads are explained too
COPIES = 3  # enough to see that an `_id` is there more than once
PROGRESS_EVERY = 100


@dataclass(frozen=True)
class Sampled:
    """A document of the backup: its `_id` and the hash of its bytes, which an external backup's baseline has too."""

    id: DocumentId
    hash: bytes

    @property
    def query(self) -> dict[str, Any]:
        """Ask for it by `_id` alone."""
        return {"_id": self.id.value}


@dataclass
class Way:
    """One way of reading: how long each read took in milliseconds, and how many of those explained asked one shard."""

    name: str
    milliseconds: list[float] = field(default_factory=list)
    explained: int = 0
    single: int = 0

    def row(self) -> dict[str, Any]:
        """Return the figures as a row of a table."""
        return {
            "read by": self.name,
            "reads": len(self.milliseconds),
            "one shard asked": f"{self.single} of {self.explained}",
            "p50 ms": percentile(self.milliseconds, 50),
            "p99 ms": percentile(self.milliseconds, 99),
        }


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Return the nearest-rank percentile, rounded to microseconds; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    return round(ordered[int(rank)], 3)


def sample_of(documents: Iterable[tuple[bytes, bytes]], size: int, chance: random.Random) -> list[Sampled]:
    """Draw documents from a stream, each with the same chance, in random order.

    Args:
        documents: id keys and hashes; read to the end.
        size: how many at most.
        chance: where the randomness comes from.
    """
    drawn: list[tuple[bytes, bytes]] = []
    for number, each in enumerate(documents):
        if number < size:
            drawn.append(each)
        elif (place := chance.randrange(number + 1)) < size:
            drawn[place] = each
    chance.shuffle(drawn)
    return [Sampled(DocumentId(key, id_value(key)), value) for key, value in drawn]


def targeted(raw: bytes, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the query for exactly this document by its whole shard key and `_id`; None when the key holds an array."""
    from bson.raw_bson import RawBSONDocument

    from credscale.mongo.cluster.shard_key import has_array

    document = RawBSONDocument(raw, RAW)
    if has_array(document, key):
        return None
    query: dict[str, Any] = {}
    for path in key:
        value: Any = document
        for part in path.split("."):
            value = value.get(part) if hasattr(value, "get") else None
        # A bare regular expression would be a pattern, and a document whose first field is an operator a condition.
        query[path] = {"$eq": value}
    return {**query, "_id": document_id(raw).value}


def asked_shards(reply: Mapping[str, Any]) -> int:
    """Understand explain of a find on mongos: to how many shards the query goes."""
    plan = reply["queryPlanner"]["winningPlan"]
    return len(plan.get("shards", [])) or 1


@probe(reads_all=True)
def verify_reads(ctx: Context, *, namespace: str, backup_directory: str, sample: int = 500) -> Finding:
    """Read a random sample of the backup's documents back through mongos, one by one, byte for byte.

    Each is read by the whole shard key and `_id`, which goes to one shard, and by `_id` alone, which asks all. A
    difference has to be explained by a write in the shards' oplogs. How many reads asked one shard only, and how long
    both ways took with the document in the server's memory, is told as it was measured, the way to mongos included.

    Args:
        namespace: ``database.collection``.
        backup_directory: as for ``backup``.
        sample: how many documents; the backup is read once to draw them.
    """
    if sample < 1:
        raise EnvironmentInvalid(f"sample must be 1 or more, not {sample}")
    client = ctx.clients.mongo()
    sharded = facts.sharded_collection(client, namespace)
    if sharded is None:
        raise PreconditionFailed(f"{namespace} is not sharded. Run shard_collection first")
    manifest = target_of(ctx, namespace, backup_directory).baseline()
    chance = random.Random()  # noqa: S311 - drawn, not secret
    ctx.note("the backup is read once to draw the sample")
    drawn = sample_of(baseline(manifest.folder, namespace), sample, chance)
    ways = (Way("shard key and _id"), Way("_id alone"))
    differing, unreached = [], []
    for number, item in enumerate(drawn):
        if number % PROGRESS_EVERY == 0:
            ctx.progress(number, len(drawn), "documents")
        found = _find(client, namespace, item.query)
        if [document_hash(raw) for raw in found] != [item.hash]:
            differing.append(item)
            continue
        query = targeted(found[0], sharded.key)
        if query is not None and not _find(client, namespace, query):
            unreached.append(item)
        else:
            _measure(client, namespace, (query, item.query), ways, number)
    reason = no_oplog(ctx, manifest) if differing else ""
    record = read_record(manifest.folder) if reason else None
    if reason and record is None:
        _refuse_unexplained(manifest, differing, reason)
    faults = _explain(ctx, manifest, differing) if differing and not reason else {}
    unrouted = tuple(item.id for item in unreached if _is_unreached(client, namespace, item, sharded.key))
    if unrouted:
        faults["not_found_by_key"] = unrouted
    output: dict[str, Any] = {
        "rows": [way.row() for way in ways],
        "documents": len(drawn),
        "differing": len(differing),
        "not_checked": [],
    }
    if faults:
        _refuse(namespace, manifest, faults, output)
    written = f"; {len(differing)} differ by what users wrote since" if differing else ", byte for byte"
    if record is not None:
        written = f"; {len(differing)} differ, the migration was verified at {record['time']}"
        output["not_checked"].append(f"whether users wrote the {len(differing)} that differ: {reason}")
    one, all_shards = ways[0].row(), ways[1].row()
    return Finding(
        f"{len(drawn)} sampled documents were read back through mongos{written}; {one['one shard asked']} reads by the "
        f"shard key asked one shard; p50 {one['p50 ms']} ms, by _id alone {all_shards['p50 ms']} ms",
        output,
    )


def _refuse(
    namespace: str, manifest: Manifest, found: Mapping[str, tuple[DocumentId, ...]], output: dict[str, Any]
) -> NoReturn:
    findings = {kind: [id_text(item.value) for item in items] for kind, items in found.items()}
    ways, drawn = output["rows"], output["documents"]
    advice = what_to_do(findings)
    output |= findings | {"what_to_do": advice, "rows": finding_rows(findings), "ways": ways}
    total = sum(len(items) for items in findings.values())
    kind, ids = next(iter(findings.items()))
    raise VerificationFailed(
        f"{total} of {drawn} sampled documents of {namespace} are not what the backup holds and no writer explains it; "
        f"the first is _id {ids[0]} ({kind.replace('_', ' ')}): {advice[kind]}. Run verify_digest to find all. "
        f"{whereabouts(manifest)}",
        output,
    )


def _is_unreached(client: Client, namespace: str, item: Sampled, key: Mapping[str, Any]) -> bool:
    """Tell whether a document that is there is not found by its shard key; one that users touch meanwhile is not it."""
    found = _find(client, namespace, item.query)
    query = targeted(found[0], key) if len(found) == 1 else None
    return query is not None and not _find(client, namespace, query) and _find(client, namespace, item.query) == found


def _measure(
    client: Client, namespace: str, asked: tuple[Mapping[str, Any] | None, ...], ways: tuple[Way, ...], number: int
) -> None:
    """Time all ways on a document that was just read, so that none pays for bringing it into memory."""
    queries = [(way, query) for way, query in zip(ways, asked, strict=True) if query is not None]
    for way, query in queries if number % 2 == 0 else reversed(queries):
        started = time.perf_counter()
        _find(client, namespace, query)
        way.milliseconds.append((time.perf_counter() - started) * 1000)
        if number < EXPLAINED:
            way.explained += 1
            way.single += _shards_of(client, namespace, query) == 1


def _refuse_unexplained(manifest: Manifest, differing: list[Sampled], reason: str) -> NoReturn:
    ids = [id_text(item.id.value) for item in differing]
    raise VerificationFailed(
        f"{len(ids)} sampled documents of {manifest.namespace} are not what the backup holds, and it cannot be "
        f"proven that writers did it: {reason}; the first is _id {ids[0]}. Compare them with the backup. "
        f"{whereabouts(manifest)}",
        {"differing_ids": ids},
    )


def _find(client: Client, namespace: str, query: Mapping[str, Any]) -> list[bytes]:
    from pymongo.read_concern import ReadConcern

    name, coll = facts.split_namespace(namespace)
    collection: Any = client[name].get_collection(coll, codec_options=RAW, read_concern=ReadConcern("majority"))
    return retrying(lambda: [document.raw for document in collection.find(query).limit(COPIES)])


def _shards_of(client: Client, namespace: str, query: Mapping[str, Any]) -> int:
    name, coll = facts.split_namespace(namespace)
    command = {"explain": {"find": coll, "filter": query}, "verbosity": "queryPlanner"}
    return asked_shards(run(client, name, command))


def _explain(ctx: Context, manifest: Manifest, differing: list[Sampled]) -> dict[str, tuple[DocumentId, ...]]:
    """Return the differing documents, by kind, that no write since the backup explains."""
    from credscale.mongo.proof.explanation import Times, explain

    client, since = ctx.clients.mongo(), manifest.operation_time_start
    wanted = {item.id for item in differing}

    def look() -> Explained:
        missing, changed, duplicated = [], [], []
        for item in differing:
            found = _find(client, manifest.namespace, item.query)
            if len(found) > 1:
                duplicated.append(item.id)
            elif not found:
                missing.append(item.id)
            elif document_hash(found[0]) != item.hash:
                changed.append(item.id)
        difference = Difference(tuple(missing), (), tuple(changed), tuple(duplicated))
        reached = logical_time(client, manifest.namespace)
        operations = [] if since is None else written_since(ctx, manifest.namespace, since, wanted, reached)
        again = partial(written_again, ctx, manifest)
        return explain(
            difference, operations, lambda ids: documents_now(client, manifest, ids), Times(reached=reached), again
        )

    return settled(look)[1]
