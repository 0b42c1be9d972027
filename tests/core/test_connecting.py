"""The way to a host: what fails has a name, and what hangs is not waited for."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko import ChannelException, SSHException

from credscale.core.clients import Clients
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed, EnvironmentInvalid
from credscale.core.machines import SshMachine
from credscale.core.machines.connecting import Way, connect
from credscale.core.machines.login import log_in
from credscale.core.secrets import Secrets
from credscale.core.sections import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

BOX = Host(address="db1.example.net", known_hosts="/no/such/file", connect_timeout=0.2)


def test_a_look_up_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(60))
    match = r"box \(db1.example.net:22\) .* has not answered within 0.2 s \(hosts.box.connect_timeout\)"
    with pytest.raises(ConnectFailed, match=match) as caught:
        connect("box", BOX, None)
    assert caught.value.why == "timed out"
    done.set()


def test_a_part_that_gives_up_before_a_busy_machine_looks_has_run_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    join = threading.Thread.join

    def give_up(*_: object, **__: object) -> None:
        time.sleep(0.3)
        raise SSHException("No existing session")

    monkeypatch.setattr(socket, "getaddrinfo", give_up)
    monkeypatch.setattr(threading.Thread, "join", lambda thread, *_: join(thread))
    with pytest.raises(ConnectFailed, match="has not answered within 0.2 s") as caught:
        connect("box", BOX, None)
    assert caught.value.why == "timed out"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unreachable"),
        (UnicodeError("label empty or too long"), "unreachable"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "refused"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "timed out"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "broken"),
    ],
)
def test_failures_have_names(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ConnectFailed, match="cannot be reached over SSH") as caught:
        connect("box", BOX, None)
    assert caught.value.why == why
    with pytest.raises(ConnectFailed, match="^bastion") as caught:
        SshMachine("box", BOX, SshMachine("bastion", BOX)).run(["true"])
    assert caught.value.why == why


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let every look-up hang; yield what is set when one has begun."""
    begun, done = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        begun.set()
        done.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield begun
    done.set()


def test_the_time_that_was_too_short_is_the_one_that_is_named(lost: threading.Event) -> None:
    patient = BOX.model_copy(update={"connect_timeout": 60.0})
    with pytest.raises(ConnectFailed, match=r"has not answered within 0.2 s, all that was left for it$"):
        SshMachine("box", patient).run(["true"], timeout=0.2)
    assert lost.is_set()


def test_who_waits_for_anothers_connecting_waits_no_longer_than_his_own_time(lost: threading.Event) -> None:
    bastion = SshMachine("bastion", BOX.model_copy(update={"connect_timeout": 30.0}))

    def connect_first() -> None:
        with contextlib.suppress(ConnectFailed):
            bastion.run(["true"])

    other = threading.Thread(target=connect_first, daemon=True)
    other.start()
    assert lost.wait(10)
    for machine in (bastion, SshMachine("box", BOX, bastion)):
        with pytest.raises(ConnectFailed, match="^bastion .*: another call has not connected to it") as caught:
            machine.run(["true"], timeout=0.2)
        assert caught.value.why == "timed out"
    assert other.is_alive()


@pytest.mark.parametrize(
    ("code", "text", "match"),
    [
        (1, "Administratively prohibited", r"forbids it .*AllowTcpForwarding local or PermitOpen.* of bastion"),
        (2, "Connect failed", "the jump host bastion cannot connect to it: Connect failed"),
    ],
)
def test_a_jump_host_that_may_not_forward_is_told_apart(code: int, text: str, match: str) -> None:
    class Jump:
        def open_channel(self, *_: Any, **__: Any) -> None:
            raise ChannelException(code, text)

    with pytest.raises(ConnectFailed, match=match):
        connect("box", BOX, ("bastion", Way(Jump())))


class Welcome:
    """A transport that lets everybody in."""

    def auth_publickey(self, *_: object) -> list[str]:
        return []


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the far end of the connection to an agent that answers nobody by itself."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr("paramiko.agent.get_agent_connection", lambda: ours)
    with ours, theirs:
        yield theirs


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return a key's file."""
    file = tmp_path / "key"
    made = Ed25519PrivateKey.generate()
    file.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return file


@pytest.mark.timeout(20)
def test_an_agent_that_hangs_is_not_asked_when_a_key_is_named(agent: socket.socket, key: Path) -> None:
    log_in("box", BOX.model_copy(update={"key": str(key)}), Welcome())
    agent.setblocking(False)
    with pytest.raises(BlockingIOError):
        agent.recv(1)


def test_an_agent_that_hangs_up_is_what_is_said_to_be_wrong(agent: socket.socket) -> None:
    agent.close()
    match = r"box: the agent of SSH_AUTH_SOCK cannot be used: .*hosts\.box\.key"
    with pytest.raises(ConnectFailed, match=match) as caught:
        log_in("box", BOX, Welcome())
    assert caught.value.why == "auth"


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Yield the clients of an inventory with a chain of hosts."""
    hosts = {"a": Host(address="a"), "b": Host(address="b", jump="a"), "c": Host(address="c", jump="b")}
    made = Clients(Environment(name="prod", hosts=hosts, path=Path("prod.yaml")), Secrets())
    yield made
    made.close()


def test_a_chain_of_jump_hosts_is_refused_rather_than_cut_short(clients: Clients) -> None:
    assert clients.machine("b").name == "b"
    with pytest.raises(EnvironmentInvalid, match=r"hosts\.c\.jump: 'b' has a jump host itself"):
        clients.machine("c")
