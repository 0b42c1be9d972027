"""The probes that advise on a shard key and find the writes that it breaks; they read little and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.mongo.advice import plots
from credscale.mongo.advice.keys import Sample, study
from credscale.mongo.advice.queries import Reading, read_queries
from credscale.mongo.advice.server import server_figures
from credscale.mongo.advice.shapes import Shape, filter_text, make_shape
from credscale.mongo.advice.source import judge_calls, scan_source
from credscale.mongo.advice.targeting import main_query_verdict, parse_main_query
from credscale.mongo.advice.verdicts import (
    GUIDE_KEY,
    Candidate,
    advice,
    assess,
    query_facts,
    rank,
    shape_rows,
)
from credscale.mongo.advice.verdicts import (
    candidates as candidate_keys,
)
from credscale.mongo.advice.writes import judge
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import DEADLINE, MAX_TIME_EXPIRED, retrying
from credscale.mongo.cluster.settings import check_chunk_size
from credscale.mongo.documents import sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client

SMALLEST_SAMPLE, LARGEST_SAMPLE = 1000, 500_000
MOST_SHARDS = 1000
MOST_SHAPES = 30
MOST_ANALYZED = 4
GUIDE_QUERY = "userId"  # the guide gives the key for "user-specific analysis history"
REMEDY = "put the whole shard key into the filter, or choose another key"


@probe(show=plots.candidates)
def advise_shard_key(
    ctx: Context, *, namespace: str, candidates: str = "", shards: int = 0, chunk_size_mb: int = 64, queries: str = "",
    main_query: str = "", sample: int = 50_000,
) -> Finding:  # fmt: skip
    """Compare shard keys on a sample of the documents and on the queries that are known.

    Args:
        namespace: ``database.collection``.
        candidates: keys to compare besides the guide's and those that the queries suggest, separated by semicolons,
            each as ``createdAt:hashed,userId:1``.
        shards: over how many the collection is to be spread; 0 takes as many as there are, at least 2.
        chunk_size_mb: the chunk size that the collection will have.
        queries: a file of queries, one JSON document a line: ``{"op": "find", "filter": {"userId": "u"}, "count": 9}``.
        main_query: the fields of the most important query: ``userId``, or ``userId,createdAt>`` for a range. Counts
            where no real query is known; empty takes the guide's, queries by user.
        sample: documents to look at, 1,000 to 500,000, and less than 5 % of them, above which the server would read
            and sort all; a collection of at most 100,000 is read wholly.
    """  # fmt: skip
    chunk_bytes = check_chunk_size(chunk_size_mb) << 20
    if not 0 <= shards <= MOST_SHARDS or not SMALLEST_SAMPLE <= sample <= LARGEST_SAMPLE:
        limits = f"shards 0 to {MOST_SHARDS}, sample {SMALLEST_SAMPLE} to {LARGEST_SAMPLE}"
        raise EnvironmentInvalid(f"out of range: {limits}; not {shards} and {sample}")
    parse_main_query(main_query or GUIDE_QUERY)
    client = ctx.clients.mongo()
    server, collection = facts.server(client), facts.collection(client, namespace)
    if collection is None or collection.type != "collection":
        raise PreconditionFailed(f"{namespace} is {'missing' if collection is None else f'a {collection.type}'}")
    size = facts.data_size(client, namespace)
    if not size.documents:
        raise PreconditionFailed(f"{namespace} is empty: there is nothing to judge a shard key by")
    spread = shards or max(2, len(facts.shards(client)))
    reading = read_queries(ctx, namespace, queries, server)
    fields = _fields(client, namespace)
    shapes = reading.shapes or _main_shapes(main_query, fields, reading)
    keys = candidate_keys(candidates, shapes, fields)
    documents = _sample(client, namespace, keys, sample, size)
    found = []
    for number, key in enumerate(keys):
        ctx.progress(number, len(keys), "candidates")
        asked = query_facts(key, shapes, server.numbers, shards=spread, collation=collection.collation)
        found.append(assess(study(key, documents, spread), asked, size.bytes, chunk_bytes))
    ctx.progress(len(keys), len(keys), "candidates")
    ranked = rank(found)
    figures = [server_figures(client, server, namespace, each.key, sample) for each in ranked[:MOST_ANALYZED]]
    missing = [*reading.not_checked, *dict.fromkeys(why for _, why in figures if why)]
    output = {
        **_output(ranked, shapes, collection.collation),
        "server_figures": [each for each, _ in figures if each],
        "due": _due(size.bytes),
        "engine": server.engine,
        "not_checked": missing + _not_known(documents),
        "shards": spread,
        "documents_looked_at": len(documents.documents),
        "queries_known": reading.count,
    }
    output["verdict"] = advice(ranked, _basis(reading, shapes))
    asked_for = main_query or (GUIDE_QUERY if GUIDE_QUERY in fields else "")
    if asked_for:
        guide = next((each.key for each in ranked if facts.key_text(each.key) == GUIDE_KEY), ranked[0].key)
        output["main_query"] = main_query_verdict(guide, asked_for)
    return Finding(f"{facts.key_text(ranked[0].key)} is the best of {len(ranked)} keys", output)


def _output(ranked: Sequence[Candidate], shapes: Sequence[Shape], collation: str) -> dict[str, Any]:
    return {
        "rows": [each.row(number) for number, each in enumerate(ranked, 1)],
        "shapes": shape_rows(shapes[:MOST_SHAPES], [each.key for each in ranked], collation),
        "candidates": [
            {
                "key": facts.key_text(each.key),
                "existing": list(each.data.existing),
                "existing_bytes": list(each.data.existing_bytes),
                "newest": None if each.data.newest is None else list(each.data.newest),
                "broadcast": each.queries.broadcast,
            }
            for each in ranked
        ],
    }


def _basis(reading: Reading, shapes: Sequence[Shape]) -> str:
    if reading.shapes:
        return f"{reading.count} queries"
    return f"queries by {filter_text(shapes[0].filter)} ({shapes[0].source})" if shapes else "no known query"


def _due(size: int) -> str:
    """Say whether the guide would shard a collection of this size."""
    said = f"{size / 1e9:.1f} GB; the guide shards above {facts.DUE_BYTES / 1e9:.0f} GB"
    return f"due: {said}" if size > facts.DUE_BYTES else f"not due: {said}"


def _not_known(documents: Sample) -> list[str]:
    found = []
    if not documents.whole:
        seen = f"a sample of {len(documents.documents)} of {documents.total} documents: figures are estimates"
        found.append(f"{seen}, and what is rare may be missing")
    if documents.order is None:
        found.append("_id is not always an ObjectId, so growth and the place of new documents are not known")
    return found


def _main_shapes(main_query: str, fields: Sequence[str], reading: Reading) -> list[Shape]:
    """Return the query to judge by when no real one is known: the one given, or the guide's where it fits."""
    if main_query:
        return [make_shape("find", parse_main_query(main_query), source="main_query")]
    if GUIDE_QUERY in fields:
        reading.not_checked.append(f"queries by {GUIDE_QUERY} are assumed, as the guide wants them; give main_query")
        return [make_shape("find", parse_main_query(GUIDE_QUERY), source="assumed from the guide")]
    return []


def _fields(client: Client, namespace: str) -> list[str]:
    """Return the top-level fields of one document."""
    name, coll = facts.split_namespace(namespace)
    document = retrying(lambda: client[name][coll].find_one({}, max_time_ms=sampling.SAMPLE_MILLISECONDS))
    return list(document or {})


def _sample(client: Client, namespace: str, keys: Sequence[facts.Key], sample: int, size: facts.DataSize) -> Sample:
    """Read the key fields and sizes of all documents, or of a sample, from secondaries where they can serve."""
    from pymongo.errors import OperationFailure

    fields = {field for key in keys for field in key}
    collection = sampling.documents_of(client, namespace)
    try:
        documents, sizes = sampling.read_sample(collection, fields, size.documents, wanted=sample, deadline=DEADLINE)
    except OperationFailure as error:
        if error.code not in (MAX_TIME_EXPIRED, sampling.UNAUTHORIZED):
            raise
        seen = f"the sample of {namespace} could not be read (code {error.code})"
        raise PreconditionFailed(f"{seen}. Give a smaller sample, or allow the user to read it") from error
    if sizes is None:
        sizes = [size.bytes // max(1, size.documents)] * len(documents)
    whole = size.documents <= sampling.LOOK_AT_ALL
    return Sample(documents, sizes, len(documents) if whole else max(size.documents, len(documents)))


@probe()
def find_breaking_writes(
    ctx: Context, *, namespace: str, shard_key: str, source: str = "", queries: str = ""
) -> Finding:
    """Find the writes that MongoDB refuses once the collection is sharded by a key; fails when there are any.

    Args:
        namespace: ``database.collection``.
        shard_key: such as ``createdAt:hashed,userId:1``.
        source: a source file or folder of the application, in Python, JavaScript or TypeScript; empty for none.
        queries: a file of queries, one JSON document a line, as for ``advise_shard_key``.
    """
    name, key = facts.split_namespace(namespace)[1], facts.parse_key(shard_key)
    client = ctx.clients.mongo()
    server, collection = facts.server(client), facts.collection(client, namespace)
    collation = collection.collation if collection is not None else "simple"
    reading = read_queries(ctx, namespace, queries, server)
    rows = [_judged(shape, key, server, collation) for shape in reading.shapes if shape.is_write]
    missing, files = list(reading.not_checked), 0
    if collection is None:
        missing.append(f"{namespace} does not exist, so its collation is taken as simple")
    others: dict[str, int] = {}
    if source:
        scan = scan_source(source)
        found, others = judge_calls(scan.calls, key, server.numbers, name, collation=collation)
        rows += [each.row() for each in found]
        files = scan.files
        missing += scan.not_checked
        missing.append("what an object mapper writes by itself, as Mongoose does in save(), is not looked at")
    else:
        missing.append("no source was given, so only writes that were recorded are judged")
    rows.sort(key=lambda row: ("breaks", "can't tell", "depends", "works").index(str(row["outcome"])))
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in _WORDS}
    output: dict[str, Any] = {
        "rows": rows, "counts": counts, "other_collections": others, "files": files, "version": server.version,
        "engine": server.engine, "not_checked": missing,
    }  # fmt: skip
    told = ", ".join(f"{count} {_WORDS[outcome]}" for outcome, count in counts.items() if count)
    where = f"under {facts.key_text(key)} on {server.version}"
    if counts["breaks"]:
        worst = "; ".join(
            f"{row['where']} {row['call']} ({row['error']})" for row in rows if row["outcome"] == "breaks"
        )
        raise VerificationFailed(f"{told} {where}. Nothing was changed. {REMEDY}. {worst}", output)
    if not rows:
        return Finding(f"no write on {namespace} was found; nothing can be said of writes {where}", output)
    return Finding(f"of {len(rows)} writes found {told} {where}", output)


_WORDS = {
    "breaks": "would fail",
    "can't tell": "can't be told",
    "depends": "depend on values, patch level or where chunks lie",
    "works": "work",
}


def _judged(shape: Shape, key: facts.Key, server: facts.Server, collation: str) -> dict[str, Any]:
    """Return the row of a recorded write."""
    judged = judge(shape.write, key, server.numbers, default_collation=collation)
    return {
        "where": f"{shape.source}, seen {shape.count} times",
        "call": shape.operation + (" upsert" if shape.upsert else ""),
        "filter": filter_text(shape.filter),
        "outcome": judged.outcome,
        "error": judged.text,
        "note": "; ".join(judged.notes),
    }
