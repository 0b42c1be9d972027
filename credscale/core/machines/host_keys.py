"""Accepting a host key: asked for from the host, compared with what a person read on its console, then kept."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.core.machines import known_hosts
from credscale.core.machines.connecting import connect, reach

if TYPE_CHECKING:
    from credscale.core.sections import Host


def offered_key(
    name: str, host: Host, jump: tuple[str, Host] | None = None, *, environment: str = ""
) -> tuple[str, str, bool]:
    """Return the key that a host shows now: its type, its fingerprint, and whether it is known and not revoked.

    Nobody logs in on the host; on the jump host, whose key must be known, somebody does.

    Args:
        name: how the inventory calls the host.
        host: how it is reached.
        jump: name and entry of the host to go through.
        environment: name of the environment, for messages.

    Raises:
        ConnectFailed: it cannot be reached.
        EnvironmentInvalid: the known_hosts file cannot be read.
    """
    known = known_hosts.known_keys(host)
    key = _shown(name, host, jump, known.types, environment)
    shown = (key.get_name(), key.asbytes())
    return key.get_name(), known_hosts.fingerprint(key), shown in known.keys and shown not in known.revoked


def accept_host_key(name: str, host: Host, fingerprint: str, jump: tuple[str, Host] | None = None) -> str:
    """Add a host's key to its known_hosts file when it is the one that a person read on the host itself.

    Args:
        name: how the inventory calls the host.
        host: how it is reached.
        fingerprint: as ``ssh-keygen -lf`` prints it on the host, ``SHA256:...``.
        jump: name and entry of the host to go through.

    Returns:
        the path of the file, which has the key now.

    Raises:
        PreconditionFailed: the host shows another key, another one is known for it, or this one is revoked; nothing was
            written.
        ConnectFailed: it cannot be reached.
        EnvironmentInvalid: that is no fingerprint, or the file cannot be read or written.
    """
    expected = known_hosts.check_fingerprint(fingerprint)
    known = known_hosts.known_keys(host)
    key = _shown(name, host, jump, known.types)
    shown, seen = (key.get_name(), key.asbytes()), known_hosts.fingerprint(key)
    where = f"{name} ({host.address}:{host.port})"
    if seen != expected:
        raise PreconditionFailed(
            f"{where} shows another key than the one to accept: expected {expected}, it showed {key.get_name()} "
            f"{seen}. Nothing was written. A machine has one key of each type: read all of them on its console with: "
            "for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done. If none is the one shown, somebody "
            "answers in its place"
        )
    if shown in known.revoked:
        raise PreconditionFailed(f"the key {seen} of {where} is revoked in {known.path}; nothing was written")
    if known.keys and shown not in known.keys:
        raise PreconditionFailed(
            f"{known.path} knows {where} by another key, "
            f"{' and '.join(known_hosts.fingerprint_of(data) for _, data in known.keys)}; nothing was written. If the "
            "machine was set up anew, remove the old one first: "
            f"ssh-keygen -R {shlex.quote(known_hosts.name_of(host))} -f {shlex.quote(str(known.path))}"
        )
    if shown not in known.keys:
        known_hosts.append(known.path, host, key)
    return str(known.path)


def _shown(name: str, host: Host, jump: tuple[str, Host] | None, types: set[str], environment: str = "") -> Any:
    """Return the key that a host shows; the connection ends with that."""
    way = connect(*jump, None, environment=environment) if jump is not None else None
    try:
        through = (jump[0], way) if jump is not None and way is not None else None
        transport = reach(name, host, through, types, lambda _: None, float("inf"))
        try:
            return transport.get_remote_server_key()
        finally:
            transport.close()
    finally:
        if way is not None:
            way.close()
