"""The replica sets: their members, how far these are behind, and how far their oplogs reach back."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.members import HEALTHY, lags
from credscale.mongo.cluster.settings import parse_window
from credscale.mongo.preflight.check import Seen, Severity, check, unreadable
from credscale.mongo.preflight.oplogs import judge_oplog, needs, read_oplogs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.mongo.cluster.facts import DataSize
    from credscale.mongo.cluster.settings import Window
    from credscale.mongo.preflight.look import Look
    from credscale.mongo.preflight.members_asked import Member

CONFIG = "the config servers"
LAG_WARN, LAG_STOP = 2.0, 10.0
FEWEST = 3  # members that bear data, of a set that survives the loss of one


@check(
    5,
    "replica-sets",
    command="replSetGetStatus on every member",
    reason="A migration waits for a majority of donor and recipient, and its commit for one of the config servers.",
)
def replica_sets(look: Look) -> Iterator[Seen]:
    """Look at every member's state, at majorities, and at sets that the loss of one member stops."""
    if not look.members:
        yield Seen("unknown", "the cluster names no members", "see listShards and getShardMap")
    for name, group in by_set(look.members).items():
        views = {member.address: member.replies["status"] for member in group if "status" in member.replies}
        yield from judge_set(name, views, {member.address: member for member in group}, rehearsal=look.rehearsal)


def by_set(found: Iterable[Member]) -> dict[str, list[Member]]:
    """Return the members of each shard, and of the config servers."""
    groups: dict[str, list[Member]] = defaultdict(list)
    for member in found:
        groups[member.shard or CONFIG].append(member)
    return dict(groups)


def judge_set(
    name: str, views: Mapping[str, Mapping[str, Any]], group: Mapping[str, Member], *, rehearsal: bool
) -> list[Seen]:
    """Judge one replica set.

    Args:
        name: the shard's name, or ``CONFIG``.
        views: replSetGetStatus by the member that gave it.
        group: the members that the catalogue names, by address.
        rehearsal: whether this is a lab, whose sets have one member.
    """
    states = _states(views)
    rows = []
    for address, member in group.items():
        if member.problem:
            rows.append(_silent(name, address, member, states.get(address, "")))
        elif "status" in member.errors:
            told = unreadable(member.errors["status"])
            rows.append(Seen("unknown", f"{name}: {address} does not tell its state: {told.finding}", told.remedy))
    if not views:
        return rows
    remedy = "repair the replica set first: migrations wait for a majority"
    silent = {address for address, member in group.items() if member.problem and not member.barred}
    rows += [
        Seen("stop", f"{name}: {address} is {state}", remedy)
        for address, state in sorted(states.items())
        if state not in HEALTHY and address not in silent
    ]
    if "PRIMARY" not in states.values():
        rows.append(Seen("stop", f"{name}: there is no primary", remedy))
    rows += _shape(name, states, rehearsal=rehearsal)
    hidden = sorted(address for address, state in states.items() if address not in group and state != "ARBITER")
    if hidden:
        seen = f"{name}: {', '.join(hidden)} is hidden, and was not asked for disk, clock and options"
        rows.append(Seen("note", seen, "look at it by hand"))
    said = ", ".join(
        f"{sum(each == state for each in states.values())} {state}" for state in sorted({*states.values()})
    )
    good = all(row.severity == "note" for row in rows)
    return [Seen("ok", f"{name}: {said}"), *rows] if good else rows


def _states(views: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return each member's state: as it says itself, else as the primary sees it, else as anybody does."""
    states: dict[str, str] = {}
    own: dict[str, str] = {}
    for view in sorted(views.values(), key=lambda each: int(each.get("myState", 0)) == 1):
        for member in view.get("members", []):
            states[member["name"]] = str(member["stateStr"])
            if member.get("self"):
                own[member["name"]] = str(member["stateStr"])
    return states | own


def _silent(name: str, address: str, member: Member, state: str) -> Seen:
    """Return the row of a member that did not answer this machine."""
    if member.barred:
        remedy = "create the same user on the shard itself: members of shards do not know the users of mongos"
        return Seen("unknown", f"{name}: {address}: {member.problem}", remedy)
    if state in HEALTHY:
        seen = f"{name}: {address} does not answer this machine, while its set sees it as {state}"
        return Seen("warn", seen, "open the way to it: its oplog, disk and clock were not looked at")
    remedy = "start it; a migration needs a majority of every shard"
    return Seen("stop", f"{name}: {address}: {member.problem}", remedy)


def _shape(name: str, states: Mapping[str, str], *, rehearsal: bool) -> list[Seen]:
    arbiters = sum(state == "ARBITER" for state in states.values())
    bearing = len(states) - arbiters
    severity: Severity = "note" if rehearsal else "warn"
    tail = " (a lab goes on)" if rehearsal else ""
    if name == CONFIG and bearing < FEWEST:
        seen = f"config servers: {bearing}, needed to survive the loss of one: {FEWEST}{tail}"
        return [Seen(severity, seen, "add config servers, three in all, with rs.add on the config primary")]
    if arbiters:
        seen = f"{name}: {bearing} members bear data and {arbiters} only votes: without one of them nothing moves{tail}"
        return [Seen(severity, seen, "replace the arbiter by a member that bears data")]
    if bearing < FEWEST:
        seen = f"{name}: members with data: {bearing}, needed to survive the loss of one: {FEWEST}{tail}"
        return [Seen(severity, seen, "add members, three in all, with rs.add on its primary")]
    return []


@check(
    6,
    "replica-lag",
    command="replSetGetStatus on every member: optimeDate of primary and secondaries",
    reason="Every chunk waits until a majority of the recipient has it; a lagging secondary stalls the moves.",
)
def replica_lag(look: Look) -> Iterator[Seen]:
    """Look how far secondaries are behind."""
    if not look.members:
        yield Seen("unknown", "the cluster names no members", "see listShards and getShardMap")
    statuses = look.replies("status")
    configs = look.replies("replica_config").found
    for name, group in by_set(look.members).items():
        addresses = {member.address for member in group}
        views = [reply for address, reply in statuses.found.items() if address in addresses]
        delays = next((_delays(configs[address]) for address in sorted(addresses) if address in configs), {})
        if views:
            yield from judge_lag(name, views, delays)
    yield from statuses.unseen()


def _delays(reply: Mapping[str, Any]) -> dict[str, float]:
    """Return by how many seconds members are delayed on purpose (slaveDelay before 5.0)."""
    found = reply.get("config", {}).get("members", [])
    return {each["host"]: float(each.get("secondaryDelaySecs", each.get("slaveDelay", 0)) or 0) for each in found}


def judge_lag(name: str, views: Sequence[Mapping[str, Any]], delays: Mapping[str, float]) -> list[Seen]:
    """Judge how far each secondary is behind, less what it is delayed on purpose.

    Args:
        name: of the set.
        views: replSetGetStatus of its members.
        delays: seconds by member.
    """
    found, rows = lags(views, delays), []
    for address, lag in sorted(found.items()):
        if lag > LAG_WARN:
            severity: Severity = "stop" if lag > LAG_STOP else "warn"
            seen = f"{name}: {address} is {lag:.0f} s behind its primary"
            rows.append(Seen(severity, seen, "let it catch up first: rs.printSecondaryReplicationInfo()"))
    if not found:
        return [Seen("note", f"{name}: there is no secondary that could be behind")]
    return rows or [Seen("ok", f"{name}: {len(found)} secondaries at most {max(found.values()):.1f} s behind")]


@check(
    7,
    "oplog-window",
    command="first and last entry and collStats of local.oplog.rs on every shard member",
    reason="The proof explains writers' changes from the oplogs, which must reach back to the backup.",
)
def oplog_window(look: Look) -> Iterator[Seen]:
    """Look how far the shards' oplogs reach back."""
    if not look.shards:
        yield Seen("note", "there are no shards whose oplogs could be read")
    need, home = needs(_size(look), len(look.shards), _window(look)), _home(look)
    donors = {member.address for member in look.members if member.shard == home}
    for address, window in read_oplogs(look, "shard").items():
        extra = need.given if address in donors else need.received
        yield judge_oplog(address, window, need.wanted, rehearsal=look.rehearsal, least=need.least, extra=extra)


def _size(look: Look) -> DataSize | None:
    """Return the collection's size; None where it can't be read, which other checks tell."""
    from pymongo.errors import PyMongoError

    try:
        return look.size if look.is_plain else None
    except PyMongoError:
        return None


def _window(look: Look) -> Window | None:
    """Return the hours in which chunks may move; None for all day, or where it can't be read, which row 15 tells."""
    from pymongo.errors import PyMongoError

    try:
        return parse_window(look.window) or look.settings.window
    except PyMongoError:
        return None


def _home(look: Look) -> str:
    """Return the shard that gives; empty where it can't be read, then all count as ones that receive, which is more."""
    from pymongo.errors import PyMongoError

    try:
        return look.home
    except PyMongoError:
        return ""
