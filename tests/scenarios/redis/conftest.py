"""Six real servers on this machine that form a cluster of three primaries with a replica each."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.lab.processes import free_ports
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.slots import numbers, split_evenly
from credscale.redis_cluster.cluster.views import look_at
from credscale.testing import require, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from credscale.redis_cluster.cluster.views import Look

SERVER = "CREDSCALE_REDIS_SERVER"  # the path of another server than the one of the PATH, such as valkey-server
PRIMARIES, REPLICAS = 3, 1
OPTIONS = {
    "cluster-enabled": "yes", "cluster-node-timeout": "1000", "appendonly": "yes",
    "repl-diskless-sync-delay": "0", "save": "", "daemonize": "no", "maxmemory": "32mb",
}  # fmt: skip
MOST_HOSTS = 10
_clusters = itertools.count()


def server_program() -> str:
    """Return the server under test, or skip."""
    return os.environ.get(SERVER) or require("redis")


class RedisNodes:
    """Real servers; every one that was started is killed by ``end``.

    Args:
        folder: for data, logs and the environment file.
        password: which clients must give; empty for none.
        options: of the servers, over ``OPTIONS``.
        hosts: over how many addresses of this machine the nodes are spread; on Linux only.
    """

    def __init__(
        self, folder: Path, *, password: str = "", options: dict[str, str] | None = None, hosts: int = 1
    ) -> None:
        self.folder, self.password, self.hosts = folder, password, hosts
        self.options = OPTIONS | (options or {})
        if password:
            self.options |= {"requirepass": password, "masterauth": password}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.buses: dict[str, int] = {}
        self._first_host = next(_clusters) * MOST_HOSTS % 240 + 1
        self._contexts: list[Context] = []

    def start(self, count: int) -> list[str]:
        """Start so many new servers and return their addresses when they answer."""
        added = self._new_addresses(count)
        self._spawn_all(added)
        return added

    def start_formed(self, primaries: int) -> list[str]:
        """Start a new cluster of primaries with a replica each, whose nodes know each other from their nodes.conf.

        That is the quick way to a hundred nodes; they are returned when they answer, and agree a little later.
        """
        added = self._new_addresses(2 * primaries)
        ids = [hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest() for address in added]
        slots = [" ".join(f"{first}-{last}" for first, last in ranges) for ranges in split_evenly(primaries)]
        for own in range(len(added)):
            lines = [f"vars currentEpoch {primaries} lastVoteEpoch 0"]
            for number, (address, node_id) in enumerate(zip(added, ids, strict=True)):
                owner = number % primaries
                myself, place = "myself," * (number == own), f"{address}@{self.buses[address]}"
                role = f"{myself}master -" if number < primaries else f"{myself}slave {ids[owner]}"
                owned = slots[number] if number < primaries else ""
                lines.append(f"{node_id} {place} {role} 0 0 {owner + 1} connected {owned}".rstrip())
            folder = self.folder / added[own].rpartition(":")[2]
            folder.mkdir()
            (folder / "nodes.conf").write_text("".join(f"{line}\n" for line in lines))
        self._spawn_all(added)
        return added

    def _new_addresses(self, count: int) -> list[str]:
        # free_ports looks at 127.0.0.1, where none of our own servers listens
        taken = {int(address.rpartition(":")[2]) for address in self.buses} | set(self.buses.values())
        ports = [port for port in free_ports(2 * count + len(taken)) if port not in taken]
        known = len(self.buses)
        added = [f"{self.host(known + number)}:{port}" for number, port in enumerate(ports[:count])]
        self.buses |= dict(zip(added, ports[count : 2 * count], strict=True))
        return added

    def _spawn_all(self, addresses: list[str]) -> None:
        for address in addresses:
            self.spawn(address)
        for address in addresses:
            self.wait(address)

    def host(self, number: int) -> str:
        """Return the address of a node; each cluster has its own, so that no other gets a killed node's port."""
        if not sys.platform.startswith("linux"):
            return "127.0.0.1"
        process = os.getpid()
        return f"127.{process // 250 % 250 + 1}.{process % 250 + 1}.{self._first_host + number % self.hosts}"

    def spawn(self, address: str) -> None:
        """Start the server of an address, again if need be."""
        host, _, port = address.rpartition(":")
        place = self.folder / port
        place.mkdir(exist_ok=True)
        # The kernel gives connections to any 127.x.y.z the source 127.0.0.1, which peers would take for the node's.
        own = {"bind": host, "cluster-announce-ip": host, "port": port, "cluster-port": str(self.buses[address])}
        options = self.options | own | {"dir": str(place)}
        config = place / "redis.conf"
        config.write_text("".join(f'{name} "{value}"\n' for name, value in options.items()))
        config.chmod(0o600)
        with (place / "log").open("ab") as log:
            self.processes[address] = subprocess.Popen([server_program(), str(config)], stdout=log, stderr=log)

    def wait(self, address: str) -> None:
        """Wait until a server answers."""
        wait_for(lambda: self._pings(address), 20)

    def _pings(self, address: str) -> bool:
        with suppress(RedisError):
            return bool(self.client(address).ping())
        return False

    def client(self, address: str, timeout: float = 2.0) -> Redis:
        """Return a plain client of one node."""
        host, _, port = address.rpartition(":")
        return Redis(
            host, int(port), password=self.password or None, socket_timeout=timeout, socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0), protocol=2, decode_responses=True, encoding_errors="surrogateescape",
        )  # fmt: skip

    def form(self, addresses: list[str], primaries: int = PRIMARIES) -> None:
        """Make a cluster of empty nodes: the first ones become primaries, the others their replicas in turn."""
        clients = [self.client(address) for address in addresses]
        for number, client in enumerate(clients, 1):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number)
        for client, ranges in zip(clients, split_evenly(primaries), strict=False):
            client.execute_command("CLUSTER", "ADDSLOTS", *numbers(ranges))  # ADDSLOTSRANGE came with 7.0
        for number, client in enumerate(clients):
            for address in addresses[number + 1 :]:
                host, _, port = address.rpartition(":")
                client.execute_command("CLUSTER", "MEET", host, port, self.buses[address])

        def met() -> bool:
            views = [str(client.execute_command("CLUSTER", "NODES")) for client in clients]
            return all(view.count("\n") == len(clients) and "handshake" not in view for view in views)

        wait_for(met, 20)
        ids = [client.execute_command("CLUSTER", "MYID") for client in clients]
        for number, client in enumerate(clients[primaries:]):
            client.execute_command("CLUSTER", "REPLICATE", ids[number % primaries])
        wait_for(lambda: not gate(self.look(), nodes=len(addresses)), 30, every=0.2)

    @property
    def addresses(self) -> list[str]:
        """Every address at which a server was ever started."""
        return list(self.processes)

    def look(self) -> Look:
        """Look at all nodes."""
        return look_at(self.addresses, self.client)

    def process(self, address: str, number: int) -> None:
        """Send a signal to a node's process and, where it ends it, wait for the end."""
        self.processes[address].send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.processes[address].wait(20)

    def freeze(self, address: str) -> None:
        """Stop a node's process without ending it."""
        self.process(address, signal.SIGSTOP)

    def thaw(self, address: str) -> None:
        """Let a frozen node go on."""
        self.process(address, signal.SIGCONT)

    def kill(self, address: str) -> None:
        """Kill a node."""
        self.process(address, signal.SIGKILL)

    def by_role(self, role: str) -> list[str]:
        """Return the addresses of the primaries or of the replicas, as most nodes see them."""
        found = self.look()
        return [found.name(node.id) for node in found.topology if node.role == role]

    def environment(self, **redis: Any) -> Path:
        """Write an environment file for these nodes; ``redis`` goes over its section."""
        section: dict[str, Any] = {"nodes": self.addresses} | redis
        if self.password:
            (self.folder / "password").write_text(self.password)
            section.setdefault("password", f"file:{self.folder}/password")
        path = self.folder / "redis.yaml"
        path.write_text(yaml.safe_dump({"name": "redis", "policy": {"confirm": "none"}, "redis": section}))
        return path

    def context(self, *, folder: Path | None = None, dry_run: bool = False, **redis: Any) -> Context:
        """Return a context of a new run."""
        secrets = Secrets()
        environment = load(str(self.environment(**redis)))
        journal = Journal(None if folder is None else folder / "journal.jsonl", secrets.mask)
        clients = Clients(environment, secrets)
        self._contexts.append(Context(environment, journal, clients, secrets, dry_run=dry_run, folder=folder))
        return self._contexts[-1]

    def end(self) -> None:
        """Kill everything that was started and close every run."""
        for ctx in self._contexts:
            ctx.clients.close()
            ctx.journal.close()
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes.values():
            process.wait(20)


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    """Yield a cluster for the tests of a module that leave it as it was."""
    yield from _cluster(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[RedisNodes]:
    """Yield a cluster of three primaries and three replicas that the test may break."""
    yield from _cluster(tmp_path)


def _cluster(folder: Path) -> Iterator[RedisNodes]:
    nodes = RedisNodes(folder, password="correct-horse-battery")
    try:
        nodes.form(nodes.start(PRIMARIES * (1 + REPLICAS)))
        yield nodes
    finally:
        nodes.end()
