"""Read back everything that makes a cluster one that accepts shard-migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import CredscaleError, PreconditionFailed, VerificationFailed
from credscale.core.step import Finding, probe
from credscale.mongo.cluster.members import HEALTHY
from credscale.mongo.deploy.layout import CONFIG, ROUTER, layout
from credscale.mongo.deploy.replies import LOGIN_FAILED, ask, greet
from credscale.mongo.deploy.survey import is_arbiter, loopback

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.deploy.layout import Layout, Process, ReplicaSet


@probe()
def cluster_ready(ctx: Context) -> Finding:
    """Check every process, replica set, shard and router the way shard-migrate will reach them.

    Not over SSH but at the address by which the cluster knows each, logged in as the user of ``mongo.uri``: role and
    port in force on every member, secondaries included (§2.4), all members healthy, all shards in the cluster with
    state 1, one featureCompatibilityVersion, and routers that know the same cluster.
    """
    wanted = layout(ctx.environment)
    if ctx.planning:
        raise PreconditionFailed("there is nothing to check before the cluster stands")
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for process in wanted.processes:
        row = _look(ctx, process, wanted)
        rows.append(row)
        if row["problem"]:
            problems.append(f"{process.where}: {row['problem']}")
    if not problems:  # what follows would only repeat them
        problems += _cluster_problems(ctx, wanted, rows)
    if problems:
        raise VerificationFailed(
            f"the cluster is not ready: {'; '.join(problems)}. Nothing was changed by this check", {"rows": rows}
        )
    shards = ", ".join(each.name for each in wanted.sets[1:])
    return Finding(f"{len(rows)} processes answer as they should; shards {shards} are in the cluster", {"rows": rows})


def _look(ctx: Context, process: Process, wanted: Layout) -> dict[str, Any]:
    row = {"process": process.address, "replica_set": process.replica_set, "state": "", "fcv": "", "problem": ""}
    client = ctx.clients.mongo_member(process.address)
    greeting = greet(client)
    if greeting.code == LOGIN_FAILED and is_arbiter(ctx, process.address):
        client = loopback(ctx, process.address, log_in=False)  # an arbiter holds no users
        greeting = greet(client)
    if greeting.code is not None:
        return row | {"problem": f"does not answer as the user of mongo.uri: {greeting.text}"}
    options = ask(client, "getCmdLineOpts")
    if options.code is not None:
        return row | {"problem": f"getCmdLineOpts is refused to the user of mongo.uri: {options.text}"}
    problem = option_problem(options.reply.get("parsed", {}), process, wanted)
    if process.role == ROUTER:
        row["state"] = "router" if greeting.reply.get("msg") == "isdbgrid" else "no router"
        return row | {"problem": problem or ("" if row["state"] == "router" else "is not a mongos")}
    told = greeting.reply
    row["state"] = (
        "PRIMARY" if told.get("isWritablePrimary", told.get("ismaster"))
        else "SECONDARY" if told.get("secondary")
        else "ARBITER" if told.get("arbiterOnly")
        else "unsettled"
    )  # fmt: skip
    if row["state"] != "ARBITER":
        row["fcv"] = _compatibility(client)
    if not problem and told.get("setName") != process.replica_set:
        problem = f"belongs to the replica set {told.get('setName')!r}"
    return row | {"problem": problem or ("" if row["state"] in HEALTHY else "is neither primary nor secondary")}


def option_problem(parsed: dict[str, Any], process: Process, wanted: Layout) -> str:
    """Compare the options in force on a process with what its role needs; empty when they do.

    Args:
        parsed: ``getCmdLineOpts.parsed``; options of the command line stand there like those of a file.
        process: which.
        wanted: the cluster.
    """
    sharding, replication = parsed.get("sharding", {}), parsed.get("replication", {})
    security = parsed.get("security", {})
    pairs: list[tuple[str, Any, Any]] = [("net.port", parsed.get("net", {}).get("port"), process.port)]
    if process.role == ROUTER:
        found = sorted(str(sharding.get("configDB", "")).partition("/")[2].split(","))
        pairs.append(("sharding.configDB", found, sorted(wanted.config_set.addresses)))
    else:
        role = "configsvr" if process.role == CONFIG else "shardsvr"
        name = replication.get("replSetName", replication.get("replSet"))
        pairs += [("sharding.clusterRole", sharding.get("clusterRole"), role)]
        pairs += [("replication.replSetName", name, process.replica_set)]
    if wanted.deploy.security != "none" and "keyFile" not in security and security.get("clusterAuthMode") != "x509":
        pairs.append(("security.keyFile", None, "one"))
    return "; ".join(
        f"{name} is {found!r}, expected {expected!r}" for name, found, expected in pairs if found != expected
    )


def _compatibility(client: Client) -> str:
    answer = ask(client, "getParameter", featureCompatibilityVersion=1)
    told = answer.reply.get("featureCompatibilityVersion", {})
    return str(told.get("version", answer.text)) + (" in transition" if "targetVersion" in told else "")


def _cluster_problems(ctx: Context, wanted: Layout, rows: list[dict[str, Any]]) -> list[str]:
    problems = [problem for each in wanted.sets for problem in _set_problems(ctx, each)]
    versions = {row["fcv"] for row in rows if row["fcv"]}
    if len(versions) != 1 or any("transition" in version for version in versions):
        problems.append(f"featureCompatibilityVersion is not one and settled: {', '.join(sorted(versions))}")
    identities = set()
    for router in wanted.routers:
        client = ctx.clients.mongo_member(router.address)
        listed = ask(client, "listShards")
        if listed.code is not None:
            problems.append(f"{router.where} refuses listShards to the user of mongo.uri: {listed.text}")
            continue
        problems += shard_problems(listed.reply["shards"], wanted, router)
        identities.add(str((client["config"]["version"].find_one({}) or {}).get("clusterId")))
    if len(identities) != 1:
        problems.append(f"the routers belong to different clusters: {', '.join(sorted(identities))}")
    try:
        pinned = ctx.clients.mongo_router()
    except CredscaleError as error:
        return [*problems, str(error)]
    if pinned not in [router.address for router in wanted.routers]:
        problems.append(f"mongo.uri leads to {pinned}, which is not one of mongo.routers")
    return problems


def _set_problems(ctx: Context, wanted: ReplicaSet) -> list[str]:
    status = ask(ctx.clients.mongo_member(wanted.addresses[0]), "replSetGetStatus")
    if status.code is not None:
        return [f"replSetGetStatus of {wanted.name} is refused to the user of mongo.uri: {status.text}"]
    states = {str(member["name"]): str(member["stateStr"]) for member in status.reply["members"]}
    problems = [f"{name} of {wanted.name} is {state}" for name, state in states.items() if state not in HEALTHY]
    if list(states.values()).count("PRIMARY") != 1:
        problems.append(f"{wanted.name} has no primary")
    if set(states) != set(wanted.addresses):
        problems.append(f"{wanted.name} consists of {', '.join(sorted(states))}")
    return problems


def shard_problems(listed: list[dict[str, Any]], wanted: Layout, router: Process) -> list[str]:
    """Compare what a router lists with the shards that are wanted."""
    known = {str(shard["host"]).partition("/")[0]: shard for shard in listed}
    problems = []
    for each in wanted.sets[1:]:
        shard = known.get(each.name)
        if shard is None:
            problems.append(f"{router.where} does not list {each.name}")
        elif int(shard.get("state", 0)) != 1 or shard.get("draining"):
            problems.append(f"{router.where} lists {each.name} with state {shard.get('state')}, draining or not aware")
        elif not set(str(shard["host"]).partition("/")[2].split(",")) <= set(each.addresses):
            problems.append(f"{router.where} lists {each.name} with other members: {shard['host']}")
    return problems
