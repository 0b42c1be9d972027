"""An existing replica set, or a standalone, becomes the first shard (§2.4)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, WaitTimeout
from credscale.core.step import Finding, step
from credscale.mongo.deploy import replies
from credscale.mongo.deploy.config_edit import with_options
from credscale.mongo.deploy.joining import LAG_SECONDS, lag_of
from credscale.mongo.deploy.layout import layout
from credscale.mongo.deploy.replica_sets import differences, initiate_replica_set, read_config, wait_primary
from credscale.mongo.deploy.replies import UNREACHABLE, ask, greet, refusal
from credscale.mongo.deploy.restarting import Running, look, restart, shard_options
from credscale.mongo.deploy.rolling import DONE, REFUSE, RESTART, STEP_DOWN, MemberFacts, Turn, plan_turn
from credscale.mongo.deploy.survey import can_log_in, is_arbiter, loopback

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.deploy.layout import Layout, Process, ReplicaSet

STEP_DOWN_SECONDS = 120


@step()
def convert_to_shard(
    ctx: Context, *, convert: str = "", allow_downtime: bool = False, timeout: float = 120.0
) -> Finding:
    """Give every member of an existing replica set the role of a shard, one restart at a time.

    Secondaries first; each has to be back and caught up before the next; then the primary steps down and is restarted.
    Data, users and every other option stay as they are. A standalone becomes a replica set of one; members declared
    beside it join it later, one at a time.

    Args:
        convert: name of the replica set, as in mongo.shards; empty for none.
        allow_downtime: let a set that cannot spare a voter be without a primary while it restarts.
        timeout: seconds for a member to come back, to catch up, or for an election.
    """
    if not convert:
        return Finding("no replica set is to be converted")
    plan = layout(ctx.environment)
    wanted = next((each for each in plan.sets[1:] if each.name == convert), None)
    if wanted is None:
        names = ", ".join(each.name for each in plan.sets[1:])
        raise EnvironmentInvalid(f"--convert {convert}: no such replica set in mongo.shards. Declared: {names}")
    seed = _seed(ctx, wanted, plan)
    refuse_other_key(ctx, seed, plan)
    if _set_name(ctx, seed.address):
        rows = _roll(ctx, wanted, plan, allow_downtime=allow_downtime, timeout=timeout)
    else:
        rows = _convert_standalone(ctx, seed, plan, allow_downtime=allow_downtime, timeout=timeout)
    changed = [row for row in rows if row["change"]]
    what = f"{len(changed)} members of {convert} get" if changed else f"every member of {convert} has"
    users = _users_to_copy(ctx, seed, plan)
    note = (
        f" Its users {', '.join(users)} stay on the shard: create those that applications need on the cluster, because "
        "through a router everybody logs in to the config servers"
        if users
        else ""
    )
    return Finding(f"{what} the role of a shard.{note}", {"rows": rows, "users": users})


def _secured(plan: Layout) -> bool:
    return plan.deploy.admin is not None


def _client(ctx: Context, address: str, plan: Layout) -> Client:
    """Return a connection as the administrator; to an arbiter without a login, because it holds no users (§2.5)."""
    return loopback(ctx, address, log_in=_secured(plan) and not is_arbiter(ctx, address))


def _seed(ctx: Context, wanted: ReplicaSet, plan: Layout) -> Process:
    """Return the member that the set is recognised by.

    Raises:
        PreconditionFailed: none runs, or the administrator cannot log in there.
    """
    running = [each for each in wanted.members if ctx.clients.machine(each.machine).listens(each.port)]
    if not running:
        raise PreconditionFailed(
            f"no member of {wanted.name} answers: {', '.join(wanted.addresses)}. Nothing was changed"
        )
    seed = next((each for each in running if _set_name(ctx, each.address)), running[0])
    if _secured(plan) and not can_log_in(ctx, seed.address):
        raise PreconditionFailed(
            f"the administrator of mongo.deploy.admin cannot log in on {seed.address}. Nothing was changed. Create him "
            "there with the role root, or name one who has it"
        )
    return seed


def _set_name(ctx: Context, address: str) -> str:
    greeting = greet(loopback(ctx, address, log_in=False))
    if greeting.code is not None:
        raise refusal(f"hello on {address}", greeting)
    return str(greeting.reply.get("setName", ""))


def refuse_other_key(ctx: Context, process: Process, plan: Layout) -> None:
    """Refuse a set whose key is not the cluster's: its members and the routers could not talk (§2.1).

    Raises:
        PreconditionFailed: it has another key, or none; no part of either is shown.
    """
    security = plan.deploy.security
    if security == "none" or security.key_file is None:
        return
    answer = ask(_client(ctx, process.address, plan), "getCmdLineOpts")
    if answer.code is not None:
        raise refusal(f"getCmdLineOpts on {process.address}", answer)
    path = str(answer.reply["parsed"].get("security", {}).get("keyFile", ""))
    found = ctx.clients.machine(process.machine).read(path) if path.startswith("/") else None
    if found is None or b"".join(found.split()) != "".join(ctx.secrets.resolve(security.key_file).split()).encode():
        raise PreconditionFailed(
            f"{process.where} does not use the key of mongo.deploy.security.key_file ({path or 'it has none'}). "
            "Nothing was changed. Name the key that the set uses, because all of a cluster has to use the same"
        )


def _roll(
    ctx: Context, wanted: ReplicaSet, plan: Layout, *, allow_downtime: bool, timeout: float
) -> list[dict[str, Any]]:
    """Restart the members that need it, in the order of ``plan_turn``."""
    refuse_other_members(ctx, wanted, plan)
    members = {each.address: each for each in wanted.members}
    rows: list[dict[str, Any]] = []
    facts, running = member_facts(ctx, wanted, plan)
    pending = sorted((each for each in facts if not each.converted), key=lambda each: each.state == "PRIMARY")
    for each in pending:
        with_options(running[each.address].text, shard_options(members[each.address]))  # refuses before any change
        rows.append({"member": each.address, "state": each.state, "change": _edit(running[each.address])})
    if ctx.dry_run:
        _refuse(plan_turn(facts, allow_downtime=allow_downtime), wanted)
        for each in pending:
            if each.state == "PRIMARY" and any(other.state == "SECONDARY" for other in facts):
                ctx.apply(_text(Turn(STEP_DOWN, each.address), wanted), step_down)
            ctx.apply(_text(Turn(RESTART, each.address), wanted), restart)
        return rows
    since = time.monotonic()
    while True:
        facts, running = member_facts(ctx, wanted, plan)
        turn = plan_turn(facts, allow_downtime=allow_downtime)
        _refuse(turn, wanted)
        if turn.kind == DONE:
            return rows
        if turn.kind == STEP_DOWN:
            ctx.apply(_text(turn, wanted), step_down, _client(ctx, turn.address, plan))
            since = time.monotonic()
        elif turn.kind == RESTART:
            member = members[turn.address]
            ctx.apply(_text(turn, wanted), restart, ctx, member, running[turn.address], timeout=timeout)
            since = time.monotonic()
        elif time.monotonic() - since > timeout:
            states = "; ".join(f"{each.address} is {each.state}{_behind(each)}" for each in facts)
            raise WaitTimeout(
                f"waited {timeout:.0f} s for all members of {wanted.name} to be well before the next restart: "
                f"{states}. No further member was restarted. Look at the logs, then run this again"
            )
        time.sleep(replies.POLL_SECONDS)


def _text(turn: Turn, wanted: ReplicaSet) -> str:
    if turn.kind == STEP_DOWN:
        return f"let the primary {turn.address} of {wanted.name} step down"
    return f"restart {turn.address} of {wanted.name} with the role shardsvr"


def _behind(member: MemberFacts) -> str:
    return "" if member.caught_up else ", behind"


def _edit(running: Running) -> str:
    how = f"systemctl restart {running.unit}" if running.unit else "restarted as a daemon"
    return f"{running.config}: sharding.clusterRole: shardsvr, explicit port; {how}"


def _refuse(turn: Turn, wanted: ReplicaSet) -> None:
    if turn.kind == REFUSE:
        raise PreconditionFailed(
            f"{wanted.name} has no voter to spare: while {turn.address} restarts there is no primary, and writes wait. "
            "Nothing was changed by this. Add a member first, or accept it with --allow-downtime true"
        )


def refuse_other_members(ctx: Context, wanted: ReplicaSet, plan: Layout) -> None:
    """Refuse a set that the inventory does not describe fully; an undeclared member would be left without the role.

    Raises:
        PreconditionFailed: it has members that are not declared, or another name; nothing was changed.
    """
    seed = next(each for each in wanted.members if ctx.clients.machine(each.machine).listens(each.port))
    config = read_config(_client(ctx, seed.address, plan)) or {}
    known = [str(member["host"]) for member in config.get("members", [])]
    wrong = differences(config, wanted.name, [each for each in wanted.addresses if each in known], config_server=False)
    if wrong:
        raise PreconditionFailed(f"{wanted.name} is not as declared: {'; '.join(wrong)}. Nothing was changed")


def member_facts(ctx: Context, wanted: ReplicaSet, plan: Layout) -> tuple[tuple[MemberFacts, ...], dict[str, Running]]:
    """Read how each member of a set stands and how it runs; one that is down is neither converted nor well."""
    up = [each for each in wanted.members if ctx.clients.machine(each.machine).listens(each.port)]
    status: dict[str, Any] = {}
    config: dict[str, Any] = {}
    running: dict[str, Running] = {}
    for each in up:
        client = _client(ctx, each.address, plan)
        answer = ask(client, "replSetGetStatus")
        if answer.code is None and (not status or answer.reply.get("myState") == 1):
            status, config = answer.reply, read_config(client) or {}
        if answer.code != UNREACHABLE:
            options = ask(client, "getCmdLineOpts").reply.get("parsed", {})
            if options.get("sharding", {}).get("clusterRole") != "shardsvr":
                running[each.address] = look(ctx, each, client)
    found = []
    for member in config.get("members", []):
        address = str(member["host"])
        state, lag = lag_of(status, address)
        converted = address in [each.address for each in up] and address not in running
        found.append(MemberFacts(address, state, int(member.get("votes", 1)) > 0, lag <= LAG_SECONDS, converted))
    return tuple(found), running


def step_down(client: Client) -> None:
    """Let a primary step down, as soon as a secondary has caught up; an election follows.

    Raises:
        PreconditionFailed: no secondary caught up in time, or the server refuses.
    """
    answer = ask(client, "replSetStepDown", STEP_DOWN_SECONDS, secondaryCatchUpPeriodSecs=30)
    if answer.code is not None and answer.code != UNREACHABLE:  # up to 4.0 it closed the connection
        raise refusal("replSetStepDown", answer)


def _convert_standalone(
    ctx: Context, seed: Process, plan: Layout, *, allow_downtime: bool, timeout: float
) -> list[dict[str, Any]]:
    """Restart a standalone as a member and initiate the replica set with it alone; its data stays."""
    client = _client(ctx, seed.address, plan)
    row = {"member": seed.address, "state": "standalone", "change": ""}
    restarted = bool(greet(client).reply.get("isreplicaset"))
    if not restarted:
        running = look(ctx, seed, client)
        with_options(running.text, shard_options(seed))  # refuses before any change
        row["change"] = _edit(running)
        if not allow_downtime:
            raise PreconditionFailed(
                f"{seed.address} is a standalone: while it restarts as {seed.where}, nobody can read or write. "
                "Nothing was changed. Accept it with --allow-downtime true"
            )
        ctx.apply(
            f"restart the standalone {seed.address} as {seed.where}", restart, ctx, seed, running, timeout=timeout
        )
    ctx.apply(
        f"initiate the replica set {seed.replica_set} with {seed.address} alone, whose data stays",
        _initiate_alone, ctx, seed, plan, timeout,
    )  # fmt: skip
    return [row]


def _initiate_alone(ctx: Context, seed: Process, plan: Layout, timeout: float) -> None:
    client = _client(ctx, seed.address, plan)
    initiate_replica_set(client, seed.replica_set, [seed.address], config_server=False, timeout=timeout)
    wait_primary(client, seed.replica_set, timeout=timeout)


def _users_to_copy(ctx: Context, seed: Process, plan: Layout) -> list[str]:
    """Return the users of the set itself, who after the conversion are unknown to routers."""
    answer = ask(_client(ctx, seed.address, plan), "usersInfo", {"forAllDBs": True})
    if answer.code is not None:
        return []
    admin = plan.deploy.admin.user if plan.deploy.admin is not None else ""
    return sorted(f"{each['db']}.{each['user']}" for each in answer.reply.get("users", []) if each["user"] != admin)
