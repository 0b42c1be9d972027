"""A machine reached over SSH: strictly verified host keys, no shell text made of values, timeouts on everything."""

from __future__ import annotations

import base64
import hashlib
import logging
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines.machine import COMMAND_SECONDS, Completed, Machine
from credscale.core.machines.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fabric import Connection

    from credscale.core.sections import Host

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 15
_CHUNK = 65536
_NOT_FOUND = 127
_PROHIBITED = 1  # the reason code of RFC 4254 for a channel that the server does not allow
_LATE_OUTPUT_SECONDS = 1.0  # output may come after the exit code; a server that forked away holds the stream for ever


class SshMachine(Machine):
    """A machine reached over SSH; connects when first needed.

    The inventory alone says how: the user's ``~/.ssh/config`` is not read, so that a run does not depend on who runs
    it. Host keys are looked up in the host's ``known_hosts``, else in ``~/.ssh/known_hosts``.

    Args:
        name: how the inventory calls it.
        host: how it is reached.
        jump: the host to go through; None for a direct connection.
    """

    def __init__(self, name: str, host: Host, jump: tuple[str, Host] | None = None) -> None:
        super().__init__(name)
        self._host, self._jump = host, jump
        self._open: Connection | None = None
        self._tunnels: dict[int, Tunnel] = {}

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Completed:
        """Run a program to its end; see ``Machine.run``."""
        from paramiko import SSHException

        words = ["sudo", "-n", "--", *argv] if self._host.sudo else list(argv)
        deadline = time.monotonic() + timeout
        try:
            # Not fabric's run(): it decodes what is printed, and feeds standard input a character every 10 ms.
            with self._transport().open_session(timeout=CONNECT_SECONDS) as channel:
                channel.settimeout(timeout)
                channel.exec_command(shlex.join(words))
                channel.sendall(stdin)
                channel.shutdown_write()
                done = self._collect(channel, deadline)
        except (SSHException, OSError, EOFError) as error:
            raise ConnectFailed(
                f"{self.name}: {argv[0]} did not end within {timeout:.0f} s or the connection broke "
                f"({type(error).__name__}: {error})"
            ) from None
        if done.code == _NOT_FOUND and not done.stdout:
            raise PreconditionFailed(f"{self.name}: {argv[0]} cannot be run: {done.complaint}")
        return done

    def _collect(self, channel: Any, deadline: float) -> Completed:
        """Read both streams until they end, or until the program did and nothing more comes."""
        out, err, ended = bytearray(), bytearray(), 0.0
        while True:
            now = time.monotonic()
            quiet = True
            while channel.recv_ready():
                out += channel.recv(_CHUNK)
                quiet = False
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(_CHUNK)
                quiet = False
            if channel.exit_status_ready() and quiet:
                ended = ended or now
                if channel.eof_received or now - ended > _LATE_OUTPUT_SECONDS:
                    break
            if channel.closed and not channel.exit_status_ready():
                raise EOFError("the connection was closed before the program ended")
            if now >= deadline:
                raise TimeoutError("timed out")
            if quiet:
                time.sleep(0.005)
        while channel.recv_ready():
            out += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_CHUNK)
        return Completed(channel.recv_exit_status(), bytes(out), bytes(err))

    def tunnel(self, port: int) -> str:
        """Return the path of a socket, open to this user alone, that leads to a port of the machine's loopback."""
        if port not in self._tunnels:
            self._tunnels[port] = Tunnel(self._transport, port, self.name)
        return self._tunnels[port].path

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on a port of the machine's loopback."""
        from paramiko import ChannelException, SSHException

        try:
            way = ("127.0.0.1", port), ("127.0.0.1", 0)
            self._transport().open_channel("direct-tcpip", *way, timeout=CONNECT_SECONDS).close()
        except ChannelException as error:
            if error.code == _PROHIBITED:
                raise ConnectFailed(
                    f"{self.name}: sshd forbids forwarding, by which we look whether a port is taken. "
                    "Set AllowTcpForwarding local there"
                ) from None
            return False
        except (SSHException, OSError, EOFError) as error:
            raise ConnectFailed(f"{self.name}: the connection broke ({type(error).__name__}: {error})") from None
        return True

    def close(self) -> None:
        """Close tunnels and connections."""
        for tunnel in self._tunnels.values():
            tunnel.close()
        self._tunnels.clear()
        if self._open is not None:
            gateway = self._open.gateway
            self._open.close()
            if gateway is not None:
                gateway.close()
            self._open = None

    def _transport(self) -> Any:
        """Return the live transport, connecting when there is none; a broken one is replaced."""
        from paramiko import BadHostKeyException, SSHException
        from paramiko.ssh_exception import AuthenticationException

        if self._open is not None and not self._open.is_connected:
            self.close()
        if self._open is None:
            jump = _connection(*self._jump, None) if self._jump is not None else None
            connection = _connection(self.name, self._host, jump)
            where = f"{self.name} ({self._host.address}:{self._host.port})"
            try:
                _open(connection)
            except BadHostKeyException as error:
                raise ConnectFailed(
                    f"the host key of {error.hostname} is not the one known: expected "
                    f"{fingerprint(error.expected_key)}, it showed {fingerprint(error.key)}. Nothing was sent. "
                    f"Either the machine was set up anew or somebody answers in its place: "
                    f"find out which, then remove the old key with: ssh-keygen -R {shlex.quote(error.hostname)}"
                ) from None
            except AuthenticationException as error:
                raise ConnectFailed(
                    f"{where} refused the login of {connection.user}: {error}. Check user and key in the "
                    "section hosts, and that the agent holds the key (ssh-add -l)"
                ) from None
            except (SSHException, OSError, EOFError) as error:
                raise ConnectFailed(f"{where} cannot be reached over SSH: {error or type(error).__name__}") from None
            connection.transport.set_keepalive(KEEPALIVE_SECONDS)
            self._open = connection
        return self._open.transport


def _open(connection: Connection) -> None:
    """Connect; on failure nothing stays open, of the jump host neither."""
    try:
        connection.open()
    except BaseException:
        connection.close()
        if connection.gateway is not None:
            connection.gateway.close()
        raise


def _connection(name: str, host: Host, gateway: Connection | None) -> Connection:
    """Return an unopened connection that refuses unknown host keys; fabric's own accepts any."""
    from fabric import Config, Connection

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it would print is raised as well
    known = str(Path(host.known_hosts or "~/.ssh/known_hosts").expanduser())

    class Strict:
        """Refuse a machine whose key nobody has confirmed, and say how to confirm it."""

        def missing_host_key(self, _client: Any, _hostname: str, key: Any) -> None:
            scan = shlex.join(["ssh-keyscan", "-p", str(host.port), "-t", scan_type(key.get_name()), host.address])
            raise ConnectFailed(
                f"the host key of {name} ({host.address}:{host.port}) is not in {known}, so nothing was sent. "
                f"It showed {key.get_name()} {fingerprint(key)}. Compare that with what the machine itself "
                f"says (on its console: ssh-keygen -lf /etc/ssh/ssh_host_{scan_type(key.get_name())}_key.pub). "
                f"If they are equal, accept it with: {scan} >> {shlex.quote(known)}"
            )

    options: dict[str, Any] = {"banner_timeout": CONNECT_SECONDS, "auth_timeout": CONNECT_SECONDS}
    if host.key is not None:
        options |= {"key_filename": str(Path(host.key).expanduser()), "look_for_keys": False}
    connection = Connection(
        host.address, user=host.user, port=host.port, gateway=gateway, connect_timeout=int(CONNECT_SECONDS),
        connect_kwargs=options, config=Config(overrides={"load_ssh_configs": False}),
    )  # fmt: skip
    if Path(known).is_file():
        connection.client.load_system_host_keys(known)
    connection.client.set_missing_host_key_policy(Strict())
    return connection


def scan_type(name: str) -> str:
    """Return how ssh-keyscan and the files in /etc/ssh call a type of key."""
    return "rsa" if "rsa" in name else "ecdsa" if "ecdsa" in name else "ed25519"


def fingerprint(key: Any) -> str:
    """Return a key's fingerprint as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
