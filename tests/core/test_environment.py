"""Environment files: every mistake is named with file, line and key."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from credscale.core.environment import ENVIRONMENTS, Environment, MaintenanceWindow, find, load
from credscale.core.errors import EnvironmentInvalid, UnknownTarget

GOOD = """\
name: prod
policy:
  confirm: type-name
  maintenance_window: {timezone: Europe/Berlin, days: [sat], start: "02:00", stop: "06:00"}
mongo:
  uri: env:URI
  shards:
    - replica_set: shard1ReplSet
      members: ["a:27018"]
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "env.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_good_file(tmp_path: Path) -> None:
    environment = load(write(tmp_path, GOOD))
    assert environment.policy.confirm == "type-name"
    assert environment.mongo is not None
    assert environment.mongo.shards[0].members == ["a:27018"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("policy:", "polcy:", 2, ["polcy", "unknown key", "Did you mean 'policy'"]),
        ("replica_set", "replicaset", 8, ["mongo.shards.0.replicaset", "Did you mean 'replica_set'"]),
        ("a:27018", "a:270180", 9, ["mongo.shards.0.members.0", "port from 1 to 65535"]),
        ("a:27018", "a:http", 9, ["port from 1 to 65535"]),
        ('"02:00"', '"2:00"', 4, ["policy.maintenance_window.start", "HH:MM"]),
        ('"02:00"', '"25:00"', 4, ["HH:MM"]),
        ("Europe/Berlin", "Europe/Berlim", 4, ["unknown time zone"]),
        ("[sat]", "[saturday]", 4, ["policy.maintenance_window.days"]),
        ("env:URI", "mongodb://u:secret@h:1", 6, ["mongo.uri", "holds a password"]),
        ("env:URI", "mongodb://h:99999", 6, ["mongo.uri", "port"]),
        ("name: prod", "name: [1]", 1, ["name"]),
        ("name: prod", "# nothing", 2, ["name", "missing"]),
        ("mongo:", "name: again\nmongo:", 5, ["name", "twice"]),
        ("mongo:", "path: /x\nmongo:", 5, ["path", "unknown key"]),
        ("confirm: type-name", "confirm: [", 5, ["not YAML"]),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(EnvironmentInvalid) as caught:
        load(path)
    message = str(caught.value)
    assert f"{path}: line {line}:" in message
    assert all(word in message for word in words)
    assert "secret" not in message


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ENVIRONMENTS.mkdir(parents=True)
    (ENVIRONMENTS / "prod.yaml").write_text("name: prod")
    (ENVIRONMENTS / "other.example.yaml").write_text("name: other")
    with pytest.raises(UnknownTarget, match="no environment 'pord'. Did you mean 'prod'"):
        find("pord")
    assert find("prod") == ENVIRONMENTS / "prod.yaml"


DEPLOY = """\
name: prod
mongo:
  uri: env:URI
  config_servers: {replica_set: cfg, members: ["c1:1", "c2:1", "c3:1"]}
  shards:
    - {replica_set: a, members: ["s1:1"]}
  routers: ["10.0.0.9:1"]
  deploy:
    security: {key_file: env:KEY}
    admin: {user: admin, password: env:PASSWORD}
hosts:
  c1: {address: 10.0.0.1}
  c2: {address: 10.0.0.2, jump: c1}
  c3: {address: 10.0.0.3}
  s1: {address: 10.0.0.4}
  m1: {address: 10.0.0.9}
"""


def test_members_are_found_on_hosts_by_name_or_address(tmp_path: Path) -> None:
    environment = load(write(tmp_path, DEPLOY))
    found = [environment.machine_of(each) for each in ("c1:1", "10.0.0.9:1", "127.0.0.1:1", "[::1]:1", "x:1")]
    assert found == ["c1", "m1", "", "", None]
    assert environment.mongo is not None
    assert environment.mongo.deploy is not None
    assert environment.mongo.deploy.start == "systemd"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('"s1:1"', '"s9:1"', 6, ["mongo.shards.0.members.0", "s9:1 is on no machine of the section hosts"]),
        ('"10.0.0.9:1"', '"m9:1"', 7, ["mongo.routers.0", "on no machine"]),
        ('"s1:1"', '"c1:1"', 6, ["mongo.shards.0.members.0", "stands here twice"]),
        ("jump: c1", "jump: c9", 13, ["hosts.c2.jump", "not another host"]),
        ("    security: {key_file: env:KEY}\n", "", 8, ["mongo.deploy.security", "missing"]),
        ("key_file: env:KEY", "key_file: c2VjcmV0", 9, ["key_file", "secret reference"]),
        ("key_file: env:KEY", "x509: true", 8, ["mongo.deploy", "x509 needs the section tls"]),
        ("{key_file: env:KEY}", "{key_file: env:KEY, x509: true}", 9, ["either key_file"]),
        ("password: env:PASSWORD", "password: secret", 10, ["mongo.deploy.admin.password", "secret reference"]),
        ("    admin: {user: admin, password: env:PASSWORD}\n", "", 8, ["admin is required"]),
        ("security: {key_file: env:KEY}", "security: none", 8, ["security: none has no users"]),
        ("    security:", "    directory: data\n    security:", 9, ["mongo.deploy.directory", "absolute path"]),
        ("    security:", "    directory: /a b\n    security:", 9, ["mongo.deploy.directory", "absolute path"]),
        ("    security:", "    user: mongod\n    start: process\n    security:", 8, ["user needs start: systemd"]),
    ],
)
def test_mistakes_of_a_deployment(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    path = write(tmp_path, DEPLOY.replace(old, new, 1))
    with pytest.raises(EnvironmentInvalid) as caught:
        load(path)
    message = str(caught.value)
    assert f"{path}: line {line}:" in message
    assert all(word in message for word in words)


def test_without_security_everything_has_to_be_on_the_loopback(tmp_path: Path) -> None:
    text = DEPLOY.replace("security: {key_file: env:KEY}", "security: none")
    text = text.replace("    admin: {user: admin, password: env:PASSWORD}\n", "")
    with pytest.raises(EnvironmentInvalid, match="s1:1 would be open to everybody"):
        load(write(tmp_path, text))


def test_unquoted_yes_is_meant(tmp_path: Path) -> None:
    assert load(write(tmp_path, "name: x\npolicy: {confirm: yes}\n")).policy.confirm == "yes"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / ENVIRONMENTS).glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_environments_load(path: Path) -> None:
    assert isinstance(load(str(path)), Environment)


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ("2026-11-21T22:30", False),  # Saturday 23:30 in Berlin: not yet
        ("2026-11-21T23:30", True),  # Sunday 00:30, belongs to Saturday's window
        ("2026-11-22T04:00", True),
        ("2026-11-22T23:30", False),  # Monday 00:30, Sunday has no window
    ],
)
def test_a_window_over_midnight_belongs_to_its_first_day(moment: str, inside: bool) -> None:
    window = MaintenanceWindow(timezone="Europe/Berlin", days=("sat",), start="23:45", stop="06:00")
    assert window.contains(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is inside


HOSTS = "name: prod\nhosts:\n  box:\n    address: 10.0.0.1\n"


def test_a_host_says_how_it_is_reached_and_where_runs_live(tmp_path: Path) -> None:
    plain = load(write(tmp_path, HOSTS)).hosts["box"]
    assert (plain.sudo, plain.connect_timeout, plain.python, plain.folder) == (False, 10, None, "~/.credscale")
    extra = (
        "    sudo: env:BOX_SUDO\n    connect_timeout: 2.5\n    python: python3.12\n    folder: /srv/credscale runs\n"
    )
    host = load(write(tmp_path, HOSTS + extra)).hosts["box"]
    assert (host.sudo, host.connect_timeout) == ("env:BOX_SUDO", 2.5)
    assert (host.python, host.folder) == ("python3.12", "/srv/credscale runs")
    for line, key, value in (("sudo: true", "sudo", True), ("python:", "python", None)):
        assert getattr(load(write(tmp_path, f"{HOSTS}    {line}\n")).hosts["box"], key) is value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sudo: hunter2", ["hosts.box.sudo", "must be true, false, or a secret reference", "never the password"]),
        ("sudo: 7", ["hosts.box.sudo", "must be true, false, or a secret reference"]),
        ("connect_timeout: 0", ["hosts.box.connect_timeout", "greater than 0"]),
        ("connect_timeout: 301", ["hosts.box.connect_timeout", "less than or equal to 300"]),
        ("connect_timeout: .inf", ["hosts.box.connect_timeout"]),
        ("connect_timeout: .nan", ["hosts.box.connect_timeout"]),
        ("python: python3 -c evil", ["hosts.box.python", "neither an absolute path nor a program's name"]),
        ("python: bin/python", ["hosts.box.python"]),
        ("python: -c", ["hosts.box.python"]),
        ('python: "/a\\nb"', ["hosts.box.python"]),
        ("folder: relative", ["hosts.box.folder", "neither an absolute path nor one below ~/"]),
        ("folder: ~other/x", ["hosts.box.folder"]),
        ("folder: /", ["hosts.box.folder"]),
    ],
)
def test_mistakes_of_a_host(tmp_path: Path, line: str, words: list[str]) -> None:
    with pytest.raises(EnvironmentInvalid) as caught:
        load(write(tmp_path, HOSTS + f"    {line}\n"))
    assert "line 5:" in str(caught.value)
    assert all(word in str(caught.value) for word in words)
    assert "hunter2" not in str(caught.value)
