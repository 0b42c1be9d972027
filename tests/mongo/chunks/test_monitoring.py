"""Monitoring waits for balance that is proven, tells how far it is, and says why nothing moves."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.chunks import chunk_watch, monitoring, plots
from credscale.mongo.chunks.distribution import Distribution
from credscale.mongo.chunks.monitoring import Watch, monitor_distribution, thin
from credscale.mongo.cluster.members import window_offset
from credscale.mongo.proof.shard_answers import index_monitor
from tests.mongo.conftest import NAMESPACE
from tests.mongo.watched_cluster import FakeMember, WatchedCluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context

PATIENT: dict[str, Any] = {"namespace": NAMESPACE, "stall_minutes": 1.0, "poll_seconds": 0.001}
HASTY: dict[str, Any] = {**PATIENT, "stall_minutes": 0.001}


@pytest.fixture
def cluster() -> WatchedCluster:
    """Return a cluster whose chunks have versions."""
    return WatchedCluster()


@pytest.fixture(autouse=True)
def _members(cluster: WatchedCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cluster's members be asked."""
    monkeypatch.setattr(type(ctx.clients), "mongo_member", lambda _self, address, **_options: cluster.members[address])


@pytest.fixture
def sharded(cluster: WatchedCluster) -> WatchedCluster:
    """Return a cluster with eight chunks on one shard."""
    cluster.shard(chunks=8)
    return cluster


def chunks(first: int, second: int) -> Distribution:
    return Distribution({"a": first, "b": second}, {"a": first * 10, "b": second * 10}, 100, by_bytes=False)


def test_waits_until_the_chunks_lie_evenly(sharded: WatchedCluster, ctx: Context) -> None:
    sharded.on_read = lambda: sharded.move() if len(sharded.chunks) and _left(sharded) > 4 else None
    result = monitor_distribution(ctx, **PATIENT)
    assert result.summary.startswith("the data lie evenly: shard1 4, shard2 4 chunks; 3 chunks moved")
    series = result.output["series"]
    assert series[0]["chunks"]["shard1"] == 7
    assert series[-1]["chunks"] == {"shard1": 4, "shard2": 4}
    assert result.output["rows"][0] == {"shard": "shard1", "chunks": 4, "bytes": 4000, "jumbo": 0}
    assert result.status is Status.OK


def _left(cluster: WatchedCluster) -> int:
    return sum(chunk["shard"] == "shard1" for chunk in cluster.chunks)


def test_compliance_alone_is_no_proof(sharded: WatchedCluster, ctx: Context) -> None:
    """The server says so also while nothing is balanced at all."""
    sharded.compliant = True
    with pytest.raises(StepFailed, match="4 are left"):
        monitor_distribution(ctx, **HASTY)


def test_our_count_alone_is_no_proof_either(sharded: WatchedCluster, ctx: Context) -> None:
    sharded.move(4)
    sharded.compliant = False
    with pytest.raises(StepFailed, match="balancerCollectionStatus is not content"):
        monitor_distribution(ctx, **HASTY)


def malformed(cluster: WatchedCluster) -> None:
    cluster.settings["balancer"] = {"activeWindow": {"start": "2am"}}


def off(cluster: WatchedCluster) -> None:
    cluster.mode = "off"


def disabled(cluster: WatchedCluster) -> None:
    cluster.collections[NAMESPACE]["noBalance"] = True


def jumbo(cluster: WatchedCluster) -> None:
    for chunk in cluster.chunks:
        chunk["jumbo"] = True


def aborted(cluster: WatchedCluster) -> None:
    cluster.tell("moveChunk.to", note="aborted", errmsg="an identically named collection exists")


def deleting(cluster: WatchedCluster) -> None:
    cluster.members["shard2:27018"].deletions = 3


def electing(cluster: WatchedCluster) -> None:
    status = cluster.members["config1:27019"].replies["replSetGetStatus"]
    status["members"][0]["electionDate"] = status["date"] - timedelta(seconds=60)


def upgrading(cluster: WatchedCluster) -> None:
    parameter = {"featureCompatibilityVersion": {"version": "5.0", "targetVersion": "6.0"}}
    cluster.members["shard1:27018"].replies["getParameter"] = parameter


def stale(cluster: WatchedCluster) -> None:
    cluster.members["shard2:27018"].replies["serverStatus"] = {"sharding": {"maxChunkSizeInBytes": 1 << 20}}


def unknown(_cluster: WatchedCluster) -> None:
    """Leave everything as it should be, and move nothing."""


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (malformed, "can't read its settings"),
        (off, "The balancer is off"),
        (disabled, r"sh\.enableBalancing"),
        (jumbo, "Only jumbo chunks are left"),
        (aborted, "aborted: 'an identically named collection exists'.*To do: look at it on the recipient"),
        (unknown, "neither succeed nor fail"),
        (deleting, "Ranges given away wait for their deletion .shard2 3."),
        (electing, "elected a primary 60 s ago"),
        (upgrading, "feature compatibility version is being changed on shard1"),
        (stale, "Shards work with another chunk size than the 64 MB set .shard2 1 MB."),
    ],
)
def test_says_why_nothing_moves(
    sharded: WatchedCluster, ctx: Context, cause: Callable[[WatchedCluster], None], said: str
) -> None:
    cause(sharded)
    with pytest.raises(StepFailed, match=said) as caught:
        monitor_distribution(ctx, **HASTY)
    assert "What has moved stays moved" in caught.value.result.summary


def test_a_config_server_that_is_down_hides_nothing_that_the_primary_knows(
    sharded: WatchedCluster, ctx: Context
) -> None:
    down = FakeMember("config0:27019", "configReplSet")
    down.down = True
    sharded.members["config0:27019"] = down
    sharded.do_getShardMap = lambda _request: {  # type: ignore[method-assign]
        "map": {"config": "configReplSet/config0:27019,config1:27019"}
    }
    primary = sharded.members["config1:27019"]
    primary.replies["serverStatus"] = {"shardedIndexConsistency": {"numShardedCollectionsWithInconsistentIndexes": 2}}
    assert window_offset(ctx) == timedelta()
    found = index_monitor(ctx)
    assert (found.not_checked, len(found.findings)) == ("", 1)
    electing(sharded)
    with pytest.raises(StepFailed, match="elected a primary 60 s ago"):
        monitor_distribution(ctx, **HASTY)
    primary.down = True
    assert window_offset(ctx) is None
    assert index_monitor(ctx).not_checked.endswith("no primary answered")


def test_a_closed_window_is_waited_for_and_announced_once(
    sharded: WatchedCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    window = {"start": f"{now + timedelta(hours=2):%H:%M}", "stop": f"{now + timedelta(hours=3):%H:%M}"}
    sharded.settings["balancer"] = {"activeWindow": window}
    monkeypatch.setattr(monitoring, "OUTSIDE_SECONDS", 0.001)
    looks = iter(range(1000))

    def open_at_last() -> None:
        if next(looks) > 20:
            sharded.settings["balancer"].clear()
            if _left(sharded) > 4:
                sharded.move()

    sharded.on_read = open_at_last
    holds: list[str] = []
    monkeypatch.setattr(ctx, "hold", holds.append)
    monitor_distribution(ctx, **HASTY | {"stall_minutes": 0.05})
    assert len(holds) == 1
    assert "is closed; chunks move when it opens" in holds[0]


def test_a_router_that_restarts_is_survived(sharded: WatchedCluster, ctx: Context) -> None:
    sharded.on_read = lambda: sharded.move() if _left(sharded) > 4 else None
    sharded.failures["collStats"] = [AutoReconnect("restarting") for _ in range(3)]
    assert monitor_distribution(ctx, **PATIENT).status is Status.OK


def test_a_count_that_is_not_due_yet_is_no_stall(
    sharded: WatchedCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full count in which mongos was away takes long, so the next one is put off, and what is shown stands still."""
    monkeypatch.setattr(chunk_watch, "LONGEST_PAUSE", 1e9)
    monkeypatch.setattr(chunk_watch, "COUNT_PAUSE", 1e9)

    def split_and_move() -> None:
        if "aggregate config.chunks" in sharded.reads and len(sharded.chunks) == 8:
            sharded.split()
        elif _left(sharded) > 4:
            sharded.move()

    sharded.on_read = split_and_move
    assert "shard1 4, shard2 5 chunks" in monitor_distribution(ctx, **HASTY).summary


def test_a_plan_does_not_wait(sharded: WatchedCluster, make_context: Callable[..., Context]) -> None:
    assert sharded.chunks
    result = monitor_distribution(make_context(dry_run=True), **PATIENT)
    assert result.summary == "4 chunks are still to move; a run waits for them"


def test_stall_counts_only_seconds_inside_the_window() -> None:
    watch = Watch(0.0, 10)
    for now, open_now in ((0, True), (5, True), (1000, False), (1003, True)):
        watch.poll(float(now), chunks(20, 0), open_now)
    assert watch.idle == 8.0


def test_seconds_in_which_nothing_could_be_seen_do_not_count_for_the_stall() -> None:
    watch = Watch(0.0, 10)
    watch.poll(0.0, chunks(20, 0), True)
    watch.poll(41.0, chunks(20, 0), True, looked=40.0)  # mongos was away and came back
    assert watch.idle == 1.0
    watch.blind_until = 141.0  # it was away for longer than one look is tried
    watch.poll(143.0, chunks(20, 0), True, looked=1.0)
    assert watch.idle == 2.0


def test_series_is_thinned_evenly() -> None:
    series = [{"t": number} for number in range(1001)]
    short = thin(series, 11)
    assert [point["t"] for point in short] == list(range(0, 1001, 100))
    assert thin(series[:5]) == series[:5]


def test_figure_is_a_small_png() -> None:
    series = [monitoring.point(float(n), chunks(10 - n, n)) for n in range(5)]
    shown = plots.distribution({"series": series})
    image = base64.b64decode(shown["image/png"])
    assert image.startswith(b"\x89PNG")
    assert len(image) < 60_000
    assert plots.distribution({}) == {}


def test_polls_read_what_has_changed_and_count_all_chunks_only_twice(sharded: WatchedCluster, ctx: Context) -> None:
    """Once at the beginning, and once to prove the balance that was derived from changes."""
    sharded.on_read = lambda: sharded.move() if _left(sharded) > 4 else None
    monitor_distribution(ctx, **PATIENT)
    assert sharded.reads.count("aggregate config.chunks") == 3  # both counts, and the jumbo chunks at the end


def test_progress_tells_a_range_of_time_once_enough_has_moved(
    cluster: WatchedCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.shard(chunks=40)
    cluster.on_read = lambda: cluster.move() if _left(cluster) > 20 else None
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(ctx, "progress", lambda *_args, **extra: told.append(extra))
    monitor_distribution(ctx, **PATIENT)
    assert told[0]["eta"] is None
    assert told[0]["left"] == "rate too young"
    assert told[-3]["eta"] == told[-3]["eta_high"] == pytest.approx(10.0)  # a commit every ten seconds, one to go
    assert told[-3]["left"] == "about 10 s"
    assert told[-1]["eta"] == 0.0
