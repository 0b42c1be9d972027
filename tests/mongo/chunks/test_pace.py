"""The estimate counts open seconds, ranges from the usual to the slow pace, and says when it is too young."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.mongo.chunks.pace import YOUNG, Pace, eta_range, lanes, pace, range_text
from credscale.mongo.cluster.settings import open_seconds, seconds_until_open

NIGHT = ("02:00", "06:00")
LATE = ("22:00", "02:00")
MIDNIGHT = datetime.fromisoformat("2026-03-01T00:00:00")


def commits(*gaps: float) -> list[datetime]:
    moments = [MIDNIGHT + timedelta(hours=3)]
    for gap in gaps:
        moments.append(moments[-1] + timedelta(seconds=gap))
    return moments


def test_a_few_moves_tell_nothing() -> None:
    assert pace(commits(6, 6, 6, 6), None) is None
    assert pace([], None) is None
    assert range_text(eta_range(10, None, 1, 1, None, MIDNIGHT)) == YOUNG == "rate too young"


def test_an_even_pace_is_a_narrow_range() -> None:
    found = pace(commits(*[6.0] * 30), None)
    assert found == Pace(6.0, 6.0)
    assert eta_range(10, found, 1, 1, None, MIDNIGHT) == (60.0, 60.0)


def test_slow_moves_widen_the_range_and_do_not_shift_the_middle() -> None:
    found = pace(commits(*([6.0] * 17 + [30.0]) * 2), None)
    assert found is not None
    assert found.typical == 6.0
    assert found.slow > 6.0


def test_a_night_between_two_commits_is_no_slow_move() -> None:
    first = commits(*[6.0] * 10)
    second = [moment + timedelta(days=1) for moment in first]
    whole = pace(first + second, ("03:00", "03:01"))
    assert whole is not None
    assert whole.slow < 30.0


def test_worked_example_of_the_reference() -> None:
    """16,000 moves of 6 s take seven nights of four hours (§3.5)."""
    ends = eta_range(16_000, Pace(6.0, 6.0), 1, 1, NIGHT, MIDNIGHT + timedelta(hours=2))
    assert ends is not None
    assert 6 < ends[0] / 86_400 < 7


def test_more_donors_make_it_quicker() -> None:
    assert eta_range(100, Pace(6.0, 12.0), 1, 2, None, MIDNIGHT) == (300.0, 600.0)
    assert lanes({"a": 40, "b": 0, "c": 0, "d": 0}) == 1
    assert lanes({"a": 20, "b": 20, "c": 0, "d": 0}) == 2
    assert lanes({"a": 9, "b": 9, "c": 9, "d": 0}) == 2
    assert lanes({"a": 5}) == 1


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.0, 0.0), "about 1 s"),
        ((45.0, 45.4), "about 45 s"),
        ((600.0, 1200.0), "about 10 min to 20 min"),
        ((7_800.0, 10_800.0), "about 2 h 10 min to 3 h"),
        ((600_000.0, 610_000.0), "about 7 days"),
    ],
)
def test_a_range_is_said_as_people_say_it(ends: tuple[float, float], text: str) -> None:
    assert range_text(ends) == text


@given(
    window=st.sampled_from([NIGHT, LATE, ("00:00", "12:00"), None]),
    start=st.integers(0, 4000),
    length=st.integers(0, 4000),
)
def test_open_seconds_agree_with_counting_minutes(window: tuple[str, str] | None, start: int, length: int) -> None:
    begin = MIDNIGHT + timedelta(minutes=start)
    minutes = (begin + timedelta(minutes=each) for each in range(length))
    stop = window[1] if window is not None else ""
    counted = sum(seconds_until_open(window, each) == 0 and f"{each:%H:%M}" != stop for each in minutes)
    assert open_seconds(window, begin, begin + timedelta(minutes=length)) == pytest.approx(60 * counted)
