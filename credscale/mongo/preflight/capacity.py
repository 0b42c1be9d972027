"""What the machines have left: disks, memory, connections, and how busy they are."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster import members
from credscale.mongo.cluster.commands import run
from credscale.mongo.cluster.facts import supporting_index
from credscale.mongo.documents.sampling import size_text
from credscale.mongo.preflight.check import Seen, check
from credscale.mongo.preflight.connections import pinging
from credscale.mongo.preflight.disk import CROWDED, Space, index_build_bytes, needed_on_shard, read_space, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.members import Disk
    from credscale.mongo.preflight.look import Look

MEMORY_SHARE = 0.25
DIRTY_MOST, USED_MOST = 0.10, 0.90  # of WiredTiger's cache; it throttles writers from 0.20 and 0.95
LOOK_AGAIN_SECONDS = 1.0
BUSY_CPU = 0.7
POOL, OPEN_FILES = 100, 64_000  # connections that a driver's pool has by default; the open files MongoDB advises
# What is left out makes serverStatus long and is not looked at.
STATUS = {"serverStatus": 1, "metrics": 0, "locks": 0, "tcmalloc": 0, "repl": 0, "opReadConcernCounters": 0}


@check(
    8,
    "disk",
    command="dbStats on every shard member (fsTotalSize, fsUsedSize), collStats of the collection and of the oplogs",
    reason="Recipients take a share of the data, and a member whose disk is full stops.",
)
def disk(look: Look) -> Iterator[Seen]:
    """Compare every shard member's free space with what index and moves will put there."""
    if not look.is_plain:
        yield Seen("note", f"{look.namespace} is no plain collection: there is nothing to make room for")
        return
    missing = supporting_index(look.indexes, look.key) is None
    addresses = sorted(look.replies("hello", "shard").found)
    spaces = look.ask_each(addresses, read_space)
    for shard in look.shards:
        holds_all = shard.id == look.home
        needed = needed_on_shard(look.size, shard.id, len(look.shards), index_missing=missing, holds_all=holds_all)
        for address in shard.members:
            if address in spaces:
                yield judge_disk(address, needed, spaces[address], grows=not holds_all)
    yield from look.replies("hello", "shard").unseen()


def judge_disk(address: str, needed: int, found: Space | Seen, *, grows: bool) -> Seen:
    """Judge one member's disk, or say why it was not read.

    Args:
        address: the member.
        needed: bytes that the migration adds there, without its oplog.
        found: what it says of its disk.
        grows: whether it receives data, so that its oplog may grow to its maximum.
    """
    if isinstance(found, Seen):
        return found if found.member else replace(found, finding=f"the disk of {address}: {found.finding}")
    disk, growth = found.disk, (found.oplog_growth or 0) if grows else 0
    judged = verdict(needed + growth, disk)
    if judged == "unknown":
        return Seen("unknown", f"{address} does not say how full its disk is", "look there with df -h")
    oplog = f", {size_text(growth)} of it for its oplog" if growth else ""
    seen = f"{address} needs {size_text(needed + growth)} more{oplog}, {size_text(disk.free)} are free"
    remedy = "free space there or enlarge its disk"
    if judged == "too small":
        return Seen("stop", seen, remedy)
    if judged == "too full":
        after = (disk.used + needed + growth) / disk.total
        seen = f"{seen}; its disk would be {after:.0%} full, more than {CROWDED:.0%}"
        return Seen("stop", seen, remedy, real_only=True)  # how full a lab's machine is matters to nobody
    if grows and found.oplog_growth is None:
        seen = f"{seen}; how much its oplog may still grow is not told"
        return Seen("warn", seen, "give the user read on the database local of every shard", real_only=True)
    return Seen("ok", seen)


@check(
    9,
    "index-build-room",
    command="dbStats and getParameter maxIndexBuildMemoryUsageMegabytes on the members of the primary shard",
    reason="Every member of the shard builds the shard-key index at the same time, sorting it under its dbPath.",
)
def index_build_room(look: Look) -> Iterator[Seen]:
    """Look whether the index can be built where the data lie."""
    serving = supporting_index(look.indexes, look.key)
    if serving is not None or not look.is_plain:
        yield Seen("ok", f"{serving.name} serves the shard key" if serving else "there is no collection to index")
        return
    needed = index_build_bytes(look.size)
    group = [member.address for member in look.answering if member.shard == look.home]
    hosts = look.replies("host", "shard").found
    for address, found in look.ask_each(group, _room).items():
        yield judge_build(address, needed, found, hosts.get(address, {}))
    unasked = [member for member in look.members if member.shard == look.home and member.problem]
    for member in unasked:
        yield member.silence
    if not group and not unasked:
        yield Seen("unknown", "it is not known on which shard the collection lies", "see config.databases")


def _room(client: Client) -> tuple[Disk, int | None]:
    name = "maxIndexBuildMemoryUsageMegabytes"
    reply = run(client, "admin", {"getParameter": 1, name: 1}, deadline=members.MEMBER_DEADLINE)
    return members.disk(client, "admin"), int(reply[name]) if name in reply else None


def judge_build(address: str, needed: int, found: tuple[Disk, int | None] | Seen, host: Mapping[str, Any]) -> Seen:
    """Judge disk and memory of one member for an index build.

    Args:
        address: the member.
        needed: bytes of the index and its sorting.
        found: its file system, and the memory in MB that a build may take.
        host: its hostInfo.
    """
    if isinstance(found, Seen):
        return found if found.member else replace(found, finding=f"{address}: {found.finding}")
    room, megabytes = found
    memory = "" if megabytes is None else f", {megabytes} MB of memory for the build"
    seen = f"{address}: {size_text(needed)} for the index, {size_text(room.free)} free{memory}"
    if not room.total:
        return Seen("unknown", f"{address} does not say how full its disk is", "look there with df -h")
    if room.free < needed:
        return Seen("warn", seen, "free space there: the build stops when the disk is full")
    total = float(host.get("system", {}).get("memLimitMB", 0))
    if megabytes is not None and total and megabytes > MEMORY_SHARE * total:
        remedy = "lower it: db.adminCommand({setParameter: 1, maxIndexBuildMemoryUsageMegabytes: 200})"
        return Seen("warn", f"{seen}, of {total:.0f} MB in all", remedy)
    return Seen("ok", seen)


@check(
    10,
    "cache",
    command="serverStatus.wiredTiger.cache on every shard member",
    reason="A cache that is full already lets writers wait once chunks move through it.",
    real_only=True,
)
def cache(look: Look) -> Iterator[Seen]:
    """Look how full and how dirty the caches are."""
    states = look.replies("server_status", "shard")
    for address, status in sorted(states.found.items()):
        yield judge_cache(address, status.get("wiredTiger", {}).get("cache", {}))
    yield from states.unseen()
    if not look.shards:
        yield Seen("note", "there are no shards whose caches could be looked at")


def judge_cache(address: str, found: Mapping[str, Any]) -> Seen:
    """Judge WiredTiger's cache by what it holds and what of it is not on disk yet."""
    most = float(found.get("maximum bytes configured", 0))
    if not most:
        return Seen("unknown", f"{address} shows no figures of a WiredTiger cache", "look with mongostat")
    used = float(found.get("bytes currently in the cache", 0)) / most
    dirty = float(found.get("tracked dirty bytes in the cache", 0)) / most
    seen = f"{address}: {used:.0%} of the cache used, {dirty:.0%} dirty, of {size_text(most)}"
    if used > USED_MOST or dirty > DIRTY_MOST:
        return Seen(
            "warn", seen, "move chunks at a quieter hour, or enlarge storage.wiredTiger.engineConfig.cacheSizeGB"
        )
    return Seen("ok", seen)


@check(
    11,
    "queues",
    command="serverStatus on every shard member, twice, a second apart",
    reason="A shard with waiting operations has no room for a migration, which holds writers up at its end.",
    real_only=True,
)
def queues(look: Look) -> Iterator[Seen]:
    """Look twice whether operations wait and how busy the processors are."""
    states = look.replies("server_status", "shard")
    addresses, began = sorted(states.found), time.monotonic()
    first = look.ask_each(addresses, _status)
    time.sleep(LOOK_AGAIN_SECONDS)
    second, seconds = look.ask_each(addresses, _status), time.monotonic() - began
    hosts = look.replies("host", "shard").found
    for address in addresses:
        one, two = first[address], second[address]
        if isinstance(one, Seen) or isinstance(two, Seen):
            failed = [each for each in (one, two) if isinstance(each, Seen)]
            yield failed[0] if failed[0].member else replace(failed[0], finding=f"{address}: {failed[0].finding}")
            continue
        cores = int(hosts.get(address, {}).get("system", {}).get("numCores", 0))
        yield judge_load(address, one, two, seconds=seconds, cores=cores)
    yield from states.unseen()
    if not look.shards:
        yield Seen("note", "there are no shards whose queues could be looked at")


def _status(client: Client) -> dict[str, Any]:
    return run(client, "admin", STATUS, deadline=members.MEMBER_DEADLINE)


def judge_load(
    address: str, first: Mapping[str, Any], second: Mapping[str, Any], *, seconds: float, cores: int
) -> Seen:
    """Judge two looks at a member; what only one of them shows may be gone already.

    Args:
        address: the member.
        first: serverStatus.
        second: the same, later.
        seconds: between the two.
        cores: processors of its machine; 0 when unknown.
    """
    waiting = [status.get("globalLock", {}).get("currentQueue", {}).get("total") for status in (first, second)]
    if None in waiting:
        return Seen("unknown", f"{address} does not say how many operations wait", "look with mongostat")
    busy = _processor_share(first, second, seconds, cores)
    processors = "" if busy is None else f", its processors are {busy:.0%} busy with it"
    seen = f"{address}: {waiting[0]} and {waiting[1]} operations waited in two looks {seconds:.0f} s apart{processors}"
    remedy = "choose a quieter hour, and see db.currentOp() for what waits"
    if all(waiting) or (busy is not None and busy > BUSY_CPU):
        return Seen("warn", seen, remedy)
    if second.get("flowControl", {}).get("isLagged"):
        return Seen("warn", f"{address} slows writers down, as a majority lags behind (flow control)", remedy)
    if any(waiting):
        return Seen("note", f"{seen}; one look is no trend")
    return Seen("ok", f"{address}: nothing waits{processors}")


def _processor_share(first: Mapping[str, Any], second: Mapping[str, Any], seconds: float, cores: int) -> float | None:
    """Return how much of all processors the server itself took between two looks."""
    spent = [
        sum(int(status.get("extra_info", {}).get(name, -1)) for name in ("user_time_us", "system_time_us"))
        for status in (first, second)
    ]
    if min(spent) < 0 or not cores or seconds <= 0:
        return None
    return (spent[1] - spent[0]) / 1e6 / seconds / cores


@check(
    12,
    "connections",
    command="serverStatus.connections and hostInfo.extra.maxOpenFiles on every member and mongos, config.mongos",
    reason="Each router opens a pool to every shard; a member that is out of connections or files is out of order.",
    real_only=True,
)
def connections(look: Look) -> Iterator[Seen]:
    """Look how many connections and files each server has left."""
    states, hosts = look.replies("server_status"), look.replies("host").found
    found = {address: reply.get("connections", {}) for address, reply in states.found.items()}
    deadline = members.MEMBER_DEADLINE
    router = look.ctx.clients.mongo_router()
    found[router] = run(look.client, "admin", STATUS, deadline=deadline).get("connections", {})
    files = {address: reply.get("extra", {}).get("maxOpenFiles") for address, reply in hosts.items()}
    files[router] = run(look.client, "admin", {"hostInfo": 1}, deadline=deadline).get("extra", {}).get("maxOpenFiles")
    yield from judge_connections(found, files, max(1, len(pinging(look.router_signs))))
    yield from states.unseen()


def judge_connections(
    found: Mapping[str, Mapping[str, Any]], files: Mapping[str, int | None], routers: int
) -> list[Seen]:
    """Judge connections and open files.

    Args:
        found: serverStatus.connections by server.
        files: the limit of open files by server; None where it does not say.
        routers: how many live.
    """
    wanted, rows = 2 * POOL * routers, []
    left: dict[str, int] = {}
    for address, counts in sorted(found.items()):
        if "available" not in counts:
            rows.append(
                Seen("unknown", f"{address} does not say how many connections it has left", "see its ulimit -n")
            )
            continue
        left[address] = int(counts["available"])
        if left[address] < wanted:
            seen = f"{address} has {left[address]} connections left of {left[address] + int(counts.get('current', 0))}"
            remedy = f"raise net.maxIncomingConnections and ulimit -n; {routers} routers may open {wanted}"
            rows.append(Seen("warn", seen, remedy))
    few = sorted(address for address, limit in files.items() if limit is not None and int(limit) < OPEN_FILES)
    if few:
        seen = f"fewer than {OPEN_FILES} open files are allowed to {', '.join(few)}"
        rows.append(Seen("warn", seen, f"raise ulimit -n to {OPEN_FILES} and restart it"))
    if left and not any(row.severity == "warn" for row in rows):
        rows.insert(0, Seen("ok", f"{len(left)} servers have {min(left.values())} connections left or more"))
    return rows
