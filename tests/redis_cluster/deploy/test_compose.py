"""The Compose file: complete, without a password, reachable where it must be."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from credscale.redis_cluster.deploy.client_settings import env_text, python, typescript, variables
from credscale.redis_cluster.deploy.compose import compose_file, health_command, service_of
from credscale.testing import require
from tests.redis_cluster.deploy.test_files import TLS, cluster

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = [f"127.0.0.1:{port}" for port in range(7000, 7006)]
BRIDGE = {"start": "compose", "compose": {"network": "bridge"}}


def test_six_services_on_one_machine() -> None:
    found = cluster(LOCAL, start="compose")
    file = compose_file(found, "", "1000:1000")
    document = yaml.safe_load(file.data)
    assert file.path == "/var/lib/redis/compose.yaml"
    assert list(document["services"]) == [f"redis-{port}" for port in range(7000, 7006)]
    service = document["services"]["redis-7000"]
    assert service["network_mode"] == "host"
    assert service["user"] == "1000:1000"
    assert service["command"] == ["redis-server", "/var/lib/redis/7000/redis.conf"]
    assert service["volumes"] == [
        "/var/lib/redis/7000/redis.conf:/var/lib/redis/7000/redis.conf:ro",
        "/var/lib/redis/7000/secrets.conf:/var/lib/redis/7000/secrets.conf:ro",
        "/var/lib/redis/7000/data:/var/lib/redis/7000/data",
    ]
    assert b"version:" not in file.data, "Compose v2 and later warn of it"


def test_each_machine_has_its_own_nodes() -> None:
    found = cluster(start="compose")
    assert list(yaml.safe_load(compose_file(found, "r2", "999:999").data)["services"]) == ["redis-7000", "redis-7001"]


def test_a_bridge_publishes_the_bus_as_well() -> None:
    found = cluster(**BRIDGE, announce={address: f"203.0.113.5:{address[-4:]}" for address in LOCAL}, nodes=LOCAL)
    document = yaml.safe_load(compose_file(found, "", "999:999").data)
    assert document["services"]["redis-7001"]["ports"] == ["7001:7001", "17001:17001"]
    assert document["services"]["redis-7001"]["networks"] == list(document["networks"])
    assert "network_mode" not in document["services"]["redis-7001"]


@pytest.mark.parametrize(
    ("bind", "ports"),
    [
        ("10.0.0.7", ["10.0.0.7:7000:7000", "127.0.0.1:7000:7000"]),
        ("127.0.0.1 fd00::7", ["127.0.0.1:7000:7000", "[fd00::7]:7000:7000"]),
        ("10.0.0.7 ::1", ["10.0.0.7:7000:7000", "[::1]:7000:7000", "127.0.0.1:7000:7000"]),
        ("*", ["7000:7000"]),
    ],
)
def test_ports_are_published_where_the_inventory_says(bind: str, ports: list[str]) -> None:
    announce = {address: f"203.0.113.5:{address[-4:]}" for address in LOCAL}
    found = cluster(LOCAL, **BRIDGE, announce=announce, bind=bind)
    published = service_of(found.nodes[0], found, "1:1")["ports"]
    assert published[: len(ports)] == ports
    assert len(published) == 2 * len(ports)


def test_a_container_without_its_data_stays_down() -> None:
    kept, emptied = cluster(start="compose"), cluster(start="compose", appendonly=False)
    assert service_of(kept.nodes[0], kept, "1:1")["restart"] == "unless-stopped"
    assert service_of(emptied.nodes[0], emptied, "1:1")["restart"] == "no"


def test_health_needs_no_password() -> None:
    plain, secured = cluster(start="compose"), cluster(start="compose", tls=TLS)
    assert health_command(plain.nodes[0], plain) == "redis-cli -p 7000 ping 2>&1 | grep -qE 'PONG|NOAUTH'"
    assert "--tls --cacert /etc/ssl/ca.pem" in health_command(secured.nodes[0], secured)
    assert "/etc/ssl/redis.key:/etc/ssl/redis.key:ro" in service_of(secured.nodes[0], secured, "1:1")["volumes"]


@pytest.mark.parametrize("network", ["host", "bridge"])
def test_compose_itself_accepts_it(network: str, tmp_path: Path) -> None:
    program = require("docker-compose")
    announce = {address: f"203.0.113.5:{address[-4:]}" for address in LOCAL}
    found = cluster(LOCAL, start="compose", compose={"network": network}, announce=announce)
    path = tmp_path / "compose.yaml"
    path.write_bytes(compose_file(found, "", "999:999").data)
    done = subprocess.run(
        [program, "-p", "unit", "-f", str(path), "config"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert len(yaml.safe_load(done.stdout)["services"]) == 6


def test_clients_are_told_everything_but_the_password() -> None:
    users = [{"name": "app", "password": "env:APP_PASSWORD"}]
    found = cluster(LOCAL, users=users, announce={LOCAL[0]: "203.0.113.5:17000"})
    assert variables(found)["REDIS_CLUSTER_NODES"].startswith("203.0.113.5:17000,127.0.0.1:7001,")
    assert variables(found)["REDIS_CLUSTER_MODE"] == "true"
    assert "REDIS_CLUSTER_USERNAME=app\n" in env_text(found)
    assert "\nREDIS_CLUSTER_PASSWORD" not in env_text(found)
    assert "env:APP_PASSWORD" in env_text(found)
    assert "password: process.env.REDIS_CLUSTER_PASSWORD," in typescript(found)
    assert "{ url: 'redis://203.0.113.5:17000' }," in typescript(found)
    compile(python(found), "client.py", "exec")
    assert 'os.environ["REDIS_CLUSTER_PASSWORD"]' in python(found)


def test_clients_of_an_open_or_encrypted_cluster() -> None:
    bare = cluster(LOCAL, redis={"password": None})
    assert "password" not in typescript(bare) + python(bare) + env_text(bare)
    secured = cluster(tls=TLS)
    assert "rediss://r1:7000" in typescript(secured)
    assert "tls: true" in typescript(secured)
    assert "ssl=True" in python(secured)
    assert "REDIS_CLUSTER_TLS=true\n" in env_text(secured)
