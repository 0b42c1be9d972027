"""Ranges of slots behave like the sets of numbers they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.redis_cluster.cluster import slots
from credscale.redis_cluster.cluster.slots import ALL, SLOTS, Ranges

PAIRS = st.lists(
    st.tuples(st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1)).map(lambda pair: (min(pair), max(pair))), max_size=6
)
RANGES = PAIRS.map(slots.ranges_of)


@given(RANGES, RANGES)
def test_arithmetic(one: Ranges, other: Ranges) -> None:
    a, b = set(slots.numbers(one)), set(slots.numbers(other))
    assert set(slots.numbers(slots.union(one, other))) == a | b
    assert set(slots.numbers(slots.subtract(one, other))) == a - b
    assert set(slots.numbers(slots.overlap(one, other))) == a & b
    assert slots.count(one) == len(a)
    assert slots.subtract(one, other) == slots.ranges_of(slots.subtract(one, other))  # sorted, apart, not adjacent


@given(RANGES)
def test_text_is_read_back(ranges: Ranges) -> None:
    assert slots.parse_ranges(slots.ranges_text(ranges)) == ranges


@given(st.sets(st.integers(0, SLOTS - 1), max_size=50))
def test_single_slots(numbers: set[int]) -> None:
    ranges = slots.ranges_of_slots(numbers)
    assert list(slots.numbers(ranges)) == sorted(numbers)
    assert all(slots.contains(ranges, number) for number in numbers)


@pytest.mark.parametrize("pair", [(-1, 3), (5, 4), (0, SLOTS)])
def test_no_range(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is no range of slots"):
        slots.ranges_of([pair])


@given(st.integers(1, 200))
def test_even_split_covers_everything_once(parts: int) -> None:
    split = slots.split_evenly(parts)
    assert slots.union(*split) == ALL
    sizes = [slots.count(each) for each in split]
    assert sum(sizes) == SLOTS
    assert max(sizes) - min(sizes) <= 1


def test_split_is_that_of_redis_cli() -> None:
    assert slots.split_evenly(3) == (((0, 5460),), ((5461, 10922),), ((10923, 16383),))


@pytest.mark.parametrize(
    ("key", "slot"),
    [("123456789", 0x31C3), ("foo", 12182), ("foo{}{bar}", 8363), ("", 0), (b"\xff\x00", slots.key_slot("\udcff\x00"))],
)
def test_slot_of_a_key(key: str | bytes, slot: int) -> None:
    assert slots.key_slot(key) == slot


def test_hash_tags() -> None:
    assert slots.key_slot("{user1000}.following") == slots.key_slot("user1000")
    assert slots.key_slot("foo{{bar}}zap") == slots.key_slot("{bar")
    assert slots.key_slot("foo{bar}{zap}") == slots.key_slot("bar")


@given(RANGES.filter(lambda ranges: slots.count(ranges) > 100))
def test_tag_leads_into_the_slots(ranges: Ranges) -> None:
    assert slots.contains(ranges, slots.key_slot(f"canary:{{{slots.tag_in(ranges)}}}"))


def test_no_tag_for_no_slots() -> None:
    with pytest.raises(ValueError, match="no slot"):
        slots.tag_in(())
