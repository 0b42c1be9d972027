"""What clients saw is counted without loss, in bounded memory."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.redis_cluster.measuring.measurement import (
    Gap,
    Longest,
    Mark,
    Measurement,
    Series,
    WriterRecord,
    flips,
    thinned,
)
from credscale.redis_cluster.measuring.plots import timeline

SECONDS = st.floats(0, 4000, allow_nan=False)


@given(st.lists(st.tuples(SECONDS, st.floats(0.0001, 60)), min_size=1, max_size=200))
def test_series_keeps_the_slowest_write_however_long_it_runs(writes: list[tuple[float, float]]) -> None:
    series = Series(width=0.05, most=16)
    for moment, seconds in writes:
        series.add(moment, seconds)
    points = series.points()
    assert len(series.slowest) <= 16
    assert max(seconds for _, seconds in points) == max(seconds for _, seconds in writes)
    slowest = max(writes, key=lambda write: write[1])
    around = [seconds for start, seconds in points if start <= slowest[0] < start + series.width * 1.0001]
    assert slowest[1] in around


@given(st.lists(st.tuples(SECONDS, st.floats(0, 100)), max_size=100))
def test_the_longest_gaps_are_kept(entries: list[tuple[float, float]]) -> None:
    longest = Longest(most=5)
    for start, seconds in entries:
        longest.add(start, start + seconds)
    kept = [gap.seconds for gap in longest.gaps()]
    assert kept == sorted((start + seconds - start for start, seconds in entries), reverse=True)[:5]


def test_flips_pair_what_was_asked_with_what_flipped() -> None:
    marks = (
        Mark(1.0, "asked", "a"), Mark(1.5, "flipped", "a"), Mark(2.0, "asked", "b"), Mark(2.1, "flipped", "c"),
        Mark(3.0, "asked", "a"), Mark(3.25, "flipped", "a"), Mark(4.0, "killed", "a"),
    )  # fmt: skip
    assert flips(marks) == (("a", 0.5), ("a", 0.25))
    assert Measurement(marks=marks).role_flip == 0.5


def test_nothing_measured_says_so() -> None:
    output = Measurement().output()
    assert output["rows"] == []
    assert output["longest_gap_ms"] is None
    assert output["role_flip_ms"] is None
    assert output["lost_acknowledged_writes"] == 0
    assert timeline(output) == {}


def example() -> Measurement:
    points = tuple((number * 0.05, 0.001) for number in range(400))
    return Measurement(
        (
            WriterRecord("a:1", "direct", 100, lost=2, gaps=(Gap(1.0, 1.25), Gap(3.0, 3.1)), points=points,
                         errors={"TimeoutError": 2}, unknown=2),
            WriterRecord("a:1", "cluster", 90, unread=3, gaps=(Gap(1.0, 9.0, ended=False),), points=points,
                         errors={"TimeoutError": 1, "ClusterDownError": 4}),
            WriterRecord("b:1", "direct", 50, gaps=(Gap(5.0, 5.5),)),
        ),
        (Mark(1.0, "asked", "r:1"), Mark(1.01, "flipped", "r:1")), 10.0,
    )  # fmt: skip


def test_output_adds_up() -> None:
    output = example().output()
    assert output["acknowledged_writes"] == 240
    assert output["lost_acknowledged_writes"] == 2
    assert output["unread_writes"] == 3
    assert output["longest_gap_ms"] == 8000
    assert output["role_flip_ms"] == 10
    assert output["timeline"][0] == {"t_ms": 1000.0, "event": "asked", "where": "r:1"}
    rows = output["rows"]
    assert [row["longest_gap_ms"] for row in rows] == [250, 8000, 500]
    assert [row["first_ack_after_gap_ms"] for row in rows] == [1250, None, 5500]  # the second one never ended
    assert rows[1]["errors"] == "ClusterDownError 4, TimeoutError 1"


def test_gaps_of_one_failover_are_told_from_those_of_another() -> None:
    seen = example()
    assert seen.gap_between(2.9, 3.05, "a:1") == 8
    assert seen.gap_between(4.0, 6.0, "b:1") == 0.5
    assert seen.gap_between(6.0, 7.0, "b:1") is None


def test_the_plot_is_bounded_and_drawn() -> None:
    output = Measurement(example().writers * 40).output()
    assert sum(len(each["t_ms"]) for each in output["latencies"]) <= 120 * 16
    picture = timeline(example().output())["image/png"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_thinning_keeps_the_slowest(most: int) -> None:
    points = [(float(number), float(number * 37 % 101)) for number in range(50)]
    kept = thinned(points, most)
    assert len(kept) <= most
    assert max(seconds for _, seconds in kept) == max(seconds for _, seconds in points)
    assert thinned([], most) == []
