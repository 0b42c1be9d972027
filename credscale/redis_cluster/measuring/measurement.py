"""What clients saw during an event: acknowledged and lost writes, gaps, errors. Pure.

Times are monotonic seconds since the writers began.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Row = dict[str, Any]

MOST_POINTS = 512
MOST_GAPS = 64
PLOT_POINTS = 1600  # of all writers together
MILLISECONDS = 1000.0
ASKED, FLIPPED = "asked", "flipped"


@dataclass(frozen=True)
class Mark:
    """A moment of the timeline."""

    seconds: float
    event: str
    where: str


@dataclass(frozen=True)
class Gap:
    """Two acknowledged writes with nothing between them; without an end the second one never came."""

    start: float
    end: float
    ended: bool = True

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Series:
    """The slowest write of each interval, in bounded memory: when there are too many intervals, they get twice as long.

    Args:
        width: seconds of an interval at first.
        most: how many intervals are kept.
    """

    def __init__(self, width: float = 0.05, most: int = MOST_POINTS) -> None:
        self.width, self.most = width, most
        self.slowest: list[float] = []

    def add(self, moment: float, seconds: float) -> None:
        """Take one write.

        Args:
            moment: when it was acknowledged.
            seconds: how long it took.
        """
        place = int(moment / self.width)
        while place >= self.most:
            self.slowest = [max(self.slowest[at : at + 2]) for at in range(0, len(self.slowest), 2)]
            self.width *= 2
            place = int(moment / self.width)
        if place >= len(self.slowest):
            self.slowest += [0.0] * (place + 1 - len(self.slowest))
        self.slowest[place] = max(self.slowest[place], seconds)

    def points(self) -> tuple[tuple[float, float], ...]:
        """Return the intervals in which a write was acknowledged: their start and the slowest write."""
        return tuple((number * self.width, slowest) for number, slowest in enumerate(self.slowest) if slowest > 0)


class Longest:
    """The longest gaps of a writer, in bounded memory."""

    def __init__(self, most: int = MOST_GAPS) -> None:
        self.most = most
        self._heap: list[tuple[float, float, float]] = []

    def add(self, start: float, end: float) -> None:
        """Take the time between two acknowledged writes."""
        entry = (end - start, start, end)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def gaps(self) -> tuple[Gap, ...]:
        """Return them, the longest first."""
        return tuple(Gap(start, end) for _, start, end in sorted(self._heap, reverse=True))


@dataclass(frozen=True)
class WriterRecord:
    """What one client saw on one shard.

    Args:
        shard: the address of the primary that the shard had at first.
        client: ``direct`` for a plain connection, ``cluster`` for an application's cluster client.
        acknowledged: how many writes the server acknowledged.
        lost: how many of them were not found afterwards.
        unread: how many of them could not be looked for, because nobody answered for them or their time had run out.
        unknown: attempts whose answer never came: the server may have done them; each was made again.
        errors: failed attempts by the name of their error.
        gaps: the longest ones that ended, or were still open, after the first mark.
        points: the slowest write by time, both in seconds.
    """

    shard: str
    client: str
    acknowledged: int = 0
    lost: int = 0
    unread: int = 0
    unknown: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    points: tuple[tuple[float, float], ...] = ()

    @property
    def longest(self) -> Gap | None:
        """The longest gap; None when nothing was marked or written."""
        return self.gaps[0] if self.gaps else None

    def row(self) -> Row:
        """Return it as a row of a table; times are in milliseconds."""
        longest = self.longest
        ended = longest is not None and longest.ended
        return {
            "shard": self.shard, "client": self.client, "acknowledged": self.acknowledged, "lost": self.lost,
            "unread": self.unread, "unknown": self.unknown,
            "longest_gap_ms": milliseconds(longest.seconds if longest else None),
            "first_ack_after_gap_ms": milliseconds(longest.end if ended and longest else None),
            "errors": ", ".join(f"{name} {number}" for name, number in sorted(self.errors.items())),
        }  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """What all clients saw, with the timeline."""

    writers: tuple[WriterRecord, ...] = ()
    marks: tuple[Mark, ...] = ()
    seconds: float = 0.0

    @property
    def acknowledged(self) -> int:
        """Acknowledged writes of all writers."""
        return sum(writer.acknowledged for writer in self.writers)

    @property
    def lost(self) -> int:
        """Acknowledged writes that were not found afterwards."""
        return sum(writer.lost for writer in self.writers)

    @property
    def unread(self) -> int:
        """Acknowledged writes that could not be looked for."""
        return sum(writer.unread for writer in self.writers)

    @property
    def longest_gap(self) -> float | None:
        """The longest time without an acknowledged write on any shard, in seconds; None when nothing was marked."""
        return max((gap.seconds for writer in self.writers for gap in writer.gaps), default=None)

    @property
    def role_flip(self) -> float | None:
        """The longest time from an ``asked`` to its ``flipped``, in seconds; None where no role flipped."""
        return max((seconds for _, seconds in flips(self.marks)), default=None)

    def gap_between(self, start: float, end: float, shard: str = "") -> float | None:
        """Return the longest gap, in seconds, that touches a time; None for none.

        Args:
            start: of the time, in seconds since the writers began.
            end: of the time.
            shard: as in the records; empty for all.
        """
        found = [
            gap.seconds
            for writer in self.writers
            for gap in writer.gaps
            if shard in ("", writer.shard) and gap.end >= start and gap.start <= end
        ]
        return max(found, default=None)

    def rows(self) -> list[Row]:
        """Return a row for each shard and client."""
        return [writer.row() for writer in self.writers]

    def output(self) -> dict[str, Any]:
        """Return everything as a step's output; times are in milliseconds."""
        return {
            "rows": self.rows(),
            "lost_acknowledged_writes": self.lost,
            "acknowledged_writes": self.acknowledged,
            "unread_writes": self.unread,
            "longest_gap_ms": milliseconds(self.longest_gap),
            "role_flip_ms": milliseconds(self.role_flip),
            "timeline": [{"t_ms": milliseconds(m.seconds), "event": m.event, "where": m.where} for m in self.marks],
            "latencies": [_latencies(writer, self._points_each) for writer in self.writers],
        }

    @property
    def _points_each(self) -> int:
        return max(16, PLOT_POINTS // max(1, len(self.writers)))


def flips(marks: Sequence[Mark]) -> tuple[tuple[str, float], ...]:
    """Return where a role flipped and how many seconds after it was asked for, in the order of the asking."""
    asked: dict[str, float] = {}
    found = []
    for mark in marks:
        if mark.event == ASKED:
            asked[mark.where] = mark.seconds
        elif mark.event == FLIPPED and mark.where in asked:
            found.append((mark.where, mark.seconds - asked.pop(mark.where)))
    return tuple(found)


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return at most so many points: of neighbours the slowest."""
    step = max(1, -(-len(points) // most))
    return [max(points[at : at + step], key=lambda point: point[1]) for at in range(0, len(points), step)]


def _latencies(writer: WriterRecord, most: int) -> Row:
    points = thinned(writer.points, most)
    return {
        "shard": writer.shard,
        "client": writer.client,
        "t_ms": [milliseconds(moment) for moment, _ in points],
        "slowest_ms": [milliseconds(seconds) for _, seconds in points],
    }


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds, to a tenth; None stays None."""
    return None if seconds is None else round(seconds * MILLISECONDS, 1)
