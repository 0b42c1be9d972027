"""The indexes against the shard key: unique ones, the one that carries the key, their number, and TTL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from credscale.mongo.cluster.facts import split_namespace, supporting_index
from credscale.mongo.cluster.known_bugs import UNIQUE_COLLATION
from credscale.mongo.cluster.shard_key import index_name
from credscale.mongo.preflight.check import Seen, check, unreadable
from credscale.mongo.preflight.collection import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.mongo.cluster.facts import Index, Key
    from credscale.mongo.preflight.look import Look

MOST_INDEXES = 64
MANY_INDEXES = 60
SAME_KEY_AGAIN = (5,)  # from then on sparse, partial and unique tell two indexes of one key apart
# checkShardingIndex answers ok: 0 with no code, 8 UnknownError or 96 OperationFailed where the index won't do (§1.2).
REFUSALS = (None, 8, 96)


@check(
    26,
    "unique-indexes",
    command="listIndexes",
    reason="Sharded data can enforce uniqueness only within the shard key: shardCollection fails with code 72.",
)
def unique_indexes(look: Look) -> Iterator[Seen]:
    """Look for unique indexes that the shard key does not lead."""
    yield from judge_unique(look.indexes, look.key, look.namespace) if look.is_plain else [no_collection(look)]


def judge_unique(found: Sequence[Index], key: Key, namespace: str) -> list[Seen]:
    """Judge the unique indexes.

    Args:
        found: all indexes.
        key: the wanted shard key.
        namespace: ``database.collection``.
    """
    rows, fields = [], list(key)
    for index in found:
        if not index.unique:
            continue
        names = list(index.key)
        # The rule looks at field names only: every unique index starts with the key's fields, or with _id (§1.2).
        if names[0] != "_id" and names[: len(fields)] != fields:
            seen = f"the unique index {index.name} does not start with {', '.join(fields)}"
            remedy = f"drop it, and build it anew without unique if it is needed: {drop_command(namespace, index.name)}"
            rows.append(Seen("stop", seen, remedy))
        elif index.collation != "simple":
            seen = f"the unique index {index.name} has the collation {index.collation}"
            rows.append(Seen("warn", seen, f"see the {UNIQUE_COLLATION}: upgrade, or look for duplicates"))
    unique = sum(index.unique for index in found)
    return rows or [Seen("ok", f"{unique} unique indexes besides _id, none against the shard key")]


def drop_command(namespace: str, index: str) -> str:
    """Return the command for mongosh that drops an index."""
    database, collection = split_namespace(namespace)
    return f'db.getSiblingDB("{database}").getCollection("{collection}").dropIndex("{index}")'


@check(
    27,
    "shard-key-index",
    command="listIndexes, checkShardingIndex on the primary of the collection's shard",
    reason="The command shardCollection wants an index that starts with the shard key and may carry it.",
)
def shard_key_index(look: Look) -> Iterator[Seen]:
    """Look for the index that carries the key, and let the server judge it."""
    if not look.is_plain:
        yield no_collection(look)
        return
    serving = supporting_index(look.indexes, look.key)
    yield from judge_index(look.indexes, look.key, look.namespace, look.server.numbers)
    if serving is not None:
        yield _dry_run(look.index_refusal, look.home, serving)


def _dry_run(refusal: Exception | None, home: str, serving: Index) -> Seen:
    """Say whether the server would take the index: only it knows whether documents have arrays there."""
    if refusal is None:
        return Seen("ok", f"{home} would take {serving.name} for the key (checkShardingIndex)")
    if getattr(refusal, "code", None) not in REFUSALS:
        told = unreadable(refusal)
        return Seen("unknown", f"checkShardingIndex on {home}: {told.finding}", told.remedy)
    seen = f"{home} does not let {serving.name} carry the key: {str(refusal).split(', full error')[0]}"
    return Seen("stop", seen, "look for arrays in the key's fields: the check key-values names a document")


def judge_index(found: Sequence[Index], key: Key, namespace: str, version: tuple[int, ...]) -> list[Seen]:
    """Judge which index carries the key, and which look as if they did.

    Args:
        found: all indexes.
        key: the wanted shard key.
        namespace: ``database.collection``.
        version: of the server; up to 4.4 fewer indexes may have the same key.
    """
    serving = supporting_index(found, key)
    if serving is not None:
        return [Seen("ok", f"{serving.name} serves the shard key")]
    name = index_name(key)
    rows = []
    for index in found:
        why = why_not(index, key)
        if index.name == name or is_in_the_way(index, key, version):
            seen = f"the index {index.name} can't carry the key: it {why or 'has another key'}"
            rows.append(Seen("stop", f"{seen}; createIndexes would fail beside it", _out_of_the_way(index, namespace)))
        elif why:
            rows.append(Seen("note", f"the index {index.name} can't carry the key: it {why}"))
    taken = any(row.severity == "stop" for row in rows)
    return (
        rows
        if taken
        else [Seen("note", "the shard-key index is still to be built: a step of the runbook does it"), *rows]
    )


def is_in_the_way(index: Index, key: Key, version: tuple[int, ...]) -> bool:
    """Tell whether createIndexes refuses the shard-key index because of this one, whatever its name (codes 85, 86).

    Two indexes may have one key when their collations differ, and since 5.0 when one is sparse or partial (manual,
    createIndexes); being hidden or having another hash seed makes no difference to it.
    """
    if list(index.key.items()) != list(key.items()) or index.collation != "simple":
        return False
    return version < SAME_KEY_AGAIN or not (index.sparse or index.partial or index.unique)


def _out_of_the_way(index: Index, namespace: str) -> str:
    """Return what to do about an index that can't carry the key and keeps the one that can from being built."""
    database, collection = split_namespace(namespace)
    only_hidden = index.hidden and replace(index, hidden=False).supports(index.key)
    if not only_hidden:
        return f"drop it, then run again: {drop_command(namespace, index.name)}"
    change = f'{{collMod: "{collection}", index: {{name: "{index.name}", hidden: false}}}}'
    return f'show it again, then run again: db.getSiblingDB("{database}").runCommand({change})'


def why_not(index: Index, key: Key) -> str:
    """Return why an index that begins with the key can't carry it; empty for one that does not begin with it."""
    if list(index.key.items())[: len(key)] != list(key.items()):
        return ""
    reasons = {
        "is sparse": index.sparse,
        "is partial": index.partial,
        "is hidden": index.hidden,
        f"has the collation {index.collation}": index.collation != "simple",
        f"has the hash seed {index.seed}": index.seed != 0,
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)


@check(
    29,
    "index-count",
    command="listIndexes",
    reason="A collection takes 64 indexes, and the shard key may need one more.",
)
def index_count(look: Look) -> Iterator[Seen]:
    """Look whether there is room for the shard-key index."""
    yield judge_count(look.indexes, look.key) if look.is_plain else no_collection(look)


def judge_count(found: Sequence[Index], key: Key) -> Seen:
    """Judge the number of indexes.

    Args:
        found: all indexes.
        key: the wanted shard key.
    """
    text = f"{len(found)} indexes, MongoDB allows {MOST_INDEXES}"
    if supporting_index(found, key) is None and len(found) >= MOST_INDEXES:
        return Seen("stop", text, "drop an unused one to make room for the shard-key index: $indexStats tells which")
    return Seen("note" if len(found) >= MANY_INDEXES else "ok", text)


@check(
    37,
    "ttl",
    command="listIndexes: expireAfterSeconds",
    reason="Each shard deletes by itself, also while chunks move, so counts drift and moves carry the deletes along.",
)
def ttl(look: Look) -> Iterator[Seen]:
    """Look for indexes that delete documents."""
    yield from judge_ttl(look.indexes) if look.is_plain else [no_collection(look)]


def judge_ttl(found: Sequence[Index]) -> list[Seen]:
    """Judge the TTL indexes.

    Args:
        found: all indexes.
    """
    rows = [
        Seen(
            "warn",
            f"the TTL index {index.name} deletes documents meanwhile ({index.ttl:.0f} s after {next(iter(index.key))})",
            "counts drift, which the oplogs explain; to hold the data still set ttlMonitorEnabled to false on every "
            "shard member for the time of the migration",
        )
        for index in found
        if index.ttl is not None
    ]
    return rows or [Seen("ok", "no TTL index")]
