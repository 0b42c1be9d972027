"""Logging in over SSH with keys: the one the inventory names, or those of the agent and ``~/.ssh``."""

from __future__ import annotations

import base64
import getpass
import shlex
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from credscale.core.sections import Host

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


def user_of(host: Host) -> str:
    """Return who logs in."""
    return host.user or getpass.getuser()


def log_in(name: str, host: Host, transport: Any) -> None:
    """Log in on a transport whose host key was verified.

    Args:
        name: how the inventory calls the host.
        host: how it is reached.
        transport: to it.

    Raises:
        AuthenticationException: no key was accepted.
        ConnectFailed: the key of the inventory cannot be used.
    """
    from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType

    refused: AuthenticationException = AuthenticationException("there is no key to log in with")
    with closing(_given(name, host.key) if host.key is not None else _found(name)) as keys:
        for key in keys:
            try:
                more = transport.auth_publickey(user_of(host), key)
            except BadAuthenticationType:
                raise
            except AuthenticationException as error:
                refused = error
                if not transport.is_active():
                    break
                continue
            if not more:
                return
            refused = AuthenticationException(f"besides a key it asks for {' or '.join(more)}")
            break
        raise refused


@contextmanager
def _agent(name: str) -> Iterator[Any]:
    """Give the agent; without one it holds no key."""
    from paramiko import Agent, SSHException

    try:
        agent = Agent()
    except (SSHException, OSError) as error:
        raise ConnectFailed(
            f"{name}: the agent of SSH_AUTH_SOCK cannot be used: {error}. Start it anew, or name a key file in "
            f"hosts.{name}.key",
            "auth",
        ) from None
    with closing(agent):
        yield agent


def _given(name: str, path: str) -> Generator[Any]:
    """Yield the key of a file; when it is encrypted, the agent's copy of it."""
    file = Path(path).expanduser()
    public = file.with_name(file.name + ".pub")
    try:
        key = _load(file)
        wanted = public.read_text(encoding="utf-8").split()[1:2] if key is None and public.is_file() else []
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise ConnectFailed(f"the key {file} cannot be used: {problem}. Check hosts.{name}.key", "auth") from None
    if key is not None:
        yield key
        return
    with _agent(name) as agent:
        held = [each for each in agent.get_keys() if base64.b64encode(each.asbytes()).decode() in wanted]
        if not held:
            raise ConnectFailed(
                f"the key {file} is encrypted, and no agent holds it (looked for {public} in the agent of "
                f"SSH_AUTH_SOCK). Add it with: ssh-add {shlex.quote(str(file))}",
                "auth",
            )
        yield held[0]


def _found(name: str) -> Generator[Any]:
    """Yield the agent's keys, then those of ``~/.ssh`` that can be read without a passphrase."""
    with _agent(name) as agent:
        yield from agent.get_keys()
    for each in _DEFAULT_KEYS:
        try:
            key = _load(Path("~/.ssh").expanduser() / each)
        except (OSError, ValueError):
            continue  # absent, or of a kind that paramiko does not know
        if key is not None:
            yield key


def _load(file: Path) -> Any:
    """Return a private key, with its certificate if one lies beside it; None when it is encrypted.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none that can be used.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from paramiko import PKey, SSHException
    from paramiko.pkey import UnknownKeyType
    from paramiko.ssh_exception import PasswordRequiredException

    try:
        return PKey.from_path(file)
    except (PasswordRequiredException, TypeError):  # the latter is cryptography's way to say so
        return None
    except (SSHException, UnknownKeyType, UnsupportedAlgorithm) as error:
        raise ValueError(str(error) or type(error).__name__) from None
