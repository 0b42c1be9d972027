"""The pre-flight as a whole: one table, worst first; what stops it, what is left out, what is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, StepFailed
from credscale.mongo.preflight import step
from credscale.mongo.preflight.catalogue import CHECKS
from credscale.mongo.preflight.check import Check, Seen
from credscale.mongo.preflight.step import preflight
from tests.mongo.conftest import KEY, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.context import Context
    from credscale.mongo.preflight.look import Look


def made(number: int, name: str, *seen: Seen) -> Check:
    def look(_look: Look) -> Iterator[Seen]:
        yield from seen

    return Check(number, name, "a command", "a reason", look)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        made(1, "good", Seen("ok", "all is well")),
        made(2, "doubtful", Seen("warn", "nearly full", "make room")),
        made(3, "bad", Seen("stop", "it is broken", "repair it")),
        made(33, "hidden", Seen("unknown", "nobody may look", "ask for the right")),
    )
    monkeypatch.setattr(step, "CHECKS", checks)


def run(ctx: Context, **params: Any) -> dict[str, Any]:
    return preflight(ctx, **{"namespace": NAMESPACE, "shard_key": KEY} | params).output


def test_all_56_checks_of_the_reference_are_there_and_say_what_they_are() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 57))
    assert len({check.name for check in CHECKS}) == 56
    for check in CHECKS:
        assert re.fullmatch(r"[a-z0-9-]+", check.name)
        assert check.command
        assert check.reason.endswith((".", "?")) or check.reason[0].isalpha()


@pytest.mark.usefixtures("few")
def test_a_stop_forbids_and_comes_with_the_whole_table(ctx: Context) -> None:
    with pytest.raises(StepFailed, match=r"bad: it is broken \(repair it\)") as caught:
        run(ctx)
    assert isinstance(caught.value.__cause__, PreconditionFailed)
    rows = caught.value.result.output["rows"]
    assert [row["severity"] for row in rows] == ["stop", "warn", "unknown", "ok"]
    assert set(rows[0]) == {"no", "check", "severity", "finding", "remedy", "reason", "command"}


@pytest.mark.usefixtures("few")
def test_a_check_is_skipped_with_its_reason_on_record(ctx: Context) -> None:
    output = run(ctx, skip="bad=known since May, see OPS-7")
    row = next(row for row in output["rows"] if row["check"] == "bad")
    assert (row["severity"], row["finding"]) == ("skipped", "left out: known since May, see OPS-7")
    assert output["warnings"] == 1
    assert len(output["not_checked"]) == 2


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        made(7, "window", Seen("unknown", "nobody may look", "ask for the right")),
        made(34, "writes", Seen("unknown", "nothing is recorded", "switch it on")),
    )
    monkeypatch.setattr(step, "CHECKS", checks)


@pytest.mark.usefixtures("blind")
def test_what_has_to_be_known_and_is_not_forbids_unless_it_is_left_out_with_a_reason(ctx: Context) -> None:
    with pytest.raises(
        StepFailed, match=r"must be known first.*window: nobody may look \(ask for the right\)"
    ) as caught:
        run(ctx)
    assert "--skip 'NAME=REASON' (shard-migrate: --skip-checks)" in str(caught.value)
    assert "writes" not in str(caught.value)
    assert len(caught.value.result.output["rows"]) == 2
    assert sorted(run(ctx, skip="window=measured by hand, OPS-7")["not_checked"]) == [
        "window: left out: measured by hand, OPS-7",
        "writes: nothing is recorded (switch it on)",
    ]


@pytest.mark.usefixtures("few")
def test_only_what_is_asked_for_is_run(ctx: Context) -> None:
    assert [row["check"] for row in run(ctx, only="good, doubtful")["rows"]] == ["doubtful", "good"]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"only": "goood"}, "Did you mean 'good'?"),
        ({"skip": "bad"}, "needs a reason"),
        ({"skip": "worse=because"}, "there is no check 'worse'"),
        ({"namespace": "orders"}, r"database\.collection"),
        ({"shard_key": "createdAt:-1"}, "may be 1 or hashed"),
        ({"chunk_size_mb": 2048}, "from 1 to 1024"),
        ({"window": "2am"}, "HH:MM-HH:MM"),
    ],
)
def test_wrong_parameters_fail_before_anything_is_asked(ctx: Context, params: dict[str, Any], said: str) -> None:
    with pytest.raises(StepFailed, match=said) as caught:
        run(ctx, **params)
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)
