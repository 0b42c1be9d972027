"""Rendered files: no default lets an unknown client in, and nothing secret is shown."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid
from credscale.core.machines.files import File, change_of
from credscale.mongo.deploy.config_files import bind_ip, check_key, files_of, settings_of, unit_text
from credscale.mongo.deploy.layout import Layout, Process, layout
from credscale.mongo.deploy.ready import option_problem, shard_problems
from credscale.mongo.deploy.users import roles_of

KEY = "c2VjcmV0IGtleQ=="
TLS = {"certificate": "/etc/ssl/mongo.pem", "ca": "/etc/ssl/ca.pem"}


def cluster(**deploy: Any) -> Layout:
    settings = {"security": {"key_file": "env:KEY"}, "admin": {"password": "env:PASSWORD"}, **deploy}
    mongo = {
        "uri": "mongodb://h:1/",
        "config_servers": {"replica_set": "cfg", "members": ["c1:27019", "c2:27019", "c3:27019"]},
        "shards": [{"replica_set": "a", "members": ["s1:27018"]}],
        "routers": ["m1:27017"],
        "deploy": settings,
    }
    hosts = {name: {"address": f"{name}.example.net"} for name in ("c1", "c2", "c3", "s1", "m1")}
    return layout(Environment.model_validate({"name": "unit", "mongo": mongo, "hosts": hosts}))


def processes(found: Layout) -> tuple[Process, Process, Process]:
    return found.sets[0].members[0], found.sets[1].members[0], found.routers[0]


def test_a_member_of_a_shard() -> None:
    found = cluster(cache_gb=2)
    assert settings_of(processes(found)[1], found) == {
        "systemLog": {"destination": "file", "path": "/var/lib/mongodb/27018/mongod.log", "logAppend": True},
        "net": {"port": 27018, "bindIp": "127.0.0.1,s1", "unixDomainSocket": {"enabled": False}},
        "security": {"keyFile": "/var/lib/mongodb/27018/key", "authorization": "enabled"},
        "storage": {"dbPath": "/var/lib/mongodb/27018/data", "wiredTiger": {"engineConfig": {"cacheSizeGB": 2.0}}},
        "replication": {"replSetName": "a"},
        "sharding": {"clusterRole": "shardsvr"},
    }


def test_roles_and_ports_are_explicit_everywhere() -> None:
    found = cluster()
    config, shard, router = (settings_of(each, found) for each in processes(found))
    assert config["sharding"] == {"clusterRole": "configsvr"}
    assert shard["sharding"] == {"clusterRole": "shardsvr"}
    assert router["sharding"] == {"configDB": "cfg/c1:27019,c2:27019,c3:27019"}
    assert [each["net"]["port"] for each in (config, shard, router)] == [27019, 27018, 27017]
    assert "storage" not in router
    assert router["security"] == {"keyFile": "/var/lib/mongodb/27017/key"}, "a router knows no option authorization"


@pytest.mark.parametrize("start", ["systemd", "process"])
@pytest.mark.parametrize("security", [{"key_file": "env:KEY"}, {"x509": True}])
@pytest.mark.parametrize("tls", [None, TLS])
def test_no_combination_lets_an_unknown_client_in(
    start: str, security: dict[str, Any], tls: dict[str, str] | None
) -> None:
    if "x509" in security and tls is None:
        with pytest.raises(ValueError, match="x509 needs the section tls"):
            cluster(start=start, security=security, tls=tls)
        return
    found = cluster(start=start, security=security, tls=tls)
    for process in found.processes:
        settings = settings_of(process, found)
        assert ("keyFile" in settings["security"]) != (settings["security"].get("clusterAuthMode") == "x509")
        assert process.program == "mongos" or settings["security"]["authorization"] == "enabled"
        assert (settings["net"].get("tls") or {}).get("mode") == ("requireTLS" if tls else None)
        assert ("fork" in settings.get("processManagement", {})) == (start == "process")


@pytest.mark.parametrize(
    ("asked", "host", "bound"),
    [
        ("", "s1", "127.0.0.1,s1"),
        ("", "127.0.0.1", "127.0.0.1"),
        ("", "localhost", "127.0.0.1"),
        ("10.0.0.7", "s1", "127.0.0.1,10.0.0.7"),
        ("0.0.0.0", "s1", "0.0.0.0"),  # noqa: S104 - the owner's wish
        ("127.0.0.1,10.0.0.7", "s1", "127.0.0.1,10.0.0.7"),
    ],
)
def test_the_loopback_is_always_bound(asked: str, host: str, bound: str) -> None:
    assert bind_ip(Process("shard", "a", f"{host}:1", "", "/d"), cluster(bind_ip=asked).deploy) == bound


def test_the_files_of_a_process() -> None:
    found = cluster(user="mongod")
    shard = processes(found)[1]
    key, config, unit = files_of(shard, found, KEY, "/usr/bin/mongod")
    assert (key.path, key.mode, key.data, key.secret) == (shard.key, 0o400, f"{KEY}\n".encode(), True)
    assert yaml.safe_load(config.data) == settings_of(shard, found)
    assert KEY.encode() not in config.data + unit.data
    assert unit.path == "/etc/systemd/system/credscale-mongod-27018.service"
    text = unit_text(shard, found.deploy, "/usr/bin/mongod").decode()
    assert "ExecStart=/usr/bin/mongod --config /var/lib/mongodb/27018/mongod.conf\n" in text
    assert "User=mongod\n" in text
    assert "LimitNOFILE=64000\n" in text


@pytest.mark.parametrize("bad", ["short", "with a $ sign", "a" * 1025, "ä" * 20])
def test_a_key_that_the_server_would_refuse(bad: str) -> None:
    with pytest.raises(EnvironmentInvalid) as caught:
        check_key(bad)
    assert bad not in str(caught.value)


def test_changes_are_shown_but_for_secrets() -> None:
    plain = File("/f", b"a\nb\n", 0o644)
    assert change_of(plain, None, None) == ["new file", "+a", "+b"]
    assert change_of(plain, b"a\nb\n", 0o644) == []
    assert change_of(plain, b"a\nc\n", 0o644) == ["-c", "+b"]
    secret = File("/k", b"secret", 0o400, secret=True)
    assert change_of(secret, None, None) == ["new file"]
    assert change_of(secret, b"other", 0o644) == ["mode 644 -> 400", "contents differ"]
    owned = File("/f", b"a\n", 0o644, owner="mongod")
    assert change_of(owned, b"a\n", 0o644, "root") == ["owner root -> mongod"]
    assert change_of(owned, b"a\n", 0o644, "mongod") == []


def parsed(process: Process, found: Layout) -> dict[str, Any]:
    return settings_of(process, found)


def test_the_options_in_force_are_compared() -> None:
    found = cluster()
    for process in found.processes:
        assert option_problem(settings_of(process, found), process, found) == ""
    shard = processes(found)[1]
    options = settings_of(shard, found)
    assert "sharding.clusterRole is None" in option_problem({**options, "sharding": {}}, shard, found)
    assert "net.port is 27017" in option_problem({**options, "net": {"port": 27017}}, shard, found)
    assert "keyFile" in option_problem({**options, "security": {}}, shard, found)
    by_flags = {**options, "replication": {"replSet": "a"}}  # as the recorded 4.4.6 shows --replSet
    assert option_problem(by_flags, shard, found) == ""


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([], "does not list a"),
        ([{"_id": "a", "host": "a/s1:27018", "state": 0}], "state 0"),
        ([{"_id": "a", "host": "a/s1:27018", "state": 1, "draining": True}], "draining"),
        ([{"_id": "a", "host": "a/s9:27018", "state": 1}], "other members"),
    ],
)
def test_a_shard_that_is_not_as_declared(listed: list[dict[str, Any]], said: str) -> None:
    found = cluster()
    assert any(said in problem for problem in shard_problems(listed, found, found.routers[0]))
    assert shard_problems([{"_id": "x", "host": "a/s1:27018", "state": 1}], found, found.routers[0]) == []


def test_since_8_a_shards_own_administrator_may_operate_on_it_directly() -> None:
    assert roles_of(25, on_shard=True) == ["root", "directShardOperations"]
    assert roles_of(25, on_shard=False) == roles_of(21, on_shard=True) == ["root"]
