"""Write a process's files, start it, see that it answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed
from credscale.core.machines.files import write_changed
from credscale.mongo.deploy import replies
from credscale.mongo.deploy.config_files import FOLDER_MODE
from credscale.mongo.deploy.layout import ROUTER
from credscale.mongo.deploy.replies import greet
from credscale.mongo.deploy.survey import loopback, program_of, wanted_files

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.mongo.deploy.layout import Layout, Process

LAUNCH_SECONDS = 120.0  # a first start on a slow disk creates the storage; a later one may recover from its journal


def write_files(ctx: Context, process: Process, wanted: Layout) -> None:
    """Write what is missing or different of a process's files; its data folder is made, and never touched again."""
    machine, owner = ctx.clients.machine(process.machine), wanted.deploy.user
    machine.make_folder(process.folder, mode=FOLDER_MODE, owner=owner)
    if process.role != ROUTER:
        machine.make_folder(process.data, mode=FOLDER_MODE, owner=owner)
    write_changed(machine, wanted_files(ctx, process, wanted, program_of(ctx, process, wanted)))


def start_process(ctx: Context, process: Process, wanted: Layout, *, timeout: float) -> None:
    """Start a process and wait until it answers; started by systemd or as a daemon, it outlives this run.

    Raises:
        PreconditionFailed: it ended at once; carries the end of its log.
        ConnectFailed: it does not answer in time.
    """
    machine = ctx.clients.machine(process.machine)
    if wanted.deploy.start == "systemd":
        machine.must_run(["systemctl", "daemon-reload"])
        commands = [["systemctl", "enable", process.unit], ["systemctl", "start", process.unit]]
    else:
        commands = [[program_of(ctx, process, wanted), "--config", process.config]]
    for command in commands:
        done = machine.run(command, timeout=LAUNCH_SECONDS)
        if done.code:
            raise ConnectFailed(
                f"{process.where} did not start on {machine.name}: {command[0]} ended with exit code {done.code}: "
                f"{done.complaint}. {log_tail(machine, process.log)}"
            )
    wait_answering(ctx, process, timeout=timeout)


def wait_answering(ctx: Context, process: Process, *, timeout: float) -> None:
    """Wait until a process says hello.

    Raises:
        ConnectFailed: it does not in time; carries the end of its log.
    """
    machine = ctx.clients.machine(process.machine)
    deadline = time.monotonic() + timeout
    while not machine.listens(process.port) or greet(loopback(ctx, process.address, log_in=False)).code is not None:
        if time.monotonic() >= deadline:
            raise ConnectFailed(
                f"{process.where} does not answer {timeout:.0f} s after its start. {log_tail(machine, process.log)}"
            )
        time.sleep(replies.POLL_SECONDS)


def log_tail(machine: Machine, path: str) -> str:
    """Return the end of a log as the end of an error message."""
    done = machine.run(["tail", "-n", "15", path])
    if done.code or not done.stdout.strip():
        return f"Its log {path} on {machine.name} is empty"
    lines = [f"  {line[:500]}" for line in done.text.splitlines()]
    return "\n".join([f"The end of its log {path} on {machine.name}:", *lines])
