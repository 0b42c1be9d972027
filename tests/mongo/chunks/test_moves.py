"""Migrations' outcomes are told with their reasons, and no line of the table displaces another."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from hypothesis import given
from hypothesis import strategies as st

from credscale.mongo.chunks.moves import (
    COMMIT,
    DONOR,
    ERROR,
    RECIPIENT,
    UNTOLD,
    MoveTail,
    explain,
    failed_rounds,
    outcomes,
)
from tests.mongo.conftest import NAMESPACE
from tests.mongo.watched_cluster import Newest, WatchedCluster

RECORDED = Path(__file__).parents[2] / "cases" / "mongo" / "recorded"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STRAY = "Cannot create collection x because we already have an identically named collection with UUID y"


def recorded(name: str) -> Any:
    return json_util.loads(json.dumps(json.loads((RECORDED / name).read_text(encoding="utf-8"))["reply"]))


def group(what: str, number: int, minute: int = 0, /, **details: str) -> dict[str, Any]:
    ends = {"ns": NAMESPACE, "from": "a", "to": "b"}
    return {"_id": {"what": what, **ends, **details}, "n": number, "last": NOON + timedelta(minutes=minute)}


def test_outcomes_with_equal_counts_are_all_there() -> None:
    """mongosh keys its results by the count, so the second line with a count replaces the first (§3.2)."""
    rows = outcomes(
        [
            group(DONOR, 3, note="success"),
            group(COMMIT, 3),
            group(DONOR, 6, note="aborted"),
            group(RECIPIENT, 3, note="success"),
            group(RECIPIENT, 3, note="aborted", errmsg=STRAY),
        ]
    )
    assert [(row["outcome"], row["count"], row["reason"]) for row in rows] == [
        ("aborted", 3, "the recipient holds a stray collection of the same name"),
        ("aborted", 3, "config.changelog has no reason"),
        ("success", 3, ""),
    ]
    assert rows[1]["what to do"] == "read the log of the config servers' primary"


def test_a_reason_told_by_both_sides_is_counted_once() -> None:
    """Newer servers write the reason on the donor's side too."""
    rows = outcomes([group(DONOR, 2, note="aborted", errmsg=STRAY), group(RECIPIENT, 2, note="aborted", errmsg=STRAY)])
    assert [(row["outcome"], row["count"]) for row in rows] == [("aborted", 2)]


events = st.tuples(
    st.sampled_from([DONOR, RECIPIENT, ERROR]), st.sampled_from("ab"), st.sampled_from("cd"),
    st.sampled_from(["", STRAY, "E11000 duplicate key", "waiting for range deletion"]), st.integers(1, 4),
)  # fmt: skip


@given(failures=st.lists(events, max_size=8), successes=st.dictionaries(st.sampled_from("ab"), st.integers(1, 4)))
def test_no_failure_and_no_success_gets_lost(
    failures: list[tuple[str, str, str, str, int]], successes: dict[str, int]
) -> None:
    groups = [group(DONOR, count, note="success", **{"from": donor}) for donor, count in successes.items()]
    sides: dict[tuple[str, str], dict[str, int]] = {}
    for what, donor, recipient, error, count in failures:
        groups.append(group(what, count, note="aborted", errmsg=error, **{"from": donor, "to": recipient}))
        side = sides.setdefault((donor, recipient), {})
        side[what] = side.get(what, 0) + count
    rows = outcomes(groups)
    for (donor, recipient), side in sides.items():
        found = [row for row in rows if (row["outcome"], row["from"], row["to"]) == ("aborted", donor, recipient)]
        assert sum(row["count"] for row in found) == max(side.values())
    good = {row["from"]: row["count"] for row in rows if row["outcome"] == "success"}
    assert good == successes


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Cannot move chunk: the maximum number of documents for a chunk is 5, ... Found 9 documents", "too many doc"),
        ("Aborting migration because of high memory usage", "more is written"),
        (STRAY, "stray collection"),
        ("shard is missing 2 indexes and collection is not empty", "lacks indexes"),
        ("Cannot migrate chunk because the local document { } has the same _id as reloaded", "same _id"),
        ("E11000 duplicate key error", "same _id"),
        ("Timed out waiting for the cloner to catch up", "too slow"),
        ("Can't donate chunk while FCV is upgrading/downgrading", "feature compatibility"),
        ("something nobody has listed", "something nobody has listed"),
    ],
)
def test_reasons_are_explained(text: str, meaning: str) -> None:
    assert meaning in explain(text).meaning
    assert explain(text).action


def test_recorded_refusal_while_the_donor_receives() -> None:
    error = "Unable to start new migration because this shard is currently receiving chunk [{ createdAt: MinKey } ..."
    assert explain(error).action == "none: the balancer tries again"
    assert explain("") is UNTOLD


def test_failed_rounds_are_found_however_the_field_is_spelt() -> None:
    rounds = [
        {"what": "balancer.round", "details": {"errorOccured": True, "errmsg": "first"}},
        {"what": "balancer.round", "details": {"errorOccurred": True, "errmsg": "second"}},
        {"what": "balancer.round", "details": {"errorOccured": False}},
        {"what": "balancer.stop", "details": {}},
    ]
    assert failed_rounds(rounds) == ["first", "second"]
    assert failed_rounds(recorded("06-balancing/config.actionlog-newest-10.json")) == []


@pytest.mark.parametrize("order", [1, -1], ids=["as asked for", "oldest first, as SecantusDB"])
def test_the_tail_reads_only_what_was_added(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster: Any = WatchedCluster()
    sort = Newest.sort
    monkeypatch.setattr(Newest, "sort", lambda self, name, way: sort(self, name, way * order))
    cluster.shard(chunks=30)
    tail = MoveTail(cluster, NAMESPACE)
    cluster.move(3)
    tail.read()
    assert len(tail.commits) == 3
    cluster.move(2)
    cluster.tell("moveChunk.start")
    tail.read()
    tail.read()
    assert len(tail.commits) == 5
    assert list(tail.commits) == sorted(tail.commits)
    assert tail.events[0].time == tail.commits[-1]
