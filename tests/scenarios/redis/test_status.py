"""The state of six real servers is told as it is: whole, broken, frozen, divided, full."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.status import redis_status
from credscale.testing import wait_for
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.scenario


def failure(cluster: RedisNodes, /, **redis: Any) -> Any:
    """Return the result of a probe that must fail; its reasons are at hand in ``rules``."""
    with pytest.raises(StepFailed) as caught:
        redis_status(cluster.context(**redis))
    return caught.value.result


def rules(result: Any, where: str | None = None) -> set[str]:
    """Return the rules that failed, of all nodes or of one."""
    rows = [row for row in result.output["problems"] if row["severity"] == "failed"]
    return {row["rule"] for row in rows if where in (None, row["where"])}


def test_healthy(shared_redis: RedisNodes) -> None:
    ctx = shared_redis.context()
    result = redis_status(ctx)
    assert result.status is Status.OK
    assert "6 of 6 nodes answer, 3 primaries with 16384 slots, 3 replicas, state ok" in result.summary
    rows = result.output["rows"]
    assert [row["role"] for row in rows] == ["primary", "replica"] * 3
    assert [row["slots"] for row in rows if row["role"] == "primary"] == [5461, 5462, 5461]
    assert all(row["replica of"] == above["node"] for above, row in zip(rows[::2], rows[1::2], strict=True))
    assert {row["replication"] for row in rows} == {"up", "1 attached"}
    assert {row["bus links"] for row in rows} == {10}
    assert [isinstance(row["lag (bytes)"], int) for row in rows] == [False, True] * 3
    assert {row["rule"] for row in result.output["problems"]} == {"one-host"}
    assert gate(shared_redis.look(), nodes=6, replicas=1) == ()
    assert "image/png" in result._repr_mimebundle_()
    assert shared_redis.password not in json.dumps(ctx.journal.events)


def test_one_node_is_enough_to_find_the_others(shared_redis: RedisNodes) -> None:
    result = redis_status(shared_redis.context(nodes=shared_redis.addresses[:1]))
    assert "6 of 6 nodes answer" in result.summary
    assert {row["rule"] for row in result.output["problems"]} == {"one-host", "inventory"}


def test_name_with_two_addresses_is_pinned(shared_redis: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = shared_redis.addresses[0].rpartition(":")
    monkeypatch.setattr("credscale.redis_cluster.cluster.views.resolve", lambda _: ("127.0.0.9", host))
    result = redis_status(shared_redis.context(nodes=[f"redis.example:{port}"]))
    said = [row["what"] for row in result.output["problems"] if row["rule"] == "name"]
    assert said[0] == f"its name stands for {host}, 127.0.0.9; {host} was asked"


def test_wrong_and_missing_password(shared_redis: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "not-the-password")
    wrong = failure(shared_redis, password="env:WRONG")
    assert {row["answer"] for row in wrong.output["rows"]} == {"it refuses our user and password"}
    assert "not-the-password" not in json.dumps(wrong.to_json())
    missing = failure(shared_redis, password=None)
    assert all("wants a password" in row["answer"] for row in missing.output["rows"])
    assert "0 of 6 nodes answer" in missing.error


def test_unknown_name_and_nothing_there(shared_redis: RedisNodes) -> None:
    nodes = [*shared_redis.addresses, "no-such-host.invalid:7000", "127.0.0.1:1"]
    result = failure(shared_redis, nodes=nodes)
    answers = {row["node"]: row["answer"] for row in result.output["rows"]}
    assert answers["no-such-host.invalid:7000"] == "its name does not resolve"
    assert answers["127.0.0.1:1"] == "nothing listens at its port"
    assert len(answers) == 8


def test_killed_primary_is_named_and_its_replica_takes_over(redis_cluster: RedisNodes) -> None:
    victim = redis_cluster.by_role("primary")[0]
    redis_cluster.kill(victim)
    result = failure(redis_cluster)
    assert (
        next(row["answer"] for row in result.output["rows"] if row["node"] == victim) == "nothing listens at its port"
    )
    assert f"{victim}: nothing listens at its port" in result.error

    def promoted() -> bool:
        return len(redis_cluster.by_role("primary")) == 4 and rules(failure(redis_cluster)) == {"answer", "flags"}

    wait_for(promoted, 20)
    after = failure(redis_cluster)
    assert rules(after, victim) == {"answer", "flags"}
    assert "it has no replica" in json.dumps(after.output["problems"])
    redis_cluster.spawn(victim)
    wait_for(lambda: not gate(redis_cluster.look(), nodes=6, replicas=1), 30)
    assert redis_status(redis_cluster.context()).status is Status.OK
    assert victim in redis_cluster.by_role("replica")


def test_frozen_node_does_not_hold_the_report_up(redis_cluster: RedisNodes) -> None:
    frozen = redis_cluster.by_role("replica")[0]
    redis_cluster.freeze(frozen)
    result = failure(redis_cluster)
    assert result.duration < 10  # the deadline is 2 s; the rest is for a machine under load
    answer = next(row for row in result.output["rows"] if row["node"] == frozen)
    assert "no answer within" in answer["answer"]
    assert answer["role"] == "replica"  # the others tell what it is
    assert len(result.output["rows"]) == 6
    redis_cluster.thaw(frozen)
    wait_for(lambda: not gate(redis_cluster.look(), nodes=6), 30)


def test_slot_on_its_way_and_views_that_differ(redis_cluster: RedisNodes) -> None:
    giver, taker = redis_cluster.look().nodes[:2]  # the fixture makes primaries of the first ones
    slot = 0
    redis_cluster.client(taker.address).execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", giver.id)
    redis_cluster.client(giver.address).execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", taker.id)
    moving = redis_status(redis_cluster.context())
    assert {(row["node"], row["way"], row["slot"]) for row in moving.output["open_slots"]} == {
        (giver.address, "migrating", slot),
        (taker.address, "importing", slot),
    }
    for address in (giver.address, taker.address):
        redis_cluster.client(address).execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    redis_cluster.client(giver.address).execute_command("CLUSTER", "DELSLOTS", slot)
    # The others go on to believe that it owns the slot: nobody else claims it.
    result = wait_for(lambda: failure(redis_cluster) if rules(failure(redis_cluster)) & {"agreement"} else None, 10)
    assert "agreement" in rules(result, giver.address)
    said = [row["what"] for row in result.output["problems"] if row["where"] == giver.address]
    assert f"it sees {giver.address} with 1-5460, most with 0-5460" in said


def test_stranger_in_the_inventory(redis_cluster: RedisNodes) -> None:
    (stranger,) = redis_cluster.start(1)
    result = failure(redis_cluster)
    assert "stranger" in rules(result, stranger)
    assert len(result.output["rows"]) == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs several loopback addresses")
def test_shard_with_both_nodes_on_one_host(tmp_path: Path) -> None:
    nodes = RedisNodes(tmp_path, hosts=3)
    try:
        nodes.form(nodes.start(6))  # node n and its replica n + 3 are on host n modulo 3
        result = redis_status(nodes.context())
    finally:
        nodes.end()
    warned = [row for row in result.output["problems"] if row["rule"] == "anti-affinity"]
    assert [row["where"] for row in warned] == nodes.addresses[:3]
    assert [row["heals itself"] for row in result.output["hosts"]] == [False] * 3
