"""Connections to Redis: what they say who we are, and what is said when there is nothing to connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from credscale.core.clients import Clients
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed, EnvironmentInvalid
from credscale.core.redis_clients import direct_redis, login_of, turned_away
from credscale.core.secrets import Secrets
from credscale.core.sections import Redis, RedisTls

if TYPE_CHECKING:
    from pathlib import Path


def test_login_and_certificates(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2hunter2")
    section = Redis(
        nodes=["h:1"], user="ops", password=f"file:{tmp_path}/password",
        tls=RedisTls(ca="/ca.pem", certificate="/me.pem", key="/me.key"),
    )  # fmt: skip
    secrets = Secrets()
    assert login_of(section, secrets) == {
        "username": "ops", "password": "hunter2hunter2", "ssl": True, "ssl_ca_certs": "/ca.pem",
        "ssl_certfile": "/me.pem", "ssl_keyfile": "/me.key",
    }  # fmt: skip
    assert secrets.mask("hunter2hunter2") != "hunter2hunter2"
    assert login_of(Redis(nodes=["h:1"]), secrets) == {}


def test_a_direct_connection_tries_once_with_a_timeout() -> None:
    options = direct_redis("[::1]:7000", 1.5).connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["protocol"]) == ("::1", 7000, 2)
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 1.5
    assert options["retry"].get_retries() == 0


@pytest.mark.parametrize(
    ("cause", "away"),
    [
        (AuthenticationError("WRONGPASS"), False),
        (NoPermissionError("NOPERM"), False),
        (OutOfMemoryError("OOM"), False),
        (ClusterDownError("CLUSTERDOWN"), True),
        (RedisTimeoutError("no answer"), True),
    ],
)
def test_who_is_turned_away_is_told_from_who_finds_nobody(cause: RedisError, away: bool) -> None:
    """As redis-py and our connections wrap it: the one with ``from``, the other without."""

    def connect() -> None:
        try:
            raise RedisClusterException("Redis Cluster cannot be connected") from cause
        except RedisClusterException:
            raise ConnectFailed("no Redis Cluster serves") from None

    with pytest.raises(ConnectFailed) as told:
        connect()
    assert turned_away(told.value) is not away


def test_an_environment_without_redis_is_told() -> None:
    clients = Clients(Environment(name="test"), Secrets())
    for connect in (clients.redis_cluster, lambda: clients.redis_node("h:1")):
        with pytest.raises(EnvironmentInvalid, match="no section redis"):
            connect()
