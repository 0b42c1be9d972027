"""How a node was started, and starting it again the same way."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.addresses import port_of
from credscale.core.errors import PreconditionFailed, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.core.machines import Machine
    from credscale.redis_cluster.cluster.views import NodeView
    from credscale.redis_cluster.drill.processes import Listener, Survey

LAUNCH_SECONDS = 60.0
SETTINGS = ("dir", "pidfile", "bind-source-addr")
_UNIT = re.compile(r"/([^/]+\.service)$")
_CONTAINER = re.compile(r"(?:/docker/|/docker-)([0-9a-f]{64})(?:\.scope)?$")
_IN_FOLDER = 'cd -- "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class Way:
    """How a node is started; JSON-compatible, because it is remembered in the cluster while the node is dead.

    Args:
        kind: by systemd, by Docker, or as a plain daemon.
        name: the unit or the container; empty for a plain one.
        command: program and arguments of a plain one.
        folder: in which a plain one is started.
        user: who runs a plain one, where that is not the user that we are on its machine.
    """

    kind: Literal["systemd", "docker", "process"]
    name: str = ""
    command: tuple[str, ...] = ()
    folder: str = ""
    user: str = ""

    @property
    def words(self) -> str:
        """The same in words."""
        as_user = f" as {self.user}" if self.user else ""
        return {
            "systemd": f"systemctl start {self.name}",
            "docker": f"docker start {self.name[:12]}",
            "process": shlex.join(self.command) + as_user,
        }[self.kind]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-compatible data."""
        return asdict(self) | {"command": list(self.command)}


def way_from(data: Mapping[str, Any]) -> Way:
    """Return a way that was remembered."""
    return Way(data["kind"], data["name"], tuple(data["command"]), data["folder"], data["user"])


def way_of(machine: Machine, view: NodeView, listener: Listener, seen: Survey, settings: Mapping[str, str]) -> Way:
    """Return how a running node was started.

    Args:
        machine: where it runs.
        view: what it answered.
        listener: its process.
        seen: the survey of its machine.
        settings: ``SETTINGS`` of its configuration.

    Raises:
        PreconditionFailed: it could not be started again, or not for sure as the same node.
    """
    containers = [found[1] for path in listener.cgroups if (found := _CONTAINER.search(path))]
    if containers:
        return Way("docker", containers[0])
    if listener.inner != listener.pid:
        raise PreconditionFailed(
            f"{view.address} runs in a container that is not Docker's, so nothing here could start it again. Nothing "
            "was changed. Drill with --fault freeze"
        )
    for path in listener.cgroups:
        unit = _UNIT.search(path)
        if unit and _main_process(machine, unit[1]) == listener.pid:
            return Way("systemd", unit[1])
    return _daemon(machine, view, listener, seen, settings)


def _main_process(machine: Machine, unit: str) -> int:
    done = machine.run(["systemctl", "show", "--property", "MainPID", "--value", unit])
    text = done.text.strip()
    return int(text) if done.code == 0 and text.isdecimal() else 0


def _daemon(machine: Machine, view: NodeView, listener: Listener, seen: Survey, settings: Mapping[str, str]) -> Way:
    config = str(view.info.get("config_file", ""))
    port = port_of(view.address)
    if not config:
        raise PreconditionFailed(
            f"{view.address} was started without a configuration file, so nobody knows how to start it again. Nothing "
            "was changed. Drill with --fault freeze, or start it with a file"
        )
    text = machine.read(config)
    problem = "is not there any more" if text is None else config_problem(text.decode("utf-8", "replace"), port)
    if problem:
        raise PreconditionFailed(
            f"{view.address} could not be started again as the same node: its configuration file {config} on "
            f"{machine.name} {problem}. Nothing was changed. Drill with --fault freeze, or start it with all its "
            "settings in that file"
        )
    if listener.user != seen.me and seen.me != "root":
        raise PreconditionFailed(
            f"{view.address} runs as {listener.user} on {machine.name}, and {seen.me} may not start it as that user. "
            "Nothing was changed. Give the host sudo: true"
        )
    # A daemon's default is one pid file for all nodes of a machine.
    pid_file = settings.get("pidfile") or f"{settings.get('dir', '')}/redis.pid"
    command = (_program(machine, view, listener), config, "--daemonize", "yes", "--pidfile", pid_file)
    user = listener.user if listener.user != seen.me else ""
    return Way("process", command=command, folder=settings.get("dir", ""), user=user)


def _program(machine: Machine, view: NodeView, listener: Listener) -> str:
    """Return the path of a node's program; what it says itself is wrong where it was found on PATH."""
    told = str(view.info.get("executable", ""))
    if machine.run(["readlink", "-f", "--", told]).text.strip() == listener.executable:
        return told
    if listener.executable.rpartition("/")[2] == listener.name:
        return listener.executable
    found = machine.find_program(listener.name)
    if found is None or machine.run(["readlink", "-f", "--", found]).text.strip() != listener.executable:
        raise PreconditionFailed(
            f"{view.address} runs {listener.executable} under the name {listener.name}, and {machine.name} has no such "
            "program on its PATH, so nobody knows how to start it again. Nothing was changed. Drill with --fault freeze"
        )
    return found


def config_problem(text: str, port: int) -> str:
    """Return why a configuration file does not describe the running node; empty when it does.

    Options given on the command line are lost: the server writes its title over them.

    Args:
        text: of the file.
        port: at which the node answers.
    """
    values = directives(text)
    if "include" in values:
        return ""  # the rest may be there
    if str(port) not in (values.get("port", "6379"), values.get("tls-port")):
        return f"does not say port {port}, so that came from the command line"
    if values.get("cluster-enabled") != "yes":
        return "does not say cluster-enabled yes, so that came from the command line"
    if not values.get("dir", "/").startswith("/"):
        return f"names its folder relatively (dir {values['dir']}), and nobody knows to what"
    return ""


def directives(text: str) -> dict[str, str]:
    """Return the one-word values of a configuration file; the last of several counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            found[name.lower()] = value.strip().strip("\"'")
    return found


def start(machine: Machine, way: Way) -> None:
    """Start a node; it outlives this run.

    Raises:
        VerificationFailed: what starts it ended with an error.
    """
    if way.kind == "process":
        command = ["runuser", "-u", way.user, "--", *way.command] if way.user else list(way.command)
        argv = ["sh", "-c", _IN_FOLDER, "sh", way.folder or "/", *command]
    else:
        argv = [{"systemd": "systemctl", "docker": "docker"}[way.kind], "start", way.name]
    done = machine.run(argv, timeout=LAUNCH_SECONDS)
    if done.code:
        raise VerificationFailed(
            f"{machine.name}: {way.words} ended with exit code {done.code}: {done.complaint}. Start the node by hand"
        )
