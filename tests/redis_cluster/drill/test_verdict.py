"""A drill is judged by what was expected of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from credscale.redis_cluster.drill.plan import FAULTS, choose, expect
from credscale.redis_cluster.drill.verdict import Outcome, against, judge
from tests.redis_cluster.fakes import look_of, topology

KILL, BRIEF = FAULTS["kill"], FAULTS["freeze-briefly"]
NODES = topology()
FOUND = look_of(NODES)
HEALED = Outcome(NODES[3].address, 2.5, "", f"replica of {NODES[3].address}", 0, 0)


def ok(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["question"]: row["ok"] for row in rows}


def test_verdict_on_a_drill_that_went_well() -> None:
    target = choose(FOUND, KILL, "")
    rows = judge(target, expect(KILL, 1.0, 0.0), HEALED)
    assert set(ok(rows).values()) == {"yes"}
    assert against(rows) == ""
    slow = judge(target, expect(KILL, 1.0, 0.0), replace(HEALED, flip_seconds=9.0))
    assert ok(slow)["role flip"] == "differs"
    assert against(slow) == ""


@pytest.mark.parametrize(
    ("change", "question"),
    [
        ({"new_primary": "", "flip_seconds": None, "role": "primary"}, "failover"),
        ({"role": "primary"}, f"{NODES[0].address} afterwards"),
        ({"unhealthy": "its link is down"}, "cluster afterwards"),
        ({"lost": 3}, "acknowledged writes"),
        ({"unread": 1}, "acknowledged writes"),
    ],
)
def test_verdict_on_what_went_wrong(change: dict[str, object], question: str) -> None:
    target = choose(FOUND, KILL, "")
    rows = judge(target, expect(KILL, 1.0, 0.0), replace(HEALED, **change))  # type: ignore[arg-type]
    assert [name for name, each in ok(rows).items() if each == "no"] == [question]
    assert against(rows).startswith(f"{question}: expected ")


def test_failover_that_should_not_be_and_node_that_came_back_by_itself() -> None:
    target = choose(FOUND, BRIEF, "")
    assert ok(judge(target, expect(BRIEF, 1.0, 0.0), HEALED))["failover"] == "no"
    back = Outcome("", None, "", "primary", 0, 0, back=True)
    rows = judge(target, expect(KILL, 1.0, 0.0), back)
    assert ok(rows)["failover"] == "differs"
    assert against(rows) == ""
