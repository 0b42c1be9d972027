"""A notebook that another papermill executes: the environment's policy holds, and its folder is its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from credscale import Context, Finding, runbook, step
from credscale.core.errors import Refused
from credscale.core.journal import read_journal, run_status
from credscale.evidence.runs import list_runs
from credscale.frontends import session

if TYPE_CHECKING:
    from pathlib import Path

GUARDED = "name: prod\npolicy: {confirm: type-name, require_ticket: true}\nredis: {nodes: ['h:1']}\n"


@step()
def say(ctx: Context) -> Finding:
    """Say something."""
    return Finding("said")


@runbook()
def talk(ctx: Context, *, loud: bool = False) -> None:
    """Talk."""
    say(ctx)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that opens a run as the notebook's first cell does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(session.RUNNER, raising=False)
    monkeypatch.setattr(session, "_die_with_runner", lambda: None)
    (tmp_path / "prod.yaml").write_text(GUARDED)

    def run(folder: Path, ticket: str = "CHG-1", confirm: str = "prod") -> Context:
        return session.open_run(talk, "prod.yaml", ticket, confirm, str(folder), {"loud": "true"})

    return run


def test_a_schedulers_folder_is_made_where_the_run_is_found(opened: Any, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts/prod/talk/20260101T020000Z-abc123"
    ctx = opened(folder)
    say(ctx)
    assert str(folder) in session.close_run(ctx, talk)
    assert run_status(read_journal(folder / "journal.jsonl")) == "ok"
    assert [run.run for run in list_runs(tmp_path / "artifacts")] == ["20260101T020000Z-abc123"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"confirm": ""}, 'would change prod.*Set the parameter confirm to "prod"'),
        ({"confirm": "staging"}, "Nothing was changed"),
        ({"ticket": ""}, "requires a change ticket"),
    ],
)
def test_the_policy_holds_for_a_scheduler(opened: Any, tmp_path: Path, given: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        opened(tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_the_terminal_has_looked_already(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(session.RUNNER, str(os.getppid()))
    ctx = opened(tmp_path / "new", ticket="", confirm="")
    session.close_run(ctx, talk)


def test_a_variable_of_another_terminal_opens_nothing(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(session.RUNNER, str(os.getpid()))
    with pytest.raises(Refused, match="Set the parameter confirm"):
        opened(tmp_path / "new", confirm="")


def test_a_second_run_does_not_write_into_the_first_ones_evidence(opened: Any, tmp_path: Path) -> None:
    session.close_run(opened(tmp_path / "one"), talk)
    before = (tmp_path / "one/journal.jsonl").read_bytes()
    with pytest.raises(Refused, match="holds a run already"):
        opened(tmp_path / "one")
    assert (tmp_path / "one/journal.jsonl").read_bytes() == before


def test_a_folder_that_cannot_be_written(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot be written"):
        opened(tmp_path / "file/run")
