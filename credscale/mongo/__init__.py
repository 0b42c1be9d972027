"""MongoDB: facts (read), plan (pure), steps (change). ``STEPS`` are the steps and probes in the order of a migration."""

from __future__ import annotations

from typing import Any

from credscale.core.step import Step
from credscale.mongo.backup_steps import backup, restore_check
from credscale.mongo.balancing import (
    restore_balancer,
    set_balancer_window,
    set_chunk_size,
    start_balancer,
    stop_balancer,
)
from credscale.mongo.disk import verify_disk
from credscale.mongo.monitoring import monitor_distribution
from credscale.mongo.preflight import preflight
from credscale.mongo.sharding import create_shard_key_index, enable_sharding, shard_collection
from credscale.mongo.verification import record_verification, verify_counts, verify_digest

STEPS: list[Step[Any]] = [
    preflight,
    verify_disk,
    backup,
    restore_check,
    stop_balancer,
    set_chunk_size,
    set_balancer_window,
    enable_sharding,
    create_shard_key_index,
    shard_collection,
    start_balancer,
    monitor_distribution,
    verify_counts,
    verify_digest,
    record_verification,
    restore_balancer,
]
