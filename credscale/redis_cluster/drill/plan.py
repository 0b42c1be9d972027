"""What a drill breaks, what is expected of it, and what must be put back. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, Refused
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import primaries, replicas_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.environment import Environment
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.slots import Ranges
    from credscale.redis_cluster.cluster.views import Look, NodeView

How = Literal["kill", "freeze", "pause", "partition"]
LAB_NAME = re.compile(r"(lab|staging)(-.*)?")
# An unplanned outage takes the node timeout and 1.4 to 3.8 s more: a majority agrees on FAIL, then comes a delay of 0.5
# to 1 s, then the votes. An election that failed is tried again after four node timeouts (§1.7).
LEAST_MORE, MOST_MORE = 1.4, 3.8
PATIENCE_TIMEOUTS, PATIENCE_SECONDS = 5.0, 10.0
BRIEF_PART = 0.5  # of the node timeout
STILL_SECONDS = 2.0  # a failover that should not be would come within this time after the node timeout
AFTER_FLIP_SECONDS = 1.0


@dataclass(frozen=True)
class Fault:
    """One way to break a node.

    Args:
        name: as the flag has it.
        how: what is done to the node.
        of: the role of the node.
        fails_over: whether a replica is expected to take over.
        done: in the timeline, what has happened to the node.
    """

    name: str
    how: How
    of: Literal["primary", "replica"]
    fails_over: bool
    done: str


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", "kill", "primary", fails_over=True, done="killed"),
        Fault("freeze", "freeze", "primary", fails_over=True, done="frozen"),
        Fault("freeze-briefly", "pause", "primary", fails_over=False, done="going on"),
        Fault("partition", "partition", "primary", fails_over=True, done="cut off"),
        Fault("kill-replica", "kill", "replica", fails_over=False, done="killed"),
    )
}


@dataclass(frozen=True)
class Target:
    """The node to be broken and its shard, as they are before.

    Args:
        node: which is broken.
        address: by which people know it.
        place: where to connect to reach it.
        primary: the address of its shard's primary, itself or the one it replicates.
        slots: of its shard.
        replicas: the shard's replicas as they answered, without a broken one.
    """

    node: Node
    address: str
    place: str
    primary: str
    slots: Ranges
    replicas: tuple[NodeView, ...]


@dataclass(frozen=True)
class Expectation:
    """What should come of a drill; all in seconds.

    Args:
        fails_over: whether a replica takes over.
        least: the shortest outage of the shard to be expected.
        most: the longest.
        deadline: how long a new primary is waited for.
        hold: how long the node stays broken at least.
    """

    fails_over: bool
    least: float
    most: float
    deadline: float
    hold: float

    @property
    def sentence(self) -> str:
        """The same in words."""
        if self.fails_over:
            return (
                f"expected: a replica takes over, the shard does not serve for {self.least:.1f} to {self.most:.1f} s "
                "(node timeout + 1.4 to 3.8 s)"
            )
        outage = f"the shard does not serve for {self.most:.1f} s" if self.most else "the shard goes on serving"
        return f"expected: nobody takes over, {outage}"


@dataclass(frozen=True)
class NodeState:
    """What the machines say of one node of the inventory.

    Args:
        address: of the inventory.
        runs: whether a process listens at its port; None where its machine cannot be asked.
        frozen: process ids that listen for it and are stopped.
        cut: whether the drill's packet filter stands on its machine.
    """

    address: str
    runs: bool | None
    frozen: tuple[int, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class Move:
    """One thing to put back."""

    kind: Literal["join", "resume", "start"]
    address: str


def refuse_unless_allowed(environment: Environment) -> None:
    """Refuse a drill where nobody has said that things may be broken on purpose.

    Raises:
        Refused: names what would allow it.
    """
    if environment.lab is not None or LAB_NAME.fullmatch(environment.name) or environment.policy.allow_drills:
        return
    raise Refused(
        f"a drill breaks a node of {environment.name} on purpose, and nothing says that it may. Nothing was changed. "
        "Drills run where the environment has a section lab, is named lab, staging, lab-... or staging-..., or says "
        "policy: {allow_drills: true}"
    )


def fault_named(name: str) -> Fault:
    """Return a fault by its name.

    Raises:
        EnvironmentInvalid: there is no such fault.
    """
    if name not in FAULTS:
        raise EnvironmentInvalid(f"--fault is one of {', '.join(FAULTS)}, not {name!r}")
    return FAULTS[name]


def choose(found: Look, fault: Fault, primary: str) -> Target:
    """Return the node to be broken: a primary, or the first replica of one.

    Args:
        found: a look at a healthy cluster.
        fault: what is done.
        primary: the address of the shard's primary; empty for the first by slots.

    Raises:
        EnvironmentInvalid: no primary has this address.
        PreconditionFailed: a shard has no replica, or there are too few primaries for an election.
    """
    owners = primaries(found.topology)
    names = {name: node for node in owners for name in (node.address, found.name(node.id))}
    if primary and primary not in names:
        known = ", ".join(found.name(node.id) for node in owners)
        raise EnvironmentInvalid(f"--primary {primary} is not the address of a primary. They are: {known or 'none'}")
    alone = [found.name(node.id) for node in owners if not _successors(found, node)]
    if alone or not owners:
        raise PreconditionFailed(
            f"every shard needs a replica before one is broken, and {listed(alone) or 'the cluster'} has none that may "
            "take over. Nothing was changed. Add replicas, for example with: invoke redis-add-node"
        )
    if len(owners) < 3:
        raise PreconditionFailed(
            f"a failover needs the votes of a majority of the primaries, and of {len(owners)} none may be missing. "
            "Nothing was changed"
        )
    owner = names[primary] if primary else owners[0]
    replicas = replicas_of(found.topology, owner.id)
    node = owner if fault.of == "primary" else replicas[0]
    answers = (found.asked(each.id) for each in replicas if each.id != node.id)
    seen = found.asked(node.id)
    name = found.name(node.id)
    return Target(
        node, name, seen.place if seen is not None else name, found.name(owner.id), owner.slots,
        tuple(each for each in answers if each is not None),
    )  # fmt: skip


def _successors(found: Look, primary: Node) -> tuple[Node, ...]:
    return tuple(node for node in replicas_of(found.topology, primary.id) if "nofailover" not in node.flags)


def node_timeout(view: NodeView) -> float:
    """Return a node's cluster-node-timeout in seconds.

    Raises:
        PreconditionFailed: it does not tell.
    """
    if "cluster-node-timeout" not in view.settings:
        raise PreconditionFailed(
            f"{view.address} does not tell its cluster-node-timeout, by which the outage is judged. Nothing was "
            "changed. Allow our user CONFIG GET (ACL SETUSER NAME +config|get)"
        )
    return int(view.settings["cluster-node-timeout"]) / 1000


def refuse_loss(view: NodeView, fault: Fault) -> None:
    """Refuse to kill a primary that keeps less on disk than it acknowledges: if nobody took over, its start would
    bring an old dataset or none back, and its replicas would copy that (§1.6).

    Raises:
        PreconditionFailed: it has no append-only file.
    """
    if fault.how == "kill" and fault.of == "primary" and facts.persistence(view.info).aof != 1:
        raise PreconditionFailed(
            f"{view.address} has no append-only file: were it killed and did nobody take over, it would come back with "
            "old data or none, and its replicas would copy that. Nothing was changed. Set appendonly yes, or drill "
            "with --fault freeze"
        )


def expect(fault: Fault, timeout: float, hold: float) -> Expectation:
    """Return what should come of a fault.

    Args:
        fault: what is done.
        timeout: cluster-node-timeout in seconds.
        hold: how long the node shall stay broken at least, in seconds; 0 leaves it to the fault.

    Raises:
        EnvironmentInvalid: a time that turns the fault into another one.
    """
    if hold < 0:
        raise EnvironmentInvalid(f"--hold is a number of seconds, not {hold:g}")
    if fault.fails_over:
        deadline = PATIENCE_TIMEOUTS * timeout + PATIENCE_SECONDS
        return Expectation(True, timeout + LEAST_MORE, timeout + MOST_MORE, deadline, hold)
    if fault.how == "pause":
        if hold >= timeout:
            raise EnvironmentInvalid(
                f"--hold {hold:g} is not below cluster-node-timeout ({timeout:g} s), and after that a replica takes "
                "over. Take a shorter one, or --fault freeze"
            )
        brief = hold or BRIEF_PART * timeout
        return Expectation(False, brief, brief, 0.0, brief)
    return Expectation(False, 0.0, 0.0, 0.0, hold or timeout + STILL_SECONDS)


def restorations(nodes: Sequence[NodeState]) -> tuple[Move, ...]:
    """Return what must be put back, in order: who is cut off is joined, who is frozen resumes, who is dead is started.

    Invariant: each move alone brings its node nearer to running, whatever the other moves came to; so a run that ends
    after any of them is completed by looking again. A node whose machine cannot be asked is left alone.
    """
    joins = [Move("join", node.address) for node in nodes if node.cut]
    resumes = [Move("resume", node.address) for node in nodes if node.frozen]
    starts = [Move("start", node.address) for node in nodes if node.runs is False]
    return (*joins, *resumes, *starts)


def as_broken(nodes: Sequence[NodeState], address: str, how: How) -> tuple[NodeState, ...]:
    """Return the states as they would be after a fault that is only planned; an address of nobody changes nothing."""
    broken: dict[How, NodeState] = {
        "kill": NodeState(address, runs=False),
        "freeze": NodeState(address, runs=True, frozen=(0,)),
        "partition": NodeState(address, runs=True, cut=True),
    }
    return tuple(broken.get(how, node) if node.address == address else node for node in nodes)
