from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat import v4

from credscale.core.journal import read_journal
from credscale.core.step import RESULT_MIME, Result, Status
from credscale.evidence.notebook import BANNER_TAG, correct_statuses, fill_outputs, step_of, tags_of

if TYPE_CHECKING:
    from pathlib import Path


def _statuses(notebook: Any) -> dict[str, str]:
    return {str(step_of(cell)): cell.metadata.papermill.status for cell in notebook.cells if step_of(cell)}


def _corrected(run: Any) -> Any:
    corrected = correct_statuses(run.notebook(), read_journal(run.folder / "journal.jsonl"))
    nbformat.validate(corrected)
    return corrected


@pytest.mark.parametrize(
    ("ending", "third", "fourth"),
    [
        ("ok", "completed", "completed"),
        ("failed", "failed", "pending"),
        ("interrupted", "interrupted", "pending"),
        ("aborted", "interrupted", "pending"),
        ("killed", "interrupted", "pending"),
    ],
)
def test_cell_statuses_agree_with_the_journal(folder: Path, new_run: Any, ending: str, third: str, fourth: str) -> None:
    corrected = _corrected(new_run(folder, ending))
    assert list(_statuses(corrected).values()) == ["completed", "completed", third, fourth]
    assert corrected.metadata.credscale == {"run": "ab12cd", "status": ending}
    assert corrected.metadata.papermill.exception == (None if ending == "ok" else True)
    assert (BANNER_TAG in tags_of(corrected.cells[0])) == (ending != "ok")


def test_a_cell_that_never_ran_does_not_look_as_if_it_had(folder: Path, new_run: Any) -> None:
    corrected = _corrected(new_run(folder, "killed"))
    last_step, close = corrected.cells[-2:]
    assert (last_step.outputs, last_step.execution_count) == ([], None)
    assert last_step.metadata.papermill.duration is None
    assert close.metadata.papermill.status == "pending"


def test_the_nth_cell_of_a_step_belongs_to_its_nth_start(folder: Path, new_run: Any) -> None:
    run = new_run(folder, "killed")
    notebook = run.notebook(("shard_collection", "shard_collection", "stop_balancer", "stop_balancer"))
    run.begin("shard_collection")
    run.finish("shard_collection", Status.FAILED, error="again")
    corrected = correct_statuses(notebook, read_journal(folder / "journal.jsonl"))
    steps = [cell.metadata.papermill.status for cell in corrected.cells if step_of(cell)]
    assert steps == ["interrupted", "failed", "completed", "pending"]


def test_a_traceback_before_the_step_began_stays(folder: Path, new_run: Any) -> None:
    run = new_run(folder, "aborted")
    notebook = run.notebook()
    error = v4.new_output("error", ename="TypeError", evalue="no such parameter", traceback=["TypeError"])
    notebook.cells[-2].outputs = [error]
    corrected = correct_statuses(notebook, read_journal(folder / "journal.jsonl"))
    assert _statuses(corrected)["verify_counts"] == "failed"
    assert corrected.cells[-2].outputs == [error]


def test_banner_says_what_failed_and_what_was_changed_and_escapes_it(folder: Path, new_run: Any) -> None:
    banner = _corrected(new_run(folder, "failed")).cells[0].source
    for text in ("shard-migrate failed", "shard_collection", "shard key index is missing", "stop the balancer"):
        assert text in banner
    assert "Begun, but not seen to end well" in banner
    assert "Not reached: verify_counts" in banner
    aborted = _corrected(new_run(folder.with_name("other"), "aborted")).cells[0].source
    assert "<b>bad" not in aborted
    assert "\n" not in aborted


def test_correcting_twice_changes_nothing_and_removes_foreign_banners(folder: Path, new_run: Any) -> None:
    run = new_run(folder, "failed")
    notebook = run.notebook()
    notebook.cells.insert(0, v4.new_markdown_cell("An Exception", metadata={"tags": ["papermill-error-cell-tag"]}))
    before = json.dumps(notebook)
    once = correct_statuses(notebook, read_journal(folder / "journal.jsonl"))
    assert json.dumps(notebook) == before
    assert correct_statuses(once, read_journal(folder / "journal.jsonl")) == once
    assert not any("An Exception" in cell.source for cell in once.cells)


def test_fills_results_in_as_outputs(folder: Path, new_run: Any) -> None:
    run = new_run(folder, "failed")
    filled = fill_outputs(run.notebook(), run.results)
    nbformat.validate(filled)
    cells = [cell for cell in filled.cells if step_of(cell)]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, None]
    assert cells[0].outputs[0].data[RESULT_MIME]["step"] == "check_cluster"
    assert cells[3].outputs == []


def test_figures_and_foreign_values_survive_the_file(tmp_path: Path, folder: Path, new_run: Any) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    show = lambda _: {"image/png": b"\x89PNG"}  # noqa: E731 - as short as a real one
    result = Result("check_cluster", "probe", {}, Status.OK, "fine", {"at": moment}, [], None, "", 0.1, show)
    filled = fill_outputs(new_run(folder).notebook(), [result])
    nbformat.write(filled, tmp_path / "x.ipynb")
    data = nbformat.read(tmp_path / "x.ipynb", as_version=4).cells[2].outputs[0].data
    assert data["image/png"] == "iVBORw=="
    assert data[RESULT_MIME]["output"] == {"at": str(moment)}
