"""Who becomes a primary, who replicates whom, and which slots each primary gets. Pure.

redis-cli swaps replicas at random, only warns, and never looks at how many primaries share a host (§1.1). Here every
exchange of two nodes is tried, roles included, and the result is the same each time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.reasons import Reason
from credscale.redis_cluster.cluster.slots import Ranges, count, overlap, split_evenly, subtract, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

LEAST_PRIMARIES = 3
Score = tuple[int, ...]


@dataclass(frozen=True)
class Seat:
    """A node and its part in the cluster; before it is placed, what it is already.

    Args:
        address: of the node.
        host: what fails together with it.
        primary: the address of the node it replicates; empty for a primary and for one without a part.
        slots: which it owns.
    """

    address: str
    host: str
    primary: str = ""
    slots: Ranges = ()


def number_of_primaries(nodes: int, replicas: int) -> int:
    """Return how many primaries so many nodes make; those that are left over become further replicas."""
    return nodes // (replicas + 1)


def place(found: Sequence[Seat], replicas: int) -> tuple[Seat, ...]:
    """Give every node its part, in their order.

    Nodes that own slots stay primaries with them, replicas stay where they are. As far as that allows, no host holds so
    many primaries that the rest is no majority, no replica is on its primary's host, and no two replicas of one primary
    share a host, in this order of importance. Missing slots are split evenly, each given to one primary only. What is
    there already and fits to what fresh nodes would get leads to just that.

    Args:
        found: the nodes; at most ``number_of_primaries`` of them own slots or are replicated.
        replicas: how many each primary has at least.
    """
    number = number_of_primaries(len(found), replicas)
    fresh = _arrange([Seat(each.address, each.host) for each in found], number)
    if all(_fits(old, new) for old, new in zip(found, fresh, strict=True)):
        return fresh
    return _arrange(found, number)


def _fits(old: Seat, new: Seat) -> bool:
    return old.primary in ("", new.primary) and not (old.slots and new.primary) and not subtract(old.slots, new.slots)


def _arrange(found: Sequence[Seat], number: int) -> tuple[Seat, ...]:
    first = _with_replicas(found, _choose_primaries(found, number))
    best = _improve(first, movable=[not (_is_primary(each, found) or each.primary) for each in found])
    return _with_slots(best)


def _is_primary(seat: Seat, found: Sequence[Seat]) -> bool:
    """Tell whether a node is a primary already: an empty one that is replicated counts."""
    return bool(seat.slots) or any(each.primary == seat.address for each in found)


def _choose_primaries(found: Sequence[Seat], number: int) -> set[str]:
    """Take nodes from the host with the fewest primaries, of these the one with the most nodes left, in turn."""
    chosen = {each.address for each in found if _is_primary(each, found)}
    while len(chosen) < number:
        free = [each for each in found if each.address not in chosen and not each.primary]
        held = Counter(each.host for each in found if each.address in chosen)
        left = Counter(each.host for each in free)
        chosen.add(min(free, key=lambda each: (held[each.host], -left[each.host])).address)
    return chosen


def _with_replicas(found: Sequence[Seat], chosen: set[str]) -> list[Seat]:
    """Give each replica without a primary the one with the fewest replicas, the best one for its host among these."""
    owners = [each for each in found if each.address in chosen]
    places = {owner.address: [each.host for each in found if each.primary == owner.address] for owner in owners}
    free: dict[str, list[Seat]] = {}
    for each in found:
        if each.address not in chosen and not each.primary:
            free.setdefault(each.host, []).append(each)
    given: dict[str, str] = {}
    while free:
        fewest = min(map(len, places.values()))
        host, owner = min(
            ((host, owner) for owner in owners if len(places[owner.address]) == fewest for host in free),
            key=lambda pair: (pair[0] == pair[1].host, pair[0] in places[pair[1].address], -len(free[pair[0]])),
        )
        given[free[host].pop(0).address] = owner.address
        places[owner.address].append(host)
        free = {name: left for name, left in free.items() if left}
    return [replace(each, primary=given.get(each.address, each.primary)) for each in found]


def _improve(seats: list[Seat], movable: Sequence[bool]) -> list[Seat]:
    """Take the first step to a better placement, again and again, until there is none."""
    free = [number for number, may in enumerate(movable) if may]
    better: list[Seat] | None = seats
    while better is not None:
        seats, best = better, score(better)
        steps = _steps(seats, free) if any(best[:3]) else ()
        better = next((each for each in steps if score(each) < best), None)
    return seats


def _steps(seats: Sequence[Seat], free: Sequence[int]) -> Iterator[list[Seat]]:
    """Yield what one step leads to: two nodes exchange their parts, or a replica too many goes to another primary."""
    for one, other in combinations(free, 2):
        if seats[one].host != seats[other].host:
            yield _exchanged(seats, one, other)
    sizes = Counter({each.address: 0 for each in seats if not each.primary})
    sizes.update(each.primary for each in seats if each.primary)
    if len(set(sizes.values())) == 1:
        return
    for number in (each for each in free if seats[each].primary):
        for owner, size in sizes.items():
            if size < sizes[seats[number].primary]:
                changed = list(seats)
                changed[number] = replace(seats[number], primary=owner)
                yield changed


def _exchanged(seats: Sequence[Seat], one: int, other: int) -> list[Seat]:
    """Exchange the parts of two nodes; who replicated the one replicates the other, also if that was the other."""
    names = {seats[one].address: seats[other].address, seats[other].address: seats[one].address}
    changed = [replace(each, primary=names.get(each.primary, each.primary)) for each in seats]
    first, second = changed[one], changed[other]
    changed[one], changed[other] = replace(first, primary=second.primary), replace(second, primary=first.primary)
    return changed


def score(seats: Iterable[Seat]) -> Score:
    """Return how bad a placement is; lower is better.

    Returns:
        hosts without which the other primaries are no majority; replicas on their primary's host; replicas that share
        a host with another one of the same primary; and, to choose among equals, how unevenly hosts hold primaries.
    """
    everyone = list(seats)
    host = {each.address: each.host for each in everyone}
    held = Counter(each.host for each in everyone if not each.primary)
    number = held.total()
    places = Counter((each.primary, each.host) for each in everyone if each.primary)
    own = sum(times for (primary, place_), times in places.items() if host[primary] == place_)
    shared = sum(times - 1 for times in places.values())
    majorities = sum(each >= number - number // 2 for each in held.values())
    return majorities, own, shared, sum(each * each for each in held.values())


def _with_slots(seats: Sequence[Seat]) -> tuple[Seat, ...]:
    """Give each primary one of the equal shares, less what others own: the one it has most of, then the next free."""
    owners = [each for each in seats if not each.primary]
    shares = split_evenly(len(owners))
    pairs = [(seat, share) for seat in range(len(owners)) for share in range(len(shares))]
    pairs.sort(key=lambda pair: -count(overlap(owners[pair[0]].slots, shares[pair[1]])))
    given: dict[int, int] = {}
    for seat, share in pairs:
        if seat not in given and share not in given.values():
            given[seat] = share
    owned = union(*(each.slots for each in owners))
    slots = {
        owners[seat].address: union(owners[seat].slots, subtract(shares[share], owned)) for seat, share in given.items()
    }
    return tuple(replace(each, slots=slots.get(each.address, ())) for each in seats)


def risks(seats: Sequence[Seat], *, local: bool = False) -> tuple[Reason, ...]:
    """Return what the loss of one host would do to a placement.

    Args:
        seats: as placed.
        local: whether it is all on the loopback of one machine; then these are notes.

    Returns:
        ``majority`` failed where one host of several holds too many primaries; the others are warnings.
    """
    names = list(dict.fromkeys(each.host for each in seats))
    if len(names) == 1:
        return (
            Reason("note" if local else "warn", names[0], "one-host", "it holds every node: its loss is the loss of "
                   "everything", "spread them over at least 3 hosts"),
        )  # fmt: skip
    held = Counter(each.host for each in seats if not each.primary)
    number = held.total()
    many = [name for name in names if held[name] >= number - number // 2]
    found = [
        Reason("note" if local else "failed", name, "majority", f"it would hold {held[name]} of {number} primaries; "
               "without it the others are no majority and promote nobody",
               "spread the nodes over at least 3 hosts, none with half of the primaries")
        for name in many
    ]  # fmt: skip
    host = {each.address: each.host for each in seats}
    for owner in (each for each in seats if not each.primary):
        attached = [each for each in seats if each.primary == owner.address]
        if attached and all(each.host == owner.host for each in attached):
            found.append(
                Reason("note" if local else "warn", owner.address, "anti-affinity", "all its replicas are on its own "
                       f"host {host[owner.address]}", "put a node for them on another host")
            )  # fmt: skip
    return tuple(found)


def few_replicas(attached: Mapping[tuple[str, str], Sequence[str]], least: int) -> tuple[Reason, ...]:
    """Return which primaries have too few replicas, and which replica of another one could be theirs.

    Args:
        attached: the addresses of the replicas, by the address and the node id of their primary.
        least: how many each primary shall have at least.
    """
    spare = [each for replicas in attached.values() for each in replicas[least:]]
    found = []
    for (address, node_id), replicas in attached.items():
        if len(replicas) < least:
            action = f"add one: invoke redis-add-node --node HOST:PORT --replica-of {address}"
            if spare:
                other = spare.pop(0)
                action = (
                    f"let {other}, which another primary can spare, replicate it: CLUSTER REPLICATE {node_id} there"
                )
            seen = f"it has {len(replicas)} replicas, expected at least {least}"
            found.append(Reason("failed", address, "replica-count", seen, action))
    return tuple(found)
