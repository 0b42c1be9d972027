"""The probes show what every host told, fail for what is wrong, and never lose the others' answers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import ConnectFailed, EnvironmentInvalid, StepFailed
from credscale.core.runbook import RunFailed
from credscale.core.step import Status
from credscale.hosts.choosing import chosen_hosts, roles_of
from credscale.hosts.judging import Seen
from credscale.hosts.probes import (
    sentence,
    verify_clocks,
    verify_disk,
    verify_hosts,
    verify_huge_pages,
    verify_limits,
    verify_versions,
)
from credscale.hosts.steps import STEPS
from runbooks.host_check import host_check
from tests.hosts.fakes import context

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.step import Result, Step

CLOSED = ConnectFailed("d2.example cannot be reached: connection refused", "refused")
SILENT = ConnectFailed("d3.example did not answer", "timed out")


def failed(step: Step[Any], ctx: Context, **params: Any) -> Result:
    with pytest.raises(StepFailed) as caught:
        step(ctx, **params)
    return caught.value.result


def test_disks_of_all_hosts_with_the_worst_on_top() -> None:
    ctx = context({"d1": "debian", "d2": CLOSED, "d3": SILENT, "d4": "busybox"})
    result = failed(verify_disk, ctx, paths="/")
    assert [(row["severity"], row["host"]) for row in result.output["rows"]] == [
        ("stop", "d2"), ("stop", "d3"), ("ok", "d1"), ("ok", "d4"),
    ]  # fmt: skip
    assert result.summary == "disks: d2 refused; d3 timed out. 2 of 4 hosts answered"
    assert result.output["rows"][2]["full"] == "33 %"
    assert len({tuple(row) for row in result.output["rows"]}) == 1, "all rows have the same columns"


def test_so_many_hosts_may_fail_to_answer() -> None:
    ctx = context({"d1": "debian", "d2": CLOSED, "d3": SILENT})
    result = verify_disk(ctx, errors_allowed=2)
    assert result.status is Status.OK
    assert result.summary == "disks: 1 of 3 hosts answered, 2 warnings"
    assert [row["severity"] for row in result.output["rows"]] == ["warn", "warn", "ok"]
    assert failed(verify_disk, ctx, errors_allowed=1).status is Status.FAILED


def test_a_disk_that_is_too_full_fails_by_what_is_asked_for() -> None:
    ctx = context({"d1": "debian"})
    assert "d1: / is 32.6 % full, allowed are 20 %" in failed(verify_disk, ctx, most_used_percent=20.0).summary
    assert "expected are 500 GB" in failed(verify_disk, ctx, least_free_gb=500.0).summary


@pytest.mark.parametrize(
    ("probe", "params", "what"),
    [
        (verify_limits, {"open_files": 100_000}, "mongod may have only 64000 open files, needed are 100000"),
        (verify_limits, {"maxclients": 20_000}, "redis-server may have only 10032 open files, needed are 20032"),
        (verify_huge_pages, {}, "huge pages are always on, MongoDB 7.0.14 wants never or madvise"),
    ],
)
def test_each_probe_fails_for_its_own(probe: Step[Any], params: dict[str, Any], what: str) -> None:
    assert what in failed(probe, context({"d1": "servers"}), **params).summary


def test_clocks_and_versions_of_hosts_that_are_in_order() -> None:
    ctx = context({"d1": "debian", "d2": "debian"})
    assert verify_versions(ctx).summary == "versions: 2 of 2 hosts answered, all in order"
    result = failed(verify_clocks, ctx)  # recorded long ago, so it is this machine that differs
    assert [row["host"] for row in result.output["rows"] if row["severity"] == "stop"] == ["this machine"]


def test_a_host_is_named_once_for_what_many_of_its_processes_have() -> None:
    stops = [Seen("stop", host, what="mongod may have few files") for host in ("d1", "d1", "d2", "d1")]
    assert sentence((), stops) == "d1, d2: mongod may have few files"


def test_one_look_at_all_asks_every_host_once() -> None:
    ctx = context({"d1": "servers", "d2": CLOSED, "d3": "macos"})
    result = failed(verify_hosts, ctx, paths="/")
    assert set(result.output) == {"rows", "disks", "clocks", "limits", "huge_pages", "versions"}
    assert [row["host"] for row in result.output["disks"]] == ["d1", "d3"]
    problems = [(row["severity"], row["host"]) for row in result.output["rows"]]
    assert problems.count(("stop", "d2")) == 1
    assert all(severity != "ok" for severity, _ in problems)
    assert "d2 refused" in result.summary
    json.dumps(result.to_json())


def test_the_runbook_fails_with_the_reasons() -> None:
    with pytest.raises(RunFailed, match="d2 refused"):
        host_check(context({"d1": "debian", "d2": CLOSED}))


def test_without_a_section_hosts_it_is_this_machine() -> None:
    assert verify_disk(context({"": "debian"})).output["rows"][0]["host"] == "this machine"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hosts": "shard9"}, "no host 'shard9' in the section hosts. Did you mean 'shard1'? Known: shard1, bastion"),
        ({"paths": "data"}, "'data' is not an absolute path"),
        ({"paths": "/a\n/b"}, "is not an absolute path"),
        ({"paths": " , "}, "paths names no path"),
        ({"most_used_percent": 0.0}, "most_used_percent must be above 0"),
        ({"most_used_percent": float("nan")}, "most_used_percent must be above 0"),
        ({"least_free_gb": -1.0}, "least_free_gb must be 0 or more"),
        ({"parallel": 0}, "parallel must be from 1"),
        ({"timeout": -1.0}, "timeout must be above 0"),
    ],
)
def test_odd_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(StepFailed, match=re.escape(message)) as caught:
        verify_disk(context({"shard1": "debian", "bastion": "debian"}), **params)
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)


def test_patterns_choose_in_the_inventorys_order() -> None:
    environment = context({"b": "debian", "shard2": "debian", "shard1": "debian"}).environment
    assert chosen_hosts(environment, "") == ("b", "shard2", "shard1")
    assert chosen_hosts(environment, "shard1, shard*") == ("shard2", "shard1")
    assert chosen_hosts(environment, "shard?,b") == ("b", "shard2", "shard1")
    assert chosen_hosts(context({}).environment, "") == ("",)


def test_roles_come_from_the_clusters() -> None:
    mongo = {
        "uri": "mongodb://r:1/", "config_servers": {"replica_set": "c", "members": ["s1:1"]},
        "shards": [{"replica_set": "s", "members": ["s1:2", "s2.example:2"]}], "routers": ["127.0.0.1:3"],
    }  # fmt: skip
    told = {"s1": "debian", "s2": "debian", "bastion": "debian"}
    assert roles_of(context(told, mongo=mongo, redis={"nodes": ["s2:7000"]}).environment) == {
        "s1": "config server, shard", "s2": "redis, shard",
    }  # fmt: skip


def test_every_step_is_listed_once() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
