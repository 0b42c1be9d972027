"""Each rule about memory finds what it is for, with its numbers, and is quiet otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from credscale.redis_cluster.memory.readings import node_memory, totals
from credscale.redis_cluster.memory.rules import human, judge_memory
from credscale.redis_cluster.memory.sampling import KeyFact
from tests.redis_cluster.fakes import look_of, recorded, topology

MB = 1 << 20


def said(changes: dict[int, dict[str, Any]] | None = None, **info: Any) -> dict[str, tuple[str, str]]:
    """Return by rule the severity and the text of its first reason in a cluster with such INFO."""
    found = look_of(topology(), {number: {"info": change} for number, change in (changes or {}).items()}, **info)
    return {each.rule: (each.severity, each.what) for each in reversed(judge_memory(node_memory(found)))}


def test_quiet() -> None:
    assert said() == {}


@pytest.mark.parametrize(
    ("info", "rule", "severity", "text"),
    [
        ({"maxmemory": 0}, "maxmemory", "warn", "maxmemory is 0"),
        ({"used_memory": 330 * MB}, "full", "warn", "82% of maxmemory 400.0 MB are used; at 100 % writes fail (OOM)"),
        ({"used_memory": 380 * MB}, "full", "failed", "95% of maxmemory"),
        ({"used_memory": 380 * MB, "maxmemory_policy": "allkeys-lru"}, "full", "warn",
         "keys are evicted (allkeys-lru)"),
        ({"used_memory": 380 * MB, "maxmemory_policy": "volatile-lru", "db0": {"keys": 5, "expires": 0}}, "full",
         "failed", "no key has a TTL that volatile-lru could evict"),
        ({"used_memory_peak": 200 * MB}, "peak", "note", "its peak was 200.0 MB, 2.0 times of now"),
        ({"allocator_frag_ratio": 1.2, "allocator_frag_bytes": 20 * MB}, "allocator", "note", "ratio 1.2, 20.0 MB"),
        ({"mem_fragmentation_ratio": 0.7}, "swap", "failed", "only 0.70 of its memory is resident"),
        ({"mem_fragmentation_ratio": 2.5, "mem_fragmentation_bytes": 150 * MB}, "fragmentation", "warn", "150.0 MB"),
        ({"number_of_cached_scripts": 1001}, "scripts", "note", "1001 scripts"),
        ({"connected_clients": 10, "mem_clients_normal": 10 * MB}, "clients", "warn",
         "10 clients hold 10.0 MB, 1.0 MB each"),
        ({"connected_clients": 95, "maxclients": 100}, "maxclients", "warn", "95 of 100"),
        ({"mem_clients_slaves": 11 * MB}, "replica-buffers", "warn", "11.0 MB"),
        ({"rejected_connections": 3}, "rejected", "warn", "3 connections"),
        ({"rdb_last_bgsave_status": "err"}, "persistence", "failed", "the last RDB save failed (err)"),
        ({"latest_fork_usec": 700_000}, "fork", "warn", "0.7 s"),
        ({"total_system_memory": 120 * MB}, "host-memory", "warn", "110.0 MB of 120.0 MB"),
        ({"total_system_memory": 500 * MB}, "host-limits", "warn", "adds up to 400.0 MB of 500.0 MB"),
    ],
)  # fmt: skip
def test_rule(info: dict[str, Any], rule: str, severity: str, text: str) -> None:
    found = said(**info)
    assert set(found) == {rule}
    assert found[rule][0] == severity
    assert text in found[rule][1]


def test_ratios_of_small_instances_are_noise() -> None:
    small = {"used_memory": 2 * MB, "used_memory_peak": 20 * MB, "mem_fragmentation_ratio": 7.1}
    assert said(**small, mem_fragmentation_bytes=200 * MB, allocator_frag_ratio=3.0, allocator_frag_bytes=99 * MB) == {}


def test_replica_smaller_than_its_primary() -> None:
    assert said({4: {"maxmemory": 90 * MB}})["promotion"][0] == "failed"
    assert said({4: {"maxmemory": 300 * MB}})["promotion"][0] == "warn"


def test_lag_and_skew() -> None:
    behind = {"ip": "10.0.0.3", "port": 7003, "state": "online", "offset": 0, "lag": 1}
    assert said({0: {"slave0": behind, "master_repl_offset": 20 * MB}})["lag"] == (
        "warn", "a replica of it has not acknowledged 20.0 MB",
    )  # fmt: skip
    severity, text = said({0: {"db0": {"keys": 10_000, "expires": 9000, "avg_ttl": 1}}})["skew"]
    assert (severity, text) == ("warn", "its keys are 2.5 times the mean of the primaries")


def keys(**kinds: int) -> list[KeyFact]:
    ttl = {"session": 1000.0, "queue": None, "other": None}
    return [
        KeyFact("a:1", "x:*", kind, "string", 1, ttl[kind]) for kind, number in kinds.items() for _ in range(number)
    ]


@pytest.mark.parametrize(
    ("policy", "sample", "text"),
    [
        (
            "allkeys-lru",
            keys(session=20, other=80),
            "allkeys-lru evicts every kind of key, and among 100 sampled keys are 20 sessions",
        ),
        ("allkeys-lru", keys(session=2, queue=3), "are 2 sessions and 3 queue keys: when memory is full"),
        ("volatile-lru", keys(session=20, other=80), "so the 20 sessions go first and the 80 keys without a TTL stay"),
        ("volatile-ttl", keys(queue=1, other=9), "which need noeviction"),
        ("volatile-lru", keys(session=20), ""),
        ("noeviction", keys(session=20, queue=3, other=80), ""),
        ("allkeys-lru", keys(other=80), ""),
    ],
)
def test_eviction_of_what_is_no_cache(policy: str, sample: list[KeyFact], text: str) -> None:
    nodes = node_memory(look_of(topology(), maxmemory_policy=policy))
    found = [each.what for each in judge_memory(nodes, sample) if each.rule == "eviction"]
    assert bool(found) == bool(text)
    assert all(text in each for each in found)


def test_eviction_under_way() -> None:
    before = look_of(topology(), evicted_keys=0, server_time_usec=10_000_000)
    after = look_of(topology(), evicted_keys=50, server_time_usec=12_000_000)
    nodes = node_memory(before, after)
    assert nodes[0].rates is not None
    assert nodes[0].rates.evicted == 25.0
    assert nodes[0].row()["evicted/s"] == 25.0
    found = [each for each in judge_memory(nodes, keys(session=1)) if each.rule == "evicting"]
    assert [each.severity for each in found] == ["failed"] * 3
    assert "25.0 keys/s" in found[0].what
    assert {each.severity for each in judge_memory(nodes) if each.rule == "evicting"} == {"warn"}


def test_no_rates_over_a_restart() -> None:
    before = look_of(topology(), server_time_usec=10_000_000)
    after = look_of(topology(), {0: {"info": {"run_id": "new"}}, 1: {"error": "dead"}}, server_time_usec=12_000_000)
    rates = {node.address: node.rates for node in node_memory(before, after)}
    assert rates["10.0.0.0:7000"] is None
    assert rates["10.0.0.1:7001"] is None
    assert rates["10.0.0.2:7002"] is not None


def test_soon_full() -> None:
    nodes = node_memory(look_of(topology()))
    (found,) = judge_memory(nodes, hours_to_full={"a:1": 5.04, "b:1": 100.0})
    assert (found.where, found.rule) == ("a:1", "trend")
    assert "5.0 h" in found.what


@pytest.mark.parametrize(
    "name", ["redis-6.2.5_healthy", "redis-7.0.15_healthy", "redis-8.2.3_healthy", "valkey-9.1.2_healthy"]
)
def test_recorded(name: str) -> None:
    nodes = node_memory(recorded(name))
    assert [node.role for node in nodes] == ["primary", "replica"] * 3
    total = totals(nodes)
    assert (total["keys"], total["expiring"], total["max_bytes"]) == (165, 15, 96 * MB)
    assert all(0 < (node.share or 0) < 0.5 for node in nodes)
    assert all((node.bytes_per_key or 0) > 0 for node in nodes)
    assert not [each for each in judge_memory(nodes) if each.severity == "failed"]


def test_fields_that_are_missing_or_strange() -> None:
    found = look_of(topology())
    bare = type(found)(tuple(replace(node, info={"used_memory": "lots"}) for node in found.nodes))
    nodes = node_memory(bare)
    assert judge_memory(nodes) == ()
    assert nodes[0].row()["used"] is None


def test_human() -> None:
    assert [human(size) for size in (10, 2048, 3 * MB, 5 << 30)] == ["10 B", "2.0 KB", "3.0 MB", "5.0 GB"]
