"""Processes that outlive the command which started them: start, recognise, watch and stop them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psutil

HOST = "127.0.0.1"
KILL_SECONDS = 10.0  # between SIGTERM and SIGKILL
PORT_SECONDS = 3.0  # a killed process is gone a moment before its last thread closes its sockets
LOG_LINES = 15
BEGIN_ANEW = "Stop that process, or begin anew with: invoke lab.down --wipe"
# Below the range from which systems take the ports of outgoing connections (from 32768 on Linux, 49152 elsewhere), so
# that a dead process's port is not given to somebody's client before the process is started again.
PORTS = range(21000, 32000)
# The kernel computes a start time from the boot time, which moves a little when the clock is set.
SAME_START_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """A process to be started.

    Args:
        name: how the lab calls it, such as ``mongos``; also the name of its log file.
        role: ``config``, ``shard``, ``router`` or ``redis``.
        replica_set: the replica set whose only member it is; empty for a router.
        port: where it will listen on 127.0.0.1.
        command: program and arguments.
        log: the file that receives its output.
        data: its data folder; None when it keeps none.
    """

    name: str
    role: str
    replica_set: str
    port: int
    command: tuple[str, ...]
    log: Path
    data: Path | None

    @property
    def address(self) -> str:
        """Return host:port."""
        return f"{HOST}:{self.port}"


@dataclass(frozen=True)
class Process:
    """A started process, recognised by pid and start time together, because pids are reused.

    Args:
        plan: how it was started.
        pid: its process id.
        create_time: when the kernel says that it began, in seconds since 1970.
    """

    plan: Plan
    pid: int
    create_time: float

    @property
    def name(self) -> str:
        """Return how the lab calls it."""
        return self.plan.name

    @property
    def alive(self) -> bool:
        """Tell whether exactly this process is running now."""
        return self.handle() is not None

    def handle(self) -> psutil.Process | None:
        """Return a handle on exactly this process, or None when it is gone."""
        import psutil

        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.create_time) < SAME_START_SECONDS
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the process as JSON-compatible data."""
        plan = self.plan
        return {
            "name": plan.name, "role": plan.role, "replica_set": plan.replica_set, "pid": self.pid,
            "create_time": self.create_time, "port": plan.port, "command": list(plan.command), "log": str(plan.log),
            "data": str(plan.data) if plan.data is not None else None,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Process:
        """Read back what ``to_json`` gave."""
        plan = Plan(
            data["name"], data["role"], data["replica_set"], data["port"], tuple(data["command"]), Path(data["log"]),
            Path(data["data"]) if data["data"] is not None else None,
        )  # fmt: skip
        return cls(plan, data["pid"], data["create_time"])


def start(plan: Plan) -> Process:
    """Start a process in a session of its own, so that no signal to the starting command's terminal reaches it.

    Raises:
        PreconditionFailed: somebody else listens on its port, or its program cannot be run.
    """
    import psutil

    refuse_taken_port(plan.name, plan.port)
    plan.log.parent.mkdir(parents=True, exist_ok=True)
    if plan.data is not None:
        plan.data.mkdir(parents=True, exist_ok=True)
    try:
        with plan.log.open("ab") as log:
            child = subprocess.Popen(
                plan.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=_variables()
            )
    except OSError as error:
        raise PreconditionFailed(f"{plan.name}: {plan.command[0]} cannot be run: {error.strerror}") from None
    try:
        started = Process(plan, child.pid, psutil.Process(child.pid).create_time())
    except psutil.NoSuchProcess:
        raise ConnectFailed(f"{plan.name} ended at once. {log_tail(plan)}") from None
    child.returncode = 0  # it outlives this command: Popen shall neither wait for it nor warn about it
    return started


def _variables() -> dict[str, str]:
    """Let the child find this package also where it runs from a checkout that is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}


def stop(processes: Sequence[Process], *, kill_after: float = KILL_SECONDS) -> list[str]:
    """Ask processes to end, all at once, and kill those that do not.

    Args:
        processes: what to stop; whatever is gone, or whose pid belongs to somebody else by now, is left alone.
        kill_after: seconds between SIGTERM and SIGKILL.

    Returns:
        the names of those that were running.

    Raises:
        PreconditionFailed: one belongs to another user.
    """
    running = [process for process in processes if process.alive]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            _signal(process, number)
        deadline = time.monotonic() + kill_after
        while any(process.alive for process in running) and time.monotonic() < deadline:
            time.sleep(0.02)
    return [process.name for process in running]


def _signal(process: Process, number: int) -> None:
    import psutil

    handle = process.handle()
    if handle is None:
        return
    try:
        handle.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        raise PreconditionFailed(
            f"{process.name} (pid {process.pid}) belongs to another user, so this one cannot stop it. "
            "Stop it as that user"
        ) from None


def wait_listening(process: Process, deadline: float) -> None:
    """Wait until the process itself listens on its port; somebody else's listener does not count.

    Args:
        process: what was started.
        deadline: in the time of ``time.monotonic``.

    Raises:
        ConnectFailed: it ended or did not listen in time; carries the end of its log.
    """
    import psutil

    while True:
        handle = process.handle()
        if handle is None:
            raise ConnectFailed(
                f"{process.name} ended before it listened on {process.plan.address}. {log_tail(process.plan)}"
            )
        try:
            if any(found.status == psutil.CONN_LISTEN and found.laddr.port == process.plan.port
                   for found in handle.net_connections("tcp")):  # fmt: skip
                return
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            return  # some systems do not tell; the ping that follows has to do
        if time.monotonic() >= deadline:
            raise ConnectFailed(
                f"{process.name} does not listen on {process.plan.address} in time. {log_tail(process.plan)}"
            )
        time.sleep(0.03)


def wait_answering(process: Process, deadline: float) -> None:
    """Wait until the process answers a ping.

    Args:
        process: what was started.
        deadline: in the time of ``time.monotonic``.

    Raises:
        ConnectFailed: it ended or did not answer in time; carries the end of its log.
    """
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    wait_listening(process, deadline)
    client: MongoClient[dict[str, Any]] = MongoClient(
        HOST, process.plan.port, directConnection=True, serverSelectionTimeoutMS=1000, socketTimeoutMS=2000
    )
    with client:
        while True:
            try:
                client.admin.command("ping")
            except PyMongoError as error:
                if process.alive and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                seen = "does not answer" if process.alive else "ended"
                reason = str(error).split(", Timeout")[0]
                raise ConnectFailed(
                    f"{process.name} {seen} on {process.plan.address} ({reason}). {log_tail(process.plan)}"
                ) from None
            return


def log_tail(plan: Plan) -> str:
    """Return the last lines of a process's log with the path, as the end of an error message."""
    try:
        lines = plan.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError as error:
        return f"Its log {plan.log} cannot be read: {error.strerror}"
    if not lines:
        return f"Its log {plan.log} is empty"
    return "\n".join([f"The end of its log {plan.log}:", *(f"  {line[:500]}" for line in lines)])


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens on 127.0.0.1 now."""
    chosen: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(chosen) == count:
            break
        if is_free(port):
            chosen.append(port)
    return chosen


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        # Without it, the closed connections of a process that just ended would look like a listener for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def refuse_taken_port(name: str, port: int, remedy: str = BEGIN_ANEW) -> None:
    """Wait a moment for a port to become free.

    Args:
        name: of the process that needs it.
        port: on 127.0.0.1.
        remedy: what to do when it does not.

    Raises:
        PreconditionFailed: somebody else listens on it.
    """
    deadline = time.monotonic() + PORT_SECONDS
    while time.monotonic() < deadline:
        if is_free(port):
            return
        time.sleep(0.05)
    raise PreconditionFailed(
        f"{name} needs port {port} on {HOST}, which its cluster's data refers to, but {_owner(port)} uses it. {remedy}"
    )


def _owner(port: int) -> str:
    """Name the process that listens on a port, as far as the system tells."""
    import psutil

    for found in psutil.process_iter(["pid", "name"]):
        try:
            connections = found.net_connections("tcp")
        except psutil.Error:
            continue
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
            return f"{found.info['name']} (pid {found.pid})"
    return "another process"
