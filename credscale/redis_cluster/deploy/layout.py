"""Which nodes a cluster consists of, on which machines, and where their files lie."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.addresses import host_of, is_loopback, port_of
from credscale.core.errors import EnvironmentInvalid
from credscale.redis_cluster.cluster.nodes import BUS_OFFSET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.environment import Environment
    from credscale.core.sections import Redis, RedisDeploy

LAST_PORT = 65535


def bus_port_of(port: int) -> int:
    """Return the bus port that belongs to a port: 10000 above, or below where there is no such port (§1.6)."""
    return port + BUS_OFFSET if port + BUS_OFFSET <= LAST_PORT else port - BUS_OFFSET


def is_ip(host: str) -> bool:
    """Tell whether a host is given as an IP address rather than as a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class NodeProcess:
    """One server.

    Args:
        address: ``host:port`` of the inventory.
        machine: the host of the inventory it runs on; empty for this machine.
        directory: the folder of all nodes on its machine.
        announced: ``host:port`` that it tells peers and clients instead; empty for its own.
    """

    address: str
    machine: str
    directory: str
    announced: str = ""

    @property
    def host(self) -> str:
        """The host part of the address, without brackets."""
        return host_of(self.address)

    @property
    def port(self) -> int:
        """The port for clients."""
        return port_of(self.address)

    @property
    def bus_port(self) -> int:
        """The port for the other nodes."""
        return bus_port_of(self.port)

    @property
    def needs_cluster_port(self) -> bool:
        """Whether the bus port is another than a server takes by itself; 7.0 and later can be told."""
        return self.bus_port != self.port + BUS_OFFSET

    @property
    def public(self) -> str:
        """``host:port`` by which clients and peers know it."""
        return self.announced or self.address

    @property
    def folder(self) -> str:
        """Its own folder: configuration, secrets, log and data lie together, and no two nodes share anything."""
        return f"{self.directory.rstrip('/')}/{self.port}"

    @property
    def config(self) -> str:
        """Its configuration file."""
        return f"{self.folder}/redis.conf"

    @property
    def secrets(self) -> str:
        """The part of its configuration that holds passwords."""
        return f"{self.folder}/secrets.conf"

    @property
    def data(self) -> str:
        """Its data folder, with nodes.conf, which is the server's own."""
        return f"{self.folder}/data"

    @property
    def log(self) -> str:
        """Its log; a container writes to its standard output instead."""
        return f"{self.folder}/redis.log"

    @property
    def pid_file(self) -> str:
        """Where a plain process leaves its process id."""
        return f"{self.folder}/redis.pid"

    @property
    def unit(self) -> str:
        """The name of its systemd unit."""
        return f"credscale-redis-{self.port}.service"

    @property
    def service(self) -> str:
        """The name of its Compose service."""
        return f"redis-{self.port}"

    @property
    def where(self) -> str:
        """What it is, for people."""
        return f"node {self.address}"


@dataclass(frozen=True)
class Layout:
    """The nodes that are wanted, in the inventory's order."""

    deploy: RedisDeploy
    redis: Redis
    nodes: tuple[NodeProcess, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines in the order of their first node; the empty name is this machine."""
        return tuple(dict.fromkeys(node.machine for node in self.nodes))

    def on(self, machine: str) -> tuple[NodeProcess, ...]:
        """Return the nodes of a machine."""
        return tuple(node for node in self.nodes if node.machine == machine)

    @property
    def compose_file(self) -> str:
        """The Compose file of each machine."""
        return f"{self.deploy.directory.rstrip('/')}/compose.yaml"

    @property
    def is_bridged(self) -> bool:
        """Whether containers have a network of their own."""
        return self.deploy.start == "compose" and self.deploy.compose.network == "bridge"


def layout(environment: Environment) -> Layout:
    """Return the nodes of an environment.

    Raises:
        EnvironmentInvalid: it says not enough to deploy a cluster, or its nodes would be in each other's way.
    """
    redis = environment.redis
    if redis is None or redis.deploy is None:
        raise EnvironmentInvalid(
            f"{environment.path}: to deploy a Redis Cluster, it needs redis.nodes and redis.deploy"
        )
    nodes = []
    for address in redis.nodes:
        machine = environment.machine_of(address)
        if machine is None:
            raise EnvironmentInvalid(f"{environment.path}: {address} is on no machine of the section hosts")
        nodes.append(NodeProcess(address, machine, redis.deploy.directory, redis.deploy.announce.get(address, "")))
    found = Layout(redis.deploy, redis, tuple(nodes))
    problems = [*_collisions(found), *_unreachable(found), *_wrong_users(found)]
    if problems:
        raise EnvironmentInvalid(f"{environment.path}: " + "; ".join(problems))
    return found


def _collisions(wanted: Layout) -> Iterator[str]:
    """Find ports that two nodes of a machine would want; each listens on the machine's loopback as well."""
    for machine in wanted.machines:
        nodes = wanted.on(machine)
        uses = [(port, node) for node in nodes for port in (node.port, node.bus_port)]
        for port, number in Counter(port for port, _ in uses).items():
            if number > 1:
                names = " and ".join(node.address for each, node in uses if each == port)
                yield (
                    f"redis.nodes: {names} are on one machine and both want port {port} (each node takes its port and "
                    "the bus port 10000 above); give them other ports"
                )


def _unreachable(wanted: Layout) -> Iterator[str]:
    """Find containers in a network of their own whose address would mean something else to the others."""
    for node in wanted.nodes if wanted.is_bridged else ():
        host = host_of(node.public)
        if is_loopback(host) or (not node.announced and not is_ip(host)):
            yield (
                f"redis.deploy.announce: with compose.network bridge {node.address} needs an address there that leads "
                "to it from the other containers and from the clients, or network: host"
            )


def _wrong_users(wanted: Layout) -> Iterator[str]:
    names = [user.name for user in wanted.deploy.users]
    for name in sorted({*names, "default"}):
        if names.count(name) > (name not in ("default", wanted.redis.user)):
            yield f"redis.deploy.users: {name} is the user of another entry, or the tool's own (redis.user)"
    for user in wanted.deploy.users:
        if {"nopass", "resetpass", "reset"} & set(user.rules.lower().split()):
            yield f"redis.deploy.users: the rules of {user.name} would take its password away"
