"""What an environment means, and what it must not ask for."""

from __future__ import annotations

from typing import Any

import pytest

from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid
from credscale.redis_cluster.deploy.layout import layout
from tests.redis_cluster.deploy.test_files import cluster


def test_paths_and_names_of_a_node() -> None:
    node = cluster(directory="/srv/redis/").nodes[1]
    assert (node.host, node.port, node.bus_port, node.machine) == ("r2", 7000, 17000, "r2")
    assert node.config == "/srv/redis/7000/redis.conf"
    assert (node.data, node.unit, node.service) == (
        "/srv/redis/7000/data",
        "credscale-redis-7000.service",
        "redis-7000",
    )
    assert node.where == "node r2:7000"


def test_machines_in_the_order_of_their_nodes() -> None:
    found = cluster()
    assert found.machines == ("r1", "r2", "10.0.0.3")
    assert [node.address for node in found.on("r2")] == ["r2:7000", "r2:7001"]


def test_without_the_section_there_is_nothing_to_deploy() -> None:
    with pytest.raises(EnvironmentInvalid, match=r"redis.nodes and redis.deploy"):
        layout(Environment.model_validate({"name": "unit", "redis": {"nodes": ["127.0.0.1:7000"]}}))


@pytest.mark.parametrize(
    ("nodes", "deploy", "said"),
    [
        (["r1:7000", "r1:17000", "r2:7000"], {}, "r1:7000 and r1:17000 are on one machine and both want port 17000"),
        (["127.0.0.1:7000", "127.0.0.2:7000", "r2:7000"], {}, "both want port 7000"),
        (["r1:7000", "r2:7000", "10.0.0.3:7000"], {"start": "compose", "compose": {"network": "bridge"}},
         "with compose.network bridge r1:7000 needs an address"),
        (["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"], {"start": "compose", "compose": {"network": "bridge"}},
         "with compose.network bridge 127.0.0.1:7000 needs an address"),
    ],
)  # fmt: skip
def test_nodes_in_each_others_way(nodes: list[str], deploy: dict[str, Any], said: str) -> None:
    with pytest.raises(EnvironmentInvalid) as caught:
        cluster(nodes, replicas=0, **deploy)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("users", "own", "said"),
    [
        (["app", "app"], None, "app is the user of another entry"),
        (["ops"], "ops", "ops is the user of another entry, or the tool's own"),
        (["default"], None, "default is the user"),
    ],
)
def test_each_user_exists_once(users: list[str], own: str | None, said: str) -> None:
    with pytest.raises(EnvironmentInvalid) as caught:
        cluster(users=[{"name": name, "password": "env:P"} for name in users], redis={"user": own})
    assert said in str(caught.value)


@pytest.mark.parametrize("rule", ["nopass", "resetpass", "reset", "NOPASS", "ResetPass"])
def test_rules_cannot_take_the_password_away(rule: str) -> None:
    with pytest.raises(EnvironmentInvalid, match="the rules of app would take its password away"):
        cluster(users=[{"name": "app", "password": "env:P", "rules": f"~* +@all {rule}"}])
