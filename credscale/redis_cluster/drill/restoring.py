"""Finding out what a drill has left broken, and putting it back: by what the machines say, wherever they can say it.

What they cannot say is how a dead node was started. That is remembered in the cluster before it is killed; where
``redis.deploy`` says how nodes are set up, not even that is needed.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from credscale.core.addresses import port_of, split_address
from credscale.core.errors import ConnectFailed, Observed, Refused, VerificationFailed
from credscale.core.lease import MemoryLease
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.views import inventory, look, resolve
from credscale.redis_cluster.deploy.layout import layout
from credscale.redis_cluster.deploy.processes import start_node
from credscale.redis_cluster.drill import partition, processes
from credscale.redis_cluster.drill.plan import Move, NodeState, as_broken, restorations
from credscale.redis_cluster.drill.starting import Way, start, way_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.core.context import Context
    from credscale.core.machines import Machine
    from credscale.redis_cluster.drill.plan import How

KEY = "drill"
PLANNED = "drill_planned"  # what a dry run would have put back by now; never in the target
CONNECT_SECONDS = 1.0
START_SECONDS = 60.0
HEAL_SECONDS = 120.0


@dataclass(frozen=True)
class Broken:
    """What a drill breaks, as it is remembered in the cluster.

    Args:
        address: of the inventory.
        how: what is done to it.
        way: how it is started again; None where it is not killed.
    """

    address: str
    how: How
    way: Way | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-compatible data."""
        return {"address": self.address, "how": self.how, "way": self.way.to_json() if self.way is not None else None}


def remember(ctx: Context, broken: Broken) -> None:
    """Keep in the cluster what is about to be broken, and read it back.

    Raises:
        Refused: it is not kept, so a later run could not put it back.
    """
    ctx.lease.remember(KEY, broken.to_json())
    if recall(ctx) != broken:
        raise Refused(
            f"what a later run needs to put {broken.address} back is not kept in the cluster: an earlier drill's note "
            "is still there, or none is kept at all. Nothing was broken. Run first: invoke redis.restore-nodes"
        )


def recall(ctx: Context) -> Broken | None:
    """Return what a drill of this or an earlier run has broken and not put back."""
    kept: dict[str, Any] | None = ctx.lease.recall(KEY)
    if kept is None:
        return None
    way = way_from(kept["way"]) if kept["way"] is not None else None
    return Broken(str(kept["address"]), cast("How", kept["how"]), way)


def forget(ctx: Context) -> None:
    """Drop what was remembered: it is put back."""
    ctx.lease.forget(KEY)


def states(ctx: Context) -> tuple[NodeState, ...]:
    """Return what the machines say of every node of the inventory; of those that cannot be reached a note."""
    by_machine: dict[str | None, list[str]] = {}
    for address in inventory(ctx):
        by_machine.setdefault(ctx.environment.machine_of(address), []).append(address)
    found: list[NodeState] = []
    for name, addresses in by_machine.items():
        if name is None:
            found += [NodeState(address, runs=None) for address in addresses]
            continue
        machine = ctx.clients.machine(name)
        try:
            found += _states_on(machine, addresses)
        except ConnectFailed as error:
            ctx.note(f"whether {listed(addresses)} must be put back is unknown: {error}")
            found += [NodeState(address, runs=None) for address in addresses]
    return tuple(found)


def _states_on(machine: Machine, addresses: Sequence[str]) -> list[NodeState]:
    seen = processes.survey(machine, [port_of(address) for address in addresses])
    cut = partition.tables(machine) or frozenset()
    found = []
    for address in addresses:
        port, ips = port_of(address), ips_of(address)
        others = [ip for other in addresses if other != address and port_of(other) == port for ip in ips_of(other)]
        listening = seen.of(port, ips, others)
        frozen = tuple(each.pid for each in listening if each.state == processes.STOPPED)
        # In a container with a network of its own it listens where its machine's kernel does not show it.
        runs = seen.listens(port, ips, others) or _connects(address)
        found.append(NodeState(address, runs, frozen, partition.table_of(address) in cut))
    return found


def ips_of(address: str) -> tuple[str, ...]:
    """Return the addresses of a node's name; none where it does not resolve here."""
    try:
        return resolve(address)
    except OSError:
        return ()


def _connects(address: str) -> bool:
    try:
        socket.create_connection(split_address(address), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


@contextmanager
def _whatever_the_lease_says(ctx: Context) -> Iterator[None]:
    """Put back without asking for the lease: it is kept in the cluster, and what is broken may be where it lies."""
    lease, ctx.lease = ctx.lease, MemoryLease()
    try:
        yield
    finally:
        ctx.lease = lease


def put_back(ctx: Context, broken: Broken | None = None) -> tuple[Move, ...]:
    """Put back every node of the inventory that is frozen, cut off or dead, as far as it is known how.

    Args:
        ctx: the run, in a step.
        broken: what this run has broken; None asks the cluster, once a dead node makes that necessary.

    Returns:
        what was put back, or would be.

    Raises:
        VerificationFailed: something could not be put back; says what and how to do it by hand. All else was.
    """
    found = states(ctx)
    if ctx.planning and (planned := recall(ctx)) is not None:
        found, broken = as_broken(found, planned.address, planned.how), planned
    moves = _still_to_plan(ctx, restorations(found)) if ctx.dry_run else restorations(found)
    if broken is None and any(move.kind == "start" for move in moves):
        broken = recall(ctx)
    frozen = {node.address: node.frozen for node in found}
    done, problems = [], []
    with _whatever_the_lease_says(ctx):
        for move in moves:
            try:
                _make(ctx, move, frozen[move.address], broken)
            except (Observed, ConnectFailed) as error:
                problems.append(f"{move.address}: {error}")
            else:
                done.append(move)
    unknown = [node.address for node in found if node.runs is None]
    kept = broken or (recall(ctx) if unknown else None)
    if kept is not None and kept.address in unknown:
        problems.append(f"{kept.address}: its machine cannot be reached, so whether it is put back is unknown")
    if problems:
        raise VerificationFailed(
            f"not everything could be put back: {'; '.join(problems)}. Then run: invoke redis.restore-nodes"
        )
    return tuple(done)


def _still_to_plan(ctx: Context, moves: Sequence[Move]) -> tuple[Move, ...]:
    """Return the moves that this dry run has not planned yet, which from now on it has."""
    known = {tuple(each) for each in ctx.lease.recall(PLANNED) or ()}
    fresh = tuple(move for move in moves if (move.kind, move.address) not in known)
    ctx.lease.forget(PLANNED)
    ctx.lease.remember(PLANNED, [*known, *((move.kind, move.address) for move in fresh)])
    return fresh


def _make(ctx: Context, move: Move, frozen: Sequence[int], broken: Broken | None) -> None:
    machine = ctx.clients.machine(ctx.environment.machine_of(move.address) or "")
    if move.kind == "join":
        table = partition.table_of(move.address)
        ctx.apply(
            f"remove the packet filter {table} that cuts {move.address} off on {machine.name}",
            partition.remove, machine, table,
        )  # fmt: skip
    elif move.kind == "resume":
        ctx.apply(f"let {move.address} go on: SIGCONT on {machine.name}", processes.resume, machine, frozen)
    else:
        _start(ctx, machine, move.address, broken)


def _start(ctx: Context, machine: Machine, address: str, broken: Broken | None) -> None:
    if broken is not None and broken.address == address and broken.way is not None:
        ctx.apply(f"start {address} again on {machine.name}: {broken.way.words}", start, machine, broken.way)
        return
    section = ctx.environment.redis
    if section is None or section.deploy is None:
        raise VerificationFailed(
            f"nothing listens there, no drill of ours is known to have killed it, and without redis.deploy in the "
            f"environment nothing tells how it is started. Start it on {machine.name} by hand"
        )
    wanted = layout(ctx.environment)
    if not wanted.deploy.appendonly:
        raise VerificationFailed(
            "it is dead and keeps no append-only file (redis.deploy.appendonly): a primary that comes back empty "
            f"empties its replicas. See that one of them has taken over, then start it on {machine.name} by hand"
        )
    node = next(each for each in wanted.nodes if each.address == address)
    ctx.apply(
        f"start {address} again on {machine.name} as redis.deploy says ({wanted.deploy.start})",
        start_node, ctx, node, wanted, timeout=START_SECONDS,
    )  # fmt: skip


def wait_healthy(ctx: Context, *, timeout: float = HEAL_SECONDS) -> None:
    """Wait until the whole cluster is healthy by the readiness gate of §1.4.

    Raises:
        WaitTimeout: it is not in time; says why.
    """

    def seen() -> tuple[bool, str]:
        reasons = gate(look(ctx))
        return not reasons, sentence(reasons)

    ctx.wait_until("a healthy Redis Cluster", seen, timeout, every=0.2)
