"""Dangerous settings are named, with what was measured; harmless ones are not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from credscale.redis_cluster.deploy.risks import (
    MACHINE_SCRIPT,
    MachineFacts,
    deployment_reasons,
    emptied_by_start,
    heirs_without_votes,
    machine_reasons,
    outdated_reasons,
    parse_machine,
)
from tests.redis_cluster.deploy.test_files import TLS, cluster
from tests.redis_cluster.fakes import look_of, node_id, topology

if TYPE_CHECKING:
    from credscale.redis_cluster.cluster.views import Look

LOCAL = [f"127.0.0.1:{port}" for port in range(7000, 7006)]


def rules(severity: str = "warn", **deploy: Any) -> set[str]:
    if deploy.get("start", "systemd") == "systemd":
        deploy = {"user": "redis"} | deploy
    return {reason.rule for reason in deployment_reasons(cluster(**deploy)) if reason.severity == severity}


def test_sound_settings_have_no_risk() -> None:
    assert rules() == set()
    assert rules("note") == {"eviction", "bus", "failover", "full-coverage"}
    assert rules("note", tls=TLS, holds=["queues"], full_coverage=False) == {"failover"}


@pytest.mark.parametrize(
    ("deploy", "rule"),
    [
        ({"policy": "allkeys-lru", "holds": ["cache", "sessions"]}, "eviction"),
        ({"policy": "allkeys-random", "holds": ["queues"]}, "eviction"),
        ({"policy": "volatile-lru", "holds": ["cache", "sessions"]}, "eviction"),
        ({"maxmemory": "unlimited"}, "maxmemory"),
        ({"nodes": LOCAL, "redis": {"password": None}}, "password"),
        ({"appendonly": False}, "persistence"),
        ({"user": ""}, "root"),
        ({"replicas": 0}, "replicas"),
        ({"nodes": LOCAL, "start": "compose", "compose": {"network": "bridge"},
          "announce": {each: f"203.0.113.5:{each[-4:]}" for each in LOCAL}}, "published"),
        ({"timeout_ms": 500}, "node-timeout"),
        ({"timeout_ms": 60_000}, "node-timeout"),
        ({"nodes": [f"r1:{port}" for port in range(7000, 7006)]}, "one-host"),
    ],
)  # fmt: skip
def test_each_risk_alone(deploy: dict[str, Any], rule: str) -> None:
    assert rules(**deploy) == {rule}


def test_a_mere_cache_may_evict() -> None:
    assert "eviction" not in rules(policy="allkeys-lru", holds=["cache"]) | rules(
        "note", policy="allkeys-lru", holds=["cache"]
    )
    said = [each for each in deployment_reasons(cluster(policy="allkeys-lru")) if each.rule == "eviction"]
    assert "420 to 460 of 2000 sessions" in said[0].what


def test_one_machine_of_ones_own_is_only_noted() -> None:
    assert "one-host" in rules("note", nodes=LOCAL)


def test_what_a_machine_says() -> None:
    told = "overcommit_memory=0\nsomaxconn=128\nenabled=[always] madvise never\nfiles=1024\nmemory=2097152\n"
    facts = parse_machine(told)
    assert facts == MachineFacts(overcommit=0, backlog=128, huge_pages=True, files=1024, memory=2 << 30)
    found = cluster(LOCAL, start="process", maxmemory="1gb")
    assert [each.rule for each in machine_reasons(found, "", facts)] == [
        "overcommit", "somaxconn", "huge-pages", "files", "memory"
    ]  # fmt: skip
    assert machine_reasons(cluster(LOCAL, maxmemory="1gb"), "", replace(facts, overcommit=1, backlog=4096,
                           huge_pages=False, memory=16 << 30)) == ()  # fmt: skip


def test_a_name_that_means_the_machine_itself() -> None:
    """Debian's installer writes the machine's own name as 127.0.1.1; a node would listen there alone."""
    facts = parse_machine("name:r1=127.0.1.1\nname:10.0.0.3=10.0.0.3\n")
    (reason,) = machine_reasons(cluster(), "r1", facts)
    assert (reason.rule, reason.what.partition(":")[0]) == ("name", "r1 is 127.0.1.1 there")


def test_a_machine_that_says_nothing_is_not_judged() -> None:
    silent = parse_machine("overcommit_memory=\nsomaxconn=\nenabled=\nfiles=unlimited\n")
    assert silent == MachineFacts()
    assert machine_reasons(cluster(LOCAL, start="process"), "", silent) == ()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no /proc")
def test_this_machine_is_understood() -> None:
    command = ["sh", "-c", MACHINE_SCRIPT, "sh", "localhost", "no-such-name.invalid", "127.0.0.1"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    facts = parse_machine(told)
    assert facts.overcommit in (0, 1, 2)
    assert facts.memory is not None
    assert facts.memory > 1 << 28
    assert facts.names["localhost"] in ("127.0.0.1", "::1")
    assert facts.names["no-such-name.invalid"] == ""
    assert facts.names["127.0.0.1"] == "127.0.0.1"


def test_settings_in_force_are_compared_with_the_environments() -> None:
    found = cluster(maxmemory="2gb")
    same = {
        "maxmemory": str(2 << 30), "maxmemory-policy": "noeviction", "appendonly": "yes",
        "cluster-node-timeout": "5000", "cluster-require-full-coverage": "yes",
    }  # fmt: skip
    assert outdated_reasons(found, {"r1:7000": same, "r2:7000": {}}) == ()
    (reason,) = outdated_reasons(found, {"r1:7000": same | {"maxmemory": str(1 << 30)}})
    assert (reason.where, reason.rule) == ("r1:7000", "outdated")
    assert reason.action.startswith(f"CONFIG SET maxmemory {2 << 30} there")


def test_a_primary_must_not_come_back_empty_before_its_replica_is_promoted() -> None:
    nodes = topology()
    ids = {"r1:7000": node_id(0), "r2:7001": node_id(4)}
    assert emptied_by_start(look_of(nodes), ids) == ("r1:7000",), "node 4 is a replica of another"
    assert emptied_by_start(look_of(nodes), ids | {"r2:7002": node_id(3)}) == (), "its replica has nothing either"
    promoted = tuple(
        replace(node, slots=nodes[0].slots, flags=("master",), primary_id="") if node.id == node_id(3)
        else replace(node, slots=(), flags=("master", "fail")) if node.id == node_id(0) else node
        for node in nodes
    )  # fmt: skip
    assert emptied_by_start(look_of(promoted), {"r1:7000": node_id(0)}) == ()


def test_without_a_majority_the_replicas_to_promote_are_named() -> None:
    """Primaries 0 to 2 with replicas 3 to 5; who is down has no answer."""

    def found(*down: int) -> Look:
        gone = {"error": "nothing listens at its port", "view": (), "info": {}}
        return look_of(topology(), {number: dict(gone) for number in down})

    assert heirs_without_votes(found(0), [node_id(0)]) == ()
    assert heirs_without_votes(found(0, 1), [node_id(0), node_id(1)]) == ("10.0.0.3:7003", "10.0.0.4:7004")
    assert heirs_without_votes(found(0, 1, 4), [node_id(0)]) == ("10.0.0.3:7003",)
