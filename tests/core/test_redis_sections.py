"""The section redis of an environment file: what redis-deploy could not build safely is refused by line and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.core.environment import load
from credscale.core.errors import EnvironmentInvalid
from credscale.core.sections import RedisUser

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
name: prod
hosts:
  a: {address: 10.0.0.1}
  b: {address: 10.0.0.2}
  c: {address: 10.0.0.3}
redis:
  nodes:
    - a:7000
    - b:7000
    - c:7000
    - a:7001
    - b:7001
    - c:7001
  password: env:REDIS_PASSWORD
  deploy:
    maxmemory: 2gb
    policy: noeviction
    announce: {"a:7000": "192.0.2.1:7000"}
"""
TLS = "tls: {certificate: /tls/node.crt, key: /tls/node.key, ca: /tls/ca.crt}"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "env.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_good_section(tmp_path: Path) -> None:
    redis = load(write(tmp_path, GOOD)).redis
    assert redis is not None
    assert redis.deploy is not None
    assert redis.deploy.replicas == 1
    assert redis.deploy.announce == {"a:7000": "192.0.2.1:7000"}


def test_a_users_own_rules_allow_what_clients_of_a_cluster_ask() -> None:
    """Before 7.0 all of CLUSTER is administration."""
    rules = RedisUser(name="app", password="env:APP").rules.split()
    assert rules.index("-@dangerous") < rules.index("+cluster|slots")
    assert {"+cluster|nodes", "+cluster|shards", "+info"} <= {*rules}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("    - c:7001\n", "", 7, ["redis.nodes", "5 nodes", "replicas: 1", "multiple of 2"]),
        ("policy: noeviction", "replicas: 2", 7, ["redis.nodes", "at least 9"]),
        ("    - c:7001", "    - a:7001", 13, ["redis.nodes.5", "a:7001 stands here twice"]),
        ("    - c:7001", "    - d:7001", 13, ["redis.nodes.5", "d:7001 is on no machine of the section hosts"]),
        ("  password: env:REDIS_PASSWORD\n", "", 8, ["redis.nodes.0", "open to everybody", "redis.password"]),
        ("env:REDIS_PASSWORD", "hunter2", 14, ["redis.password", "must be a secret reference"]),
        ("maxmemory: 2gb", "maxmemory: 2 gigabytes", 16, ["redis.deploy.maxmemory"]),
        ("    maxmemory: 2gb\n", "", 15, ["redis.deploy.maxmemory", "required and missing"]),
        ("policy: noeviction", "policy: lru", 17, ["redis.deploy.policy", "allkeys-lru"]),
        ("policy: noeviction", "polcy: noeviction", 17, ["redis.deploy.polcy", "Did you mean 'policy'"]),
        ("policy: noeviction", "directory: /var/lib/$(reboot)", 17, ["redis.deploy.directory", "absolute path"]),
        (
            "policy: noeviction",
            "{start: process, user: redis}".strip("{}").replace(", ", "\n    "),
            15,
            ["needs start"],
        ),
        ("policy: noeviction", TLS, 15, ["redis.tls and redis.deploy.tls belong together"]),
        ('"a:7000": "192', '"a:7009": "192', 18, ["redis.deploy.announce.a:7009", "not one of redis.nodes"]),
        ("policy: noeviction", 'users: [{name: app, password: env:APP, rules: "~* >pw"}]', 17, ["rules"]),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(EnvironmentInvalid) as caught:
        load(write(tmp_path, GOOD.replace(old, new, 1)))
    message = str(caught.value).splitlines()[0]
    assert f"env.yaml: line {line}: " in message
    for word in words:
        assert word in message
    assert "hunter2" not in message


def test_certificates_of_clients_stand_in_for_a_password(tmp_path: Path) -> None:
    client = "  tls: {ca: ca.crt, certificate: me.crt, key: me.key}\n"
    node = TLS.replace("}", ", clients_need_certificate: true}")
    text = GOOD.replace("  password: env:REDIS_PASSWORD\n", client).replace("policy: noeviction", node)
    assert load(write(tmp_path, text)).redis is not None
    with pytest.raises(EnvironmentInvalid, match="open to everybody"):
        load(write(tmp_path, text.replace(", clients_need_certificate: true", "")))


def test_nodes_from_a_file_that_a_lab_writes(tmp_path: Path) -> None:
    text = f"name: lab\nlab: {{}}\nredis:\n  nodes: file:{tmp_path}/redis-nodes\n"
    redis = load(write(tmp_path, text)).redis
    assert redis is not None
    assert redis.nodes == [], "until the lab is up"
    (tmp_path / "redis-nodes").write_text("127.0.0.1:7000\n127.0.0.1:7001\n")
    redis = load(write(tmp_path, text)).redis
    assert redis is not None
    assert redis.nodes == ["127.0.0.1:7000", "127.0.0.1:7001"]
    (tmp_path / "redis-nodes").write_text("127.0.0.1\n")
    with pytest.raises(EnvironmentInvalid, match=r"env.yaml: line 4: redis.nodes.*'127.0.0.1' is not host:port"):
        load(write(tmp_path, text))
