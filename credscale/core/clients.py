"""Connections to targets, with a timeout on everything; drivers are imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from credscale.core.addresses import port_of
from credscale.core.errors import ConnectFailed, EnvironmentInvalid, UnknownTarget
from credscale.core.redis_clients import REDIS_SECONDS, cluster_redis, direct_redis, login_of, redis_failures

if TYPE_CHECKING:
    from pymongo import MongoClient
    from redis import Redis
    from redis.cluster import RedisCluster

    from credscale.core import sections
    from credscale.core.environment import Environment, Host
    from credscale.core.machines import Machine, SshMachine
    from credscale.core.secrets import Secrets

CONNECT_SECONDS = 5.0
SELECT_SECONDS = 15.0  # long enough for an election or a mongos restart
COMMAND_SECONDS = 120.0
LONG_SECONDS = 24 * 3600.0  # shardCollection and createIndexes may run for hours; a dead peer is found by keepalive

# options of the connection string that describe another topology than the one member we connect to
_OURS = {
    "replicaset", "directconnection", "appname", "connecttimeoutms", "serverselectiontimeoutms", "sockettimeoutms",
    "readpreference", "loadbalanced",
}  # fmt: skip


class Clients:
    """Open and keep the connections of one run.

    Args:
        environment: the inventory.
        secrets: resolves references.
        select_timeout: seconds to wait for a usable server.
    """

    def __init__(self, environment: Environment, secrets: Secrets, *, select_timeout: float = SELECT_SECONDS) -> None:
        self._environment, self._secrets, self._select = environment, secrets, select_timeout
        self._open: dict[tuple[str, str, float], MongoClient[dict[str, Any]]] = {}
        self._router: str | None = None
        self._machines: dict[str, Machine] = {}
        self._jumps: dict[str, SshMachine] = {}  # each has one connection for all machines behind it
        self._redis: dict[tuple[str, float], Redis] = {}
        self._redis_clusters: dict[float, RedisCluster] = {}

    def mongo(self, *, timeout: float = COMMAND_SECONDS) -> MongoClient[dict[str, Any]]:
        """Return a connection to one mongos, the same for the whole run.

        One router is pinned so that two routers' caches are never interleaved.

        Args:
            timeout: seconds a single reply may take; ``LONG_SECONDS`` for commands that build or shard.

        Raises:
            EnvironmentInvalid: the environment has no mongo section.
            ConnectFailed: no router answered.
        """
        return self._connect(self.mongo_router(), timeout)

    def mongo_router(self) -> str:
        """Return the address of the pinned mongos."""
        if self._router is None:
            self._router = self._pick_router()
        return self._router

    def mongo_member(self, address: str, *, timeout: float = COMMAND_SECONDS) -> MongoClient[dict[str, Any]]:
        """Return a direct connection to one member of a shard or of the config servers.

        Args:
            address: ``host:port``.
            timeout: seconds a single reply may take.
        """
        return self._connect(address, timeout)

    def mongo_loopback(
        self, address: str, *, log_in: bool, timeout: float = COMMAND_SECONDS
    ) -> MongoClient[dict[str, Any]]:
        """Return a connection to a process over the loopback of the machine it runs on.

        That is the one way to which MongoDB's localhost exception applies, while there is no user yet (§2.5); to a
        remote machine it leads through SSH. TLS options are those of ``mongo.uri``, but for the host name, of which
        SSH has made sure.

        Args:
            address: ``host:port`` as the inventory names the process.
            log_in: whether to log in as the administrator of ``mongo.deploy.admin``; without one nobody logs in.
            timeout: seconds a single reply may take.

        Raises:
            EnvironmentInvalid: the address is on no machine of the inventory.
        """
        machine = self._environment.machine_of(address)
        if machine is None:
            raise EnvironmentInvalid(f"{address} is on no machine of the section hosts")
        way = self.machine(machine).tunnel(port_of(address))
        deploy = self._environment.mongo.deploy if self._environment.mongo is not None else None
        login: dict[str, str] = {}
        if log_in and deploy is not None and deploy.admin is not None:
            password = self._secrets.resolve(deploy.admin.password)
            login = {"username": deploy.admin.user, "password": password, "authSource": "admin"}
        return self._connect(way, timeout, login=login)

    def machine(self, name: str) -> Machine:
        """Return a machine of the inventory, the same for the whole run; the empty name is this one.

        Raises:
            UnknownTarget: no such host.
        """
        from credscale.core.machines import LocalMachine

        if name not in self._machines:
            self._machines[name] = self._ssh_machine(name) if name else LocalMachine(self._secrets.mask)
        return self._machines[name]

    def _ssh_machine(self, name: str) -> SshMachine:
        from credscale.core.machines import SshMachine

        host, jump = self._way_to(name)
        if jump is not None and jump not in self._jumps:
            self._jumps[jump] = self._ssh_machine(jump)
        return SshMachine(
            name,
            host,
            self._jumps[jump] if jump is not None else None,
            environment=self._environment.name,
            resolve=self._secrets.resolve,
        )

    def _way_to(self, name: str) -> tuple[Host, str | None]:
        hosts = self._environment.hosts
        for wanted in (name, hosts[name].jump if name in hosts else None):
            if wanted is not None and wanted not in hosts:
                raise UnknownTarget(f"no host {wanted!r} in the section hosts. Known: {', '.join(hosts) or 'none'}")
        jump = hosts[name].jump
        if jump is not None and hosts[jump].jump is not None:
            raise EnvironmentInvalid(
                f"hosts.{name}.jump: {jump!r} has a jump host itself. One is supported: give {name!r} a jump host that "
                "is reached directly"
            )
        return hosts[name], jump

    def mongo_uri(self) -> str:
        """Return the resolved connection string, for a child's standard input or a mode 0600 file and nothing else.

        Raises:
            EnvironmentInvalid: the environment has no mongo section.
        """
        if self._environment.mongo is None:
            raise EnvironmentInvalid(f"the environment {self._environment.name!r} has no section mongo")
        return self._secrets.resolve(self._environment.mongo.uri)

    def _pick_router(self) -> str:
        from pymongo.errors import PyMongoError
        from pymongo.uri_parser import parse_uri

        try:
            nodes = parse_uri(self.mongo_uri())["nodelist"]
        except PyMongoError as error:
            raise EnvironmentInvalid(
                f"mongo.uri is not a connection string: {self._secrets.mask(str(error))}"
            ) from None
        problems = []
        for host, port in nodes:
            address = f"{host}:{port}"
            try:
                self._connect(address, COMMAND_SECONDS).admin.command("ping")
            except PyMongoError as error:
                problems.append(f"{address}: {self._secrets.mask(str(error)).split(', Timeout')[0]}")
            else:
                return address
        raise ConnectFailed(
            f"no mongos answered within {self._select:.0f} s: {'; '.join(problems)}. "
            "Check that it runs and that mongo.uri names it"
        )

    def _connect(
        self, address: str, timeout: float, *, login: dict[str, str] | None = None
    ) -> MongoClient[dict[str, Any]]:
        """Return a kept connection.

        Args:
            address: host:port, or the path of a socket.
            timeout: seconds a single reply may take.
            login: driver options of another login than the connection string's, empty for none; None for that one.
        """
        from pymongo import MongoClient
        from pymongo.uri_parser import parse_uri

        key = (address, "" if login is None else login.get("username", "nobody"), timeout)
        if key not in self._open:
            parsed = parse_uri(self.mongo_uri())
            options = {name: value for name, value in parsed["options"].items() if name.lower() not in _OURS}
            if login is not None:
                kept = {name: value for name, value in options.items() if not name.lower().startswith("auth")}
                options = kept | login
                if options.get("tls"):
                    options["tlsAllowInvalidHostnames"] = True
            elif parsed["username"]:
                options |= {"username": parsed["username"], "password": parsed["password"]}
                options.setdefault("authSource", parsed["database"] or "admin")
            self._open[key] = MongoClient(
                f"mongodb://{quote(address, safe='')}" if address.startswith("/") else address,
                directConnection=True,
                appname="credscale",
                connectTimeoutMS=int(CONNECT_SECONDS * 1000),
                serverSelectionTimeoutMS=int(self._select * 1000),
                socketTimeoutMS=int(timeout * 1000),
                **options,
            )
        return self._open[key]

    def redis_node(self, address: str, *, timeout: float = CONNECT_SECONDS) -> Redis:
        """Return a direct connection to one node of the Redis Cluster, which tries everything once.

        Replies are text as RESP2 has it, the same from every server and version (§1.5); bytes that are no UTF-8 come
        as surrogates and go back as what they were.

        Args:
            address: ``host:port``.
            timeout: seconds for the connection, and again for each reply.

        Raises:
            EnvironmentInvalid: the environment has no section redis.
        """
        section = self._redis_section()
        key = (address, timeout)
        if key not in self._redis:
            self._redis[key] = direct_redis(address, timeout, login_of(section, self._secrets))
        return self._redis[key]

    def redis_cluster(self, *, timeout: float = REDIS_SECONDS) -> RedisCluster:
        """Return a client of the whole Redis Cluster, which follows slots to where they are and tries a few times.

        Args:
            timeout: seconds for each connection, and again for each reply; a frozen node costs as much (§1.5).

        Raises:
            EnvironmentInvalid: the environment has no section redis.
            ConnectFailed: no node answers, or the nodes serve no slots yet.
        """
        section = self._redis_section()
        if timeout not in self._redis_clusters:
            try:
                made = cluster_redis(section.nodes, timeout, login_of(section, self._secrets))
            except redis_failures() as error:
                raise ConnectFailed(
                    f"no Redis Cluster serves at {', '.join(section.nodes)}: {self._secrets.mask(str(error))}. Look at "
                    f"each node with: invoke cluster-status --env {self._environment.name}"
                ) from None
            self._redis_clusters[timeout] = made
        return self._redis_clusters[timeout]

    def _redis_section(self) -> sections.Redis:
        if self._environment.redis is None:
            raise EnvironmentInvalid(f"the environment {self._environment.name!r} has no section redis")
        return self._environment.redis

    def close(self) -> None:
        """Close every connection."""
        for client in self._open.values():
            client.close()
        self._open.clear()
        for node in self._redis.values():
            node.close()
        self._redis.clear()
        for cluster in self._redis_clusters.values():
            cluster.close()
        self._redis_clusters.clear()
        for machine in (*self._machines.values(), *self._jumps.values()):
            machine.close()
        self._machines.clear()
        self._jumps.clear()
