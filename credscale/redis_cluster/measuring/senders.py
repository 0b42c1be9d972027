"""Two ways to send a command to a shard: at its owner's own connection, and as an application's cluster client does."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from credscale.core.addresses import split_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from redis import Redis
    from redis.cluster import RedisCluster

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look

PATIENT_SECONDS, QUICK_SECONDS = 1.0, 0.25
APPLICATION_SECONDS = 2.0  # with 12 s an application froze for 24 s on a frozen primary (§1.5)


class Sender(Protocol):
    """Sends commands to one shard."""

    name: str

    def send(self, *words: Any) -> None:
        """Send a command once; returns when the server has acknowledged it."""

    def close(self) -> None:
        """Give its connections back."""


class Direct:
    """A plain connection to the owner, which follows MOVED: what the servers do, without a client library's waiting.

    Where the owner does not answer, the other members of the shard are asked in turn for the new one; one that was
    silent gets little time until somebody has answered.

    Args:
        connect: returns the client of an address with a timeout in seconds.
        members: where to reach the members of the shard, the owner first.
        places: where to reach a node, by the host and port it announces.
    """

    name = "direct"

    def __init__(
        self,
        connect: Callable[[str, float], Redis],
        members: Sequence[str],
        places: Mapping[tuple[str, int], str],
    ) -> None:
        self.members, self._places = deque(members), places
        self._silent: set[str] = set()
        # made here, because clients are kept in a table that threads should not fill
        everywhere = dict.fromkeys([*members, *places.values()])
        self._clients: dict[tuple[str, float], Any] = {
            (place, seconds): connect(place, seconds)
            for place in everywhere
            for seconds in (PATIENT_SECONDS, QUICK_SECONDS)
        }

    def send(self, *words: Any) -> None:
        """Send a command to the supposed owner.

        Raises:
            MovedError: it is another node, which the next call asks.
            RedisError: it did not do it; the next call asks another member.
        """
        from redis.exceptions import MovedError, RedisError

        place = self.members[0]
        seconds = QUICK_SECONDS if place in self._silent else PATIENT_SECONDS
        try:
            self._clients[place, seconds].execute_command(*words)
        except MovedError as moved:
            self._turn_to(self._places.get((moved.host, moved.port), ""))
            raise
        except (RedisError, OSError):
            self._silent.add(place)
            self.members.rotate(-1)
            raise
        self._silent.clear()

    def _turn_to(self, owner: str) -> None:
        if owner in ("", self.members[0]):
            self.members.rotate(-1)
            return
        if owner in self.members:
            self.members.remove(owner)
        self.members.appendleft(owner)

    def close(self) -> None:
        """Do nothing: the run closes its clients."""


class Application:
    """redis-py's cluster client with its own retries and an application's timeout.

    Args:
        build: makes the client; called when it is first needed, because it cannot be made while slots have no owner.
    """

    name = "cluster"

    def __init__(self, build: Callable[[], RedisCluster]) -> None:
        self._build = build
        self._client: Any = None

    def send(self, *words: Any) -> None:
        """Send a command; the client looks for the owner by itself."""
        if self._client is None:
            self._client = self._build()
        self._client.execute_command(*words)

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()


def places_of(found: Look) -> dict[tuple[str, int], str]:
    """Return where to reach each node that answered, by what it announces: MOVED names it so."""
    places = {}
    for node in found.topology:
        seen = found.asked(node.id)
        place = seen.place if seen is not None else node.address
        for host in filter(None, (node.host, node.hostname)):
            places[host, node.port] = place
    return places


def application(ctx: Context, startup: Iterable[str], places: Mapping[tuple[str, int], str]) -> Application:
    """Return an application's client, which logs in as this run does.

    Args:
        ctx: the run.
        startup: the addresses it starts from.
        places: as for ``Direct``.
    """
    first = list(startup)
    known: Mapping[str, Any] = ctx.clients.redis_node(first[0]).connection_pool.connection_kwargs
    names = ("username", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    login = {name: known[name] for name in names if known.get(name) is not None}
    tls = ctx.environment.redis is not None and ctx.environment.redis.tls is not None

    def remap(announced: tuple[str, int]) -> tuple[str, int]:
        return split_address(places[announced]) if announced in places else announced

    def build() -> RedisCluster:
        from redis import cluster

        node: Any = cluster.ClusterNode
        return cluster.RedisCluster(
            startup_nodes=[node(*split_address(address)) for address in first],
            address_remap=remap,
            socket_timeout=APPLICATION_SECONDS,
            socket_connect_timeout=APPLICATION_SECONDS,
            ssl=tls,
            **login,
        )

    return Application(build)
