"""How quick migrations are, and from that a range of when the rest is done (reference §3.5)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from credscale.mongo.cluster.settings import eta, open_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from credscale.mongo.cluster.settings import Window

FEWEST_MOVES = 5  # below these the rate is too young to speak of
NEWEST_MOVES = 40
SMOOTHED = 3  # moves averaged at a time: one slow chunk among quick ones does not set the pace of all the others
YOUNG = "rate too young"


@dataclass(frozen=True)
class Pace:
    """Seconds inside the window from one commit to the next: the median and the 90th percentile."""

    typical: float
    slow: float

    @property
    def rate(self) -> float:
        """Chunks per second inside the window."""
        return 1 / self.typical if self.typical > 0 else 0.0


def pace(commits: Sequence[datetime], window: Window | None) -> Pace | None:
    """Return the pace of the newest migrations; None while there are too few.

    Commits of migrations that ran side by side follow each other more closely, so concurrency is counted in.

    Args:
        commits: when migrations were committed, in the config primary's local time.
        window: start and stop, or None; the time outside counts for nothing.
    """
    newest = sorted(commits)[-(NEWEST_MOVES + 1) :]
    gaps = [open_seconds(window, earlier, later) for earlier, later in pairwise(newest)]
    if len(gaps) < FEWEST_MOVES:
        return None
    means = sorted(statistics.fmean(gaps[place : place + SMOOTHED]) for place in range(len(gaps) - SMOOTHED + 1))
    typical, slow = statistics.median(means), means[math.ceil(0.9 * len(means)) - 1]
    return Pace(typical, max(typical, slow)) if slow > 0 else None


def lanes(chunks: Mapping[str, int]) -> int:
    """Return how many migrations can run at once: a shard takes part in one, and only shards with too many give.

    During the first spread there is one donor, so further shards do not speed it up (§0.5).
    """
    ideal = sum(chunks.values()) / len(chunks) if chunks else 0.0
    donors = sum(count > ideal for count in chunks.values())
    return max(1, min(len(chunks) // 2, donors))


def eta_range(
    remaining: int, seen: Pace | None, lanes_then: float, lanes_now: int, window: Window | None, now: datetime
) -> tuple[float, float] | None:
    """Return in how many seconds of wall time the rest is done, at the typical and at the slow pace.

    Args:
        remaining: migrations to go.
        seen: the pace so far.
        lanes_then: how many ran at once while it was measured.
        lanes_now: how many can run at once from now on.
        window: start and stop, or None; only seconds inside count.
        now: the config primary's local time.

    Returns:
        None while the rate is too young.
    """
    if remaining <= 0:
        return 0.0, 0.0
    if seen is None:
        return None
    share = lanes_now / lanes_then
    ends = [eta(remaining, share / max(each, 1e-3), window, now) for each in (seen.typical, seen.slow)]
    return (ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None


def range_text(ends: tuple[float, float] | None) -> str:
    """Return a range as people say it, such as ``about 2 h 10 min to 3 h``."""
    if ends is None:
        return YOUNG
    low, high = (rounded(each) for each in ends)
    return f"about {low}" if low == high else f"about {low} to {high}"


def rounded(seconds: float) -> str:
    """Return a duration no more precisely than an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes / 10) * 10, 60)
    if hours >= 48:
        return f"{round(hours / 24)} days"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
