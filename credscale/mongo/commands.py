"""Commands and reads that survive an election or a router's restart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pymongo import MongoClient
    from pymongo.collection import Collection as MongoCollection

    Client = MongoClient[dict[str, Any]]

T = TypeVar("T")
DEADLINE = 90.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0

# 46 LockBusy, 117 ConflictingOperationInProgress: somebody else, or our own lost command, is at work there.
BUSY = frozenset({46, 117})
# 6 HostUnreachable, 7 HostNotFound, 89 NetworkTimeout, 91 ShutdownInProgress, 133 FailedToSatisfyReadPreference (mongos
# while a shard elects), 189 PrimarySteppedDown, 262 ExceededTimeLimit, 10107 NotWritablePrimary, 11600
# InterruptedAtShutdown, 11602 InterruptedDueToReplStateChange, 13388 StaleConfig, 13435 NotPrimaryNoSecondaryOk, 13436
# NotPrimaryOrSecondary: all pass by themselves.
RETRYABLE = BUSY | {6, 7, 89, 91, 133, 189, 262, 10107, 11600, 11602, 13388, 13435, 13436}
# 43 CursorNotFound, 175 QueryPlanKilled, 237 CursorKilled: the cursor is gone, and a new one goes on where it was.
CURSOR_LOST = RETRYABLE | {43, 175, 237}
MAX_TIME_EXPIRED = 50


def run(client: Client, database: str, command: Mapping[str, Any], *, deadline: float = DEADLINE) -> dict[str, Any]:
    """Run an idempotent command and repeat it while it fails for a passing reason.

    Args:
        client: the connection.
        database: where to run it.
        command: the command document; the first key names the command.
        deadline: seconds after the first failure at which its error is raised.

    Returns:
        the reply.
    """
    return retrying(lambda: client[database].command(dict(command)), deadline=deadline)


def retrying(action: Callable[[], T], *, deadline: float = DEADLINE) -> T:
    """Repeat an idempotent action while it fails for a passing reason.

    Args:
        action: reads, or changes in a way that doing it twice is doing it once.
        deadline: seconds after the first failure; an attempt that itself lasted longer starts the count anew, so
            that a lost connection after three hours of an index build is not final. One that merely timed out does not.
    """
    from pymongo.errors import NetworkTimeout

    give_up, pause = 0.0, FIRST_PAUSE
    while True:
        started = time.monotonic()
        try:
            return action()
        except Exception as error:
            now = time.monotonic()
            worked = now - started > deadline and not isinstance(error, NetworkTimeout)
            if give_up == 0.0 or worked:
                give_up, pause = now + deadline, FIRST_PAUSE
            if not is_passing(error) or now >= give_up:
                raise
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


def is_passing(error: BaseException, codes: Collection[int] = RETRYABLE) -> bool:
    """Tell whether an error goes away by itself: a lost connection, an election, a lock.

    Args:
        error: what was raised.
        codes: the server's error codes that count as passing.
    """
    from pymongo.errors import ConnectionFailure, OperationFailure

    if isinstance(error, OperationFailure):
        return error.code in codes
    return isinstance(error, ConnectionFailure)


def config_collection(client: Client, name: str) -> MongoCollection[dict[str, Any]]:
    """Return a collection of the database config, read and written with majority.

    What is read back must not be what a failover of the config servers takes away again.
    """
    from pymongo import WriteConcern
    from pymongo.read_concern import ReadConcern

    return client["config"].get_collection(
        name, read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority", wtimeout=30_000)
    )
