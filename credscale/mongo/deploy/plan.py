"""The order in which a cluster comes to be: a pure function of what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.machines.files import NEW_FILE

if TYPE_CHECKING:
    from credscale.mongo.deploy.layout import Layout, Process, ReplicaSet

WRITE, START, INITIATE, JOIN, START_ROUTER = "write", "start", "initiate", "join", "start_router"
CREATE_ADMIN, SET_CONCERN, ADD_SHARD = "create_admin", "set_concern", "add_shard"
ORDER = (WRITE, START, INITIATE, JOIN, START_ROUTER, CREATE_ADMIN, SET_CONCERN, ADD_SHARD)
CLUSTER = "the cluster"


@dataclass(frozen=True)
class ProcessFacts:
    """One process as found.

    Args:
        changes: per file that is not as it shall be, the lines that change.
        running: whether it answers.
        ours: whether its configuration file was written by a deployment.
        set_name: the replica set it says it belongs to; empty while it belongs to none.
        is_primary: whether it is the primary of that.
        is_router: whether it is a mongos.
        is_config: whether it is a config server.
        release: such as ``7.0``, of the program that runs or would run; empty when unknown.
    """

    changes: dict[str, list[str]]
    running: bool = False
    ours: bool = True
    set_name: str = ""
    is_primary: bool = False
    is_router: bool = False
    is_config: bool = False
    release: str = ""


@dataclass(frozen=True)
class SetFacts:
    """A replica set as found.

    Args:
        initiated: whether a member has its configuration.
        wrong: in what its configuration contradicts the inventory.
        missing: the declared members that it does not have yet, or that have joined without a vote so far.
        has_admin: whether the administrator can log in.
        databases: the users' databases it holds.
        implicit_one: whether its arbiters make the server's implicit default write concern ``w: 1`` (5.0+).
    """

    initiated: bool = False
    wrong: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    has_admin: bool = False
    databases: tuple[str, ...] = ()
    implicit_one: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything the plan depends on.

    Args:
        layout: the cluster that is wanted.
        processes: by address.
        sets: by name.
        has_admin: whether the administrator can log in on a router.
        shards: the names of the replica sets that are working shards; empty while no router can be asked.
        write_concern: the cluster's own default ``w``; None when it has none or cannot be asked.
    """

    layout: Layout
    processes: dict[str, ProcessFacts]
    sets: dict[str, SetFacts]
    has_admin: bool = False
    shards: frozenset[str] = frozenset()
    write_concern: str | int | None = None


@dataclass(frozen=True)
class Move:
    """One change: what kind, on which address or replica set, and in words."""

    kind: str
    target: str
    text: str


def plan_deployment(facts: Facts) -> list[Move]:
    """Return what is missing, in the only order that is safe.

    Invariant, after every move and so at whatever point a run is killed: a replica set is initiated only when none of
    its members belongs to one, all of them run, and all of them require a login if the cluster does; nothing that is
    initiated is initiated again; a user exists before a shard takes data; a shard that holds data is added before every
    one that holds none, so that no database is registered on the wrong shard (§1.1). Planning again after any number of
    moves gives the rest of them.

    Args:
        facts: without ``problems_of``; with problems the plan means nothing.
    """
    layout = facts.layout
    secured = layout.deploy.security != "none"
    moves = [
        Move(WRITE, each.address, f"write the configuration of {each.where}: {_changed(facts.processes[each.address])}")
        for each in layout.processes
        if facts.processes[each.address].changes
    ]
    moves += [_start(each, START) for each in layout.processes if each.program == "mongod" and _is_down(facts, each)]
    moves += [
        Move(INITIATE, each.name, f"initiate the replica set {each.name} with {', '.join(each.addresses)}")
        for each in layout.sets
        if not facts.sets[each.name].initiated
    ]
    moves += [
        Move(JOIN, address, f"let {address} join the replica set {each.name}, with a vote once it is in sync")
        for each in layout.sets
        for address in facts.sets[each.name].missing
    ]
    moves += [_start(each, START_ROUTER) for each in layout.routers if _is_down(facts, each)]
    if secured:
        user = layout.deploy.admin.user if layout.deploy.admin is not None else ""
        moves += [
            Move(CREATE_ADMIN, each.name, f"create the administrator {user} on {each.name}, through localhost")
            for each in layout.sets[1:]
            if not facts.sets[each.name].has_admin
        ]
        if not facts.has_admin:
            moves.append(
                Move(CREATE_ADMIN, CLUSTER, f"create the administrator {user} of {CLUSTER}, through localhost")
            )
    wanted = layout.deploy.default_write_concern
    if wanted is not None and facts.write_concern != wanted:
        moves.append(Move(SET_CONCERN, CLUSTER, f"set the default write concern to w: {wanted}"))
    moves += [
        Move(ADD_SHARD, each.name, f"add {each.name} as a shard{_holding(facts.sets[each.name])}")
        for each in shard_order(facts)
        if each.name not in facts.shards
    ]
    return moves


def _is_down(facts: Facts, process: Process) -> bool:
    return not facts.processes[process.address].running


def _changed(found: ProcessFacts) -> str:
    return ", ".join(
        f"{path} ({lines[0] if len(lines) == 1 or lines[0] == NEW_FILE else f'{len(lines)} lines'})"
        for path, lines in found.changes.items()
    ) + (", takes effect when it is restarted" if found.running else "")


def _start(process: Process, kind: str) -> Move:
    return Move(kind, process.address, f"start {process.where} on {process.machine or 'this machine'}")


def _holding(found: SetFacts) -> str:
    return f", which holds {', '.join(found.databases)}" if found.databases else ""


def shard_order(facts: Facts) -> list[ReplicaSet]:
    """Return the shards in the order in which they are added: first those that hold data, else as declared."""
    return sorted(facts.layout.sets[1:], key=lambda each: not facts.sets[each.name].databases)


def problems_of(facts: Facts) -> list[str]:
    """Return what a deployment must not touch, one sentence each: with any of these nothing is changed."""
    found = [problem for each in facts.layout.processes for problem in _process_problems(facts, each)]
    for each in facts.layout.sets:
        state = facts.sets[each.name]
        found += [f"{each.name} is initiated otherwise than declared: {wrong}" for wrong in state.wrong]
        present = [member for member in each.members if member.address not in state.missing]
        lost = [member.address for member in present if _is_lost(facts, member)]
        if state.initiated and lost:
            found.append(
                f"{each.name} is initiated, but its {', '.join(lost)} does not answer and was not set up from here: "
                "start it again; a new, empty one is not put in its place"
            )
    return found + _size_problems(facts) + _data_problems(facts) + _release_problems(facts)


def _is_lost(facts: Facts, process: Process) -> bool:
    found = facts.processes[process.address]
    return not found.running and not found.ours


def _process_problems(facts: Facts, process: Process) -> list[str]:
    found = facts.processes[process.address]
    if not found.running:
        return []
    kind = "a mongos" if found.is_router else "a mongod"
    if found.is_router != (process.program == "mongos"):
        return [f"{process.address} is {kind}, expected {process.where}"]
    if found.set_name and found.set_name != process.replica_set:
        return [f"{process.address} belongs to the replica set {found.set_name!r}, expected {process.replica_set!r}"]
    if found.set_name and found.is_config != (process.role == "config"):
        return [f"{process.address} is {'a' if found.is_config else 'no'} config server, expected {process.where}"]
    if not found.ours and not found.set_name and not found.is_router:
        told = f"{process.address} is a mongod that was not set up from here and belongs to no replica set"
        return [f"{told}. If it shall become {process.where} with its data, give --convert {process.replica_set}"]
    return []


def _size_problems(facts: Facts) -> list[str]:
    """Three config servers are what survives the loss of one; a lab on the loopback may do with one."""
    count = len(facts.layout.config_set.members)
    if facts.layout.deploy.security != "none" and count < 3:
        return [f"{count} config servers are declared, expected 3"]
    return []


def _data_problems(facts: Facts) -> list[str]:
    owners: dict[str, list[str]] = {}
    for each in facts.layout.sets[1:]:
        if each.name not in facts.shards:
            for database in facts.sets[each.name].databases:
                owners.setdefault(database, []).append(each.name)
    problems = [
        f"the database {database} is on {' and on '.join(names)}: only one of them can become a shard (§2.3)"
        for database, names in sorted(owners.items())
        if len(names) > 1
    ]
    weak = [each.name for each in facts.layout.sets[1:] if facts.sets[each.name].implicit_one]
    if weak and facts.write_concern is None and facts.layout.deploy.default_write_concern is None:
        problems.append(
            f"{', '.join(weak)} has an arbiter, so since 5.0 its implicit default write concern is w: 1 and no "
            "shard is added before the cluster has one of its own. Set mongo.deploy.default_write_concern: 1 keeps "
            "what applications have now; majority is safer, but writes wait while one of two data members is down"
        )
    return problems


def _release_problems(facts: Facts) -> list[str]:
    releases: dict[str, list[str]] = {}
    for address, found in facts.processes.items():
        if found.release:
            releases.setdefault(found.release, []).append(address)
    if len(releases) < 2:
        return []
    told = "; ".join(f"{release} on {', '.join(addresses)}" for release, addresses in sorted(releases.items()))
    return [f"the processes are of different releases: {told}. Build the cluster with one, and upgrade it afterwards"]
