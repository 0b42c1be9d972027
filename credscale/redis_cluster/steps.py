"""Every Redis Cluster step and probe; ``STEPS`` lists those of use on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.redis_cluster.deploy.creation import cluster_ready, create_cluster, write_canary
from credscale.redis_cluster.deploy.steps import client_settings, deployment_risks, start_nodes, write_node_files
from credscale.redis_cluster.drill.steps import drill_allowed, restore_nodes
from credscale.redis_cluster.failover.forcing import force_failover
from credscale.redis_cluster.failover.steps import fail_over
from credscale.redis_cluster.memory.report import redis_memory
from credscale.redis_cluster.resharding.joining import add_node
from credscale.redis_cluster.resharding.leaving import remove_node
from credscale.redis_cluster.resharding.steps import rebalance_slots, repair_open_slots
from credscale.redis_cluster.status import redis_status

if TYPE_CHECKING:
    from credscale.core.step import Step

__all__ = [
    "STEPS",
    "add_node",
    "client_settings",
    "cluster_ready",
    "create_cluster",
    "deployment_risks",
    "drill_allowed",
    "fail_over",
    "force_failover",
    "rebalance_slots",
    "redis_memory",
    "redis_status",
    "remove_node",
    "repair_open_slots",
    "restore_nodes",
    "start_nodes",
    "write_canary",
    "write_node_files",
]

STEPS: list[Step[Any]] = [
    redis_status,
    redis_memory,
    deployment_risks,
    write_node_files,
    start_nodes,
    create_cluster,
    cluster_ready,
    write_canary,
    client_settings,
    fail_over,
    force_failover,
    drill_allowed,
    restore_nodes,
    repair_open_slots,
    rebalance_slots,
    add_node,
    remove_node,
]
