"""Which processes a cluster consists of, on which machines, and where their files lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.addresses import host_of, port_of
from credscale.core.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from credscale.core.environment import Environment
    from credscale.core.sections import Deploy, Mongo

CONFIG, SHARD, ROUTER = "config", "shard", "router"
UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class Process:
    """One mongod or mongos.

    Args:
        role: ``config``, ``shard`` or ``router``.
        replica_set: its replica set; empty for a router.
        address: ``host:port``, by which the whole cluster knows it.
        machine: the host of the inventory it runs on; empty for this machine.
        directory: the folder of all processes on its machine.
    """

    role: str
    replica_set: str
    address: str
    machine: str
    directory: str

    @property
    def host(self) -> str:
        """The host part of the address, without brackets."""
        return host_of(self.address)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return port_of(self.address)

    @property
    def program(self) -> str:
        """``mongod`` or ``mongos``."""
        return "mongos" if self.role == ROUTER else "mongod"

    @property
    def folder(self) -> str:
        """Its own folder: configuration, key, log and data lie together, and no two processes share anything."""
        return f"{self.directory.rstrip('/')}/{self.port}"

    @property
    def config(self) -> str:
        """Its configuration file."""
        return f"{self.folder}/{self.program}.conf"

    @property
    def key(self) -> str:
        """Its copy of the cluster's key."""
        return f"{self.folder}/key"

    @property
    def data(self) -> str:
        """Its data folder; routers have none."""
        return f"{self.folder}/data"

    @property
    def log(self) -> str:
        """Its log."""
        return f"{self.folder}/{self.program}.log"

    @property
    def pid_file(self) -> str:
        """Where a plain process leaves its process id."""
        return f"{self.folder}/{self.program}.pid"

    @property
    def unit(self) -> str:
        """The name of its systemd unit."""
        return f"credscale-{self.program}-{self.port}.service"

    @property
    def where(self) -> str:
        """Role and address, for people."""
        what = "router" if self.role == ROUTER else f"{self.replica_set} member"
        return f"{what} {self.address}"


@dataclass(frozen=True)
class ReplicaSet:
    """A replica set of the cluster that is wanted."""

    name: str
    members: tuple[Process, ...]

    @property
    def is_config(self) -> bool:
        """Whether these are the config servers."""
        return self.members[0].role == CONFIG

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of each member."""
        return tuple(member.address for member in self.members)


@dataclass(frozen=True)
class Layout:
    """The cluster that is wanted: the config servers first, the shards in the inventory's order."""

    deploy: Deploy
    sets: tuple[ReplicaSet, ...]
    routers: tuple[Process, ...]

    @property
    def processes(self) -> tuple[Process, ...]:
        """Every process, config servers first, routers last."""
        return (*(member for each in self.sets for member in each.members), *self.routers)

    @property
    def config_set(self) -> ReplicaSet:
        """The config servers."""
        return self.sets[0]

    @property
    def config_string(self) -> str:
        """How routers are told where the config servers are."""
        return f"{self.config_set.name}/{','.join(self.config_set.addresses)}"


def layout(environment: Environment) -> Layout:
    """Return the processes of an environment.

    Raises:
        EnvironmentInvalid: it says not enough to deploy a cluster.
    """
    mongo = environment.mongo
    if mongo is None or mongo.deploy is None or mongo.config_servers is None or not mongo.shards or not mongo.routers:
        raise EnvironmentInvalid(
            f"{environment.path}: to deploy a cluster, mongo needs config_servers, shards, routers and deploy"
        )
    names = [mongo.config_servers.replica_set, *(shard.replica_set for shard in mongo.shards)]
    for name in names:
        if names.count(name) > 1:
            raise EnvironmentInvalid(f"{environment.path}: mongo: two replica sets are called {name}")
    return Layout(mongo.deploy, _sets(environment, mongo), tuple(_processes(environment, ROUTER, "", mongo.routers)))


def _sets(environment: Environment, mongo: Mongo) -> tuple[ReplicaSet, ...]:
    declared = [(CONFIG, mongo.config_servers), *((SHARD, shard) for shard in mongo.shards)]
    return tuple(
        ReplicaSet(each.replica_set, tuple(_processes(environment, role, each.replica_set, each.members)))
        for role, each in declared
        if each is not None
    )


def _processes(environment: Environment, role: str, replica_set: str, addresses: list[str]) -> list[Process]:
    directory = environment.mongo.deploy.directory if environment.mongo and environment.mongo.deploy else ""
    found = []
    for address in addresses:
        machine = environment.machine_of(address)
        if machine is None:
            raise EnvironmentInvalid(f"{environment.path}: {address} is on no machine of the section hosts")
        found.append(Process(role, replica_set, address, machine, directory))
    return found
