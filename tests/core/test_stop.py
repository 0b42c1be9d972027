"""A run that is asked to stop does so before its next step, and puts back what it must."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale import Context, Finding, runbook, step
from credscale.core.clients import Clients
from credscale.core.context import STOP_FILE
from credscale.core.environment import Environment
from credscale.core.errors import Stopped
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets

if TYPE_CHECKING:
    from pathlib import Path


@step()
def first(ctx: Context) -> Finding:
    """Ask to stop while at work."""
    assert ctx.folder is not None
    ctx.apply("make the first change", (ctx.folder / STOP_FILE).touch)
    ctx.apply("make the second change", lambda: None)
    return Finding("done")


@step()
def second(ctx: Context) -> Finding:
    """Come too late."""
    ctx.apply("make the third change", lambda: None)
    return Finding("done")


@step()
def put_back(ctx: Context) -> Finding:
    """Put back."""
    ctx.apply("put back", lambda: None)
    return Finding("done")


@runbook(afterwards=(put_back,))
def two_steps(ctx: Context) -> None:
    """Do two things."""
    first(ctx)
    second(ctx)


def test_the_step_ends_the_next_one_does_not_begin_and_what_must_is_put_back(tmp_path: Path) -> None:
    environment, secrets = Environment(name="test"), Secrets()
    ctx = Context(environment, Journal(None), Clients(environment, secrets), secrets, folder=tmp_path)
    with pytest.raises(Stopped, match="stopped before second, as asked"):
        two_steps(ctx)
    done = [event["what"] for event in ctx.journal.events if event["event"] == "change_finished"]
    assert done == ["make the first change", "make the second change", "put back"]
    last = ctx.journal.events[-1]
    assert (last["event"], last["status"], last["text"]) == (
        "run_finished", "interrupted", "stopped before second, as asked",
    )  # fmt: skip
    assert not (tmp_path / STOP_FILE).exists()  # it asked for one stop
