"""The probe that reports the memory of every node."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.redis_cluster import plots
from credscale.redis_cluster.cluster.reasons import Reason, failed, ordered, sentence
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.memory.guide import guide_rows, judge_by_guide
from credscale.redis_cluster.memory.readings import node_memory, totals
from credscale.redis_cluster.memory.rules import human, judge_memory
from credscale.redis_cluster.memory.sampling import big_rows, pattern_rows, sample_keys, ttl_rows
from credscale.redis_cluster.memory.trend import Point, earlier, hours_to_full

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look, NodeView
    from credscale.redis_cluster.memory.readings import NodeMemory
    from credscale.redis_cluster.memory.sampling import Sample

STEP = "redis_memory"
SAMPLE_SECONDS, BIG_SECONDS = 2.0, 10.0
REPLY_SECONDS = 2.0
MOST_SAMPLED, LONGEST_INTERVAL = 1_000_000, 60.0
MOST_WORKERS = 32


@probe(show=plots.memory_bars)
def redis_memory(ctx: Context, *, big_keys: bool = False, sample: int = 500, interval: float = 1.0) -> Finding:
    """Report the memory of every node, what is dangerous about it, what keys there are, and when it will be full.

    Ends in failure, with all tables, when a node is about to refuse writes, swaps, could not take over from its
    primary, fails to save, evicts sessions or jobs, or does not answer. Reads only; keys are drawn by RANDOMKEY or, on
    small nodes, read with SCAN, and their names are reported as patterns. Redis 6.2 to 8, Valkey 8 and 9.

    Args:
        big_keys: look for big keys as well: MEMORY USAGE of ten times as many keys, up to 10 seconds per primary.
        sample: how many keys to look at on each primary, up to 1 000 000; 0 for none.
        interval: seconds between two looks, from which rates come, up to 60; 0 for one look and no rates.
    """
    if not 0 <= sample <= MOST_SAMPLED:
        raise EnvironmentInvalid(f"sample must be from 0 to {MOST_SAMPLED}, not {sample}")
    if not 0 <= interval <= LONGEST_INTERVAL:
        raise EnvironmentInvalid(f"interval must be from 0 to {LONGEST_INTERVAL:.0f} seconds, not {interval}")
    found = look(ctx, links=False)
    begin = time.monotonic()
    samples = _samples(ctx, found, most=sample * (10 if big_keys else 1), sizes=big_keys) if sample else []
    later = None
    if interval:
        time.sleep(max(0.0, interval - (time.monotonic() - begin)))
        later = look(ctx, links=False)
    nodes = node_memory(found, later)
    now = Point(datetime.now(UTC), {node.address: node.memory.used or 0 for node in nodes})
    points = (*earlier(ctx.folder, STEP), now)
    hours = hours_to_full(points, {node.address: node.memory.maximum or 0 for node in nodes})
    keys = [key for each in samples for key in each.keys]
    reasons = ordered(
        (*_silent(found), *_unsampled(samples), *judge_memory(nodes, keys, hours), *judge_by_guide(nodes))
    )
    output: dict[str, Any] = {
        "problems": [reason.row() for reason in reasons],
        "rows": [node.row() | {"full in (h)": _hours(hours.get(node.address))} for node in nodes],
        "totals": [totals(nodes)] if nodes else [],
        "scaling_guide": guide_rows(nodes),
        "looked_at": [_sample_row(each) for each in samples],
        "time_to_live": ttl_rows(keys),
        "key_patterns": pattern_rows(keys),
        "big_keys": big_rows(keys),
        "history": _history(points),
    }
    wrong = failed(reasons)
    if wrong:
        raise VerificationFailed(f"memory of the Redis Cluster: {sentence(wrong)}. {_summary(nodes)}", output)
    return Finding(_summary(nodes), output)


def _samples(ctx: Context, found: Look, *, most: int, sizes: bool) -> list[Sample]:
    owners = [view for view in found.answering if view.me is not None and view.me.is_primary]
    if not owners:
        return []

    def work(node: NodeView) -> Sample:
        client = ctx.clients.redis_node(node.place, timeout=REPLY_SECONDS)
        seconds = BIG_SECONDS if sizes else SAMPLE_SECONDS
        return sample_keys(client, node.address, most=most, seconds=seconds, sizes=sizes)

    with ThreadPoolExecutor(max_workers=min(MOST_WORKERS, len(owners))) as pool:
        return list(pool.map(work, owners))


def _silent(found: Look) -> Iterator[Reason]:
    for node in found.nodes:
        if node.error:
            yield Reason("failed", node.address, "answer", node.error, "see redis-status")


def _unsampled(samples: Sequence[Sample]) -> Iterator[Reason]:
    for each in samples:
        if each.error:
            yield Reason("note", each.address, "sample", f"its keys could not be sampled ({each.error})",
                         "allow DBSIZE, SCAN, RANDOMKEY, TYPE, PTTL and MEMORY USAGE to our user")  # fmt: skip


def _sample_row(sample: Sample) -> dict[str, Any]:
    return {
        "node": sample.address, "keys looked at": len(sample.keys), "of": sample.total,
        "how": "not at all" if sample.error else "all of them" if sample.whole else "drawn at random",
    }  # fmt: skip


def _history(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {"time": point.time.isoformat(timespec="seconds"), "nodes": len(point.used), "used": sum(point.used.values())}
        for point in points
    ]


def _hours(hours: float | None) -> float | None:
    return round(hours, 1) if hours is not None else None


def _summary(nodes: Sequence[NodeMemory]) -> str:
    total = totals(tuple(nodes))
    limit = f" of {human(total['max_bytes'])}" if total["max_bytes"] else ""
    fullest = max((node for node in nodes if node.share is not None), key=lambda node: node.share or 0, default=None)
    full = f", fullest {fullest.address} with {fullest.share:.0%}" if fullest is not None else ""
    return f"{total['primaries']} primaries use {human(total['used'])}{limit} for {total['keys']:,} keys{full}"
