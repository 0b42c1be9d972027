"""What a host told, read into figures. Pure; what a system did not tell is None and never guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from credscale.hosts.script import SERVERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.hosts.script import Told

UNLIMITED = float("inf")
_KILO = 1024
# A file system's name may hold blanks, and busybox and old GNU break a long one off its figures.
_FIGURES = re.compile(
    r"^(?P<device>.*?)\s+(?P<total>\d+)\s+(?P<used>\d+)\s+(?P<free>-?\d+)\s+(?P<share>\d+%|-)\s+(?P<mount>/.*)$"
)
_VERSION = re.compile(r"(?<![\w.])v?=?(\d+\.\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Disk:
    """The file system behind a path; sizes are bytes, None where it could not be read.

    Args:
        path: as it was asked for.
        problem: why it could not be read; empty when it could.
        device: its name.
        mount: where it is mounted.
        size: of it.
        used: of it.
        free: what a plain user may still write; less than the rest by what is reserved for root.
        inodes: how many files it holds at most; None where it has no such limit.
        inodes_used: how many it holds.
    """

    path: str
    problem: str = ""
    device: str = ""
    mount: str = ""
    size: int | None = None
    used: int | None = None
    free: int | None = None
    inodes: int | None = None
    inodes_used: int | None = None

    @property
    def used_percent(self) -> float | None:
        """How full it is for a plain user, as df counts; None when unknown."""
        if self.used is None or self.free is None:
            return None
        total = self.used + max(0, self.free)
        return 100 * self.used / total if total else None

    @property
    def inodes_percent(self) -> float | None:
        """How many of its files are taken; None without a limit."""
        return 100 * (self.inodes_used or 0) / self.inodes if self.inodes else None


@dataclass(frozen=True)
class Limits:
    """What a process may take; ``UNLIMITED`` without a limit, None where it is not told.

    Args:
        process: its name.
        pid: its number; 0 for a login.
        open_files: the soft limit of file descriptors.
        processes: the soft limit of processes and threads of its user.
    """

    process: str
    pid: int
    open_files: float | None
    processes: float | None


@dataclass(frozen=True)
class Reading:
    """All about one host.

    Args:
        host: its name.
        system: kernel's name, release and machine, such as ``Linux 6.1.0-18-amd64 x86_64``.
        least: seconds that its clock is ahead of this machine's at least.
        most: the same at most.
        disks: one for each path.
        login: the limits of a login; None where there is no /proc.
        servers: the limits of the database servers that run there.
        huge_pages: ``always``, ``madvise`` or ``never``; None for a kernel without them.
        defrag: likewise.
        versions: by program; also ``os`` and ``libc``.
        figures: of memory and kernel: ``memory``, ``available``, ``swap``, ``swap_free`` (bytes), ``swappiness``,
            ``overcommit``, ``uptime`` (seconds).
    """

    host: str
    system: str
    least: float
    most: float
    disks: tuple[Disk, ...] = ()
    login: Limits | None = None
    servers: tuple[Limits, ...] = ()
    huge_pages: str | None = None
    defrag: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_linux(self) -> bool:
        """Whether limits and kernel settings can be read there."""
        return self.system.startswith("Linux ")

    def has(self, *names: str) -> bool:
        """Tell whether one of these servers runs there or is installed."""
        return any(each.process in names for each in self.servers) or any(name in self.versions for name in names)


def reading(host: str, told: Told) -> Reading:
    """Return what a host told as figures."""
    parts = told.parts
    return Reading(
        host=host,
        system=parts.get("system", "").strip(),
        least=told.least,
        most=told.most,
        disks=tuple(
            disk(path, parts.get(f"disk {number}", ""), parts.get(f"inodes {number}", ""))
            for number, path in enumerate(told.paths)
        ),
        login=limits("login", 0, parts["shell"]) if parts.get("shell") else None,
        servers=tuple(_servers(parts)),
        huge_pages=chosen(parts.get("thp-enabled", "")),
        defrag=chosen(parts.get("thp-defrag", "")),
        versions=dict(_versions(parts)),
        figures=dict(_figures(parts)),
    )


def disk(path: str, space: str, inodes: str) -> Disk:
    """Return a file system from what ``df -P -k`` and ``df -P -i`` printed.

    Args:
        path: as it was asked for.
        space: with one header and one file system, perhaps broken over two lines; or a complaint.
        inodes: likewise; where a system cannot tell, the inodes stay None.
    """
    found = _df(space)
    if found is None:
        # busybox prints its header even then
        told = " ".join(line.strip() for line in space.splitlines() if not line.startswith("Filesystem"))
        told = told or "df printed nothing"
        return Disk(path, problem=told[:300])
    # macOS counts blocks there even when asked for inodes, and its header says so
    counted = _df(inodes) if re.search(r"^Filesystem +Inodes", inodes, re.MULTILINE) else None
    total = int(counted["total"]) if counted is not None else 0
    return Disk(
        path, device=found["device"].strip(), mount=found["mount"], size=int(found["total"]) * _KILO,
        used=int(found["used"]) * _KILO, free=int(found["free"]) * _KILO, inodes=total or None,
        inodes_used=int(counted["used"]) if counted is not None and total else None,
    )  # fmt: skip


def _df(text: str) -> Mapping[str, str] | None:
    """Return the figures below a header of df."""
    _, head, rest = text.partition("Filesystem ")  # before it there may be warnings
    rows = rest.splitlines()[1:]
    found = _FIGURES.match(" ".join(rows)) if head else None
    return found.groupdict() if found is not None else None


def limits(process: str, pid: int, text: str) -> Limits:
    """Return the soft limits from a ``/proc/PID/limits``."""
    found = dict(re.findall(r"^Max ([a-z ]+?) {2,}(\d+|unlimited) ", text, re.MULTILINE))

    def soft(name: str) -> float | None:
        value = found.get(name)
        return None if value is None else UNLIMITED if value == "unlimited" else float(value)

    return Limits(process, pid, soft("open files"), soft("processes"))


def chosen(text: str) -> str | None:
    """Return the word in brackets of a kernel setting such as ``always [madvise] never``."""
    found = re.search(r"\[([a-z+]+)\]", text)
    return found[1] if found is not None else None


def version(text: str) -> str | None:
    """Return the first version number in what a program printed; None without any."""
    found = _VERSION.search(text)
    return found[1] if found is not None else None


def _servers(parts: Mapping[str, str]) -> list[Limits]:
    found = []
    for name, text in parts.items():
        kind, _, rest = name.partition(" ")
        pid, _, process = rest.partition(" ")
        if kind == "process" and text and pid.isdecimal():  # one that ended meanwhile has none
            found.append(limits(process, int(pid), text))
    return found


def _versions(parts: Mapping[str, str]) -> list[tuple[str, str]]:
    release = re.search(r'^PRETTY_NAME="?(.+?)"?$', parts.get("release", ""), re.MULTILINE)
    found: dict[str, str | None] = {"os": release[1] if release is not None else None}
    libc = parts.get("libc", "")
    number = version(libc)
    kind = "musl" if "musl" in libc else "glibc" if "glibc" in libc.lower() or "gnu libc" in libc.lower() else ""
    found["libc"] = f"{kind} {number}" if kind and number else None
    for program in ("python3", *SERVERS):
        found[program] = version(parts.get(f"version {program}", ""))
    return [(name, text) for name, text in found.items() if text]


def _figures(parts: Mapping[str, str]) -> list[tuple[str, int]]:
    memory = dict(re.findall(r"^(\w+): +(\d+) kB$", parts.get("memory", ""), re.MULTILINE))
    names = {"MemTotal": "memory", "MemAvailable": "available", "SwapTotal": "swap", "SwapFree": "swap_free"}
    found: list[tuple[str, Any]] = [(ours, int(memory[name]) * _KILO) for name, ours in names.items() if name in memory]
    found += [(name, parts.get(name, "").split(".")[0].strip()) for name in ("swappiness", "overcommit", "uptime")]
    return [(name, int(value)) for name, value in found if str(value).isdecimal() and str(value).isascii()]
