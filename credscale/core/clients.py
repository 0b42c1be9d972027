"""Connections to targets, with a timeout on everything; drivers are imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, EnvironmentInvalid

if TYPE_CHECKING:
    from pymongo import MongoClient

    from credscale.core.environment import Environment
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
        self._open: dict[tuple[str, float], MongoClient[dict[str, Any]]] = {}
        self._router: str | None = None

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

    def _connect(self, address: str, timeout: float) -> MongoClient[dict[str, Any]]:
        from pymongo import MongoClient
        from pymongo.uri_parser import parse_uri

        key = (address, timeout)
        if key not in self._open:
            parsed = parse_uri(self.mongo_uri())
            options = {name: value for name, value in parsed["options"].items() if name.lower() not in _OURS}
            if parsed["username"]:
                options |= {"username": parsed["username"], "password": parsed["password"]}
                options.setdefault("authSource", parsed["database"] or "admin")
            self._open[key] = MongoClient(
                address,
                directConnection=True,
                appname="credscale",
                connectTimeoutMS=int(CONNECT_SECONDS * 1000),
                serverSelectionTimeoutMS=int(self._select * 1000),
                socketTimeoutMS=int(timeout * 1000),
                **options,
            )
        return self._open[key]

    def close(self) -> None:
        """Close every connection."""
        for client in self._open.values():
            client.close()
        self._open.clear()
