"""What the DAG's tasks do on the worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import CredscaleError, UnknownTarget
from credscale.frontends.schedule import worker

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[3]
TASKS = """\
import sys
from invoke import task

@task
def good(c, text):
    sys.stderr.write("to people\\n")
    print(text)

@task
def odd(c):
    sys.stdout.buffer.write(b"\\xff out\\n")
    sys.stderr.buffer.write(b"\\xff err\\n")

@task
def bad(c):
    print("because")
    sys.exit(3)
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand for invoke; return the commands it is given."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CREDSCALE_ARTIFACTS", str(tmp_path / "artifacts"))
    (tmp_path / "dry").mkdir()
    (tmp_path / "dry/plan.json").write_text("{}")
    seen: list[list[str]] = []

    def invoke(arguments: Sequence[str]) -> str:
        seen.append(list(arguments))
        return "a line\n" + json.dumps({"artifacts": str(tmp_path / "dry")}) + "\n"

    monkeypatch.setattr(worker, "_invoke", invoke)
    return seen


def test_plan(commands: list[list[str]], tmp_path: Path) -> None:
    environment = tmp_path / "test.yaml"
    environment.write_text("name: test\nmongo: {uri: 'mongodb://h:1'}\n")
    folder = Path(
        worker.plan("shard-migrate", str(environment), "CHG-1", {"main_query": "$(id) {{ x }}", "window": ""})
    )
    assert commands == [
        ["notebooks.check"],
        ["shard-migrate", f"--env={environment}", "--ticket=CHG-1", "--dry-run", "--json",
         "--main-query=$(id) {{ x }}", "--window="],
    ]  # fmt: skip
    assert folder.parent == tmp_path / "artifacts/test/shard-migrate"
    assert {path.name for path in folder.iterdir()} == {"input.ipynb", "plan.json"}
    assert (folder / "input.ipynb").read_bytes() == (ROOT / "notebooks/shard_migrate.ipynb").read_bytes()


def test_seal(commands: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    worker.seal(str(tmp_path))
    assert commands == [["report.seal", str(tmp_path), "--ended"]]


def test_a_run_that_never_was_fails_the_task(commands: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(UnknownTarget, match="nothing was run"):
        worker.seal("")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "output.ipynb").touch()
    with pytest.raises(CredscaleError, match="ended before it began"):
        worker.seal(str(folder))
    assert not folder.exists(), "report.list would show it as a broken run"
    with pytest.raises(CredscaleError, match="is not on this worker.*CREDSCALE_ARTIFACTS") as caught:
        worker.seal(str(folder))
    assert "othing was changed" not in str(caught.value), "nobody can tell that here"
    assert commands == []


def test_commands_run_in_the_folder_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.py").write_text(TASKS)
    assert worker._invoke(["good", "--text=$(id) ü"]) == "$(id) ü\n"
    assert capsys.readouterr().out == "to people\n$(id) ü\n"
    assert worker._invoke(["odd"]) == "\ufffd out\n"
    assert capsys.readouterr().out == "\ufffd err\n\ufffd out\n"
    with pytest.raises(CredscaleError, match="invoke bad ended with exit code 3"):
        worker._invoke(["bad"])
    assert capsys.readouterr().out == "because\n"
