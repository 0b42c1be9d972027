"""Hosts for tests: readings made by hand, machines that tell them, and a context on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.journal import Journal
from credscale.core.machines import Completed, LocalMachine, Machine
from credscale.core.secrets import Secrets
from credscale.hosts.readings import Disk, Limits, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from credscale.core.errors import ConnectFailed

CASES = Path(__file__).parents[1] / "cases/hosts"
GB = 1 << 30
LINUX = "Linux 6.1.0-18-amd64 x86_64"


def host(name: str = "h1", **changes: Any) -> Reading:
    """Return a host on which nothing is wrong, but for the changes."""
    values: dict[str, Any] = {
        "host": name, "system": LINUX, "least": -0.01, "most": 0.01, "disks": (full(40),),
        "login": Limits("login", 0, 1024, 7000), "huge_pages": "madvise", "defrag": "madvise",
        "versions": {"os": "Debian 12", "libc": "glibc 2.36"},
        "figures": {"memory": 8 * GB, "swap": 0, "swappiness": 60, "overcommit": 1, "uptime": 86400},
    }  # fmt: skip
    return Reading(**(values | changes))


def full(percent: float, **changes: Any) -> Disk:
    """Return a disk of 100 GB as full as told."""
    used = int(percent * GB)
    values: dict[str, Any] = {
        "path": "/", "mount": "/", "device": "/dev/sda1", "size": 100 * GB, "used": used, "free": 100 * GB - used,
        "inodes": 1000, "inodes_used": 10,
    }  # fmt: skip
    return Disk(**(values | changes))


class Recorded(LocalMachine):
    """A machine that answers as one did whose answer was recorded, or fails to."""

    def __init__(self, name: str, told: str | ConnectFailed) -> None:
        super().__init__()
        self.name, self._told = name, told

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        if not isinstance(self._told, str):
            raise self._told
        parts: dict[str, str] = json.loads((CASES / f"{self._told}.json").read_text(encoding="utf-8"))["parts"]
        if len(argv) < 5:  # its clock alone
            return Completed(0, parts["clock"].encode(), b"")
        mark = argv[4]
        return Completed(0, "".join(f"\n{mark} {name}\n{text}\n" for name, text in parts.items()).encode(), b"")


class RecordedClients(Clients):
    """Clients of recorded machines."""

    def serve(self, machines: Mapping[str, Machine]) -> RecordedClients:
        """Take the machines, by name."""
        self._machines.update(machines)
        return self


def context(told: Mapping[str, str | ConnectFailed], journal: Path | None = None, **sections: Any) -> Context:
    """Return a context on hosts that answer as recorded."""
    hosts = {name: {"address": f"{name}.example"} for name in told if name}
    environment, secrets = Environment.model_validate({"name": "test", "hosts": hosts, **sections}), Secrets()
    clients = RecordedClients(environment, secrets)
    clients.serve({name: Recorded(name or "this machine", answer) for name, answer in told.items()})
    return Context(environment, Journal(journal, secrets.mask), clients, secrets)
