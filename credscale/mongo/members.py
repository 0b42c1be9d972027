"""What single members of shards and config servers say, asked directly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from credscale.core.clients import COMMAND_SECONDS
from credscale.mongo.commands import retrying, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credscale.core.context import Context
    from credscale.mongo.commands import Client
    from credscale.mongo.facts import Shard

HEALTHY = frozenset({"PRIMARY", "SECONDARY", "ARBITER"})
MEMBER_DEADLINE = 10.0
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


@dataclass(frozen=True)
class Health:
    """A replica set as one of its members sees it; ``lag`` is in seconds, of the slowest secondary."""

    replica_set: str
    states: dict[str, str]
    lag: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one sentence each."""
        found = [f"{name} is {state}" for name, state in self.states.items() if state not in HEALTHY]
        if "PRIMARY" not in self.states.values():
            found.append("there is no primary")
        return tuple(found)


def disk(client: Client, database: str) -> Disk:
    """Read a member's file system; through mongos only primaries would answer (§3.3)."""
    return parse_disk(run(client, database, {"dbStats": 1}, deadline=MEMBER_DEADLINE))


def parse_disk(reply: Mapping[str, Any]) -> Disk:
    """Understand dbStats of a member."""
    return Disk(int(reply.get("fsTotalSize", 0)), int(reply.get("fsUsedSize", 0)))


def health(client: Client) -> Health:
    """Read the state of a member's replica set."""
    return parse_health(run(client, "admin", {"replSetGetStatus": 1}, deadline=MEMBER_DEADLINE))


def parse_health(reply: Mapping[str, Any]) -> Health:
    """Understand replSetGetStatus."""
    members = reply["members"]
    states = {member["name"]: str(member["stateStr"]) for member in members}
    times = {name: [m["optimeDate"] for m in members if m["stateStr"] == name] for name in ("PRIMARY", "SECONDARY")}
    lag = 0.0
    if times["PRIMARY"] and times["SECONDARY"]:
        lag = max(0.0, (max(times["PRIMARY"]) - min(times["SECONDARY"])).total_seconds())
    return Health(str(reply["set"]), states, lag)


@dataclass(frozen=True)
class OplogWindow:
    """A member's oplog.

    Args:
        hours: from its first entry to its last.
        whole: whether its first entry is the one that made the replica set.
        fill: how much of its maximum size it has, 0 to 1; None where the server does not say.
    """

    hours: float
    whole: bool
    fill: float | None

    @property
    def is_young(self) -> bool:
        """Whether it is short only because it has not filled yet; one about to drop its first entries is not."""
        return self.whole if self.fill is None else self.fill < YOUNG_FILL


def oplog_window(client: Client) -> OplogWindow | None:
    """Read how far a member's oplog reaches back; None when it is empty."""
    from pymongo.errors import OperationFailure

    oplog = client["local"]["oplog.rs"]
    ends = [
        retrying(lambda way=way: oplog.find_one({}, sort=[("$natural", way)]), deadline=MEMBER_DEADLINE)  # type: ignore[misc]
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
    )


def compatibility(client: Client) -> dict[str, Any]:
    """Read a member's featureCompatibilityVersion; mongos has none."""
    reply = run(client, "admin", {"getParameter": 1, "featureCompatibilityVersion": 1}, deadline=MEMBER_DEADLINE)
    return dict(reply["featureCompatibilityVersion"])


def utc_offset(lines: Iterable[str]) -> timedelta | None:
    """Return a server's offset from UTC from its log lines, which carry it since 4.4 (§1.5); None when none does."""
    for line in reversed(list(lines)):
        try:
            moment = datetime.fromisoformat(json.loads(line)["t"]["$date"])
        except (ValueError, KeyError, TypeError):
            continue
        return moment.utcoffset()
    return None


def config_members(client: Client) -> tuple[str, ...]:
    """Read the addresses of the config servers."""
    text = str(run(client, "admin", {"getShardMap": 1}).get("map", {}).get("config", ""))
    return tuple(text.rpartition("/")[2].split(",")) if text else ()


def window_offset(ctx: Context) -> timedelta | None:
    """Return the UTC offset by which the config primary reads the balancer's window; None when it can't be told."""
    from pymongo.errors import PyMongoError

    try:
        addresses = config_members(ctx.clients.mongo())
    except PyMongoError:
        return None
    for address in addresses:
        try:
            member = ctx.clients.mongo_member(address)
            if run(member, "admin", {"hello": 1}, deadline=1.0).get("isWritablePrimary"):
                log = run(member, "admin", {"getLog": "global"}, deadline=1.0).get("log", [])
                return utc_offset([str(line) for line in log])
        except PyMongoError:
            continue  # another member is the primary, or will be asked at the next run
    return None


def uuid_on_shard(client: Client, namespace: str) -> str | None:
    """Return the UUID under which a shard itself holds a namespace; None when it does not."""
    from credscale.mongo.facts import uuid_hex

    name, _, coll = namespace.partition(".")
    entry = retrying(lambda: next(client[name].list_collections(filter={"name": coll}), None), deadline=MEMBER_DEADLINE)
    return None if entry is None else uuid_hex(entry.get("info", {}).get("uuid"))


def first_answering(ctx: Context, shard: Shard, *, timeout: float = COMMAND_SECONDS) -> Client:
    """Return a connection to the shard's primary, or to the first member that answers.

    Args:
        ctx: the run.
        shard: whose members are asked.
        timeout: seconds that a single reply on the connection may take.

    Raises:
        PyMongoError: no member answered.
    """
    from pymongo.errors import PyMongoError

    answering = ""
    problem: PyMongoError | None = None
    for address in shard.members:
        member = ctx.clients.mongo_member(address)
        try:
            hello = run(member, "admin", {"hello": 1}, deadline=1.0)
        except PyMongoError as error:
            problem = error
            continue
        if hello.get("isWritablePrimary"):
            return ctx.clients.mongo_member(address, timeout=timeout)
        answering = answering or address
    if not answering:
        raise problem if problem is not None else ValueError(f"{shard.id} has no members")
    return ctx.clients.mongo_member(answering, timeout=timeout)
