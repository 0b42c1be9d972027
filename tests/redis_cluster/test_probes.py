"""The probes as their users see them: a hundred nodes in one table, reasons in one sentence, and the section redis."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid, StepFailed
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.core.step import Status
from credscale.redis_cluster import plots
from credscale.redis_cluster.memory.report import redis_memory
from credscale.redis_cluster.status import redis_status
from credscale.redis_cluster.steps import STEPS
from tests.redis_cluster.fakes import FakeNodes, topology


def context(fake: Any, addresses: list[str]) -> Context:
    environment = Environment.model_validate({"name": "unit", "redis": {"nodes": addresses}})
    secrets = Secrets()
    return Context(environment, Journal(None, secrets.mask), fake, secrets)


def test_hundred_nodes() -> None:
    nodes = topology(50, 1)
    result = redis_status(context(FakeNodes(nodes), [node.address for node in nodes]))
    assert result.status is Status.OK
    assert result.summary.startswith("100 of 100 nodes answer, 50 primaries with 16384 slots, 50 replicas, state ok")
    assert [row["role"] for row in result.output["rows"]] == ["primary", "replica"] * 50
    assert len(result.output["hosts"]) == 100
    picture = base64.b64decode(plots.slot_map(result.output)["image/png"])
    assert picture.startswith(b"\x89PNG")


def test_failure_has_all_rows_and_says_why_once() -> None:
    nodes = topology(50, 1)
    fake = FakeNodes(nodes, dead=range(60, 80))
    with pytest.raises(StepFailed) as caught:
        redis_status(context(fake, [node.address for node in nodes]))
    text = str(caught.value)
    assert (
        "the Redis Cluster is not healthy: 10.0.0.60:7060, 10.0.0.61:7061, 10.0.0.62:7062 and 17 more: nothing " in text
    )
    assert len(text) < 400
    rows = caught.value.result.output["rows"]
    assert len(rows) == 100
    assert {row["role"] for row in rows if row["answer"] != "ok"} == {"replica"}  # told by the others
    assert all(isinstance(value, str | int | float | bool | None) for row in rows for value in row.values())


def test_nothing_answers() -> None:
    nodes = topology()
    fake = FakeNodes(nodes, dead=range(6))
    for probe in (redis_status, lambda ctx: redis_memory(ctx, interval=0.0)):
        with pytest.raises(StepFailed) as caught:
            probe(context(fake, [node.address for node in nodes]))
        assert "nothing listens at its port" in str(caught.value)


def test_memory_without_a_sample() -> None:
    nodes = topology()
    result = redis_memory(context(FakeNodes(nodes), [node.address for node in nodes]), sample=0, interval=0.0)
    assert result.summary == ("3 primaries use 300.0 MB of 1.2 GB for 3,000 keys, fullest 10.0.0.0:7000 with 25%")
    assert base64.b64decode(plots.memory_bars(result.output)["image/png"]).startswith(b"\x89PNG")
    assert len(result.output["history"]) == 1


@pytest.mark.parametrize("parameters", [{"sample": -1}, {"sample": 10**7}, {"interval": -1.0}, {"interval": 61.0}])
def test_bad_parameters(parameters: dict[str, Any]) -> None:
    with pytest.raises(StepFailed) as caught:
        redis_memory(context(FakeNodes(topology()), ["10.0.0.0:7000"]), **parameters)
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)


def test_no_figure_without_nodes() -> None:
    assert plots.slot_map({}) == {}
    assert plots.memory_bars({"rows": []}) == {}


def test_what_only_looks_is_a_probe() -> None:
    names = {step.name for step in STEPS if step.kind == "probe"}
    assert names == {
        "redis_status", "redis_memory", "deployment_risks", "cluster_ready", "client_settings", "drill_allowed",
    }  # fmt: skip


def test_environment_without_redis() -> None:
    environment, secrets = Environment(name="unit"), Secrets()
    ctx = Context(environment, Journal(None, secrets.mask), Clients(environment, secrets), secrets)
    with pytest.raises(StepFailed, match="has no section redis"):
        redis_status(ctx)


def test_node_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIT_REDIS", "correct-horse")
    section = {"nodes": ["[::1]:7000"], "user": "ops", "password": "env:UNIT_REDIS", "tls": {"ca": "/ca.pem"}}
    environment, secrets = Environment.model_validate({"name": "unit", "redis": section}), Secrets()
    clients = Clients(environment, secrets)
    node = clients.redis_node("[::1]:7000", timeout=1.5)
    assert clients.redis_node("[::1]:7000", timeout=1.5) is node
    options = node.connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["username"], options["password"]) == (
        "::1", 7000, "ops", "correct-horse",
    )  # fmt: skip
    assert (options["socket_timeout"], options["socket_connect_timeout"], options["protocol"]) == (1.5, 1.5, 2)
    assert options["retry"].get_retries() == 0
    assert (options["ssl_ca_certs"], options["ssl_cert_reqs"], options["ssl_check_hostname"]) == (
        "/ca.pem",
        "required",
        True,
    )
    assert "correct-horse" not in secrets.mask("it is correct-horse")
    clients.close()


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"nodes": []}, "give at least one host:port"),
        ({"nodes": ["a:1"], "user": "ops"}, "user needs a password"),
        ({"nodes": ["a:1"], "password": "plain"}, "must be a secret reference"),
        ({"nodes": ["a:1"], "tls": {"ca": "/ca", "key": "/key"}}, "certificate and key belong together"),
    ],
)
def test_bad_section(section: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Environment.model_validate({"name": "unit", "redis": section})
