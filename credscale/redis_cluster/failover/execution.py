"""Carry out one manual failover: make sure, ask, see the role flip, have every node confirm it (§1.8)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed, WaitTimeout
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster.nodes import by_id
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.slots import ranges_text, tag_in
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.failover.confirmation import before, unconfirmed
from credscale.redis_cluster.failover.prechecks import lasting, why_not
from credscale.redis_cluster.failover.resting import rest
from credscale.redis_cluster.measuring.measurement import ASKED, FLIPPED
from credscale.redis_cluster.measuring.writer import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.reasons import Reason
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.failover.confirmation import Before
    from credscale.redis_cluster.failover.plan import Move
    from credscale.redis_cluster.failover.resting import Rested
    from credscale.redis_cluster.measuring.probing import Writers

PATIENCE = 30.0  # for what passes by itself, such as a copy or the gossip of the failover before
CONFIRM_SECONDS = 60.0  # views agree after 1 to 8 s, up to half a node timeout (§1.3, §1.7)
POLL_SECONDS = 0.005
REPLY_SECONDS = 1.0
SETTLE_SECONDS = 0.3
MANUAL_SECONDS = 5.0  # after which the servers give a manual failover up; a setting from Valkey 9 on
AGAIN = "then run the same command again"


@dataclass(frozen=True)
class Done:
    """One failover that is confirmed; times are on the writers' clock, in seconds."""

    was: Before
    shard: str
    primary: str
    replica: str
    asked: float
    flipped: float
    confirmed: float
    epoch: int

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "from": self.primary, "to": self.replica, "slots": ranges_text(self.was.slots),
            "role_flip_ms": round((self.flipped - self.asked) * 1000, 1),
            "confirmed_ms": round((self.confirmed - self.asked) * 1000, 1),
            "epoch before": self.was.epoch, "epoch": self.epoch,
        }  # fmt: skip


def ready(ctx: Context, judge: Callable[[Look], tuple[Reason, ...]]) -> Look:
    """Wait until nothing speaks against a failover any more, and return the look that shows it.

    Args:
        ctx: the run.
        judge: returns what speaks against it.

    Raises:
        PreconditionFailed: something that does not pass by itself, or did not pass in time.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look(ctx, links=False)
        reasons = judge(found)
        if not reasons:
            return found
        if lasting(reasons) or time.monotonic() >= deadline:
            remedies = listed(dict.fromkeys(reason.action for reason in reasons))
            raise PreconditionFailed(
                f"no failover can be asked for: {sentence(reasons)}. What to do: {remedies}; {AGAIN}",
                {"problems": [reason.row() for reason in reasons]},
            )
        waited = PATIENCE - (deadline - time.monotonic())
        ctx.progress(waited, PATIENCE, "s", what="nothing speaks against the failover", seen=sentence(reasons))
        time.sleep(REPLY_SECONDS / 4)


def carry_out(ctx: Context, writers: Writers, move: Move, *, shard: str, rested: Rested, timeout: float) -> Done | None:
    """Fail one shard over, and see it confirmed; None in a dry run.

    Args:
        ctx: the run.
        writers: write meanwhile.
        move: who hands over to whom.
        shard: the address that its writers know it by.
        rested: when nodes were elected last.
        timeout: seconds from the asking to the flip of the role.

    Raises:
        PreconditionFailed: something speaks against it; nothing of this shard was changed.
        WaitTimeout: the role did not flip in time, so the servers gave it up; or not every node confirmed it.
        VerificationFailed: the new primary does not replicate what is written to it.
    """
    found = look(ctx, links=False)
    if not ctx.planning:
        found = ready(ctx, lambda seen: why_not(seen, move.replica, primary_id=move.primary, accept_majority=True))
        rest(ctx, found, move, rested)
    old, new = found.name(move.primary), found.name(move.replica)
    ends = [by_id(found.topology)[node_id] for node_id in (move.primary, move.replica)]
    slots = ranges_text(next((node.slots for node in ends if node.is_primary), ()))  # in a dry run still at the first
    target = found.asked(move.replica)
    place = target.place if target is not None else new
    was = before(found, move.primary, move.replica)
    client: Any = ctx.clients.redis_node(place, timeout=REPLY_SECONDS)
    client.ping()  # so that no connection has to be made between the asking and the first look

    def ask() -> float:
        writers.mark(ASKED, new)
        asked = writers.seconds
        client.execute_command("CLUSTER", "FAILOVER")
        return asked

    asked = ctx.apply(f"CLUSTER FAILOVER on {new}: it takes the slots {slots} over from {old}", ask)
    if asked is None:
        return None
    patience = max(timeout, _manual_seconds(found, move.primary) + 1)
    if not flips(client, patience):
        raise _given_up(ctx, move, old, new, patience)
    writers.mark(FLIPPED, new)
    rested.elected(move.replica)
    flipped = writers.seconds
    ctx.wait_until(f"all nodes confirm the failover from {old} to {new}", lambda: _confirmed(ctx, was), CONFIRM_SECONDS,
                   every=0.1)  # fmt: skip
    writers.mark("confirmed", new)
    confirmed = writers.seconds
    _canary(client, was, new)
    writers.settle(SETTLE_SECONDS)
    latest = look(ctx, links=False)
    epoch = by_id(latest.topology)[move.replica].epoch
    return Done(was, shard, old, new, asked, flipped, confirmed, epoch)


def _manual_seconds(found: Look, primary_id: str) -> float:
    seen = found.asked(primary_id)
    setting = seen.settings.get("cluster-manual-failover-timeout", "") if seen is not None else ""
    return int(setting) / 1000 if setting.isdecimal() else MANUAL_SECONDS


def flips(client: Any, timeout: float) -> bool:
    """Ask a node for its role until it is a primary; False when it is none in time."""
    from redis.exceptions import RedisError

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if client.execute_command("ROLE")[0] in ("master", "primary"):
                return True
        except (RedisError, OSError):  # it may be slow just now: the deadline decides
            pass
        time.sleep(POLL_SECONDS)
    return False


def _given_up(ctx: Context, move: Move, old: str, new: str, seconds: float) -> WaitTimeout:
    """Return what to say about a failover that did not happen: who is primary now, and what the two nodes say."""
    found = look(ctx, links=False)
    owner = by_id(found.topology).get(move.primary)
    state = "is still the primary with its slots: nothing was changed" if owner and owner.is_primary else (
        "is no longer the primary, so look at the roles before anything else"
    )  # fmt: skip
    silent = [f"{view.address}: {view.error}" for view in found.nodes if view.error]
    seen = f" Seen now: {listed(silent)}." if silent else ""
    return WaitTimeout(
        f"{new} answered OK to CLUSTER FAILOVER and did not become a primary within {seconds:.0f} s, after which the "
        f"servers give up by themselves. {old} {state}.{seen} It is not forced: that lost 18 to 94 acknowledged writes "
        f"where the primary was alive. Look at {old} and at the log of {new}; {AGAIN}"
    )


def _confirmed(ctx: Context, was: Before) -> tuple[bool, str]:
    reasons = unconfirmed(look(ctx, links=False), was)
    return not reasons, sentence(reasons)


def _canary(client: Any, was: Before, new: str) -> None:
    """Write through the new primary and count the replicas that have it.

    Raises:
        VerificationFailed: fewer than there are.
    """
    key = f"{PREFIX}:{{{tag_in(was.slots)}}}:canary"
    wanted = 1 + len(was.replicas)
    pipeline = client.pipeline(transaction=False)  # WAIT counts for the connection that wrote
    pipeline.execute_command("SET", key, was.epoch, "PX", 60_000)
    pipeline.execute_command("WAIT", wanted, int(REPLY_SECONDS * 500))
    pipeline.execute_command("UNLINK", key)
    have = pipeline.execute()[1]
    if have < wanted:
        raise VerificationFailed(
            f"{new} took over, but {have} of {wanted} replicas acknowledged a write within {REPLY_SECONDS / 2} s. "
            "Look at their links with: invoke cluster-status"
        )
