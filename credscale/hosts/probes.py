"""The probes of hosts: each asks all of them at once, one round trip, and shows what every single one told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, VerificationFailed
from credscale.core.machines.asking import ask_hosts
from credscale.core.machines.fanout import HOST_SECONDS, PARALLEL
from credscale.core.phrases import listed
from credscale.core.step import Finding, probe
from credscale.hosts.choosing import chosen_hosts, roles_of
from credscale.hosts.judging import Seen, judge_answers, judge_clocks, judge_disks, ordered
from credscale.hosts.kernel import CLIENTS, OPEN_FILES, PROCESSES, judge_huge_pages, judge_limits
from credscale.hosts.readings import Reading, reading
from credscale.hosts.script import ask
from credscale.hosts.versions import judge_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.core.machines.fanout import Answer

MOST_TOLD = 6
COLUMNS = {
    "disks": ("path", "mount", "size", "free", "full", "inodes"),
    "clocks": ("seconds ahead", "known to (s)"),
    "limits": ("process", "pid", "open files", "processes"),
    "huge_pages": ("enabled", "defrag", "mongod", "redis"),
    "versions": (
        "role", "os", "kernel", "libc", "python", "mongod", "mongos", "redis", "up (days)", "memory_bytes",
        "swap_bytes",
    ),
}  # fmt: skip
_PATH = re.compile(r"/[^\x00-\x1f,]*")


@probe()
def verify_disk(
    ctx: Context, *, hosts: str = "", paths: str = "/", most_used_percent: float = 80.0, least_free_gb: float = 1.0,
    parallel: int = PARALLEL, timeout: float = HOST_SECONDS, errors_allowed: int = 0,
) -> Finding:  # fmt: skip
    """Look on every host whether its disks have room, in bytes and in inodes.

    Ends in failure, with all rows, when one is too full or a host does not answer. Reads only.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty.
        paths: absolute paths whose file systems are looked at, with commas.
        most_used_percent: how full each may be, of what a plain user may use; of its inodes too.
        least_free_gb: gigabytes that must be free.
        parallel: how many hosts are asked at a time.
        timeout: seconds for each host.
        errors_allowed: how many hosts may fail to answer; -1 for any number.
    """
    _check_disk(most_used_percent, least_free_gb)
    answers = _ask(ctx, hosts, _paths(paths), parallel, timeout)
    seen = judge_disks(_readings(answers), most_used_percent, least_free_gb)
    return _finding("disks", answers, seen, errors_allowed)


@probe()
def verify_clocks(
    ctx: Context, *, hosts: str = "", parallel: int = PARALLEL, timeout: float = HOST_SECONDS, errors_allowed: int = 0
) -> Finding:
    """Compare the clocks of all hosts with each other and with this machine's.

    Judged by what they differ at least, so that a slow network is no skew. Above 1 s is a warning, above 5 s or a host
    that does not answer ends in failure, with all rows. Reads only.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty.
        parallel: how many hosts are asked at a time.
        timeout: seconds for each host.
        errors_allowed: how many hosts may fail to answer; -1 for any number.
    """
    answers = _ask(ctx, hosts, (), parallel, timeout)
    return _finding("clocks", answers, judge_clocks(_readings(answers)), errors_allowed)


@probe()
def verify_limits(
    ctx: Context, *, hosts: str = "", open_files: int = OPEN_FILES, processes: int = PROCESSES,
    maxclients: int = CLIENTS, parallel: int = PARALLEL, timeout: float = HOST_SECONDS, errors_allowed: int = 0,
) -> Finding:  # fmt: skip
    """Look at the limits of the mongod, mongos and Redis processes that run on the hosts.

    They are the running processes' own, not those of a login, which may be others. Kernel settings that hurt what runs
    there are shown too. Ends in failure, with all rows, when a limit is too low or a host does not answer. Reads only.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty.
        open_files: what mongod and mongos need; MongoDB recommends 64000.
        processes: likewise, with threads.
        maxclients: of Redis, which needs 32 open files more than that.
        parallel: how many hosts are asked at a time.
        timeout: seconds for each host.
        errors_allowed: how many hosts may fail to answer; -1 for any number.
    """
    answers = _ask(ctx, hosts, (), parallel, timeout)
    seen = judge_limits(_readings(answers), open_files, processes, maxclients)
    return _finding("limits", answers, seen, errors_allowed)


@probe()
def verify_huge_pages(
    ctx: Context, *, hosts: str = "", parallel: int = PARALLEL, timeout: float = HOST_SECONDS, errors_allowed: int = 0
) -> Finding:
    """Look whether transparent huge pages are as the servers on each host want them.

    MongoDB before 8.0 and Redis before 6.2 want them off or on request (never, madvise), MongoDB from 8.0 on wants them
    always. Ends in failure, with all rows, when they slow a server down or a host does not answer. Reads only.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty.
        parallel: how many hosts are asked at a time.
        timeout: seconds for each host.
        errors_allowed: how many hosts may fail to answer; -1 for any number.
    """
    answers = _ask(ctx, hosts, (), parallel, timeout)
    return _finding("huge_pages", answers, judge_huge_pages(_readings(answers)), errors_allowed)


@probe()
def verify_versions(
    ctx: Context, *, hosts: str = "", parallel: int = PARALLEL, timeout: float = HOST_SECONDS, errors_allowed: int = 0
) -> Finding:
    """Compare what is installed on hosts of the same role: servers, system and C library; kernels are shown.

    Ends in failure, with all rows, when servers differ in more than their last number or a host does not answer. Reads
    only; programs are those on the PATH, which may be newer than what still runs.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty.
        parallel: how many hosts are asked at a time.
        timeout: seconds for each host.
        errors_allowed: how many hosts may fail to answer; -1 for any number.
    """
    answers = _ask(ctx, hosts, (), parallel, timeout)
    return _finding("versions", answers, judge_versions(_readings(answers), roles_of(ctx.environment)), errors_allowed)


@probe()
def verify_hosts(
    ctx: Context, *, hosts: str = "", paths: str = "/", most_used_percent: float = 80.0, least_free_gb: float = 1.0,
    parallel: int = PARALLEL, timeout: float = HOST_SECONDS, errors_allowed: int = 0,
) -> Finding:  # fmt: skip
    """Ask every host once for disks, clock, limits, huge pages and versions, and judge all of them.

    Ends in failure, with all tables, for what the single probes fail for. Reads only.

    Args:
        hosts: names or patterns such as shard1*, with commas; all of the section hosts when empty.
        paths: absolute paths whose file systems are looked at, with commas.
        most_used_percent: how full each may be, of what a plain user may use; of its inodes too.
        least_free_gb: gigabytes that must be free.
        parallel: how many hosts are asked at a time.
        timeout: seconds for each host.
        errors_allowed: how many hosts may fail to answer; -1 for any number.
    """
    _check_disk(most_used_percent, least_free_gb)
    answers = _ask(ctx, hosts, _paths(paths), parallel, timeout)
    readings = _readings(answers)
    seen = {
        "disks": list(judge_disks(readings, most_used_percent, least_free_gb)),
        "clocks": list(judge_clocks(readings)),
        "limits": list(judge_limits(readings, OPEN_FILES, PROCESSES, CLIENTS)),
        "huge_pages": list(judge_huge_pages(readings)),
        "versions": list(judge_versions(readings, roles_of(ctx.environment))),
    }
    silent = judge_answers(answers, errors_allowed)
    wrong = [each for rows in seen.values() for each in rows if each.severity in ("stop", "warn", "unknown")]
    output: dict[str, Any] = {"rows": [each.row() for each in ordered([*silent, *wrong])]}
    output |= {name: [each.figures(COLUMNS[name]) for each in rows] for name, rows in seen.items()}
    return _concluded("hosts", answers, [*silent, *wrong], output)


def _ask(ctx: Context, hosts: str, paths: Sequence[str], parallel: int, timeout: float) -> tuple[Answer[Reading], ...]:
    def work(machine: Machine) -> Reading:
        return reading(machine.name, ask(machine, paths, timeout))

    return ask_hosts(ctx, chosen_hosts(ctx.environment, hosts), work, parallel=parallel, timeout=timeout)


def _readings(answers: Iterable[Answer[Reading]]) -> list[Reading]:
    return [answer.value for answer in answers if answer.value is not None]


def _finding(what: str, answers: Sequence[Answer[Reading]], seen: Iterable[Seen], errors_allowed: int) -> Finding:
    rows = ordered([*judge_answers(answers, errors_allowed), *seen])
    return _concluded(what.replace("_", " "), answers, rows, {"rows": [each.row(COLUMNS[what]) for each in rows]})


def _concluded(what: str, answers: Sequence[Answer[Reading]], seen: Sequence[Seen], output: dict[str, Any]) -> Finding:
    """Return the finding, or raise it where something has to be mended."""
    answered = sum(not answer.why for answer in answers)
    warnings = sum(each.severity in ("warn", "unknown") for each in seen)
    told = f"{answered} of {len(answers)} hosts answered" + (f", {warnings} warnings" if warnings else "")
    stops = [each for each in seen if each.severity == "stop"]
    if stops:
        raise VerificationFailed(f"{what}: {sentence(answers, stops)}. {told}", output)
    return Finding(f"{what}: {told}" + ("" if warnings else ", all in order"), output)


def sentence(answers: Sequence[Answer[Any]], stops: Sequence[Seen]) -> str:
    """Return what is wrong as a part of a sentence: hosts that did not answer by why, then everything else."""
    silent: dict[str, list[str]] = {}
    for answer in answers:
        if answer.why:
            silent.setdefault(answer.why, []).append(answer.host)
    places: dict[str, list[str]] = {}
    for each in stops:
        if not any(each.host in names for names in silent.values()):
            places.setdefault(each.what, []).append(each.host)
    texts = [f"{listed(names)} {why}" for why, names in silent.items()]
    # A host has a finding for each of its processes, and is named once.
    texts += [f"{listed(dict.fromkeys(names))}: {what}" for what, names in places.items()]
    return listed(texts, MOST_TOLD, "; ")


def _paths(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for path in found:
        if not _PATH.fullmatch(path):
            raise EnvironmentInvalid(f"paths: {path!r} is not an absolute path, such as /var/lib/mongodb")
    if not found:
        raise EnvironmentInvalid("paths names no path; give absolute ones with commas between them, such as /,/var")
    return found


def _check_disk(most_used_percent: float, least_free_gb: float) -> None:
    if not 0 < most_used_percent <= 100:
        raise EnvironmentInvalid(f"most_used_percent must be above 0 and at most 100, not {most_used_percent:g}")
    if not 0 <= least_free_gb < float("inf"):
        raise EnvironmentInvalid(f"least_free_gb must be 0 or more, not {least_free_gb:g}")
