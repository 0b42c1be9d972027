"""Build a sharded cluster, or complete one: from the hosts of an environment to what shard-migrate needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.mongo.deploy.conversion import convert_to_shard
from credscale.mongo.deploy.ready import cluster_ready
from credscale.mongo.deploy.steps import (
    add_shards,
    create_admin_user,
    initiate_replica_sets,
    join_members,
    set_default_write_concern,
    start_members,
    start_routers,
    write_config_files,
)

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(builds_target=True)
def mongo_deploy(ctx: Context, *, convert: str = "", allow_downtime: bool = False, timeout: float = 120.0) -> None:
    """Build a sharded cluster, and see that it accepts shard-migrate.

    Every step looks first and makes only what is missing: a half-built cluster is completed, a finished one is left
    alone. Nothing that holds data is ever emptied, initiated again or restarted, but for the replica set that `convert`
    names, whose members are restarted one at a time.

    Args:
        convert: the replica set of mongo.shards that exists already, or a standalone that becomes it; "" for none
        allow_downtime: let `convert` restart a set that cannot spare a member; its clients wait meanwhile
        timeout: seconds to wait for each process, election and shard
    """
    # ## An existing replica set becomes a shard
    #
    # Only with `convert`: the role is set on one member after the other, the primary last. Clients go on meanwhile.
    convert_to_shard(ctx, convert=convert, allow_downtime=allow_downtime, timeout=timeout)
    # ## Files and processes
    #
    # The plan shows every line that changes. What runs is not restarted; it takes a new configuration up when it is.
    write_config_files(ctx)
    start_members(ctx, timeout=timeout)
    # ## Replica sets
    #
    # Config servers first. All members have to answer before a set is initiated, and to be in sync afterwards.
    initiate_replica_sets(ctx, timeout=timeout)
    join_members(ctx, timeout=timeout)
    # ## Routers and the first user
    #
    # The localhost exception lets exactly one user be made over the loopback of each machine, and ends with it.
    start_routers(ctx, timeout=timeout)
    create_admin_user(ctx, timeout=timeout)
    # ## Shards
    #
    # The shard that holds data is added first, so that its databases are registered with it.
    set_default_write_concern(ctx)
    add_shards(ctx, timeout=timeout)
    # ## Proof
    #
    # Everything is read back at the addresses, and as the user, that shard-migrate will use.
    cluster_ready(ctx)
