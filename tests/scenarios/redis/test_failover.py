"""Replicas of real servers take over while clients write: nothing is lost, and what cannot be done is said in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import (
    EnvironmentInvalid,
    PreconditionFailed,
    Refused,
    StepFailed,
    VerificationFailed,
    WaitTimeout,
)
from credscale.core.lease import MemoryLease
from credscale.core.step import Status
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.failover.forcing import force_failover
from credscale.redis_cluster.failover.steps import fail_over
from credscale.testing import wait_for
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.context import Context

pytestmark = pytest.mark.scenario

# Six nodes on three hosts, and behind each primary a replica on the next one.
SPREAD = [0, 1, 2, 5, 3, 4]
RATE = 100
NEVER = 99
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    """Yield a cluster whose roles the tests of this module move about, and leave healthy."""
    nodes = RedisNodes(tmp_path_factory.mktemp("redis"), password="correct-horse-battery", hosts=3)
    try:
        added = nodes.start(6)
        nodes.form([added[number] for number in SPREAD])
        yield nodes
    finally:
        nodes.end()


def roles(nodes: RedisNodes) -> dict[str, str]:
    """Return the address of each shard's primary by its slots."""
    found = nodes.look()
    return {str(node.slots): found.name(node.id) for node in found.topology if node.is_primary}


def replica_of(nodes: RedisNodes, primary: str) -> str:
    """Return the address of a primary's only replica."""
    found = nodes.look()
    return next(found.name(n.id) for n in found.topology if n.is_replica and found.name(n.primary_id) == primary)


def cause(step: Any, ctx: Context, **parameters: Any) -> tuple[Any, Any]:
    """Return the error that ends a step, and its result."""
    with pytest.raises(StepFailed) as caught:
        step(ctx, **parameters)
    return caught.value.__cause__, caught.value.result


def probe_keys(nodes: RedisNodes) -> list[str]:
    """Return the probe's keys that are left anywhere."""
    return [key for address in nodes.by_role("primary") for key in nodes.client(address).keys("credscale:probe:*")]


def test_one_primary_under_load(cluster: RedisNodes) -> None:
    old = cluster.by_role("primary")[0]
    new = replica_of(cluster, old)
    planned = cluster.context(dry_run=True)
    assert fail_over(planned, primary=old, accept_majority=True).status is Status.PLANNED
    assert f"CLUSTER FAILOVER on {new}" in json.dumps(planned.journal.events)
    assert old in cluster.by_role("primary")
    assert probe_keys(cluster) == []

    ctx = cluster.context()
    result = fail_over(ctx, primary=old, rate=RATE, accept_majority=True)
    assert result.status is Status.CHANGED
    assert new in cluster.by_role("primary")
    assert replica_of(cluster, new) == old
    output = result.output
    assert output["lost_acknowledged_writes"] == 0
    assert output["unread_writes"] == 0
    assert output["acknowledged_writes"] > 6 * 20
    assert 0 < output["role_flip_ms"] <= output["longest_gap_ms"] + output["role_flip_ms"]
    assert output["longest_gap_ms"] < 5000  # a plain failover pauses clients for milliseconds; the machine is shared
    assert [mark["event"] for mark in output["timeline"]] == ["asked", "flipped", "confirmed"]
    assert {(row["shard"], row["client"]) for row in output["rows"]} >= {(old, "direct"), (old, "cluster")}
    assert len(output["rows"]) == 6
    assert [(row["from"], row["to"]) for row in output["failovers"]] == [(old, new)]
    assert output["failovers"][0]["epoch"] > output["failovers"][0]["epoch before"]
    assert output["problems"] == []
    assert "image/png" in result._repr_mimebundle_()
    assert f"--primary {old} --back" in result.summary
    assert probe_keys(cluster) == []
    assert cluster.password not in json.dumps(ctx.journal.events)

    again = fail_over(cluster.context(), primary=old)
    assert again.status is Status.OK
    assert again.summary == f"nothing to fail over: {old} is a replica of {new}"
    there_again = fail_over(cluster.context(), primary=old, back=True, rate=RATE)
    assert [(row["from"], row["to"]) for row in there_again.output["failovers"]] == [(new, old)]
    assert old in cluster.by_role("primary")


def test_a_write_that_vanishes_is_found_and_stops_the_run(cluster: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first shard was failed over and back a moment ago: the same node is elected once more, and by votes of now.
    first = cluster.by_role("primary")
    ctx = cluster.context()
    apply = ctx.apply

    def losing(what: str, func: Any, /, *args: Any, **more: Any) -> Any:
        if "FAILOVER" in what:
            old = what.rpartition(" from ")[2]
            keys = cluster.client(old).keys("credscale:probe:*:[0-5]")
            assert cluster.client(old).unlink(keys[0])
        return apply(what, func, *args, **more)

    monkeypatch.setattr(ctx, "apply", losing)
    problem, result = cause(fail_over, ctx, rolling=True, rate=RATE)
    assert isinstance(problem, VerificationFailed)
    assert "1 of 3 failovers done" in str(problem)
    assert "No further shard was touched" in str(problem)
    assert result.output["lost_acknowledged_writes"] == 1
    assert [row["lost"] for row in result.output["rows"] if row["lost"]] == [1]
    (done,) = result.output["failovers"]
    assert len(set(first) & set(cluster.by_role("primary"))) == 2
    fail_over(cluster.context(), primary=done["from"], back=True, rate=RATE)
    assert sorted(cluster.by_role("primary")) == sorted(first)


def test_what_is_not_there_is_told_with_what_is(cluster: RedisNodes) -> None:
    problem, _ = cause(fail_over, cluster.context(), primary="127.0.0.1:1")
    assert isinstance(problem, EnvironmentInvalid)
    assert all(address in str(problem) for address in cluster.by_role("primary"))
    problem, _ = cause(fail_over, cluster.context(), host="127.0.0.1")
    assert isinstance(problem, EnvironmentInvalid)
    assert cluster.host(0) in str(problem)


def test_a_hosts_primaries_leave_it(cluster: RedisNodes) -> None:
    host = cluster.by_role("primary")[0].rpartition(":")[0]
    first = roles(cluster)
    problem, _ = cause(fail_over, cluster.context(), host=host)
    assert isinstance(problem, Refused)
    assert "it would hold 2 of 3 primaries" in str(problem)
    assert "--accept-majority" in str(problem)
    assert roles(cluster) == first

    result = fail_over(cluster.context(), host=host, accept_majority=True, rate=RATE)
    assert result.output["lost_acknowledged_writes"] == 0
    assert not [address for address in cluster.by_role("primary") if address.startswith(f"{host}:")]
    assert "nothing to fail over" in fail_over(cluster.context(), host=host).summary
    left = next(address for address in first.values() if address.startswith(f"{host}:"))
    fail_over(cluster.context(), primary=left, back=True, rate=RATE)
    assert roles(cluster) == first


def test_rolling_and_back_ends_in_the_first_roles(cluster: RedisNodes) -> None:
    first = roles(cluster)
    ctx = cluster.context()
    result = fail_over(ctx, rolling=True, back=True, rate=RATE)
    assert roles(cluster) == first
    assert result.output["lost_acknowledged_writes"] == 0
    assert len(result.output["failovers"]) == 6
    assert ctx.lease.recall_all() == {}
    assert not gate(cluster.look(), nodes=6, replicas=1)


class Killed(BaseException):
    """The runner was killed."""


class KilledAt:
    """A lease that lets so many changes through, and then kills the run; what is kept in it outlives the run."""

    def __init__(self, kept: MemoryLease, changes: int) -> None:
        self._kept, self.changes = kept, changes

    def check(self) -> None:
        self.changes -= 1
        if self.changes < 0:
            raise Killed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kept, name)


def test_killed_before_every_change_and_run_again(cluster: RedisNodes) -> None:
    first = roles(cluster)
    kept = MemoryLease()
    asked = 0
    for _ in range(20):
        ctx = cluster.context()
        ctx.lease = KilledAt(kept, 2)  # type: ignore[assignment]  # one failover a run: the probe's writes come first
        try:
            fail_over(ctx, rolling=True, rate=RATE)
        except Killed:
            asked += 1
            continue
        break
    assert asked == 2
    assert not set(first.values()) & set(roles(cluster).values())
    assert kept.recall_all() == {}
    assert not gate(cluster.look(), nodes=6, replicas=1)


# The runbook as an operator runs it, lease and all; killed right after it has asked for so many failovers.
CHILD = """
import os, signal, sys
from credscale.core.journal import Journal
from credscale.core.runbook import Runbook
from credscale.frontends.run import Flags, run
from runbooks.redis_failover import redis_failover

asked, append = 0, Journal.append
def killing(self, event, **more):
    global asked
    asked += event == "change_finished" and "CLUSTER FAILOVER" in more["what"]
    if asked == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return append(self, event, **more)
Journal.append = killing
made = Runbook(redis_failover.function, (), has_notebook=False, target="redis")
raise SystemExit(run(made, Flags(env=sys.argv[1], params={"rolling": True, "back": True, "rate": 100})))
"""


def operator(nodes: RedisNodes, folder: Path, *, killed_after: int) -> subprocess.CompletedProcess[str]:
    """Run the runbook rolling and back in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(nodes.environment()), str(killed_after)]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=90, cwd=folder, env=paths)


def test_runner_killed_with_a_failover_under_way_and_run_again(cluster: RedisNodes, tmp_path: Path) -> None:
    first = roles(cluster)
    epoch = max(node.epoch for node in cluster.look().topology)
    done = operator(cluster, tmp_path, killed_after=4)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    done = operator(cluster, tmp_path, killed_after=NEVER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on with what a run began" in done.stdout
    assert roles(cluster) == first
    assert max(node.epoch for node in cluster.look().topology) == epoch + 6  # each failover was made once
    assert not gate(cluster.look(), nodes=6, replicas=1)


def test_force_is_refused_on_a_healthy_pair(cluster: RedisNodes) -> None:
    first = roles(cluster)
    replica = cluster.by_role("replica")[0]
    for mode in ("force", "takeover"):
        problem, _ = cause(force_failover, cluster.context(), replica=replica, mode=mode, accept_data_loss=True)
        assert isinstance(problem, PreconditionFailed)
        assert "the primary answers us" in str(problem)
    assert roles(cluster) == first


def test_frozen_primary(cluster: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen after the checks, it lets the replica say OK, and nothing follows."""
    old = cluster.by_role("primary")[0]
    new = replica_of(cluster, old)
    cluster.client(new).config_set("cluster-replica-no-failover", "yes")  # so that it does not take over by itself
    ctx = cluster.context()
    apply = ctx.apply

    def freezing(what: str, func: Any, /, *args: Any, **more: Any) -> Any:
        if "FAILOVER" in what:
            cluster.freeze(old)
        return apply(what, func, *args, **more)

    monkeypatch.setattr(ctx, "apply", freezing)
    begin = time.monotonic()
    try:
        problem, result = cause(fail_over, ctx, primary=old, rate=RATE, accept_majority=True)
        took = time.monotonic() - begin
        refused, _ = cause(fail_over, cluster.context(), primary=old, accept_majority=True)
    finally:
        cluster.thaw(old)
        cluster.client(new).config_set("cluster-replica-no-failover", "no")
    assert isinstance(problem, WaitTimeout)
    assert f"{new} answered OK to CLUSTER FAILOVER and did not become a primary" in str(problem)
    assert "nothing was changed" in str(problem)
    assert f"{old}: no answer" in str(problem)
    assert result.output["lost_acknowledged_writes"] == 0
    assert result.output["failovers"] == []
    assert took < 40
    assert isinstance(refused, PreconditionFailed)
    assert f"{old}: the primary does not answer us" in str(refused)
    wait_for(lambda: not gate(cluster.look(), nodes=6, replicas=1), 30)
    assert old in cluster.by_role("primary")


def test_replica_without_its_link_is_refused(cluster: RedisNodes) -> None:
    old = cluster.by_role("primary")[0]
    new = replica_of(cluster, old)
    cluster.client(new).config_set("masterauth", "wrong")
    cluster.client(old).execute_command("CLIENT", "KILL", "TYPE", "replica")
    wait_for(lambda: cluster.client(new).info("replication")["master_link_status"] == "down", 10)
    ctx = cluster.context()
    try:
        problem, _ = cause(fail_over, ctx, primary=old, accept_majority=True)
    finally:
        cluster.client(new).config_set("masterauth", cluster.password)
    assert isinstance(problem, PreconditionFailed)
    assert f"{new}: its link to {old} is down" in str(problem)
    assert ctx.changes == 0
    assert old in cluster.by_role("primary")
    wait_for(lambda: not gate(cluster.look(), nodes=6, replicas=1), 30)


def test_forced_once_its_primary_is_gone(cluster: RedisNodes) -> None:
    old = cluster.by_role("primary")[0]
    new = replica_of(cluster, old)
    cluster.client(new).config_set("cluster-replica-no-failover", "yes")
    cluster.kill(old)
    try:
        wait_for(lambda: f"{old} " in failed_in(cluster, new), 20)
        problem, _ = cause(force_failover, cluster.context(), replica=new)
        assert isinstance(problem, Refused)
        assert "18 to 94" in str(problem)
        assert "--accept-data-loss" in str(problem)
        problem, _ = cause(force_failover, cluster.context(), replica=new, mode="takeover", accept_data_loss=True)
        assert isinstance(problem, PreconditionFailed)
        assert "2 of 3 primaries answer" in str(problem)
        result = force_failover(cluster.context(), replica=new, accept_data_loss=True)
        assert result.status is Status.CHANGED
        assert "18 to 94" in result.output["risk"]
        assert new in cluster.by_role("primary")
        assert "already" in force_failover(cluster.context(), replica=new).summary
    finally:
        cluster.client(new).config_set("cluster-replica-no-failover", "no")
        cluster.spawn(old)
    wait_for(lambda: not gate(cluster.look(), nodes=6, replicas=1), 30)
    assert replica_of(cluster, new) == old


def failed_in(nodes: RedisNodes, viewer: str) -> str:
    """Return the addresses that a node calls failed, each with a blank behind it."""
    found = nodes.look()
    seen = next(node for node in found.nodes if node.address == viewer)
    return "".join(f"{found.name(node.id)} " for node in seen.view if "fail" in node.flags)
