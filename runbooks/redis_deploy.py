"""Build a Redis Cluster, or complete one: from the hosts of an environment to slots, replicas and client settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.deploy.creation import cluster_ready, create_cluster
from credscale.redis_cluster.deploy.steps import client_settings, deployment_risks, start_nodes, write_node_files

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(builds_target=True, target="redis")
def redis_deploy(ctx: Context, *, accept_one_host_majority: bool = False, timeout: float = 60.0) -> None:
    """Build a Redis Cluster, and see that every node of it serves.

    Every step looks first and makes only what is missing: a half-made cluster is completed, a finished one is left
    alone. Nothing that holds data is ever emptied, and nothing that runs is restarted.

    Args:
        accept_one_host_majority: build it even if the loss of one host stops the cluster
        timeout: seconds to wait for each node to start, and for the cluster to be ready
    """
    # ## What is risky
    #
    # The environment's settings, judged by what the cluster holds, and those of its machines. Nothing stops here.
    deployment_risks(ctx)
    # ## Files and processes
    #
    # The plan shows every line that changes, but of passwords. What runs takes a new configuration up when restarted.
    write_node_files(ctx)
    start_nodes(ctx, timeout=timeout)
    # ## The cluster
    #
    # Slots are split evenly, replicas placed on other hosts than their primaries. A node that holds keys or belongs to
    # another cluster is refused.
    create_cluster(ctx, timeout=timeout, accept_one_host_majority=accept_one_host_majority)
    # ## Proof
    #
    # Every node is asked: it serves, sees the same cluster as the others, and every replica is in sync.
    cluster_ready(ctx)
    # ## For applications
    client_settings(ctx)
