"""Restart a mongod that somebody else set up, with other options, without ever leaving it down."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.mongo.deploy import replies
from credscale.mongo.deploy.config_edit import with_options
from credscale.mongo.deploy.processes import log_tail
from credscale.mongo.deploy.replies import ask, refusal
from credscale.mongo.deploy.survey import loopback

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.deploy.layout import Process

STOP_SECONDS = 600.0  # a clean end writes a checkpoint
# One program stops and starts, so that the server comes back also when this run is killed in between.
_RESTART = (
    'set -eu; kill -TERM "$1"; left=6000; '
    'while kill -0 "$1" 2>/dev/null; do left=$((left-1)); [ "$left" -gt 0 ] || exit 75; sleep 0.1; done; '
    'shift; exec "$@"'
)


@dataclass(frozen=True)
class Running:
    """How a mongod runs.

    Args:
        pid: its process id.
        argv: its command line.
        parsed: the options in force.
        unit: the systemd unit that keeps it; empty for a daemon.
        config: its configuration file.
        text: what that holds.
    """

    pid: int
    argv: tuple[str, ...]
    parsed: dict[str, Any]
    unit: str
    config: str
    text: str


def look(ctx: Context, process: Process, client: Client) -> Running:
    """Find out how a mongod was started, and that it can be started again in the same way.

    Raises:
        PreconditionFailed: it cannot; says what to do by hand.
    """
    machine = ctx.clients.machine(process.machine)
    options, status = ask(client, "getCmdLineOpts"), ask(client, "serverStatus")
    for name, answer in (("getCmdLineOpts", options), ("serverStatus", status)):
        if answer.code is not None:
            raise refusal(f"{name} on {process.address}", answer)
    pid, parsed = int(status.reply["pid"]), dict(options.reply["parsed"])
    argv = tuple(str(word) for word in options.reply["argv"])
    config = str(parsed.get("config", ""))
    by_hand = "Restart it by hand with --shardsvr and its port, then run this again"
    if not config.startswith("/"):
        raise PreconditionFailed(
            f"{process.where} was started without a configuration file of an absolute path. {by_hand}"
        )
    unit = unit_of(machine, pid)
    if not unit and not parsed.get("processManagement", {}).get("fork"):
        raise PreconditionFailed(f"{process.where} is neither kept by systemd nor a daemon (fork). {by_hand}")
    if not unit and not argv[0].startswith("/"):
        path = machine.find_program(argv[0])
        if path is None:
            raise PreconditionFailed(f"{process.where} was started as {argv[0]}, which is not on PATH. {by_hand}")
        argv = (path, *argv[1:])
    if any(word.split("=")[0] == "--configsvr" for word in argv):
        raise PreconditionFailed(f"{process.where} is a config server and cannot become a shard")
    text = machine.read(config)
    if text is None:
        raise PreconditionFailed(f"the configuration {config} of {process.where} is gone. {by_hand}")
    return Running(pid, argv, parsed, unit, config, text.decode("utf-8"))


def unit_of(machine: Machine, pid: int) -> str:
    """Return the systemd unit whose main process this is; empty when there is none."""
    groups = machine.read(f"/proc/{pid}/cgroup") or b""
    for line in groups.decode().splitlines():
        name = PurePosixPath(line.rpartition(":")[2]).name
        if name.endswith(".service"):
            shown = machine.run(["systemctl", "show", "--property=MainPID", "--value", name])
            if shown.code == 0 and shown.text.strip() == str(pid):
                return name
    return ""


def shard_options(process: Process) -> dict[str, Any]:
    """Return the options of a shard member; the port is explicit because the role would move it (§2.4)."""
    return {
        "net.port": process.port,
        "replication.replSetName": process.replica_set,
        "sharding.clusterRole": "shardsvr",
    }


def restart(ctx: Context, process: Process, running: Running, *, timeout: float) -> None:
    """Write the options of a shard member into its file and restart it; the old file stays beside it.

    Raises:
        ConnectFailed: it does not come back; carries the end of its log.
    """
    machine = ctx.clients.machine(process.machine)
    changed = with_options(running.text, shard_options(process))
    mode, owner = machine.mode(running.config), machine.owner(running.config)
    kept = f"{running.config}.before-credscale"
    if not machine.exists(kept):
        machine.write(kept, running.text.encode(), mode=mode, owner=owner)
    if changed != running.text:
        machine.write(running.config, changed.encode(), mode=mode, owner=owner)
    command = ["systemctl", "restart", running.unit]
    if not running.unit:
        command = ["sh", "-c", _RESTART, "sh", str(running.pid), *running.argv]
    done = machine.run(command, timeout=STOP_SECONDS)
    log = str(running.parsed.get("systemLog", {}).get("path", ""))
    if done.code:
        raise ConnectFailed(
            f"{process.where} did not restart on {machine.name}: exit code {done.code}: {done.complaint}. Its old "
            f"configuration is {kept}. {log_tail(machine, log)}"
        )
    deadline = time.monotonic() + timeout
    while not _is_new(ctx, process, running.pid):
        if time.monotonic() >= deadline:
            raise ConnectFailed(
                f"{process.where} does not answer {timeout:.0f} s after its restart. Its old configuration is {kept}. "
                f"{log_tail(machine, log)}"
            )
        time.sleep(replies.POLL_SECONDS)


def _is_new(ctx: Context, process: Process, old: int) -> bool:
    machine = ctx.clients.machine(process.machine)
    if not machine.listens(process.port):
        return False
    log_in = ctx.environment.mongo is not None and bool(
        ctx.environment.mongo.deploy and ctx.environment.mongo.deploy.admin
    )
    answer = ask(loopback(ctx, process.address, log_in=log_in), "serverStatus")
    return answer.code is None and int(answer.reply["pid"]) != old
