"""Two operators cannot work on one Redis Cluster; the lease lives through failovers and slot migrations under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import OutOfMemoryError

from credscale.core import lease as leases
from credscale.core.errors import ConnectFailed, Refused
from credscale.core.journal import read_journal
from credscale.core.lease import Holder, MemoryLease, machine
from credscale.core.redis_lease import KEPT, LAST, LEASE, RedisLease, kept_in
from credscale.core.runbook import Runbook
from credscale.frontends.session import Request
from credscale.frontends.targets import take_lease
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.slots import contains, key_slot
from credscale.testing import wait_for
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.cluster import RedisCluster

    from credscale import Context
    from credscale.redis_cluster.cluster.nodes import Node

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[3]
DEADLINE = 40.0
ELSEWHERE = Holder("20261123T020000Z-abcdef", "mallory", "elsewhere", "another machine", 4711, 1.5)


@pytest.fixture
def client(shared_redis: RedisNodes) -> Iterator[RedisCluster]:
    """Yield a client of the cluster as runs have it; nobody holds its lease."""
    ctx = shared_redis.context()
    yield ctx.clients.redis_cluster()
    ctx.clients.redis_cluster().delete(LEASE, LAST, KEPT)


def repairs(ctx: Context) -> None:
    """Repair Redis."""


REPAIR = Runbook(repairs, (), has_notebook=False, target="redis", repairs=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "GRACE_SECONDS", 0.0)


def make(client: RedisCluster, run: str, notes: list[str] | None = None, seconds: float = 20.0) -> RedisLease:
    return RedisLease(client, run, (notes if notes is not None else []).append, seconds)


def held_by(client: RedisCluster, holder: Holder, milliseconds: int) -> None:
    text = json.dumps(asdict(holder), sort_keys=True)
    client.set(LEASE, text, px=milliseconds)
    client.set(LAST, text)


@pytest.mark.usefixtures("impatient")
def test_a_second_holder_is_refused_and_told_who_runs(client: RedisCluster) -> None:
    first = make(client, "r1")
    first.acquire()
    with pytest.raises(
        Refused, match=rf"pid {os.getpid()}, run r1\), its lease ends in (19|20) s.*Nothing was changed"
    ):
        make(client, "r2").acquire()
    first.check()
    first.release()
    second = make(client, "r2")
    second.acquire()
    assert json.loads(str(client.get(LEASE)))["run"] == "r2"
    first.release()
    assert json.loads(str(client.get(LEASE)))["run"] == "r2", "who lost it gives nothing back"
    second.release()
    assert client.exists(LEASE) == 0
    notes: list[str] = []
    third = make(client, "r3", notes)
    third.acquire()
    third.release()
    assert notes == [], "what was given back is not taken over"


@pytest.mark.usefixtures("impatient")
def test_the_heartbeat_keeps_it_and_its_end_frees_it_with_a_note(client: RedisCluster) -> None:
    first, notes = make(client, "r1", seconds=0.8), list[str]()
    first.acquire()
    time.sleep(1.2)
    first.check()
    with pytest.raises(Refused):
        make(client, "r2").acquire()
    first._stop.set()  # as if its process had been killed elsewhere
    second = make(client, "r2", notes)
    wait_for(lambda: not client.exists(LEASE), 5)
    second.acquire()
    assert notes == [f"took over the stale lease of {first._holder}"]
    first._valid_until = 0.0
    with pytest.raises(Refused, match="stopped before the next change"):
        first.check()
    second.release()


@pytest.mark.usefixtures("impatient")
def test_a_run_that_was_away_during_a_whole_other_run_does_not_go_on(client: RedisCluster) -> None:
    """It was stopped or cut off past the end of its lease; what it knows of the cluster is stale."""
    first, second = make(client, "r1"), make(client, "r2")
    first.acquire()
    client.delete(LEASE)  # as when it runs out
    assert first._renew(), "nobody was there in between"
    client.delete(LEASE)
    second.acquire()
    second.release()
    assert not first._renew()
    first._valid_until = 0.0
    with pytest.raises(Refused, match="somebody else took it; stopped before the next change"):
        first.check()
    first.release()
    assert client.exists(LEASE) == 0


def test_a_failover_that_lost_the_writes_of_the_taking_does_not_stop_the_run(client: RedisCluster) -> None:
    earlier = make(client, "r0")
    earlier.acquire()
    earlier.release()
    before = str(client.get(LAST))
    mine = make(client, "r1")
    mine.acquire()
    client.delete(LEASE)
    client.set(LAST, before)
    assert mine._renew()
    assert json.loads(str(client.get(LEASE)))["run"] == "r1"
    mine.release()


@pytest.mark.usefixtures("impatient")
def test_a_full_shard_takes_the_lease_and_what_it_keeps(client: RedisCluster, shared_redis: RedisNodes) -> None:
    """The run may be the one that relieves it."""
    full = shared_redis.client(owner(shared_redis).address)
    full.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            client.set("{credscale}:other", "no")
        first, second = make(client, "r1"), make(client, "r2")
        first.acquire()
        first.remember("roles", "first")
        first.remember("roles", "second")
        assert first._renew()
        with pytest.raises(Refused, match="run r1"):
            second.acquire()
        first.release()
        second.acquire()
        assert second.recall_all() == {"roles": "first"}
        second.forget("roles")
        second.release()
    finally:
        full.config_set("maxmemory", "32mb")


@pytest.mark.parametrize(
    ("policy", "told"),
    [("allkeys-lru", "the lease and what must be put back"), ("volatile-ttl", "the lease"), ("noeviction", "")],
)
def test_a_server_that_may_evict_the_lease_is_noted(
    client: RedisCluster, shared_redis: RedisNodes, policy: str, told: str
) -> None:
    keeper, notes = shared_redis.client(owner(shared_redis).address), list[str]()
    keeper.config_set("maxmemory-policy", policy)
    try:
        mine = make(client, "r1", notes)
        mine.acquire()
        mine.release()
    finally:
        keeper.config_set("maxmemory-policy", "noeviction")
    assert [note.partition(":")[0] for note in notes] == ([f"maxmemory-policy {policy}"] if told else [])
    assert all(f"may evict {told}, and nobody notices" in note for note in notes)


@pytest.mark.usefixtures("impatient")
def test_a_dead_process_of_this_machine_is_replaced_at_once_another_machines_is_not(client: RedisCluster) -> None:
    held_by(client, ELSEWHERE, 60_000)
    with pytest.raises(Refused, match="mallory on elsewhere"):
        make(client, "r1").acquire()
    held_by(client, Holder("r0", "me", "here", machine(), 2**22 + 1, 1.0), 60_000)
    notes: list[str] = []
    mine = make(client, "r1", notes)
    mine.acquire()
    assert notes == ["took over the stale lease of me on here (pid 4194305, run r0)"]
    mine.release()


def test_the_same_run_in_another_process_goes_on(client: RedisCluster) -> None:
    held_by(client, Holder("r1", "me", "elsewhere", "another machine", 1, 1.0), 60_000)
    notes: list[str] = []
    mine = make(client, "r1", notes)
    mine.acquire()
    assert notes == []
    mine.release()


def test_what_is_kept_survives_its_holder(client: RedisCluster) -> None:
    first = make(client, "r1")
    first.acquire()
    first.remember("roles", {"s1": "127.0.0.1:7000"})
    first.remember("roles", {"s1": "another"})
    first.remember("pace", 3)
    first._stop.set()
    client.delete(LEASE)
    second = make(client, "r2")
    second.acquire()
    assert second.recall("roles") == {"s1": "127.0.0.1:7000"}
    assert kept_in(client) == second.recall_all() == {"roles": {"s1": "127.0.0.1:7000"}, "pace": 3}
    second.forget("roles")
    second.release()
    assert kept_in(client) == {"pace": 3}
    assert client.ttl(KEPT) == -1


def test_missing_rights_are_told_with_what_is_needed(shared_redis: RedisNodes, tmp_path: Path) -> None:
    for address in shared_redis.addresses:
        shared_redis.client(address).execute_command("ACL", "SETUSER", "app", "on", ">app-password", "~app:*", "+@all")
    (tmp_path / "app").write_text("app-password")
    ctx = shared_redis.context(user="app", password=f"file:{tmp_path}/app")
    with pytest.raises(ConnectFailed, match=r"cannot be taken \(NoPermission.*~\{credscale\}\*"):
        make(ctx.clients.redis_cluster(), "r1").acquire()
    with pytest.raises(ConnectFailed, match="NoPermission"):
        take_lease(ctx, Request(REPAIR, ctx.environment, {}, "", tmp_path))
    for address in shared_redis.addresses:
        shared_redis.client(address).execute_command("ACL", "DELUSER", "app")


def owner(nodes: RedisNodes) -> Node:
    """Return the primary of the lease's slot."""
    return next(node for node in nodes.look().topology if contains(node.slots, key_slot(LEASE)))


def settled(nodes: RedisNodes) -> None:
    wait_for(lambda: not gate(nodes.look()), 20)


def move_slot(nodes: RedisNodes, slot: int, source: Node, target: Node) -> None:
    """Move a slot with its keys, as redis-cli does."""
    giver, taker = nodes.client(source.address), nodes.client(target.address)
    taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    time.sleep(0.6)  # the heartbeat meets the slot half moved
    while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
        login = ("AUTH", nodes.password)
        giver.execute_command("MIGRATE", target.host, target.port, "", 0, 2000, "REPLACE", *login, "KEYS", *keys)
    for client in (taker, giver, *(nodes.client(address) for address in nodes.by_role("primary"))):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.id)


def test_it_lives_through_a_migration_a_failover_and_the_death_of_its_shards_primary(
    redis_cluster: RedisNodes,
) -> None:
    ctx = redis_cluster.context()
    mine = make(ctx.clients.redis_cluster(), "r1", seconds=1.5)
    mine.acquire()
    mine.remember("roles", "first")
    primary = owner(redis_cluster)
    other = next(node for node in redis_cluster.look().topology if node.slots and node.id != primary.id)
    move_slot(redis_cluster, key_slot(LEASE), primary, other)
    time.sleep(1.6)
    mine.check()
    settled(redis_cluster)
    assert owner(redis_cluster).id == other.id
    replica = next(node for node in redis_cluster.look().topology if node.primary_id == other.id)
    redis_cluster.client(replica.address).execute_command("CLUSTER", "FAILOVER")
    wait_for(lambda: owner(redis_cluster).id == replica.id, 10)
    time.sleep(1.6)
    mine.check()
    settled(redis_cluster)
    redis_cluster.kill(replica.address)
    time.sleep(1.6)  # its time runs out while nobody serves the slot
    mine.check()
    with pytest.raises(Refused, match="run r1"):
        make(redis_cluster.context().clients.redis_cluster(), "r2").acquire()
    assert mine.recall("roles") == "first"
    mine.release()


def test_a_cluster_that_serves_nothing_is_told(tmp_path: Path) -> None:
    nodes = RedisNodes(tmp_path)
    try:
        first, second = nodes.start(2)
        with pytest.raises(ConnectFailed, match=f"no Redis Cluster serves at {first}, {second}.*cluster-status"):
            nodes.context().clients.redis_cluster()
        nodes.client(first).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 100)
        with pytest.raises(ConnectFailed, match="the lease .* cannot be taken"):
            make(nodes.context().clients.redis_cluster(), "r1").acquire()
        ctx = nodes.context(folder=tmp_path)
        assert isinstance(take_lease(ctx, Request(REPAIR, ctx.environment, {}, "", tmp_path)), MemoryLease)
        notes = [event["text"] for event in read_journal(tmp_path / "journal.jsonl") if event["event"] == "note"]
        assert [note.partition(":")[0] for note in notes] == [
            "no lease keeps others out, because no node that answers says that the cluster serves"
        ]
    finally:
        nodes.end()


def start(nodes: RedisNodes, folder: Path, key: str, awaited: str) -> subprocess.Popen[str]:
    """Start an operator's run in a working folder of its own, where the other's file lock is not seen."""
    folder.mkdir()
    environment = {"PYTHONPATH": str(ROOT), "CREDSCALE_ARTIFACTS": str(folder / "artifacts")}
    command = [sys.executable, "-m", "tests.scenarios.redis.operator_run"]
    return subprocess.Popen(
        [*command, str(nodes.environment()), key, awaited], cwd=folder, env=os.environ | environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def journal(folder: Path) -> list[dict[str, Any]]:
    return [event for path in folder.glob("artifacts/*/*/*/journal.jsonl") for event in read_journal(path)]


def test_two_operators_on_two_machines(client: RedisCluster, shared_redis: RedisNodes, tmp_path: Path) -> None:
    first = start(shared_redis, tmp_path / "one", "first", "go-on")
    try:
        wait_for(lambda: client.get("first") == "began", DEADLINE)
        second = start(shared_redis, tmp_path / "two", "second", "")
        out, _ = second.communicate(timeout=DEADLINE)
        assert second.returncode == 3, out
        assert "another run works on this cluster" in out
        assert f"pid {first.pid}" in out
        assert "Changed so far: nothing" in out
        assert client.get("second") is None
        client.set("go-on", "yes")
        out, _ = first.communicate(timeout=DEADLINE)
        assert first.returncode == 0, out
    finally:
        first.kill()
        first.communicate()
    assert client.get("first") == "done"
    started = journal(tmp_path / "one")[0]
    assert started["engine"].startswith(("redis ", "valkey "))
    assert started["target"] == f"node {shared_redis.addresses[0]}, 6 nodes"


def test_a_killed_operators_lease_is_taken_over_at_once(
    client: RedisCluster, shared_redis: RedisNodes, tmp_path: Path
) -> None:
    first = start(shared_redis, tmp_path / "one", "killed", "never")
    try:
        wait_for(lambda: client.get("killed") == "began", DEADLINE)
    finally:
        first.kill()
        first.communicate()
    second = start(shared_redis, tmp_path / "two", "next", "")
    out, _ = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0, out
    notes = [event["text"] for event in journal(tmp_path / "two") if event["event"] == "note"]
    assert any(f"took over the stale lease of {Holder.me('').operator}" in note for note in notes)
