"""What single members of shards and config servers say, asked directly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.clients import COMMAND_SECONDS
from credscale.mongo.cluster.commands import hello, retrying, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.facts import Shard

HEALTHY = frozenset({"PRIMARY", "SECONDARY", "ARBITER"})
MEMBER_DEADLINE = 10.0
MEMBER_MILLISECONDS = int(MEMBER_DEADLINE * 1000)
CONFIG_SECONDS = 3.0  # a member that hangs must not take the time of the others
YOUNG_FILL = 0.5


@dataclass(frozen=True)
class Disk:
    """A member's file system in bytes; ``total`` is 0 where the server does not say."""

    total: int
    used: int

    @property
    def free(self) -> int:
        """Bytes not used."""
        return max(0, self.total - self.used)


def disk(client: Client, database: str) -> Disk:
    """Read a member's file system; through mongos only primaries would answer (§3.3)."""
    return parse_disk(run(client, database, {"dbStats": 1}, deadline=MEMBER_DEADLINE))


def parse_disk(reply: Mapping[str, Any]) -> Disk:
    """Understand dbStats of a member."""
    return Disk(int(reply.get("fsTotalSize", 0)), int(reply.get("fsUsedSize", 0)))


def lags(views: Iterable[Mapping[str, Any]], delays: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return by how many seconds each secondary is behind the primary, less what it is delayed on purpose.

    What a member knows of others is up to a heartbeat old, and an idle primary writes every ten seconds only; so to
    its primary a healthy secondary can seem ten seconds behind, as it does in the recorded reply of 4.4.6. The
    smallest lag of all views is the true one: ask every member of the set that answers.

    Args:
        views: replSetGetStatus of members of one set.
        delays: seconds by member.
    """
    found: dict[str, float] = {}
    for view in views:
        listed = [each for each in view.get("members", []) if "optimeDate" in each]
        heads: list[datetime] = [each["optimeDate"] for each in listed if each["stateStr"] == "PRIMARY"]
        for each in listed:
            if heads and each["stateStr"] == "SECONDARY":
                name = str(each["name"])
                lag = (max(heads) - each["optimeDate"]).total_seconds() - (delays or {}).get(name, 0.0)
                found[name] = min(found.get(name, lag), max(0.0, lag))
    return found


@dataclass(frozen=True)
class OplogWindow:
    """A member's oplog.

    Args:
        hours: from its first entry to its last.
        whole: whether its first entry is the one that made the replica set.
        fill: how much of its maximum size it has, 0 to 1; None where the server does not say.
        most: its maximum size in bytes; 0 where the server does not say.
    """

    hours: float
    whole: bool
    fill: float | None
    most: int = 0

    @property
    def is_young(self) -> bool:
        """Whether it is short only because it has not filled yet; one about to drop its first entries is not."""
        return self.whole if self.fill is None else self.fill < YOUNG_FILL


def oplog_window(client: Client) -> OplogWindow | None:
    """Read how far a member's oplog reaches back; None when it is empty."""
    from pymongo.errors import OperationFailure

    oplog = client["local"]["oplog.rs"]
    ends = [
        retrying(
            lambda way=way: oplog.find_one({}, sort=[("$natural", way)], max_time_ms=MEMBER_MILLISECONDS),  # type: ignore[misc]
            deadline=MEMBER_DEADLINE,
        )
        for way in (1, -1)
    ]
    try:
        stats = run(client, "local", {"collStats": "oplog.rs"}, deadline=MEMBER_DEADLINE)
    except OperationFailure:  # not allowed, or no such collection in a simulation
        stats = {}
    return parse_oplog_window(ends[0], ends[1], stats)


def parse_oplog_window(
    first: Mapping[str, Any] | None, last: Mapping[str, Any] | None, stats: Mapping[str, Any]
) -> OplogWindow | None:
    """Understand an oplog's first and last entry and its collStats."""
    if first is None or last is None:
        return None
    most = int(stats.get("maxSize", 0))
    return OplogWindow(
        hours=(last["ts"].time - first["ts"].time) / 3600,
        whole=(first.get("o") or {}).get("msg") == "initiating set",
        fill=int(stats.get("size", 0)) / most if most else None,
        most=most,
    )


def compatibility(client: Client) -> dict[str, Any]:
    """Read a member's featureCompatibilityVersion; mongos has none."""
    reply = run(client, "admin", {"getParameter": 1, "featureCompatibilityVersion": 1}, deadline=MEMBER_DEADLINE)
    return dict(reply["featureCompatibilityVersion"])


def utc_offset(lines: Iterable[str]) -> timedelta | None:
    """Return a server's offset from UTC from its log lines, which carry it since 4.4 (§1.5); None when none does.

    A time that ends in Z is written so by ``systemLog.timeStampFormat: iso8601-utc``, whatever the host's zone is; a
    host whose zone is UTC writes +00:00 (recorded).
    """
    for line in reversed(list(lines)):
        try:
            text = json.loads(line)["t"]["$date"]
            moment = datetime.fromisoformat(text)
        except (ValueError, KeyError, TypeError):
            continue
        return None if text.endswith("Z") else moment.utcoffset()
    return None


def config_members(client: Client) -> tuple[str, ...]:
    """Read the addresses of the config servers."""
    text = str(run(client, "admin", {"getShardMap": 1}).get("map", {}).get("config", ""))
    return tuple(text.rpartition("/")[2].split(",")) if text else ()


def config_primary(ctx: Context) -> Client | None:
    """Return a connection to the config servers' primary; None when no member answers as one.

    Raises:
        PyMongoError: mongos does not tell who the config servers are.
    """
    import pymongo
    from pymongo.errors import PyMongoError

    for address in config_members(ctx.clients.mongo()):
        member = ctx.clients.mongo_member(address)
        try:
            with pymongo.timeout(CONFIG_SECONDS):
                if run(member, "admin", {"hello": 1}, deadline=1.0).get("isWritablePrimary"):
                    return member
        except PyMongoError:
            continue  # another member is the primary, or nobody is at this moment
    return None


def window_offset(ctx: Context) -> timedelta | None:
    """Return the UTC offset by which the config primary reads the balancer's window; None when it can't be told."""
    from pymongo.errors import PyMongoError

    try:
        primary = config_primary(ctx)
        log = run(primary, "admin", {"getLog": "global"}, deadline=1.0).get("log", []) if primary is not None else []
    except PyMongoError:
        return None
    return utc_offset([str(line) for line in log])


def uuid_on_shard(client: Client, namespace: str) -> str | None:
    """Return the UUID under which a shard itself holds a namespace; None when it does not."""
    from credscale.mongo.cluster.facts import uuid_hex

    name, _, coll = namespace.partition(".")
    entry = retrying(lambda: next(client[name].list_collections(filter={"name": coll}), None), deadline=MEMBER_DEADLINE)
    return None if entry is None else uuid_hex(entry.get("info", {}).get("uuid"))


def first_answering(ctx: Context, shard: Shard, *, timeout: float = COMMAND_SECONDS) -> Client:
    """Return a connection to the shard's primary, or to the first secondary that answers.

    A member that recovers, rolls back or syncs greets too, and what it holds may be old: it is not asked.

    Args:
        ctx: the run.
        shard: whose members are asked.
        timeout: seconds that a single reply on the connection may take.

    Raises:
        PyMongoError: no primary or secondary answered.
    """
    import pymongo
    from pymongo.errors import AutoReconnect, PyMongoError

    answering = ""
    problem: PyMongoError | None = None
    for address in shard.members:
        member = ctx.clients.mongo_member(address, timeout=timeout)
        try:
            with pymongo.timeout(MEMBER_DEADLINE):  # one that hangs would else take all the time of a reply
                greeting = hello(member, deadline=1.0)
        except PyMongoError as error:
            problem = error
            continue
        if greeting.get("isWritablePrimary", greeting.get("ismaster")):
            return member
        if greeting.get("secondary"):
            answering = answering or address
    if not answering:
        raise problem or AutoReconnect(f"none of the members {', '.join(shard.members)} is a primary or a secondary")
    return ctx.clients.mongo_member(answering, timeout=timeout)
