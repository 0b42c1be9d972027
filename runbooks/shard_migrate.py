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
    shard_key_accepted,
    start_balancer,
    stop_balancer,
    verify_catalogue,
    verify_counts,
    verify_digest,
    verify_disk,
    verify_reads,
)

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(afterwards=(restore_balancer,))
def shard_migrate(
    ctx: Context,
    *,
    namespace: str = "credibility_prod.analyses",
    shard_key: str = "createdAt:hashed,userId:1",
    main_query: str = "userId",
    accept_scatter_gather: bool = False,
    chunk_size_mb: int = 64,
    window: str = "02:00-06:00",
    skip_checks: str = "",
    backup_directory: str = ".credscale/backups",
    backup_engine: str = "auto",
    backup_external: str = "",
    backup_host: str = "",
    external_restore_tested: str = "",
    restore_sample: int = 0,
    fullest_percent: int = 80,
    read_sample: int = 500,
    stall_minutes: float = 10.0,
) -> None:
    """Shard a collection and prove that no document was lost.

    Takes one collection of a sharded MongoDB cluster from a single shard to all of them. Every step looks first and
    changes only what is missing, so running it again continues where a killed run stopped, and changes nothing once
    all is done. The balancer is stopped before the first setting is touched and put back at the end to what it was.

    Args:
        namespace: the collection, as database.collection
        shard_key: fields in order, each "hashed" or 1, such as userId:hashed,createdAt:1
        main_query: fields of the query that matters most, such as userId, or userId,createdAt> with a range
        accept_scatter_gather: take a shard key that sends the main query to every shard
        chunk_size_mb: the cluster's chunk size, 1 to 1024 MB
        window: hours in which chunks may move, HH:MM-HH:MM in the config servers' local time; "" leaves it as it is
        skip_checks: pre-flight checks to leave out, each with its reason: "name=reason; name=reason"
        backup_directory: where backups lie; needs room for the whole collection
        backup_engine: auto, native, mongodump or external
        backup_external: a backup that somebody else took: pbm:NAME, or snapshot:ID@UTC-TIME
        backup_host: run mongodump there: a name of the section hosts and a folder, HOST:/FOLDER
        external_restore_tested: reference of the test that the external backup restores
        fullest_percent: how full a member's disk may be afterwards
        restore_sample: documents restored to test the backup; 0 restores all
        read_sample: documents read back through mongos at the end, one by one
        stall_minutes: give up, with a diagnosis, when no chunk moved for so long
    """
    # ## Before anything is changed
    #
    # A shard key is for years, so one that serves the main query badly needs a person's word. Then servers, catalogue,
    # indexes, data, settings and workload are checked, and the room on every shard.
    shard_key_accepted(ctx, shard_key=shard_key, main_query=main_query, accept_scatter_gather=accept_scatter_gather)
    preflight(
        ctx,
        namespace=namespace,
        shard_key=shard_key,
        chunk_size_mb=chunk_size_mb,
        window=window,
        backup_directory=backup_directory,
        skip=skip_checks,
    )
    verify_disk(
        ctx,
        namespace=namespace,
        backup_directory=backup_directory,
        shard_key=shard_key,
        restore_sample=restore_sample,
        dump_elsewhere=bool(backup_external or backup_host),
        fullest_percent=fullest_percent,
    )
    # ## A backup that is known to restore
    #
    # Its digest is the baseline of the proof at the end. A verified backup of the same data is not taken again.
    backup(
        ctx,
        namespace=namespace,
        backup_directory=backup_directory,
        engine=backup_engine,
        external=backup_external,
        backup_host=backup_host,
    )
    restore_check(
        ctx,
        namespace=namespace,
        backup_directory=backup_directory,
        sample=restore_sample,
        external_restore_tested=external_restore_tested,
    )
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
    # baseline, and each difference must be explained by a write in the shards' oplogs. Options, indexes and identity of
    # the collection are compared on every shard, and a sample is read the way the application reads.
    verify_counts(ctx, namespace=namespace, shard_key=shard_key, backup_directory=backup_directory)
    verify_catalogue(ctx, namespace=namespace, backup_directory=backup_directory)
    verify_digest(ctx, namespace=namespace, backup_directory=backup_directory)
    verify_reads(ctx, namespace=namespace, backup_directory=backup_directory, sample=read_sample)
    record_verification(ctx, namespace=namespace, backup_directory=backup_directory)
