"""All chunks are counted once; after that only when changes do not tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId, Timestamp

from credscale.mongo.chunks import chunk_watch
from credscale.mongo.chunks.chunk_watch import ChunkWatch, Paced, parse_tracked, tracked
from tests.mongo.conftest import NAMESPACE, UUID
from tests.mongo.watched_cluster import WatchedCluster

NAMES = ["shard1", "shard2"]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_watch, "COUNT_PAUSE", 0.0)


@pytest.fixture
def cluster() -> Any:
    cluster = WatchedCluster()
    cluster.shard(chunks=10)
    return cluster


def look(watch: ChunkWatch, cluster: Any) -> dict[str, int]:
    found = tracked(cluster, NAMESPACE)
    assert found is not None
    return watch.look(found, NAMES)


def test_moves_are_followed_without_counting_again(cluster: Any) -> None:
    watch = ChunkWatch(cluster)
    assert look(watch, cluster) == {"shard1": 10, "shard2": 0}
    for number in range(1, 6):
        cluster.move()
        assert look(watch, cluster) == {"shard1": 10 - number, "shard2": number}
    assert watch.recounts == 1


def test_a_split_and_a_dropped_and_sharded_collection_are_counted_anew(cluster: Any) -> None:
    watch = ChunkWatch(cluster)
    look(watch, cluster)
    cluster.chunks.append({"_id": ObjectId(), "uuid": UUID, "shard": "shard1", "lastmod": Timestamp(1, 99)})
    assert look(watch, cluster) == {"shard1": 11, "shard2": 0}
    assert watch.recounts == 2
    cluster.shard(chunks=4)
    cluster.collections[NAMESPACE]["timestamp"] = 2
    assert look(watch, cluster) == {"shard1": 4, "shard2": 0}
    assert watch.recounts == 3


def test_full_counts_are_not_made_at_every_look(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that is being split all the time shows what was known last, until a count is due or asked for."""
    monkeypatch.setattr(chunk_watch, "COUNT_PAUSE", 1e9)
    watch = ChunkWatch(cluster)
    look(watch, cluster)
    cluster.chunks.append({"_id": ObjectId(), "uuid": UUID, "shard": "shard1", "lastmod": Timestamp(1, 99)})
    assert look(watch, cluster) == {"shard1": 10, "shard2": 0}
    found = tracked(cluster, NAMESPACE)
    assert found is not None
    assert watch.recount(found, NAMES) == {"shard1": 11, "shard2": 0}


def test_a_count_that_mongos_kept_waiting_does_not_put_the_next_one_off_for_long(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 100.0, 131.0, 131.0, 131.0])  # mongos was away during the first count
    monkeypatch.setattr(chunk_watch, "COUNT_PAUSE", 10.0)
    monkeypatch.setattr(chunk_watch, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    watch = ChunkWatch(cluster)
    look(watch, cluster)
    cluster.split()
    assert look(watch, cluster) == {"shard1": 11, "shard2": 0}


def test_other_collections_chunks_do_not_matter(cluster: Any) -> None:
    watch = ChunkWatch(cluster)
    look(watch, cluster)
    cluster.chunks.append({"_id": ObjectId(), "uuid": "other", "shard": "shard1", "lastmod": Timestamp(1, 1)})
    assert look(watch, cluster) == {"shard1": 10, "shard2": 0}
    cluster.move()
    assert look(watch, cluster) == {"shard1": 9, "shard2": 1}
    assert watch.recounts == 1


def test_very_many_changes_are_not_read_one_by_one(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_watch, "MOST_CHANGES", 3)
    watch = ChunkWatch(cluster)
    look(watch, cluster)
    cluster.move(5)
    assert look(watch, cluster) == {"shard1": 5, "shard2": 5}
    assert watch.recounts == 2


def test_a_collection_that_changes_during_every_count_is_still_counted(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, count = ChunkWatch(cluster), chunk_watch.chunks_by_shard

    def count_and_move(*arguments: Any) -> dict[str, int]:
        found = count(*arguments)
        cluster.move()
        return found

    monkeypatch.setattr(chunk_watch, "chunks_by_shard", count_and_move)
    look(watch, cluster)
    monkeypatch.setattr(chunk_watch, "chunks_by_shard", count)
    assert look(watch, cluster) == {"shard1": 5, "shard2": 5}  # five attempts, a move during each


def test_what_is_tracked() -> None:
    assert parse_tracked(None) is None
    document = {"_id": "a.b", "key": {"a": 1}, "uuid": UUID, "lastmodEpoch": ObjectId()}
    first, other = parse_tracked(document), parse_tracked({**document, "lastmodEpoch": ObjectId()})
    assert first is not None
    assert other is not None
    assert first.identity != other.identity
    own = parse_tracked({**document, "maxChunkSizeBytes": 1 << 20})
    assert own is not None
    assert (first.sharded.range_bytes, own.sharded.range_bytes) == (0, 1 << 20)


def test_a_costly_value_is_read_again_only_when_due() -> None:
    reads: list[int] = []

    def read() -> int:
        reads.append(1)
        return len(reads)

    value: Paced[int] = Paced(least=1000.0)
    assert [value.get(read), value.get(read), value.get(read, fresh=True), value.get(read)] == [1, 1, 2, 2]
