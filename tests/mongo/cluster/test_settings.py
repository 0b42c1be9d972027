"""Windows and sizes are checked as strictly as needed, and the estimate counts only seconds inside the window."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.cluster.settings import (
    DOCUMENTS,
    FIELDS,
    check_chunk_size,
    eta,
    parse_settings,
    parse_window,
    seconds_until_open,
)

NIGHT = ("02:00", "06:00")
LATE = ("22:00", "02:00")


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-01T{clock}")


@pytest.mark.parametrize("text", ["2am-6am", "2:00-6:00", "02:00", "02:00-24:00", "02:00-02:60", "02:00abc-06:00", "-"])
def test_window_not_written_as_wanted(text: str) -> None:
    with pytest.raises(EnvironmentInvalid, match="HH:MM-HH:MM"):
        parse_window(text)


def test_window() -> None:
    assert parse_window("02:00-06:00") == NIGHT
    assert parse_window(" 22:00 - 02:00 ") == LATE
    assert parse_window("") is None
    with pytest.raises(EnvironmentInvalid, match="starts when it stops"):
        parse_window("02:00-02:00")


@pytest.mark.parametrize("size", [0, 1025, -1, 64.0, True, "64"])
def test_chunk_size_that_would_stop_all_balancing(size: object) -> None:
    with pytest.raises(EnvironmentInvalid, match="chunk_size_mb"):
        check_chunk_size(size)  # type: ignore[arg-type]


def test_server_reads_times_sloppily() -> None:
    documents = [{"_id": "balancer", "activeWindow": {"start": "2:0", "stop": "06:00abc"}}]
    found = parse_settings(documents, {"mode": "full"})
    assert found.window == NIGHT
    assert found.problems == ()


@pytest.mark.parametrize(
    "window", [{}, "02:00-06:00", {"start": 2, "stop": 6}, {"start": "24:00", "stop": "06:00"}, None]
)
def test_window_the_server_cannot_read(window: object) -> None:
    found = parse_settings([{"_id": "balancer", "activeWindow": window}], {"mode": "full"})
    assert found.window is None
    assert "activeWindow" in found.problems[0]


@pytest.mark.parametrize(
    ("window", "clock", "seconds"),
    [
        (None, "12:00:00", 0),
        (NIGHT, "02:00:00", 0),
        (NIGHT, "06:00:00", 0),
        (NIGHT, "06:00:01", 71_999),
        (NIGHT, "01:59:30", 30),
        (LATE, "23:00:00", 0),
        (LATE, "01:00:00", 0),
        (LATE, "12:00:00", 36_000),
    ],
)
def test_seconds_until_open(window: tuple[str, str] | None, clock: str, seconds: float) -> None:
    assert seconds_until_open(window, at(clock)) == seconds


@pytest.mark.parametrize(
    ("moves", "rate", "window", "clock", "seconds"),
    [
        (0, 1.0, NIGHT, "12:00:00", 0),
        (10, 0.0, None, "12:00:00", None),
        (10, 2.0, None, "12:00:00", 5),
        (3600, 1.0, NIGHT, "02:30:00", 3600),
        (3600, 1.0, NIGHT, "12:00:00", 14 * 3600 + 3600),
        # five hours of work: four this night, one the next
        (5 * 3600, 1.0, NIGHT, "02:00:00", 25 * 3600),
        (9 * 3600, 1.0, NIGHT, "02:00:00", 49 * 3600),
        (2 * 3600, 1.0, LATE, "01:00:00", 3600 + 20 * 3600 + 3600),
    ],
)
def test_eta(moves: float, rate: float, window: tuple[str, str] | None, clock: str, seconds: float | None) -> None:
    assert eta(moves, rate, window, at(clock)) == seconds


@given(minutes=st.integers(1, 4000), now=st.datetimes(at("00:00:00"), at("23:59:00")))
def test_eta_agrees_with_counting_minutes(minutes: int, now: datetime) -> None:
    now = now.replace(second=0, microsecond=0)
    left, moment = minutes, now
    while left:
        # a minute is worked when it begins inside the window and before it stops
        if seconds_until_open(NIGHT, moment) == 0 and f"{moment:%H:%M}" != NIGHT[1]:
            left -= 1
        moment += timedelta(minutes=1)
    assert eta(minutes * 60, 1.0, NIGHT, now) == pytest.approx((moment - now).total_seconds())


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"_id": "balancer", "mode": "on"}, "mode is 'on', it must be one of full, autoSplitOnly, off"),
        ({"_id": "balancer", "mode": "Full", "stopped": False}, "mode is 'Full'"),
        ({"_id": "automerge", "enabled": "yes"}, "automerge: enabled is 'yes'"),
        ({"_id": "automerge", "enable": True}, "automerge: enabled is missing"),
        ({"_id": "autosplit"}, "autosplit: enabled is missing"),
    ],
)
def test_settings_the_server_refuses(document: dict[str, Any], problem: str) -> None:
    assert problem in parse_settings([document], {"mode": "full"}).problems[0]


def test_the_server_does_not_look_at_the_mode_of_a_stopped_balancer() -> None:
    assert parse_settings([{"_id": "balancer", "stopped": True, "mode": "on"}], {"mode": "off"}).problems == ()


def test_what_no_server_reads() -> None:
    window = {"start": "02:00", "stop": "06:00", "timezone": "Europe/Berlin"}
    documents: list[dict[str, Any]] = [
        {"_id": "balancer", "stopped": False, "activewindow": window, "activeWindow": window},
        {"_id": "balanser"},
        {"_id": "ReadWriteConcernDefaults", "defaultWriteConcern": {"w": 1}},
    ]
    found = parse_settings(documents, {"mode": "full"})
    assert found.unread == (("balanser", ""), ("balancer", "activeWindow.timezone"), ("balancer", "activewindow"))


@given(st.sets(st.sampled_from(sorted(DOCUMENTS))), st.sets(st.sampled_from(sorted(FIELDS - {"_id"}))))
def test_all_that_servers_know_passes(names: set[str], fields: set[str]) -> None:
    right: dict[str, Any] = {
        "stopped": False, "mode": "full", "activeWindow": {"start": "02:00", "stop": "06:00"},
        "_secondaryThrottle": True, "_waitForDelete": False, "attemptToBalanceJumboChunks": True,
    }  # fmt: skip
    values: dict[str, Any] = {
        "chunksize": {"value": 64},
        "autosplit": {"enabled": True},
        "automerge": {"enabled": False},
    }
    documents: list[dict[str, Any]] = [{"_id": name, **values.get(name, {})} for name in names - {"balancer"}]
    documents.append({"_id": "balancer", **{name: right[name] for name in fields}})
    found = parse_settings(documents, {"mode": "full"})
    assert (found.problems, found.unread) == ((), ())
