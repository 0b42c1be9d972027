"""A backup says of which moment it is."""

from __future__ import annotations

from typing import Any

from bson import Timestamp

from credscale.mongo.backup.point import UNKNOWN, Surroundings, describe, surroundings
from tests.mongo.conftest import NAMESPACE, FakeCluster

SINCE, UNTIL = Timestamp(1_795_000_000, 1), Timestamp(1_795_000_060, 2)
QUIET = Surroundings("t", ("shard1", "shard2"), "off", "5|3", "")


def test_of_one_moment() -> None:
    text = describe(SINCE, SINCE, SINCE, QUIET, QUIET)
    assert text == "every document is as of cluster time 2026-11-18T11:06:40Z (1795000000,1)"


def test_between_two_moments() -> None:
    text = describe(None, SINCE, UNTIL, QUIET, QUIET)
    assert "read between cluster times 2026-11-18T11:06:40Z (1795000000,1) and 2026-11-18T11:07:40Z" in text
    assert "explained by the oplogs" in text
    assert "chunks moved" not in text


def test_a_moved_chunk_is_said() -> None:
    moved = Surroundings("t", ("shard1", "shard2"), "full", "6|1", "")
    assert "chunks moved meanwhile" in describe(None, SINCE, UNTIL, QUIET, moved)
    moving = Surroundings("t", ("shard1", "shard2"), "full", "5|3", "shard1 -> shard2")
    assert "chunks moved meanwhile" in describe(None, SINCE, UNTIL, moving, QUIET)


def test_without_cluster_time() -> None:
    assert "names no cluster time" in describe(None, None, None, UNKNOWN, UNKNOWN)


def test_what_the_cluster_did(cluster: FakeCluster) -> None:
    client: Any = cluster
    assert surroundings(client, NAMESPACE, is_mongos=False).shards == ()
    found = surroundings(client, NAMESPACE, is_mongos=True)
    assert (found.shards, found.balancer, found.chunk_version) == (("shard1", "shard2"), "full", "")
    cluster.shard()
    cluster.chunks[0]["lastmod"] = Timestamp(7, 2)
    cluster.in_round = True
    cluster.migrations = [{"ns": NAMESPACE, "fromShard": "shard1", "toShard": "shard2"}]
    found = surroundings(client, NAMESPACE, is_mongos=True)
    assert found.to_json() | {"time": ""} == {
        "time": "",
        "shards": ["shard1", "shard2"],
        "balancer": "full, in a round",
        "chunk_version": "7|2",
        "moving": "shard1 -> shard2",
    }
