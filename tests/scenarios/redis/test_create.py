"""Clusters are made of real servers: at once, in pieces, by two at a time, and not at all where that would harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.cluster import ClusterNode, RedisCluster

from credscale.core.context import Context
from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.agreement import signature
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.slots import SLOTS, count, union
from credscale.redis_cluster.deploy.creation import cluster_ready, create_cluster, write_canary
from credscale.redis_cluster.deploy.forming import form_cluster
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.scenario
ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("interrupted_create.py")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RedisNodes]:
    """Yield six servers on three hosts that know nothing of each other; their node timeout is that of a production."""
    yield from _nodes(tmp_path, 6)


def _nodes(folder: Path, number: int) -> Iterator[RedisNodes]:
    servers = RedisNodes(folder, password="correct-horse-battery", options={"cluster-node-timeout": "5000"}, hosts=3)
    try:
        servers.start(number)
        yield servers
    finally:
        servers.end()


def failure(nodes: RedisNodes, /, **redis: Any) -> str:
    """Return why a cluster was not created."""
    with pytest.raises(StepFailed) as caught:
        create_cluster(nodes.context(**redis), timeout=20.0)
    assert caught.value.result.changes == []
    assert nodes.password not in json.dumps(caught.value.result.to_json())
    return str(caught.value.result.error)


def views(nodes: RedisNodes) -> list[Any]:
    """Return what each node knows of itself and of others, to see whether anything was changed."""
    return [(node.address, signature(node.view), node.me.epoch if node.me else None) for node in nodes.look().nodes]


def healthy(nodes: RedisNodes) -> None:
    """Check for a cluster of three primaries and three replicas in which every slot has one owner."""
    look = nodes.look()
    assert gate(look, nodes=6, replicas=1) == ()
    own = [node.me.slots for node in look.nodes if node.me is not None]
    assert sum(map(count, own)) == count(union(*own)) == SLOTS


def test_six_fresh_nodes(nodes: RedisNodes) -> None:
    with pytest.raises(StepFailed, match="16384 of 16384 slots have no owner"):
        cluster_ready(nodes.context())
    plan = create_cluster(nodes.context(dry_run=True))
    assert plan.status is Status.PLANNED
    assert len(plan.changes) == 6 + 3 + 5 + 3 + 2
    assert all(len(view) == 1 for _, view, _ in views(nodes)), "a dry run changes nothing"
    done = create_cluster(nodes.context())
    assert done.changes == plan.changes
    assert "6 of 6 nodes answer, 3 primaries with 16384 slots, 3 replicas, state ok" in done.summary
    healthy(nodes)
    rows = done.output["rows"]
    hosts = {row["node"]: row["host"] for row in rows}
    assert len({row["host"] for row in rows if row["role"] == "primary"}) == 3
    assert all(row["host"] != hosts[row["replica of"]] for row in rows if row["role"] == "replica")
    again = create_cluster(nodes.context())
    assert again.status is Status.OK
    assert "complete already" in again.summary
    assert cluster_ready(nodes.context()).status is Status.OK
    written = write_canary(nodes.context())
    assert [row["acknowledged"] for row in written.output["rows"]] == [1, 1, 1]
    host, _, port = nodes.addresses[0].rpartition(":")
    client = RedisCluster(startup_nodes=[ClusterNode(host, int(port))], password=nodes.password, socket_timeout=2)
    try:
        assert all(client.set(f"key{number}", number) for number in range(50))
        assert [int(client.get(f"key{number}") or -1) for number in range(50)] == list(range(50))
        assert 0 < client.ttl(written.output["rows"][0]["key"]) <= 60
    finally:
        client.close()
    replica = next(row for row in rows if row["role"] == "replica")
    nodes.freeze(replica["node"])
    with pytest.raises(StepFailed, match=f"{replica['replica of']}: 0 of 1 replicas"):
        write_canary(nodes.context())


def test_killed_after_every_change_in_turn(nodes: RedisNodes) -> None:
    """Each attempt is killed with -9 one change further on; together they give every slot and replica exactly once."""
    path = nodes.environment()
    done: Counter[str] = Counter()
    for _ in range(25):
        run = run_script("after", path)
        out, _ = run.communicate(timeout=60)
        assert run.returncode in (0, -signal.SIGKILL), out
        done.update(out.splitlines())
        if run.returncode == 0:
            break
    once = {what: times for what, times in done.items() if what.startswith(("set", "give", "let 1", "make"))}
    assert set(once.values()) == {1}, done
    assert sum(what.startswith("set") for what in once) == 6
    assert sum(what.startswith("give") for what in once) == 3
    assert sum(what.startswith("make") for what in once) == 3
    create_cluster(nodes.context())
    healthy(nodes)
    assert create_cluster(nodes.context()).changes == []


def run_script(moment: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that creates the cluster of an environment."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), moment, str(path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True], ids=["same order", "other order"])
def test_two_creators_at_once(nodes: RedisNodes, reverse: bool) -> None:
    """Without the lease, which would keep the second out; it may be refused, but no slot has two owners afterwards."""
    first = nodes.environment()
    second = first.with_name("second.yaml")
    addresses = nodes.addresses[::-1] if reverse else nodes.addresses
    nodes.environment(nodes=addresses).rename(second)
    nodes.environment()
    runs = [run_script("never", path) for path in (first, second)]
    outs = [run.communicate(timeout=90)[0] for run in runs]
    for run, out in zip(runs, outs, strict=True):
        assert run.returncode == 0 or out.splitlines()[-1].startswith("StepFailed: create_cluster failed: "), out
        assert "Traceback" not in out
    own = [node.me.slots for node in nodes.look().nodes if node.me is not None]
    assert sum(map(count, own)) == count(union(*own)), outs
    assert create_cluster(nodes.context(), timeout=20.0).status in (Status.OK, Status.CHANGED)
    healthy(nodes)


def stop_after(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Interrupt the run after so many changes; returns what ends that."""
    real, made = Context.apply, 0

    def apply(self: Context, what: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        nonlocal made
        value = real(self, what, func, *args, **kwargs)
        made += 1
        if made == number:
            raise KeyboardInterrupt
        return value

    monkeypatch.setattr(Context, "apply", apply)
    return lambda: monkeypatch.setattr(Context, "apply", real)


def test_a_node_that_is_down_before_and_in_the_middle(nodes: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = nodes.addresses[4]
    nodes.kill(victim)
    error = failure(nodes)
    assert error == (
        f"the cluster cannot be created: {victim}: nothing listens at its port (look at its process and its log). "
        "Nothing was changed"
    )
    nodes.spawn(victim)
    nodes.wait(victim)
    go_on = stop_after(6 + 3 + 4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        create_cluster(nodes.context())
    go_on()
    nodes.kill(victim)
    assert f"{victim}: nothing listens at its port" in failure(nodes)
    nodes.spawn(victim)
    nodes.wait(victim)
    create_cluster(nodes.context(), timeout=20.0)
    healthy(nodes)


def test_a_frozen_node_is_named(nodes: RedisNodes) -> None:
    before = views(nodes)
    nodes.freeze(nodes.addresses[2])
    error = failure(nodes)
    assert f"{nodes.addresses[2]}: no answer within 1.0 s; it is frozen" in error
    assert error.endswith("Nothing was changed")
    nodes.thaw(nodes.addresses[2])
    assert views(nodes) == before


def test_a_node_that_holds_a_key_is_refused_and_keeps_it(tmp_path: Path) -> None:
    for servers in _nodes(tmp_path, 5):
        servers.options["cluster-enabled"] = "no"
        [keeper] = servers.start(1)
        servers.client(keeper).set("precious", "value")
        servers.process(keeper, signal.SIGTERM)
        servers.options["cluster-enabled"] = "yes"
        servers.spawn(keeper)
        servers.wait(keeper)
        before = views(servers)
        error = failure(servers)
        assert f"{keeper}: it holds 1 keys and is in none of this cluster's shards; it is never wiped" in error
        assert views(servers) == before
        assert facts.keyspace(servers.look().nodes[-1].info).keys == 1


def test_a_node_of_another_cluster_is_refused(nodes: RedisNodes, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for others in _nodes(tmp_path / "other", 3):
        form_cluster(others.client, others.addresses, replicas=0, timeout=20)
        before = views(nodes), views(others)
        stranger, *rest = others.addresses
        error = failure(nodes, nodes=[*nodes.addresses[:5], stranger])
        assert f"{stranger}: it belongs to a cluster with " in error
        assert all(address in error for address in rest)
        assert (views(nodes), views(others)) == before
        assert gate(others.look(), nodes=3) == ()


def test_wrong_password_and_no_cluster_mode(nodes: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "not-the-password")
    error = failure(nodes, password="env:WRONG")
    assert "it refuses our user and password (put the right one where redis.password points to)" in error
    assert "not-the-password" not in error
    nodes.options["cluster-enabled"] = "no"
    [plain] = nodes.start(1)
    assert f"{plain}: it does not run in cluster mode (set cluster-enabled yes" in failure(nodes)


def test_a_name_of_two_addresses_is_refused(nodes: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = views(nodes)
    *rest, last = nodes.addresses
    host, _, port = last.rpartition(":")

    def resolve(address: str) -> tuple[str, ...]:
        return (host, "127.0.0.9") if address.startswith("redis.example") else (address.rpartition(":")[0],)

    with monkeypatch.context() as patched:
        patched.setattr("credscale.redis_cluster.cluster.views.resolve", resolve)
        error = failure(nodes, nodes=[*rest, f"redis.example:{port}"])
    assert f"redis.example:{port}: its name stands for {host}, 127.0.0.9, so it is not one server" in error
    assert views(nodes) == before


def test_a_lost_replica_role_is_given_back(nodes: RedisNodes) -> None:
    """An empty primary in the cluster, as a kill between the meeting and the replication leaves it."""
    form_cluster(nodes.client, nodes.addresses, replicas=1, timeout=20)
    replica = nodes.by_role("replica")[0]
    nodes.client(replica).execute_command("CLUSTER", "RESET", "SOFT")
    done = create_cluster(nodes.context(), timeout=20.0)
    assert any(what.startswith(f"make {replica} a replica of ") for what in done.changes)
    assert not any(what.startswith("give") for what in done.changes)
    healthy(nodes)
