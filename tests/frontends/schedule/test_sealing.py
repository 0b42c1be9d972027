"""report.seal: what a scheduler's run leaves becomes evidence, once, and only when the run has ended."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import nbformat
import psutil
import pytest
from invoke import Context as InvokeContext
from invoke import Exit

from credscale.core.errors import CredscaleError, Refused, UnknownTarget
from credscale.core.journal import Journal, read_journal, verify_journal
from credscale.evidence import manifest
from credscale.frontends import tools
from credscale.frontends.schedule.sealing import ending_of, seal_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "hunter2hunter2"


@pytest.fixture
def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: int) -> Callable[..., Path]:
    """Return a function that writes what a run without a terminal leaves behind."""
    monkeypatch.setenv("CREDSCALE_TEST_PASSWORD", SECRET)
    environment = tmp_path / "test.yaml"
    environment.write_text("name: test\nredis: {nodes: ['h:1'], password: env:CREDSCALE_TEST_PASSWORD}\n")

    def write(*events: tuple[str, dict[str, Any]], **about: Any) -> Path:
        folder = tmp_path / "artifacts/test/cluster-status/20260101T020000Z-abc123"
        folder.mkdir(parents=True)
        journal = Journal(folder / "journal.jsonl")
        started: dict[str, Any] = {
            "run": folder.name, "runbook": "cluster-status", "title": "Look", "environment": "test",
            "environment_file": str(environment), "operator": "airflow", "host": socket.gethostname(), "pid": dead,
            "ticket": "", "dry_run": False, "params": {}, "engine": "none", "target": "test",
        }  # fmt: skip
        journal.append("run_started", **started | about)
        for event, data in events:
            journal.append(event, **data)
        journal.close()
        cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=f"password {SECRET}\n")])
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "output.ipynb")
        return folder

    return write


LOOKED = {"step": "look", "kind": "probe", "params": {}, "summary": "", "output": {}, "changes": [], "duration": 0.1}
DONE = ("run_finished", {"status": "ok", "text": "done", "changes": 0})
STARTED = ("step_started", {"step": "look", "kind": "probe", "params": {}})
FAILED = ("step_finished", LOOKED | {"status": "failed", "error": "disk full"})


def test_a_finished_run_is_sealed_once(run: Callable[..., Path]) -> None:
    folder = run(DONE)
    assert seal_run(folder)
    assert manifest.verify(folder).ok
    assert (folder / "report.html").exists()
    assert ending_of(folder) == ("ok: done, 0 changes", 0)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert not seal_run(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_no_secret_is_left(run: Callable[..., Path]) -> None:
    folder = run(DONE)
    seal_run(folder)
    for path in folder.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ((STARTED,), "aborted: the run's process ended during look without finishing"),
        ((), "aborted: the run's process ended without finishing"),
        ((STARTED, FAILED), "failed: look failed: disk full"),
    ],
)
def test_a_killed_run_is_finished_first(run: Callable[..., Path], events: tuple[Any, ...], text: str) -> None:
    folder = run(*events)
    with (folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"torn')
    assert seal_run(folder)
    found, code = ending_of(folder)
    assert found.startswith(text)
    assert code == 1
    assert verify_journal(folder / "journal.jsonl") == len(events) + 2
    assert manifest.verify(folder).ok


def test_a_refusal_is_told_by_the_exit_code(run: Callable[..., Path]) -> None:
    folder = run(("run_finished", {"status": "aborted", "text": "taken", "changes": 0, "refused": True}))
    assert seal_run(folder)
    assert ending_of(folder) == ("aborted: taken, 0 changes", 3)


def test_a_run_under_way_is_left_alone(run: Callable[..., Path]) -> None:
    folder = run(STARTED, pid=psutil.Process().pid)
    for ended in (False, True):  # this machine can tell, so nobody's word counts
        with pytest.raises(Refused, match="is under way"):
            seal_run(folder, ended=ended)
    assert [event["event"] for event in read_journal(folder / "journal.jsonl")] == ["run_started", "step_started"]
    assert not (folder / "manifest.json").exists()


def test_another_process_with_the_same_number_is_not_the_run(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("credscale.core.journal.utc_now", lambda: "2020-01-01T00:00:00.000Z")
        folder = run(STARTED, pid=psutil.Process().pid)
    assert seal_run(folder)


def test_only_the_other_machine_can_tell(run: Callable[..., Path]) -> None:
    folder = run(STARTED, host="worker-7")
    with pytest.raises(Refused, match="only worker-7 can tell.*--ended"):
        seal_run(folder)
    assert seal_run(folder, ended=True)
    assert manifest.verify(folder).ok


def test_spoilt_evidence_is_not_sealed_again(run: Callable[..., Path]) -> None:
    folder = run(DONE)
    seal_run(folder)
    (folder / "output.ipynb").write_text("{}")
    with pytest.raises(CredscaleError, match=r"no longer what was signed: output.ipynb.*would hide that"):
        seal_run(folder)


def test_a_crash_before_the_signature_does_not_count_as_sealed(run: Callable[..., Path]) -> None:
    folder = run(DONE)
    seal_run(folder)
    (folder / "manifest.sig").unlink()
    assert seal_run(folder)
    assert manifest.verify(folder).ok


@pytest.mark.parametrize(
    ("about", "kind", "words"),
    [
        ({"environment_file": "/nowhere.yaml"}, UnknownTarget, "no environment '/nowhere.yaml'"),
        ({"runbook": "retired"}, UnknownTarget, "no runbook or step 'retired'"),
    ],
)
def test_what_is_gone(run: Callable[..., Path], about: dict[str, str], kind: type[CredscaleError], words: str) -> None:
    folder = run(STARTED, **about)
    with pytest.raises(kind, match=words):
        seal_run(folder)
    assert not (folder / "manifest.json").exists()


def test_a_folder_without_the_start_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(CredscaleError, match="does not begin with the start of a run"):
        seal_run(tmp_path)


def test_the_command(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(DONE)
    tools.seal_.body(InvokeContext(), path=str(folder))
    out = capsys.readouterr().out
    assert "sealed" in out
    assert "ok: done, 0 changes" in out
    assert str(folder / "report.html") in out
    tools.seal_.body(InvokeContext(), path=str(folder))
    assert "was sealed already and is intact" in capsys.readouterr().out


def test_the_command_exits_as_the_run_would_have(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(STARTED, FAILED)
    with pytest.raises(Exit) as ending:
        tools.seal_.body(InvokeContext(), path=str(folder))
    assert ending.value.code == 1
    assert "look failed: disk full" in capsys.readouterr().out
