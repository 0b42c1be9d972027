"""What each error code of MongoDB means and asks for: the one table that all steps go by.

Source: reference §8.3 and Appendix B, the tables of §1.2, §2.2, §2.3 and §3.6, the specification of retryable reads and
writes, and MongoDB's own list of error codes for the names.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Action(StrEnum):
    """What an error asks for.

    RETRY: it passes by itself. READ_BACK: what was asked for may have been done, so look before asking again, or repeat
    what is idempotent. STOP: only a person can mend it.
    """

    RETRY = "retry"
    READ_BACK = "read back"
    STOP = "stop"


class Rule(NamedTuple):
    """What one kind of error means.

    Args:
        meaning: what has happened, as the beginning of a sentence.
        action: what to do.
        advice: a sentence for a person, for when the run has to end with this error.
        patience: seconds for which it is worth repeating what is idempotent; 0: not at all.
    """

    meaning: str
    action: Action
    advice: str
    patience: float = 0.0


# An election takes 10 to 12 seconds (§2.2), the restart of a mongos or member up to a minute, and MongoDB 4.4 waits 20
# for a lock (§1.2): what lasts longer than this does not pass by itself.
PATIENCE = 90.0
AGAIN = "then run the same command again: it continues where it stopped"

ELECTING = Rule(
    "a replica set is electing its primary, or a member is restarting", Action.RETRY,
    f"Check with rs.status() that a majority of the set's voting members is up, {AGAIN}", PATIENCE,
)  # fmt: skip
UNREACHABLE = Rule(
    "a member of the cluster could not be reached", Action.RETRY,
    f"Check the named host and the network between it and mongos, {AGAIN}", PATIENCE,
)  # fmt: skip
BUSY = Rule(
    "another operation is at work on the same collection or shard", Action.RETRY,
    f"Look with db.currentOp() what is at work, let it end, {AGAIN}", PATIENCE,
)  # fmt: skip
SLOW = Rule(
    "the server waited for other members longer than it may", Action.RETRY,
    f"Check replication lag and load of the members, {AGAIN}", PATIENCE,
)  # fmt: skip
ROUTING = Rule(
    "the router's view of the chunks is out of date, which it mends by itself", Action.RETRY,
    f"Run flushRouterConfig on the mongos, {AGAIN}", PATIENCE,
)  # fmt: skip
ORPHANS = Rule(
    "a range still waits for the deletion of its orphans, by default 15 minutes", Action.RETRY,
    f"Wait for config.rangeDeletions on the shard to empty, {AGAIN}", PATIENCE,
)  # fmt: skip
CURSOR = Rule("the cursor was lost; a new one must go on where it was", Action.RETRY, f"Check the members, {AGAIN}")
UNCONFIRMED = Rule(
    "the write was made but not confirmed by a majority in time, so a failover could still take it back",
    Action.READ_BACK, f"Check that a majority of the set's members is up and not lagging, {AGAIN}", PATIENCE,
)  # fmt: skip
EXPIRED = Rule(
    "the time limit ended the waiting, not always the work: what was set stays set", Action.READ_BACK,
    f"Check that every shard has a primary and what db.currentOp() shows, {AGAIN}",
)  # fmt: skip
LOST = Rule(
    "the connection broke before the answer came, so the command may have been carried out", Action.READ_BACK,
    f"Check that mongos and the network are up, {AGAIN}", PATIENCE,
)  # fmt: skip
NOT_SENT = Rule(
    "no server could be reached, so nothing was sent", Action.RETRY,
    f"Check that the host named is up and reachable from here, {AGAIN}", PATIENCE,
)  # fmt: skip
UNKNOWN = Rule(
    "the server refused", Action.STOP, f"Look the error up in MongoDB's manual, mend its cause, {AGAIN}",
)  # fmt: skip
FOREIGN = Rule("this is not an error of MongoDB", Action.STOP, "Read the error; nothing is known about it here")
TLS = Rule(
    "the two ends do not agree on TLS", Action.STOP,
    f"Check tls, tlsCAFile and the certificate's host name in the connection string, {AGAIN}",
)  # fmt: skip


def _stop(meaning: str, advice: str) -> Rule:
    return Rule(meaning, Action.STOP, f"{advice}, {AGAIN}")


_INDEX_CONFLICT = _stop(
    "an index of the same name or key exists with other options", "Compare with listIndexes, drop or rename the other"
)
_PRESPLIT = _stop("presplitHashedZones does not fit the collection's zones", "Shard without it, or correct the zones")
_ARRAY = _stop("a document has an array in a hashed field", "Find it with $type: 'array' and correct it")
_ROLE = _stop("the shard does not know that it is one", "Start its members with --shardsvr and run addShard")

# Code, MongoDB's name, what it means. Codes of several names over the releases carry the one of 4.4.
_ROWS: tuple[tuple[int, str, Rule], ...] = (
    (2, "BadValue", _stop("a value is not what the server takes", "Correct what its text names")),
    (6, "HostUnreachable", UNREACHABLE),
    (7, "HostNotFound", UNREACHABLE),
    (9, "FailedToParse", _stop("the server can't read the command", "Correct what its text names")),
    (13, "Unauthorized", _stop(
        "the user lacks a right", "Grant clusterManager on admin, and readWrite on the databases concerned")),
    (14, "TypeMismatch", _stop("a value is of the wrong type", "Correct the document or setting that its text names")),
    (18, "AuthenticationFailed", _stop(
        "the user is not known there, or its password is another",
        "Check mongo.uri and its authSource; where a member of a shard has refused, create the user there too, with "
        "the same name, password and the roles of docs/how-to.md (Rights): users of a shard are its own (§2.5)")),
    (20, "IllegalOperation", _stop(
        "the cluster is not in a state for this, such as a database not enabled for sharding, or no shards",
        "Do what its text names")),
    (23, "AlreadyInitialized", _stop(
        "it exists already with other options", "Compare config.collections, or the set's configuration, with yours")),
    (24, "LockTimeout", BUSY),
    (26, "NamespaceNotFound", _stop("the collection or database does not exist", "Check the namespace")),
    (27, "IndexNotFound", _stop("the index of the shard key is gone", "Build it again with create-shard-key-index")),
    (43, "CursorNotFound", CURSOR),
    (46, "LockBusy", BUSY),
    (47, "NoMatchingDocument", _stop("a document of the catalogue is missing", "Compare it with what the text names")),
    (48, "NamespaceExists", _stop(
        "the name is taken, or the database has another primary shard", "Compare config.databases with the request")),
    (50, "MaxTimeMSExpired", EXPIRED),
    (51, "ManualInterventionRequired", _stop(
        "an earlier shardCollection of MongoDB 4.4 died after writing some chunks (§1.2)",
        "Check that config.collections has no entry for the collection, delete its documents from config.chunks")),
    (59, "CommandNotFound", _stop("this server does not know the command", "Check that mongo.uri names a mongos")),
    (61, "ShardKeyNotFound", _stop("the write or query lacks the shard key", "Give every field of it")),
    (64, "WriteConcernFailed", UNCONFIRMED),
    (66, "ImmutableField", _stop("a shard-key field or _id would change", "Correct the write")),
    (67, "CannotCreateIndex", _stop("the index is not possible here", "Correct the index that its text names")),
    (70, "ShardNotFound", _stop("the shard is not registered", "Compare its name with listShards, or add it")),
    (72, "InvalidOptions", _stop("options exclude each other or the collection", "Change what its text names")),
    (74, "NodeNotFound", UNREACHABLE),
    (76, "NoReplicationEnabled", _stop("the member runs without --replSet", "Restart it with --replSet")),
    (85, "IndexOptionsConflict", _INDEX_CONFLICT),
    (86, "IndexKeySpecsConflict", _INDEX_CONFLICT),
    (87, "CannotSplit", _stop("the chunk can't be split: one value of the key fills it", "Choose a finer shard key")),
    (89, "NetworkTimeout", UNREACHABLE),
    (91, "ShutdownInProgress", ELECTING),
    (93, "InvalidReplicaSetConfig", _stop("the set's configuration is not valid", "Correct its name and members")),
    (94, "NotYetInitialized", _stop("the replica set was never initiated", "Initiate it")),
    (96, "OperationFailed", _stop("the server could not do it", "Mend what its text names")),
    (103, "NewReplicaSetConfigurationIncompatible", _stop(
        "the new configuration contradicts the present one", "Change one thing at a time")),
    (112, "WriteConflict", BUSY),
    (117, "ConflictingOperationInProgress", BUSY),
    (118, "NamespaceNotSharded", _stop("the collection is not sharded", "Run shard-collection first")),
    (121, "DocumentValidationFailure", _stop(
        "a validator refuses the document; newer servers check config.settings so", "Correct the value")),
    (133, "FailedToSatisfyReadPreference", Rule(
        "no primary of the named replica set answers: it elects one, or it is down", Action.RETRY,
        f"Bring a majority of the members of the set that the text names up, {AGAIN}", PATIENCE)),
    (134, "ReadConcernMajorityNotAvailableYet", SLOW),
    (136, "CappedPositionLost", CURSOR),
    (145, "PooledConnectionsDropped", UNREACHABLE),
    (146, "ExceededMemoryLimit", _stop(
        "a migration was given up: more was written meanwhile than it can hold",
        "Throttle the writes, or make chunks smaller")),
    (150, "StaleEpoch", ROUTING),
    (153, "ChunkTooBig", _stop("a chunk has too many documents to move", "Split it, or move it with forceJumbo")),
    (163, "ZoneStillInUse", _stop("a zone still needs the shard", "Change the zone first")),
    (166, "CommandNotSupportedOnView", _stop("it is a view", "Name the collection behind it")),
    (175, "QueryPlanKilled", CURSOR),
    (188, "IncompatibleServerVersion", _stop(
        "binaries or featureCompatibilityVersion do not fit", "Bring shard and cluster to one version")),
    (189, "PrimarySteppedDown", ELECTING),
    (193, "NoShardingEnabled", _stop("this is not a sharded cluster", "Check that mongo.uri names a mongos")),
    (194, "BalancerInterrupted", ELECTING),
    (200, "ChunkRangeCleanupPending", ORPHANS),
    (202, "NetworkInterfaceExceededTimeLimit", UNREACHABLE),
    (203, "ShardingStateNotInitialized", _ROLE),
    (207, "InvalidUUID", _stop(
        "a shard holds another collection of the same name", "Inspect it on that shard, then rename or drop it there")),
    (237, "CursorKilled", CURSOR),
    (242, "CannotCreateCollection", _stop(
        "indexes of the shards differ", "Build the missing indexes on the shard that the text names")),
    (249, "StaleDbVersion", ROUTING),
    (262, "ExceededTimeLimit", SLOW),
    (265, "OrphanedRangeCleanUpFailed", ORPHANS),
    (272, "MigrationConflict", BUSY),
    (313, "ResumableRangeDeleterDisabled", _stop(
        "the deletion of orphans is turned off", "Restart without disableResumableRangeDeleter")),
    (9001, "SocketException", UNREACHABLE),
    (10107, "NotWritablePrimary", ELECTING),
    (11000, "DuplicateKey", _stop("two documents have the same unique value", "Find and resolve the duplicate")),
    (11600, "InterruptedAtShutdown", ELECTING),
    (11601, "Interrupted", Rule(
        "somebody has ended the operation with killOp or killSessions; part of it may have been done",
        Action.READ_BACK, f"Find out who has ended it and why, {AGAIN}")),
    (11602, "InterruptedDueToReplStateChange", ELECTING),
    (13297, "DatabaseDifferCase", _stop("a database of that name in other letters exists", "Use its spelling")),
    (13388, "StaleConfig", ROUTING),
    (13435, "NotPrimaryNoSecondaryOk", ELECTING),
    (13436, "NotPrimaryOrSecondary", ELECTING),
    (16763, "Location16763", _stop("compound hashed indexes need compatibility version 4.4", "Raise it")),
    (16766, "Location16766", _ARRAY),
    *((code, f"Location{code}", _PRESPLIT) for code in (31387, 31388, 31389, 31390, 31391, 31412)),
    (50876, "Location50876", _ROLE),
)  # fmt: skip
TABLE: dict[int, Rule] = {code: rule for code, _, rule in _ROWS}
NAMES: dict[int, str] = {code: name for code, name, _ in _ROWS}

PASSING = frozenset(code for code, rule in TABLE.items() if rule.patience > 0)
CURSOR_CODES = frozenset(code for code, rule in TABLE.items() if rule is CURSOR)
