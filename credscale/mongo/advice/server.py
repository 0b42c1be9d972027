"""What the server itself says of a key: analyzeShardKey, since 7.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import config_collection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.mongo.cluster.commands import Client

ANALYZES_FROM = (7, 0)
MILLISECONDS = 15_000  # for one candidate; they are asked one after another, as each reads an index of one server


def server_figures(
    client: Client, server: facts.Server, namespace: str, key: facts.Key, sample: int
) -> tuple[dict[str, Any], str]:
    """Ask analyzeShardKey for a candidate, with a sample as small as ours.

    The characteristics of a key are read from an index that starts with it, so they are asked for only where there is
    one. The distribution of reads and writes comes from queries that configureQueryAnalyzer has sampled; without them
    it is not asked for, because the answer would be zeros and computing it leaves split points in config.

    Args:
        client: a connection to mongos.
        server: what it is.
        namespace: ``database.collection``.
        key: the candidate.
        sample: the most documents the server may look at.

    Returns:
        flat figures, empty when there are none; and why not, in a sentence.
    """
    from pymongo.errors import PyMongoError

    name = facts.key_text(key)
    if server.numbers < ANALYZES_FROM:
        return {}, "analyzeShardKey is there since 7.0 only"
    try:
        indexed = any(index.supports(key) for index in facts.indexes(client, namespace))
        sampled = (
            config_collection(client, "queryAnalyzers").find_one({"_id": namespace}, max_time_ms=MILLISECONDS)
            is not None
        )
        if not indexed and not sampled:
            return {}, f"analyzeShardKey has nothing on {name}: no index starts with it and no queries are sampled"
        command: dict[str, Any] = {
            "analyzeShardKey": namespace,
            "key": dict(key),
            "keyCharacteristics": indexed,
            "readWriteDistribution": sampled,
            "maxTimeMS": MILLISECONDS,
        }
        reply = client["admin"].command({**command, **({"sampleSize": sample} if indexed else {})})
    except PyMongoError as error:
        return {}, f"analyzeShardKey of {name} failed ({getattr(error, 'code', None) or type(error).__name__})"
    return {"key": name, **parse_analysis(reply)}, ""


def parse_analysis(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of analyzeShardKey without the users' values in it."""
    shape, reads, writes = (
        reply.get(part) or {} for part in ("keyCharacteristics", "readDistribution", "writeDistribution")
    )
    found: dict[str, Any] = {}
    if shape:
        looked = int(shape.get("numDocsSampled", 0))
        common = max((int(each.get("frequency", 0)) for each in shape.get("mostCommonValues", [])), default=0)
        found |= {
            "documents looked at": looked,
            "values": int(shape.get("numDistinctValues", 0)),
            "most frequent": round(common / looked, 4) if looked else None,
            "grows": str((shape.get("monotonicity") or {}).get("type", "unknown")),
        }
    for title, part, names in (("reads", reads, _READS), ("writes", writes, _WRITES)):
        if int((part.get("sampleSize") or {}).get("total", 0)):
            found |= {f"{title} {ours}": float(part[theirs]) for theirs, ours in names.items() if theirs in part}
    return found


_READS = {
    "percentageOfSingleShardReads": "% one shard",
    "percentageOfMultiShardReads": "% some shards",
    "percentageOfScatterGatherReads": "% every shard",
}
_WRITES = {
    "percentageOfSingleShardWrites": "% one shard",
    "percentageOfMultiShardWrites": "% some shards",
    "percentageOfScatterGatherWrites": "% every shard",
    "percentageOfShardKeyUpdates": "% change the key",
    "percentageOfSingleWritesWithoutShardKey": "% of one without key",
    "percentageOfMultiWritesWithoutShardKey": "% of many without key",
}
