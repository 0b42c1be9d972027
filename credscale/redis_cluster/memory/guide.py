"""The memory of the nodes against what the scaling guide gives a Redis node. Pure.

The guide contradicts itself: its node configuration sets maxmemory to 2 GB, its resource table limits a Redis container
to 1 GB. Such a node is killed by the kernel before it evicts anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.phrases import listed
from credscale.redis_cluster.cluster.reasons import Reason
from credscale.redis_cluster.memory.rules import human

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.redis_cluster.memory.readings import NodeMemory

GIGABYTE = 1 << 30
MAXMEMORY, POLICY = 2 * GIGABYTE, "allkeys-lru"
CONTAINER = GIGABYTE
HEADROOM = 1.3  # what a fork, replication and clients need beside the data, in multiples of maxmemory (§8)


def guide_rows(nodes: Sequence[NodeMemory]) -> list[dict[str, Any]]:
    """Return what the guide gives a node beside what the nodes have, one row per setting; empty without nodes."""
    if not nodes:
        return []
    limits = sorted({node.memory.maximum or 0 for node in nodes})
    policies = sorted({node.memory.policy or "unknown" for node in nodes})
    resident = max(node.memory.rss or 0 for node in nodes)
    needed = max(limits) * HEADROOM if min(limits) else 0.0
    return [
        {"setting": "maxmemory", "guide": human(MAXMEMORY),
         "here": listed(human(limit) if limit else "no limit" for limit in limits)},
        {"setting": "maxmemory-policy", "guide": POLICY, "here": listed(policies)},
        {"setting": "memory of a node's container", "guide": human(CONTAINER),
         "here": f"largest node holds {human(resident)}"
                 + (f"; with its maxmemory reached it needs about {human(needed)}" if needed else "; may grow freely")},
    ]  # fmt: skip


def judge_by_guide(nodes: Sequence[NodeMemory]) -> Iterator[Reason]:
    """Yield what would not fit into the guide's container; a note, because a node need not run in one."""
    above = [node.address for node in nodes if (node.memory.maximum or 0) * HEADROOM > CONTAINER]
    if above:
        yield Reason("note", listed(above, 3), "guide", f"the guide's container limit of {human(CONTAINER)} is less "
                     f"than its maxmemory needs with a fork and buffers ({HEADROOM:.1f} times)",
                     "where it runs in such a container, raise the limit or lower maxmemory")  # fmt: skip
