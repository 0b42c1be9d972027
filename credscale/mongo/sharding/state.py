"""Read what ``plan_migration`` needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.mongo.chunks.distribution import distribution
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.settings import balancer_settings, check_chunk_size, parse_window
from credscale.mongo.sharding.plan import MigrationState, Wanted

if TYPE_CHECKING:
    from credscale.mongo.cluster.commands import Client

# Since 6.0 shardCollection enables sharding by itself and `partitioned` means nothing (reference §1).
ENABLES_ITSELF = (6,)


def wanted_state(shard_key: str, chunk_size_mb: int, window: str) -> Wanted:
    """Check the parameters of a migration.

    Raises:
        EnvironmentInvalid: one of them is not what MongoDB takes.
    """
    key = facts.key_text(facts.parse_key(shard_key))
    return Wanted(key, check_chunk_size(chunk_size_mb), parse_window(window))


def migration_state(client: Client, namespace: str, shard_key: str) -> MigrationState:
    """Read what is there.

    Args:
        client: a connection to mongos.
        namespace: ``database.collection``.
        shard_key: the wanted key, to judge the indexes.
    """
    server = facts.server(client)
    settings = balancer_settings(client)
    sharded = facts.sharded_collection(client, namespace)
    database = facts.database(client, facts.split_namespace(namespace)[0])
    index = facts.supporting_index(facts.indexes(client, namespace), facts.parse_key(shard_key))
    balanced = sharded is not None and not distribution(client, server, sharded, settings.chunk_size_mb).remaining
    return MigrationState(
        sharded_key=sharded.key_text if sharded is not None else None,
        sharding_enabled=server.numbers >= ENABLES_ITSELF or (database is not None and database.partitioned),
        index_ready=index is not None,
        mode=settings.mode,
        in_round=settings.in_round,
        chunk_size_mb=settings.chunk_size_mb,
        window=settings.window,
        balanced=balanced,
    )
