"""What a killed run leaves is found by the same command, and by no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from credscale.core.lease import MemoryLease
from credscale.redis_cluster.failover import memory

FIRST = ("a" * 40, "b" * 40)


class Run:
    """As much of a context as the memory needs."""

    def __init__(self, lease: MemoryLease) -> None:
        self.lease, self.notes = lease, list[str]()

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture
def ctx() -> Any:
    return Run(MemoryLease())


def test_the_same_command_goes_on(ctx: Any) -> None:
    assert memory.unfinished(ctx, "rolling, back") is None
    memory.begin(ctx, "rolling, back", FIRST)
    memory.went_away(ctx, FIRST[0])
    memory.begin(ctx, "rolling, back", FIRST[::-1])  # of the run that goes on, which must not change it
    goal = memory.unfinished(ctx, "rolling, back")
    assert goal is not None
    assert (goal.first, goal.away) == (FIRST, {FIRST[0]})
    assert "goes on with" in ctx.notes[-1]
    memory.forget(ctx)
    assert ctx.lease.recall_all() == {}


def test_another_command_begins_anew(ctx: Any) -> None:
    memory.begin(ctx, "rolling, back", FIRST)
    memory.went_away(ctx, FIRST[0])
    assert memory.unfinished(ctx, "rolling") is None
    assert "never finished" in ctx.notes[-1]
    assert ctx.lease.recall_all() == {}


def test_what_is_a_day_old_is_nobodys_wish_any_more(ctx: Any) -> None:
    begun = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    ctx.lease.remember(memory.GOAL, {"what": "rolling", "first": list(FIRST), "begun": begun})
    assert memory.unfinished(ctx, "rolling") is None
    assert ctx.lease.recall_all() == {}


def test_marks_without_a_goal_mean_nothing(ctx: Any) -> None:
    memory.went_away(ctx, FIRST[0])  # a run was killed while it forgot
    assert memory.unfinished(ctx, "rolling") is None
    memory.begin(ctx, "rolling", FIRST)
    goal = memory.unfinished(ctx, "rolling")
    assert goal is not None
    assert goal.away == frozenset()
