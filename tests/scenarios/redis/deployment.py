"""A place for clusters that redis-deploy builds: an environment file, and the end of everything started."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from redis import Redis

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.lab.processes import PORTS, free_ports
from credscale.redis_cluster.cluster.nodes import BUS_OFFSET
from runbooks.redis_deploy import redis_deploy
from tests.scenarios.redis.conftest import server_program

if TYPE_CHECKING:
    import pytest

PASSWORD, APP_PASSWORD = 'correct "horse\\ #battery ü', "app-battery-staple"
# On Linux every 127.x.y.z is this machine's; elsewhere only the first is.
HOSTS = ("127.0.0.3", "127.0.0.4", "127.0.0.5") if sys.platform.startswith("linux") else ("127.0.0.1",)


class Deployment:
    """Nodes of an inventory, each on a port of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, hosts: tuple[str, ...] = HOSTS) -> None:
        self.folder, self.directory = folder, folder / "redis"
        monkeypatch.setenv("DEPLOY_REDIS", PASSWORD)
        monkeypatch.setenv("DEPLOY_APP", APP_PASSWORD)
        # bus ports from where tests look for free ones; then the nodes' own lie below, where nobody else looks
        ports = [port - BUS_OFFSET for port in free_ports(24) if port < PORTS.start + BUS_OFFSET][:6]
        self.addresses = [f"{hosts[number % len(hosts)]}:{port}" for number, port in enumerate(ports)]
        self.inventory: dict[str, Any] = {
            "name": "deployment",
            "policy": {"confirm": "none"},
            "redis": {
                "nodes": self.addresses, "password": "env:DEPLOY_REDIS",
                "deploy": {
                    "start": "process", "directory": str(self.directory), "maxmemory": "64mb", "timeout_ms": 2000,
                    "holds": ["sessions"], "binaries": str(Path(server_program()).parent),
                },
            },
        }  # fmt: skip
        self._contexts: list[Context] = []

    @property
    def deploy(self) -> dict[str, Any]:
        """The section redis.deploy, to be changed."""
        found: dict[str, Any] = self.inventory["redis"]["deploy"]
        return found

    def context(self, *, dry_run: bool = False, folder: Path | None = None) -> Context:
        """Return a context of a new run of the inventory as it is now."""
        path = self.folder / "deployment.yaml"
        path.write_text(yaml.safe_dump(self.inventory, sort_keys=False))
        secrets, environment = Secrets(), load(str(path))
        journal = Journal(None if folder is None else folder / "journal.jsonl", secrets.mask)
        clients = Clients(environment, secrets)
        self._contexts.append(Context(environment, journal, clients, secrets, dry_run=dry_run, folder=folder))
        return self._contexts[-1]

    def run(self, **params: Any) -> Context:
        """Run the runbook once and return its context, closed."""
        ctx = self.context(**params)
        try:
            redis_deploy(ctx, timeout=20.0)
        finally:
            ctx.clients.close()
        return ctx

    def place(self, address: str) -> Path:
        """Return the folder of a node."""
        return self.directory / address.rpartition(":")[2]

    def pid(self, address: str) -> int:
        """Return the process id of a node."""
        return int((self.place(address) / "redis.pid").read_text())

    def pids(self) -> list[int]:
        """Return the process ids of all nodes, in the inventory's order."""
        return [self.pid(address) for address in self.addresses]

    def kill(self, address: str) -> None:
        """Kill a node and wait for its end."""
        process = psutil.Process(self.pid(address))
        process.kill()
        with suppress(psutil.NoSuchProcess):
            process.wait(20)

    def client(self, address: str, **options: Any) -> Redis:
        """Return a plain client of one node, as the tool's own user."""
        host, _, port = address.rpartition(":")
        options = {"username": self.inventory["redis"].get("user"), "password": PASSWORD} | options
        return Redis(host, int(port), socket_timeout=5, protocol=2, decode_responses=True, **options)

    def end(self) -> None:
        """Kill every server that was started here and close every run."""
        for path in self.directory.glob("*/redis.pid"):
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        for ctx in self._contexts:
            ctx.clients.close()
            ctx.journal.close()
