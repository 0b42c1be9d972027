"""Making sure that a fault hits the node that is meant and can be undone, and doing it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from credscale.core.addresses import port_of
from credscale.core.errors import PreconditionFailed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.drill import partition, processes
from credscale.redis_cluster.drill.partition import Cut, End
from credscale.redis_cluster.drill.restoring import Broken, ips_of
from credscale.redis_cluster.drill.starting import SETTINGS, directives, way_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look, NodeView
    from credscale.redis_cluster.drill.plan import Fault, Target


def fault_of(
    ctx: Context, found: Look, target: Target, fault: Fault, hold: float
) -> tuple[Broken, str, Callable[[], None]]:
    """Return what must be remembered of a fault, the fault in words, and what does it.

    Args:
        ctx: the run.
        found: a look at the healthy cluster.
        target: the node to be broken.
        fault: what is done to it.
        hold: for how many seconds a node is paused.

    Raises:
        PreconditionFailed: it could not be done, would not hit this node for sure, or could not be undone.
        ConnectFailed: the node's machine cannot be reached.
    """
    view = found.asked(target.node.id)
    name = ctx.environment.machine_of(target.address)
    if view is None or not view.declared or name is None:
        raise PreconditionFailed(
            f"{target.address} is not in redis.nodes, or on no machine of the section hosts, so nobody could put it "
            "back. Nothing was changed. Add both to the environment"
        )
    machine = ctx.clients.machine(name)
    port = port_of(view.address)
    seen = processes.survey(machine, [port])
    listener = processes.the_one(machine, seen.of(port, ips_of(view.address)), view.address, view.server.process)
    where = f"{listener.name} (pid {listener.pid}) of {view.address} on {machine.name}"
    if fault.how == "freeze":
        return (
            Broken(view.address, "freeze"),
            f"freeze {where}: SIGSTOP",
            partial(processes.freeze, machine, listener.pid),
        )
    if fault.how == "pause":
        words = f"freeze {where} for {hold:.2f} s: SIGSTOP, then SIGCONT"
        return Broken(view.address, "pause"), words, partial(processes.pause, machine, listener.pid, hold)
    settings = _settings(ctx, view)
    if fault.how == "kill":
        if fault.of == "primary":
            _refuse_forgetful_start(machine, view)
        way = way_of(machine, view, listener, seen, settings)
        return (
            Broken(view.address, "kill", way),
            f"kill {where}: SIGKILL",
            partial(processes.kill, machine, listener.pid),
        )
    cut = _cut(ctx, found, target, machine, settings)
    words = f"cut {view.address} off: drop packets of ports {cut.node.port} and {cut.node.bus_port} on {machine.name}"
    return Broken(view.address, "partition"), words, partial(partition.add, machine, cut)


def _refuse_forgetful_start(machine: Machine, view: NodeView) -> None:
    """Refuse to kill a primary whose configuration file, unlike the running server, keeps no append-only file.

    Raises:
        PreconditionFailed: it would come back empty, or nobody can tell.
    """
    path = str(view.info.get("config_file", ""))
    text = machine.read(path) if path else None
    if text is None or directives(text.decode("utf-8", "replace")).get("appendonly") != "yes":
        why = f"{path} does not say appendonly yes" if text is not None else "its configuration file cannot be read"
        raise PreconditionFailed(
            f"{view.address} was to be killed and started again, but {why}: were there no replica to take over, it "
            "would come back empty and its replicas would copy that. Nothing was changed. Write it there, or drill "
            "with --fault freeze"
        )


def _settings(ctx: Context, view: NodeView) -> dict[str, str]:
    from redis.exceptions import RedisError

    client: Any = ctx.clients.redis_node(view.place)
    found: dict[str, str] = {}
    try:
        for name in SETTINGS:  # several at once came with 7.0
            found |= facts.parse_pairs(client.execute_command("CONFIG", "GET", name))
    except RedisError as error:
        raise PreconditionFailed(
            f"{view.address} does not tell how it is set up ({error}), so it could not be put back for sure. Nothing "
            "was changed. Allow our user CONFIG GET, or drill with --fault freeze"
        ) from None
    return found


def _cut(ctx: Context, found: Look, target: Target, machine: Machine, settings: dict[str, str]) -> Cut:
    others = [node for node in found.topology if node.id != target.node.id]
    here = ctx.environment.machine_of(target.address)
    neighbours = [name for node in others if ctx.environment.machine_of(name := found.name(node.id)) == here]
    cut = Cut(
        partition.table_of(target.address), _end(target.node), tuple(_end(node) for node in others), not neighbours
    )
    partition.refuse_unless_possible(
        machine, cut, address=target.address, source=settings.get("bind-source-addr", ""), neighbours=neighbours
    )
    return cut


def _end(node: Node) -> End:
    return End(node.host, node.port, node.bus_port)
