"""What a simulated server truly says of its own process: limits, connections, and its log in MongoDB's form."""

from __future__ import annotations

import json
import resource
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

ADVISED_FILES = 64_000
_NO_ACCESS_CONTROL = (
    "Access control is not enabled for the database. Read and write access to data and configuration is unrestricted"
)


def open_files() -> int:
    """Return how many files, connections among them, this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections(port: int) -> dict[str, int]:
    """Count the connections of clients, and how many more this process could take: each needs an open file."""
    process = psutil.Process()
    found = [
        each
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED and each.laddr and each.laddr.port == port
    ]
    return {"current": len(found), "available": open_files() - process.num_fds()}


def host_name(port: int) -> str:
    """Return this machine's name and the port, as servers call themselves."""
    return f"{socket.gethostname()}:{port}"


def startup_warnings(started: datetime) -> list[str]:
    """Return the lines that MongoDB would warn with when it starts as this process did.

    Args:
        started: an aware moment.
    """
    warned: list[dict[str, Any]] = [{"c": "CONTROL", "id": 22120, "msg": _NO_ACCESS_CONTROL}]
    if open_files() < ADVISED_FILES:
        limits = {"currentValue": open_files(), "recommendedMinimum": ADVISED_FILES}
        told = "Soft rlimits for open file descriptors too low"
        warned.append({"c": "CONTROL", "id": 22184, "msg": told, "attr": limits})
    return [_line(started, {"s": "W", "ctx": "initandlisten", **each, "tags": ["startupWarnings"]}) for each in warned]


def structured(lines: Iterable[str]) -> list[str]:
    """Return SecantusDB's log lines as MongoDB writes them since 4.4, with local times as the balancer reads them."""
    found = []
    for line in lines:
        moment, _, rest = line.partition(" ")
        severity, component, message = (*rest.split(" ", 2), "", "")[:3]
        try:
            when = datetime.fromisoformat(moment)
        except ValueError:
            continue
        found.append(_line(when, {"s": severity, "c": component, "msg": message}))
    return found


def _line(moment: datetime, rest: dict[str, Any]) -> str:
    local = moment.astimezone().isoformat(timespec="milliseconds")
    return json.dumps({"t": {"$date": local}, **rest})


def now() -> datetime:
    """Return the time as an aware moment."""
    return datetime.now(UTC)
