"""What is there already: programs, files, servers, and whose they are."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from credscale.core.addresses import host_of
from credscale.core.errors import PreconditionFailed
from credscale.core.machines.files import changes_on
from credscale.redis_cluster.cluster.facts import parse_server
from credscale.redis_cluster.cluster.views import describe
from credscale.redis_cluster.deploy.compose import IMAGE_USER, compose_file
from credscale.redis_cluster.deploy.config_files import Passwords, files_of
from credscale.redis_cluster.deploy.layout import is_ip, layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.core.machines.files import File
    from credscale.redis_cluster.deploy.layout import Layout, NodeProcess

PROGRAMS = ("redis-server", "valkey-server")
OLDEST, SEVEN = (6, 2), (7, 0)
ANSWER_SECONDS = 5.0
MOST_MACHINES = 32


@dataclass(frozen=True)
class NodeFacts:
    """One node of the inventory.

    Args:
        node: which.
        changes: the lines that change in its files, by path.
        running: whether its server listens.
        loading: whether that is still reading its data.
        problem: why nothing may be done here; empty when something may.
    """

    node: NodeProcess
    changes: Mapping[str, list[str]] = field(default_factory=dict)
    running: bool = False
    loading: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything that was found.

    Args:
        layout: what is wanted.
        nodes: of the layout, in its order.
        compose: the lines that change in the Compose file of a machine, by its name; only where some do.
    """

    layout: Layout
    nodes: tuple[NodeFacts, ...]
    compose: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why nothing may be done."""
        return tuple(dict.fromkeys(each.problem for each in self.nodes if each.problem))


def passwords_of(ctx: Context, wanted: Layout) -> Passwords:
    """Return the passwords of a cluster.

    Raises:
        EnvironmentInvalid: a reference leads nowhere.
    """
    own = wanted.redis.password
    return Passwords(
        ctx.secrets.resolve(own) if own is not None else None,
        {user.name: ctx.secrets.resolve(user.password) for user in wanted.deploy.users},
    )


def server_of(machine: Machine, wanted: Layout) -> str:
    """Return the absolute path of the server's program on a machine; empty when it is in an image.

    Raises:
        PreconditionFailed: it is not installed there.
    """
    if wanted.deploy.start == "compose":
        return ""
    folder = wanted.deploy.binaries.rstrip("/")
    for program in PROGRAMS:
        path = f"{folder}/{program}" if folder else machine.find_program(program)
        if path is not None and (not folder or machine.exists(path)):
            return path
    raise PreconditionFailed(
        f"neither redis-server nor valkey-server is on {machine.name} ({folder or 'PATH'}). Nothing was changed. "
        "Install one there (apt-get install redis-server; the unit it brings along is not needed: systemctl disable "
        "--now redis-server), or set redis.deploy.binaries to its folder"
    )


def version_in(text: str) -> tuple[int, ...]:
    """Return the version that ``redis-server --version`` names, such as (7, 0, 15); empty when it names none."""
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def compose_command(machine: Machine) -> list[str]:
    """Return how Compose is called on a machine.

    Raises:
        PreconditionFailed: it is not installed there.
    """
    if machine.find_program("docker") and machine.run(["docker", "compose", "version"]).code == 0:
        return ["docker", "compose"]
    if machine.find_program("docker-compose"):
        return ["docker-compose"]
    raise PreconditionFailed(
        f"neither docker compose nor docker-compose is on {machine.name}. Nothing was changed. Install the package "
        "docker-compose-plugin (or docker-compose) there"
    )


def owner_of(machine: Machine, wanted: Layout) -> str:
    """Return who shall own the nodes' files; empty for whoever writes them.

    Containers run as the owner. Where root writes, that is the user of the official images instead.
    """
    if wanted.deploy.start != "compose":
        return wanted.deploy.user
    told = machine.must_run(["sh", "-c", "id -u; id -g"]).text.split()
    return IMAGE_USER if told[0] == "0" else ":".join(told)


def wanted_files(machine: Machine, node: NodeProcess, wanted: Layout, passwords: Passwords) -> tuple[File, ...]:
    """Return the files of a node as they shall be."""
    return files_of(node, wanted, passwords, server_of(machine, wanted), owner_of(machine, wanted))


def wanted_compose(machine: Machine, name: str, wanted: Layout) -> File:
    """Return the Compose file of a machine as it shall be."""
    return compose_file(wanted, name, owner_of(machine, wanted))


def survey(ctx: Context) -> Facts:
    """Look at every machine and node of the inventory, the machines side by side.

    Raises:
        PreconditionFailed: a program is missing, or a machine does not let us look.
        ConnectFailed: a machine cannot be reached.
    """
    wanted = layout(ctx.environment)
    passwords = passwords_of(ctx, wanted)
    machines = {name: ctx.clients.machine(name) for name in wanted.machines}
    with ThreadPoolExecutor(max_workers=min(MOST_MACHINES, len(machines))) as pool:
        found = list(pool.map(partial(_machine, ctx, wanted, passwords), machines.items()))
    nodes = {each.node.address: each for facts, _ in found for each in facts}
    compose = {name: changes for name, (_, changes) in zip(machines, found, strict=True) if changes}
    return Facts(wanted, tuple(nodes[node.address] for node in wanted.nodes), compose)


def _machine(
    ctx: Context, wanted: Layout, passwords: Passwords, place: tuple[str, Machine]
) -> tuple[list[NodeFacts], list[str]]:
    """Look at one machine: its nodes, and what changes in its Compose file."""
    name, machine = place
    program, owner = server_of(machine, wanted), owner_of(machine, wanted)
    compose: list[str] = []
    unfit: dict[str, str] = {}
    if wanted.deploy.start == "systemd" and machine.find_program("systemctl") is None:
        raise PreconditionFailed(
            f"{machine.name} has no systemd. Nothing was changed. Set redis.deploy.start to process or compose"
        )
    if wanted.deploy.start == "compose":
        compose_command(machine)
        compose = changes_on(machine, [compose_file(wanted, name, owner)]).get(wanted.compose_file, [])
    else:
        version = version_in(machine.must_run([program, "--version"]).text)
        unfit = {node.address: _unfit(node, machine, program, version) for node in wanted.on(name)}
    found = []
    for node in wanted.on(name):
        changes = changes_on(machine, files_of(node, wanted, passwords, program, owner))
        running, loading, problem = ask_server(ctx, node, machine)
        if not running:
            problem = problem or unfit.get(node.address, "") or _strange_owner(node, machine, owner)
        found.append(NodeFacts(node, changes, running=running, loading=loading, problem=problem))
    return found, compose


def _strange_owner(node: NodeProcess, machine: Machine, owner: str) -> str:
    """Return why a stopped node could not read or write its own folder; an empty one is given to its owner later."""
    for folder in (node.folder, node.data) if owner else ():
        if not machine.exists(folder):
            return ""
        seen = machine.owner(folder, numbers=":" in owner)
        if seen != owner and machine.must_run(["ls", "-A", "--", folder]).text.strip():
            return (
                f"{node.address}: {folder} on {machine.name} belongs to {seen}, expected {owner}, as whom the node is "
                f"started. Make sure that no server uses it, then run there: chown -R {owner} {node.folder}"
            )
    return ""


def _unfit(node: NodeProcess, machine: Machine, program: str, version: tuple[int, ...]) -> str:
    """Return why this version cannot serve a node; Valkey counts on from Redis 7.2."""
    told = ".".join(map(str, version))
    if version < OLDEST:
        return f"{program} on {machine.name} is version {told or 'unknown'}; 6.2 or later is needed"
    if node.announced and not is_ip(host_of(node.announced)) and version < SEVEN:
        return (
            f"{node.address}: only 7.0 and later announce a name ({program} on {machine.name} is {told}); give an "
            "address in redis.deploy.announce"
        )
    if node.needs_cluster_port and version < SEVEN:
        return (
            f"{node.address}: its bus port cannot be 10000 above its port, and only 7.0 and later take another "
            f"({program} on {machine.name} is {told}); give it a port up to 55535"
        )
    return ""


def ask_server(ctx: Context, node: NodeProcess, machine: Machine) -> tuple[bool, bool, str]:
    """Tell whether a server listens on a node's port, whether it is loading, and what is wrong with it.

    It is ours when it runs with the configuration file that we write; its data folder follows from that file.
    """
    from redis.exceptions import AuthenticationError, RedisError

    if not machine.listens(node.port):
        return False, False, ""
    try:
        info = ctx.clients.redis_node(node.address, timeout=ANSWER_SECONDS).info()
    except AuthenticationError as error:
        return True, False, _login_problem(node, machine, str(error))
    except (RedisError, OSError) as error:
        told = describe(error, ANSWER_SECONDS)
        return True, False, (
            f"{node.address}: a process listens on port {node.port} of {machine.name}, but at {node.address}: {told}. "
            f"Expected the server of {node.config}. Look who that is (ss -ltnp sport = :{node.port}), at bind, at "
            "firewalls, and at redis.tls"
        )  # fmt: skip
    server, config = parse_server(info), str(info.get("config_file", ""))
    if config != node.config:
        return True, False, (
            f"{node.address}: {server.text}, process {server.process}, has this port with "
            f"{f'the configuration file {config}' if config else 'no configuration file'}, expected {node.config}. It "
            "was not set up by redis-deploy and is left alone: stop it, or give this node another port"
        )  # fmt: skip
    return True, bool(info.get("loading", 0)), ""


def _login_problem(node: NodeProcess, machine: Machine, told: str) -> str:
    """Return what a refused login means; the server's text holds no password."""
    if not machine.exists(node.config):
        return (
            f"{node.address}: another server has this port and refuses our login ({told}). There is no {node.config} "
            "on its machine, so redis-deploy did not set it up: stop it, or give this node another port"
        )
    return (
        f"{node.address} refuses our login ({told}). It runs with another password or user than redis.password and "
        f"redis.user name: put those right. To change the password, set it on each running node first (as the user "
        "who holds the old one: ACL SETUSER, CONFIG SET masterauth)"
    )
