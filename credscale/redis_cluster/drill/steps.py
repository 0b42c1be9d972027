"""The steps of a drill: is it allowed, break and measure, put back."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed, WaitTimeout
from credscale.core.phrases import listed
from credscale.core.signals import uninterrupted
from credscale.core.step import Finding, probe, step
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.nodes import by_id, primaries
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.slots import subtract
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.drill import plan, restoring, verdict
from credscale.redis_cluster.drill.breaking import fault_of
from credscale.redis_cluster.measuring import plots
from credscale.redis_cluster.measuring.measurement import ASKED, FLIPPED
from credscale.redis_cluster.measuring.probing import Writers

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.drill.plan import Expectation, Fault, Target
    from credscale.redis_cluster.drill.verdict import Outcome
    from credscale.redis_cluster.measuring.measurement import Measurement

BEFORE_SECONDS = AFTER_SECONDS = 1.0
ROLE_SECONDS = 0.5
POLL_SECONDS = 0.01
READ_SECONDS = 120.0
MEASURED = 3


@probe()
def drill_allowed(ctx: Context) -> Finding:
    """See that this environment may be broken on purpose: a lab, staging, or policy.allow_drills."""
    plan.refuse_unless_allowed(ctx.environment)
    return Finding(f"{ctx.environment.name} may be broken on purpose")


@step(show=plots.timeline)
def break_primary(ctx: Context, *, fault: str = "kill", primary: str = "", hold: float = 0.0) -> Finding:
    """Break one node on purpose, measure what clients see, put it back, and compare with what was expected.

    Refused where drills are not allowed. Needs a healthy cluster, a replica for every shard and the node's machine.
    Whatever happens, the node is put back. A lost acknowledged write, or a failover other than expected, is a failure.

    Args:
        fault: kill, freeze, freeze-briefly, partition or kill-replica
        primary: host:port of the shard's primary; "" for the first one
        hold: seconds for which the node stays broken at least; 0 for as long as the fault needs
    """
    plan.refuse_unless_allowed(ctx.environment)
    kind = plan.fault_named(fault)
    found = look(ctx)
    _refuse_unhealthy(found)
    target = plan.choose(found, kind, primary)
    view = found.asked(target.node.id)
    if view is None:
        raise PreconditionFailed(f"{target.address} does not answer")
    expected = plan.expect(kind, plan.node_timeout(view), hold)
    plan.refuse_loss(view, kind)
    broken, words, inject = fault_of(ctx, found, target, kind, expected.hold)
    ctx.note(f"{fault} of {target.address}: {expected.sentence}")
    restoring.remember(ctx, broken)
    with Writers(ctx, found, shards=_measured(found, target)) as writers:
        try:
            _break(ctx, writers, target, kind, expected, lambda: ctx.apply(words, inject))
        finally:
            with uninterrupted():
                restoring.put_back(ctx, broken)
        writers.mark("put back", target.address)
        unhealthy = _heal(ctx)
        writers.settle(AFTER_SECONDS)
        measured = writers.finish()
    if ctx.planning:
        return Finding(f"{fault} of {target.address}; {expected.sentence}")
    if not unhealthy:
        restoring.forget(ctx)
    return _judge(target, kind, expected, _outcome(look(ctx), target, measured, unhealthy), measured)


@step(repairs=True)
def restore_nodes(ctx: Context) -> Finding:
    """Put back what a drill has left: let frozen nodes go on, remove our packet filter, start dead nodes.

    Goes by what the machines say of the nodes of the inventory, so it also puts back what a killed run has left.
    """
    moves = restoring.put_back(ctx)
    if moves:
        restoring.wait_healthy(ctx)
    if restoring.recall(ctx) is not None:
        restoring.forget(ctx)
    if not moves:
        return Finding("nothing to put back: no node is frozen, cut off or dead")
    words = {"join": "connected again", "resume": "going on", "start": "started"}
    return Finding("; ".join(f"{move.address} is {words[move.kind]}" for move in moves))


def _refuse_unhealthy(found: Look) -> None:
    reasons = gate(found)
    if reasons:
        raise PreconditionFailed(
            f"only a healthy cluster is broken on purpose, and this one is not: {sentence(reasons)}. Nothing was "
            "changed. Look at it: invoke cluster-status; what an earlier drill left is put back by: invoke "
            "redis.restore-nodes"
        )


def _measured(found: Look, target: Target) -> list[str]:
    """Return the shards to write to: the broken one and some others, which show whether the fault stays in it."""
    owners = primaries(found.topology)
    ids = [node.id for node in owners if node.id in (target.node.id, target.node.primary_id)]
    return (ids + [node.id for node in owners if node.id not in ids])[:MEASURED]


def _break(
    ctx: Context, writers: Writers, target: Target, kind: Fault, expected: Expectation, inject: Callable[[], object]
) -> None:
    """Break the node, and return when its shard serves again, or will not by itself, and it was broken long enough."""
    writers.settle(BEFORE_SECONDS)
    writers.mark(ASKED, target.primary)
    begun = time.monotonic()
    inject()
    writers.mark(kind.done, target.address)
    if expected.fails_over:
        try:
            event = ctx.wait_until("a replica to take over", lambda: _came(ctx, target, kind), expected.deadline,
                                   every=POLL_SECONDS)  # fmt: skip
        except WaitTimeout as late:
            ctx.note(f"{late}. The drill puts the node back now")
        else:
            writers.mark(event, target.primary)
            writers.settle(plan.AFTER_FLIP_SECONDS)
    while (left := expected.hold - (time.monotonic() - begun)) > 0:
        writers.settle(min(left, READ_SECONDS))
        if left > READ_SECONDS:
            writers.read_back()  # before the probe keys expire


def _came(ctx: Context, target: Target, kind: Fault) -> tuple[bool, str]:
    """Tell whether a replica is the primary now, or a killed node is back because something supervises it."""
    from redis.exceptions import RedisError

    for place in (view.place for view in target.replicas):
        with suppress(RedisError, OSError):  # one that does not answer at this moment is not the primary
            if facts.parse_role(_client(ctx, place).execute_command("ROLE")).role == "primary":
                return True, FLIPPED
    if kind.how == "kill":
        with suppress(RedisError, OSError):
            _client(ctx, target.place).ping()
            return True, verdict.BACK
    return False, f"{listed(view.address for view in target.replicas)} still replica"


def _client(ctx: Context, place: str) -> Any:
    return ctx.clients.redis_node(place, timeout=ROLE_SECONDS)


def _heal(ctx: Context) -> str:
    """Wait until the cluster is healthy, and return why it is not in the end."""
    try:
        restoring.wait_healthy(ctx)
    except WaitTimeout as late:
        return str(late)
    return ""


def _outcome(after: Look, target: Target, measured: Measurement, unhealthy: str) -> Outcome:
    slots = target.slots
    owner = next((node for node in primaries(after.topology) if not subtract(slots, node.slots)), None)
    name = after.name(owner.id) if owner is not None else ""
    node = by_id(after.topology).get(target.node.id)
    role = "unknown" if node is None else node.role
    if node is not None and node.is_replica:
        role = f"replica of {after.name(node.primary_id)}"
    return verdict.Outcome(
        new_primary=name if name != target.primary else "", flip_seconds=measured.role_flip, unhealthy=unhealthy,
        role=role, lost=measured.lost, unread=measured.unread,
        back=any(mark.event == verdict.BACK for mark in measured.marks),
    )  # fmt: skip


def _judge(target: Target, kind: Fault, expected: Expectation, outcome: Outcome, measured: Measurement) -> Finding:
    rows = verdict.judge(target, expected, outcome)
    output = measured.output() | {
        "verdict": rows, "fault": kind.name, "broken": target.address, "new_primary": outcome.new_primary,
        "expected_outage_s": [round(expected.least, 3), round(expected.most, 3)],
    }  # fmt: skip
    gap = measured.longest_gap
    summary = (
        f"{kind.name} of {target.address}: {rows[0]['seen']}; clients waited {gap or 0.0:.2f} s at most; "
        f"{measured.acknowledged} acknowledged writes, {outcome.lost} lost; afterwards it is {outcome.role}"
    )
    wrong = verdict.against(rows)
    if wrong:
        raise VerificationFailed(f"the drill did not end as expected: {wrong}. {summary}", output)
    if outcome.new_primary:
        summary += f". To give it its role back: invoke redis-failover --primary {outcome.new_primary}"
    return Finding(summary, output)
