"""Sharding: in its order, once, and proven by reading back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import MaxKey
from pymongo.errors import AutoReconnect, OperationFailure

from credscale.core.clients import COMMAND_SECONDS, LONG_SECONDS
from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.sharding import balancer_memory
from credscale.mongo.sharding.steps import create_shard_key_index, enable_sharding, shard_collection
from tests.mongo.conftest import DATABASE, KEY, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster


@pytest.fixture
def ready(cluster: FakeCluster) -> FakeCluster:
    """Return a cluster in which only shardCollection is missing."""
    cluster.mode = "off"
    cluster.databases[DATABASE]["partitioned"] = True
    cluster.indexes.append({"key": {"createdAt": "hashed", "userId": 1}, "name": "createdAt_hashed_userId_1"})
    return cluster


def test_enable_sharding(cluster: FakeCluster, ctx: Context) -> None:
    assert enable_sharding(ctx, namespace=NAMESPACE).status is Status.CHANGED
    again = enable_sharding(ctx, namespace=NAMESPACE)
    assert again.summary == "sharding is enabled for shop already (primary shard shard1)"
    assert cluster.log == ["enableSharding"]


def test_enable_sharding_is_not_needed_since_6(cluster: FakeCluster, ctx: Context) -> None:
    cluster.version = "6.0.3"
    assert enable_sharding(ctx, namespace=NAMESPACE).status is Status.OK


def test_enable_sharding_never_registers_a_database(cluster: FakeCluster, ctx: Context) -> None:
    cluster.databases.clear()
    with pytest.raises(StepFailed, match="does not know the database shop"):
        enable_sharding(ctx, namespace=NAMESPACE)


def test_index_gets_the_servers_own_name(cluster: FakeCluster, ctx: Context) -> None:
    create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert cluster.indexes[-1]["name"] == "createdAt_hashed_userId_1"
    assert list(cluster.indexes[-1]["key"]) == ["createdAt", "userId"]
    assert "collation" not in cluster.indexes[-1]
    assert create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.OK


def test_index_of_a_collection_with_a_collation_is_simple(cluster: FakeCluster, ctx: Context) -> None:
    cluster.options = {"collation": {"locale": "de"}}
    create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)
    # The server leaves the simple collation out of listIndexes; the fake does not.
    assert cluster.indexes[-1]["collation"] == {"locale": "simple"}


def test_index_of_that_name_that_cannot_serve_is_refused(cluster: FakeCluster, ctx: Context) -> None:
    index = {"key": {"createdAt": "hashed", "userId": 1}, "name": "createdAt_hashed_userId_1", "sparse": True}
    cluster.indexes.append(index)
    with pytest.raises(StepFailed, match="can't carry a shard key"):
        create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_a_failing_build_is_raised(cluster: FakeCluster, ctx: Context) -> None:
    cluster.failures["createIndexes"] = [OperationFailure("hashed indexes do not support array values", 16766)]
    with pytest.raises(StepFailed, match="array values"):
        create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_shard_and_read_back(ready: FakeCluster, ctx: Context) -> None:
    result = shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert result.summary == f"{NAMESPACE} is sharded by {KEY} in 4 chunks"
    assert result.output["rows"] == [{"shard": "shard1", "chunks": 4}, {"shard": "shard2", "chunks": 0}]
    again = shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert (again.status, ready.log) == (Status.OK, ["shardCollection"])


def test_shard_needs_the_balancer_off(ready: FakeCluster, ctx: Context) -> None:
    ready.mode = "full"
    with pytest.raises(StepFailed, match="the balancer must be off"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert ready.log == []


def test_shard_needs_the_index(ready: FakeCluster, ctx: Context) -> None:
    ready.indexes.pop()
    with pytest.raises(StepFailed, match="Run create_shard_key_index first"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_shard_refuses_another_key(ready: FakeCluster, ctx: Context) -> None:
    ready.shard({"_id": "hashed"})
    with pytest.raises(StepFailed, match="sharded by _id:hashed, wanted is createdAt:hashed,userId:1"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_a_key_in_another_order_is_another_key(ready: FakeCluster, ctx: Context) -> None:
    ready.shard({"userId": 1, "createdAt": "hashed"})
    with pytest.raises(StepFailed, match="sharded by userId:1,createdAt:hashed"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_a_lost_connection_is_looked_up_in_the_catalogue(ready: FakeCluster, ctx: Context) -> None:
    """The command goes on in the server; what it has done is found and it is not issued again."""

    class Gone(AutoReconnect):
        def __init__(self) -> None:
            super().__init__("mongos went away")
            ready.shard()

    ready.failures["shardCollection"] = [AutoReconnect("first"), Gone()]
    ready.collections.clear()
    result = shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert result.status is Status.CHANGED


def test_lost_before_it_began_is_issued_again(ready: FakeCluster, ctx: Context) -> None:
    ready.failures["shardCollection"] = [AutoReconnect("gone"), OperationFailure("lock busy", 46)]
    shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert ready.log == ["shardCollection"]


def test_leftovers_of_4_4_are_explained(ready: FakeCluster, ctx: Context) -> None:
    ready.failures["shardCollection"] = [OperationFailure("ManualInterventionRequired", 51)]
    with pytest.raises(StepFailed, match=r"chunks\.deleteMany\(\{ns: 'shop\.orders'\}\)"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_chunks_with_a_gap_fail_the_read_back(ready: FakeCluster, ctx: Context) -> None:
    ready.shard()
    ready.chunks[1]["max"] = dict.fromkeys(ready.chunks[1]["max"], MaxKey())
    with pytest.raises(StepFailed, match="do not cover the key space"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_dry_run_of_everything(cluster: FakeCluster, make_context: Callable[..., Context]) -> None:
    ctx = make_context(dry_run=True)
    results = [
        enable_sharding(ctx, namespace=NAMESPACE),
        create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY),
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY),
    ]
    assert [result.status for result in results] == [Status.PLANNED] * 3
    assert cluster.log == []


def test_the_balancer_is_kept_off_until_the_read_back(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    ready.failures["shardCollection"] = [AutoReconnect("mongos went away")]
    command = ready.command

    def spy(database: str, request: dict[str, Any]) -> dict[str, Any]:
        if "shardCollection" in request:
            seen.append(balancer_memory.kept_off(ctx))
        return command(database, request)

    monkeypatch.setattr(ready, "command", spy)
    shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert seen == [[NAMESPACE], [NAMESPACE]]
    assert balancer_memory.kept_off(ctx) == []


def test_a_failed_read_back_keeps_the_balancer_off(ready: FakeCluster, ctx: Context) -> None:
    ready.shard()
    missing = ready.chunks.pop(1)
    with pytest.raises(StepFailed, match="The balancer must stay off"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert balancer_memory.is_kept_off(ctx, NAMESPACE)
    ready.chunks.insert(1, missing)
    shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert balancer_memory.kept_off(ctx) == []


@pytest.mark.parametrize("code", [46, 117])
def test_a_server_busy_with_our_own_lost_command_is_waited_for(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.steps.LOST_SECONDS", 0.02)
    busy = [OperationFailure("busy", code) for _ in range(20)]
    ready.failures["shardCollection"] = [AutoReconnect("gone"), *busy]
    assert shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED
    notes = [event["text"] for event in ctx.journal.events if event["event"] == "note"]
    assert sum("is still at work" in note for note in notes) == 1


def test_a_server_busy_with_a_dead_runs_command_is_waited_for(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.steps.LOST_SECONDS", 0.02)
    balancer_memory.keep_off(ctx, NAMESPACE, "shardCollection was sent")
    ready.failures["shardCollection"] = [OperationFailure("busy", 46) for _ in range(20)]
    assert shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED


def test_a_server_busy_with_somebody_elses_command_is_not(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.steps.LOST_SECONDS", 0.02)
    ready.failures["shardCollection"] = [OperationFailure("lock busy", 46) for _ in range(1000)]
    with pytest.raises(StepFailed, match="lock busy"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_a_router_that_restarts_while_our_command_works_is_survived(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of waiting for the server must not count against a connection lost at their end."""
    monkeypatch.setattr("credscale.mongo.sharding.steps.LOST_SECONDS", 0.05)
    busy = [OperationFailure("busy", 46) for _ in range(10)]
    ready.failures["shardCollection"] = [AutoReconnect("gone"), *busy, AutoReconnect("gone again"), *busy]
    assert shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED


def test_a_lost_command_at_work_is_not_issued_again(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$currentOp shows it on a shard, the catalogue not yet: it is waited for, for as long as it works."""
    monkeypatch.setattr("credscale.mongo.sharding.steps.LOST_SECONDS", 0.02)
    ready.failures["shardCollection"] = [OperationFailure("interrupted", 11602)]
    at_work = {"command": {"_shardsvrShardCollection": NAMESPACE, "$db": "admin"}}
    looks: list[list[Any]] = [[at_work]] * 8

    def look(*_: Any, **_options: Any) -> list[Any]:
        if not looks:
            ready.shard()
            return []
        return looks.pop(0)

    monkeypatch.setattr(type(ready["admin"]), "aggregate", look)
    assert shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED
    assert ready.log == []
    notes = [event["text"] for event in ctx.journal.events if event["event"] == "note"]
    assert sum("is still at work" in note for note in notes) == 1


def test_other_options_are_explained(ready: FakeCluster, ctx: Context) -> None:
    told = "sharding already enabled for collection shop.orders with options { unique: true }"
    ready.failures["shardCollection"] = [OperationFailure(told, 23)]
    with pytest.raises(StepFailed, match=r"other options meanwhile.*unique: true.*Compare key, unique and collation"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_a_refusal_ends_with_what_to_do(ready: FakeCluster, ctx: Context) -> None:
    ready.failures["shardCollection"] = [OperationFailure("not authorized on admin", 13)]
    with pytest.raises(StepFailed, match=r"not authorized on admin \(Unauthorized 13\).*run the same command again"):
        shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)


@pytest.mark.parametrize("collection_has_index", [True, False])
def test_no_time_limit_is_set_on_what_may_take_hours(
    ready: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch, collection_has_index: bool
) -> None:
    """§1.2: neither maxTimeMS nor a short socket timeout on shardCollection and createIndexes."""
    if not collection_has_index:
        ready.indexes.pop()
    sent: list[tuple[str, float, bool]] = []
    timeouts: list[float] = []
    mongo, command = ctx.clients.mongo, ready.command

    def connect(*, timeout: float = COMMAND_SECONDS) -> Any:
        timeouts.append(timeout)
        return mongo(timeout=timeout)

    def spy(database: str, request: dict[str, Any]) -> dict[str, Any]:
        if next(iter(request)) in ("shardCollection", "createIndexes"):
            sent.append((next(iter(request)), max(timeouts), "maxTimeMS" in request))
        return command(database, request)

    monkeypatch.setattr(ctx.clients, "mongo", connect)
    monkeypatch.setattr(ready, "command", spy)
    create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)
    timeouts.clear()
    shard_collection(ctx, namespace=NAMESPACE, shard_key=KEY)
    expected = ["shardCollection"] if collection_has_index else ["createIndexes", "shardCollection"]
    assert sent == [(name, LONG_SECONDS, False) for name in expected]
