"""Plans move as few slots as can be, end where they must, and go on after an interruption at any move."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.redis_cluster.cluster.nodes import Node
from credscale.redis_cluster.cluster.slots import ALL, SLOTS, count, overlap, ranges_of, subtract, union
from credscale.redis_cluster.resharding.plan import SlotMove, chunks, moved, plan_drain, plan_rebalance, take
from tests.redis_cluster.fakes import node_id, topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from credscale.redis_cluster.cluster.slots import Ranges


def primary(number: int, slots: Ranges) -> Node:
    return Node(node_id(number), "10.0.0.1", 7000 + number, 17000 + number, ("master",), slots=slots)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Node, ...]:
    """Return primaries that own every slot, in any number of pieces; some own none."""
    size = draw(st.integers(2, 7))
    cuts = sorted(draw(st.sets(st.integers(1, SLOTS - 1), max_size=12)))
    pieces = list(zip([0, *cuts], [*(cut - 1 for cut in cuts), SLOTS - 1], strict=True))
    owners = [draw(st.integers(0, size - 1)) for _ in pieces]
    return tuple(
        primary(number, ranges_of(piece for piece, owner in zip(pieces, owners, strict=True) if owner == number))
        for number in range(size)
    )


def after(nodes: Sequence[Node], moves: Iterable[SlotMove]) -> tuple[Node, ...]:
    """Return the topology after moves, each of which its source must be able to make."""
    owned = {node.id: node.slots for node in nodes}
    for move in moves:
        assert move.source != move.target
        assert move.slots
        assert overlap(owned[move.source], move.slots) == move.slots
        owned[move.source] = subtract(owned[move.source], move.slots)
        owned[move.target] = union(owned[move.target], move.slots)
    return tuple(replace(node, slots=owned[node.id]) for node in nodes)


def total(moves: Iterable[SlotMove]) -> int:
    return sum(count(move.slots) for move in moves)


WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.0, 2.0, 3.7])


@settings(max_examples=150, deadline=None)
@given(clusters(), st.lists(WEIGHTS, min_size=7, max_size=7), st.data())
def test_rebalance(nodes: tuple[Node, ...], numbers: list[float], data: st.DataObject) -> None:
    weights = {node.id: weight for node, weight in zip(nodes, numbers, strict=False)}
    if not any(weights.values()):
        weights[nodes[0].id] = 1.0
    plan = plan_rebalance(nodes, weights, use_empty=True)
    assert plan == plan_rebalance(nodes, weights, use_empty=True)
    done = after(nodes, plan)
    assert union(*(node.slots for node in done)) == ALL
    assert sum(count(node.slots) for node in done) == SLOTS
    whole = sum(Fraction(str(weight)) for weight in weights.values())
    shares = {node_id: SLOTS * Fraction(str(weight)) / whole for node_id, weight in weights.items()}
    if plan:
        assert all(abs(count(node.slots) - shares[node.id]) < 1 for node in done)
        # Nobody can do with less: every rounding of the shares asks for at least this.
        least = sum(max(0, count(node.slots) - -(-shares[node.id] // 1)) for node in nodes)
        surplus = sum(max(0, count(node.slots) - count(end.slots)) for node, end in zip(nodes, done, strict=True))
        assert total(plan) == surplus
        assert least <= total(plan) <= least + len(nodes)
    pieces = list(chunks(plan))
    assert total(pieces) == total(plan)
    assert all(count(piece.slots) <= 256 for piece in pieces)
    stop = data.draw(st.integers(0, len(pieces)))
    half = after(nodes, pieces[:stop])
    rest = plan_rebalance(half, weights, use_empty=True)
    assert [count(node.slots) for node in after(half, rest)] == [count(node.slots) for node in done]
    assert total(pieces[:stop]) + total(rest) == total(plan)
    assert moved(nodes, plan) == {node.id: count(node.slots) for node in done}


@settings(max_examples=100, deadline=None)
@given(clusters(), st.data())
def test_drain(nodes: tuple[Node, ...], data: st.DataObject) -> None:
    owners = [node for node in nodes if node.slots]
    leaving = data.draw(st.sampled_from(owners))
    if len(owners) == 1:
        with pytest.raises(ValueError, match="no other primary"):
            plan_drain(nodes, leaving.id)
        return
    plan = plan_drain(nodes, leaving.id)
    assert {move.source for move in plan} == {leaving.id}
    assert union(*(move.slots for move in plan)) == leaving.slots
    assert total(plan) == count(leaving.slots)
    done = after(nodes, plan)
    grown = [count(end.slots) for node, end in zip(nodes, done, strict=True) if count(end.slots) > count(node.slots)]
    rest = [count(node.slots) for node in done if node.id != leaving.id and node.slots]
    assert max(grown) - min(rest) <= 1  # whoever received is no fuller than the others
    pieces = list(chunks(plan, 100))
    stop = data.draw(st.integers(0, len(pieces)))
    half = after(nodes, pieces[:stop])
    again = after(half, plan_drain(half, leaving.id))
    assert [count(node.slots) for node in again] == [count(node.slots) for node in done]


def test_new_primary_gets_one_range_of_each() -> None:
    nodes = (*topology(3, 0), primary(9, ()))
    assert plan_rebalance(nodes, {}) == ()
    plan = plan_rebalance(nodes, {}, use_empty=True)
    assert total(plan) == 4096
    assert len(plan) == 3
    assert all(len(move.slots) == 1 for move in plan)
    named = plan_rebalance(nodes, {node_id(9): 1.0})
    assert named == plan


def test_threshold() -> None:
    nodes = (primary(0, ((0, 8350),)), primary(1, ((8351, 16383),)))
    assert plan_rebalance(nodes, {}, threshold=2.0) == ()
    assert total(plan_rebalance(nodes, {}, threshold=1.0)) == 8351 - 8192
    assert total(plan_rebalance(nodes, {node_id(0): 0.0}, threshold=100.0)) == 8351


def test_nobody_left() -> None:
    with pytest.raises(ValueError, match="no primary with a weight above 0"):
        plan_rebalance(topology(3, 0), {node_id(number): 0.0 for number in range(3)})


def test_replicas_and_empty_ones_take_no_part() -> None:
    nodes = topology(3, 1)
    assert plan_drain(nodes, nodes[5].id) == ()
    assert {move.target for move in plan_drain((*nodes, primary(9, ())), nodes[0].id)} == {node_id(1), node_id(2)}


@pytest.mark.parametrize(
    ("ranges", "number", "expected"),
    [
        (((0, 9), (20, 24)), 4, ((20, 23),)),
        (((0, 9), (20, 24)), 6, ((0, 5),)),
        (((0, 9), (20, 24)), 12, ((0, 9), (20, 21))),
        (((0, 9),), 0, ()),
    ],
)
def test_few_ranges_are_taken(ranges: Ranges, number: int, expected: Ranges) -> None:
    assert take(ranges, number) == expected
