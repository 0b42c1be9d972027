"""What the applications ask: which queries would go to every shard, and which writes would fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.mongo.advice.queries import SWITCH_ON
from credscale.mongo.advice.targeting import target
from credscale.mongo.advice.writes import NEEDS_NO_KEY, judge
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.collection import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.mongo.advice.queries import Reading
    from credscale.mongo.advice.shapes import Shape
    from credscale.mongo.cluster.facts import Key
    from credscale.mongo.preflight.look import Look

BROADCAST_SHARE = 0.1
SHOWN = 5


@check(
    33,
    "query-targeting",
    command="system.profile of the shards' primaries, $queryStats; the key alone",
    reason="A query without the leading field of the key asks every shard and waits for the slowest.",
)
def query_targeting(look: Look) -> Iterator[Seen]:
    """Look how many of the recorded queries would go to every shard."""
    if look.collection is None:
        yield no_collection(look)
        return
    yield from judge_queries(look.queries, look.key, look.collection.collation)


def judge_queries(found: Reading, key: Key, collation: str) -> list[Seen]:
    """Judge where the recorded queries would go.

    Args:
        found: the queries, and what could not be looked at.
        key: the wanted shard key.
        collation: the collection's default.
    """
    if not found.shapes:
        return [*from_key(key), Seen("unknown", _why(found), SWITCH_ON)]
    asked = [shape for shape in found.shapes if shape.operation != "insert"]
    broadcast = [
        shape for shape in asked if target(key, shape.filter, shape.collation or collation).verdict == "broadcast"
    ]
    total, everywhere = sum(shape.count for shape in asked), sum(shape.count for shape in broadcast)
    share = everywhere / total if total else 0.0
    text = f"{share:.0%} of {total} recorded queries would go to every shard"
    if broadcast:
        text += f": {_most(broadcast)}"
    rows = [Seen("ok", text)]
    if share > BROADCAST_SHARE:
        rows = [Seen("warn", text, "choose a key whose first field these queries give: see advise_shard_key")]
    return [*rows, *(Seen("note", sentence) for sentence in found.not_checked)]


def _most(shapes: Sequence[Shape]) -> str:
    return "; ".join(f"{shape.text} ({shape.count})" for shape in shapes[:SHOWN])


def _why(found: Reading) -> str:
    """Say where no query was found; what to do about it is the remedy."""
    sources = [sentence for sentence in found.not_checked if not sentence.startswith("no ")]
    return "; ".join(["no query of the applications is recorded", *sources])


def from_key(key: Key) -> list[Seen]:
    """Say what follows from the key alone: which queries it sends to every shard (reference §6)."""
    first, kind = next(iter(key.items()))
    if kind != "hashed":
        return [Seen("note", f"queries without {first} go to every shard")]
    others = [name for name in key if name != first]
    example = f"queries by {others[0]} alone, and ranges of {first}," if others else f"ranges of {first}"
    remedy = f"{others[0]}:hashed,{first}:1 would target one shard" if others else "query by exact values"
    return [Seen("warn", f"{example} go to every shard: only an exact {first} names one", remedy)]


@check(
    34,
    "writes-without-key",
    command="system.profile of the shards' primaries; the rules of the version",
    reason="Updates, deletes and upserts of one document without the key fail from shardCollection on (codes 61, 72).",
)
def writes_without_key(look: Look) -> Iterator[Seen]:
    """Look which of the recorded writes would fail."""
    if look.collection is None:
        yield no_collection(look)
        return
    yield from judge_writes(look.queries, look.key, look.server.numbers, look.collection.collation)


def judge_writes(found: Reading, key: Key, version: tuple[int, ...], collation: str) -> list[Seen]:
    """Judge what becomes of the recorded writes.

    Args:
        found: the queries, and what could not be looked at.
        key: the wanted shard key.
        version: the server's.
        collation: the collection's default.
    """
    if not found.shapes:
        return [rule(key, version), Seen("warn", _why(found), SWITCH_ON)]
    rows = []
    writes = [shape for shape in found.shapes if shape.is_write]
    for shape in writes:
        told = judge(shape.write, key, version, default_collation=collation)
        what = f"{shape.text} ({shape.count} recorded)"
        if told.outcome == "breaks":
            remedy = f"give {' and '.join(key)} in its filter before the sharding"
            rows.append(Seen("stop", f"{what} will fail with {told.text}", remedy))
        elif told.outcome == "depends":
            rows.append(Seen("warn", f"{what} may fail: {'; '.join(told.notes)}", "try it against the rehearsal"))
        elif told.notes:
            rows.append(Seen("note", f"{what}: {'; '.join(told.notes)}"))
    if not writes:
        rows += [rule(key, version), Seen("warn", "no write of the applications is recorded", SWITCH_ON)]
    elif not any(row.severity == "stop" for row in rows):
        seen = f"none of {sum(shape.count for shape in writes)} recorded writes is known to fail"
        rows.append(Seen("ok", f"{seen}; {rule(key, version).finding}"))
    return [*rows, *(Seen("note", sentence) for sentence in found.not_checked)]


def rule(key: Key, version: tuple[int, ...]) -> Seen:
    """Say what follows from key and version alone."""
    fields = " and ".join(key)
    if version[:2] >= NEEDS_NO_KEY:
        return Seen("note", f"writes of one document without {fields} are allowed since 7.1, but ask every shard twice")
    seen = f"every upsert and findAndModify needs {fields}, an updateOne or deleteOne these or an exact _id"
    return Seen("note", seen, "search the applications for writes of one document that give less")
