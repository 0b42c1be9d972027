"""A connection over SSH, from the name's look-up to the login, within one deadline."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from credscale.core.errors import ConnectFailed
from credscale.core.machines import known_hosts
from credscale.core.machines.login import log_in, user_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credscale.core.errors import Why
    from credscale.core.sections import Host

T = TypeVar("T")
KEEPALIVE_SECONDS = 15
PROHIBITED = 1  # the reason code of RFC 4254 for a channel that the server does not allow
UNANSWERED_SECONDS = 30  # after which the kernel ends a connection whose packets nobody confirms
_END_SECONDS = 0.2
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


@dataclass(frozen=True)
class Way:
    """An open connection.

    Args:
        transport: to the machine.
        jump: to the host it goes through; None for a direct one.
    """

    transport: Any
    jump: Way | None = None

    @property
    def open(self) -> bool:
        """Whether it still carries anything, as far as can be told without asking."""
        return bool(self.transport.is_active()) and (self.jump is None or self.jump.open)

    def ends(self) -> bool:
        """Tell whether it has ended; what went through it ends a moment before."""
        self.transport.join(_END_SECONDS)
        return not self.open

    def close(self) -> None:
        """Close it, but not the jump host's, which others may use; nothing is waited for."""
        self.transport.close()

    def break_off(self) -> Iterator[None]:
        """Close it and, with each further step, what it goes through: for a call that hangs somewhere in it."""
        way: Way | None = self
        while way is not None:
            way.close()
            yield
            way = way.jump


def connect(
    name: str, host: Host, jump: tuple[str, Way] | None, *, limit: float = float("inf"), environment: str = ""
) -> Way:
    """Connect and log in.

    Args:
        name: how the inventory calls the machine.
        host: how it is reached.
        jump: name of the jump host and the way to it.
        limit: seconds for everything together, when that is less than ``host.connect_timeout``.
        environment: name of the environment, for messages.

    Raises:
        ConnectFailed: it cannot be reached, or a key or the login is refused; ``why`` tells which.
        EnvironmentInvalid: the known_hosts file cannot be read.
    """
    known = known_hosts.known_keys(host)

    def enter(transport: Any) -> None:
        known_hosts.check(name, host, known, transport.get_remote_server_key(), environment)
        log_in(name, host, transport)

    transport = reach(name, host, jump, known.types, enter, limit)
    transport.set_keepalive(KEEPALIVE_SECONDS)
    return Way(transport, jump[1] if jump is not None else None)


def reach(
    name: str,
    host: Host,
    jump: tuple[str, Way] | None,
    types: set[str],
    enter: Callable[[Any], None],
    limit: float,
) -> Any:
    """Return a transport to a host that has shown its key.

    Args:
        name: how the inventory calls the host.
        host: how it is reached.
        jump: name of the jump host and the way to it.
        types: of keys that it shall rather show.
        enter: verifies the key and logs in, within the same deadline.
        limit: seconds for everything together, when that is less than ``host.connect_timeout``.

    Raises:
        ConnectFailed: as for ``connect``.
    """
    from paramiko import SSHException
    from paramiko.ssh_exception import AuthenticationException, ChannelException

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it would print is raised as well
    seconds = max(0.1, min(host.connect_timeout, limit))
    until = time.monotonic() + seconds
    where = f"{name} ({host.address}:{host.port}{f' through {jump[0]}' if jump is not None else ''})"
    opened: list[Any] = []

    def work() -> Any:
        way = _dial(host, until) if jump is None else _through(jump[1].transport, host, until)
        transport = _transport(way, types, seconds)
        opened.append(transport)
        if time.monotonic() >= until:  # nobody waits any more, and who did may have closed what was open before this
            transport.close()
            way.close()
            raise TimeoutError
        transport.start_client(timeout=seconds + 1)
        enter(transport)
        return transport

    try:
        return _within(until, work)
    except BaseException as error:
        for each in opened:
            each.close()
        if isinstance(error, TimeoutError):
            stage = "answered" if not opened else "let us in" if opened[0].remote_version else "greeted, as sshd does,"
            bound = (
                f" (hosts.{name}.connect_timeout)" if host.connect_timeout <= limit else ", all that was left for it"
            )
            problem = f"it has not {stage} within {seconds:.3g} s{bound}"
            why: Why = "timed out"
        elif isinstance(error, AuthenticationException):
            raise ConnectFailed(
                f"{where} refused the login of {user_of(host)}: {error}. Check user and key in the section "
                "hosts, and that the agent holds the key (ssh-add -l)",
                "auth",
            ) from None
        elif isinstance(error, ChannelException):
            bastion = jump[0] if jump is not None else ""
            problem = f"the jump host {bastion} cannot connect to it: {error.text}"
            if error.code == PROHIBITED:
                problem = (
                    f"the jump host {bastion} forbids it ({error.text}). Set AllowTcpForwarding local or PermitOpen in "
                    f"the sshd_config of {bastion}"
                )
            why = "unreachable"
        elif isinstance(error, (SSHException, OSError, EOFError, UnicodeError)):
            said = error.strerror if isinstance(error, OSError) else str(error)
            problem, why = said or type(error).__name__, _why(error)
        else:
            raise
        raise ConnectFailed(f"{where} cannot be reached over SSH: {problem}", why) from None


def _why(error: Exception) -> Why:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (socket.gaierror, UnicodeError)) or (  # the latter: no name can look like this
        isinstance(error, OSError) and error.errno in _NO_WAY
    ):
        return "unreachable"
    return "broken"


def _within(until: float, work: Callable[[], T]) -> T:
    """Return what the work returns; the look-up of a name and an agent know no deadline, so a thread does the waiting.

    Raises:
        TimeoutError: it took longer; what it holds open is the caller's to close, after which it soon ends.
    """
    values: list[T] = []
    errors: list[BaseException] = []

    def note() -> None:
        try:
            values.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            # Late, it is some part's own limit that has run out, whatever that part calls it.
            errors.append(TimeoutError() if time.monotonic() >= until else error)

    thread = threading.Thread(target=note, name="connecting", daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if values:
        return values[0]
    if errors:
        raise errors[0]
    raise TimeoutError


def _dial(host: Host, until: float) -> socket.socket:
    """Return a connected socket to the first address of a host that answers."""
    found = socket.getaddrinfo(host.address, host.port, type=socket.SOCK_STREAM)
    problem: OSError = TimeoutError()
    for number, (family, kind, protocol, _, address) in enumerate(found):
        remaining = until - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        way = socket.socket(family, kind, protocol)
        try:
            way.settimeout(remaining / (len(found) - number))  # one address that does not answer leaves time for others
            way.connect(address)
        except OSError as error:
            way.close()
            problem = error
            continue
        way.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            way.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_SECONDS * 1000)
        return way
    raise problem


def _through(transport: Any, host: Host, until: float) -> Any:
    """Return a channel that leads to a host from its jump host."""
    remaining = until - time.monotonic() + 1
    return transport.open_channel("direct-tcpip", (host.address, host.port), ("127.0.0.1", 0), timeout=remaining)


def _transport(way: Any, types: set[str], seconds: float) -> Any:
    """Return a transport that has not started, and whose parts wait no longer than the whole."""
    from paramiko import Transport

    transport = Transport(way)
    security = transport.get_security_options()
    # a machine shows one key only: ask for one of a type that is known (rsa-sha2-512 is how an ssh-rsa key signs)
    plain = {name: "ssh-rsa" if name.startswith("rsa-sha2") else name for name in security.key_types}
    security.key_types = sorted(security.key_types, key=lambda name: plain[name] not in types)
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = seconds + 1
    return transport
