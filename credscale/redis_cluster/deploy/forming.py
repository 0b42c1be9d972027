"""Make a cluster of running nodes: the moves of ``plan_creation``, one kind after the other, each after a fresh look.

A cluster is ready about 2.0 s after the start of its processes, which is as early as a server serves (it refuses for
2 s, CLUSTER_WRITABLE_DELAY, §1.3), whatever its node timeout; by gossip alone it takes up to 12 s. Nodes that have
been up for longer wait for the node timeout, at most 5 s, from when they get their slots; that timeout is not lowered
for the time being, because a kill would leave it low.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed, WaitTimeout
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.reasons import Reason, sentence
from credscale.redis_cluster.cluster.views import look_at
from credscale.redis_cluster.deploy.moves import make
from credscale.redis_cluster.deploy.plan import (
    GOSSIP_RULES,
    KNOCK,
    ORDER,
    REPLICATE,
    Move,
    Wanted,
    joined,
    plan_creation,
    problems_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from credscale.redis_cluster.cluster.views import Connect, Look

    Apply = Callable[..., Any]  # like Context.apply
    Wait = Callable[[str, Callable[[], tuple[bool, str]], float], object]  # like Context.wait_until

POLL_SECONDS = 0.03


def form_cluster(
    connect: Connect,
    addresses: Sequence[str],
    *,
    replicas: int,
    timeout: float,
    hosts: Mapping[str, str] | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Make a cluster without a run, as ``create_cluster`` does; a half-made one is completed, a ready one left alone.

    Args:
        connect: returns the client of an address; called by several threads.
        addresses: ``host:port`` of every node.
        replicas: how many each primary has at least.
        timeout: seconds for the nodes to join, and again until the cluster is ready.
        hosts: by address, what fails together; None for what has one IP address.
        note: told what is worth knowing, in sentences.

    Raises:
        PreconditionFailed: the nodes must not be touched; nothing was changed.
        VerificationFailed: a node refused a move, or the nodes changed meanwhile; doing it again goes on.
        ConnectFailed: a node ceased to answer meanwhile.
        WaitTimeout: the nodes did not join, or are not ready; the message says which and why.
    """

    def apply(_what: str, func: Callable[..., Any], *args: Any) -> Any:
        return func(*args)

    def see() -> Look:
        return look_at(wanted.addresses, connect, discover=False)

    wanted = Wanted(tuple(dict.fromkeys(addresses)), replicas, hosts or {})
    form(wanted, connect, see, apply, _wait, note or (lambda _: None), timeout=timeout)


def _wait(what: str, probe: Callable[[], tuple[bool, str]], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        reached, seen = probe()
        if reached:
            return
        if time.monotonic() >= deadline:
            raise WaitTimeout(f"waited {timeout:.0f} s for: {what}. Seen last: {seen}")
        time.sleep(POLL_SECONDS)


def form(
    wanted: Wanted,
    connect: Connect,
    look: Callable[[], Look],
    apply: Apply,
    wait: Wait,
    note: Callable[[str], None],
    *,
    timeout: float,
) -> tuple[int, Look]:
    """Make what is missing of a cluster and wait until it is ready.

    Args:
        wanted: the cluster.
        connect: returns the client of an address.
        look: looks at its nodes and no others.
        apply: makes a change, as ``Context.apply``.
        wait: waits, as ``Context.wait_until``.
        note: told what is worth knowing.
        timeout: seconds for each of the waits.

    Returns:
        how many moves were made, and the last look, at a cluster that was ready unless nothing was waited for.

    Raises:
        PreconditionFailed: the nodes must not be touched.
        VerificationFailed: a move was refused, or the nodes changed meanwhile.
        ConnectFailed: a node ceased to answer meanwhile.
        WaitTimeout: the nodes did not join, did not agree, or are not ready.
    """
    made = 0
    found = look()
    for kind in ORDER if _moves(found, wanted, made) else ():
        if kind == REPLICATE:
            _until(wait, "every node knows every other", look, joined, timeout)
        if kind == KNOCK:
            _until(wait, "all nodes see the same cluster", look, gossiping, timeout)
        found = look()
        for move in _moves(found, wanted, made):
            if move.kind == kind:
                left_out = apply(move.text, make, connect, found, move)
                made += 1
                if left_out:
                    note(f"our user may not PUBLISH on {listed(left_out)}, so that their bus shows a few seconds later")

    def lacking(seen: Look) -> tuple[Reason, ...]:
        return gate(seen, nodes=len(wanted.addresses))

    ready = _until(wait, "the cluster is ready on every node", look, lacking, timeout)
    return made, ready or found


def gossiping(found: Look) -> tuple[Reason, ...]:
    """Return what nodes that have met have not told each other yet."""
    return tuple(reason for reason in gate(found) if reason.rule in {"answer", *GOSSIP_RULES})


def _until(
    wait: Wait, what: str, look: Callable[[], Look], missing: Callable[[Look], tuple[Reason, ...]], timeout: float
) -> Look | None:
    """Wait; return the look that showed it, or None where a plan waits for nothing."""
    seen: Look | None = None

    def probe() -> tuple[bool, str]:
        nonlocal seen
        seen = look()
        reasons = missing(seen)
        return not reasons, sentence(reasons)

    wait(what, probe, timeout)
    return seen


def _moves(found: Look, wanted: Wanted, made: int) -> tuple[Move, ...]:
    """Plan, and stop where anything is found that must not be touched."""
    problems = problems_of(found, wanted)
    if not problems:
        return plan_creation(found, wanted)
    told = "; ".join(f"{each.text} ({each.action})" for each in _grouped(problems))
    if made:
        raise VerificationFailed(
            f"the cluster is half made, and cannot be completed now: {told}. {made} changes were made and stay; run "
            "the same command again afterwards"
        )
    raise PreconditionFailed(f"the cluster cannot be created: {told}. Nothing was changed")


def _grouped(problems: Sequence[Reason]) -> list[Reason]:
    """Return problems with those that only differ in their place as one."""
    places: dict[tuple[str, str], list[str]] = {}
    for each in problems:
        places.setdefault((each.what, each.action), []).append(each.where)
    return [Reason("failed", listed(where, 6), "", what, action) for (what, action), where in places.items()]
