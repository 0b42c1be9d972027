"""Names of keys are told as patterns that give nobody away; the trend is read from earlier journals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.redis_cluster.memory.sampling import (
    KeyFact,
    big_rows,
    kind_of,
    pattern_rows,
    patterns,
    ttl_class,
    ttl_rows,
)
from credscale.redis_cluster.memory.trend import Point, earlier, hours_to_full

if TYPE_CHECKING:
    from pathlib import Path


def test_patterns() -> None:
    names = [f"user:{name}:profile" for name in ("ann", "bob", "eve")] + ["sess:deadbeef1", "bull:mails:wait"]
    found = patterns(names)
    assert {found[name] for name in names[:3]} == {"user:*:profile"}
    assert found["sess:deadbeef1"] == "sess:*"
    assert found["bull:mails:wait"] == "bull:*:wait"


@given(st.lists(st.text("abc0123456789:", min_size=1, max_size=12), max_size=20))
def test_no_number_and_nothing_unique_is_told(names: list[str]) -> None:
    for name, pattern in patterns(names).items():
        assert not any(character.isdigit() for character in pattern)
        assert pattern.count(":") == name.count(":")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sess:1", "session"), ("Session:x", "session"), ("connect.sid", "session"), ("bull:a:1", "queue"),
     ("{bull}:a", "queue"), ("cache:1", "other"), ("assessment:1", "other")],
)  # fmt: skip
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_times_to_live() -> None:
    assert [ttl_class(ttl) for ttl in (None, 1.0, 3600.0, 3601.0, 1e9)] == [
        "no TTL", "up to 1 min", "up to 1 h", "up to 1 day", "longer",
    ]  # fmt: skip
    keys = [
        KeyFact("a:1", "x", "other", "string", 1, ttl, 10 * number) for number, ttl in enumerate((None, 5.0, 5.0, 90.0))
    ]
    assert {row["time to live"]: row["share"] for row in ttl_rows(keys)}["up to 1 min"] == "50%"
    assert [row["bytes"] for row in big_rows(keys, most=2)] == [30, 20]
    (row,) = pattern_rows(keys)
    assert (row["keys"], row["with TTL"], row["mean TTL (s)"], row["mean_bytes"]) == (4, "75%", 33, 15)
    assert ttl_rows([]) == []


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def points(*used: int) -> list[Point]:
    return [Point(NOW + timedelta(hours=hour), {"a:1": size}) for hour, size in enumerate(used)]


def test_hours_to_full() -> None:
    assert hours_to_full(points(100, 110, 120), {"a:1": 220}) == {"a:1": pytest.approx(10.0)}
    assert hours_to_full(points(100, 110, 900, 130), {"a:1": 230})["a:1"] == pytest.approx(10.0)  # one outlier
    assert hours_to_full(points(130, 110, 100), {"a:1": 220}) == {}
    assert hours_to_full(points(100, 110), {"a:1": 220}) == {}
    assert hours_to_full(points(100, 110, 120), {"a:1": 0, "b:1": 5}) == {}


def test_earlier_reports(tmp_path: Path) -> None:
    def write(run: str, *lines: str) -> None:
        (tmp_path / run).mkdir()
        (tmp_path / run / "journal.jsonl").write_text("\n".join(lines))

    def event(hour: int, used: int, step: str = "redis_memory") -> str:
        rows = [{"node": "a:1", "used": used}, {"node": "b:1", "used": None}]
        time = (NOW + timedelta(hours=hour)).isoformat()
        return json.dumps({"event": "step_finished", "time": time, "step": step, "output": {"rows": rows}})

    write("2", event(2, 20))
    write("1", event(1, 10), event(1, 99, "redis_status"), '{"event": "step_finished", "step": "redis_memory", "out')
    write("3", event(3, 30))
    found = earlier(tmp_path / "3", "redis_memory")
    assert [point.used for point in found] == [{"a:1": 10}, {"a:1": 20}]  # not the run itself
    assert earlier(None, "redis_memory") == ()
    assert earlier(tmp_path / "none" / "run", "redis_memory") == ()
