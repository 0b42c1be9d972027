"""Of which moment a backup is, and what the cluster around it was doing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.distribution import active_migrations
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import config_collection, retrying, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bson import Timestamp

    from credscale.mongo.cluster.commands import Client


@dataclass(frozen=True)
class Surroundings:
    """The cluster at one moment.

    Args:
        time: UTC ISO-8601.
        shards: their names; empty where there is no router.
        balancer: its mode, with what it does; empty where there is no router.
        chunk_version: the highest of the collection's chunks; every move raises it. Empty while it is not sharded.
        moving: the collection's migrations under way, in words.
    """

    time: str
    shards: tuple[str, ...]
    balancer: str
    chunk_version: str
    moving: str

    def to_json(self) -> dict[str, Any]:
        """Return the surroundings as JSON data."""
        return asdict(self) | {"shards": list(self.shards)}


UNKNOWN = Surroundings("", (), "", "", "")


def surroundings(client: Client, namespace: str, *, is_mongos: bool) -> Surroundings:
    """Read what may disturb a backup.

    Args:
        client: the connection.
        namespace: ``database.collection``.
        is_mongos: whether the connection is to a router; otherwise only the time is known.
    """
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    if not is_mongos:
        return Surroundings(time, (), "", "", "")
    status = run(client, "admin", {"balancerStatus": 1})
    sharded = facts.sharded_collection(client, namespace)
    newest: list[dict[str, Any]] = []
    if sharded is not None:
        chunks = config_collection(client, "chunks")
        newest = retrying(lambda: list(chunks.find(sharded.selector).sort("lastmod", -1).limit(1)))
    return Surroundings(
        time=time,
        shards=tuple(shard.id for shard in facts.shards(client)),
        balancer=balancer_text(status),
        chunk_version=chunk_version(newest),
        moving=active_migrations(client).get(namespace, ""),
    )


def balancer_text(status: Mapping[str, Any]) -> str:
    """Return balancerStatus in words."""
    return f"{status['mode']}, in a round" if status.get("inBalancerRound") else str(status["mode"])


def chunk_version(chunks: Iterable[Mapping[str, Any]]) -> str:
    """Return the version of the first of these chunks as ``major|minor``; empty where there is none."""
    stamp = next((chunk["lastmod"] for chunk in chunks if "lastmod" in chunk), None)
    return "" if stamp is None else f"{stamp.time}|{stamp.inc}"


def describe(
    at: Timestamp | None,
    since: Timestamp | None,
    until: Timestamp | None,
    before: Surroundings,
    after: Surroundings,
) -> str:
    """Say in one sentence, without its end, of which moment a backup is.

    Args:
        at: the cluster time of all documents, where there is one.
        since: the cluster time before the pass.
        until: the cluster time after it.
        before: what the cluster did before the pass.
        after: what it did after it.
    """
    if at is not None:
        return f"every document is as of cluster time {_text(at)}"
    if since is None or until is None:
        return "not of a single moment, and the server names no cluster time: later writes can't be told apart"
    sentence = (
        f"not of a single moment: read between cluster times {_text(since)} and {_text(until)}; what writers did "
        "between them is explained by the oplogs"
    )
    if before.chunk_version != after.chunk_version or before.moving or after.moving:
        sentence += (
            "; chunks moved meanwhile, which loses and doubles nothing: each shard's cursor keeps the owners of its "
            "beginning, and range deletion waits for it"
        )
    return sentence


def looked_at(since: Timestamp, until: Timestamp) -> dict[str, Any]:
    """Return what the manifest keeps of a later look that found the live documents equal to the backup's.

    Args:
        since: the cluster time before the look.
        until: the cluster time after it.
    """
    between = f"between cluster times {_text(since)} and {_text(until)}"
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "statement": f"found equal to the live documents, read {between}; the oplogs explain what writers did from "
        "there on",
        "start": [since.time, since.inc],
        "end": [until.time, until.inc],
    }


def _text(stamp: Timestamp) -> str:
    return f"{datetime.fromtimestamp(stamp.time, UTC):%Y-%m-%dT%H:%M:%SZ} ({stamp.time},{stamp.inc})"
