"""Which engine takes a backup, and mongodump as one of them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.mongo.backup.reading import Job, Reading

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from credscale.mongo.backup.mongodump import Access

Name = Literal["native", "mongodump", "external"]
ENGINES = ("auto", "mongodump", "native", "external")
# `--config`, by which the password reaches the program unseen, came with Database Tools 100.3.0 (its manual).
OLDEST = (100, 3)
VERSION_SECONDS = 20.0
_VERSION = re.compile(r"mongodump version:\s*r?v?(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Tool:
    """A mongodump: where it is and its version; the version is empty where it does not tell."""

    path: str
    version: tuple[int, ...]

    @property
    def text(self) -> str:
        """Name and version for people."""
        return f"mongodump {'.'.join(map(str, self.version)) or 'of an unknown version'}"

    @property
    def fits(self) -> bool:
        """Whether it can be given the password unseen."""
        return self.version >= OLDEST


def choose_engine(engine: str, *, external: str, host: str, simulated: bool, tool: Tool | None) -> Name:
    """Decide who takes the backup.

    Args:
        engine: what was asked for, one of ``ENGINES``.
        external: the declared external backup; empty for none.
        host: the machine on which mongodump shall run; empty for this one.
        simulated: whether the lab's simulated router answers, which mongodump was not made for.
        tool: the mongodump on PATH.

    Raises:
        EnvironmentInvalid: no such engine, or it contradicts the declared external backup.
        PreconditionFailed: mongodump was asked for and is not there, or too old.
    """
    if engine not in ENGINES:
        raise EnvironmentInvalid(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if external and engine not in ("auto", "external"):
        raise EnvironmentInvalid(f"engine {engine!r} takes a backup itself; leave external out, or use engine external")
    if engine == "external" and not external:
        raise EnvironmentInvalid(
            "engine external needs the parameter external, such as pbm:2026-11-20T02:00:00Z or "
            "snapshot:vol-123@2026-11-20T02:00:00Z"
        )
    if host and (external or engine not in ("auto", "mongodump")):
        raise EnvironmentInvalid("backup_host says where mongodump runs; leave it out with another engine")
    if external:
        return "external"
    if host:
        return "mongodump"
    if engine == "mongodump":
        require_fit(tool)
    if engine == "auto":
        return "mongodump" if tool is not None and tool.fits and not simulated else "native"
    return cast("Name", engine)


def require_fit(tool: Tool | None, where: str = "on this machine's PATH") -> Tool:
    """Return the tool when it can be used.

    Raises:
        PreconditionFailed: it is not there, or too old.
    """
    oldest = ".".join(map(str, OLDEST))
    remedy = f"Nothing was changed. Install MongoDB Database Tools {oldest} or later, or use engine native"
    if tool is None:
        raise PreconditionFailed(f"mongodump is not {where}. {remedy}")
    if not tool.fits:
        raise PreconditionFailed(
            f"{tool.path} is {tool.text}; before {oldest} it takes a password only where others can see it. {remedy}"
        )
    return tool


def find_mongodump() -> Tool | None:
    """Look for mongodump on PATH and ask its version."""
    from credscale.mongo.backup.mongodump import mongodump_path

    path = mongodump_path()
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=VERSION_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return Tool(path, ())
    return Tool(path, parse_version(done.stdout))


def parse_version(text: str) -> tuple[int, ...]:
    """Understand ``mongodump --version``; empty when it says something else. Before 4.4 it had the server's number."""
    found = _VERSION.search(text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def read_mongodump(job: Job, _session: ClientSession, *, tool: Tool, access: Access) -> Reading:
    """Let mongodump write a dump on this machine, then read it from end to end.

    Args:
        job: what to read and where to.
        _session: mongodump has a session of its own.
        tool: the program.
        access: how it reaches the cluster.
    """
    from credscale.mongo.backup import dump_files as files
    from credscale.mongo.backup.mongodump import run_mongodump

    namespace, out = job.collection.full_name, job.folder / files.PARTIAL
    run_mongodump(tool.path, access, namespace, out, on_progress=job.on_progress)
    data = files.data_file(job.folder, namespace, files.PARTIAL)
    return Reading("mongodump", tool.text, files.survey(data, str(data), job.on_progress))
