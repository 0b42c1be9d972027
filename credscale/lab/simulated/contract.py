"""What the simulated mongos and the simulated shards agree on, beyond MongoDB's own commands."""

from __future__ import annotations

# Writes with this comment are marked fromMigrate in the shard's oplog.
MIGRATION_COMMENT = "credscale-lab migration"
# Asks a shard which _ids were written in a namespace since a position.
CHANGES_COMMAND = "_credscaleLabChanges"
# Tells a shard what its serverStatus.sharding shows.
SHARDING_COMMAND = "_credscaleLabSharding"
# Gives a collection on a recipient, created if need be, its UUID on the donor; SecantusDB's own commands cannot.
IDENTITY_COMMAND = "_credscaleLabIdentity"
# Stands in buildInfo.modules, so that nobody takes the lab for MongoDB.
MODULE = "credscale-lab"
