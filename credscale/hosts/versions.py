"""What runs on the hosts, and where hosts of one role differ. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from credscale.hosts.judging import ORDER, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from credscale.hosts.judging import Severity
    from credscale.hosts.readings import Reading

MONGO, REDIS = ("mongod", "mongos"), ("redis-server", "valkey-server")


def judge_versions(readings: Sequence[Reading], roles: Mapping[str, str]) -> Iterator[Seen]:
    """Yield a row for each host; versions are compared among the hosts of one role.

    Args:
        readings: of the hosts that answered.
        roles: what each host is in the inventory, such as ``shard``.
    """
    groups: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        groups[roles.get(reading.host, "")].append(reading)
    for reading in readings:
        role = roles.get(reading.host, "")
        worst: Severity = "ok"
        told = []
        for program in ("mongod", "mongos", "redis-server", "valkey-server", "os", "libc"):
            severity, text = _odd(program, reading, groups[role])
            told += [text] if text else []
            worst = min(worst, severity, key=lambda each: ORDER[each])
        columns = {
            "role": role or None, "os": reading.versions.get("os"),
            "kernel": " ".join(reading.system.split()[1:]) or None, "libc": reading.versions.get("libc"),
            "python": reading.versions.get("python3"),
            "mongod": reading.versions.get("mongod"), "mongos": reading.versions.get("mongos"),
            "redis": first_version(reading, REDIS), "up (days)": _days(reading),
            "memory_bytes": reading.figures.get("memory"),
            "swap_bytes": reading.figures.get("swap"),
        }  # fmt: skip
        yield Seen(worst, reading.host, columns, "; ".join(told),
                   "bring the hosts of one role to one version" if told else "")  # fmt: skip


def _odd(program: str, reading: Reading, group: Sequence[Reading]) -> tuple[Severity, str]:
    """Tell how a program's version differs from the one that most hosts of the group have."""
    mine = reading.versions.get(program)
    there = [each.versions[program] for each in group if program in each.versions]
    if mine is None or len(set(there)) <= 1:
        return "ok", ""
    usual = max(sorted(set(there), key=version_parts, reverse=True), key=there.count)
    if mine == usual:
        return "ok", ""
    if program in ("os", "libc"):
        return "note", f"{program} is {mine}, most others of its role have {usual}"
    near = version_parts(mine)[:2] == version_parts(usual)[:2]
    return ("warn" if near else "stop"), f"{program} is {mine}, the others of its role have {usual}"


def version_parts(version: str) -> tuple[int, ...]:
    """Return a version's numbers, which compare as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def first_version(reading: Reading, programs: Sequence[str]) -> str | None:
    """Return the version of the first of these programs that is installed."""
    return next((reading.versions[name] for name in programs if name in reading.versions), None)


def _days(reading: Reading) -> float | None:
    seconds = reading.figures.get("uptime")
    return round(seconds / 86400, 1) if seconds is not None else None
