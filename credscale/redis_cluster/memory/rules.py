"""What is wrong or risky about the memory of the nodes, each rule with its numbers and its remedy (§1.6, §1.10). Pure.

Ratios say nothing about an instance that is nearly empty: the doctor's rules begin at 5 MB, fragmentation at 50 MB.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.reasons import Reason, ordered
from credscale.redis_cluster.memory.readings import MEGABYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from credscale.redis_cluster.cluster.reasons import Severity
    from credscale.redis_cluster.memory.readings import NodeMemory
    from credscale.redis_cluster.memory.sampling import KeyFact

    Nodes = Sequence[NodeMemory]

FULL, FILLING = 0.9, 0.8
DOCTOR_BYTES, RATIO_BYTES = 5 * MEGABYTE, 50 * MEGABYTE
NOTABLE_BYTES, FRAGMENTED_BYTES = 10 * MEGABYTE, 100 * MEGABYTE
PEAK, FRAGMENTED, WASTE = 1.5, 1.5, 1.1
CLIENT_BYTES, REPLICA_BYTES, LAG_BYTES = 200 << 10, 10 * MEGABYTE, 10 * MEGABYTE
MOST_SCRIPTS, FORK_SECONDS, CLIENTS = 1000, 0.5, 0.9
HOST_RSS, HOST_LIMITS = 0.85, 0.75
SKEW, SKEW_KEYS = 1.5, 1000
MIXED = 0.2
SOON_HOURS = 24.0


def judge_memory(
    nodes: Nodes, sample: Sequence[KeyFact] = (), hours_to_full: Mapping[str, float] | None = None
) -> tuple[Reason, ...]:
    """Return every finding about memory, the worst first.

    Args:
        nodes: every node that answered.
        sample: keys that were looked at, of all primaries.
        hours_to_full: by address, from the trend of earlier reports; nodes that do not grow are absent.
    """
    found = [reason for rule in NODE_RULES for node in nodes for reason in rule(node)]
    found += [reason for rule in CLUSTER_RULES for reason in rule(nodes)]
    found += _eviction(nodes, sample)
    found += _trend(hours_to_full or {})
    return ordered(found)


def human(size: float) -> str:
    """Return bytes in words."""
    for unit in ("B", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def _limit(node: NodeMemory) -> Iterator[Reason]:
    memory = node.memory
    if memory.maximum == 0:
        yield Reason("warn", node.address, "maxmemory", "maxmemory is 0: it grows until the machine or container kills "
                     "it", "set maxmemory to 60-75 % of its memory")  # fmt: skip
    share = node.share
    if share is None or share <= FILLING:
        return
    what = f"{share:.0%} of maxmemory {human(memory.maximum or 0)} are used"
    policy = memory.policy or "unknown"
    then = "writes fail (OOM)" if policy == "noeviction" else f"keys are evicted ({policy})"
    blind = policy.startswith("volatile") and not node.keyspace.expires
    then = f"writes fail, for no key has a TTL that {policy} could evict" if blind else then
    severity: Severity = "failed" if share > FULL and (policy == "noeviction" or blind) else "warn"
    yield Reason(severity, node.address, "full", f"{what}; at 100 % {then}",
                 "raise maxmemory, add shards, or let keys expire")  # fmt: skip


def _doctor(node: NodeMemory) -> Iterator[Reason]:
    """Judge by the rules of MEMORY DOCTOR, with their numbers."""
    memory, used = node.memory, node.memory.used or 0
    if used < DOCTOR_BYTES:
        return
    if (memory.peak or 0) > PEAK * used:
        times = (memory.peak or 0) / used
        yield Reason("note", node.address, "peak", f"its peak was {human(memory.peak or 0)}, {times:.1f} times of now; "
                     "the allocator may keep the difference", "nothing, or MEMORY PURGE")  # fmt: skip
    for ratio, size, rule, what in (
        (memory.allocator_fragmentation, memory.allocator_fragmentation_bytes, "allocator", "fragmentation inside"),
        (memory.allocator_rss, memory.allocator_rss_bytes, "allocator-rss", "pages kept by"),
        (memory.process_rss, memory.process_rss_bytes, "process-rss", "memory beside"),
    ):
        if (ratio or 0) > WASTE and (size or 0) > NOTABLE_BYTES:
            yield Reason("note", node.address, rule, f"{what} the allocator: ratio {ratio}, {human(size or 0)}",
                         "MEMORY PURGE, or activedefrag yes where the allocator is jemalloc")  # fmt: skip
    if (memory.cached_scripts or 0) > MOST_SCRIPTS:
        yield Reason("note", node.address, "scripts", f"{memory.cached_scripts} scripts are cached",
                     "pass values as arguments instead of writing them into scripts; SCRIPT FLUSH")  # fmt: skip


def _fragmentation(node: NodeMemory) -> Iterator[Reason]:
    memory = node.memory
    if memory.fragmentation is None or (memory.used or 0) < RATIO_BYTES:
        return
    if memory.fragmentation < 1.0:
        yield Reason("failed", node.address, "swap", f"only {memory.fragmentation:.2f} of its memory is resident: the "
                     "machine swaps", "free memory on the machine, lower maxmemory, turn swap off")  # fmt: skip
    elif memory.fragmentation > FRAGMENTED and (memory.fragmentation_bytes or 0) > FRAGMENTED_BYTES:
        yield Reason("warn", node.address, "fragmentation", f"fragmentation {memory.fragmentation:.2f}, "
                     f"{human(memory.fragmentation_bytes or 0)} are wasted",
                     "activedefrag yes, or fail over and restart")  # fmt: skip


def _clients(node: NodeMemory) -> Iterator[Reason]:
    memory, stats = node.memory, node.stats
    if stats.clients and (memory.clients or 0) / stats.clients > CLIENT_BYTES:
        yield Reason("warn", node.address, "clients", f"{stats.clients} clients hold {human(memory.clients or 0)}, "
                     f"{human((memory.clients or 0) / stats.clients)} each",
                     "look for slow readers: CLIENT LIST, omem; client-output-buffer-limit")  # fmt: skip
    if (memory.replicas or 0) / max(1, node.replication.connected or 0) > REPLICA_BYTES:
        yield Reason("warn", node.address, "replica-buffers", "its replicas' buffers hold "
                     f"{human(memory.replicas or 0)}", "look at the network and the disks of the replicas")  # fmt: skip
    if stats.clients and stats.most_clients and stats.clients > CLIENTS * stats.most_clients:
        yield Reason("warn", node.address, "maxclients", f"{stats.clients} of {stats.most_clients} clients are "
                     "connected", "raise maxclients, or pool connections")  # fmt: skip
    if stats.rejected:
        yield Reason("warn", node.address, "rejected", f"it has rejected {stats.rejected} connections since its start",
                     "raise maxclients and nofile, or find the leak")  # fmt: skip


def _persistence(node: NodeMemory) -> Iterator[Reason]:
    kept, stats = node.persistence, node.stats
    for status, what in (
        (kept.save_status, "the last RDB save"),
        (kept.aof_write_status, "the last write to the AOF"),
        (kept.aof_rewrite_status, "the last rewrite of the AOF"),
    ):
        if status not in (None, "ok"):
            yield Reason("failed", node.address, "persistence", f"{what} failed ({status})",
                         "read its log: disk full, or no memory for the fork (vm.overcommit_memory=1)")  # fmt: skip
    if (stats.fork_microseconds or 0) > FORK_SECONDS * 1e6:
        yield Reason("warn", node.address, "fork", "the last fork stopped it for "
                     f"{(stats.fork_microseconds or 0) / 1e6:.1f} s",
                     "smaller shards; transparent huge pages off")  # fmt: skip


def _lag(node: NodeMemory) -> Iterator[Reason]:
    if node.lag is not None and node.lag > LAG_BYTES:
        yield Reason("warn", node.address, "lag", f"a replica of it has not acknowledged {human(node.lag)}",
                     "look at the replica and the network; a failover now would lose that")  # fmt: skip


def _hosts(nodes: Nodes) -> Iterator[Reason]:
    by_host: dict[str, list[NodeMemory]] = defaultdict(list)
    for node in nodes:
        by_host[node.host].append(node)
    for host, group in by_host.items():
        system = max((node.memory.system or 0 for node in group), default=0)
        if not system:
            continue
        rss, limits = sum(node.memory.rss or 0 for node in group), sum(node.memory.maximum or 0 for node in group)
        if rss > HOST_RSS * system:
            yield Reason("warn", host, "host-memory", f"its nodes hold {human(rss)} of {human(system)}",
                         "move nodes elsewhere")  # fmt: skip
        elif limits > HOST_LIMITS * system:
            yield Reason("warn", host, "host-limits", f"the maxmemory of its {len(group)} nodes adds up to "
                         f"{human(limits)} of {human(system)}; a fork needs room too",
                         "lower maxmemory, or move nodes")  # fmt: skip


def _shards(nodes: Nodes) -> Iterator[Reason]:
    """Find replicas that could not take over as they are."""
    owners = {node.shard: node for node in nodes if node.role == "primary"}
    for node in nodes:
        owner = owners.get(node.shard)
        if node.role != "replica" or owner is None or not node.memory.maximum:
            continue
        if (owner.memory.used or 0) > node.memory.maximum:
            yield Reason("failed", node.address, "promotion", f"its maxmemory {human(node.memory.maximum)} is less "
                         f"than the {human(owner.memory.used or 0)} of its primary: promoted, it evicts or "
                         "refuses writes", "give it the primary's maxmemory")  # fmt: skip
        elif node.memory.maximum != owner.memory.maximum or node.memory.policy != owner.memory.policy:
            mine, its = (f"{human(each.memory.maximum or 0)} {each.memory.policy}" for each in (node, owner))
            yield Reason("warn", node.address, "promotion", f"its maxmemory and policy ({mine}) are not its primary's "
                         f"({its})", "set them alike: roles swap")  # fmt: skip


def _skew(nodes: Nodes) -> Iterator[Reason]:
    owners = [node for node in nodes if node.role == "primary" and node.slots]
    for name, values, floor in (
        ("used memory", [node.memory.used or 0 for node in owners], RATIO_BYTES),
        ("keys", [node.keyspace.keys for node in owners], SKEW_KEYS),
        ("slots", [node.slots for node in owners], 1),
    ):
        mean = sum(values) / len(values) if values else 0
        if mean and max(values) >= floor and max(values) / mean > SKEW:
            where = owners[values.index(max(values))].address
            yield Reason("warn", where, "skew", f"its {name} are {max(values) / mean:.1f} times the mean of the "
                         "primaries", "rebalance slots; look for big keys and hash tags")  # fmt: skip


def _eviction(nodes: Nodes, sample: Sequence[KeyFact]) -> Iterator[Reason]:
    """Judge what eviction does to keys that are no cache (§1.6).

    Measured: of 2000 sessions beside 20 000 cache keys in 12 MB allkeys-lru left 420 to 460, volatile-lru none.
    """
    policies = {node.memory.policy for node in nodes if node.memory.policy}
    sessions = sum(key.kind == "session" for key in sample)
    queues = sum(key.kind == "queue" for key in sample)
    lasting = sum(key.ttl is None for key in sample)
    precious = [f"{number} {name}" for number, name in ((sessions, "sessions"), (queues, "queue keys")) if number]
    among = f"among {len(sample)} sampled keys are {' and '.join(precious)}"
    for policy in sorted(policies - {"noeviction"}):
        if policy.startswith("allkeys") and precious:
            yield Reason("warn", "cluster", "eviction", f"{policy} evicts every kind of key, and {among}: when "
                         "memory is full, users are logged out and jobs vanish",
                         "put sessions and queues on a cluster of their own with noeviction")  # fmt: skip
        elif queues:
            yield Reason("warn", "cluster", "eviction", f"{among}, which need noeviction (Bull refuses less), but the "
                         f"policy is {policy}", "put queues on a cluster of their own with noeviction")  # fmt: skip
        elif policy.startswith("volatile") and sessions and lasting > MIXED * len(sample):
            yield Reason("warn", "cluster", "eviction", f"{policy} evicts only keys with a TTL, so the {sessions} "
                         f"sessions go first and the {lasting} keys without a TTL stay (of {len(sample)} sampled)",
                         "give cache keys a TTL, and sessions a cluster of their own")  # fmt: skip
    for node in nodes:
        if node.rates is not None and node.rates.evicted > 0 and node.role == "primary":
            severity: Severity = "failed" if precious else "warn"
            what = f"it evicts {node.rates.evicted:.1f} keys/s now" + (f", and {among}" if precious else "")
            yield Reason(severity, node.address, "evicting", what, "raise maxmemory, or add shards")


def _trend(hours: Mapping[str, float]) -> Iterator[Reason]:
    for address, left in hours.items():
        if left < SOON_HOURS:
            yield Reason("warn", address, "trend", f"it is full in {left:.1f} h if it goes on growing as in the "
                         "earlier reports", "add shards or memory before")  # fmt: skip


NODE_RULES: tuple[Callable[[NodeMemory], Iterator[Reason]], ...] = (
    _limit, _doctor, _fragmentation, _clients, _persistence, _lag,
)  # fmt: skip
CLUSTER_RULES: tuple[Callable[[Nodes], Iterator[Reason]], ...] = (_hosts, _shards, _skew)
