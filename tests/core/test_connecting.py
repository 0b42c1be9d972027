"""The way to a host: what fails has a name, and what hangs is not waited for."""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.clients import Clients
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed, EnvironmentInvalid
from credscale.core.machines import SshMachine
from credscale.core.machines.connecting import connect
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


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unreachable"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "refused"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "timed out"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "broken"),
    ],
)
def test_failures_have_names(monkeypatch: pytest.MonkeyPatch, error: OSError, why: str) -> None:
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
