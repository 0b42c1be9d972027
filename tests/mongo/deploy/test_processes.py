"""What is run on a machine to start or restart a server; systemd and ssh are played, the commands are real."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines import Completed, Machine
from credscale.core.machines.machine import COMMAND_SECONDS
from credscale.mongo.deploy import processes, restarting
from credscale.mongo.deploy.config_files import unit_text
from credscale.mongo.deploy.layout import Process
from credscale.mongo.deploy.replies import Answer
from tests.mongo.deploy.test_files import cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARD = Process("shard", "a", "s1:27018", "s1", "/var/lib/mongodb")


class Played(Machine):
    """A machine that answers from a script and notes what was run."""

    def __init__(self, answers: dict[str, Completed] | None = None) -> None:
        super().__init__("s1")
        self.answers, self.ran = answers or {}, list[str]()

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        line = " ".join(argv)
        self.ran.append(line)
        return next((found for start, found in self.answers.items() if line.startswith(start)), Completed(0, b"", b""))

    def tunnel(self, port: int) -> str:
        return f"127.0.0.1:{port}"

    def listens(self, port: int) -> bool:
        return True


def context(machine: Machine) -> Any:
    environment = SimpleNamespace(mongo=None)
    clients = SimpleNamespace(machine=lambda _name: machine, mongo_loopback=lambda *_a, **_k: None)
    return SimpleNamespace(clients=clients, environment=environment)


@pytest.fixture(autouse=True)
def _answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "greet", lambda _client: Answer({"ok": 1.0}))


def test_systemd_keeps_a_process_over_a_reboot() -> None:
    machine = Played()
    processes.start_process(context(machine), SHARD, cluster(), timeout=1.0)
    assert machine.ran == [
        "systemctl daemon-reload",
        "systemctl enable credscale-mongod-27018.service",
        "systemctl start credscale-mongod-27018.service",
    ]


def test_a_unit_that_fails_shows_the_servers_log() -> None:
    log = Completed(0, b"Address already in use\n", b"")
    machine = Played({"systemctl start": Completed(1, b"", b"Job failed"), "tail -n": log})
    with pytest.raises(ConnectFailed, match=r"exit code 1: Job failed.*mongod.log on s1:\n  Address already in use"):
        processes.start_process(context(machine), SHARD, cluster(), timeout=1.0)


def test_a_unit_never_holds_what_systemd_would_expand() -> None:
    for line in unit_text(SHARD, cluster().deploy, "/usr/bin/mongod").decode().splitlines():
        assert not set(line) & set('%$"\\')


@pytest.mark.parametrize(
    ("group", "main", "unit"),
    [
        (b"0::/system.slice/mongod.service\n", b"42\n", "mongod.service"),
        (b"12:pids:/system.slice/mongod.service\n0::/\n", b"42\n", "mongod.service"),
        (b"0::/system.slice/ssh.service\n", b"7\n", ""),  # started by hand in somebody's session
        (b"0::/user.slice/user-0.slice/session-1.scope\n", b"42\n", ""),
    ],
)
def test_the_unit_is_the_one_whose_main_process_it_is(group: bytes, main: bytes, unit: str) -> None:
    machine = Played({"sh -c": Completed(0, group, b""), "systemctl show": Completed(0, main, b"")})
    assert restarting.unit_of(machine, 42) == unit


def played_server(monkeypatch: pytest.MonkeyPatch, parsed: dict[str, Any], argv: list[str]) -> None:
    replies = {"getCmdLineOpts": {"parsed": parsed, "argv": argv}, "serverStatus": {"pid": 42}}
    monkeypatch.setattr(restarting, "ask", lambda _client, name, *_a, **_k: Answer(replies[name]))


@pytest.mark.parametrize(
    ("parsed", "argv", "said"),
    [
        ({}, ["/usr/bin/mongod", "--dbpath", "/d"], "without a configuration file"),
        ({"config": "mongod.conf"}, ["/usr/bin/mongod", "-f", "mongod.conf"], "absolute path"),
        ({"config": "/c"}, ["/usr/bin/mongod", "-f", "/c"], "neither kept by systemd nor a daemon"),
        ({"config": "/c", "processManagement": {"fork": True}}, ["/m", "--configsvr", "-f", "/c"], "config server"),
    ],
)
def test_what_cannot_be_restarted_safely_is_left_to_its_owner(
    monkeypatch: pytest.MonkeyPatch, parsed: dict[str, Any], argv: list[str], said: str
) -> None:
    played_server(monkeypatch, parsed, argv)
    client: Any = None
    with pytest.raises(PreconditionFailed, match=said):
        restarting.look(context(Played()), SHARD, client)


def test_a_restart_through_systemd_keeps_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarting, "_is_new", lambda *_: True)
    absent = Completed(44, b"", b"")
    written: list[tuple[str, bytes, int, str]] = []
    machine = Played({"sh -c d=$1": absent, "sh -c stat -c %a": Completed(0, b"640\n", b"")})
    machine.answers["sh -c stat -c %U"] = Completed(0, b"mongod\n", b"")

    def write(path: str, data: bytes, *, mode: int, owner: str = "") -> None:
        written.append((path, data, mode, owner))

    monkeypatch.setattr(machine, "write", write)
    running = restarting.Running(42, ("/m",), {}, "mongod.service", "/etc/mongod.conf", "net:\n  port: 27017\n")
    restarting.restart(context(machine), SHARD, running, timeout=1.0)
    assert [(path, mode, owner) for path, _, mode, owner in written] == [
        ("/etc/mongod.conf.before-credscale", 0o640, "mongod"),
        ("/etc/mongod.conf", 0o640, "mongod"),
    ]
    assert written[0][1] == b"net:\n  port: 27017\n"
    assert b"clusterRole: shardsvr" in written[1][1]
    assert machine.ran[-1] == "systemctl restart mongod.service"
