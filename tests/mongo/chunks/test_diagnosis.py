"""Each known reason for a stall is named with what to do, and the one that hides the others comes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from credscale.mongo.chunks import stall
from credscale.mongo.chunks.diagnosis import CAUSES, StallFacts, diagnose
from credscale.mongo.chunks.distribution import Distribution
from credscale.mongo.chunks.moves import MoveEvent
from credscale.mongo.cluster.facts import ShardedCollection
from credscale.mongo.cluster.settings import BalancerSettings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = BalancerSettings("full", False, 10, None, 64, True)
SHARDED = ShardedCollection("shop.orders", {"a": 1}, "", False, False, {"ns": "shop.orders"})
UNEVEN = Distribution({"a": 10, "b": 0}, {"a": 10, "b": 0}, 64 << 20, by_bytes=False)
EVEN = Distribution({"a": 5, "b": 5}, {"a": 5, "b": 5}, 64 << 20, by_bytes=False)
NOTHING = StallFacts(SETTINGS, SHARDED, UNEVEN, {}, (), NOON)


def aborted(error: str) -> tuple[MoveEvent, ...]:
    return (MoveEvent(NOON, "moveChunk.to", "a", "b", "aborted", error),)


TREE: list[tuple[dict[str, Any], str]] = [
    ({"settings": replace(SETTINGS, problems=("bad",))}, "can't read its settings: bad"),
    ({"settings": replace(SETTINGS, mode="off")}, "is off"),
    ({"settings": replace(SETTINGS, window=("02:00", "06:00"))}, "02:00-06:00 is closed"),
    ({"sharded": replace(SHARDED, no_balance=True)}, "disabled for this collection"),
    ({"jumbo": {"a": 10}}, r"Only jumbo chunks are left on the fuller shards \(a 10\)"),
    ({"draining": ("b",)}, "b is draining and no other shard"),
    ({"full": ("b",)}, "b has reached its maxSize"),
    ({"zones": {"eu": ()}}, "No shard takes the chunks of zone eu"),
    ({"zones": {"eu": ("a",)}}, "Each zone has one shard"),
    ({"found": EVEN, "draining": ("b",)}, "b is draining and still holds chunks"),
    ({"found": EVEN}, "balancerCollectionStatus is not content"),
    ({"moves": aborted("E11000 x")}, r"to b are aborted: 'E11000 x' \(two shards hold the same _id.*resolve"),
    ({"moves": aborted("")}, "without a reason.*config primary's log"),
    ({"range_deletions": {"a": 4, "b": 2}}, r"wait for their deletion \(b 2\)"),
    ({"transitions": ("a",)}, "feature compatibility version is being changed on a"),
    ({"elected": 30.0}, "elected a primary 30 s ago"),
    ({"building": ("createIndexes",)}, "Under way on the collection: createIndexes"),
    ({"conflicts": {"a": 3}}, r"given up for index operations \(a 3\)"),
    ({"long_running": ("a transaction on a for 20 min",)}, "Open for minutes: a transaction on a"),
    ({"chunk_bytes": {"a": 64 << 20, "b": 1 << 20}}, r"another chunk size than the 64 MB set \(b 1 MB\)"),
    ({"unasked": ("a (AutoReconnect)",)}, r"none of the known causes.*Not asked: a \(AutoReconnect\)"),
]


@pytest.mark.parametrize(("facts", "said"), TREE)
def test_every_reason_is_named(facts: dict[str, Any], said: str) -> None:
    import re

    found = diagnose(replace(NOTHING, **facts))
    assert re.search(said, found.text), found.text
    assert found.action


def test_reasons_that_hide_others_come_first() -> None:
    """All at once: taking away what is named each time brings out the next one, in the order of the tree."""
    order = ["settings", "sharded", "jumbo", "full", "moves", "range_deletions", "transitions", "elected", "building"]
    given = [facts for name in order for facts, _ in TREE if list(facts) == [name]]
    firsts = {next(iter(facts)): facts for facts in reversed(given)}
    left = {name: firsts[name][name] for name in order}
    for name in order:
        alone = diagnose(replace(NOTHING, **firsts[name])).reason
        assert diagnose(replace(NOTHING, **left)).reason == alone
        del left[name]
    assert len(CAUSES) == 12


def test_a_success_after_failures_is_no_loop() -> None:
    moves = (MoveEvent(NOON, "moveChunk.commit", "a", "b", "success", ""), *aborted("E11000"))
    assert "none of the known causes" in diagnose(replace(NOTHING, moves=moves)).reason


def test_only_a_receiver_s_range_deletions_are_in_the_way() -> None:
    """Every donor has some for 15 minutes after each migration."""
    assert "none of the known causes" in diagnose(replace(NOTHING, range_deletions={"a": 9})).reason


def test_facts_from_replies() -> None:
    assert stall.full_shards([{"_id": "a", "maxSize": 1}, {"_id": "b"}], {"a": 1 << 20, "b": 1 << 30}) == ("a",)
    assert stall.in_transition({"featureCompatibilityVersion": {"version": "4.4", "targetVersion": "5.0"}})
    assert not stall.in_transition({"featureCompatibilityVersion": {"version": "4.4"}})
    status = {"shardingStatistics": {"countDonorMoveChunkAbortConflictingIndexOperation": 2}}
    assert stall.conflicts(status) == 2
    operations = [
        {"shard": "a", "transaction": {"timeOpenMicros": 1_200_000_000}},
        {"shard": "b", "ns": "shop.orders", "op": "getmore", "secs_running": 700},
        {"shard": "b", "ns": "shop.other", "op": "getmore", "secs_running": 7000},
    ]
    assert stall.long_running(operations, "shop.orders") == (
        "a transaction on a for 20 min",
        "getmore on b for 12 min",
    )
