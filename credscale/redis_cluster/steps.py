"""Every Redis Cluster step and probe; ``STEPS`` lists those of use on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.redis_cluster.memory.report import redis_memory
from credscale.redis_cluster.status import redis_status

if TYPE_CHECKING:
    from credscale.core.step import Step

__all__ = ["STEPS", "redis_memory", "redis_status"]

STEPS: list[Step[Any]] = [redis_status, redis_memory]
