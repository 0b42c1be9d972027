"""Steps derive their status, journal ahead of changes, and keep probes from changing anything."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from credscale import Context, Finding, Status, probe, runbook, step
from credscale.core.clients import Clients
from credscale.core.environment import Environment
from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, RunFailed, StepFailed, WaitTimeout
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets


def context(*, dry_run: bool = False) -> Context:
    environment, secrets = Environment(name="test"), Secrets()
    return Context(environment, Journal(None), Clients(environment, secrets), secrets, dry_run=dry_run)


def events(ctx: Context) -> list[str]:
    return [event["event"] for event in ctx.journal.events]


@step()
def set_value(ctx: Context, *, target: dict[str, int], value: int) -> Finding:
    """Set a value."""
    if target.get("value") == value:
        return Finding(f"the value is {value} already")
    ctx.apply(f"set value to {value}", target.__setitem__, "value", value)
    return Finding(f"the value is {value}")


@probe()
def value_is(ctx: Context, *, target: dict[str, int], value: int) -> Finding:
    """Compare."""
    if target.get("value") != value:
        raise PreconditionFailed(f"wanted {value}, found {target.get('value')}")
    return Finding("as wanted")


@probe()
def cheat(ctx: Context) -> Finding:
    """Try to change something."""
    ctx.apply("cheat", list)
    return Finding("")


@probe(reads_all=True)
def read_everything(ctx: Context) -> Finding:
    """Read."""
    return Finding("read")


def test_changes_once_then_says_why_not() -> None:
    ctx, target = context(), {"value": 1}
    first = set_value(ctx, target=target, value=2)
    second = set_value(ctx, target=target, value=2)
    assert (first.status, first.changes, target["value"]) == (Status.CHANGED, ["set value to 2"], 2)
    assert (second.status, second.changes, second.summary) == (Status.OK, [], "the value is 2 already")
    assert ctx.changes == 1


def test_the_journal_is_ahead_of_the_change() -> None:
    ctx = context()
    seen: list[str] = []

    @step()
    def watch(ctx: Context) -> Finding:
        """Look at the journal while changing."""
        ctx.apply("look", lambda: seen.extend(events(ctx)))
        return Finding("looked")

    watch(ctx)
    assert seen == ["step_started", "change_started"]
    assert events(ctx) == ["step_started", "change_started", "change_finished", "step_finished"]


def test_a_dry_run_calls_nothing_and_what_depends_on_it_waits() -> None:
    ctx, target = context(dry_run=True), {"value": 1}
    assert set_value(ctx, target=target, value=2).status is Status.PLANNED
    waiting = value_is(ctx, target=target, value=2)
    assert waiting.status is Status.SKIPPED
    assert "waits for the planned changes" in waiting.summary
    assert target == {"value": 1}


def test_a_dry_run_is_strict_until_the_first_planned_change() -> None:
    with pytest.raises(StepFailed):
        value_is(context(dry_run=True), target={"value": 1}, value=2)


def test_a_dry_run_leaves_expensive_probes_out() -> None:
    assert read_everything(context(dry_run=True)).status is Status.SKIPPED
    assert read_everything(context()).status is Status.OK


def test_a_probe_cannot_change() -> None:
    with pytest.raises(StepFailed, match="must not change anything"):
        cheat(context())


def test_apply_outside_a_step_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="outside a step"):
        context().apply("x", list)


def test_a_failed_change_is_recorded_and_not_counted() -> None:
    ctx = context()

    @step()
    def fail(ctx: Context) -> Finding:
        """Fail in the middle."""
        ctx.apply("one", list)
        ctx.apply("two", lambda: 1 / 0)
        return Finding("")

    with pytest.raises(StepFailed) as caught:
        fail(ctx)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.result.changes == ["one"]
    assert [event["status"] for event in ctx.journal.events if event["event"] == "change_finished"] == [
        "done",
        "failed",
    ]


def test_unknown_parameters_are_refused_before_anything_is_journalled() -> None:
    ctx = context()
    with pytest.raises(TypeError):
        set_value(ctx, target={}, valeu=2)  # type: ignore[call-arg]
    assert events(ctx) == []


def test_results_display_as_table_and_machine_data() -> None:
    ctx = context()

    @probe(show=lambda output: {"image/png": output["picture"]})
    def tabular(ctx: Context) -> Finding:
        """Show a table."""
        return Finding("a <b>", {"rows": [{"shard": "<s1>", "chunks": 4}], "picture": "aGk="})

    bundle = tabular(ctx)._repr_mimebundle_()
    assert "&lt;s1&gt;" in bundle["text/html"]
    assert bundle["image/png"] == "aGk="
    assert bundle["application/vnd.credscale.result+json"]["output"]["rows"][0]["chunks"] == 4


def test_wait_until_gives_up_with_what_was_seen() -> None:
    ctx = context()
    with pytest.raises(WaitTimeout, match="waited 0 s for: the light. Seen last: dark"):
        ctx.wait_until("the light", lambda: (False, "dark"), 0.05, every=0.01)


def test_a_runbook_puts_back_and_ends_the_journal_whatever_happens() -> None:
    target: dict[str, int] = {"value": 1}

    @step()
    def put_back(ctx: Context) -> Finding:
        """Put back."""
        ctx.apply("put back", target.update, {"value": 1})
        return Finding("as before")

    @runbook(afterwards=(put_back,))
    def procedure(ctx: Context, *, value: int = 2) -> None:
        """Change and fail."""
        set_value(ctx, target=target, value=value)
        value_is(ctx, target=target, value=99)

    ctx = context()
    with pytest.raises(RunFailed):
        procedure(ctx, value=3)
    last = ctx.journal.events[-1]
    assert (last["event"], last["status"], target["value"]) == ("run_finished", "failed", 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": "x"}, "whole number"),
        ({"count": True}, "whole number"),
        ({"cuont": 1}, "no parameter"),
        ({"name": 5}, "text"),
        ({"share": "inf"}, "must be a number"),
        ({"share": "nan"}, "must be a number"),
    ],
)
def test_runbook_parameters_are_checked(given: dict[str, Any], words: str) -> None:
    @runbook()
    def procedure(ctx: Context, *, count: int = 1, name: str = "", share: float = 0.5) -> None:
        """Do nothing."""

    with pytest.raises(EnvironmentInvalid, match=words):
        procedure.coerce(given)
    assert procedure.coerce({"count": "7"}) == {"count": 7, "name": "", "share": 0.5}


def test_ctrl_c_waits_while_a_run_puts_back() -> None:
    done: list[str] = []

    @step()
    def put_back(ctx: Context) -> Finding:
        """Put back, slowly."""
        os.kill(os.getpid(), signal.SIGINT)
        ctx.apply("put back", done.append, "back")
        return Finding("as before")

    @runbook(afterwards=(put_back,))
    def procedure(ctx: Context) -> None:
        """Do nothing."""

    ctx = context()
    procedure(ctx)
    assert done == ["back"]
    assert ctx.journal.events[-1]["status"] == "ok"


def test_putting_back_is_part_of_the_plan() -> None:
    @step()
    def put_back(ctx: Context) -> Finding:
        """Put back what an earlier run left."""
        ctx.apply("put the balancer back", list)
        return Finding("as before")

    @runbook(afterwards=(put_back,))
    def procedure(ctx: Context) -> None:
        """Do nothing."""

    ctx = context(dry_run=True)
    procedure(ctx)
    assert ctx.changes == 1
