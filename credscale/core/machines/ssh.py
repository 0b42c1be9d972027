"""A machine reached over SSH: strictly verified host keys, no shell text made of values, timeouts on everything."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines.connecting import PROHIBITED, Way, connect
from credscale.core.machines.exchange import Exchange, Watchdog
from credscale.core.machines.login import user_of
from credscale.core.machines.machine import COMMAND_SECONDS, TAIL_BYTES, Completed, Machine
from credscale.core.machines.sudo import Sudo
from credscale.core.machines.tunnel import Tunnel
from credscale.core.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from credscale.core.machines.by_hand import ByHand
    from credscale.core.sections import Host

_NOT_FOUND = 127
_GRACE_SECONDS = 1.0  # after which a connection that does not even let a call return is broken off
_SHORTEST = 0.001


class SshMachine(Machine):
    """A machine reached over SSH; connects when first needed, and again after the connection broke.

    The inventory alone says how: the user's ``~/.ssh/config`` is not read, so that a run does not depend on who runs
    it. Host keys are looked up in the host's ``known_hosts``, else in ``~/.ssh/known_hosts``.

    Args:
        name: how the inventory calls it.
        host: how it is reached.
        jump: the machine to go through, whose one connection all behind it share; None for a direct connection.
        environment: name of the environment, for the commands in messages.
        resolve: returns the secret behind a reference; called when sudo asks for its password.
    """

    def __init__(
        self,
        name: str,
        host: Host,
        jump: SshMachine | None = None,
        *,
        environment: str = "",
        resolve: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(name)
        self._host, self._jump, self._environment = host, jump, environment
        self._resolve = resolve if resolve is not None else Secrets().resolve
        self._way: Way | None = None
        self._connecting = threading.Lock()
        self.connecting_seconds: float = host.connect_timeout + (jump.connecting_seconds if jump is not None else 0.0)
        self._tunnels: dict[int, Tunnel] = {}

    def run(self, argv: Sequence[str], *, stdin: bytes | BinaryIO = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        """Run a program to its end; see ``Machine.run``."""
        out, err = bytearray(), bytearray()
        until = time.monotonic() + timeout
        problem = f"{self.name}: {argv[0]} did not end within {timeout:g} s"
        with self._started(argv, stdin, timeout, problem) as (exchange, sudo, _):
            while not exchange.ended:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    raise ConnectFailed(problem + _waiting(sudo), "timed out")
                more, complaint = exchange.step(remaining)
                out += more
                err += complaint
        return self._finished(Completed(exchange.code, bytes(out), bytes(err)), argv, sudo)

    def stream(self, argv: Sequence[str], *, stdin: bytes = b"", silence: float) -> Iterator[bytes]:
        """Run a program and yield what it prints as it comes; see ``Machine.stream``."""
        out, err = b"", b""
        problem = f"{self.name}: {argv[0]} printed nothing for {silence:g} s, so the connection was closed"
        self.way()  # a slow login is not the program's silence
        with self._started(argv, stdin, silence, problem) as (exchange, sudo, watchdog):
            heard = time.monotonic()
            while not exchange.ended:
                remaining = heard + silence - time.monotonic()
                if remaining <= 0:
                    raise ConnectFailed(problem + _waiting(sudo), "timed out")
                more, complaint = exchange.step(remaining)
                out, err = (out + more)[-TAIL_BYTES:], (err + complaint)[-TAIL_BYTES:]
                if more:
                    watchdog.calm(float("inf"))  # what the caller does meanwhile is not the program's silence
                    yield more
                if more or complaint:
                    heard = time.monotonic()
                    watchdog.calm(silence + _GRACE_SECONDS)
        self._succeeded(argv, self._finished(Completed(exchange.code, out, err), argv, sudo))

    @contextmanager
    def _started(
        self, argv: Sequence[str], stdin: bytes | BinaryIO, seconds: float, late: str
    ) -> Iterator[tuple[Exchange, Sudo | None, Watchdog]]:
        """Start a program, and end the way it runs over when that failed: a new one is made when next needed.

        Args:
            argv: program and arguments.
            stdin: what it reads.
            seconds: until the time is up, for connecting too.
            late: what to say when it is.
        """
        from paramiko import SSHException

        until = time.monotonic() + seconds
        sudo = self._sudo()
        command = command_line(argv if sudo is None else sudo.words(argv))
        way, channel = self._session(until, late)
        watchdog = Watchdog(until + _GRACE_SECONDS - time.monotonic(), way.break_off())
        try:
            # Not fabric: its run() decodes what is printed, and feeds standard input a character every 10 ms.
            with watchdog, channel:
                yield Exchange(channel, command, stdin, sudo), sudo, watchdog
        except (SSHException, OSError, EOFError) as error:
            way.close()
            if watchdog.bitten:
                raise ConnectFailed(late + _waiting(sudo), "timed out") from None
            raise ConnectFailed(
                f"{self.name}: the connection broke while {argv[0]} ran ({_told(error)}). Whether it went on there is "
                "unknown: run the same command again, every step looks first",
                "broken",
            ) from None
        except ConnectFailed:
            way.close()  # nobody knows whether it still carries anything
            raise

    def _session(self, until: float, late: str, *, again: bool = True) -> tuple[Way, Any]:
        """Return the way and a session on it; a way that ended since it was used last is replaced, but only once."""
        from paramiko import ChannelException, SSHException

        way = self.way(until - time.monotonic())
        remaining = max(_SHORTEST, until - time.monotonic())
        try:
            with Watchdog(remaining + _GRACE_SECONDS, way.break_off()):
                return way, way.transport.open_session(timeout=remaining)
        except ChannelException as error:
            raise ConnectFailed(
                f"{self.name}: sshd opens no further session on this connection ({error.text}). Raise MaxSessions "
                "in its sshd_config",
                "refused",
            ) from None
        except (SSHException, OSError, EOFError) as error:
            way.close()
            if time.monotonic() >= until:
                raise ConnectFailed(late, "timed out") from None
            if again:
                return self._session(until, late, again=False)
            raise ConnectFailed(f"{self.name}: the connection broke ({_told(error)})", "broken") from None

    def _finished(self, done: Completed, argv: Sequence[str], sudo: Sudo | None) -> Completed:
        """Tell apart a program's end from one that never started."""
        if sudo is not None and not sudo.started:
            raise sudo.refusal(done.code)
        if done.code == _NOT_FOUND and not done.stdout:
            raise PreconditionFailed(f"{self.name}: {argv[0]} cannot be run: {done.complaint}")
        return done

    def _sudo(self) -> Sudo | None:
        reference = self._host.sudo
        if isinstance(reference, str):
            return Sudo(self.name, lambda: self._resolve(reference), reference)
        return Sudo(self.name, None, "") if reference else None

    def by_hand(self) -> ByHand:
        """Return fabric's connection over this one: ``run``, ``put``, ``get``, ``forward_local``, as in a fabfile.

        For troubleshooting in a notebook: nothing of it is journalled, and it builds shell texts as fabric does.
        """
        from credscale.core.machines.by_hand import ByHand

        return ByHand(self._host.address, user_of(self._host), self._host.port, lambda: self.way().transport)

    def tunnel(self, port: int) -> str:
        """Return the path of a socket, open to this user alone, that leads to a port of the machine's loopback."""
        if port not in self._tunnels:
            self._tunnels[port] = Tunnel(lambda: self.way().transport, port, self.name)
        return self._tunnels[port].path

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on a port of the machine's loopback."""
        from paramiko import ChannelException, SSHException

        way = self.way()
        seconds = self._host.connect_timeout
        ends = ("127.0.0.1", port), ("127.0.0.1", 0)
        try:
            with Watchdog(seconds + _GRACE_SECONDS, way.break_off()):
                way.transport.open_channel("direct-tcpip", *ends, timeout=seconds).close()
        except ChannelException as error:
            if error.code == PROHIBITED:
                raise ConnectFailed(
                    f"{self.name}: sshd forbids forwarding, by which we look whether a port is taken. "
                    "Set AllowTcpForwarding local there",
                    "refused",
                ) from None
            return False
        except (SSHException, OSError, EOFError) as error:
            way.close()
            raise ConnectFailed(f"{self.name}: the connection broke ({_told(error)})", "broken") from None
        return True

    def close(self) -> None:
        """Close tunnels and connections."""
        for tunnel in self._tunnels.values():
            tunnel.close()
        self._tunnels.clear()
        if self._way is not None:
            self._way.close()
            self._way = None

    def way(self, seconds: float = float("inf")) -> Way:
        """Return the open connection; one that broke is replaced, and tunnels then lead through the new one.

        Args:
            seconds: to connect at most, when that is less than the host's ``connect_timeout``.

        Raises:
            ConnectFailed: the machine cannot be reached.
        """
        until = time.monotonic() + seconds
        with self._turn(seconds):
            if self._way is None or not self._way.open:
                if self._way is not None:
                    self._way.close()
                self._way = None
                jump = self._jump.way(until - time.monotonic()) if self._jump is not None else None
                try:
                    self._way = self._connect(jump, until)
                except ConnectFailed:
                    if self._jump is None or jump is None or not jump.ends():
                        raise
                    self._way = self._connect(self._jump.way(until - time.monotonic()), until)  # it was dead before
            return self._way

    @contextmanager
    def _turn(self, seconds: float) -> Iterator[None]:
        """Let one call at a time connect; the others wait for it no longer than connecting may take, or they have."""
        patience = max(0.0, min(seconds, self.connecting_seconds))
        if not self._connecting.acquire(timeout=patience):
            raise ConnectFailed(
                f"{self.name} ({self._host.address}:{self._host.port}) cannot be reached over SSH: another call has "
                f"not connected to it within {patience:.3g} s",
                "timed out",
            )
        try:
            yield
        finally:
            self._connecting.release()

    def _connect(self, jump: Way | None, until: float) -> Way:
        through = (self._jump.name, jump) if self._jump is not None and jump is not None else None
        limit = until - time.monotonic()
        return connect(self.name, self._host, through, limit=limit, environment=self._environment)


def command_line(argv: Sequence[str]) -> str:
    """Return a program and its arguments as one line for the user's login shell, each word in quotes.

    Not shlex.join: fish takes a backslash before a quote for an escape and %self for a process, so no backslash stands
    inside quotes and no word outside.
    """
    words = (word.replace("'", "'\"'\"'").replace("\\", "'\\\\'") for word in argv)
    return " ".join(f"'{word}'" for word in words)


def _waiting(sudo: Sudo | None) -> str:
    return sudo.waiting() if sudo is not None and not sudo.started else ""


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
