"""Hash slots and ranges of them: 16384 numbers, to which keys belong and which primaries own.

A set of slots is a tuple of ranges, each its first and its last slot, sorted, apart and not adjacent.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SLOTS = 16384
Range = tuple[int, int]
Ranges = tuple[Range, ...]
ALL: Ranges = ((0, SLOTS - 1),)


def ranges_of(pairs: Iterable[Range]) -> Ranges:
    """Return any ranges, in any order and overlapping or not, as a set of slots.

    Raises:
        ValueError: a range that ends before it starts, or a number that is no slot.
    """
    found: list[Range] = []
    for first, last in sorted(pairs):
        if not 0 <= first <= last < SLOTS:
            raise ValueError(f"{first}-{last} is no range of slots (0 to {SLOTS - 1})")
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def ranges_of_slots(slots: Iterable[int]) -> Ranges:
    """Return single slots as ranges."""
    return ranges_of((slot, slot) for slot in slots)


def parse_ranges(text: str) -> Ranges:
    """Understand ``0-5460 5462 6000-6100``; commas may stand between the ranges as well.

    Raises:
        ValueError: it is not written so.
    """
    pairs = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        pairs.append((int(first), int(last or first)))
    return ranges_of(pairs)


def ranges_text(ranges: Ranges) -> str:
    """Return ranges as ``parse_ranges`` understands them."""
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def count(ranges: Ranges) -> int:
    """Return how many slots there are."""
    return sum(last - first + 1 for first, last in ranges)


def numbers(ranges: Ranges) -> Iterator[int]:
    """Yield every slot, lowest first."""
    for first, last in ranges:
        yield from range(first, last + 1)


def contains(ranges: Ranges, slot: int) -> bool:
    """Tell whether a slot is among them."""
    return any(first <= slot <= last for first, last in ranges)


def union(*many: Ranges) -> Ranges:
    """Return the slots that are in any of the sets."""
    return ranges_of(pair for ranges in many for pair in ranges)


def subtract(ranges: Ranges, without: Ranges) -> Ranges:
    """Return the slots of the first set that are not in the second."""
    left: list[Range] = []
    for first, last in ranges:
        start = first
        for low, high in without:
            if high < start or low > last:
                continue
            if low > start:
                left.append((start, low - 1))
            start = max(start, high + 1)
        if start <= last:
            left.append((start, last))
    return tuple(left)


def overlap(one: Ranges, other: Ranges) -> Ranges:
    """Return the slots that are in both sets."""
    return subtract(one, subtract(one, other))


def split_evenly(parts: int) -> tuple[Ranges, ...]:
    """Return all slots in that many ranges of equal size, the way redis-cli splits them (§1.1).

    Args:
        parts: from 1 to 16384.
    """
    share = SLOTS / parts
    ends = [round(share * (number + 1) - 1) for number in range(parts - 1)] + [SLOTS - 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return tuple(((start, end),) for start, end in zip(starts, ends, strict=True))


def key_slot(key: str | bytes) -> int:
    """Return the slot of a key: CRC16 of what is between its first braces, or of all of it where they hold nothing."""
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return binascii.crc_hqx(data, 0) % SLOTS


def tag_in(ranges: Ranges) -> str:
    """Return a short hash tag, to be put between braces, whose slot is in the set; for a canary of one shard.

    Raises:
        ValueError: the set is empty.
    """
    if not ranges:
        raise ValueError("no tag can be in no slot")
    number = 0
    while not contains(ranges, key_slot(str(number))):
        number += 1
    return str(number)
