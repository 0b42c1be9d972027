"""How memory has grown over earlier reports, and when it will be full: read from their journals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

JOURNAL = "journal.jsonl"
MOST_REPORTS = 50
LEAST_POINTS, LEAST_HOURS = 3, 1.0


@dataclass(frozen=True)
class Point:
    """One report: when, and the used bytes by node."""

    time: datetime
    used: Mapping[str, int]


def earlier(folder: Path | None, step: str) -> tuple[Point, ...]:
    """Return the points of earlier runs that lie beside a run's folder, the oldest first.

    A journal that cannot be read as one, such as that of a killed run, counts for nothing.

    Args:
        folder: the run's artifact folder; None without artifacts.
        step: the name of the step whose rows hold ``node`` and ``used``.
    """
    if folder is None or not folder.parent.is_dir():
        return ()
    others = sorted(path for path in folder.parent.glob(f"*/{JOURNAL}") if path.parent.name != folder.name)
    points = [point for path in others[-MOST_REPORTS:] for point in _points(path, step)]
    return tuple(sorted(points, key=lambda point: point.time))


def _points(path: Path, step: str) -> list[Point]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        if '"step_finished"' not in line or step not in line:
            continue
        try:
            event = json.loads(line)
            if event["step"] == step and event["output"].get("rows"):
                used = {str(row["node"]): int(row["used"]) for row in event["output"]["rows"] if row.get("used")}
                found.append(Point(datetime.fromisoformat(event["time"]), used))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def hours_to_full(points: Sequence[Point], limits: Mapping[str, int]) -> dict[str, float]:
    """Return by node after how many hours it is full, by the median slope between all pairs of points (Theil-Sen).

    Nodes that do not grow, have no limit, or fewer than three points over an hour, are absent.

    Args:
        points: the oldest first, the present one last.
        limits: maxmemory in bytes by node.
    """
    found = {}
    for node, limit in limits.items():
        series = [(point.time.timestamp() / 3600, point.used[node]) for point in points if node in point.used]
        if not limit or len(series) < LEAST_POINTS or series[-1][0] - series[0][0] < LEAST_HOURS:
            continue
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(series, 2) if b[0] > a[0]]
        slope = median(slopes) if slopes else 0.0
        if slope > 0:
            found[node] = max(0.0, (limit - series[-1][1]) / slope)
    return found
