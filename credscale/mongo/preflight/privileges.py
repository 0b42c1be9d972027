"""What a user must be allowed for a migration, and what of it connectionStatus says is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.mongo_lease import COLLECTION, DATABASE
from credscale.mongo.backup.trial import SCRATCH_DATABASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CLUSTER = ""
SPECIAL = ("local", "config")  # databases that privileges on "any database" leave out
READ = ("version", "databases", "collections", "chunks", "changelog", "migrations", "locks", "mongos", "shards", "tags")
DIRECT_SINCE = (8,)
DISTRIBUTION_SINCE = (6, 0, 3)


@dataclass(frozen=True)
class Need:
    """What must be allowed on one resource.

    Args:
        database: empty for the cluster itself.
        collection: empty for the database itself.
        actions: by MongoDB's names.
    """

    database: str
    collection: str
    actions: frozenset[str]

    @property
    def place(self) -> str:
        """The resource in words."""
        if self.database == CLUSTER:
            return "the cluster"
        return f"{self.database}.{self.collection}" if self.collection else f"the database {self.database}"


def _need(database: str, collection: str, actions: str) -> Need:
    return Need(database, collection, frozenset(actions.split()))


def needs_of_migration(database: str, collection: str, version: tuple[int, ...]) -> list[Need]:
    """Return what shard-migrate does through mongos: reads, settings, sharding, backup, restore check and lease.

    Args:
        database: of the collection.
        collection: its name.
        version: of mongos.
    """
    distribution = " shardedDataDistribution" if version >= DISTRIBUTION_SINCE else ""
    return [
        _need(CLUSTER, "", "listShards getShardMap inprog serverStatus getDefaultRWConcern" + distribution),
        _need("config", "settings", "find insert update"),
        *(_need("config", name, "find") for name in READ),
        _need(database, "", "enableSharding listCollections"),
        _need(database, collection, "find collStats listIndexes createIndex enableSharding"),
        _need(DATABASE, COLLECTION, "find insert update"),
        _need(SCRATCH_DATABASE, "", "dropDatabase"),
        _need(SCRATCH_DATABASE, collection, "find insert createCollection"),
    ]


def needs_on_member(database: str, version: tuple[int, ...]) -> list[Need]:
    """Return what is asked of a shard's members directly: their state and their oplog.

    Args:
        database: of the collection.
        version: of mongos; since 8.0 a user of a shard needs a right of its own to work on it directly.
    """
    direct = " issueDirectShardOperations" if version >= DIRECT_SINCE else ""
    asked = "serverStatus replSetGetStatus replSetGetConfig getCmdLineOpts getParameter getLog hostInfo inprog"
    return [
        _need(CLUSTER, "", asked + direct),
        _need("local", "oplog.rs", "find collStats"),
        _need("config", "rangeDeletions", "find"),
        _need("admin", "", "dbStats"),
        _need(database, "", "listCollections"),
    ]


def missing(privileges: Iterable[Mapping[str, Any]], needs: Sequence[Need]) -> list[str]:
    """Return what is not allowed, in words: actions and resource.

    Args:
        privileges: authInfo.authenticatedUserPrivileges.
        needs: what must be allowed.
    """
    granted = [(each["resource"], set(each["actions"])) for each in privileges]
    found = []
    for need in needs:
        allowed = {action for resource, actions in granted if _covers(resource, need) for action in actions}
        lacking = set() if "anyAction" in allowed else need.actions - allowed
        if lacking:
            found.append(f"{', '.join(sorted(lacking))} on {need.place}")
    return found


def _covers(resource: Mapping[str, Any], need: Need) -> bool:
    """Tell whether a privilege's resource takes in another, by the server's rules for names."""
    if resource.get("anyResource"):
        return True
    if need.database == CLUSTER:
        return bool(resource.get("cluster"))
    database, collection = resource.get("db"), resource.get("collection")
    if database is None or collection is None:  # the cluster's own, or of an internal kind
        return False
    if collection not in ("", need.collection):
        return False
    if collection == "" and need.collection.startswith("system."):
        return False
    return database == need.database or (database == "" and need.database not in SPECIAL)
