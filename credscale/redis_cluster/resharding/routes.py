"""Between whom slots move, and how much goes at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from redis import Redis

AIM_SECONDS = 0.025  # how long one MIGRATE may hold the source; twice that is noticed by nobody
KEY_WEIGHT = 1000  # bytes that take as long as what each key costs besides its own
LEAST, FIRST, MOST = 16 * KEY_WEIGHT, 128 * KEY_WEIGHT, 8192 * KEY_WEIGHT
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class End:
    """A primary.

    Args:
        id: its node id.
        name: how people know it.
        client: a connection to it.
        host: where other nodes reach it.
        port: the same.
    """

    id: str
    name: str
    client: Redis
    host: str = ""
    port: int = 0


@dataclass(frozen=True)
class Route:
    """From where to where, and how.

    Args:
        source: who owns the slots.
        target: who shall own them.
        others: the other primaries.
        login: MIGRATE's words by which the source logs in on the target; servers keep them out of MONITOR and SLOWLOG.
        milliseconds: how long the target may keep the source waiting for one reply.
        largest: bytes of the largest key that may hold the source up.
        owned: how many slots the target owned at first.
        prefer_owner: whether of a key that differs on both ends the source's counts.
        held: raises Refused when somebody else took the lease of the run.
    """

    source: End
    target: End
    others: tuple[End, ...]
    login: tuple[str, ...] = field(default=(), repr=False)
    milliseconds: int = 5000
    largest: int = 64 * MEGABYTE
    owned: int = 0
    prefer_owner: bool = False
    held: Callable[[], None] = field(default=lambda: None, repr=False)


@dataclass(frozen=True)
class Key:
    """A key on the source and its estimated size."""

    name: str
    slot: int
    bytes: int


class Pace:
    """How much one MIGRATE takes along, learnt from how long the ones before took.

    Attributes:
        allowance: in the weight of keys: their bytes and ``KEY_WEIGHT`` for each.
        longest: seconds that the longest one took.
        keys: how many were sent.
        received: how many slots each target has got, by its id.
    """

    def __init__(self) -> None:
        self.allowance, self.longest, self.keys = FIRST, 0.0, 0
        self.received: Counter[str] = Counter()

    def measured(self, weight: int, seconds: float) -> None:
        """Learn; a small one says little about a big one, so growth needs a full load."""
        self.longest = max(self.longest, seconds)
        fits = int(weight * AIM_SECONDS / max(seconds, 1e-6))
        if seconds > AIM_SECONDS:
            self.allowance = max(LEAST, min(self.allowance, fits))
        elif 2 * weight > self.allowance:
            self.allowance = min(MOST, max(self.allowance, min(2 * self.allowance, fits)))


def other_databases(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the databases besides 0 that hold keys, from INFO; in a cluster only Valkey 9 has any."""
    return tuple(sorted(name for name in info if name.startswith("db") and name[2:].isdecimal() and name != "db0"))


def weight(keys: Iterable[Key]) -> int:
    """Return how much work keys are, in bytes."""
    return sum(key.bytes + KEY_WEIGHT for key in keys)
