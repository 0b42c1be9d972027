"""What makes the sets a cluster: shards, routers, config servers, their addresses and their default write concern."""

from __future__ import annotations

import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from credscale.core.addresses import host_of
from credscale.mongo.cluster import members
from credscale.mongo.cluster.commands import run
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.connections import pinging
from credscale.mongo.preflight.disk import CROWDED
from credscale.mongo.preflight.oplogs import judge_oplog, read_oplogs, wanted_hours

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from credscale.mongo.cluster.facts import Shard
    from credscale.mongo.preflight.look import Look

IMPLICIT_SINCE = (5,)  # 5.0 and later choose a default write concern by the shape of the set
RESOLVE_SECONDS = 5.0


@check(
    4,
    "shards",
    command="listShards",
    reason="Chunks can only go to a second shard that is there to stay.",
)
def shards(look: Look) -> Iterator[Seen]:
    """Look whether there are two shards or more, and none on its way out."""
    yield from judge_shards(look.shards)


def judge_shards(found: Sequence[Shard]) -> list[Seen]:
    """Judge the registered shards."""
    rows = []
    if len(found) < 2:
        remedy = 'add one: sh.addShard("<replica set>/<host:port>")'
        rows.append(Seen("stop", f"{len(found)} shard: there is nothing to spread to", remedy))
    for shard in found:
        if shard.draining:
            remedy = "wait until removeShard says completed; to keep the shard, add it again after that"
            rows.append(Seen("stop", f"{shard.id} is draining", remedy))
        if shard.state != 1:
            remedy = "repair the shard: see config.shards and its log"
            rows.append(Seen("stop", f"{shard.id} has state {shard.state}, expected 1", remedy))
    return rows or [Seen("ok", f"{len(found)} shards: {', '.join(shard.id for shard in found)}")]


@check(
    44,
    "addresses",
    command="listShards, hello and getCmdLineOpts.parsed.net.bindIp on every member",
    reason="Every member, router and this tool must reach each other by the names that the cluster's catalogue holds.",
)
def addresses(look: Look) -> Iterator[Seen]:
    """Compare the catalogue's addresses with those that the sets call themselves."""
    hellos, options = look.replies("hello"), look.replies("options")
    if not look.shards:
        yield Seen("note", "there are no shards whose addresses could be compared")
    yield from judge_seeds(look.shards, hellos.found)
    yield from judge_hosts(
        [member.address for member in look.members],
        {address: reply.get("parsed", {}) for address, reply in options.found.items()},
    )
    named = {host for reply in hellos.found.values() for host in _hosts(reply)} | set(hellos.missing)
    strangers = sorted(named - set(hellos.found))  # the others have answered by their names
    for address in unresolved(strangers):
        seen = f"the name of {address} can't be resolved on this machine"
        yield Seen("stop", seen, "add it to DNS, for every server of the cluster as well")
    yield from hellos.unseen()


def _hosts(hello: Mapping[str, Any]) -> list[str]:
    return [*hello.get("hosts", []), *hello.get("passives", [])]


def judge_seeds(shards: Sequence[Shard], hellos: Mapping[str, Mapping[str, Any]]) -> list[Seen]:
    """Judge whether the catalogue names the members that the sets have.

    Args:
        shards: as the catalogue has them.
        hellos: reply of hello by member.
    """
    rows, agreeing = [], 0
    for shard in shards:
        told = next((hellos[address] for address in shard.members if address in hellos), None)
        if told is None:
            continue
        if told.get("setName") != shard.replica_set:
            seen = f"{shard.id} is registered as set {shard.replica_set}, its members call it {told.get('setName')}"
            rows.append(Seen("stop", seen, "see config.shards: this is another replica set"))
        strange = sorted(set(shard.members) - set(_hosts(told)))
        missing = sorted(set(_hosts(told)) - set(shard.members))
        if strange:
            seen = f"{shard.id}: config.shards names {', '.join(strange)}, the set itself has {', '.join(_hosts(told))}"
            rows.append(Seen("stop", seen, "let the set's configuration and config.shards name the same hosts"))
        elif missing:
            seen = f"{shard.id}: config.shards does not name {', '.join(missing)}"
            rows.append(Seen("note", seen, "routers find them by themselves once they have talked to the set"))
        else:
            agreeing += 1
    if agreeing and all(row.severity == "note" for row in rows):
        rows.insert(0, Seen("ok", f"{agreeing} shards call their members as config.shards does"))
    return rows


def judge_hosts(found: Sequence[str], parsed: Mapping[str, Mapping[str, Any]]) -> list[Seen]:
    """Judge whether members can reach each other by their addresses.

    Args:
        found: the members' addresses.
        parsed: the options by member.
    """
    local = [address for address in found if _is_loopback(host_of(address))]
    rows = []
    if local and len(local) < len(found):
        seen = f"{', '.join(local)} is an address of the machine itself, other members have addresses of the network"
        rows.append(Seen("stop", seen, "name every member by a host name: all of them local, or none"))
    elif local:
        seen = "every member's address is of the machine itself: all of the cluster is on one machine"
        rows.append(Seen("note", seen, "do not expect it to survive that machine"))
    for address in sorted(set(parsed) - set(local)):
        net = parsed[address].get("net", {})
        bound = [each.strip() for each in str(net.get("bindIp", "")).split(",") if each.strip()]
        if bound and not net.get("bindIpAll") and all(_is_loopback(each) for each in bound):
            seen = f"{address} listens on {', '.join(bound)} only"
            rows.append(Seen("stop", seen, f"restart it with net.bindIp: localhost,{host_of(address)}"))
    return rows


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unresolved(found: Collection[str]) -> list[str]:
    """Return the addresses whose names this machine can't resolve; a resolver that does not answer counts as such."""
    if not found:
        return []
    pool = ThreadPoolExecutor(len(found), "preflight")
    asked = {address: pool.submit(socket.getaddrinfo, host_of(address), None) for address in found}
    problems = []
    for address, answer in asked.items():
        try:
            answer.result(RESOLVE_SECONDS)
        except (OSError, TookTooLong):
            problems.append(address)
    pool.shutdown(wait=False)
    return problems


@check(
    46,
    "default-write-concern",
    command="getDefaultRWConcern through mongos, replSetGetStatus",
    reason="5.0 and later refuse shards with an arbiter while none is set, and w:1 can lose acknowledged writes.",
)
def default_write_concern(look: Look) -> Iterator[Seen]:
    """Look which write concern holds where writers name none."""
    reply = run(look.client, "admin", {"getDefaultRWConcern": 1}, deadline=members.MEMBER_DEADLINE)
    arbitrated = sorted(
        {
            member.shard
            for member in look.answering
            if member.role == "shard"
            and any(each.get("stateStr") == "ARBITER" for each in member.replies.get("status", {}).get("members", []))
        }
    )
    yield judge_write_concern(reply, look.server.numbers, arbitrated)


def judge_write_concern(reply: Mapping[str, Any], version: tuple[int, ...], arbitrated: Sequence[str]) -> Seen:
    """Judge the cluster's default write concern.

    Args:
        reply: of getDefaultRWConcern.
        version: of mongos.
        arbitrated: the shards that have an arbiter.
    """
    concern = reply.get("defaultWriteConcern", {})
    is_set = bool(concern) and reply.get("defaultWriteConcernSource", "global") == "global"
    remedy = 'run db.adminCommand({setDefaultRWConcern: 1, defaultWriteConcern: {w: "majority"}}) through mongos'
    if not is_set and version >= IMPLICIT_SINCE and arbitrated:
        seen = f"{', '.join(arbitrated)} has an arbiter, so its default write concern is w:1, and none is set for all"
        return Seen("stop", seen, remedy)
    w = concern.get("w", "majority" if version >= IMPLICIT_SINCE else 1)
    said = f"writes wait for w:{w}" + (" by default" if is_set else ", as none is set")
    if w in (0, 1):
        return Seen("warn" if is_set else "note", f"{said}: a failover can take acknowledged writes back", remedy)
    return Seen("ok", said)


@check(
    48,
    "routers",
    command="config.mongos: pings within 60 s of the newest",
    reason="With one router, its restart is an outage of every application.",
    real_only=True,
)
def routers(look: Look) -> Iterator[Seen]:
    """Count the routers that live."""
    yield judge_routers(look.router_signs)


def judge_routers(signs: Iterable[Mapping[str, Any]]) -> Seen:
    """Judge the documents of config.mongos; what has stopped stays listed for ever, so only pings count."""
    living = sorted(pinging(signs))
    if len(living) > 1:
        return Seen("ok", f"{len(living)} routers live: {', '.join(living)}")
    told = f"one router lives: {living[0]}" if living else "no router has ever given a sign of life"
    return Seen("warn", told, "start a second mongos with the same --configdb and name both in the applications")


@check(
    53,
    "config-servers",
    command="dbStats and local.oplog.rs on every config server",
    reason="Changelog, actionlog and the chunks' documents grow on them while the moves go on.",
    real_only=True,
)
def config_servers(look: Look) -> Iterator[Seen]:
    """Look at the disks and oplogs of the config servers."""
    addresses = sorted(look.replies("hello", "config").found)
    for address, found in look.ask_each(addresses, lambda member: members.disk(member, "admin")).items():
        yield judge_config_disk(address, found)
    for address, window in read_oplogs(look, "config").items():
        yield judge_oplog(address, window, wanted_hours(None), rehearsal=look.rehearsal, proves=False)
    yield from look.replies("hello", "config").unseen()


def judge_config_disk(address: str, disk: members.Disk | Seen) -> Seen:
    """Judge how full a config server's disk is, or say why that was not read."""
    if isinstance(disk, Seen):
        return disk if disk.member else replace(disk, finding=f"the disk of {address}: {disk.finding}")
    if not disk.total:
        return Seen("unknown", f"{address} does not say how full its disk is", "look there with df -h")
    seen = f"the disk of {address} is {disk.used / disk.total:.0%} full, {disk.free / 1e9:.1f} GB free"
    if disk.used / disk.total > CROWDED:
        return Seen("warn", seen, "free space or enlarge it")
    return Seen("ok", seen)
