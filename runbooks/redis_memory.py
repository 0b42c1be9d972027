"""The memory of every Redis node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.steps import redis_memory as memory_of_every_node

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(reads_only=True, target="redis")
def redis_memory(ctx: Context, *, big_keys: bool = False, sample: int = 500) -> None:
    """Report the memory of every Redis node, with findings and what to do.

    Used, resident, peak, fragmentation, limit and policy, evictions, buffers, keys by time to live; a trend where
    earlier reports are kept. Every node is asked at once, and none is slowed down: no KEYS, bounded SCAN.

    Args:
        big_keys: also look for the largest keys of the sample
        sample: keys looked at on each primary
    """
    memory_of_every_node(ctx, big_keys=big_keys, sample=sample)
