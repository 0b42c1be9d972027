"""The steps that move slots: finish what is open, then rebalance."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.core.phrases import listed
from credscale.core.step import Finding, step
from credscale.redis_cluster.cluster.nodes import primaries
from credscale.redis_cluster.cluster.slots import count, ranges_of_slots, ranges_text
from credscale.redis_cluster.resharding.atomic import is_atomic, running
from credscale.redis_cluster.resharding.carrying_out import Progress, carry_out, guarded, refuse_full
from credscale.redis_cluster.resharding.contents import counts
from credscale.redis_cluster.resharding.ends import (
    Limits,
    end,
    ends,
    find_member,
    require_ready,
    route,
    settle,
    wait_ready,
)
from credscale.redis_cluster.resharding.moving import tell
from credscale.redis_cluster.resharding.plan import moved, plan_rebalance
from credscale.redis_cluster.resharding.repair import (
    Repair,
    Way,
    decide,
    misled,
    open_slots,
    owners_seen,
    slot_facts,
)
from credscale.redis_cluster.resharding.routes import Pace, other_databases

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.resharding.plan import SlotMove

TIMEOUT = 60.0
THRESHOLD = 2.0
MOST_WEIGHT = 1000.0


@step()
def repair_open_slots(ctx: Context, *, max_key_mb: int = 64, prefer_owner: bool = False) -> Finding:
    """Finish or close slots that a broken run left on their way; no key is lost.

    A slot of which another primary holds keys already is finished in that direction, as is one that still is to leave;
    one of which only its owner holds keys is closed. What cannot be decided without a risk is left, with the
    reason: a slot without an owner, a dead node that may hold keys, keys on a third node. Redis 6.2 and later; a slot
    migration of Valkey 9 that still runs is waited for.

    Args:
        max_key_mb: the largest key that may hold up its node while it moves.
        prefer_owner: of a key with two values, after a failover in mid-move, keep the owner's.
    """
    found = settle(ctx)
    _wait_for_servers(ctx, found)
    for (node, owner), untold in misled(found).items():
        text = listed(ranges_text(ranges_of_slots(untold)).split())
        what = f"tell {found.name(node)}, to which slots {text} were coming, that {found.name(owner)} owns them now"
        ctx.apply(what, tell, end(ctx, found, node), untold, "NODE", owner)
    repairs = _decide(ctx, found)
    left = [f"slot {each.slot}: {each.why}" for each in repairs if each.way is Way.LEAVE]
    rows = [_row(found, each) for each in repairs]
    pace = Pace()
    for repair, slots in _alike(repairs):
        text = listed(ranges_text(ranges_of_slots(slots)).split())
        if repair.way is Way.CLOSE:
            names = listed(found.name(node) for node in repair.nodes)
            ctx.apply(f"close slots {text} on {names}, where none of their keys is", _close, ctx, found, repair, slots)
        elif repair.way is Way.FINISH:
            limits = Limits(max_key_mb, prefer_owner)
            ctx.apply(
                f"finish the move of slots {text} from {found.name(repair.source)} to {found.name(repair.target)}",
                _finish, ctx, found, repair, slots, limits, pace,
            )  # fmt: skip
    if left:
        raise VerificationFailed(
            f"{len(left)} open slots cannot be repaired without a risk: {'; '.join(left[:3])}. The other "
            f"{len(repairs) - len(left)} were. Do what is said, then run it again",
            {"rows": rows},
        )
    if not repairs:
        return Finding("no slot is open")
    if not ctx.dry_run:
        after = settle(ctx)
        if open_slots(after.topology):
            raise VerificationFailed(
                f"slots are still open: {listed(map(str, open_slots(after.topology)))}. Run it again"
            )
    return Finding(f"{len(repairs)} open slots: {_counted(repairs)}", {"rows": rows})


def _wait_for_servers(ctx: Context, found: Look) -> None:
    movers = [each for each in found.answering if is_atomic(each.server) and each.me is not None and each.me.is_primary]

    def idle() -> tuple[bool, str]:
        busy = [f"{node.address}: {listed(running(end(ctx, found, node.id)))}" for node in movers]
        busy = [text for text in busy if not text.endswith(": ")]
        return not busy, "; ".join(busy)

    if movers:
        ctx.wait_until("the servers' own slot migrations end", idle, 10 * TIMEOUT)


def _decide(ctx: Context, found: Look) -> list[Repair]:
    slots = open_slots(found.topology)
    keys: dict[int, dict[str, int]] = {slot: {} for slot in slots}
    for node_id, each in ends(ctx, found).items() if slots else ():
        for slot, number in zip(slots, counts(each, slots), strict=True):
            keys[slot][node_id] = number
    owners = {slot: next(iter(owners_seen(found, slot)), "") for slot in slots}
    databases = [node.id for node in found.answering if other_databases(node.info)]
    return [decide(each) for each in slot_facts(found.topology, keys, owners, databases)]


def _alike(repairs: list[Repair]) -> list[tuple[Repair, list[int]]]:
    """Return slots together that are treated alike."""

    def kind(repair: Repair) -> tuple[Any, ...]:
        return repair.way, repair.source, repair.target, repair.nodes

    groups = [list(group) for _, group in groupby(sorted(repairs, key=kind), key=kind)]
    return [(group[0], [each.slot for each in group]) for group in groups]


def _row(found: Look, repair: Repair) -> dict[str, Any]:
    return {
        "slot": repair.slot, "done": repair.way.value,
        "from": found.name(repair.source) if repair.source else None,
        "to": found.name(repair.target) if repair.target else None,
        "closed on": listed(found.name(node) for node in repair.nodes), "why left": repair.why,
    }  # fmt: skip


def _counted(repairs: list[Repair]) -> str:
    finished = sum(each.way is Way.FINISH for each in repairs)
    return f"{finished} moved on to where they were going, {len(repairs) - finished} closed where they are"


def _close(ctx: Context, found: Look, repair: Repair, slots: list[int]) -> None:
    for node_id in repair.nodes:
        tell(end(ctx, found, node_id), slots, "STABLE")


def _finish(ctx: Context, found: Look, repair: Repair, slots: list[int], limits: Limits, pace: Pace) -> None:
    way = route(ctx, found, repair.source, repair.target, limits)
    for note in guarded(way, slots, pace, Progress(ctx, len(slots)), opened=True):
        ctx.note(note)


@step()
def rebalance_slots(
    ctx: Context,
    *,
    weights: str = "",
    use_empty: bool = False,
    threshold: float = THRESHOLD,
    max_key_mb: int = 64,
    timeout: float = TIMEOUT,
) -> Finding:
    """Move slots with their keys until every primary owns its share, while clients go on.

    As few slots move as possible, in pieces of 256. What one MIGRATE takes along is fitted to 25 ms, for which its node
    serves nobody else. A key moves whole, so big ones are refused first. Valkey 9 moves slots by itself, at once.

    Args:
        weights: such as "redis1:7000=2 redis2:7000=0": shares other than 1; 0 takes all slots away; "" for none
        use_empty: also give slots to primaries that own none.
        threshold: percent by which some primary must be off its share, else nothing moves.
        max_key_mb: the largest key that may hold up its node while it moves.
        timeout: seconds to wait for all nodes to agree afterwards.

    Raises:
        EnvironmentInvalid: weights that are none.
    """
    found = settle(ctx)
    require_ready(ctx, found, "invoke redis-rebalance")
    require_closed(ctx, found)
    shares = parse_weights(found, weights)
    try:
        moves = plan_rebalance(found.topology, shares, use_empty=use_empty, threshold=threshold)
    except ValueError as error:
        raise EnvironmentInvalid(f"weights: {error}") from None
    if not moves:
        return Finding(_nothing(found, threshold), {"rows": rows_of(found, moves)})
    refuse_full(found, moves)
    pace = Pace()
    carry_out(ctx, found, moves, Limits(max_key_mb), pace)
    total = sum(count(move.slots) for move in moves)
    if ctx.dry_run:
        return Finding(f"{total} slots would move", {"rows": rows_of(found, moves)})
    after = wait_ready(ctx, timeout)
    left = plan_rebalance(after.topology, shares, use_empty=use_empty, threshold=threshold)
    if left:
        raise VerificationFailed(
            f"{sum(count(move.slots) for move in left)} slots are not where the plan wanted them: somebody else moves "
            "slots too. Run it again"
        )
    return Finding(f"{total} slots moved{paced(pace)}", {"rows": rows_of(found, moves)})


def paced(pace: Pace) -> str:
    """Return how keys moved, as the end of a sentence."""
    if not pace.keys:
        return ""
    return f" with {pace.keys:,} keys; the longest MIGRATE held its node for {1000 * pace.longest:.0f} ms"


def _nothing(found: Look, threshold: float) -> str:
    owners = [count(node.slots) for node in primaries(found.topology)]
    empty = sum(node.is_primary and not node.slots for node in found.topology)
    more = f"; {empty} primaries own none and take part only with --use-empty or a weight" if empty else ""
    return (
        f"no primary is more than {threshold:g}% off its share ({min(owners):,} to {max(owners):,} slots), so nothing "
        f"was moved{more}"
    )


def rows_of(found: Look, moves: tuple[SlotMove, ...]) -> list[dict[str, Any]]:
    """Return each primary's slots before and after moves."""
    after = moved(found.topology, moves)
    nodes = sorted((node for node in found.topology if node.is_primary), key=lambda node: found.name(node.id))
    return [{"node": found.name(node.id), "slots": count(node.slots), "slots after": after[node.id]} for node in nodes]


def require_closed(ctx: Context, found: Look) -> None:
    """Refuse to move slots while others are open.

    Raises:
        PreconditionFailed: some are.
    """
    slots = open_slots(found.topology)
    ctx.require(
        not slots,
        PreconditionFailed(
            f"slots are open: {listed(map(str, slots))}. Nothing was changed by this step. If nobody moves slots now, "
            "finish them with: invoke redis.repair-open-slots"
        ),
    )


def parse_weights(found: Look, text: str) -> dict[str, float]:
    """Understand weights by address, and return them by node id.

    Raises:
        EnvironmentInvalid: not written so, a number that makes no sense, or an address of no primary.
    """
    weights: dict[str, float] = {}
    for part in text.replace(",", " ").split():
        address, sign, number = part.rpartition("=")
        node = find_member(found, address) if sign else None
        if node is None or not node.is_primary:
            known = listed(sorted(found.name(each.id) for each in found.topology if each.is_primary))
            raise EnvironmentInvalid(f"weights: {part!r} names no primary. Write host:port=number; primaries: {known}")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= MOST_WEIGHT:
            raise EnvironmentInvalid(f"weights: {number!r} of {address} is no number from 0 to {MOST_WEIGHT:.0f}")
        weights[node.id] = weight
    return weights
