"""The node's process is found by its port, and nobody else's is ever signalled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.redis_cluster.drill import processes
from credscale.redis_cluster.drill.processes import Listener, Survey, parse, the_one
from tests.redis_cluster.drill.machines import FakeMachine

SURVEY = """\
listen 100 0100007F 1B58
listen 101 00000000000000000000000000000000 1B59
listen 102 0200007F 1B5A
holds 41 100
holds 42 101
exe 41 /usr/bin/redis-check-rdb
user 41 redis
Name 41 redis-server
State 41 S (sleeping)
NSpid 41 41
cgroup 41 0::/system.slice/redis-server@7000.service
exe 42 /opt/valkey/valkey-server (deleted)
user 42 root
Name 42 valkey-server
State 42 T (stopped)
NSpid 42 42 1
cgroup 42 12:pids:/docker/abc
cgroup 42 0::/docker/abc
me 0 root
"""
SEEN = parse(SURVEY)
LISTENER = Listener(41, 41, "S", "redis-server", "/usr/bin/redis-server", "redis", (), frozenset({"127.0.0.1"}))


def test_parse() -> None:
    first, second = SEEN.listeners[7000][0], SEEN.listeners[7001][0]
    assert first == Listener(
        41, 41, "S", "redis-server", "/usr/bin/redis-check-rdb", "redis", ("/system.slice/redis-server@7000.service",),
        frozenset({"127.0.0.1"}),
    )  # fmt: skip
    assert (second.pid, second.inner, second.state, second.executable) == (42, 1, "T", "/opt/valkey/valkey-server")
    assert second.ips == frozenset()
    assert SEEN.me == "root"


@pytest.mark.parametrize(
    ("text", "ip"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", ""),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100000A", "10.0.0.1"),
        ("0000000000000000FFFF000000000000", ""),
    ],
)
def test_addresses_of_the_kernel(text: str, ip: str) -> None:
    assert processes.address_of(text) == ip


def test_socket_whose_process_is_hidden_is_no_dead_node() -> None:
    assert SEEN.of(7002, ["127.0.0.2"]) == ()
    assert SEEN.listens(7002, ["127.0.0.2"])
    assert not SEEN.listens(7003, ["127.0.0.2"])


def test_same_port_on_another_loopback_address_is_another_node() -> None:
    assert SEEN.of(7000, ["127.0.0.9"]) == ()
    assert not SEEN.listens(7000, ["127.0.0.9"])
    assert [each.pid for each in SEEN.of(7001, ["127.0.0.9"])] == [42]
    assert [each.pid for each in SEEN.of(7000, ["127.0.0.1"])] == [41]


def test_behind_an_address_translation_the_port_decides() -> None:
    assert [each.pid for each in SEEN.of(7000, ["203.0.113.7"])] == [41]
    both = replace(LISTENER, pid=43, ips=frozenset({"10.0.0.5"}))
    seen = Survey({7000: (LISTENER, both)}, {7000: frozenset({"127.0.0.1", "10.0.0.5"})}, "root")
    assert [each.pid for each in seen.of(7000, ["10.0.0.5"])] == [43]


def test_the_one() -> None:
    inside = replace(LISTENER, inner=1)
    assert the_one(FakeMachine(), [LISTENER], "a:1", 41) == LISTENER
    assert the_one(FakeMachine(), [inside], "a:1", 1) == inside


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "listens no process that we see"),
        ([replace(LISTENER, pid=9, inner=9)], r"calls itself 41, .* listens redis-server \(pid 9\)"),
        ([LISTENER, replace(LISTENER, pid=9, inner=9)], "not found for sure"),
        ([replace(LISTENER, name="nginx")], "no redis-server or valkey-server"),
        ([replace(LISTENER, state="T")], "stopped already"),
    ],
)
def test_the_one_is_not_sure(found: list[Listener], said: str) -> None:
    with pytest.raises(PreconditionFailed, match=said):
        the_one(FakeMachine(), found, "a:1", 41)


def test_machine_without_proc_or_with_an_error() -> None:
    with pytest.raises(PreconditionFailed, match="Linux only"):
        processes.survey(FakeMachine({"/proc/net/tcp": 45}), [7000])
    with pytest.raises(PreconditionFailed, match="it says no"):
        processes.survey(FakeMachine({"/proc/net/tcp": 2}), [7000])


def test_survey_asks_for_ports_as_the_kernel_writes_them() -> None:
    machine = FakeMachine({"/proc/net/tcp": SURVEY})
    assert processes.survey(machine, [7000, 80]) == SEEN
    assert machine.ran[0][3:] == ["sh", "1B58", "0050"]


def test_signals_are_seen_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["S", "S", "T", "S", ""])
    machine = FakeMachine({"State": lambda: next(states)})
    processes.freeze(machine, 41)
    processes.resume(machine, [41])
    processes.kill(machine, 41)
    assert [argv[-2:] for argv in machine.ran if "kill -s" in argv[2]] == [
        ["STOP", "41"],
        ["CONT", "41"],
        ["KILL", "41"],
    ]
    monkeypatch.setattr(processes, "END_SECONDS", 0.0)
    with pytest.raises(VerificationFailed, match="SIGKILL the process 41 is in state S"):
        processes.kill(FakeMachine({"State": "S"}), 41)


def test_pause_is_one_command_of_the_machine() -> None:
    machine = FakeMachine()
    processes.pause(machine, 41, 0.5)
    assert [argv[-2:] for argv in machine.ran] == [["41", "0.500"]]
