"""Artifact folders with a real journal, for every ending a run can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat import v4

from credscale.core.journal import Journal
from credscale.core.step import Result, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = ("check_cluster", "stop_balancer", "shard_collection", "verify_counts")
ENDINGS = {
    "ok": ("ok", "done"),
    "failed": ("failed", "shard_collection failed: shard key index is missing"),
    "interrupted": ("interrupted", "interrupted by the operator"),
    "aborted": ("aborted", "ValueError: <b>bad</b>"),
    "killed": None,
}


class Run:
    """Write a journal step by step, and the notebook that belongs to it."""

    def __init__(self, folder: Path, **started: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results, self.made = folder, [], 0
        self.journal = Journal(folder / "journal.jsonl")
        about = {
            "run": folder.name.partition("-")[2] or folder.name,
            "runbook": "shard-migrate",
            "title": "Shard one collection",
            "environment": "lab",
            "engine": "simulated",
            "target": "mongos 127.0.0.1:27017, cluster 65a1",
            "operator": "ana",
            "host": "ops1",
            "ticket": "CHG-1042",
            "dry_run": False,
            "params": {"namespace": "app.events", "key": "user_id", "hashed": True},
        }
        self.dry_run = bool(started.get("dry_run"))
        self.journal.append("run_started", **(about | started))

    def begin(self, name: str, kind: str = "action") -> None:
        self.journal.append("step_started", step=name, kind=kind, params={})

    def change(self, name: str, what: str, status: str | None = "done") -> None:
        if self.dry_run:
            self.journal.append("change_planned", step=name, change=1, what=what)
            return
        self.journal.append("change_started", step=name, change=1, what=what)
        if status is not None:
            self.made += status == "done"
            self.journal.append("change_finished", step=name, change=1, what=what, status=status)

    def finish(self, name: str, status: Status = Status.OK, **fields: Any) -> None:
        values = {"summary": f"{name} is done", "output": {}, "changes": [], "error": None} | fields
        result = Result(name, "action", {}, status, started="2026-01-01T00:00:00.000Z", duration=0.25, **values)
        self.results.append(result)
        record = result.to_json()
        record.pop("started")
        self.journal.append("step_finished", **record)

    def end(self, status: str, text: str) -> None:
        self.journal.append("run_finished", status=status, text=text, changes=self.made)

    def notebook(self, steps: tuple[str, ...] = STEPS) -> Any:
        """Return the notebook as papermill leaves it after a timeout: everything completed."""
        completed = {"papermill": {"status": "completed", "exception": False, "start_time": "x", "duration": 1.0}}
        cells = [v4.new_markdown_cell("# Shard one collection\n\nSee [the manual](https://example.com/manual).")]
        cells.append(v4.new_code_cell("ctx = open_run()", metadata=dict(completed), execution_count=1))
        for number, name in enumerate(steps, 2):
            metadata = {"credscale": {"step": name}, **completed}
            cell = v4.new_code_cell(f"{name}(ctx)", metadata=metadata, execution_count=number)
            cell.outputs = [v4.new_output("stream", text=f"{name} ran\n")]
            cells.append(cell)
        cells.append(v4.new_code_cell("close_run(ctx)", metadata=dict(completed)))
        return v4.new_notebook(cells=cells, metadata={"papermill": {"exception": None}})

    def write_notebook(self, notebook: Any) -> None:
        nbformat.write(notebook, self.folder / "output.ipynb")


def write_run(folder: Path, ending: str = "ok", **started: Any) -> Run:
    """Write the journal of a run with a given ending; all but ok end in the third of four steps."""
    run = Run(folder, **started)
    run.begin("check_cluster", "probe")
    run.finish("check_cluster", output={"not_checked": ["Indexes on secondaries were not compared."]})
    run.begin("stop_balancer")
    run.change("stop_balancer", "stop the balancer")
    changed = Status.PLANNED if run.dry_run else Status.CHANGED
    run.finish("stop_balancer", changed, changes=["stop the balancer"])
    run.begin("shard_collection")
    run.change("shard_collection", "shard app.events", "done" if ending == "ok" else None)
    if ending == "ok":
        row = {"what": "sharded", "before": False, "after": True}
        run.finish("shard_collection", changed, changes=["shard app.events"], output={"before_after": [row]})
        run.begin("verify_counts", "probe")
        rows = [{"what": "documents", "before": 50000, "after": 50000}]
        run.finish("verify_counts", output={"before_after": rows})
    elif ending == "failed":
        error = "shard key index is missing"
        run.finish("shard_collection", Status.FAILED, error=error, summary=error)
    end = ENDINGS[ending]
    if end is not None:
        run.end(*end)
    return run


@pytest.fixture(autouse=True)
def key_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the operator's real key out of the tests."""
    folder = tmp_path / "keys"
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(folder))
    return folder


@pytest.fixture
def new_run() -> Iterator[Any]:
    """Return ``write_run``; the journals are closed in the end."""
    runs: list[Run] = []

    def keep(folder: Path, ending: str = "ok", **started: Any) -> Run:
        runs.append(write_run(folder, ending, **started))
        return runs[-1]

    yield keep
    for run in runs:
        run.journal.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a place for one artifact folder."""
    return tmp_path / "artifacts" / "lab" / "shard-migrate" / "20260101T000000Z-ab12cd"
