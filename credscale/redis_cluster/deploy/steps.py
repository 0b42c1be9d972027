"""The steps from hosts to running nodes, what is risky about them, and what clients have to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import ConnectFailed, CredscaleError, PreconditionFailed, VerificationFailed
from credscale.core.phrases import listed
from credscale.core.step import Finding, probe, step
from credscale.redis_cluster.cluster.nodes import parse_nodes
from credscale.redis_cluster.cluster.reasons import Reason, ordered
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.deploy import client_settings as rendering
from credscale.redis_cluster.deploy.layout import layout
from credscale.redis_cluster.deploy.processes import start_node, write_compose, write_files
from credscale.redis_cluster.deploy.risks import (
    MACHINE_SCRIPT,
    deployment_reasons,
    emptied_by_start,
    heirs_without_votes,
    machine_reasons,
    outdated_reasons,
    parse_machine,
)
from credscale.redis_cluster.deploy.survey import Facts, ask_server, survey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from credscale.core.context import Context
    from credscale.redis_cluster.deploy.layout import Layout
    from credscale.redis_cluster.deploy.survey import NodeFacts

TIMEOUT = 60.0
ANSWER_SECONDS = 2.0
LOADING_POLL_SECONDS = 0.2


def _facts(ctx: Context) -> Facts:
    """Look, and stop where anything is found that a deployment must not touch."""
    facts = survey(ctx)
    if facts.problems:
        raise PreconditionFailed("; ".join(facts.problems) + ". Nothing was changed by this step")
    return facts


@probe()
def deployment_risks(ctx: Context) -> Finding:
    """Tell where the settings and the machines of this deployment are dangerous; never fails.

    Evictions are judged by what `redis.deploy.holds` says. Nodes that run are asked for settings that differ from the
    environment's.
    """
    wanted = layout(ctx.environment)
    reasons = [*deployment_reasons(wanted), *_machine_reasons(ctx, wanted)]
    reasons += outdated_reasons(wanted, _settings_in_force(ctx, wanted))
    rows = [reason.row() for reason in ordered(reasons)]
    warned = [reason for reason in reasons if reason.severity == "warn"]
    if not warned:
        return Finding(f"no risks; {len(rows)} notes", {"rows": rows})
    rules = listed(dict.fromkeys(reason.rule for reason in warned))
    return Finding(f"{len(warned)} risks: {rules}", {"rows": rows})


def _machine_reasons(ctx: Context, wanted: Layout) -> list[Reason]:
    found: list[Reason] = []
    for name in wanted.machines:
        try:
            hosts = dict.fromkeys(node.host for node in wanted.on(name))
            told = ctx.clients.machine(name).must_run(["sh", "-c", MACHINE_SCRIPT, "sh", *hosts]).text
        except CredscaleError as error:
            found.append(Reason("note", name or "this machine", "machine", f"its settings are unknown: {error}",
                                "see to it before the deployment"))  # fmt: skip
        else:
            found += machine_reasons(wanted, name, parse_machine(told))
    return found


def _settings_in_force(ctx: Context, wanted: Layout) -> dict[str, dict[str, str]]:
    """Return the configuration of each node that tells it; why others do not is for the later steps to say."""
    seen = look(ctx, links=False, addresses=[node.address for node in wanted.nodes])
    found: dict[str, dict[str, str]] = {}
    for view in seen.answering:
        told = dict(view.settings)
        for name, key in (("maxmemory", "maxmemory"), ("maxmemory-policy", "maxmemory_policy")):
            if key in view.info:
                told[name] = str(view.info[key])
        if "aof_enabled" in view.info:
            told["appendonly"] = "yes" if view.info["aof_enabled"] else "no"
        found[view.address] = told
    return found


@step()
def write_node_files(ctx: Context) -> Finding:
    """Write configuration, secrets and systemd unit or Compose file of every node.

    A node that runs is not restarted and keeps its old configuration until somebody does; the summary names it. What a
    node has stored is never touched.
    """
    facts = _facts(ctx)
    rows: list[dict[str, Any]] = []
    for each in facts.nodes:
        if each.changes:
            names = ", ".join(path.rpartition("/")[2] for path in each.changes)
            ctx.apply(f"write {names} of {each.node.where}", write_files, ctx, each.node, facts.layout)
        rows += [
            {"node": each.node.address, "file": path, "change": line}
            for path, changes in each.changes.items()
            for line in changes
        ]
    for machine, changes in facts.compose.items():
        where = machine or "this machine"
        ctx.apply(f"write {facts.layout.compose_file} on {where}", write_compose, ctx, machine, facts.layout)
        rows += [{"node": where, "file": facts.layout.compose_file, "change": line} for line in changes]
    if not rows:
        return Finding("every file is as it shall be")
    if not ctx.dry_run:
        left = _facts(ctx)
        unwritten = [each.node.address for each in left.nodes if each.changes]
        if unwritten or left.compose:
            raise VerificationFailed(
                f"written, but different again: {listed(unwritten or left.compose)}. Look who else writes these files, "
                "then run redis-deploy again"
            )
    return Finding(_written(facts), {"rows": rows})


def _written(facts: Facts) -> str:
    """Return what was written, and which nodes go on with what they have."""
    changed = [each for each in facts.nodes if each.changes]
    text = f"the files of {len(changed)} nodes" if changed else "the Compose file"
    running = [each.node.address for each in changed if each.running]
    if not running:
        return text
    return (
        f"{text}; {listed(running)} run with the old ones until they are restarted, one at a time, a primary after "
        "redis-failover. deployment-risks shows which settings differ"
    )


@step()
def start_nodes(ctx: Context, *, timeout: float = TIMEOUT) -> Finding:
    """Start every node that does not run, and wait until all have loaded their data; they outlive this run.

    A node that runs is left alone. Without `appendonly` a primary that would come back empty is not started before a
    replica is promoted, and this fails once the others run.

    Args:
        timeout: seconds in which each has to answer, and then all to load their data
    """
    facts = _facts(ctx)
    stopped = [each for each in facts.nodes if not each.running]
    unwritten = [each.node.address for each in stopped if each.changes]
    if unwritten or (stopped and facts.compose):
        problem = f"first their files have to be written: {listed(unwritten or facts.compose)}. Run redis-deploy"
        ctx.require(False, PreconditionFailed(problem))
    in_danger = _in_danger(ctx, stopped) if stopped and not facts.layout.deploy.appendonly else {}
    safe = [each for each in stopped if each.node.address not in in_danger]
    for each in safe:
        ctx.apply(f"start {each.node.where}", start_node, ctx, each.node, facts.layout, timeout=timeout)
    if safe or any(each.loading for each in facts.nodes):
        what = "every node has loaded its data"
        ctx.wait_until(what, lambda: _loaded(ctx, in_danger), timeout, every=LOADING_POLL_SECONDS)
    if in_danger:
        raise _emptying(ctx, in_danger, safe)
    if not stopped:
        return Finding("every node runs")
    rows = [
        {"node": each.node.address, "machine": each.node.machine or "this machine", "by": facts.layout.deploy.start}
        for each in stopped
    ]
    began = "would start" if ctx.dry_run else "started"
    return Finding(f"{began} {len(stopped)} of {len(facts.nodes)} nodes", {"rows": rows})


def _loaded(ctx: Context, left_out: Collection[str]) -> tuple[bool, str]:
    waiting, problems = [], []
    for node in layout(ctx.environment).nodes:
        running, loading, problem = ask_server(ctx, node, ctx.clients.machine(node.machine))
        if problem:
            problems.append(problem)
        if node.address not in left_out and (loading or not running):
            waiting.append(node.address)
    if problems:
        raise ConnectFailed("; ".join(problems))
    return not waiting, f"{listed(waiting)} not yet" if waiting else "all have"


def _in_danger(ctx: Context, stopped: Sequence[NodeFacts]) -> dict[str, str]:
    """Return the node ids of primaries that would come back empty while their replicas have the data, by address."""
    ids = {}
    for each in stopped:
        stored = ctx.clients.machine(each.node.machine).read(f"{each.node.data}/nodes.conf")
        own = next((node.id for node in parse_nodes((stored or b"").decode()) if node.is_myself), None)
        if own is not None:
            ids[each.node.address] = own
    return {address: ids[address] for address in emptied_by_start(look(ctx, links=False), ids)} if ids else {}


def _emptying(ctx: Context, in_danger: Mapping[str, str], started: Sequence[NodeFacts]) -> CredscaleError:
    """Return why some nodes were not started, and what leads out of it."""
    began = "would be started" if ctx.dry_run else "were started"
    others = f"{listed(each.node.address for each in started)} {began}" if started else "No node was started"
    heirs = heirs_without_votes(look(ctx, links=False), in_danger.values())
    env = f"--env {ctx.environment.name}"
    way = "Wait until a replica is promoted (cluster-status shows it)"
    if heirs:
        commands = "; ".join(f"invoke redis.force-failover {env} --replica {heir} --mode takeover" for heir in heirs)
        way = (
            "No majority of the primaries runs, so no replica is promoted by itself. Bring primaries of other shards "
            f"back, or promote one each with: {commands}"
        )
    text = (
        f"{listed(in_danger)} would come back without its data (appendonly: false) while it still counts as the "
        f"primary of its slots; its replicas would copy that. {others}. {way}, then run: invoke redis-deploy {env}"
    )
    return VerificationFailed(text) if started and not ctx.dry_run else PreconditionFailed(text)


@probe()
def client_settings(ctx: Context) -> Finding:
    """Tell applications how to connect: environment variables and client code, without the password.

    Written as client.env, client.ts and client.py into the run's folder.
    """
    wanted = layout(ctx.environment)
    texts = {
        "client.env": rendering.env_text(wanted),
        "client.ts": rendering.typescript(wanted),
        "client.py": rendering.python(wanted),
    }
    where = ""
    if ctx.folder is not None:
        where = f", in {ctx.folder}"
        for name, text in texts.items():
            (ctx.folder / name).write_text(text, encoding="utf-8")
    rows = [{"variable": name, "value": value} for name, value in rendering.variables(wanted).items()]
    return Finding(f"client.env, client.ts and client.py{where}", {"rows": rows, **texts})
