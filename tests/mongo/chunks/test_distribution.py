"""What is left to move agrees with what the server's balancer would do; what shards tell in part is not believed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import AutoReconnect

from credscale.core.errors import PreconditionFailed
from credscale.mongo.chunks.distribution import (
    Distribution,
    Owned,
    active_migrations,
    distribution,
    movable,
    owned_and_orphaned,
    range_problem,
    remaining_moves,
)
from credscale.mongo.cluster import facts
from tests.mongo.conftest import NAMESPACE, FakeCollection, FakeCursor

if TYPE_CHECKING:
    from tests.mongo.conftest import FakeCluster

MB = 1 << 20

counts = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 40), min_size=1)


def moves_of_the_server(chunks: dict[str, int]) -> int:
    """Balance as ``_singleZoneBalance`` of 4.4 does and count."""
    chunks, moves = dict(chunks), 0
    ideal = math.floor(sum(chunks.values()) / len(chunks) + 0.5)
    while max(chunks.values()) > ideal and min(chunks.values()) < ideal:
        chunks[max(chunks, key=lambda shard: chunks[shard])] -= 1
        chunks[min(chunks, key=lambda shard: chunks[shard])] += 1
        moves += 1
    return moves


@given(chunks=counts)
def test_remaining_moves_are_the_servers(chunks: dict[str, int]) -> None:
    assert remaining_moves(chunks) == moves_of_the_server(chunks)


def test_recorded_cluster() -> None:
    assert remaining_moves({"shard1": 44, "shard2": 0}) == 22
    assert remaining_moves({"shard1": 22, "shard2": 22}) == 0
    assert remaining_moves({}) == 0


def test_jumbo_chunks_do_not_move() -> None:
    assert movable({"a": 10, "b": 0}, {"a": 10}) == 0
    assert movable({"a": 10, "b": 0}, {"a": 8}) == 2
    assert movable({"a": 10, "b": 0}, {}) == 5


def test_bytes_are_balanced_within_three_ranges() -> None:
    found = Distribution({"a": 1, "b": 0}, {"a": 299, "b": 0}, 100, by_bytes=True)
    assert found.remaining == 0
    assert Distribution({"a": 1, "b": 0}, {"a": 300, "b": 0}, 100, by_bytes=True).remaining == 2


def test_what_the_balancer_leaves_uneven_is_not_called_even() -> None:
    sizes = {"a": 150 * MB, "b": 0}
    small = Distribution({"a": 1, "b": 0}, sizes, 64 * MB, by_bytes=True)
    assert small.remaining == 0
    expected = (
        "the shards' data differ by 150 MB, which is less than three ranges (192 MB), so the balancer moves nothing"
    )
    assert small.content == expected
    alike = Distribution({"a": 1, "b": 1}, {"a": 150 * MB, "b": 149 * MB}, 64 * MB, by_bytes=True)
    empty = Distribution({"a": 1, "b": 0}, {"a": 0, "b": 0}, 64 * MB, by_bytes=True)
    counted = Distribution({"a": 1, "b": 1}, sizes, 64 * MB, by_bytes=False)
    assert {each.content for each in (alike, empty, counted)} == {"the data lie evenly"}


def test_a_collections_own_chunk_size_counts(cluster: FakeCluster) -> None:
    """MongoDB 5.3 and later: with 1 MB ranges there is much to move where the default leaves all as it is."""
    client: Any = cluster
    cluster.version = "7.0.14"
    cluster.shard()
    shards = [{"shardName": "shard1", "ownedSizeBytes": 20 * MB}, {"shardName": "shard2", "ownedSizeBytes": 0}]
    cluster.operations = [{"ns": NAMESPACE, "shards": shards}]
    cluster.collections[NAMESPACE]["maxChunkSizeBytes"] = MB
    sharded = facts.sharded_collection(client, NAMESPACE)
    assert sharded is not None
    found = distribution(client, facts.server(client), sharded, 128)
    assert (found.range_bytes, found.remaining) == (MB, 10)


def explained(*, success: bool) -> dict[str, Any]:
    ends = {"executionSuccess": True} if success else {"executionSuccess": False, "errorMessage": "not primary"}
    shards = [
        {"shardName": "s1", "executionSuccess": True, "nReturned": 7, "totalKeysExamined": 7},
        {"shardName": "s2", **ends, "nReturned": 3, "totalKeysExamined": 3},
    ]
    return {"executionStats": {"executionStages": {"shards": shards}}}


def test_a_count_that_a_shard_broke_off_is_tried_again(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = cluster
    replies = [explained(success=False), explained(success=True)]
    monkeypatch.setattr(cluster, "do_explain", lambda _request: replies.pop(0), raising=False)
    found = owned_and_orphaned(client, NAMESPACE, {"a": 1}, "a_1")
    assert found == {"s1": Owned(7, 0), "s2": Owned(3, 0)}
    monkeypatch.setattr(cluster, "do_explain", lambda _request: explained(success=False))
    with pytest.raises(PreconditionFailed, match="s2 broke off: not primary"):
        owned_and_orphaned(client, NAMESPACE, {"a": 1}, "a_1")


def test_ranges_are_read_through_an_election(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = cluster
    cluster.shard()
    sharded = facts.sharded_collection(client, NAMESPACE)
    assert sharded is not None
    failures, find = [AutoReconnect("electing"), AutoReconnect("electing")], FakeCollection.find

    def electing(collection: FakeCollection, *arguments: Any, **options: Any) -> FakeCursor:
        if failures:
            raise failures.pop()
        return find(collection, *arguments, **options)

    monkeypatch.setattr(FakeCollection, "find", electing)
    assert range_problem(client, sharded) == ""
    assert not failures


def test_migrations_are_seen_since_6_0_too(cluster: FakeCluster) -> None:
    client: Any = cluster
    cluster.migrations = [{"ns": NAMESPACE, "fromShard": "shard1", "toShard": "shard2"}]
    assert active_migrations(client) == {NAMESPACE: "shard1 -> shard2"}
    cluster.version, cluster.migrations = "6.0.0", []
    moves = [("shard1", "shard2"), ("shard3", "shard4"), ("shard1", "shard2")]  # a move shows on both its shards
    cluster.operations = [
        {"command": {"_shardsvrMoveRange": NAMESPACE, "fromShard": donor, "toShard": recipient}}
        for donor, recipient in moves
    ]
    assert active_migrations(client) == {NAMESPACE: "shard1 -> shard2, shard3 -> shard4"}
