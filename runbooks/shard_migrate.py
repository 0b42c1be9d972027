"""Shard one collection: backup, shard key, balancing, proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.mongo.steps import (
    backup,
    create_shard_key_index,
    enable_sharding,
    monitor_distribution,
    preflight,
    record_verification,
    restore_balancer,
    restore_check,
    set_balancer_window,
    set_chunk_size,
    shard_collection,
    start_balancer,
    stop_balancer,
    verify_counts,
    verify_digest,
    verify_disk,
)

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(afterwards=(restore_balancer,))
def shard_migrate(
    ctx: Context,
    *,
    namespace: str = "credibility_prod.analyses",
    shard_key: str = "createdAt:hashed,userId:1",
    chunk_size_mb: int = 64,
    window: str = "02:00-06:00",
    backup_directory: str = ".credscale/backups",
    restore_sample: int = 0,
    stall_minutes: float = 10.0,
) -> None:
    """Shard a collection and prove that no document was lost.

    Takes one collection of a sharded MongoDB cluster from a single shard to all of them. Every step looks first and
    changes only what is missing, so running it again continues where a killed run stopped, and changes nothing once
    all is done. The balancer is stopped before the first setting is touched and put back at the end to what it was.

    Args:
        namespace: the collection, as database.collection
        shard_key: fields in order, each "hashed" or 1, such as userId:hashed,createdAt:1
        chunk_size_mb: the cluster's chunk size, 1 to 1024 MB
        window: hours in which chunks may move, HH:MM-HH:MM in the config servers' local time; "" leaves it as it is
        backup_directory: where backups lie; needs room for the whole collection
        restore_sample: documents restored to test the backup; 0 restores all
        stall_minutes: give up, with a diagnosis, when no chunk moved for so long
    """
    # ## Before anything is changed
    #
    # The cluster, the collection and the shard key are checked, then the room on every shard.
    preflight(ctx, namespace=namespace, shard_key=shard_key, chunk_size_mb=chunk_size_mb, window=window)
    verify_disk(
        ctx, namespace=namespace, backup_directory=backup_directory, shard_key=shard_key, restore_sample=restore_sample
    )
    # ## A backup that is known to restore
    #
    # Its digest is the baseline of the proof at the end. A verified backup of the same data is not taken again.
    backup(ctx, namespace=namespace, backup_directory=backup_directory)
    restore_check(ctx, namespace=namespace, backup_directory=backup_directory, sample=restore_sample)
    # ## Settings, with the balancer at rest
    #
    # Up to 6.0.2 the chunk size at this moment decides how the collection is split, and a malformed window would stop
    # all balancing without a word, so both are set and read back before anything is sharded.
    stop_balancer(ctx, namespace=namespace, shard_key=shard_key, chunk_size_mb=chunk_size_mb, window=window)
    set_chunk_size(ctx, chunk_size_mb=chunk_size_mb)
    set_balancer_window(ctx, window=window)
    # ## Shard the collection
    #
    # `shard_collection` is the point of no return: before 8.0 a collection cannot be unsharded, only restored.
    enable_sharding(ctx, namespace=namespace)
    create_shard_key_index(ctx, namespace=namespace, shard_key=shard_key)
    shard_collection(ctx, namespace=namespace, shard_key=shard_key)
    # ## Spread the chunks
    #
    # Killing the run here does no harm: the cluster goes on balancing, and the next run watches again.
    start_balancer(ctx, namespace=namespace)
    monitor_distribution(ctx, namespace=namespace, stall_minutes=stall_minutes)
    # ## Proof
    #
    # Counts alone prove nothing once orphans or live writers are about, so every document's bytes are compared with the
    # baseline, and each difference must be explained by a write in the shards' oplogs.
    verify_counts(ctx, namespace=namespace, shard_key=shard_key, backup_directory=backup_directory)
    verify_digest(ctx, namespace=namespace, backup_directory=backup_directory)
    record_verification(ctx, namespace=namespace, backup_directory=backup_directory)
