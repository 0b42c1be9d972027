"""Commands are repeated for passing reasons only, and not for ever."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, ServerSelectionTimeoutError

from credscale.mongo.chunks.distribution import active_migrations, chunks_by_shard
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import CURSOR_LOST, RETRYABLE, hello, is_passing, retrying, run
from credscale.mongo.cluster.settings import balancer_settings
from credscale.mongo.deploy import replies

if TYPE_CHECKING:
    from tests.mongo.conftest import FakeCluster


def test_an_election_is_waited_for(cluster: FakeCluster) -> None:
    client: Any = cluster
    cluster.failures["hello"] = [AutoReconnect("gone"), OperationFailure("election", 10107)]
    assert run(client, "admin", {"hello": 1})["ok"] == 1.0


def test_a_refusal_is_final(cluster: FakeCluster) -> None:
    client: Any = cluster
    cluster.failures["hello"] = [OperationFailure("not authorized", 13)]
    with pytest.raises(OperationFailure, match="not authorized"):
        run(client, "admin", {"hello": 1})


def test_the_deadline_ends_it(cluster: FakeCluster) -> None:
    client: Any = cluster
    cluster.failures["hello"] = [AutoReconnect("gone")] * 1000
    with pytest.raises(AutoReconnect):
        run(client, "admin", {"hello": 1}, deadline=0.01)


@pytest.mark.parametrize("error", [NetworkTimeout, ServerSelectionTimeoutError])
def test_a_server_that_is_not_there_is_not_waited_for_without_end(error: type[Exception]) -> None:
    """Waiting longer for a server than the deadline is no work done, and its time counts."""
    attempts: list[int] = []

    def wait() -> None:
        attempts.append(1)
        time.sleep(0.03)
        raise error("no server")

    with pytest.raises(error):
        retrying(wait, deadline=0.01)
    assert len(attempts) == 1


def test_the_oldest_servers_are_greeted_by_the_older_name(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = cluster
    cluster.failures["hello"] = [OperationFailure("no such command: 'hello'", 59)]
    monkeypatch.setattr(cluster, "do_isMaster", lambda _request: {"msg": "isdbgrid"}, raising=False)
    assert hello(client)["msg"] == "isdbgrid"


def test_a_connection_lost_after_long_work_is_not_final() -> None:
    attempts: list[int] = []

    def work() -> int:
        attempts.append(1)
        time.sleep(0.02)
        if len(attempts) < 4:
            raise AutoReconnect("gone")
        return len(attempts)

    assert retrying(work, deadline=0.01) == 4


def test_a_slow_election_is_waited_for_like_any_other(cluster: FakeCluster) -> None:
    client: Any = cluster
    cluster.failures["hello"] = [OperationFailure("operation exceeded time limit", 262)]
    assert run(client, "admin", {"hello": 1})["ok"] == 1.0


def test_one_list_of_passing_codes() -> None:
    """What a command, a scan and a deployment wait for differs only where it must."""
    assert {43, 136, 175, 237} == CURSOR_LOST - RETRYABLE
    assert {replies.UNREACHABLE} == replies.TRANSIENT - RETRYABLE
    assert not is_passing(OperationFailure("no such cursor", 43))
    assert is_passing(OperationFailure("no such cursor", 43), CURSOR_LOST)


def test_the_catalogue_is_read_with_majority(cluster: FakeCluster) -> None:
    """What a failover of the config servers would take away again must not be read back as done."""
    client: Any = cluster
    cluster.shard()
    facts.server(client)
    facts.database(client, "shop")
    sharded = facts.sharded_collection(client, "shop.orders")
    assert sharded is not None
    chunks_by_shard(client, sharded, ["shard1"])
    balancer_settings(client)
    active_migrations(client)
    names = ("version", "databases", "collections", "chunks", "settings", "migrations")
    assert cluster.concerns == {f"config.{name}": "majority" for name in names}
