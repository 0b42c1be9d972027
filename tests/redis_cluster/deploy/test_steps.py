"""The steps where no server is needed: risks are told whatever happens, clients are told what they need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed, StepFailed
from credscale.core.journal import Journal
from credscale.core.machines import Completed
from credscale.core.secrets import Secrets
from credscale.core.step import Status
from credscale.redis_cluster.deploy.creation import cluster_ready, wanted_cluster
from credscale.redis_cluster.deploy.steps import client_settings, deployment_risks, start_nodes, write_node_files
from tests.redis_cluster.deploy.test_processes import Played
from tests.redis_cluster.fakes import FakeNodes, topology

if TYPE_CHECKING:
    from pathlib import Path

HOSTS = {f"r{number}": {"address": f"10.0.0.{number}"} for number in range(3)}


class Unreachable(Played):
    """A machine that nobody gets to."""

    def run(self, argv: Any, **_: Any) -> Completed:
        raise ConnectFailed("r0 (10.0.0.0:22) cannot be reached over SSH: timed out")


def context(machine: Any, *, folder: Path | None = None, **deploy: Any) -> Context:
    nodes = topology(hosts=3)
    redis = {
        "nodes": [node.address for node in nodes], "password": "env:REDIS",
        "deploy": {"maxmemory": "400mb", "user": "redis", **deploy},
    }  # fmt: skip
    environment = Environment.model_validate({"name": "unit", "redis": redis, "hosts": HOSTS})
    secrets = Secrets()
    clients: Any = SimpleNamespace(machine=lambda _name: machine, redis_node=FakeNodes(nodes).redis_node)
    return Context(environment, Journal(None, secrets.mask), clients, secrets, folder=folder)


def test_risks_are_told_even_of_machines_that_nobody_reaches() -> None:
    result = deployment_risks(context(Unreachable()))
    assert result.status is Status.OK
    unknown = [row for row in result.output["rows"] if row["rule"] == "machine"]
    assert [row["where"] for row in unknown] == ["r0", "r1", "r2"]
    assert result.summary.startswith("no risks; ")


def test_a_running_node_with_another_setting_is_a_risk() -> None:
    result = deployment_risks(context(Played(), maxmemory="200mb"))
    assert result.summary == "6 risks: outdated"
    assert [row["severity"] for row in result.output["rows"]][:6] == ["warn"] * 6


def test_without_systemd_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS", "topsecret")
    with pytest.raises(StepFailed, match=r"r1 has no systemd. Nothing was changed. Set redis.deploy.start"):
        write_node_files(context(Played({"no systemctl": Completed(1, b"", b"")})))


def test_what_may_not_be_touched_stops_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS", "topsecret")
    old = Completed(0, b"Redis server v=6.0.16", b"")
    absent = Completed(44, b"", b"")
    machine = Played({"/usr/bin/redis-server --version": old, "sh -c d=$1": absent}, listening=False)
    for step in (write_node_files, start_nodes):
        with pytest.raises(StepFailed, match=r"6.0.16; 6.2 or later is needed. Nothing was changed") as caught:
            step(context(machine))
        assert caught.value.result.changes == []


def test_a_machine_counts_once_by_whichever_address() -> None:
    ctx = context(Played())
    ctx.environment.redis.nodes[1:3] = ["r0:7001", "127.0.0.1:7002"]  # type: ignore[union-attr]
    hosts = wanted_cluster(ctx).hosts
    assert hosts["10.0.0.0:7000"] == hosts["r0:7001"] == "r0"
    assert "127.0.0.1:7002" not in hosts, "this machine's nodes go by their IP address"


@pytest.mark.parametrize(("replicas", "ready"), [(1, True), (2, False)])
def test_ready_is_only_who_has_its_replicas(replicas: int, ready: bool) -> None:
    ctx = context(Played(), replicas=replicas)
    if ready:
        assert cluster_ready(ctx).summary.startswith("ready: ")
        return
    with pytest.raises(StepFailed, match="has 1 replicas, expected at least 2.*redis-add-node .*--replica-of 10.0.0.0"):
        cluster_ready(ctx)


def test_clients_find_their_settings_in_the_runs_folder(tmp_path: Path) -> None:
    result = client_settings(context(Played(), folder=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["client.env", "client.py", "client.ts"]
    assert result.output["rows"][0] == {"variable": "REDIS_CLUSTER_MODE", "value": "true"}
    assert result.output["client.env"] == (tmp_path / "client.env").read_text()
    assert client_settings(context(Played())).summary == "client.env, client.ts and client.py"
