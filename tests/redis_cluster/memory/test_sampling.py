"""Names of keys are told as patterns that give nobody away; the trend is read from earlier journals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AskError, MovedError, NoPermissionError, TryAgainError

from credscale.redis_cluster.memory.sampling import (
    KeyFact,
    big_rows,
    kind_of,
    pattern_rows,
    patterns,
    sample_keys,
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


class Server:
    """A node whose keys all are strings, save those for which it answers an error to every command."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self.names = [*errors, "a:1", "a:2"]
        self.errors = errors
        self.queue: list[Any] = []

    def dbsize(self) -> int:
        return len(self.names)

    def scan(self, _cursor: int, *, count: int) -> tuple[int, list[str]]:
        assert count
        return 0, self.names

    def pipeline(self, *, transaction: bool) -> Server:
        assert not transaction
        self.queue = []
        return self

    def randomkey(self) -> None:
        self.queue.append(self.names[len(self.queue) % len(self.names)])

    def type(self, name: str) -> Server:
        self.queue.append(self.errors.get(name, "string"))
        return self

    def pttl(self, name: str) -> Server:
        self.queue.append(self.errors.get(name, -1))
        return self

    def memory_usage(self, name: str, *, samples: int) -> None:
        assert samples
        self.queue.append(self.errors.get(name, 50))

    def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        bad = [reply for reply in self.queue if isinstance(reply, Exception)]
        if bad and raise_on_error:
            bad[0].args = (
                f"Command # 1 (TYPE {self.names[0]}) of pipeline caused error: {bad[0]}",
            )  # as redis-py does
            raise bad[0]
        return self.queue


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("sizes", [False, True])
def test_keys_on_their_way_are_left_out(drawn: bool, sizes: bool) -> None:
    """SCAN and RANDOMKEY tell keys of slots that arrive or leave as well; other commands on them are redirected."""
    redirects: dict[str, Exception] = {
        "a:moved": MovedError("1 10.0.0.1:7000"), "a:ask": AskError("1 10.0.0.1:7000"), "a:again": TryAgainError("x"),
    }  # fmt: skip
    server: Any = Server(redirects)
    if drawn:
        server.dbsize = lambda: 1_000_000
    found = sample_keys(server, "n:1", most=100, seconds=5, sizes=sizes)
    assert found.error == ""
    assert len(found.keys) == 2
    assert {key.bytes for key in found.keys} == ({50} if sizes else {None})
    assert not found.whole


def test_no_name_of_a_key_is_in_an_error() -> None:
    server: Any = Server({"a:secret": NoPermissionError("this user has no permissions to run the 'type' command")})
    found = sample_keys(server, "n:1", most=100, seconds=5, sizes=True)
    assert found.keys == ()
    assert found.error == "NoPermissionError: this user has no permissions to run the 'type' command"


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
