"""The memory report of six real servers: limits, keys and what eviction would do to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from redis.cluster import RedisCluster

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.redis_cluster.cluster.nodes import primaries
from credscale.redis_cluster.cluster.slots import key_slot, numbers
from credscale.redis_cluster.memory.report import redis_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.scenarios.redis.conftest import RedisNodes

pytestmark = pytest.mark.scenario
SECRET = "5f3e9b7a1c"
SESSIONS, CACHE = 60, 300


def configure(nodes: RedisNodes, **settings: str) -> None:
    for address in nodes.addresses:
        for name, value in settings.items():
            nodes.client(address).config_set(name.replace("_", "-"), value)


@pytest.fixture
def filled(shared_redis: RedisNodes) -> Iterator[RedisNodes]:
    """Yield the cluster with sessions, cache keys, a queue and a big list, and its settings as they were."""
    host, _, port = shared_redis.addresses[0].rpartition(":")
    with RedisCluster(host=host, port=int(port), password=shared_redis.password, socket_timeout=2) as client:
        for number in range(SESSIONS):
            client.set(f"sess:{SECRET}{number}", "x" * 100, ex=3000)
        for number in range(CACHE):
            client.set(f"cache:page:{number}", "x" * 100)
        client.rpush("bull:mails:wait", *(b"y" * 1000 for _ in range(500)))
        client.set(b"\xff\xfe\x00binary", "1")
    yield shared_redis
    configure(shared_redis, maxmemory="32mb", maxmemory_policy="noeviction")


def rows(result: Any, rule: str) -> list[dict[str, Any]]:
    return [row for row in result.output["problems"] if row["rule"] == rule]


def test_report(filled: RedisNodes, tmp_path: Path) -> None:
    result = redis_memory(filled.context(folder=tmp_path), big_keys=True, interval=0.3)
    assert result.status is Status.OK
    assert [row["role"] for row in result.output["rows"]] == ["primary", "replica"] * 3
    total = result.output["totals"][0]
    assert total["keys"] == SESSIONS + CACHE + 2
    assert total["expiring"] == SESSIONS
    assert total["max_bytes"] == 3 * (32 << 20)
    assert all(row["evicted/s"] == 0 for row in result.output["rows"])
    assert {row["how"] for row in result.output["looked_at"]} == {"all of them"}
    classes = {row["time to live"]: row["keys"] for row in result.output["time_to_live"]}
    assert classes["up to 1 h"] == SESSIONS
    assert classes["no TTL"] == CACHE + 2
    kinds = {row["pattern"]: (row["kind"], row["keys"]) for row in result.output["key_patterns"]}
    assert kinds["sess:*"] == ("session", SESSIONS)
    assert kinds["cache:page:*"] == ("other", CACHE)
    biggest = result.output["big_keys"][0]
    assert (biggest["pattern"], biggest["type"]) == ("bull:*:wait", "list")
    assert biggest["bytes"] > 100_000
    assert SECRET not in json.dumps(result.to_json())  # the name of a session is as good as a password
    assert "image/png" in result._repr_mimebundle_()


def test_sample_of_many_keys_is_drawn(filled: RedisNodes) -> None:
    result = redis_memory(filled.context(), sample=20, interval=0.0)
    assert {row["how"] for row in result.output["looked_at"]} == {"drawn at random"}
    assert all(0 < row["keys looked at"] <= 20 for row in result.output["looked_at"])
    assert all(row["evicted/s"] is None for row in result.output["rows"])
    assert redis_memory(filled.context(), sample=0, interval=0.0).output["time_to_live"] == []


def test_maxmemory_0(filled: RedisNodes) -> None:
    configure(filled, maxmemory="0")
    result = redis_memory(filled.context(), interval=0.0)
    assert {row["where"] for row in rows(result, "maxmemory")} == set(filled.addresses)
    assert {row["full"] for row in result.output["rows"]} == {"no limit"}
    assert result.output["totals"][0]["headroom_bytes"] is None


def test_guides_settings_are_dangerous_with_sessions_and_queues(filled: RedisNodes) -> None:
    configure(filled, maxmemory="2gb", maxmemory_policy="allkeys-lru")
    result = redis_memory(filled.context(), interval=0.0)
    (found,) = rows(result, "eviction")
    assert f"{SESSIONS} sessions and 1 queue keys" in found["what"]
    assert "noeviction" in found["what to do"]


def test_nearly_full(filled: RedisNodes) -> None:
    address = filled.addresses[0]
    client = filled.client(address)
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", int(used / 0.95))
    with pytest.raises(StepFailed) as caught:
        redis_memory(filled.context(), interval=0.0)
    (found,) = rows(caught.value.result, "full")
    assert found["where"] == address
    assert "writes fail" in found["what"]
    assert caught.value.result.output["rows"]  # the tables are complete all the same


def test_replica_that_could_not_take_over(filled: RedisNodes) -> None:
    replica = filled.by_role("replica")[0]
    filled.client(replica).config_set("maxmemory", "1mb")
    with pytest.raises(StepFailed) as caught:
        redis_memory(filled.context(), interval=0.0)
    assert {row["where"] for row in rows(caught.value.result, "promotion")} == {replica}


def test_slot_on_its_way_costs_no_sample(filled: RedisNodes) -> None:
    """SCAN and RANDOMKEY tell keys that arrive as well, and every other command on them is redirected."""
    found = filled.look()
    slot, names = key_slot("{mem}"), [f"{{mem}}:{SECRET}{number}" for number in range(8)]
    owner = next(node for node in primaries(found.topology) if slot in numbers(node.slots))
    other = next(node for node in primaries(found.topology) if node.id != owner.id)
    source, target = filled.client(found.name(owner.id)), filled.client(found.name(other.id))
    for name in names:
        source.set(name, "x")
    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", other.id)
    login = ("AUTH", filled.password)
    try:
        source.execute_command("MIGRATE", other.host, other.port, "", 0, 2000, *login, "KEYS", *names[:4])
        for sample in (500, 20):
            result = redis_memory(filled.context(), sample=sample, interval=0.0)
            assert rows(result, "sample") == []
            assert all(row["keys looked at"] > 0 for row in result.output["looked_at"])
            assert SECRET not in json.dumps(result.to_json())
    finally:
        source.execute_command("MIGRATE", other.host, other.port, "", 0, 2000, *login, "KEYS", *names[4:])
        target.execute_command("CLUSTER", "SETSLOT", slot, "NODE", other.id)
        source.execute_command("CLUSTER", "SETSLOT", slot, "NODE", other.id)
        target.delete(*names)


def test_dead_node_is_a_reason(redis_cluster: RedisNodes) -> None:
    victim = redis_cluster.addresses[5]
    redis_cluster.kill(victim)
    with pytest.raises(StepFailed) as caught:
        redis_memory(redis_cluster.context(), interval=0.0)
    assert f"{victim}: nothing listens at its port" in str(caught.value)
    assert len(caught.value.result.output["rows"]) == 5


def test_user_with_few_rights(shared_redis: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is little; what is refused beyond that is said and nothing else."""
    for address in shared_redis.addresses:
        shared_redis.client(address).execute_command(
            "ACL", "SETUSER", "watcher", "on", ">watching", "+cluster|nodes", "+cluster|info", "+info", "~*"
        )
    monkeypatch.setenv("WATCHER", "watching")
    result = redis_memory(shared_redis.context(user="watcher", password="env:WATCHER"), interval=0.0)
    assert len(result.output["rows"]) == 6
    assert len(rows(result, "sample")) == 3
