"""What is run on a machine to find, write and start a node; the machine is played, the commands are real."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import AuthenticationError, BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines import Completed, Machine
from credscale.core.machines.machine import COMMAND_SECONDS
from credscale.redis_cluster.deploy import processes, survey
from credscale.redis_cluster.deploy.survey import compose_command, owner_of, server_of, version_in
from tests.redis_cluster.deploy.test_files import cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = Completed(1, b"", b"no")


class Played(Machine):
    """A machine that answers from a script and notes what was run."""

    def __init__(self, answers: dict[str, Completed] | None = None, *, listening: bool = True) -> None:
        super().__init__("r1")
        self.answers, self.listening, self.ran = answers or {}, listening, list[str]()

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        line = " ".join(argv)
        self.ran.append(line)
        return next((found for start, found in self.answers.items() if line.startswith(start)), Completed(0, b"", b""))

    def tunnel(self, port: int) -> str:
        return f"127.0.0.1:{port}"

    def listens(self, port: int) -> bool:
        return self.listening

    def find_program(self, name: str) -> str | None:
        return None if f"no {name}" in self.answers else f"/usr/bin/{name}"


class Server:
    """A server that answers with a reply or an error."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def info(self) -> Any:
        return self.ping()

    def ping(self) -> Any:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def context(machine: Machine, reply: Any = True) -> Any:
    clients = SimpleNamespace(machine=lambda _name: machine, redis_node=lambda *_a, **_k: Server(reply))
    return SimpleNamespace(clients=clients)


def test_systemd_keeps_a_node_over_a_reboot() -> None:
    machine, found = Played(), cluster()
    processes.start_node(context(machine), found.nodes[0], found, timeout=1.0)
    assert machine.ran == [
        "systemctl daemon-reload",
        "systemctl enable credscale-redis-7000.service",
        "systemctl start credscale-redis-7000.service",
    ]


def test_a_node_without_its_data_is_not_started_at_boot() -> None:
    machine, found = Played(), cluster(appendonly=False)
    processes.start_node(context(machine), found.nodes[0], found, timeout=1.0)
    assert not [line for line in machine.ran if "enable" in line]


@pytest.mark.parametrize(("plugin", "called"), [(True, "docker compose"), (False, "docker-compose")])
def test_compose_starts_one_service_and_replaces_none_that_runs(plugin: bool, called: str) -> None:
    machine, found = Played({} if plugin else {"docker compose version": FAILED}), cluster(start="compose")
    processes.start_node(context(machine), found.nodes[0], found, timeout=1.0)
    begin = f"{called} -p credscale-redis -f /var/lib/redis/compose.yaml"
    assert [line for line in machine.ran if "version" not in line] == [
        f"{begin} rm -f redis-7000",
        f"{begin} up -d --no-recreate --no-deps redis-7000",
    ]


@pytest.mark.parametrize("reply", [True, AuthenticationError("NOAUTH"), BusyLoadingError("loading")])
def test_a_refused_login_and_loading_are_answers(reply: Any) -> None:
    found = cluster()
    assert processes.answers(context(Played(), reply), found.nodes[0])


def test_silence_ends_with_the_servers_log() -> None:
    machine, found = Played({"tail": Completed(0, b"Can't open the log\nbye\n", b"")}), cluster()
    with pytest.raises(ConnectFailed) as caught:
        processes.wait_answering(context(machine, RedisConnectionError("refused")), found.nodes[0], found, timeout=0.0)
    assert "node r1:7000 does not answer" in str(caught.value)
    assert "/var/lib/redis/7000/redis.log on r1:\n  Can't open the log\n  bye" in str(caught.value)


def test_a_failed_start_does_not_quote_the_configuration() -> None:
    told = b"*** FATAL CONFIG FILE ERROR ***\n>>> 'requirepass topsecret extra'\nwrong number of arguments\n"
    logged = b"redis-7000_1 | >>> 'masterauth topsecret'\nredis-7000_1 | bye\n"
    found = cluster(start="compose")
    machine = Played({
        "docker compose version": FAILED,
        "docker-compose -p credscale-redis -f /var/lib/redis/compose.yaml up": Completed(1, b"", told),
        "docker-compose -p credscale-redis -f /var/lib/redis/compose.yaml logs": Completed(0, logged, b""),
    })  # fmt: skip
    with pytest.raises(ConnectFailed) as caught:
        processes.start_node(context(machine), found.nodes[0], found, timeout=1.0)
    text = str(caught.value)
    assert "topsecret" not in text
    assert "wrong number of arguments" in text
    assert text.endswith("docker logs of the service redis-7000 on r1:\n  redis-7000_1 | bye")


def test_valkey_serves_as_well() -> None:
    assert server_of(Played({"no redis-server": FAILED}), cluster()) == "/usr/bin/valkey-server"
    with pytest.raises(PreconditionFailed, match="neither redis-server nor valkey-server is on r1"):
        server_of(Played({"no redis-server": FAILED, "no valkey-server": FAILED}), cluster())
    with pytest.raises(PreconditionFailed, match="neither docker compose nor docker-compose is on r1"):
        compose_command(Played({"no docker": FAILED, "no docker-compose": FAILED}))


@pytest.mark.parametrize(("told", "owner"), [(b"0\n0\n", "999:999"), (b"1000\n100\n", "1000:100")])
def test_containers_run_as_the_owner_of_their_files_and_never_as_root(told: bytes, owner: str) -> None:
    assert owner_of(Played({"sh -c id": Completed(0, told, b"")}), cluster(start="compose")) == owner


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", (7, 0, 15)),
        ("Valkey server v=8.1.0 sha=00000000:0", (8, 1, 0)),
        ("something else", ()),
    ],
)
def test_versions_as_servers_print_them(text: str, version: tuple[int, ...]) -> None:
    assert version_in(text) == version


@pytest.mark.parametrize(
    ("told", "port", "announced", "said"),
    [
        (b"Redis server v=6.0.16", 7000, {}, "6.2 or later is needed"),
        (b"Redis server v=6.2.14", 60000, {}, "give it a port up to 55535"),
        (b"Redis server v=6.2.14", 7000, {"r1:7000": "redis.example.net:7000"}, "only 7.0 and later announce a name"),
    ],
)
def test_a_server_that_is_too_old(told: bytes, port: int, announced: dict[str, str], said: str) -> None:
    found = cluster([f"r1:{port}", "r1:7001", "r1:7002"], replicas=0, announce=announced)
    absent = Completed(44, b"", b"")
    machine = Played({"/usr/bin/redis-server --version": Completed(0, told, b""), "sh -c d=": absent}, listening=False)
    facts, _ = survey._machine(context(machine), found, survey.Passwords("p"), ("r1", machine))
    assert said in facts[0].problem
    assert not facts[0].running
    assert len(facts[0].changes) == 3


@pytest.mark.parametrize(
    ("reply", "there", "said"),
    [
        ({"config_file": "/etc/redis/redis.conf", "redis_version": "7.0.15", "process_id": 7}, True,
         "process 7, has this port with the configuration file /etc/redis/redis.conf, expected /var/lib/redis/7000/"),
        ({"config_file": "", "redis_version": "7.0.15"}, True, "with no configuration file"),
        (AuthenticationError("invalid username-password pair"), True, "redis.password"),
        (AuthenticationError("invalid username-password pair"), False, "another server has this port"),
        (RedisConnectionError("Connection closed by server"), True, "a process listens on port 7000 of r1"),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_named_and_left_alone(reply: Any, there: bool, said: str) -> None:
    machine = Played({} if there else {"sh -c d=": Completed(44, b"", b"")})
    running, loading, problem = survey.ask_server(context(machine, reply), cluster().nodes[0], machine)
    assert (running, loading) == (True, False)
    assert said in problem
    assert "r1:7000" in problem


def test_ours_may_still_be_loading() -> None:
    reply = {"config_file": "/var/lib/redis/7000/redis.conf", "redis_version": "7.0.15", "loading": 1}
    assert survey.ask_server(context(Played(), reply), cluster().nodes[0], Played()) == (True, True, "")
    silent = Played(listening=False)
    assert survey.ask_server(context(silent), cluster().nodes[0], silent) == (False, False, "")


@pytest.mark.parametrize(
    ("owner", "holds", "said"),
    [
        (b"root\n", b"redis.conf\n", "r1:7000: /var/lib/redis/7000 on r1 belongs to root, expected redis"),
        (b"root\n", b"", ""),
        (b"redis\n", b"redis.conf\n", ""),
    ],
)
def test_a_stopped_node_of_another_user_is_refused_with_the_remedy(owner: bytes, holds: bytes, said: str) -> None:
    """An empty folder is what a killed run left; it is given to its owner."""
    answers = {"sh -c stat -c %U": Completed(0, owner, b""), "ls -A": Completed(0, holds, b"")}
    problem = survey._strange_owner(cluster(user="redis").nodes[0], Played(answers), "redis")
    assert problem.startswith(said)
    assert bool(problem) == bool(said)
    assert not said or problem.endswith("run there: chown -R redis /var/lib/redis/7000")
    assert survey._strange_owner(cluster().nodes[0], Played(answers), "") == ""
    absent = Played(answers | {"sh -c d=": Completed(44, b"", b"")})
    assert survey._strange_owner(cluster().nodes[0], absent, "redis") == ""
