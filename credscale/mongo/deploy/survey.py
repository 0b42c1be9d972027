"""What is there already: files, processes, replica sets, users, shards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.machines.files import changes_on
from credscale.mongo.deploy.config_files import files_of
from credscale.mongo.deploy.joining import is_joining
from credscale.mongo.deploy.layout import ROUTER, layout
from credscale.mongo.deploy.plan import Facts, ProcessFacts, SetFacts
from credscale.mongo.deploy.replica_sets import differences, read_config
from credscale.mongo.deploy.replies import LOGIN_FAILED, ask, greet, refusal
from credscale.mongo.deploy.shards import list_shards, shard_is_there

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.core.machines.files import File
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.deploy.layout import Layout, Process, ReplicaSet

# The wire protocol's version tells the release to everybody, also before the first user exists.
RELEASES = {9: "4.4", 13: "5.0", 17: "6.0", 21: "7.0", 25: "8.0"}
OWN_DATABASES = {"admin", "config", "local"}


def loopback(ctx: Context, address: str, *, log_in: bool) -> Client:
    """Return a connection to a process through its machine's loopback."""
    return ctx.clients.mongo_loopback(address, log_in=log_in)


def program_of(ctx: Context, process: Process, wanted: Layout) -> str:
    """Return the absolute path of a process's program on its machine.

    Raises:
        PreconditionFailed: it is not installed there.
    """
    machine = ctx.clients.machine(process.machine)
    folder = wanted.deploy.binaries
    path = f"{folder.rstrip('/')}/{process.program}" if folder else machine.find_program(process.program)
    if path is None or (folder and not machine.exists(path)):
        raise PreconditionFailed(
            f"{process.program} is not on {machine.name} ({folder or 'PATH'}). Nothing was changed. Install the "
            "packages mongodb-org-server and mongodb-org-mongos there, or set mongo.deploy.binaries to their folder"
        )
    return path


def release_in(text: str) -> str:
    """Return the release that ``mongod --version`` names, such as 7.0; empty when it names none."""
    found = re.search(r"version v(\d+\.\d+)\.", text)
    return found[1] if found else ""


def wanted_files(ctx: Context, process: Process, wanted: Layout, program: str) -> tuple[File, ...]:
    """Return the files of a process as they shall be."""
    security = wanted.deploy.security
    key = None
    if security != "none" and security.key_file is not None:
        key = ctx.secrets.resolve(security.key_file)
    return files_of(process, wanted, key, program)


def survey(ctx: Context) -> Facts:
    """Look at every machine, process and replica set of the inventory.

    Raises:
        PreconditionFailed: a program is missing, or a server does not let us look.
        ConnectFailed: a machine or a running process does not answer.
    """
    wanted = layout(ctx.environment)
    programs: dict[tuple[str, str], tuple[str, str]] = {}
    processes = {each.address: _process(ctx, each, wanted, programs) for each in wanted.processes}
    sets = {each.name: _replica_set(ctx, each, processes, wanted) for each in wanted.sets}
    return _with_cluster(ctx, Facts(wanted, processes, sets))


def _process(
    ctx: Context, process: Process, wanted: Layout, programs: dict[tuple[str, str], tuple[str, str]]
) -> ProcessFacts:
    machine = ctx.clients.machine(process.machine)
    running = machine.listens(process.port)
    ours = machine.exists(process.config)
    changes: dict[str, list[str]] = {}
    release = ""
    if ours or not running:
        place = (process.machine, process.program)
        if place not in programs:
            path = program_of(ctx, process, wanted)
            programs[place] = path, release_in(machine.must_run([path, "--version"]).text)
        program, release = programs[place]
        changes = changes_on(machine, wanted_files(ctx, process, wanted, program))
    if not running:
        return ProcessFacts(changes, ours=ours, release=release)
    greeting = greet(loopback(ctx, process.address, log_in=False))
    if greeting.code is not None:
        raise ConnectFailed(
            f"{process.address} accepts connections but does not answer: {greeting.text}. Nothing was changed. "
            f"Look at its log {process.log}, and at the TLS options of mongo.uri"
        )
    told = greeting.reply
    return ProcessFacts(
        changes,
        running=True,
        ours=ours,
        set_name=str(told.get("setName", "")),
        is_primary=bool(told.get("isWritablePrimary", told.get("ismaster"))),
        is_router=told.get("msg") == "isdbgrid",
        is_config="configsvr" in told,
        release=RELEASES.get(int(told.get("maxWireVersion", 0)), ""),
    )


def _replica_set(ctx: Context, wanted: ReplicaSet, found: dict[str, ProcessFacts], plan: Layout) -> SetFacts:
    members = [each for each in wanted.members if found[each.address].set_name == wanted.name]
    if not members:
        return SetFacts()
    address = min(members, key=lambda each: not found[each.address].is_primary).address
    has_admin = plan.deploy.admin is not None and can_log_in(ctx, address)
    client = loopback(ctx, address, log_in=has_admin)
    config = read_config(client) or {}
    known = [str(member["host"]) for member in config.get("members", [])]
    here = [each for each in wanted.addresses if each in known]
    wrong = differences(config, wanted.name, here, config_server=wanted.is_config)
    missing = [each for each in wanted.addresses if each not in known or is_joining(config, each)]
    databases = () if wanted.is_config or (plan.deploy.admin is not None and not has_admin) else databases_on(client)
    implicit_one = found[address].release not in ("", "4.4") and implicit_concern_is_one(config)
    return SetFacts(True, tuple(wrong), tuple(missing), has_admin, databases, implicit_one)


def can_log_in(ctx: Context, address: str) -> bool:
    """Tell whether the administrator can log in on a process."""
    answer = ask(loopback(ctx, address, log_in=True), "ping")
    if answer.code is None:
        return True
    if answer.code == LOGIN_FAILED:
        return False
    raise refusal(f"the administrator's login on {address}", answer)


def is_arbiter(ctx: Context, address: str) -> bool:
    """Tell whether a process is an arbiter, on which nobody can log in."""
    return bool(greet(loopback(ctx, address, log_in=False)).reply.get("arbiterOnly"))


def databases_on(client: Client) -> tuple[str, ...]:
    """Return the names of the users' databases that a member holds; a secondary's are its primary's."""
    answer = ask(client, "listDatabases", nameOnly=True)
    if answer.code is not None:
        raise refusal("listDatabases", answer)
    return tuple(sorted({str(each["name"]) for each in answer.reply["databases"]} - OWN_DATABASES))


def implicit_concern_is_one(config: dict[str, Any]) -> bool:
    """Tell whether a replica set's arbiters make the implicit default write concern of 5.0 and later ``w: 1``.

    So it is when there are arbiters and the members that hold data are no more than a majority of the voters (§2.3).
    """
    voters = [member for member in config.get("members", []) if int(member.get("votes", 1)) > 0]
    arbiters = sum(bool(member.get("arbiterOnly")) for member in voters)
    return arbiters > 0 and len(voters) - arbiters <= len(voters) // 2 + 1


def _with_cluster(ctx: Context, facts: Facts) -> Facts:
    """Add what only a router can tell."""
    wanted = facts.layout
    running = [each for each in wanted.routers if facts.processes[each.address].running]
    if not running or any(found.is_router for found in _misplaced(facts)):
        return facts
    router = running[0].address
    secured = wanted.deploy.admin is not None
    has_admin = secured and can_log_in(ctx, router)
    if secured and not has_admin:
        return facts
    mongos = loopback(ctx, router, log_in=secured)
    listed = list_shards(mongos)
    shards = {each.name for each in wanted.sets[1:] if shard_is_there(listed, each.name, each.addresses)}
    return Facts(wanted, facts.processes, facts.sets, has_admin, frozenset(shards), write_concern(mongos))


def _misplaced(facts: Facts) -> list[ProcessFacts]:
    return [
        facts.processes[each.address]
        for each in facts.layout.processes
        if facts.processes[each.address].is_router != (each.role == ROUTER) and facts.processes[each.address].running
    ]


def write_concern(mongos: Client) -> str | int | None:
    """Return the ``w`` that somebody set as the cluster's default; None when it is the server's implicit one."""
    answer = ask(mongos, "getDefaultRWConcern")
    if answer.code is not None:
        raise refusal("getDefaultRWConcern", answer)
    if answer.reply.get("defaultWriteConcernSource", "global") != "global":
        return None
    w = (answer.reply.get("defaultWriteConcern") or {}).get("w")
    return w if w is None or isinstance(w, str) else int(w)
