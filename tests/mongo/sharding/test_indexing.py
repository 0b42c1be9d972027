"""One index build whatever happens to the connection, and its progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.sharding import indexing
from credscale.mongo.sharding.indexing import await_builds, build_progress
from credscale.mongo.sharding.steps import create_shard_key_index
from tests.mongo.conftest import COLLECTION, DATABASE, KEY, NAMESPACE

if TYPE_CHECKING:
    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

SPEC = {"key": {"createdAt": "hashed", "userId": 1}, "name": "createdAt_hashed_userId_1"}
BUILDING = {"command": {"createIndexes": COLLECTION, "indexes": [SPEC], "$db": DATABASE}}
THREAD = {
    "msg": "Index Build: scanning collection 5/10", "ns": NAMESPACE, "command": {},
    "progress": {"done": 5, "total": 10},
}  # fmt: skip


USUAL_PAUSE = indexing.POLL_SECONDS


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.indexing.POLL_SECONDS", 0.001)


def shows(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, *looks: list[Any]) -> None:
    """Let $currentOp show one thing after the other, then nothing."""
    rest = list(looks)
    database = type(cluster["admin"])
    monkeypatch.setattr(database, "aggregate", lambda *_, **_options: rest.pop(0) if rest else [])


def notes(ctx: Context) -> list[str]:
    return [event["text"] for event in ctx.journal.events if event["event"] == "note"]


def test_a_lost_connection_waits_for_the_build_before_asking_again(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    command = cluster.command

    def spy(database: str, request: dict[str, Any]) -> dict[str, Any]:
        if "createIndexes" in request:
            sent.append("createIndexes")
        return command(database, request)

    monkeypatch.setattr(cluster, "command", spy)
    cluster.failures["createIndexes"] = [AutoReconnect("mongos went away")]
    looks: list[list[Any]] = [[], [BUILDING], [THREAD], [THREAD]]

    def look(*_: Any, **_options: Any) -> list[Any]:
        assert len(sent) <= 1 or not looks, "asked again while the build was under way"
        return looks.pop(0) if looks else []

    monkeypatch.setattr(type(cluster["admin"]), "aggregate", look)
    assert create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED
    assert sent == ["createIndexes"] * 2
    assert any("looking for the build it began" in note for note in notes(ctx))
    assert any("is being built; waiting" in note for note in notes(ctx))


def test_an_index_that_a_killed_run_began_is_waited_for(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """listIndexes names it while it is being built, which is no proof that shardCollection can use it."""
    cluster.indexes.append({"v": 2, **SPEC})
    shows(monkeypatch, cluster, [THREAD], [THREAD])
    result = create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)
    assert result.summary == "the index createdAt_hashed_userId_1 serves the shard key already"
    assert notes(ctx) == [f"an index of {NAMESPACE} is being built; waiting for its end"]


def test_a_build_that_was_given_up_is_begun_again(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[list[Any]] = [[THREAD]]
    cluster.indexes.append({"v": 2, **SPEC})

    def look(*_: Any, **_options: Any) -> list[Any]:
        if not looks and cluster.log == []:
            del cluster.indexes[1:]  # the server has given it up and dropped it
        return looks.pop(0) if looks else []

    monkeypatch.setattr(type(cluster["admin"]), "aggregate", look)
    assert create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED
    assert cluster.log == ["createIndexes"]


def test_a_build_of_hours_is_looked_at_every_few_seconds(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look lists all operations of all shards."""
    monkeypatch.setattr(indexing, "POLL_SECONDS", USUAL_PAUSE)
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    shows(monkeypatch, cluster, [THREAD], [THREAD])
    assert await_builds(ctx, NAMESPACE)
    assert len(pauses) == 2
    assert min(pauses) >= 5


def test_current_op_that_may_not_be_read_holds_nothing_up(cluster: FakeCluster, ctx: Context) -> None:
    cluster.failures["currentOp"] = [OperationFailure("not authorized", 13)]
    assert create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY).status is Status.CHANGED
    assert notes(ctx) == ["it can't be told whether an index is being built: Unauthorized on $currentOp"]


def test_a_connection_that_stays_lost_ends_it_with_advice(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.indexing.DEADLINE", 0.02)
    cluster.failures["createIndexes"] = [AutoReconnect("connection refused") for _ in range(1000)]
    with pytest.raises(StepFailed, match=r"connection refused .*run the same command again"):
        create_shard_key_index(ctx, namespace=NAMESPACE, shard_key=KEY)


def test_progress_of_a_build() -> None:
    assert build_progress([{"op": "none"}, THREAD], NAMESPACE) == (5, 10)
    assert build_progress([THREAD], "shop.other") is None
