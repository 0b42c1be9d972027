"""Refusals name the rule and what would satisfy it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from credscale.core.environment import Environment, Policy
from credscale.core.errors import Refused
from credscale.frontends.policy import check, confirm

WINDOW = {"timezone": "UTC", "days": ["sat"], "start": "02:00", "stop": "06:00"}
SATURDAY, SUNDAY = datetime(2026, 11, 21, 3, tzinfo=UTC), datetime(2026, 11, 22, 3, tzinfo=UTC)


def environment(**policy: Any) -> Environment:
    return Environment.model_validate({"name": "prod", "policy": policy})


def test_a_missing_ticket_is_refused() -> None:
    with pytest.raises(Refused, match="--ticket"):
        check(environment(require_ticket=True), "")
    check(environment(require_ticket=True), "CHG-1")


def test_outside_the_window_is_refused() -> None:
    with pytest.raises(Refused, match="sat 02:00-06:00 UTC"):
        check(environment(maintenance_window=WINDOW), "", SUNDAY)
    check(environment(maintenance_window=WINDOW), "", SATURDAY)


@pytest.mark.parametrize(
    ("rule", "answer", "accepted"),
    [("yes", "yes", True), ("yes", "y", True), ("yes", "", False), ("yes", "no", False),
     ("type-name", "prod", True), ("type-name", "yes", False), ("type-name", "Prod", False)],
)  # fmt: skip
def test_answers(rule: Any, answer: str, accepted: bool) -> None:
    if accepted:
        confirm(Policy(confirm=rule), "prod", 3, yes=False, ask=lambda _: answer)
        return
    with pytest.raises(Refused, match="not confirmed"):
        confirm(Policy(confirm=rule), "prod", 3, yes=False, ask=lambda _: answer)


def test_nobody_to_ask_is_refused_and_yes_is_enough() -> None:
    with pytest.raises(Refused, match="--yes"):
        confirm(Policy(confirm="yes"), "prod", 3, yes=False, ask=None)
    confirm(Policy(confirm="type-name"), "prod", 3, yes=True, ask=None)


@pytest.mark.parametrize(("rule", "changes"), [("none", 5), ("type-name", 0)])
def test_no_question_where_none_is_due(rule: Any, changes: int) -> None:
    confirm(Policy(confirm=rule), "prod", changes, yes=False, ask=None)
