"""Rendered files: no default lets an unknown client in, nothing secret is shown, every value is read back as meant."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid
from credscale.redis_cluster.deploy.config_files import (
    Passwords,
    bind,
    files_of,
    lines,
    secret_settings,
    settings_of,
    unit_text,
    word,
)
from credscale.redis_cluster.deploy.layout import Layout, NodeProcess, bus_port_of, layout

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = "/usr/bin/redis-server"
TLS = {"certificate": "/etc/ssl/redis.pem", "key": "/etc/ssl/redis.key", "ca": "/etc/ssl/ca.pem"}
HOSTS = ("r1", "r2", "10.0.0.3")


def cluster(
    nodes: Sequence[str] = tuple(f"{host}:{port}" for port in (7000, 7001) for host in HOSTS),
    *,
    redis: dict[str, Any] | None = None,
    **deploy: Any,
) -> Layout:
    """Return a layout; ``redis`` goes over its section."""
    section = {
        "nodes": list(nodes), "password": "env:REDIS", "deploy": {"maxmemory": "2gb", **deploy},
        **({"tls": {"ca": "ca.pem"}} if deploy.get("tls") else {}), **(redis or {}),
    }  # fmt: skip
    hosts = {name: {"address": name if name[0].isdigit() else f"{name}.example.net"} for name in HOSTS}
    return layout(Environment.model_validate({"name": "unit", "redis": section, "hosts": hosts}))


def read(line: bytes) -> list[bytes]:
    r"""Understand a line of configuration as the server's ``sdssplitargs`` does (sds.c of Redis 7.0)."""
    words, position = [], 0
    while position < len(line):
        if line[position : position + 1].isspace():
            position += 1
            continue
        found = bytearray()
        quoted = False
        while position < len(line):
            here = line[position : position + 1]
            if quoted and line[position : position + 2] == b"\\x":
                found.append(int(line[position + 2 : position + 4], 16))
                position += 4
            elif quoted and here == b"\\":
                escaped = line[position + 1 : position + 2]
                found += {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}.get(escaped, escaped)
                position += 2
            elif here == b'"':
                quoted = not quoted
                position += 1
                assert quoted or position == len(line) or line[position : position + 1].isspace()
            elif not quoted and here.isspace():
                break
            else:
                assert quoted or here != b"'"
                found += here
                position += 1
        assert not quoted, "quotes that nobody closes"
        words.append(bytes(found))
    return words


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_every_value_is_read_back_as_it_was(values: list[str]) -> None:
    text = lines([("name", *values)])
    assert text.count(b"\n") == 2, "a value never makes a second line"
    assert read(text.split(b"\n")[1]) == [b"name", *(value.encode() for value in values)]


@pytest.mark.parametrize(
    ("value", "written"),
    [("2gb", "2gb"), ("", '""'), ("a b", '"a b"'), ('say "x"', '"say \\"x\\""'), ("c:\\d", '"c:\\\\d"'), ("'", '"\'"')],
)
def test_only_what_needs_quotes_has_them(value: str, written: str) -> None:
    assert word(value) == written


def test_a_node_has_the_guides_settings_made_safe() -> None:
    found = cluster()
    assert settings_of(found.nodes[0], found) == {
        "port": ("7000",), "bind": ("r1", "127.0.0.1"), "protected-mode": ("yes",),
        "dir": ("/var/lib/redis/7000/data",), "daemonize": ("no",), "logfile": ("/var/lib/redis/7000/redis.log",),
        "cluster-enabled": ("yes",), "cluster-config-file": ("nodes.conf",), "cluster-node-timeout": ("5000",),
        "cluster-require-full-coverage": ("yes",), "appendonly": ("yes",), "maxmemory": ("2gb",),
        "maxmemory-policy": ("noeviction",), "repl-diskless-sync-delay": ("0",),
        "include": ("/var/lib/redis/7000/secrets.conf",),
    }  # fmt: skip


def test_an_address_is_announced_and_a_name_is_not() -> None:
    found = cluster()
    assert "cluster-announce-ip" not in settings_of(found.nodes[0], found)
    assert settings_of(found.nodes[2], found)["cluster-announce-ip"] == ("10.0.0.3",)


def test_what_the_inventory_announces() -> None:
    found = cluster(announce={"r1:7000": "203.0.113.5:17000", "r2:7000": "redis.example.net:7000"})
    first, second = (settings_of(node, found) for node in found.nodes[:2])
    assert first["cluster-announce-ip"] == ("203.0.113.5",)
    assert first["cluster-announce-port"] == ("17000",)
    assert first["cluster-announce-bus-port"] == ("27000",)
    assert second["cluster-announce-hostname"] == ("redis.example.net",)
    assert second["cluster-preferred-endpoint-type"] == ("hostname",)
    assert "cluster-announce-port" not in second
    with_tls = cluster(announce={"r1:7000": "203.0.113.5:17000"}, tls=TLS)
    told = settings_of(with_tls.nodes[0], with_tls)
    assert told["cluster-announce-tls-port"] == ("17000",)
    assert "cluster-announce-port" not in told


@pytest.mark.parametrize(("port", "bus"), [(7000, 17000), (55535, 65535), (55536, 45536), (65535, 55535)])
def test_the_bus_port_is_always_a_port(port: int, bus: int) -> None:
    assert bus_port_of(port) == bus
    nodes = tuple(f"{host}:{port}" for host in HOSTS)
    found = cluster(nodes, replicas=0)
    told = settings_of(found.nodes[0], found).get("cluster-port")
    assert told == (None if bus == port + 10_000 else (str(bus),))


@pytest.mark.parametrize(
    ("asked", "host", "bound"),
    [
        ("", "r1", ("r1", "127.0.0.1")),
        ("", "127.0.0.1", ("127.0.0.1",)),
        ("", "localhost", ("127.0.0.1",)),
        ("10.0.0.7", "r1", ("10.0.0.7", "127.0.0.1")),
        ("*", "r1", ("*",)),
        ("* -::*", "r1", ("*", "-::*")),
        ("10.0.0.7 127.0.0.1", "r1", ("10.0.0.7", "127.0.0.1")),
        ("10.0.0.7 -127.0.0.1", "r1", ("10.0.0.7", "-127.0.0.1")),
        ("0.0.0.0", "r1", ("0.0.0.0",)),  # noqa: S104 - the owner's wish
        ("localhost", "r1", ("localhost",)),
        ("::", "r1", ("::", "127.0.0.1")),
        ("::1 10.0.0.7", "r1", ("::1", "10.0.0.7", "127.0.0.1")),
        ("127.0.0.3", "r1", ("127.0.0.3", "127.0.0.1")),
    ],
)
def test_the_own_address_comes_first_and_the_loopback_is_always_bound(
    asked: str, host: str, bound: tuple[str, ...]
) -> None:
    assert bind(NodeProcess(f"{host}:1", "", "/d"), cluster(bind=asked)) == bound


def test_with_tls_nothing_is_said_in_the_clear() -> None:
    found = cluster(tls={**TLS, "clients_need_certificate": True}, redis={"password": None})
    told = settings_of(found.nodes[0], found)
    assert (told["port"], told["tls-port"]) == (("0",), ("7000",))
    assert told["tls-cluster"] == told["tls-replication"] == told["tls-auth-clients"] == ("yes",)
    assert told["protected-mode"] == ("no",), "else nodes without a password refuse each other"


@pytest.mark.parametrize("start", ["systemd", "process", "compose"])
@pytest.mark.parametrize("tls", [None, TLS])
@pytest.mark.parametrize("user", [None, "ops"])
def test_no_combination_lets_an_unknown_client_in(start: str, tls: dict[str, str] | None, user: str | None) -> None:
    found = cluster(start=start, tls=tls, redis={"user": user})
    secrets = secret_settings(found, Passwords("topsecret"))
    closed = ("requirepass", "topsecret") if user is None else ("user", "default", "off")
    assert closed in secrets
    assert ("masterauth", "topsecret") in secrets
    assert (("masteruser", "ops") in secrets) == (user is not None)
    for node in found.nodes:
        assert settings_of(node, found)["protected-mode"] == ("yes",)
        assert settings_of(node, found)["include"] == (node.secrets,)


def test_users_are_written_with_hashes() -> None:
    users = [{"name": "app", "password": "env:APP", "rules": '~app:* ~"x\\y +@all -@dangerous'}]
    found = cluster(users=users)
    secret = "app secret"
    told = secret_settings(found, Passwords("own", {"app": secret}))[-1]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert told == ("user", "app", "on", f"#{digest}", "~app:*", '~"x\\y', "+@all", "-@dangerous")
    assert secret.encode() not in lines([told])


def test_secrets_lie_in_one_file_that_only_the_server_reads() -> None:
    found = cluster(user="redis")
    secrets, config, unit = files_of(found.nodes[0], found, Passwords("topsecret"), SERVER, "redis")
    assert (secrets.path, secrets.mode, secrets.secret) == ("/var/lib/redis/7000/secrets.conf", 0o600, True)
    assert secrets.owner == config.owner == "redis"
    assert unit.owner == "", "a unit belongs to root"
    assert b"topsecret" in secrets.data
    assert b"topsecret" not in config.data + unit.data
    assert "topsecret" not in repr(Passwords("topsecret", {"app": "topsecret"}))


def test_the_unit_restarts_only_what_has_its_data() -> None:
    kept, emptied = (
        unit_text(found.nodes[0], found.deploy, SERVER).decode()
        for found in (cluster(user="redis"), cluster(appendonly=False))
    )
    assert "Restart=on-failure\n" in kept
    assert "Restart=no\n" in emptied
    assert "ExecStart=/usr/bin/redis-server /var/lib/redis/7000/redis.conf\n" in kept
    assert "User=redis\n" in kept
    assert "User=" not in emptied
    for line in kept.splitlines():
        assert not set(line) & set('%$"\\')
    with pytest.raises(EnvironmentInvalid, match="cannot stand in a systemd unit"):
        unit_text(cluster().nodes[0], cluster().deploy, "/opt/re dis/redis-server")
