"""The files of a node: pure rendering. There is no default that lets an unknown client in."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.core.addresses import host_of, port_of
from credscale.core.errors import EnvironmentInvalid
from credscale.core.machines.files import File
from credscale.redis_cluster.deploy.layout import bus_port_of, is_ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from credscale.core.sections import RedisDeploy
    from credscale.redis_cluster.deploy.layout import Layout, NodeProcess

HEADER = "# Written by credscale redis-deploy: edit the environment file and run it again.\n"
UNITS = "/etc/systemd/system"
SECRETS_MODE, CONFIG_MODE, FOLDER_MODE = 0o600, 0o644, 0o700
LOOPBACK = frozenset({"127.0.0.1", "localhost", "*", "0.0.0.0"})  # noqa: S104 - what a bind with 127.0.0.1 has
EVERYWHERE = frozenset({"*", "0.0.0.0", "::", "-::*"})  # noqa: S104 - the owner's wish
_PLAIN = re.compile(rb"[A-Za-z0-9_./:@%+,~&*#<>=|^!?()\[\]{}$;-]+")
_ESCAPES = {ord('"'): b'\\"', ord("\\"): b"\\\\", 10: b"\\n", 13: b"\\r", 9: b"\\t"}


@dataclass(frozen=True)
class Passwords:
    """The passwords of a cluster, resolved; nothing of them shows when this is printed.

    Args:
        own: of the nodes among each other and of this tool; None where there is none.
        users: of the applications, by the user's name.
    """

    own: str | None = field(default=None, repr=False)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)


def word(text: str) -> str:
    r"""Return a text as one word of a Redis configuration line, as ``sdssplitargs`` of the server reads it.

    Words are parted by spaces; in double quotes the server understands ``\\``, ``\"``, ``\n``, ``\r``, ``\t`` and
    ``\xHH``, and takes every other byte as it is.
    """
    data = text.encode("utf-8", "surrogateescape")
    if _PLAIN.fullmatch(data):
        return text
    inner = b"".join(
        _ESCAPES.get(byte, bytes([byte]) if byte >= 32 and byte != 127 else b"\\x%02x" % byte) for byte in data
    )
    return f'"{inner.decode("utf-8", "surrogateescape")}"'


def lines(settings: Iterable[tuple[str, ...]]) -> bytes:
    """Return settings, each a name and its words, as the server's file holds them."""
    text = "".join(" ".join((name, *map(word, words))) + "\n" for name, *words in settings)
    return (HEADER + text).encode("utf-8", "surrogateescape")


def files_of(node: NodeProcess, layout: Layout, passwords: Passwords, program: str, owner: str) -> tuple[File, ...]:
    """Return the files of a node.

    Args:
        node: whose.
        layout: the whole cluster.
        passwords: resolved.
        program: the absolute path of the server on its machine, for the systemd unit.
        owner: user that shall own what the server reads; empty for whoever writes it.
    """
    settings = settings_of(node, layout)
    files = [
        File(node.secrets, lines(secret_settings(layout, passwords)), SECRETS_MODE, secret=True, owner=owner),
        File(node.config, lines((name, *words) for name, words in settings.items()), CONFIG_MODE, owner=owner),
    ]
    if layout.deploy.start == "systemd":
        files.append(File(f"{UNITS}/{node.unit}", unit_text(node, layout.deploy, program), CONFIG_MODE))
    return tuple(files)


def settings_of(node: NodeProcess, layout: Layout) -> dict[str, tuple[str, ...]]:
    """Return the configuration of a node: names and their words, without anything secret.

    It is the guide's, made safe: memory is bounded, who may connect is said, and the first copy to a replica begins at
    once rather than after the 5 s of 7.0 and later, in which a new cluster has no usable replica (§1.3). nodes.conf
    is only named: the server alone writes it.
    """
    deploy = layout.deploy
    mutual = deploy.tls is not None and deploy.tls.clients_need_certificate
    settings: dict[str, tuple[str, ...]] = {
        **_ports(node, layout),
        "bind": bind(node, layout),
        # it would refuse clients from other machines while there is no password; certificates do that job as well
        "protected-mode": ("no" if layout.redis.password is None and mutual else "yes",),
        "dir": (node.data,),
        "daemonize": ("yes" if deploy.start == "process" else "no",),
        "logfile": ("" if deploy.start == "compose" else node.log,),
    }
    if deploy.start == "process":
        settings["pidfile"] = (node.pid_file,)
    return settings | {
        "cluster-enabled": ("yes",),
        "cluster-config-file": ("nodes.conf",),
        "cluster-node-timeout": (str(deploy.timeout_ms),),
        "cluster-require-full-coverage": (_yes(deploy.full_coverage),),
        **_announced(node, layout),
        "appendonly": (_yes(deploy.appendonly),),
        "maxmemory": ("0" if deploy.maxmemory == "unlimited" else deploy.maxmemory,),
        "maxmemory-policy": (deploy.policy,),
        "repl-diskless-sync-delay": ("0",),
        "include": (node.secrets,),
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _ports(node: NodeProcess, layout: Layout) -> dict[str, tuple[str, ...]]:
    tls = layout.deploy.tls
    ports: dict[str, tuple[str, ...]] = {"port": (str(node.port if tls is None else 0),)}
    if tls is not None:
        ports |= {
            "tls-port": (str(node.port),),
            "tls-cluster": ("yes",),
            "tls-replication": ("yes",),
            "tls-cert-file": (tls.certificate,),
            "tls-key-file": (tls.key,),
            "tls-ca-cert-file": (tls.ca,),
            "tls-auth-clients": (_yes(tls.clients_need_certificate),),
        }
    if node.needs_cluster_port:
        ports["cluster-port"] = (str(node.bus_port),)
    return ports


def bind(node: NodeProcess, layout: Layout) -> tuple[str, ...]:
    """Return where a node listens: on its own address and on the loopback.

    Its own comes first: before 7.0 connections to the other nodes start from the first address of the list.
    """
    if layout.is_bridged:
        return ("*",)
    wanted = layout.deploy.bind.split()
    if wanted:
        return with_loopback(wanted)
    return ("127.0.0.1",) if node.host in ("localhost", "127.0.0.1") else (node.host, "127.0.0.1")


def with_loopback(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return addresses to listen at and 127.0.0.1, where this tool looks whether a node runs.

    An address that is there twice, or beside one that stands for all, keeps a server from starting. ``::`` and ``::1``
    are of IPv6 alone.
    """
    have = {each.removeprefix("-") for each in addresses}
    return tuple(addresses) if have & LOOPBACK else (*addresses, "127.0.0.1")


def _announced(node: NodeProcess, layout: Layout) -> dict[str, tuple[str, ...]]:
    """Return what a node tells of itself, where peers would not see it for themselves (§1.6, docker/NAT).

    An address of the inventory is announced even without a translation in between: from a connection to any 127.x.y.z
    peers see 127.0.0.1, and a machine of several addresses may start connections from another one.
    """
    host, port = host_of(node.public), port_of(node.public)
    found: dict[str, tuple[str, ...]] = {}
    if is_ip(host):
        found["cluster-announce-ip"] = (host,)
    elif node.announced:
        found |= {"cluster-announce-hostname": (host,), "cluster-preferred-endpoint-type": ("hostname",)}
    if node.announced and port != node.port:
        name = "cluster-announce-port" if layout.deploy.tls is None else "cluster-announce-tls-port"
        found |= {name: (str(port),), "cluster-announce-bus-port": (str(bus_port_of(port)),)}
    return found


def secret_settings(layout: Layout, passwords: Passwords) -> list[tuple[str, ...]]:
    """Return the part of the configuration that holds passwords: of the nodes, and of every user.

    Every node has ``masterauth``, because roles swap (§1.6). With a user of its own the user default is closed.
    """
    found: list[tuple[str, ...]] = []
    if passwords.own is not None:
        if layout.redis.user is None:
            found += [("requirepass", passwords.own), ("masterauth", passwords.own)]
        else:
            found += [
                ("user", layout.redis.user, "on", _hashed(passwords.own), "~*", "&*", "+@all"),
                ("user", "default", "off"),
                ("masteruser", layout.redis.user),
                ("masterauth", passwords.own),
            ]
    found += [
        ("user", user.name, "on", _hashed(passwords.users[user.name]), *user.rules.split())
        for user in layout.deploy.users
    ]
    return found


def _hashed(password: str) -> str:
    return "#" + hashlib.sha256(password.encode("utf-8", "surrogateescape")).hexdigest()


def unit_text(node: NodeProcess, deploy: RedisDeploy, program: str) -> bytes:
    """Return the systemd unit of a node.

    Type=exec rather than notify: not every build can notify, and systemd would kill a server that takes longer than its
    start timeout to load its data. A node that keeps no append-only file is not started again by itself: it
    would come back empty, and its replicas would copy that (§1.6). Stopping waits for replicas and the last save.

    Raises:
        EnvironmentInvalid: the path of the server cannot stand in a unit.
    """
    if set(program) & set(' \t%$"\\'):
        raise EnvironmentInvalid(
            f"the server's path {program!r} cannot stand in a systemd unit; set redis.deploy.binaries"
        )
    user = f"User={deploy.user}\n" if deploy.user else ""
    restart = "Restart=on-failure\nRestartSec=5\n" if deploy.appendonly else "Restart=no\n"
    return (
        f"{HEADER}[Unit]\n"
        f"Description=Redis Cluster {node.where}\n"
        "After=network-online.target\n"
        "Wants=network-online.target\n"
        "\n[Service]\n"
        "Type=exec\n"
        f"{user}ExecStart={program} {node.config}\n"
        f"{restart}"
        "TimeoutStopSec=300\n"
        "LimitNOFILE=65535\n"
        "UMask=0077\n"
        "\n[Install]\n"
        "WantedBy=multi-user.target\n"
    ).encode()
