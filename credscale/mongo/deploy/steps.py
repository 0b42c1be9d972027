"""The steps from hosts to a sharded cluster; each does its part of ``plan_deployment`` and reads back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.core.phrases import listed
from credscale.core.step import Finding, step
from credscale.mongo.deploy.joining import join
from credscale.mongo.deploy.plan import (
    ADD_SHARD,
    CLUSTER,
    CREATE_ADMIN,
    INITIATE,
    JOIN,
    ORDER,
    SET_CONCERN,
    START,
    START_ROUTER,
    WRITE,
    Facts,
    Move,
    plan_deployment,
    problems_of,
)
from credscale.mongo.deploy.processes import start_process, write_files
from credscale.mongo.deploy.replica_sets import initiate_replica_set, wait_primary
from credscale.mongo.deploy.replies import ask, refusal
from credscale.mongo.deploy.shards import add_shard, refuse_foreign_shard
from credscale.mongo.deploy.survey import OWN_DATABASES, loopback, survey
from credscale.mongo.deploy.users import create_first_user

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.deploy.layout import ReplicaSet

TIMEOUT = 120.0


def _facts(ctx: Context) -> Facts:
    """Look, and stop where anything is found that a deployment must not touch."""
    facts = survey(ctx)
    problems = problems_of(facts)
    if problems:
        raise PreconditionFailed("; ".join(problems) + ". Nothing was changed by this step")
    return facts


def _carry_out(ctx: Context, kind: str, make: Callable[[Facts, Move], None], *, done: str) -> Finding:
    """Make the moves of one kind, then plan again: none of them may be left.

    Args:
        ctx: the run.
        kind: of the moves.
        make: makes one of them.
        done: the summary when there is nothing to do.
    """
    facts = _facts(ctx)
    plan = plan_deployment(facts)
    early = [move.text for move in plan if ORDER.index(move.kind) < ORDER.index(kind)]
    if early and not ctx.dry_run:
        raise PreconditionFailed(
            f"first this has to be done: {'; '.join(early)}. Run mongo-deploy, which does it in order"
        )
    moves = [move for move in plan if move.kind == kind]
    rows = _rows(facts, moves)
    for move in moves:
        ctx.apply(move.text, make, facts, move)
    if not moves:
        return Finding(done)
    if not ctx.dry_run:
        left = [move.text for move in plan_deployment(_facts(ctx)) if move.kind == kind]
        if left:
            raise VerificationFailed(f"done, but not seen afterwards: {'; '.join(left)}. Run it again")
    return Finding(listed([move.text for move in moves], 2, "; "), {"rows": rows})


def _rows(facts: Facts, moves: list[Move]) -> list[dict[str, Any]]:
    """Show what a plan cannot say in one line: the lines that change in each file."""
    rows: list[dict[str, Any]] = []
    for move in moves:
        if move.kind != WRITE:
            rows.append({"change": move.text})
            continue
        for path, lines in facts.processes[move.target].changes.items():
            rows += [{"process": move.target, "file": path, "change": line} for line in lines]
    return rows


@step()
def write_config_files(ctx: Context) -> Finding:
    """Write key file, configuration and systemd unit of every process.

    A process that runs keeps its old configuration until somebody restarts it; the plan says so.
    """

    def make(facts: Facts, move: Move) -> None:
        process = next(each for each in facts.layout.processes if each.address == move.target)
        write_files(ctx, process, facts.layout)

    return _carry_out(ctx, WRITE, make, done="every file is as it shall be")


def _start(ctx: Context, timeout: float, facts: Facts, move: Move) -> None:
    process = next(each for each in facts.layout.processes if each.address == move.target)
    start_process(ctx, process, facts.layout, timeout=timeout)


@step()
def start_members(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Start every config server and shard member that does not run; they outlive this run.

    Args:
        timeout: seconds in which each has to answer.
    """
    return _carry_out(ctx, START, partial(_start, ctx, timeout), done="every member runs")


@step()
def initiate_replica_sets(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Initiate config servers and shards where nobody has, and wait until each has a primary and all are in sync.

    A replica set that is initiated is never initiated again, and one that is initiated otherwise is refused.

    Args:
        timeout: seconds for all members to answer and then for the election, which takes up to 12.
    """

    def make(facts: Facts, move: Move) -> None:
        wanted = _set(facts, move.target)
        client = loopback(ctx, wanted.addresses[0], log_in=False)
        initiate_replica_set(client, wanted.name, wanted.addresses, config_server=wanted.is_config, timeout=timeout)
        wait_primary(client, wanted.name, timeout=timeout)

    finding = _carry_out(ctx, INITIATE, make, done="every replica set is initiated as declared")
    if ctx.dry_run:
        return finding
    facts = _facts(ctx)
    primaries = {each.name: _wait_primary(ctx, facts, each, timeout) for each in facts.layout.sets}
    rows = [{"replica_set": name, "primary": primary} for name, primary in primaries.items()]
    return replace(finding, output={"rows": rows})


@step()
def join_members(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Let declared members join the replica sets that lack them, one at a time.

    Args:
        timeout: seconds in which the initial sync has to show progress.
    """

    def make(facts: Facts, move: Move) -> None:
        wanted = next(each for each in facts.layout.sets if move.target in each.addresses)
        primary = _wait_primary(ctx, facts, wanted, timeout)
        client = loopback(ctx, primary, log_in=facts.sets[wanted.name].has_admin)
        join(ctx, client, wanted.name, move.target, timeout=timeout)

    return _carry_out(ctx, JOIN, make, done="every declared member is in its replica set")


def _set(facts: Facts, name: str) -> ReplicaSet:
    return next(each for each in facts.layout.sets if each.name == name)


def _wait_primary(ctx: Context, facts: Facts, wanted: ReplicaSet, timeout: float) -> str:
    """Return the address of the primary once all members have settled.

    Raises:
        PreconditionFailed: the primary is no member of the inventory.
    """
    running = next(each for each in wanted.addresses if facts.processes[each].running)
    client = loopback(ctx, running, log_in=facts.sets[wanted.name].has_admin)
    primary = wait_primary(client, wanted.name, timeout=timeout)
    if primary not in wanted.addresses:
        raise PreconditionFailed(f"the primary of {wanted.name} is {primary}, which the inventory does not name")
    return primary


@step()
def start_routers(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Start every router that does not run; each waits for the config servers by itself.

    Args:
        timeout: seconds in which each has to answer.
    """
    return _carry_out(ctx, START_ROUTER, partial(_start, ctx, timeout), done="every router runs")


@step()
def create_admin_user(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Create the administrator of the cluster and of each shard, through the localhost exception.

    Shards keep users of their own beside the cluster's: for maintenance, and because the exception stays open on a
    shard on which nobody exists (§2.5).

    Args:
        timeout: seconds to wait for each primary.
    """

    def make(facts: Facts, move: Move) -> None:
        admin = facts.layout.deploy.admin
        if admin is None:
            raise EnvironmentInvalid("mongo.deploy.admin is required")
        if move.target == CLUSTER:
            address = facts.layout.routers[0].address
        else:
            address = _wait_primary(ctx, facts, _set(facts, move.target), timeout)
        create_first_user(
            loopback(ctx, address, log_in=False), admin.user, ctx.secrets.resolve(admin.password),
            on_shard=move.target != CLUSTER, where=move.target,
        )  # fmt: skip

    return _carry_out(ctx, CREATE_ADMIN, make, done="the administrator can log in everywhere, or nobody has to")


def router_client(ctx: Context, facts: Facts) -> Client:
    """Return a connection to the first router, as the administrator where there is one."""
    return loopback(ctx, facts.layout.routers[0].address, log_in=facts.layout.deploy.admin is not None)


@step()
def set_default_write_concern(ctx: Context) -> Finding:
    """Set the cluster's default write concern where the inventory names one.

    Since 5.0 a shard with an arbiter cannot be added without (§2.3).
    """

    def make(facts: Facts, _move: Move) -> None:
        concern = {"w": facts.layout.deploy.default_write_concern, "wtimeout": 0}
        answer = ask(router_client(ctx, facts), "setDefaultRWConcern", defaultWriteConcern=concern)
        if answer.code is not None:
            raise refusal("setDefaultRWConcern", answer)

    return _carry_out(ctx, SET_CONCERN, make, done="the default write concern is as declared")


@step()
def add_shards(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Add every shard to the cluster: first the one that holds data, so that its databases are registered with it.

    Args:
        timeout: seconds for each; a single attempt may take 20 while a set has no primary.
    """

    def make(facts: Facts, move: Move) -> None:
        wanted, mongos = _set(facts, move.target), router_client(ctx, facts)
        primary = _wait_primary(ctx, facts, wanted, timeout)
        client = loopback(ctx, primary, log_in=facts.sets[wanted.name].has_admin)
        refuse_foreign_shard(client, mongos, wanted.name)
        refuse_same_database(mongos, wanted.name, facts.sets[wanted.name].databases)
        if not add_shard(mongos, wanted.name, wanted.addresses, timeout=timeout):
            ctx.note(f"{wanted.name} was a shard already")

    return _carry_out(ctx, ADD_SHARD, make, done="every shard is in the cluster")


def refuse_same_database(mongos: Client, name: str, databases: tuple[str, ...]) -> None:
    """Refuse a replica set that holds a database of a name that the cluster has already (§2.3, code 96).

    Raises:
        PreconditionFailed: it does; nothing was changed.
        ConnectFailed: the mongos does not answer.
    """
    answer = ask(mongos, "listDatabases", nameOnly=True)
    if answer.code is not None:
        raise ConnectFailed(f"listDatabases on the router: {answer.text}")
    known = {str(each["name"]) for each in answer.reply["databases"]} - OWN_DATABASES
    common = sorted(known & set(databases))
    if common:
        raise PreconditionFailed(
            f"{name} holds {', '.join(common)}, which the cluster has on another shard. {name} was not added. Two "
            "databases of one name cannot be joined: rename or move one of them first"
        )
