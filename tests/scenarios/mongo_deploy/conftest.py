"""A place for clusters of stand-in processes: programs, an environment file, and the end of everything started."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.lab.processes import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
KEY = "c2hhcmVkIGtleSBvZiB0aGUgdGVzdHM="
PASSWORD = "correct-horse-battery"


class Site:
    """Machines with MongoDB's programs, and an environment file that describes a cluster on them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        self.binaries = folder / "bin"
        self.binaries.mkdir()
        for program in ("mongod", "mongos"):
            script = self.binaries / program
            script.write_text(
                f"#!/bin/sh\nexport PYTHONPATH={ROOT} FAKE_MONGO_HOME={self.home} FAKE_MONGO_BIN={self.binaries}\n"
                f'exec {sys.executable} {Path(__file__).with_name("fake_mongo.py")} {program} "$@"\n'
            )
            script.chmod(0o755)
        monkeypatch.setenv("DEPLOY_KEY", KEY)
        monkeypatch.setenv("DEPLOY_PASSWORD", PASSWORD)
        self.host = "127.0.0.1"

    def describe(self, *, config: int = 3, shards: tuple[int, ...] = (3, 3), routers: int = 1, **deploy: Any) -> Path:
        """Write an environment file with ports of its own and return its path."""
        ports = iter(free_ports(config + sum(shards) + routers))

        def addresses(count: int) -> list[str]:
            return [f"{self.host}:{next(ports)}" for _ in range(count)]

        router = addresses(routers)
        self.inventory: dict[str, Any] = {
            "name": "site",
            "policy": {"confirm": "none"},
            "mongo": {
                "uri": f"file:{self.folder}/uri",
                "config_servers": {"replica_set": "configReplSet", "members": addresses(config)},
                "shards": [
                    {"replica_set": f"shard{number}ReplSet", "members": addresses(count)}
                    for number, count in enumerate(shards, 1)
                ],
                "routers": router,
                "deploy": {
                    "start": "process", "directory": str(self.folder / "mongo"), "binaries": str(self.binaries),
                    "security": {"key_file": "env:DEPLOY_KEY"},
                    "admin": {"user": "admin", "password": "env:DEPLOY_PASSWORD"}, **deploy,
                },
            },
        }  # fmt: skip
        (self.folder / "uri").write_text(f"mongodb://admin:{PASSWORD}@{router[0]}/")
        return self.write()

    def write(self) -> Path:
        """Write the inventory as it is now."""
        path = self.folder / "site.yaml"
        path.write_text(yaml.safe_dump(self.inventory, sort_keys=False))
        return path

    def context(self, *, dry_run: bool = False) -> Context:
        """Return a context of a new run."""
        secrets = Secrets()
        environment = load(str(self.folder / "site.yaml"))
        return Context(
            environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets, dry_run=dry_run
        )

    def address(self, replica_set: str, number: int = 0) -> str:
        """Return the address of a declared member."""
        mongo = self.inventory["mongo"]
        sets = [mongo["config_servers"], *mongo["shards"]]
        return str(next(each for each in sets if each["replica_set"] == replica_set)["members"][number])

    def pids(self) -> dict[int, int]:
        """Return the process ids of everything that was ever started here, by port."""
        return {int(path.stem): json.loads(path.read_text())["pid"] for path in self.home.glob("ports/*.json")}

    def end(self) -> None:
        """Kill everything that was started here."""
        for pid in self.pids().values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def answers(address: str) -> bool:
    """Tell whether somebody listens."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Yield a place for one cluster."""
    made = Site(tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.end()
