"""Limits of processes, settings of the kernel and huge pages, against what MongoDB and Redis want of them. Pure.

Sources: MongoDB's manual, pages ``reference/ulimit`` and ``administration/tcmalloc-performance`` (8.0 turned the advice
on huge pages round), and the warnings that mongod and redis-server print when they start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from credscale.hosts.judging import Seen
from credscale.hosts.readings import UNLIMITED
from credscale.hosts.versions import MONGO, REDIS, first_version, version_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from credscale.hosts.readings import Limits, Reading

OPEN_FILES, PROCESSES = 64_000, 64_000  # MongoDB's recommendation
CLIENTS = 10_000  # maxclients of Redis, where nobody sets it
_SYSCTL = "set it to 1 in a file of /etc/sysctl.d, then: sysctl --system"
REDIS_OWN_FILES = 32  # what Redis keeps for itself beside its clients


def judge_limits(readings: Iterable[Reading], open_files: int, processes: int, clients: int) -> Iterator[Seen]:
    """Yield a row for each server process, for each login, and for kernel settings that hurt what runs there.

    Args:
        readings: of the hosts that answered.
        open_files: what mongod and mongos need.
        processes: likewise.
        clients: maxclients of Redis.
    """
    for reading in readings:
        if not reading.is_linux or reading.login is None:
            yield Seen("unknown", reading.host, {}, f"{reading.system or 'this system'} has no /proc to read limits "
                       "from", "look at them by hand: ulimit -a as the servers' user")  # fmt: skip
            continue
        for server in reading.servers:
            is_mongo = server.process in MONGO
            files = open_files if is_mongo else clients + REDIS_OWN_FILES
            yield _judge_process(reading.host, server, files, processes if is_mongo else 0)
        if not reading.servers:
            yield Seen("note", reading.host, _limit_columns(reading.login), "no database server runs here, or none "
                       "that this user may see", "")  # fmt: skip
        yield from _judge_kernel(reading)


def _judge_process(host: str, server: Limits, files: int, processes: int) -> Seen:
    if server.open_files is None or server.processes is None:
        return Seen("unknown", host, _limit_columns(server), "its limits cannot be read",
                    f"look at them as root: cat /proc/{server.pid}/limits")  # fmt: skip
    low = []
    if server.open_files < files:
        low.append(f"{server.open_files:.0f} open files, needed are {files}")
    if server.processes < processes:
        low.append(f"{server.processes:.0f} processes, needed are {processes}")
    settings = f"LimitNOFILE={files}" + (f" and LimitNPROC={processes}" if processes else "")
    remedy = (
        f"systemctl status {server.pid} names its unit; systemctl edit UNIT: {settings} in [Service], then restart it"
    )
    return Seen("stop" if low else "ok", host, _limit_columns(server),
                f"{server.process} may have only {' and '.join(low)}" if low else "",
                remedy if low else "")  # fmt: skip


def _limit_columns(limits: Limits) -> dict[str, Any]:
    return {
        "process": limits.process, "pid": limits.pid or None, "open files": _limit(limits.open_files),
        "processes": _limit(limits.processes),
    }  # fmt: skip


def _limit(value: float | None) -> str | int | None:
    return None if value is None else "unlimited" if value == UNLIMITED else int(value)


def _judge_kernel(reading: Reading) -> Iterator[Seen]:
    figures = reading.figures
    if reading.has(*REDIS) and figures.get("overcommit", 1) != 1:
        what = f"vm.overcommit_memory is {figures['overcommit']}, Redis wants 1: a save may fail for want of memory"
        yield Seen("warn", reading.host, {"process": "kernel"}, what, _SYSCTL)
    if reading.has(*MONGO) and figures.get("swap", 0) and figures.get("swappiness", 1) > 1:
        what = f"vm.swappiness is {figures['swappiness']}, MongoDB recommends 1"
        yield Seen("note", reading.host, {"process": "kernel"}, what, _SYSCTL)


def judge_huge_pages(readings: Iterable[Reading]) -> Iterator[Seen]:
    """Yield a row for each host: before 8.0 MongoDB wants no huge pages, from 8.0 it wants them always.

    Redis turns them off for itself from 6.2 on; before, they make its saves slow.
    """
    for reading in readings:
        columns = {
            "enabled": reading.huge_pages or "none", "defrag": reading.defrag or "none",
            "mongod": reading.versions.get("mongod"), "redis": first_version(reading, REDIS),
        }  # fmt: skip
        if not reading.is_linux:
            yield Seen("note", reading.host, columns, f"{reading.system or 'this system'} has no such setting")
            continue
        yield _judge_setting(reading, columns)


def _judge_setting(reading: Reading, columns: Mapping[str, Any]) -> Seen:
    always, mongod, redis = (
        reading.huge_pages == "always",
        reading.versions.get("mongod"),
        first_version(reading, REDIS),
    )
    is_new = mongod is not None and version_parts(mongod) >= (8,)
    # the kernels of these have no per-CPU caches, so that 8.0 brings the old allocator there
    has_new_allocator = is_new and not re.search(r"ppc64le|s390x", reading.system)
    off = "write madvise or never to /sys/kernel/mm/transparent_hugepage/enabled by a unit that runs before the server"
    if always and reading.has("mongod") and mongod is None:
        return Seen("unknown", reading.host, columns, "huge pages are always on and mongod's version is not on the "
                    "PATH: before 8.0 they must be off", "give the host's user a PATH with mongod on it")  # fmt: skip
    if always and mongod is not None and not has_new_allocator:
        return Seen("stop", reading.host, columns, f"huge pages are always on, MongoDB {mongod} wants never or madvise",
                    off)  # fmt: skip
    if always and redis is not None and version_parts(redis) < (6, 2):
        return Seen("stop", reading.host, columns, f"huge pages are always on, Redis {redis} wants never or madvise",
                    off)  # fmt: skip
    if reading.huge_pages is not None and not always and has_new_allocator:
        what = f"huge pages are {reading.huge_pages}, MongoDB {mongod} wants always"
        remedy = "write always to enabled and defer+madvise to defrag in /sys/kernel/mm/transparent_hugepage"
        return Seen("warn", reading.host, columns, what, remedy)
    return Seen("ok", reading.host, columns)
