"""The Compose file of a machine's nodes: pure rendering, for docker-compose 1.29 as well as for Compose v2 and later.

Everything a node has lies at the same path inside and outside, so its configuration is the one of a plain process. The
files are mounted rather than put on the command line: no password is in the Compose file, in ``docker inspect`` or in
``ps``.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import yaml

from credscale.core.machines.files import File
from credscale.redis_cluster.deploy.config_files import CONFIG_MODE, EVERYWHERE, HEADER, with_loopback

if TYPE_CHECKING:
    from credscale.redis_cluster.deploy.layout import Layout, NodeProcess

IMAGE_USER = "999:999"  # who serves in the official images; root must not, and may write for it
NETWORK = "redis-cluster"


def compose_file(layout: Layout, machine: str, runs_as: str) -> File:
    """Return the Compose file of a machine.

    Args:
        layout: the whole cluster.
        machine: its name in the inventory; empty for this machine.
        runs_as: ``uid:gid`` of the owner of the nodes' files, as whom containers run.
    """
    document: dict[str, Any] = {
        "services": {node.service: service_of(node, layout, runs_as) for node in layout.on(machine)}
    }
    if layout.is_bridged:
        document["networks"] = {NETWORK: {"driver": "bridge"}}
    text = HEADER + yaml.safe_dump(document, sort_keys=False, width=200)
    return File(layout.compose_file, text.encode(), CONFIG_MODE)


def service_of(node: NodeProcess, layout: Layout, runs_as: str) -> dict[str, Any]:
    """Return a node's service.

    A node without an append-only file is not started again by itself, as for systemd (§1.6). Ports are published one
    to one, because a node tells peers and clients one and the same address; the bus port has to be among them.
    Limits of open files are left to the daemon, whose default is enough.
    """
    deploy = layout.deploy
    mounted = [node.config, node.secrets]
    if deploy.tls is not None:
        mounted += dict.fromkeys((deploy.tls.certificate, deploy.tls.key, deploy.tls.ca))
    service: dict[str, Any] = {
        "image": deploy.compose.image,
        "command": ["redis-server", node.config],
        "user": runs_as,
        "volumes": [*(f"{path}:{path}:ro" for path in mounted), f"{node.data}:{node.data}"],
        "restart": "unless-stopped" if deploy.appendonly else "no",
        "stop_grace_period": "300s",
        "healthcheck": {
            "test": ["CMD-SHELL", health_command(node, layout)],
            "interval": "5s",
            "timeout": "3s",
            "retries": 3,
            "start_period": "30s",
        },
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
    }
    if layout.is_bridged:
        service["networks"] = [NETWORK]
        service["ports"] = [
            f"{where}{port}:{port}" for port in (node.port, node.bus_port) for where in published_at(layout)
        ]
    else:
        service["network_mode"] = "host"
    return service


def published_at(layout: Layout) -> tuple[str, ...]:
    """Return at which of the machine's addresses the ports of a bridge are published, as they stand before a port.

    Without ``deploy.bind`` that is every one, as Docker has it; with it those alone, and the loopback, by which this
    tool looks whether a node runs.
    """
    wanted = layout.deploy.bind.split()
    if not wanted or EVERYWHERE & {*wanted}:
        return ("",)
    return tuple(f"[{each}]:" if ":" in each else f"{each}:" for each in with_loopback(wanted))


def health_command(node: NodeProcess, layout: Layout) -> str:
    """Return a shell command that succeeds when the server answers; a refusal for want of a password is an answer.

    While it loads its data it answers otherwise, and is not healthy yet.
    """
    words = ["redis-cli", "-p", str(node.port)]
    tls = layout.deploy.tls
    if tls is not None:
        words += ["--tls", "--cacert", tls.ca, "--cert", tls.certificate, "--key", tls.key]
    return f"{shlex.join([*words, 'ping'])} 2>&1 | grep -qE 'PONG|NOAUTH'"
