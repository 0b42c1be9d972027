"""Placements are as good as any; what exists stays; slots are given once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.redis_cluster.cluster.slots import ALL, SLOTS, count, ranges_text, subtract, union
from credscale.redis_cluster.deploy.placing import Score, Seat, number_of_primaries, place, risks, score

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def nodes(*hosts: str) -> list[Seat]:
    """Return empty nodes on these hosts."""
    return [Seat(f"node{number}:7000", host) for number, host in enumerate(hosts)]


def parts(seats: Sequence[Seat]) -> list[str]:
    """Return per node its slots, or the number of the node it replicates."""
    return [ranges_text(each.slots) if not each.primary else each.primary[4] for each in seats]


def every_placement(found: Sequence[Seat], number: int, replicas: int) -> Iterator[list[Seat]]:
    for owners in combinations(range(len(found)), number):
        rest = [each for each in range(len(found)) if each not in owners]
        for choice in product(owners, repeat=len(rest)):
            sizes = Counter(choice)
            if all(sizes[each] in (replicas, replicas + 1) for each in owners):
                chosen = dict(zip(rest, choice, strict=True))
                yield [
                    replace(each, primary=found[chosen[index]].address if index in chosen else "")
                    for index, each in enumerate(found)
                ]


def best_score(found: Sequence[Seat], replicas: int) -> Score:
    number = number_of_primaries(len(found), replicas)
    return min(score(each)[:3] for each in every_placement(found, number, replicas))


def test_one_host() -> None:
    assert parts(place(nodes(*"AAAAAA"), 1)) == ["0-5460", "5461-10922", "10923-16383", "0", "1", "2"]


def test_three_hosts_of_two() -> None:
    placed = place(nodes(*"AABBCC"), 1)
    assert [each.host for each in placed if not each.primary] == ["A", "B", "C"]
    assert score(placed)[:3] == (0, 0, 0)
    assert risks(placed) == ()


def test_the_node_left_over_is_a_further_replica() -> None:
    placed = place(nodes(*"ABCDEFG"), 1)
    assert sorted(Counter(each.primary for each in placed if each.primary).values()) == [1, 1, 2]


def test_two_hosts_hold_a_majority_between_them() -> None:
    placed = place(nodes(*"AAABBB"), 1)
    assert score(placed)[:3] == (1, 0, 0)
    found = risks(placed)
    assert [(each.severity, each.rule) for each in found] == [("failed", "majority")]
    assert "2 of 3 primaries" in found[0].what
    assert {each.severity for each in risks(placed, local=True)} == {"note"}


def test_half_of_four_primaries_is_no_majority_left() -> None:
    assert [each.rule for each in risks(place(nodes(*"AAABBBCC"), 1))] == ["majority"]
    assert risks(place(nodes(*"AABBCCDD"), 1)) == ()


def test_all_on_one_host_and_a_replica_beside_its_primary_are_warned_of() -> None:
    assert [(each.severity, each.rule) for each in risks(place(nodes(*"AAAAAA"), 1))] == [("warn", "one-host")]
    assert [each.rule for each in risks(place(nodes(*"AAAABC"), 1))] == ["anti-affinity"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("ABCD"), min_size=6, max_size=7))
def test_no_placement_is_better(hosts: list[str]) -> None:
    as_good_as_any(nodes(*hosts), 1)


@pytest.mark.parametrize(("hosts", "replicas"), [("AAABCABC", 1), ("AAAAABBB", 1), ("AAAAAABBC", 2), ("AAAAAAABB", 1)])
def test_none_of_more_nodes_is_better(hosts: str, replicas: int) -> None:
    as_good_as_any(nodes(*hosts), replicas)


def as_good_as_any(found: Sequence[Seat], replicas: int) -> None:
    """Check a placement against all that there are."""
    placed = place(found, replicas)
    assert score(placed)[:3] == best_score(found, replicas)
    assert placed == place(found, replicas)
    check(found, placed, replicas)


def check(found: Sequence[Seat], placed: Sequence[Seat], replicas: int) -> None:
    """Check what must hold for every placement."""
    owners = [each for each in placed if not each.primary]
    assert len(owners) == number_of_primaries(len(found), replicas)
    assert union(*(each.slots for each in owners)) == ALL
    assert sum(count(each.slots) for each in owners) == SLOTS, "no slot twice"
    sizes = Counter(each.primary for each in placed if each.primary)
    assert set(sizes) <= {each.address for each in owners}
    for old, new in zip(found, placed, strict=True):
        assert new.address == old.address
        assert old.primary in ("", new.primary)
        assert not subtract(old.slots, new.slots)
        assert not (new.primary and new.slots)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("ABC"), min_size=6, max_size=12), st.data())
def test_part_of_a_placement_leads_to_the_same(hosts: list[str], data: st.DataObject) -> None:
    found = nodes(*hosts)
    wanted = place(found, 1)
    kept = data.draw(st.sets(st.sampled_from(range(len(found)))))
    assert place([wanted[each] if each in kept else found[each] for each in range(len(found))], 1) == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(6, 10), st.data())
def test_what_exists_otherwise_stays(size: int, data: st.DataObject) -> None:
    """Owners of odd slots and replicas anywhere, as an interrupted other tool leaves them."""
    found = nodes(*data.draw(st.lists(st.sampled_from("ABC"), min_size=size, max_size=size)))
    number = number_of_primaries(size, 1)
    order = data.draw(st.permutations(range(size)))
    owners = order[: data.draw(st.integers(0, number))]
    edges = sorted(data.draw(st.sets(st.integers(0, SLOTS), min_size=2 * len(owners), max_size=2 * len(owners))))
    for index, owner in enumerate(owners):
        found[owner] = replace(found[owner], slots=((edges[2 * index], edges[2 * index + 1] - 1),))
    if owners:
        for replica in order[number : number + data.draw(st.integers(0, size - number))]:
            found[replica] = replace(found[replica], primary=found[data.draw(st.sampled_from(owners))].address)
    placed = place(found, 1)
    check(found, placed, 1)
    owned = [index for index, each in enumerate(placed) if not each.primary]
    partly = [replace(each, primary="") if index % 2 and not found[index].primary else each
              for index, each in enumerate(placed) if index not in owned]  # fmt: skip
    again = [next((each for each in partly if each.address == seat.address), seat) for seat in placed]
    assert [each.slots for each in place(again, 1)] == [each.slots for each in placed]


@pytest.mark.parametrize("hosts", [1, 7, 50])
def test_a_hundred_nodes(hosts: int) -> None:
    found = nodes(*(f"host{number % hosts}" for number in range(100)))
    placed = place(found, 1)
    check(found, placed, 1)
    assert score(placed)[:3] == ((0, 0, 0) if hosts > 1 else (1, 50, 0))
