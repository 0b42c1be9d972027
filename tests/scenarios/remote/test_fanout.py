"""Fifty hosts at once, some dead, some hanging: all others answer, each trouble has its name, nobody waits for it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import load
from credscale.core.errors import StepFailed
from credscale.core.journal import Journal, read_journal
from credscale.core.machines.asking import ask_hosts, change_hosts
from credscale.core.secrets import Secrets
from credscale.core.step import Finding, Status, step
from credscale.hosts.steps import accept_host_key, verify_disk
from credscale.lab.processes import free_ports
from credscale.testing import require, wait_for
from tests.scenarios.sshd import Sshd, make_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.machines import Machine

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]
REPOSITORY = Path(__file__).parents[3]
HANGING_SECONDS = 1.5  # after which a hanging host is given up
PATIENT_SECONDS = 60.0  # for hosts that serve, on a busy machine
ALIVE, SERVERS = 45, 3
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - so that each of 127.0.x.y is a host
DEAD, HANGING = ("dead1", "dead2", "dead3"), ("hang1", "hang2")
MANY_AT_A_TIME = ("MaxStartups 200", "MaxSessions 200")


@dataclass
class Fleet:
    """Hosts of an inventory: real sshds under many addresses of the loopback, and others that do not serve."""

    folder: Path
    servers: list[Sshd]
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, count: int, *, known: bool = True) -> list[str]:
        """Add hosts that serve, each an address of its own; returns their names."""
        names = []
        for number in range(len(self.hosts), len(self.hosts) + count):
            server = self.servers[number % len(self.servers)]
            address, name = f"127.0.{1 + number // 200}.{1 + number % 200}", f"h{number:02}"
            if known:
                with server.known_hosts.open("a") as keys:
                    keys.write(f"[{address}]:{server.port} {server.public}\n")
            self.hosts[name] = server.host | {"address": address, "connect_timeout": PATIENT_SECONDS}
            names.append(name)
        return names

    def write(self) -> Path:
        path = self.folder / "fleet.yaml"
        path.write_text(yaml.safe_dump({"name": "fleet", "hosts": self.hosts}, sort_keys=False))
        return path

    @contextmanager
    def run(self) -> Iterator[Context]:
        """Give a context on the hosts."""
        environment, secrets = load(str(self.write())), Secrets()
        clients = Clients(environment, secrets)
        journal = Journal(self.folder / "journal.jsonl", secrets.mask)
        try:
            yield Context(environment, journal, clients, secrets)
        finally:
            clients.close()
            journal.close()

    def notes(self) -> list[str]:
        return [event["text"] for event in read_journal(self.folder / "journal.jsonl") if event["event"] == "note"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sshd]]:
    """Yield sshds that listen on every address of the loopback."""
    require("ssh")
    with ExitStack() as stack:
        made = []
        for number in range(SERVERS):
            folder = tmp_path_factory.mktemp("fleet") / f"sshd{number}"
            server = Sshd(folder, address=EVERY_ADDRESS, settings=MANY_AT_A_TIME)
            stack.callback(server.end)
            stack.callback(server.kill_sessions)
            made.append(server)
        yield made


@pytest.fixture
def fleet(servers: list[Sshd], tmp_path: Path) -> Iterator[Fleet]:
    """Yield hosts that nobody has connected to; what the test made known is forgotten afterwards."""
    yield Fleet(tmp_path, servers)
    for server in servers:
        server.known_hosts.unlink(missing_ok=True)


@pytest.fixture
def mixed(fleet: Fleet) -> Iterator[Fleet]:
    """Yield 45 hosts that serve, 3 that are dead and 2 that accept and never answer, in mixed order."""
    serving = fleet.add(ALIVE)
    with ExitStack() as stack:
        odd: dict[str, dict[str, Any]] = {"dead3": {"address": "no-such-host.invalid"}}
        for name in DEAD[:2]:
            held = stack.enter_context(socket.socket())  # without listening: refused, and nobody else's meanwhile
            held.bind(("127.0.0.2", 0))
            odd[name] = {"address": "127.0.0.2", "port": held.getsockname()[1]}
        for name in HANGING:
            listener = stack.enter_context(socket.create_server(("127.0.0.2", 0)))
            odd[name] = {"address": "127.0.0.2", "port": listener.getsockname()[1], "connect_timeout": HANGING_SECONDS}
        pattern = fleet.hosts[serving[0]]
        odd = {name: pattern | entry for name, entry in odd.items()}
        order = [
            "dead1",
            *serving[:10],
            "hang1",
            *serving[10:20],
            "dead2",
            *serving[20:30],
            "hang2",
            *serving[30:],
            "dead3",
        ]
        fleet.hosts = {name: (odd | fleet.hosts)[name] for name in order}
        yield fleet


def read_name(machine: Machine) -> str:
    return machine.must_run(["echo", machine.name], timeout=20.0).text.strip()


def test_fifty_hosts_of_which_five_do_not_serve(mixed: Fleet) -> None:
    began = time.monotonic()
    with mixed.run() as ctx:
        answers = ask_hosts(ctx, list(mixed.hosts), read_name, parallel=20, timeout=PATIENT_SECONDS)
    seconds = time.monotonic() - began
    assert [answer.host for answer in answers] == list(mixed.hosts), "in the inventory's order"
    assert {answer.host: answer.why for answer in answers if answer.why} == {
        "dead1": "refused", "dead2": "refused", "dead3": "unreachable", "hang1": "timed out", "hang2": "timed out",
    }  # fmt: skip
    assert all(answer.value == answer.host for answer in answers if not answer.why)
    hanging = {answer.host: answer.seconds for answer in answers if answer.host in HANGING}
    assert seconds < PATIENT_SECONDS, "nobody waits for them in turn"
    assert all(HANGING_SECONDS <= each < PATIENT_SECONDS for each in hanging.values()), "by their own deadline"
    assert {note.split(":")[0] for note in mixed.notes()} == {*DEAD, *HANGING}


def test_one_command_shows_all_of_them(mixed: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "host-check", "--env", str(mixed.write()), "--errors-allowed", "4",
         "--timeout", str(PATIENT_SECONDS)],
        cwd=REPOSITORY, env=os.environ | {"CREDSCALE_ARTIFACTS": str(mixed.folder / "artifacts")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    told = "hosts: dead1, dead2 refused; hang1, hang2 timed out; dead3 unreachable"
    assert told in done.stdout, done.stdout
    assert "45 of 50 hosts answered" in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line.split()[:1] == ["stop"]][:5] == [
        ["stop", "dead1"], ["stop", "hang1"], ["stop", "dead2"], ["stop", "hang2"], ["stop", "dead3"],
    ]  # fmt: skip
    for title in ("disks", "clocks", "limits", "huge pages", "versions"):
        rows = lines[lines.index(next(line for line in lines if line.strip() == title)) :]
        assert sum(bool(re.match(r" \w+ +h\d\d ", row)) for row in rows) >= ALIVE, f"{title} shows every host"
    (evidence,) = (mixed.folder / "artifacts/fleet/host-check").iterdir()
    assert (evidence / "report.html").is_file()


def test_within_the_budget_dead_hosts_are_a_warning(mixed: Fleet) -> None:
    with mixed.run() as ctx:
        result = verify_disk(ctx, hosts="h0?,dead*", most_used_percent=100.0, least_free_gb=0.0, errors_allowed=3)
    assert result.status is Status.OK
    assert [row["severity"] for row in result.output["rows"]] == ["warn"] * 3 + ["ok"] * 10


@step()
def put_file(ctx: Context, *, folder: str, errors_allowed: int = 0) -> Finding:
    """Write a file on every host that has not got it."""
    missing = [name for name in ctx.environment.hosts if not (Path(folder) / name).exists()]

    def work(machine: Machine) -> None:
        machine.write(f"{folder}/{machine.name}", b"done", mode=0o600)

    change_hosts(ctx, "write the file", missing, work, parallel=1, errors_allowed=errors_allowed)
    return Finding(f"{len(missing)} hosts needed it")


def test_a_change_ends_at_the_first_host_that_fails_and_goes_on_when_it_is_mended(fleet: Fleet) -> None:
    first, second, third = fleet.add(3)
    place, port = fleet.folder / "written", fleet.hosts[second]["port"]
    place.mkdir()
    (fleet.hosts[second]["port"],) = free_ports(1)
    with fleet.run() as ctx, pytest.raises(StepFailed) as caught:
        put_file(ctx, folder=str(place))
    assert f"changed on {first}; not changed on {second}, {third}; not known of none" in str(caught.value)
    assert [row["outcome"] for row in caught.value.result.output["rows"]] == ["done", "refused", "not asked"]
    fleet.hosts[second]["port"] = port
    with fleet.run() as ctx:
        assert put_file(ctx, folder=str(place)).changes == [f"write the file on {second}, {third}"]
        assert put_file(ctx, folder=str(place)).changes == []
    assert sorted(path.name for path in place.iterdir()) == [first, second, third]


def test_a_changed_key_and_a_refused_login_are_told_apart_from_an_unknown_one(fleet: Fleet) -> None:
    good, changed, unwelcome = fleet.add(3)
    (unknown,) = fleet.add(1, known=False)
    server = fleet.servers[1]
    known = server.known_hosts.read_text()
    other = make_key(fleet.folder / "other").with_suffix(".pub").read_text().split()[:2]
    server.known_hosts.write_text(known.replace(server.public, " ".join(other)))
    fleet.hosts[unwelcome]["key"] = str(make_key(fleet.folder / "stranger"))
    with fleet.run() as ctx:
        answers = {answer.host: answer for answer in ask_hosts(ctx, list(fleet.hosts), read_name)}
        assert {name: answer.why for name, answer in answers.items()} == {
            good: "", changed: "host key", unwelcome: "auth", unknown: "host key",
        }  # fmt: skip
        command = re.search(
            r"invoke hosts\.accept-host-key .*--host (\S+) --fingerprint (\S+)", answers[unknown].problem
        )
        assert command is not None, answers[unknown].problem
        accepted = accept_host_key(ctx, host=command[1], fingerprint=command[2])
        assert accepted.status is Status.CHANGED
        assert ask_hosts(ctx, [unknown], read_name)[0].value == unknown


def test_ctrl_c_ends_it_at_once_and_keeps_who_had_answered(mixed: Fleet) -> None:
    for name in HANGING:
        mixed.hosts[name]["connect_timeout"] = 100.0  # so that it hangs until somebody ends it
    artifacts = mixed.folder / "artifacts"
    command = [sys.executable, "-m", "invoke", "hosts.verify-disk", "--env", str(mixed.write())]
    command += ["--hosts", "h0?,hang*", "--timeout", "100"]
    environment = os.environ | {"CREDSCALE_ARTIFACTS": str(artifacts)}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            wait_for(lambda: any('"done":10' in line for line in told(artifacts)), 60.0)
            running.send_signal(signal.SIGINT)
            output, _ = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 1
    assert "interrupted by the operator" in output
    notes = [json.loads(line)["text"] for line in told(artifacts) if '"event":"note"' in line]
    assert re.fullmatch(r"interrupted when 10 of 12 hosts had answered: (h\d\d(, )?){10}", notes[-1])


def told(artifacts: Path) -> list[str]:
    """Return the lines of the only journal below a folder."""
    return [line for path in artifacts.rglob("journal.jsonl") for line in path.read_text().splitlines()]
