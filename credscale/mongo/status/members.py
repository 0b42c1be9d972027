"""What single members say of themselves for one screen about the cluster, and how their sets see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from credscale.mongo.chunks.stall import chunk_bytes, in_transition
from credscale.mongo.cluster.members import parse_disk, utc_offset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.members import Disk

MEMBER_SECONDS = 2.0
AUTHENTICATION_FAILED = 18
UNKNOWN_USER = "the user is not known here (§2.5)"  # a shard's users are its own; an arbiter has none
LONG_SECTIONS = ("wiredTiger", "metrics", "tcmalloc", "locks", "opLatencies", "flowControl")  # nobody reads them here


@dataclass(frozen=True)
class Member:
    """What one member says; ``problem`` is why it says nothing, or not all.

    Args:
        address: ``host:port``.
        shard: the shard's name, or ``config``.
        version: such as 5.0.28.
        view: its reply of replSetGetStatus.
        is_primary: whether it takes writes.
        is_secondary: whether it follows a primary.
        disk: its file system.
        compatibility: its feature compatibility version; empty where it was not asked.
        changing: whether that is being changed.
        chunk_bytes: the chunk size it works with; 0 where it does not say.
        deletions: ranges that wait for their deletion; None where it was not asked.
        offset: its clock's offset from UTC, which the balancer's window goes by.
        problem: empty when it answered.
        refused: the commands it refused, with the error's code.
    """

    address: str
    shard: str
    version: str = ""
    view: Mapping[str, Any] = field(default_factory=dict)
    is_primary: bool = False
    is_secondary: bool = False
    disk: Disk | None = None
    compatibility: str = ""
    changing: bool = False
    chunk_bytes: int = 0
    deletions: int | None = None
    offset: timedelta | None = None
    problem: str = ""
    refused: tuple[str, ...] = ()


def ask(address: str, shard: str, member: Client) -> Member:
    """Ask one member for everything about it; what it refuses, such as an arbiter that holds no users, is named."""
    import pymongo
    from pymongo.errors import OperationFailure, PyMongoError

    found: dict[str, Any] = {}
    refused: list[str] = []

    def tell(name: str, value: int | str = 1, **more: int) -> dict[str, Any]:
        try:
            return dict(member["admin"].command({name: value, **more}))
        except OperationFailure as error:
            if error.code == AUTHENTICATION_FAILED:  # it holds for every command of the connection
                raise
            refused.append(f"{name} ({error.code})")
            return {}

    try:
        with pymongo.timeout(MEMBER_SECONDS):
            hello = tell("hello")
            primary = found["is_primary"] = bool(hello.get("isWritablePrimary"))
            found["is_secondary"] = bool(hello.get("secondary"))
            found["version"] = str(tell("buildInfo").get("version", ""))
            found["view"] = tell("replSetGetStatus")
            if not hello.get("arbiterOnly"):
                found["disk"] = parse_disk(tell("dbStats"))
                version = tell("getParameter", featureCompatibilityVersion=1)
                found["compatibility"] = str(version.get("featureCompatibilityVersion", {}).get("version", ""))
                found["changing"] = in_transition(version)
            if primary and shard == "config":
                found["offset"] = utc_offset([str(line) for line in tell("getLog", "global").get("log", [])])
            elif primary:
                found["chunk_bytes"] = chunk_bytes(tell("serverStatus", **dict.fromkeys(LONG_SECTIONS, 0)))
                found["deletions"] = member["config"]["rangeDeletions"].count_documents({})
    except OperationFailure as error:
        if error.code == AUTHENTICATION_FAILED:
            return Member(address, shard, problem=UNKNOWN_USER)
        refused.append(f"config.rangeDeletions ({error.code})")
    except PyMongoError:
        found["problem"] = "no answer" if not found else "the connection was lost"
    return Member(address, shard, **found, refused=tuple(refused))


def state_of(members: Sequence[Member], member: Member) -> tuple[str, float | None]:
    """Return a member's state and its lag in seconds, as its set's primary sees it, or else whoever answered."""
    peers = [each for each in members if each.shard == member.shard and each.view]
    for peer in sorted(peers, key=lambda each: (not each.is_primary, each is not member)):
        listed = {str(each["name"]): each for each in peer.view["members"]}
        mine = listed.get(member.address)
        if mine is None and peer is member:  # known to its set under another name
            mine = next((each for each in listed.values() if each.get("self")), None)
        if mine is None:
            continue
        head = next((each for each in listed.values() if each["stateStr"] == "PRIMARY"), None)
        lag = None
        if head is not None and mine["stateStr"] == "SECONDARY":
            lag = max(0.0, float((head["optimeDate"] - mine["optimeDate"]).total_seconds()))
        return str(mine["stateStr"]), lag
    return ("PRIMARY" if member.is_primary else "SECONDARY" if member.is_secondary else "UNKNOWN"), None


def disk_share(member: Member) -> float | None:
    """Return how much of a member's disk is used, 0 to 1; None where it does not say."""
    return member.disk.used / member.disk.total if member.disk is not None and member.disk.total else None
