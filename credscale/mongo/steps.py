"""Every MongoDB step and probe; ``STEPS`` lists those of use on their own, in the order of a migration.

``record_verification`` notes what the same run has proven, so it is a part of runbooks only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.advice.acceptance import shard_key_accepted
from credscale.mongo.advice.steps import advise_shard_key, find_breaking_writes
from credscale.mongo.backup.steps import backup
from credscale.mongo.backup.trial import restore_check
from credscale.mongo.chunks.monitoring import monitor_distribution
from credscale.mongo.deploy.ready import cluster_ready
from credscale.mongo.preflight.disk import verify_disk
from credscale.mongo.preflight.step import preflight
from credscale.mongo.proof.catalogue_check import verify_catalogue
from credscale.mongo.proof.duplicates import verify_unique_ids
from credscale.mongo.proof.point_reads import verify_reads
from credscale.mongo.proof.verification import record_verification, verify_counts, verify_digest
from credscale.mongo.sharding.balancing import (
    restore_balancer,
    set_balancer_window,
    set_chunk_size,
    start_balancer,
    stop_balancer,
)
from credscale.mongo.sharding.steps import create_shard_key_index, enable_sharding, shard_collection
from credscale.mongo.status.screen import cluster_status

if TYPE_CHECKING:
    from credscale.core.step import Step

__all__ = [
    "STEPS",
    "advise_shard_key",
    "backup",
    "cluster_ready",
    "cluster_status",
    "create_shard_key_index",
    "enable_sharding",
    "find_breaking_writes",
    "monitor_distribution",
    "preflight",
    "record_verification",
    "restore_balancer",
    "restore_check",
    "set_balancer_window",
    "set_chunk_size",
    "shard_collection",
    "shard_key_accepted",
    "start_balancer",
    "stop_balancer",
    "verify_catalogue",
    "verify_counts",
    "verify_digest",
    "verify_disk",
    "verify_reads",
    "verify_unique_ids",
]

STEPS: list[Step[Any]] = [
    cluster_status,
    cluster_ready,
    advise_shard_key,
    find_breaking_writes,
    shard_key_accepted,
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
    verify_catalogue,
    verify_digest,
    verify_reads,
    verify_unique_ids,
    restore_balancer,
]
