"""How this tool speaks to Redis: as text in RESP2, the same from every server and version, and never without a timeout.

Bytes that are no UTF-8 come as surrogates and go back as what they were (§1.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.addresses import split_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis
    from redis.cluster import RedisCluster

    from credscale.core import sections
    from credscale.core.secrets import Secrets

REDIS_SECONDS = 2.0
RETRIES = 3  # of a client of the whole cluster, which learns the slots anew in between


def login_of(section: sections.Redis, secrets: Secrets) -> dict[str, Any]:
    """Return who we are to the nodes, and by what they are checked, as redis-py's options."""
    options: dict[str, Any] = {}
    if section.password is not None:
        options = {"username": section.user, "password": secrets.resolve(section.password)}
    if section.tls is not None:
        options |= {
            "ssl": True, "ssl_ca_certs": section.tls.ca, "ssl_certfile": section.tls.certificate,
            "ssl_keyfile": section.tls.key,
        }  # fmt: skip
    return options


def direct_redis(address: str, timeout: float, login: Mapping[str, Any] | None = None) -> Redis:
    """Return a new connection to one node, which tries everything once; the caller closes it.

    Args:
        address: ``host:port``.
        timeout: seconds for the connection, and again for each reply.
        login: from ``login_of``; None for nodes that ask for none.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    host, port = split_address(address)
    return Redis(host, port, retry=Retry(NoBackoff(), 0), **_wire(timeout), **(login or {}))


def cluster_redis(addresses: Sequence[str], timeout: float, login: Mapping[str, Any] | None = None) -> RedisCluster:
    """Return a new client of a whole cluster; the caller closes it.

    Args:
        addresses: nodes to learn the others from.
        timeout: as for ``direct_redis``.
        login: as for ``direct_redis``.

    Raises:
        RedisClusterException: no node answers, or the nodes serve no slots yet; one of ``redis_failures``.
    """
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.exceptions import RedisClusterException
    from redis.retry import Retry

    nodes = [ClusterNode(*split_address(address)) for address in addresses]  # type: ignore[no-untyped-call]
    try:
        return RedisCluster(
            startup_nodes=nodes,
            require_full_coverage=False,  # whether it serves without some slots is the cluster's own to say
            retry=Retry(NoBackoff(), RETRIES),  # redis-py waits by itself while the cluster is down
            **_wire(timeout),
            **(login or {}),
        )
    except IndexError:  # redis-py 8.1 takes the first primary without asking whether there is one
        raise RedisClusterException("no slot is assigned to any node") from None


def redis_failures() -> tuple[type[Exception], ...]:
    """Return what redis-py raises; a slot without an owner is none of its RedisErrors."""
    from redis.exceptions import RedisClusterException, RedisError

    return RedisError, RedisClusterException


def turned_away(error: BaseException | None) -> bool:
    """Tell whether a server answered that we may not, or that it is full: it serves, only not us.

    Args:
        error: with what led to it; redis-py tells of a refused login as of a cluster that is away.
    """
    from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, OutOfMemoryError

    answers = (AuthenticationError, AuthorizationError, NoPermissionError, OutOfMemoryError)
    while error is not None and not isinstance(error, answers):
        error = error.__cause__ or error.__context__
    return error is not None


def _wire(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout, "socket_connect_timeout": timeout, "protocol": 2, "decode_responses": True,
        "encoding_errors": "surrogateescape",
    }  # fmt: skip
