"""Which candidate serves best, and why; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.mongo.advice.keys import KeyFacts, skew
from credscale.mongo.advice.shapes import Shape, frequent_fields
from credscale.mongo.advice.targeting import SIMPLE, target
from credscale.mongo.advice.writes import judge
from credscale.mongo.cluster.facts import DUE_BYTES, key_text, parse_key
from credscale.mongo.documents.sampling import MISSING_SHARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.mongo.cluster.facts import Key

GUIDE_KEY = "createdAt:hashed,userId:1"
VALUES_A_CHUNK = 10  # §5 row 31: fewer distinct values than this for each chunk wanted can't be divided well
UNEVEN = 1.5
LARGE_SHARE = 0.001  # smaller groups are the sample's noise and grow no further when users do
MOST_CANDIDATES = 12
MOST_FIELDS = 2


@dataclass(frozen=True)
class QueryFacts:
    """Where known queries go under a key, as shares of their number; None while no query is known.

    Args:
        single: to one shard.
        several: to some.
        broadcast: to every shard.
        breaking: share of the writes that would fail.
        unsure: share of the writes that fail or not depending on values or patch level.
    """

    single: float | None = None
    several: float | None = None
    broadcast: float | None = None
    breaking: float | None = None
    unsure: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A key with all that is known of it, its rank, and the reasons in sentences."""

    key: Key
    data: KeyFacts
    queries: QueryFacts
    verdict: str
    reasons: tuple[str, ...]
    penalty: float

    def row(self, rank: int) -> dict[str, Any]:
        """Return the table row."""
        data, queries = self.data, self.queries
        return {
            "rank": rank,
            "key": key_text(self.key),
            "verdict": self.verdict,
            "every shard": _percent(queries.broadcast),
            "one shard": _percent(queries.single),
            "writes that fail": _percent(queries.breaking),
            "values": round(data.distinct),
            "most frequent": _percent(data.largest_share),
            "indivisible MB": round(data.largest_bytes / (1 << 20), 1),
            "grows": "" if data.correlation is None else ("yes" if data.monotonic else "no"),
            "fullest shard": _times(skew(data.existing)),
            "fullest shard, new": _times(skew(data.newest)),
            "missing": _percent(data.missing),
            "why": "; ".join(self.reasons),
        }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} x mean"


def candidates(given: str, shapes: Sequence[Shape], fields: Sequence[str]) -> list[Key]:
    """Return the keys to compare: those given, the guide's, and those that the queries or the fields suggest.

    Args:
        given: keys separated by semicolons or spaces, each as ``createdAt:hashed,userId:1``.
        shapes: the queries known.
        fields: the fields that documents of the collection have.

    Raises:
        EnvironmentInvalid: a given key is not one.
    """
    found: list[Key] = []
    equal, ranged = frequent_fields(shapes)
    equal = [name for name in equal if name != "_id"][:MOST_FIELDS] or _guide_fields(fields)[1:]
    for lead in equal:
        rest = [name for name in [*ranged, *equal, *_guide_fields(fields)] if name not in (lead, "_id")] or ["_id"]
        pairs: list[Key] = [{lead: "hashed", rest[0]: 1}, {lead: 1, rest[0]: 1}, {lead: "hashed"}]
        found += pairs
    wanted = [parse_key(text) for text in given.replace(";", " ").split()]
    wanted += [parse_key(GUIDE_KEY)] if _guide_fields(fields) else []
    # What was asked for is kept whatever the limit; suggestions come first, so that they win where all else is equal.
    room = max(0, MOST_CANDIDATES - len(wanted))
    found.append({"_id": "hashed"})
    unique = {key_text(key): key for key in [*found[:room], *wanted]}
    return list(unique.values())


def _guide_fields(fields: Sequence[str]) -> list[str]:
    """Return the fields of the guide's key where the documents have them all."""
    names = list(parse_key(GUIDE_KEY))
    return names if set(names) <= set(fields) else []


def query_facts(
    key: Key, shapes: Sequence[Shape], version: Sequence[int], *, shards: int = 2, collation: str = SIMPLE
) -> QueryFacts:
    """Weigh known queries by how often they were seen.

    Args:
        key: the candidate.
        shapes: the queries; inserts, which always name their shard, do not count.
        version: of mongos.
        shards: over how many the collection would be spread.
        collation: the collection's default.
    """
    filtered = [shape for shape in shapes if shape.operation != "insert"]
    total = sum(shape.count for shape in filtered)
    if not total:
        return QueryFacts()
    going = {"single": 0, "several": 0, "broadcast": 0}
    for shape in filtered:
        going[target(key, shape.filter, shape.collation or collation).verdict] += shape.count
    shares = {name: count / total for name, count in going.items()}
    changes = [shape for shape in filtered if shape.is_write]
    written = sum(shape.count for shape in changes)
    if not written:
        return QueryFacts(**shares)
    ends = {"works": 0, "depends": 0, "breaks": 0}
    for shape in changes:
        judged = judge(shape.write, key, version, shards=max(2, shards), default_collation=collation)
        ends[judged.outcome] += shape.count
    return QueryFacts(**shares, breaking=ends["breaks"] / written, unsure=ends["depends"] / written)


def assess(data: KeyFacts, queries: QueryFacts, collection_bytes: float, chunk_bytes: int) -> Candidate:
    """Judge one candidate.

    Args:
        data: what the sample says.
        queries: what the known queries say.
        collection_bytes: of the whole collection.
        chunk_bytes: the chunk size.
    """
    penalty, reasons = 0.0, []
    for weight, sentence in [*_data_problems(data, collection_bytes, chunk_bytes), *_query_problems(queries)]:
        penalty += weight
        reasons.append(sentence)
    if data.arrays:
        verdict = "impossible"
    elif penalty >= 3:
        verdict = "poor"
    else:
        verdict = "possible" if penalty >= 1 else "good"
    if queries.broadcast == 0:
        reasons.append("no query goes to every shard")
    return Candidate(data.key, data, queries, verdict, tuple(reasons) or ("divides the documents evenly",), penalty)


def _data_problems(data: KeyFacts, collection_bytes: float, chunk_bytes: int) -> list[tuple[float, str]]:
    """Return weight and sentence of what speaks against a key in the documents; 3 and more is a poor key."""
    found: list[tuple[float, str]] = []
    lead = next(iter(data.key))
    if data.arrays:
        found.append((100, f"{data.arrays} documents hold an array in it, which MongoDB refuses"))
    if data.largest_bytes > chunk_bytes:
        size = f"{data.largest_bytes / (1 << 20):.1f} MB"
        found.append((4, f"{size} have one value: more than a chunk, and it can be neither split nor moved (jumbo)"))
    elif data.largest_share > LARGE_SHARE and data.largest_share * DUE_BYTES > chunk_bytes:
        size = f"{data.largest_share * DUE_BYTES / 1e6:.0f} MB"
        seen = f"{data.largest_share:.1%} of the documents have one value and can't be divided"
        found.append((2, f"{seen}: {size} at the guide's {DUE_BYTES / 1e9:.0f} GB, more than a chunk"))
    chunks = collection_bytes / chunk_bytes
    if chunks > 1 and data.distinct < VALUES_A_CHUNK * chunks:
        found.append((3, f"about {data.distinct:.0f} values for {chunks:.0f} chunks"))
    if data.monotonic:
        found.append((3, f"{lead} grows with time, so every insert goes to the shard with the last chunk"))
    else:
        new = skew(data.newest)
        if new is not None and new > UNEVEN:
            found.append((1.5, f"one shard would take {new:.1f} times the mean of new documents"))
    now = skew(data.existing)
    if now is not None and now > UNEVEN:
        found.append((1.5, f"one shard would hold {now:.1f} times the mean of documents"))
    if data.missing > MISSING_SHARE:
        found.append((1, f"{data.missing:.1%} lack a field of it; they count as null and stay together"))
    for field, names in data.types.items():
        if len(names) > 1:
            found.append((1, f"{field} has values of the types {', '.join(names)}, which lie apart"))
    return found


def _query_problems(queries: QueryFacts) -> list[tuple[float, str]]:
    found: list[tuple[float, str]] = []
    if queries.broadcast:
        found.append((5 * queries.broadcast, f"{queries.broadcast:.0%} of the queries go to every shard"))
    if queries.breaking:
        found.append((5 * queries.breaking, f"{queries.breaking:.0%} of the writes would fail"))
    if queries.unsure:
        found.append((queries.unsure, f"{queries.unsure:.0%} of the writes fail for some values or patch levels"))
    return found


def rank(found: Sequence[Candidate]) -> list[Candidate]:
    """Order candidates, best first; equal ones stay in the order they came in, more divisible ones before others."""
    return sorted(found, key=lambda each: (round(each.penalty, 2), -round(each.data.distinct, -1)))


def advice(ranked: Sequence[Candidate], basis: str) -> str:
    """Return the verdict on all candidates in a sentence or two.

    Args:
        ranked: best first.
        basis: what the queries are known from, as a phrase.
    """
    best = ranked[0]
    said = f"by the documents and {basis}, {key_text(best.key)} serves best: {'; '.join(best.reasons)}"
    guide = next((each for each in ranked if key_text(each.key) == GUIDE_KEY), None)
    if guide is not None and guide is not best:
        said += f". The guide's {GUIDE_KEY} is {guide.verdict}: {'; '.join(guide.reasons)}"
    return said


def shape_rows(
    shapes: Sequence[Shape], keys: Sequence[Mapping[str, int | str]], collation: str = SIMPLE
) -> list[dict[str, Any]]:
    """Return one row for each query shape: how often it was seen and where it goes under each key."""
    return [
        {
            "query": shape.text,
            "seen": shape.count,
            "source": shape.source,
            **{key_text(key): target(dict(key), shape.filter, shape.collation or collation).verdict for key in keys},
        }
        for shape in shapes
        if shape.operation != "insert"
    ]
