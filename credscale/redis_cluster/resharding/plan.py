"""Which slots move from where to where: a pure function of who owns what."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.nodes import primaries
from credscale.redis_cluster.cluster.slots import SLOTS, Range, Ranges, count, ranges_of, subtract

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from credscale.redis_cluster.cluster.nodes import Node

CHUNK = 256


@dataclass(frozen=True)
class SlotMove:
    """Slots that go from one primary to another, both by their ids."""

    slots: Ranges
    source: str
    target: str


def plan_rebalance(
    topology: Iterable[Node], weights: Mapping[str, float], *, use_empty: bool = False, threshold: float = 0.0
) -> tuple[SlotMove, ...]:
    """Return the moves after which every primary owns its share of the slots.

    Invariant: each slot is in at most one move, whose source owns it; a source never gets below its share and a target
    never above it, both rounded; so no order of the moves is better than another. Afterwards every primary is within
    one slot of its share, and no plan that achieves this moves fewer slots. Planning again after any number of moves
    with threshold 0 gives the rest of them, by number of slots: it ends in the same counts, and in sum nothing is moved
    twice.

    Args:
        topology: every node; a primary without slots takes part only if asked for, or if it has a weight above 0.
        weights: by node id, 1 where none is given; 0 takes all slots away.
        use_empty: whether primaries without slots take part.
        threshold: percent of its share by which some primary must be off, or nothing is moved (redis-cli's is 2).

    Raises:
        ValueError: no primary with a weight above 0 is left.
    """
    owned = _taking_part(topology, weights, use_empty=use_empty)
    shares = _shares({node_id: weights.get(node_id, 1.0) for node_id in owned})
    have = {node_id: count(slots) for node_id, slots in owned.items()}
    if not any(_is_off(have[each], shares[each], threshold) for each in owned):
        return ()
    return _moves(owned, _targets(have, shares))


def _taking_part(topology: Iterable[Node], weights: Mapping[str, float], *, use_empty: bool) -> dict[str, Ranges]:
    nodes = [node for node in topology if node.is_primary]
    wanted = [node for node in nodes if node.slots or use_empty or weights.get(node.id, 0.0) > 0]
    return {node.id: node.slots for node in sorted(wanted, key=lambda node: node.id)}


def _shares(weights: Mapping[str, float]) -> dict[str, Fraction]:
    exact = {node_id: Fraction(str(weight)) for node_id, weight in weights.items()}
    total = sum(exact.values())
    if not total:
        raise ValueError("no primary with a weight above 0 is left to own the slots")
    return {node_id: SLOTS * weight / total for node_id, weight in exact.items()}


def _is_off(have: int, share: Fraction, threshold: float) -> bool:
    if abs(have - share) < 1 and share:
        return False  # nearer than one slot there is nothing to gain
    return abs(have - share) * 100 > Fraction(str(threshold)) * share


def _targets(have: Mapping[str, int], shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Round the shares so that they sum up, up where that saves a move; by id, so that planning again agrees."""
    targets = {node_id: int(share) for node_id, share in shares.items()}
    spare = SLOTS - sum(targets.values())
    broken = [node_id for node_id in shares if shares[node_id] != targets[node_id]]
    broken.sort(key=lambda node_id: (have[node_id] <= targets[node_id], node_id))
    for node_id in broken[:spare]:
        targets[node_id] += 1
    return targets


def _moves(owned: Mapping[str, Ranges], targets: Mapping[str, int]) -> tuple[SlotMove, ...]:
    """Pair the largest surplus with the largest need; each pair gets as few ranges as can be."""
    left = dict(owned)
    surplus = {each: count(owned[each]) - targets[each] for each in owned if count(owned[each]) > targets[each]}
    needs = {each: targets[each] - count(owned[each]) for each in owned if count(owned[each]) < targets[each]}
    moves = []
    for target in sorted(needs, key=lambda each: (-needs[each], each)):
        while needs[target]:
            source = min(surplus, key=lambda each: (-surplus[each], each))
            number = min(needs[target], surplus[source])
            slots = take(left[source], number)
            left[source] = subtract(left[source], slots)
            moves.append(SlotMove(slots, source, target))
            needs[target] -= number
            surplus[source] -= number
            if not surplus[source]:
                del surplus[source]
    return tuple(moves)


def take(ranges: Ranges, number: int) -> Ranges:
    """Return so many of the slots in few ranges: part of the smallest range that has enough, else whole big ones."""
    taken: list[Range] = []
    rest = sorted(ranges, key=lambda each: (each[1] - each[0], each))
    while number and rest:
        fitting = [each for each in rest if each[1] - each[0] + 1 >= number]
        chosen = fitting[0] if fitting else rest[-1]
        rest.remove(chosen)
        first, last = chosen
        taken.append((first, min(last, first + number - 1)))
        number -= taken[-1][1] - first + 1
    return ranges_of(taken)


def plan_drain(topology: Sequence[Node], node_id: str) -> tuple[SlotMove, ...]:
    """Return the moves that take all slots from a primary; the others come as near to each other as these allow.

    Invariant: only slots of that primary move, each exactly once. Planning again after any number of moves ends in the
    same counts.

    Args:
        topology: every node; only primaries that own slots receive any.
        node_id: of the primary; one without slots gives no moves.

    Raises:
        ValueError: there is no other primary to receive them.
    """
    owners = {node.id: node.slots for node in sorted(primaries(topology), key=lambda node: node.id)}
    if node_id not in owners:
        return ()
    have = {each: count(slots) for each, slots in owners.items() if each != node_id}
    if not have:
        raise ValueError("there is no other primary to receive the slots")
    return _moves(owners, _filled(have, count(owners[node_id])) | {node_id: 0})


def _filled(have: Mapping[str, int], number: int) -> dict[str, int]:
    """Pour so many slots over the counts, the lowest first, like water; the odd ones go by id."""
    level = max(range(SLOTS + 1), key=lambda each: (_poured(have, each) <= number, each))
    filled = {each: max(count_now, level) for each, count_now in have.items()}
    odd = number - _poured(have, level)
    for each in sorted(node_id for node_id in have if have[node_id] <= level)[:odd]:
        filled[each] += 1
    return filled


def _poured(have: Mapping[str, int], level: int) -> int:
    return sum(max(0, level - each) for each in have.values())


def chunks(moves: Iterable[SlotMove], most: int = CHUNK) -> Iterator[SlotMove]:
    """Yield the same moves in pieces of so many slots at most, one change each."""
    for move in moves:
        left = move.slots
        while left:
            piece = _first(left, most)
            left = subtract(left, piece)
            yield SlotMove(piece, move.source, move.target)


def _first(ranges: Ranges, number: int) -> Ranges:
    found: list[Range] = []
    for first, last in ranges:
        if not number:
            break
        found.append((first, min(last, first + number - 1)))
        number -= found[-1][1] - first + 1
    return tuple(found)


def moved(topology: Iterable[Node], moves: Iterable[SlotMove]) -> dict[str, int]:
    """Return how many slots each primary owns after the moves, by id."""
    counts: dict[str, int] = defaultdict(int, {node.id: count(node.slots) for node in topology if node.is_primary})
    for move in moves:
        counts[move.source] -= count(move.slots)
        counts[move.target] += count(move.slots)
    return dict(counts)
