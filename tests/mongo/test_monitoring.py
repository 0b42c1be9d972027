"""Monitoring waits for balance that is proven, tells how far it is, and says why nothing moves."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo import monitoring, plots
from credscale.mongo.distribution import Distribution
from credscale.mongo.monitoring import Watch, monitor_distribution, thin
from tests.mongo.conftest import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

PATIENT: dict[str, Any] = {"namespace": NAMESPACE, "stall_minutes": 1.0, "poll_seconds": 0.001}
HASTY: dict[str, Any] = {**PATIENT, "stall_minutes": 0.001}


@pytest.fixture
def sharded(cluster: FakeCluster) -> FakeCluster:
    """Return a cluster with eight chunks on one shard."""
    cluster.shard(chunks=8)
    return cluster


def chunks(first: int, second: int) -> Distribution:
    return Distribution({"a": first, "b": second}, {"a": first * 10, "b": second * 10}, 100, by_bytes=False)


def test_waits_until_the_chunks_lie_evenly(sharded: FakeCluster, ctx: Context) -> None:
    sharded.on_read = lambda: sharded.move() if len(sharded.chunks) and _left(sharded) > 4 else None
    result = monitor_distribution(ctx, **PATIENT)
    assert result.summary.startswith("the data lie evenly: shard1 4, shard2 4 chunks; 3 chunks moved")
    series = result.output["series"]
    assert series[0]["chunks"]["shard1"] == 7
    assert series[-1]["chunks"] == {"shard1": 4, "shard2": 4}
    assert result.output["rows"][0] == {"shard": "shard1", "chunks": 4, "bytes": 4000, "jumbo": 0}
    assert result.status is Status.OK


def _left(cluster: FakeCluster) -> int:
    return sum(chunk["shard"] == "shard1" for chunk in cluster.chunks)


def test_compliance_alone_is_no_proof(sharded: FakeCluster, ctx: Context) -> None:
    """The server says so also while nothing is balanced at all."""
    sharded.compliant = True
    with pytest.raises(StepFailed, match="4 are left"):
        monitor_distribution(ctx, **HASTY)


def test_our_count_alone_is_no_proof_either(sharded: FakeCluster, ctx: Context) -> None:
    sharded.move(4)
    sharded.compliant = False
    with pytest.raises(StepFailed, match="balancerCollectionStatus is not content"):
        monitor_distribution(ctx, **HASTY)


def malformed(cluster: FakeCluster) -> None:
    cluster.settings["balancer"] = {"activeWindow": {"start": "2am"}}


def off(cluster: FakeCluster) -> None:
    cluster.mode = "off"


def disabled(cluster: FakeCluster) -> None:
    cluster.collections[NAMESPACE]["noBalance"] = True


def jumbo(cluster: FakeCluster) -> None:
    for chunk in cluster.chunks:
        chunk["jumbo"] = True


def aborted(cluster: FakeCluster) -> None:
    details = {"from": "shard1", "to": "shard2", "note": "aborted"}
    event = {"what": "moveChunk.to", "ns": NAMESPACE, "time": datetime.now(UTC)}
    cluster.changelog = [{**event, "details": {**details, "errmsg": "an identically named collection exists"}}]


def unknown(_cluster: FakeCluster) -> None:
    """Leave everything as it should be, and move nothing."""


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (malformed, "can't read its settings"),
        (off, "The balancer is off"),
        (disabled, r"sh\.enableBalancing"),
        (jumbo, "Only jumbo chunks are left"),
        (aborted, "aborted: 'an identically named collection exists'. Look at the stray"),
        (unknown, "neither succeed nor fail"),
    ],
)
def test_says_why_nothing_moves(
    sharded: FakeCluster, ctx: Context, cause: Callable[[FakeCluster], None], said: str
) -> None:
    cause(sharded)
    with pytest.raises(StepFailed, match=said) as caught:
        monitor_distribution(ctx, **HASTY)
    assert "What has moved stays moved" in caught.value.result.summary


def test_a_closed_window_is_waited_for_and_announced_once(
    sharded: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
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


def test_a_router_that_restarts_is_survived(sharded: FakeCluster, ctx: Context) -> None:
    sharded.on_read = lambda: sharded.move() if _left(sharded) > 4 else None
    sharded.failures["collStats"] = [AutoReconnect("restarting") for _ in range(3)]
    assert monitor_distribution(ctx, **PATIENT).status is Status.OK


def test_a_plan_does_not_wait(sharded: FakeCluster, make_context: Callable[..., Context]) -> None:
    assert sharded.chunks
    result = monitor_distribution(make_context(dry_run=True), **PATIENT)
    assert result.summary == "4 chunks are still to move; a run waits for them"


def test_rate_counts_only_seconds_inside_the_window() -> None:
    watch = Watch(0.0, 10)
    for now, moved, open_now in ((0, 0, True), (10, 1, True), (1010, 1, False), (1020, 2, True), (1030, 3, True)):
        watch.poll(float(now), chunks(20 - moved, moved), open_now)
    assert watch.rate == pytest.approx(0.1)
    assert watch.idle == 0.0


def test_stall_counts_only_seconds_inside_the_window() -> None:
    watch = Watch(0.0, 10)
    for now, open_now in ((0, True), (5, True), (1000, False), (1003, True)):
        watch.poll(float(now), chunks(20, 0), open_now)
    assert watch.idle == 8.0


def test_rate_is_unknown_while_too_young() -> None:
    watch = Watch(0.0, 10)
    watch.poll(0.0, chunks(20, 0), open_now=True)
    assert watch.rate == 0.0


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


@pytest.mark.parametrize(("chunks", "seconds"), [(10, 1.0), (1000, 1.0), (5000, 5.0), (1_000_000, 30.0)])
def test_many_chunks_are_counted_less_often(chunks: int, seconds: float) -> None:
    assert monitoring.pause_between(1.0, chunks) == seconds
    assert monitoring.pause_between(60.0, chunks) == 60.0
