"""What is left to move agrees with what the server's balancer would do."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from credscale.mongo.distribution import Distribution, movable, remaining_moves

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
