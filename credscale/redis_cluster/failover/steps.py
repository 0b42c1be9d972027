"""The steps that fail primaries over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, Observed, PreconditionFailed, Refused, VerificationFailed
from credscale.core.phrases import listed
from credscale.core.redis_clients import redis_failures
from credscale.core.step import Finding, step
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.nodes import by_id, primaries, replicas_of
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.failover import memory
from credscale.redis_cluster.failover.execution import SETTLE_SECONDS, Done, carry_out, ready
from credscale.redis_cluster.failover.plan import (
    choose_heirs,
    hosts_of,
    node_at,
    pairs,
    plan_failovers,
    primaries_on,
)
from credscale.redis_cluster.failover.prechecks import majority_on_a_host, why_not
from credscale.redis_cluster.failover.resting import Rested, rest
from credscale.redis_cluster.measuring import plots
from credscale.redis_cluster.measuring.measurement import milliseconds
from credscale.redis_cluster.measuring.probing import RATE, Writers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.reasons import Reason
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.failover.plan import Move
    from credscale.redis_cluster.measuring.measurement import Measurement

MOST_LISTED = 12
SHORT_SECONDS = 3.0  # to look for writes after a failure: what answers, answers at once
SELECTORS = "--primary HOST:PORT, --host HOST or --rolling"


@step(show=plots.timeline)
def fail_over(
    ctx: Context,
    *,
    primary: str = "",
    host: str = "",
    rolling: bool = False,
    back: bool = False,
    rate: int = RATE,
    accept_majority: bool = False,
    timeout: float = 6.0,
) -> Finding:
    """Let replicas take over from their primaries without losing a write, and measure what clients see.

    Plain CLUSTER FAILOVER, one shard at a time: the primary pauses its clients, the replica catches up, is elected and
    takes the slots. Each is checked beforehand, and confirmed by every node before the next one. Probe clients write to
    every shard meanwhile; each acknowledged write is looked for afterwards. A failover that does not happen is given up
    by the servers themselves, and never forced. Redis 6.2 to 8, Valkey 8 and 9.

    Args:
        ctx: the run.
        primary: the primary that hands over, host:port
        host: every primary on this host hands over to a replica on another one
        rolling: every primary hands over, one after the other
        back: each shard is failed back to its first primary as well; with a `primary` that is a replica now, only that
        rate: writes per second of each probe client; there are two per shard
        accept_majority: one host may end with so many primaries that its loss would leave no majority
        timeout: seconds to wait for each role to flip; at least until the servers give up
    """
    what = _selection(primary, host, rolling=rolling, back=back)
    if timeout <= 0:
        raise EnvironmentInvalid(f"--timeout is a number of seconds above 0, not {timeout}")
    found = look(ctx, links=False)
    goal = memory.unfinished(ctx, what) if rolling or back else None
    first = goal.first if goal is not None else _first(found, primary, host)
    moves = _moves(found, first, host, back=back, away=goal.away if goal is not None else frozenset())
    if not moves:
        if goal is not None:
            memory.forget(ctx)
        return Finding(f"nothing to fail over: {_why_nothing(found, first, host)}")
    if not accept_majority:
        _refuse_majority(ctx, found, moves)
    found = ready(ctx, lambda seen: _against(seen, moves, whole=rolling))
    rested = Rested()
    for move in moves if not ctx.dry_run else ():
        rest(ctx, found, move, rested)
    if rolling or back:
        memory.begin(ctx, what, first)
    return _measured(ctx, found, moves, Writers(ctx, found, rate=rate), rested, timeout, keeps=rolling or back)


def _measured(
    ctx: Context, found: Look, moves: Sequence[Move], writers: Writers, rested: Rested, timeout: float, *, keeps: bool
) -> Finding:
    """Carry all moves out while writers write, then judge what they saw."""
    shards = {
        node.id: found.name(owner.id)
        for owner in primaries(found.topology)
        for node in (owner, *replicas_of(found.topology, owner.id))
    }
    done: list[Done] = []
    with writers:
        writers.settle(SETTLE_SECONDS)
        try:
            for move in moves:
                if move.back and keeps:
                    memory.went_away(ctx, move.replica)
                carried = carry_out(ctx, writers, move, shard=shards[move.replica], rested=rested, timeout=timeout)
                done += [carried] if carried is not None else []
                if writers.read_back() or writers.unread:
                    break  # no further shard is put at risk
        except Observed as problem:
            problem.output = _output(writers.finish(SHORT_SECONDS), done) | problem.output
            raise
        except redis_failures() as error:
            raise VerificationFailed(
                f"a node refused us, or broke off: {error}. {len(done)} of {len(moves)} failovers were confirmed "
                f"before. Look at the roles with: invoke cluster-status --env {ctx.environment.name}; then run the "
                "same command again. Our user needs CLUSTER FAILOVER, ROLE, SET, WAIT, MGET and UNLINK",
                _output(writers.finish(SHORT_SECONDS), done),
            ) from error
        seen = writers.finish()
    wrong = gate(look(ctx, links=False))
    if ctx.dry_run:
        return Finding(f"would fail over {_listed_moves(found, moves)}")
    if len(done) == len(moves) and keeps:
        memory.forget(ctx)
    output = _output(seen, done) | {"problems": [reason.row() for reason in wrong]}
    return _judged(ctx, seen, done, moves, output, unhealthy=sentence(wrong))


def _judged(
    ctx: Context,
    seen: Measurement,
    done: Sequence[Done],
    moves: Sequence[Move],
    output: dict[str, Any],
    *,
    unhealthy: str,
) -> Finding:
    hands = listed(f"{each.primary} to {each.replica}" for each in done)
    flips = [each.flipped - each.asked for each in done]
    gap = f"{(seen.longest_gap or 0) * 1000:.0f} ms"
    text = (
        f"{len(done)} of {len(moves)} failovers done and confirmed by every node that answers ({hands}); the slowest "
        f"role flip took {max(flips) * 1000:.0f} ms, the longest time without an acknowledged write {gap}, "
        f"{seen.lost} of {seen.acknowledged:,} acknowledged writes were lost"
    )
    if seen.lost:
        raise VerificationFailed(
            f"{text}. No further shard was touched. Compare the data of the shards in the table with what applications "
            "wrote in that time, and look at the logs of the nodes before any other failover",
            output,
        )
    if seen.unread:
        raise VerificationFailed(
            f"{text}, but {seen.unread} could not be looked for: nobody answered for their shard. Look at the nodes "
            f"with: invoke cluster-status --env {ctx.environment.name}",
            output,
        )
    away = [move for move in moves if not move.back and not any(m.back and m.replica == move.primary for m in moves)]
    ways = [f"--primary {each.primary} --back" for each in done if any(m.primary == each.was.primary for m in away)]
    hint = f". Fail back with: invoke redis-failover --env {ctx.environment.name} {ways[0]}" if ways else ""
    rest = f" (and so for {listed(way.split()[1] for way in ways[1:])})" if len(ways) > 1 else ""
    beside = f". The cluster is not healthy for other reasons: {unhealthy}" if unhealthy else ""
    return Finding(text + hint + rest + beside, output)


def _output(seen: Measurement, done: Sequence[Done]) -> dict[str, Any]:
    gaps = [seen.gap_between(each.asked, each.confirmed, each.shard) for each in done]
    failovers = [each.row() | {"longest_gap_ms": milliseconds(gap)} for each, gap in zip(done, gaps, strict=True)]
    return seen.output() | {"failovers": failovers}


def _selection(primary: str, host: str, *, rolling: bool, back: bool) -> str:
    """Return what is meant in words.

    Raises:
        EnvironmentInvalid: none or more than one of the flags that say it.
    """
    given = [f"primary {primary}"] * bool(primary) + [f"host {host}"] * bool(host) + ["rolling"] * rolling
    if len(given) != 1:
        raise EnvironmentInvalid(f"give exactly one of {SELECTORS}; this is {len(given)}: {listed(given) or 'none'}")
    return f"{given[0]}, back" if back else given[0]


def _first(found: Look, primary: str, host: str) -> tuple[str, ...]:
    """Return the primaries that are meant, in the order of their slots.

    Raises:
        PreconditionFailed: no node answers.
        EnvironmentInvalid: no such node or host; the message lists those there are.
    """
    owners = primaries(found.topology)
    if not owners:
        silent = listed(f"{view.address}: {view.error}" for view in found.nodes if view.error)
        raise PreconditionFailed(f"there is no primary with slots to fail over. {silent or 'All nodes answer'}")
    known = listed((found.name(node.id) for node in owners), MOST_LISTED)
    if primary:
        node = node_at(found, primary)
        if node is None:
            raise EnvironmentInvalid(f"--primary {primary}: no such node in the cluster. Its primaries: {known}")
        return (node.id,)
    if host:
        everywhere = sorted(set().union(*(hosts_of(found, node) for node in found.topology)))
        if host not in everywhere:
            raise EnvironmentInvalid(f"--host {host}: no node is there. Hosts: {listed(everywhere, MOST_LISTED)}")
        return primaries_on(found, host)
    return tuple(node.id for node in owners)


def _moves(found: Look, first: Sequence[str], host: str, *, back: bool, away: Collection[str]) -> tuple[Move, ...]:
    """Return the plan.

    Raises:
        PreconditionFailed: a primary has no replica that could take over.
    """
    known = by_id(found.topology)
    avoid = known[first[0]].host if host and first and first[0] in known else ""
    todo = [node_id for node_id in first if node_id not in away]
    heirs = choose_heirs(found, todo, avoid_host=avoid)
    alone = [
        found.name(node_id) for node_id in todo
        if node_id in known and known[node_id].is_primary and known[node_id].slots and node_id not in heirs
    ]  # fmt: skip
    if alone:
        where = f" on another host than {host}" if host else ""
        raise PreconditionFailed(
            f"{listed(alone)}: no replica{where} could take over. Nothing was changed. Add one with CLUSTER REPLICATE, "
            "then run the same command again"
        )
    return plan_failovers(found.topology, first, heirs, back=back, away=away)


def _against(found: Look, moves: Sequence[Move], *, whole: bool) -> tuple[Reason, ...]:
    """Return what speaks against the moves whose turn may come first, or for a rolling one against the cluster."""
    known = by_id(found.topology)
    reasons = [
        reason
        for move in moves
        if not (move.back and move.primary in known and known[move.primary].is_replica)
        for reason in why_not(found, move.replica, primary_id=move.primary, accept_majority=True)
    ]
    return tuple(dict.fromkeys((*reasons, *(gate(found) if whole else ()))))


def _refuse_majority(ctx: Context, found: Look, moves: Sequence[Move]) -> None:
    reasons = majority_on_a_host(found.topology, pairs(moves))
    if reasons:
        raise Refused(
            f"{sentence(reasons)}. This is after {_listed_moves(found, moves)}. Nothing was changed. For a short "
            f"maintenance that may be right: run the same command with --accept-majority (environment "
            f"{ctx.environment.name})"
        )


def _listed_moves(found: Look, moves: Sequence[Move]) -> str:
    return listed((f"{found.name(move.primary)} to {found.name(move.replica)}" for move in moves), MOST_LISTED)


def _why_nothing(found: Look, first: Sequence[str], host: str) -> str:
    if not first:
        return f"no primary with slots is on {host}"
    known = by_id(found.topology)
    said = []
    for node in (known[node_id] for node_id in first if node_id in known):
        is_what = f"replica of {found.name(node.primary_id)}" if node.is_replica else "primary again"
        said.append(f"{found.name(node.id)} is a {is_what}" if node.slots or node.is_replica else
                    f"{found.name(node.id)} has no slots")  # fmt: skip
    return listed(said)
