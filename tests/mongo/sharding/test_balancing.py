"""The balancer is stopped before, set while off, started after, and put back as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, WTimeoutError

from credscale.core.errors import StepFailed
from credscale.core.lease import MemoryLease
from credscale.core.step import Status
from credscale.mongo.sharding import balancer_memory
from credscale.mongo.sharding.balancing import (
    restore_balancer,
    set_balancer_window,
    set_chunk_size,
    start_balancer,
    stop_balancer,
)
from tests.mongo.conftest import KEY, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster, FakeCollection

WANTED: dict[str, Any] = {"namespace": NAMESPACE, "shard_key": KEY, "chunk_size_mb": 64, "window": ""}


def test_stop_remembers_the_mode_and_waits_for_the_round(cluster: FakeCluster, ctx: Context) -> None:
    cluster.in_round = True
    looks = iter(range(100))

    def end_the_round() -> None:
        cluster.in_round = next(looks) < 3

    cluster.on_read = end_the_round
    result = stop_balancer(ctx, **WANTED)
    assert result.status is Status.CHANGED
    assert ctx.lease.recall("balancer") == {"mode": "full", "autosplit": True}
    assert (cluster.mode, cluster.in_round) == ("off", False)


def test_stop_that_times_out_is_polled(cluster: FakeCluster, ctx: Context) -> None:
    """Code 50 means that the setting is kept and the round goes on; it is not issued again."""

    def fail_after_persisting() -> None:
        cluster.mode = "off" if not cluster.failures["balancerStop"] else cluster.mode

    cluster.failures["balancerStop"] = [OperationFailure("timed out", 50)]
    cluster.on_read = fail_after_persisting
    stop_balancer(ctx, **WANTED)
    assert cluster.log == []
    assert cluster.mode == "off"


def test_stop_leaves_a_finished_migration_alone(cluster: FakeCluster, ctx: Context) -> None:
    cluster.shard()
    cluster.move(2)
    cluster.indexes.append({"key": {"createdAt": "hashed", "userId": 1}, "name": "k"})
    cluster.settings["chunksize"] = {"value": 64}
    result = stop_balancer(ctx, **WANTED)
    assert result.status is Status.OK
    assert result.summary == "the balancer was left as it is: there is nothing to change that it would disturb"


def test_stop_refuses_another_key(cluster: FakeCluster, ctx: Context) -> None:
    cluster.shard({"_id": "hashed"})
    with pytest.raises(StepFailed, match="sharded by _id:hashed"):
        stop_balancer(ctx, **WANTED)
    assert cluster.log == []


def test_a_dry_run_lists_every_change_and_makes_none(
    cluster: FakeCluster, make_context: Callable[..., Context]
) -> None:
    ctx = make_context(dry_run=True)
    steps = [
        stop_balancer(ctx, **WANTED | {"window": "02:00-06:00"}),
        set_chunk_size(ctx, chunk_size_mb=64),
        set_balancer_window(ctx, window="02:00-06:00"),
        start_balancer(ctx, namespace=NAMESPACE),
    ]
    assert [step.status for step in steps] == [Status.PLANNED] * 4
    assert cluster.log == []
    assert ctx.lease.recall("balancer_left") is None
    assert restore_balancer(ctx).status is Status.OK, "it would be full before and after"


@pytest.mark.parametrize("version", ["5.0.28", "7.0.14"])
@pytest.mark.parametrize(
    ("mode", "balanced", "expected"),
    [
        ("off", False, "put the balancer back to off (will be full)"),
        ("autoSplitOnly", False, "put the balancer back to autoSplitOnly (will be full)"),
        ("full", False, None),
        ("full", True, "put the balancer back to full (will be off)"),  # only the chunk size is missing
        ("off", True, None),
    ],
)
def test_a_plan_lists_the_putting_back(
    cluster: FakeCluster, make_context: Callable[..., Context], version: str, mode: str, balanced: bool,
    expected: str | None,
) -> None:  # fmt: skip
    cluster.mode, cluster.version = mode, version
    cluster.settings["autosplit"] = {"enabled": mode != "off"}
    if balanced:
        cluster.shard()
        cluster.move(2)
        cluster.indexes.append({"key": {"createdAt": "hashed", "userId": 1}, "name": "k"})
    ctx = make_context(dry_run=True)
    stop = stop_balancer(ctx, **WANTED)
    set_chunk_size(ctx, chunk_size_mb=64)
    start_balancer(ctx, namespace=NAMESPACE)
    back = restore_balancer(ctx).changes
    switches = [change for change in back if "autosplit" not in change]
    assert switches == ([expected] if expected else [])
    assert ("put the balancer back as it was, once the data lie evenly" in stop.output["plan"]) is bool(expected)
    assert cluster.log == []


def test_a_plan_puts_back_autosplit_where_the_switch_writes_it(
    cluster: FakeCluster, make_context: Callable[..., Context]
) -> None:
    """Up to 6.0.2 balancerStart turns autosplit on."""
    cluster.settings["autosplit"] = {"enabled": False}
    for version, expected in (("5.0.28", ["put autosplit back to False (is True)"]), ("7.0.14", [])):
        cluster.version = version
        ctx = make_context(dry_run=True)
        stop_balancer(ctx, **WANTED)
        start_balancer(ctx, namespace=NAMESPACE)
        assert restore_balancer(ctx).changes == expected


def test_a_plan_after_a_killed_run_puts_back_what_that_one_found(
    cluster: FakeCluster, make_context: Callable[..., Context]
) -> None:
    lease = MemoryLease()
    cluster.mode = "autoSplitOnly"
    stop_balancer(make_context(lease=lease), **WANTED)  # killed here
    ctx = make_context(dry_run=True, lease=lease)
    stop = stop_balancer(ctx, **WANTED)
    assert stop.output["plan"][-1].startswith("put the balancer back")
    set_chunk_size(ctx, chunk_size_mb=64)
    start_balancer(ctx, namespace=NAMESPACE)
    assert restore_balancer(ctx).changes[0] == "put the balancer back to autoSplitOnly (will be full)"


def test_a_plan_for_a_balancer_set_by_somebody_else_since_puts_that_back(
    cluster: FakeCluster, make_context: Callable[..., Context]
) -> None:
    lease = MemoryLease()
    stop_balancer(make_context(lease=lease), **WANTED)  # killed here: full before, left off
    cluster.mode = "autoSplitOnly"
    ctx = make_context(dry_run=True, lease=lease)
    stop_balancer(ctx, **WANTED)
    start_balancer(ctx, namespace=NAMESPACE)
    assert restore_balancer(ctx).changes[0] == "put the balancer back to autoSplitOnly (will be full)"


def test_a_round_that_does_not_end_says_what_it_waits_for(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.balancer_switch.ROUND_SECONDS", 0.0)
    cluster.in_round = True
    cluster.migrations = [{"ns": NAMESPACE, "fromShard": "shard1", "toShard": "shard2"}]
    told = r"mode off, in a round that moves shop\.orders shard1 -> shard2.*a shard without a primary.*run the same"
    with pytest.raises(StepFailed, match=told):
        stop_balancer(ctx, **WANTED)


def test_a_round_is_waited_for_though_its_move_can_not_be_read(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credscale.mongo.sharding.balancer_switch.ROUND_SECONDS", 0.0)
    cluster.in_round, cluster.version = True, "7.0.14"
    cluster.failures["currentOp"] = [OperationFailure("not authorized", 13)] * 9
    with pytest.raises(StepFailed, match=r"in a round; what it moves can't be read \(Unauthorized\)"):
        stop_balancer(ctx, **WANTED)


def test_an_election_while_the_mode_is_remembered_is_waited_for(
    cluster: FakeCluster, make_context: Callable[..., Context]
) -> None:
    class Electing(MemoryLease):
        failures = 3

        def remember(self, key: str, value: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise OperationFailure("Could not find host matching read preference", 133)
            super().remember(key, value)

    ctx = make_context(lease=Electing())
    assert stop_balancer(ctx, **WANTED).status is Status.CHANGED
    assert ctx.lease.recall("balancer") == {"mode": "full", "autosplit": True}


def test_an_unconfirmed_setting_is_written_again(
    cluster: FakeCluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 64: written, but a failover could take it back; writing it again waits for the majority again."""
    cluster.mode = "off"
    collection = type(cluster["config"]["settings"])
    update, failures = collection.update_one, [WTimeoutError("waiting for replication timed out", 64)]

    def unconfirmed(self: FakeCollection, *args: Any, **kwargs: Any) -> None:
        update(self, *args, **kwargs)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(collection, "update_one", unconfirmed)
    assert set_chunk_size(ctx, chunk_size_mb=64).status is Status.CHANGED
    assert cluster.log == ["set chunksize {'value': 64}"] * 2


def test_chunk_size(cluster: FakeCluster, ctx: Context) -> None:
    cluster.mode = "off"
    assert set_chunk_size(ctx, chunk_size_mb=64).summary == "the chunk size is 64 MB, was the server's default"
    assert cluster.settings["chunksize"] == {"value": 64}
    again = set_chunk_size(ctx, chunk_size_mb=64)
    assert (again.status, again.summary) == (Status.OK, "the chunk size is 64 MB already")


@pytest.mark.parametrize("size", [0, 1025])
def test_chunk_size_that_stops_all_balancing_is_not_written(cluster: FakeCluster, ctx: Context, size: int) -> None:
    with pytest.raises(StepFailed, match="from 1 to 1024"):
        set_chunk_size(ctx, chunk_size_mb=size)
    assert cluster.log == []


def test_settings_are_not_touched_while_the_balancer_works(cluster: FakeCluster, ctx: Context) -> None:
    with pytest.raises(StepFailed, match="must be off before the chunk size is changed"):
        set_chunk_size(ctx, chunk_size_mb=64)
    with pytest.raises(StepFailed, match="must be off before its window is changed"):
        set_balancer_window(ctx, window="02:00-06:00")
    assert cluster.log == []


def test_window_keeps_the_other_fields(cluster: FakeCluster, ctx: Context) -> None:
    cluster.mode = "off"
    cluster.settings["balancer"] = {"stopped": True, "_secondaryThrottle": True}
    set_balancer_window(ctx, window="02:00-06:00")
    assert cluster.settings["balancer"] == {
        "stopped": True,
        "_secondaryThrottle": True,
        "activeWindow": {"start": "02:00", "stop": "06:00"},
    }
    assert set_balancer_window(ctx, window="02:00-06:00").status is Status.OK
    assert set_balancer_window(ctx, window="").summary.startswith(
        "no window was asked for, so it stays as it is (02:00"
    )


def test_start(cluster: FakeCluster, ctx: Context) -> None:
    cluster.shard()
    cluster.mode = "off"
    assert start_balancer(ctx, namespace=NAMESPACE).status is Status.CHANGED
    assert ctx.lease.recall("balancer") == {"mode": "off", "autosplit": True}
    assert start_balancer(ctx, namespace=NAMESPACE).summary == "the balancer is on already and its settings are valid"


def test_start_is_not_needed_for_what_is_balanced(cluster: FakeCluster, ctx: Context) -> None:
    cluster.shard()
    cluster.move(2)
    cluster.mode = "off"
    result = start_balancer(ctx, namespace=NAMESPACE)
    assert result.summary == "the balancer was left off: the data lie evenly (shard1 2, shard2 2)"
    assert cluster.log == []


def test_start_refuses_settings_the_server_cannot_read(cluster: FakeCluster, ctx: Context) -> None:
    cluster.shard()
    cluster.settings["balancer"] = {"activeWindow": {"start": "2am"}}
    with pytest.raises(StepFailed, match="can't read its settings"):
        start_balancer(ctx, namespace=NAMESPACE)


def test_start_refuses_a_collection_that_is_not_balanced(cluster: FakeCluster, ctx: Context) -> None:
    cluster.shard()
    cluster.collections[NAMESPACE]["noBalance"] = True
    with pytest.raises(StepFailed, match=r"sh\.enableBalancing"):
        start_balancer(ctx, namespace=NAMESPACE)


@pytest.mark.parametrize("mode", ["full", "off", "autoSplitOnly"])
@pytest.mark.parametrize("autosplit", [True, False])
def test_restore_puts_back_what_was_remembered(cluster: FakeCluster, ctx: Context, mode: str, autosplit: bool) -> None:
    cluster.mode = "off" if mode != "off" else "full"
    cluster.settings["autosplit"] = {"enabled": not autosplit}
    ctx.lease.remember("balancer", {"mode": mode, "autosplit": autosplit})
    restore_balancer(ctx)
    assert (cluster.mode, cluster.settings["autosplit"]["enabled"]) == (mode, autosplit)
    assert ctx.lease.recall("balancer") is None
    assert restore_balancer(ctx).summary == "nothing to put back: no run has changed the balancer"


def test_a_killed_run_is_put_back_by_the_next(cluster: FakeCluster, make_context: Callable[..., Context]) -> None:
    lease = MemoryLease()  # stands for the one in the target
    stop_balancer(make_context(lease=lease), **WANTED)
    second = make_context(lease=lease)
    stop_balancer(second, **WANTED)
    assert second.lease.recall("balancer") == {"mode": "full", "autosplit": True}
    restore_balancer(second)
    assert cluster.mode == "full"


def test_a_lost_connection_does_not_fail_the_stop(cluster: FakeCluster, ctx: Context) -> None:
    cluster.failures["balancerStop"] = [AutoReconnect("mongos restarted")]
    assert stop_balancer(ctx, **WANTED).status is Status.CHANGED


def test_start_that_times_out_is_polled(cluster: FakeCluster, ctx: Context) -> None:
    """Code 50 means the same for balancerStart: the setting is kept."""
    cluster.shard()
    cluster.mode = "off"
    cluster.failures["balancerStart"] = [OperationFailure("timed out", 50)]

    def persist() -> None:
        cluster.mode = "full" if not cluster.failures["balancerStart"] else cluster.mode

    cluster.on_read = persist
    assert start_balancer(ctx, namespace=NAMESPACE).status is Status.CHANGED


def half_sharded(ctx: Context, cluster: FakeCluster) -> None:
    """Stand where a run died while shardCollection was at work."""
    stop_balancer(ctx, **WANTED)
    balancer_memory.keep_off(ctx, NAMESPACE, "shardCollection was sent and not read back")
    assert cluster.mode == "off"


@pytest.mark.parametrize(
    "operation",
    [
        {"command": {"shardCollection": NAMESPACE, "$db": "admin"}},
        {"command": {"_shardsvrCreateCollection": "orders", "$db": "shop"}},
    ],
)
def test_the_balancer_stays_off_while_shard_collection_is_at_work(
    cluster: FakeCluster, ctx: Context, operation: dict[str, Any]
) -> None:
    half_sharded(ctx, cluster)
    cluster.operations = [operation]
    result = restore_balancer(ctx)
    assert cluster.mode == "off"
    assert "is still at work in the cluster" in result.summary
    assert result.summary.endswith("invoke mongo.restore-balancer --env unit")
    cluster.operations = []
    assert restore_balancer(ctx).summary == "the balancer is full again, as before the run"
    assert (cluster.mode, balancer_memory.kept_off(ctx)) == ("full", [])


def test_each_collection_keeps_the_balancer_off_by_itself(cluster: FakeCluster, ctx: Context) -> None:
    half_sharded(ctx, cluster)
    balancer_memory.keep_off(ctx, "shop.carts", "shardCollection of shop.carts was sent and not read back")
    assert sorted(balancer_memory.kept_off(ctx)) == ["shop.carts", NAMESPACE]
    cluster.operations = [{"command": {"shardCollection": "shop.carts", "$db": "admin"}}]
    balancer_memory.allow(ctx, NAMESPACE)
    assert "shardCollection of shop.carts is still at work" in restore_balancer(ctx).summary
    assert (cluster.mode, balancer_memory.kept_off(ctx)) == ("off", ["shop.carts"])
    cluster.operations = []
    restore_balancer(ctx)
    assert (cluster.mode, balancer_memory.kept_off(ctx)) == ("full", [])


def test_nothing_is_changed_that_could_not_be_put_back(
    cluster: FakeCluster, make_context: Callable[..., Context]
) -> None:
    """An update whose filter finds no document is no error to the server."""

    class Gone(MemoryLease):
        def remember(self, key: str, value: Any) -> None:
            """Keep nothing, as when somebody has removed the lease document."""

    with pytest.raises(StepFailed, match="can't be kept in the target"):
        stop_balancer(make_context(lease=Gone()), **WANTED)
    assert (cluster.mode, cluster.log) == ("full", [])


def test_the_balancer_stays_off_while_it_cannot_be_told(cluster: FakeCluster, ctx: Context) -> None:
    half_sharded(ctx, cluster)
    cluster.failures["currentOp"] = [OperationFailure("not authorized", 13)]
    assert "it can't be told whether" in restore_balancer(ctx).summary
    assert cluster.mode == "off"


def test_the_balancer_stays_off_while_chunks_do_not_tile(cluster: FakeCluster, ctx: Context) -> None:
    half_sharded(ctx, cluster)
    cluster.shard()
    missing = cluster.chunks.pop(1)
    assert "do not cover the key space" in restore_balancer(ctx).summary
    assert cluster.mode == "off"
    cluster.chunks.insert(1, missing)
    restore_balancer(ctx)
    assert (cluster.mode, balancer_memory.kept_off(ctx)) == ("full", [])


def test_what_somebody_else_set_since_is_not_undone(cluster: FakeCluster, ctx: Context) -> None:
    """Weeks may lie between a stop within a migration and the next run's end."""
    stop_balancer(ctx, **WANTED)
    cluster.mode = "full"  # by hand
    cluster.mode = "autoSplitOnly"
    assert restore_balancer(ctx).summary.startswith("the balancer was left autoSplitOnly: somebody else")
    assert cluster.mode == "autoSplitOnly"
    assert ctx.lease.recall("balancer") is None


def test_a_new_migration_remembers_what_somebody_else_set_since(cluster: FakeCluster, ctx: Context) -> None:
    stop_balancer(ctx, **WANTED)
    cluster.mode = "autoSplitOnly"  # by hand
    stop_balancer(ctx, **WANTED)
    restore_balancer(ctx)
    assert cluster.mode == "autoSplitOnly"


def test_a_run_killed_between_switching_and_noting_it_is_put_back(
    cluster: FakeCluster, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = MemoryLease()
    first = make_context(lease=lease)
    cluster.mode = "autoSplitOnly"
    stop_balancer(first, **WANTED)
    cluster.shard()
    monkeypatch.setattr(balancer_memory, "left", lambda *_: None)  # killed before
    start_balancer(first, namespace=NAMESPACE)
    monkeypatch.undo()
    second = make_context(lease=lease)
    stop_balancer(second, **WANTED)
    start_balancer(second, namespace=NAMESPACE)
    restore_balancer(second)
    assert cluster.mode == "autoSplitOnly"


def test_the_operators_own_stop_or_start_is_final(cluster: FakeCluster, ctx: Context) -> None:
    stop_balancer(ctx, **WANTED)
    stop_balancer(ctx)
    assert restore_balancer(ctx).summary.startswith("nothing to put back")
    assert cluster.mode == "off"
    stop_balancer(ctx, **WANTED)
    start_balancer(ctx)
    restore_balancer(ctx)
    assert cluster.mode == "full"
