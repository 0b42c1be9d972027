"""Commands and reads that survive an election or a router's restart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from credscale.mongo.cluster.failure_rules import CURSOR_CODES, PASSING, PATIENCE
from credscale.mongo.cluster.failures import advised, explain_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pymongo import MongoClient
    from pymongo.collection import Collection as MongoCollection

    Client = MongoClient[dict[str, Any]]

T = TypeVar("T")
DEADLINE = PATIENCE
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0

RETRYABLE = PASSING
CURSOR_LOST = RETRYABLE | CURSOR_CODES  # for whoever can open a new cursor where the lost one was
BUSY = frozenset({46, 117})  # somebody else, or our own lost command, is at work there
MAX_TIME_EXPIRED, COMMAND_NOT_FOUND = 50, 59


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
            that a lost connection after three hours of an index build is not final. One that merely timed out does
            not, and its own time counts.

    Raises:
        Exception: what the driver raised, its text ending with what to do about it (``failures.explain_failure``).
    """
    from pymongo.errors import NetworkTimeout, ServerSelectionTimeoutError

    give_up, pause = 0.0, FIRST_PAUSE
    while True:
        started = time.monotonic()
        try:
            return action()
        except Exception as error:
            now = time.monotonic()
            waited = isinstance(error, NetworkTimeout | ServerSelectionTimeoutError)
            if give_up == 0.0 or (now - started > deadline and not waited):
                give_up, pause = (started if waited else now) + deadline, FIRST_PAUSE
            if not is_passing(error) or now >= give_up:
                advised(error)
                raise
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 2)


def hello(client: Client, *, deadline: float = DEADLINE) -> dict[str, Any]:
    """Greet a server; 4.4.0 and 4.4.1 know only the older name of it (§2.2)."""
    from pymongo.errors import OperationFailure

    try:
        return run(client, "admin", {"hello": 1}, deadline=deadline)
    except OperationFailure as error:
        if error.code != COMMAND_NOT_FOUND:
            raise
    return run(client, "admin", {"isMaster": 1}, deadline=deadline)


def is_passing(error: BaseException, also: Collection[int] = ()) -> bool:
    """Tell whether an error goes away by itself, so that repeating what is idempotent helps: an election, a lock.

    Args:
        error: what was raised.
        also: further codes of the server that count as passing.
    """
    failure = explain_failure(error)
    return failure.patience > 0 or failure.code in also


def config_collection(client: Client, name: str) -> MongoCollection[dict[str, Any]]:
    """Return a collection of the database config, read and written with majority.

    What is read back must not be what a failover of the config servers takes away again.
    """
    from pymongo import WriteConcern
    from pymongo.read_concern import ReadConcern

    return client["config"].get_collection(
        name, read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority", wtimeout=30_000)
    )
