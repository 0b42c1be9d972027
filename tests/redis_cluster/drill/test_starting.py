"""A node is started again the way it was started, or not broken at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.redis_cluster.cluster.views import NodeView
from credscale.redis_cluster.drill.processes import Listener, Survey
from credscale.redis_cluster.drill.starting import Way, config_problem, start, way_from, way_of
from tests.redis_cluster.drill.machines import FakeMachine

CONFIG = "/srv/7000/redis.conf"
TEXT = 'port "7000"\ncluster-enabled yes\ndir /srv/7000\n'
VIEW = NodeView("10.0.0.1:7000", info={"config_file": CONFIG, "executable": "/usr/bin/redis-server"})
LISTENER = Listener(41, 41, "S", "redis-server", "/usr/bin/redis-check-rdb", "redis", (), frozenset())
SETTINGS = {"dir": "/srv/7000", "pidfile": ""}
CONTAINER = "c" * 64


def machine(**more: str | int) -> FakeMachine:
    return FakeMachine({"readlink": "/usr/bin/redis-check-rdb\n", **more}, {CONFIG: TEXT})


def way(place: FakeMachine, listener: Listener = LISTENER, me: str = "root", **settings: str) -> Way:
    return way_of(place, VIEW, listener, Survey({}, {}, me), SETTINGS | settings)


def test_plain_process_becomes_a_daemon_of_its_user() -> None:
    found = way(machine())
    assert found.command == (
        "/usr/bin/redis-server", CONFIG, "--daemonize", "yes", "--pidfile", "/srv/7000/redis.pid",
    )  # fmt: skip
    assert (found.folder, found.user) == ("/srv/7000", "redis")
    place = FakeMachine()
    start(place, found)
    assert place.ran[0][3:] == ["sh", "/srv/7000", "runuser", "-u", "redis", "--", *found.command]


def test_pid_file_stays_where_it_was() -> None:
    """A node that a drill has started tells daemonize yes, which its file need not say."""
    found = way(machine(), me="redis", pidfile="/run/x.pid")
    assert found.command[2:] == ("--daemonize", "yes", "--pidfile", "/run/x.pid")
    assert found.user == ""


def test_program_behind_a_link_is_called_by_its_name() -> None:
    """In Debian /usr/bin/redis-server is a link to redis-check-rdb, which does something else under its own name."""
    odd = replace(VIEW, info={"config_file": CONFIG, "executable": "/home/me/redis-server"})
    answers = {"/home/me/redis-server": "/home/me/redis-server\n", "readlink": "/usr/bin/redis-check-rdb\n"}
    found = way_of(FakeMachine(answers, {CONFIG: TEXT}), odd, LISTENER, Survey({}, {}, "root"), SETTINGS)
    assert found.command[0] == "/usr/bin/redis-server"
    plain = replace(LISTENER, executable="/opt/redis-server")
    assert way(machine(), plain).command[0] == "/opt/redis-server"
    with pytest.raises(PreconditionFailed, match="has no such program on its PATH"):
        way(machine(), replace(LISTENER, executable="/opt/other"))


def test_unit_only_when_it_is_the_units_main_process() -> None:
    listener = replace(LISTENER, cgroups=("/system.slice/redis-server@7000.service",))
    found = way(machine(systemctl="41\n"), listener)
    assert (found.kind, found.name) == ("systemd", "redis-server@7000.service")
    assert way(machine(systemctl="7\n"), listener).kind == "process"
    assert way(machine(systemctl=1), listener).kind == "process"
    place = FakeMachine()
    start(place, found)
    assert place.ran == [["systemctl", "start", "redis-server@7000.service"]]


@pytest.mark.parametrize("path", [f"/docker/{CONTAINER}", f"/system.slice/docker-{CONTAINER}.scope"])
def test_container(path: str) -> None:
    found = way(machine(), replace(LISTENER, inner=1, cgroups=(path,)))
    assert (found.kind, found.name, found.words) == ("docker", CONTAINER, f"docker start {CONTAINER[:12]}")
    with pytest.raises(PreconditionFailed, match="container that is not Docker's"):
        way(machine(), replace(LISTENER, inner=1, cgroups=("/machine.slice/libpod-1.scope",)))


def test_what_could_not_be_started_again() -> None:
    with pytest.raises(PreconditionFailed, match="without a configuration file"):
        way_of(machine(), replace(VIEW, info={}), LISTENER, Survey({}, {}, "root"), SETTINGS)
    with pytest.raises(PreconditionFailed, match="is not there any more"):
        way(FakeMachine())
    with pytest.raises(PreconditionFailed, match=r"runs as redis on redis1, and ops may not.*sudo: true"):
        way(machine(), me="ops")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TEXT, ""),
        ("tls-port 7000\nport 0\ncluster-enabled yes\n", ""),
        ("include /etc/redis/7000.conf\n", ""),
        ("cluster-enabled yes\n", "does not say port 7000"),
        ("# port 7000\nport 7001\ncluster-enabled yes\n", "does not say port 7000"),
        ("port 7000\n", "does not say cluster-enabled"),
        ("port 7000\ncluster-enabled yes\ndir data\n", "relatively"),
    ],
)
def test_file_that_describes_another_node(text: str, problem: str) -> None:
    found = config_problem(text, 7000)
    assert problem in found
    assert bool(problem) == bool(found)


def test_remembered_way() -> None:
    found = way(machine())
    assert way_from(json.loads(json.dumps(found.to_json()))) == found


def test_start_that_fails_says_why() -> None:
    with pytest.raises(VerificationFailed, match=r"systemctl start x.service ended with exit code 5: it says no"):
        start(FakeMachine({"systemctl": 5}), Way("systemd", "x.service"))
