"""Reading a whole collection as of one moment of the cluster, where the server keeps enough history for that.

Since 5.0 a session can read a snapshot on all shards (§4.1). The shards keep ``minSnapshotHistoryWindowInSeconds`` of
history, 300 by default: a longer read ends with SnapshotTooOld. Whether a server did read a snapshot is believed only
when its reply names the time of it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying, run
from credscale.mongo.cluster.members import MEMBER_DEADLINE, first_answering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bson import Timestamp
    from pymongo.client_session import ClientSession

    from credscale.core.context import Context
    from credscale.mongo.backup.manifest import Manifest

SNAPSHOTS = (5,)
DEFAULT_WINDOW = 300.0
PASSES = 2  # the digest, and one pass for what differs
# 239 SnapshotTooOld, 246 SnapshotUnavailable, 250 StaleChunkHistory: the moment can no longer be read.
MOMENT_GONE = frozenset({239, 246, 250})


@dataclass(frozen=True)
class View:
    """How a collection is read.

    Args:
        session: reads one snapshot; None where each cursor sees its own moments.
        at: the snapshot's cluster time.
        reason: why it is no snapshot.
        began: a time before the reading began, so that what was written earlier was seen.
    """

    session: ClientSession | None = None
    at: Timestamp | None = None
    reason: str = ""
    began: Timestamp | None = None

    @property
    def text(self) -> str:
        """How it was read, in words."""
        if self.at is None:
            return f"not read at one moment: {self.reason}" if self.reason else "not read at one moment"
        return f"read at one moment, the cluster time {self.at.as_datetime().isoformat(timespec='seconds')}"


@contextmanager
def view_of(ctx: Context, namespace: str, seconds: float) -> Iterator[View]:
    """Open a snapshot for reads that take about so long; where there can be none, the view says why.

    Args:
        ctx: the run.
        namespace: ``database.collection``.
        seconds: how long all reads will take together.
    """
    from pymongo.errors import ConfigurationError, OperationFailure

    client = ctx.clients.mongo()
    version = facts.server(client)
    if version.numbers < SNAPSHOTS:
        yield View(reason=f"MongoDB {version.version} reads snapshots only in transactions")
        return
    window = history_window(ctx)
    if seconds >= window:
        yield View(reason=f"reading takes about {seconds:.0f} s, the shards keep {window:.0f} s of history")
        return
    name, coll = facts.split_namespace(namespace)
    command = {"find": coll, "filter": {}, "projection": {"_id": 1}, "limit": 1, "singleBatch": True}
    with client.start_session(snapshot=True) as session:
        view = View(reason="the router names no moment of its snapshot")
        try:
            reply = retrying(lambda: client[name].command(command, session=session))
            at = reply.get("cursor", {}).get("atClusterTime")
            view = view if at is None else View(session, at)
        except ConfigurationError:
            view = View(reason="the router reads no snapshots")
        except OperationFailure as error:
            view = View(reason=f"the router refuses a snapshot (code {error.code})")
        yield view


def history_window(ctx: Context) -> float:
    """Return for how many seconds every shard keeps its history; a shard that does not say has the default."""
    from pymongo.errors import PyMongoError

    name, least = "minSnapshotHistoryWindowInSeconds", DEFAULT_WINDOW
    for number, shard in enumerate(facts.shards(ctx.clients.mongo())):
        try:
            member = first_answering(ctx, shard)
            said = float(run(member, "admin", {"getParameter": 1, name: 1}, deadline=MEMBER_DEADLINE)[name])
        except (PyMongoError, KeyError):
            said = DEFAULT_WINDOW
        least = said if number == 0 else min(least, said)
    return least


def estimated_seconds(manifest: Manifest, size: int) -> float:
    """Return how long reading a collection as often as a comparison may need takes, by the time its backup took.

    Args:
        manifest: the backup, whose making read the same documents the same way.
        size: the collection's bytes now.
    """
    once = (datetime.fromisoformat(manifest.finished) - datetime.fromisoformat(manifest.started)).total_seconds()
    return PASSES * once * max(1.0, size / max(1, manifest.bytes))


def is_moment_gone(error: Any) -> bool:
    """Tell whether an error says that a snapshot can no longer be read."""
    return getattr(error, "code", None) in MOMENT_GONE
