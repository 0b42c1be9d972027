"""Write a node's files, start it, see that it answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed
from credscale.core.machines.files import write_changed
from credscale.redis_cluster.deploy.config_files import FOLDER_MODE
from credscale.redis_cluster.deploy.survey import (
    compose_command,
    owner_of,
    passwords_of,
    server_of,
    wanted_compose,
    wanted_files,
)

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.redis_cluster.deploy.layout import Layout, NodeProcess

LAUNCH_SECONDS = 120.0  # a container's image may have to be fetched; a plain process is there at once
ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.02
LOG_LINES = "15"


def write_files(ctx: Context, node: NodeProcess, layout: Layout) -> None:
    """Write what is missing or different of a node's files; its data folder is made, and never touched again."""
    machine = ctx.clients.machine(node.machine)
    owner = owner_of(machine, layout)
    machine.make_folder(node.folder, mode=FOLDER_MODE, owner=owner)
    machine.make_folder(node.data, mode=FOLDER_MODE, owner=owner)
    write_changed(machine, wanted_files(machine, node, layout, passwords_of(ctx, layout)))


def write_compose(ctx: Context, machine: str, layout: Layout) -> None:
    """Write the Compose file of a machine."""
    place = ctx.clients.machine(machine)
    write_changed(place, [wanted_compose(place, machine, layout)])


def start_node(ctx: Context, node: NodeProcess, layout: Layout, *, timeout: float) -> None:
    """Start a node and wait until it answers; by systemd, as a daemon or in its container, it outlives this run.

    Loading its data it answers too. With systemd, a node that keeps an append-only file also comes back after a reboot.

    Raises:
        ConnectFailed: it did not start or does not answer in time; carries the end of its log.
    """
    machine = ctx.clients.machine(node.machine)
    for command in start_commands(machine, node, layout):
        done = machine.run(command, timeout=LAUNCH_SECONDS)
        if done.code:
            raise ConnectFailed(
                f"{node.where} did not start on {machine.name}: {command[0]} ended with exit code {done.code}: "
                f"{without_settings(done.complaint)}. {log_tail(machine, node, layout)}"
            )
    wait_answering(ctx, node, layout, timeout=timeout)


def start_commands(machine: Machine, node: NodeProcess, layout: Layout) -> list[list[str]]:
    """Return the commands that start a node, and nothing else."""
    if layout.deploy.start == "process":
        return [[server_of(machine, layout), node.config]]
    if layout.deploy.start == "compose":
        # a stopped container may be of an older file; rm takes away none that runs, and up replaces none
        compose = compose_call(machine, layout)
        return [
            [*compose, "rm", "-f", node.service],
            [*compose, "up", "-d", "--no-recreate", "--no-deps", node.service],
        ]
    enabled = [["systemctl", "enable", node.unit]] if layout.deploy.appendonly else []
    return [["systemctl", "daemon-reload"], *enabled, ["systemctl", "start", node.unit]]


def compose_call(machine: Machine, layout: Layout) -> list[str]:
    """Return how Compose is called for a machine's nodes, up to its command."""
    return [*compose_command(machine), "-p", layout.deploy.compose.project, "-f", layout.compose_file]


def wait_answering(ctx: Context, node: NodeProcess, layout: Layout, *, timeout: float) -> None:
    """Wait until a node answers.

    Raises:
        ConnectFailed: it does not in time; carries the end of its log.
    """
    machine = ctx.clients.machine(node.machine)
    deadline = time.monotonic() + timeout
    while not machine.listens(node.port) or not answers(ctx, node):
        if time.monotonic() >= deadline:
            raise ConnectFailed(
                f"{node.where} does not answer {timeout:.0f} s after its start. {log_tail(machine, node, layout)}"
            )
        time.sleep(POLL_SECONDS)


def answers(ctx: Context, node: NodeProcess) -> bool:
    """Tell whether a node's server answers; a refused login, and loading, are answers."""
    from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

    try:
        ctx.clients.redis_node(node.address, timeout=ANSWER_SECONDS).ping()
    except (AuthenticationError, BusyLoadingError):
        return True
    except (RedisError, OSError):
        return False
    return True


def without_settings(text: str) -> str:
    """Return what a server says without the line of its configuration that it quotes, which may hold a password."""
    return "\n".join(line for line in text.splitlines() if ">>> '" not in line)


def log_tail(machine: Machine, node: NodeProcess, layout: Layout) -> str:
    """Return the end of a node's log as the end of an error message."""
    if layout.deploy.start == "compose":
        place = f"docker logs of the service {node.service}"
        done = machine.run([*compose_call(machine, layout), "logs", "--no-color", "--tail", LOG_LINES, node.service])
    else:
        place = node.log
        done = machine.run(["tail", "-n", LOG_LINES, node.log])
    text = without_settings(done.text).strip()
    if done.code or not text:
        hint = f" (journalctl -u {node.unit} may say more)" if layout.deploy.start == "systemd" else ""
        return f"Its log, {place} on {machine.name}, is empty{hint}"
    return "\n".join(
        [f"The end of its log, {place} on {machine.name}:", *(f"  {each[:500]}" for each in text.splitlines())]
    )
