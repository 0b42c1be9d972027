"""Make an executed notebook tell the truth.

papermill marks every cell completed after a timeout or a dead kernel, also cells that never ran. The journal knows
better: it was written by the steps themselves.
"""

from __future__ import annotations

import base64
import copy
import html
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from credscale.core.journal import to_json
from credscale.evidence.story import StepRecord, Story, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from credscale.core.journal import Event
    from credscale.core.step import Result

BANNER_TAG = "credscale-banner"
PAPERMILL_ERROR_TAG = "papermill-error-cell-tag"
_WORDS = {
    "failed": "failed",
    "interrupted": "was interrupted by the operator",
    "aborted": "was aborted",
    "killed": "has no end: its process was killed",
}
_RED = "color:#b3261e"


def correct_statuses(notebook: Any, events: Iterable[Event]) -> Any:
    """Return a copy of an executed notebook whose cell statuses agree with the journal.

    The Nth cell of a step belongs to the Nth start of that step. A step's cell becomes ``completed``, ``failed``,
    ``interrupted`` (started, never ended) or ``pending`` (never started; outputs and times are removed). papermill's
    own banners go; unless the run is ok, ours says what failed and what was changed.

    Args:
        notebook: the executed notebook.
        events: the journal.
    """
    corrected, story = copy.deepcopy(notebook), tell(events)
    corrected.cells = [cell for cell in corrected.cells if not tags_of(cell) & {BANNER_TAG, PAPERMILL_ERROR_TAG}]
    for cell, record in _pairs(corrected, story.steps):
        _correct(cell, record.cell_status if record is not None else "pending")
    for cell in corrected.cells:
        if cell.cell_type == "code" and step_of(cell) is None and cell.execution_count is None and not cell.outputs:
            _set_status(cell, "pending")
    corrected.metadata["credscale"] = {
        **corrected.metadata.get("credscale", {}),
        "run": story.started.get("run"),
        "status": story.status,
    }
    if "papermill" in corrected.metadata:
        corrected.metadata.papermill["exception"] = None if story.ok else True
    if not story.ok:
        corrected.cells.insert(0, _banner(story, corrected))
    return corrected


def fill_outputs(notebook: Any, results: Sequence[Result]) -> Any:
    """Return a copy of a notebook with each Result as the output of its step's cell, as if a kernel had run it.

    Args:
        notebook: the notebook of the runbook that ran in this process.
        results: in the order of the run.
    """
    import nbformat

    filled = copy.deepcopy(notebook)
    count = 0
    for cell, result in _pairs(filled, results):
        cell.outputs, cell.execution_count = [], None
        if result is None:
            continue
        count += 1
        cell.execution_count = count
        data = {kind: _as_json(value) for kind, value in result._repr_mimebundle_().items()}
        output = nbformat.v4.new_output("execute_result", data=nbformat.from_dict(data), execution_count=count)
        cell.outputs.append(output)
    return filled


def step_of(cell: Any) -> str | None:
    """Return the name of the step a cell runs, or None."""
    about = cell.metadata.get("credscale")
    name = about.get("step") if isinstance(about, dict) else None
    return str(name) if name and cell.cell_type == "code" else None


def tags_of(cell: Any) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def steps_not_reached(notebook: Any, story: Story) -> list[str]:
    """Return the steps that have a cell and were never started."""
    return [str(step_of(cell)) for cell, record in _pairs(notebook, story.steps) if record is None]


def _pairs(notebook: Any, records: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each step cell with its StepRecord or Result, or None when there is none."""
    waiting: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        waiting[record.name if isinstance(record, StepRecord) else record.step].append(record)
    for cell in notebook.cells:
        name = step_of(cell)
        if name is not None:
            queue = waiting[name]
            yield cell, queue.pop(0) if queue else None


def _correct(cell: Any, status: str) -> None:
    # a step called wrongly raises before it starts; its traceback must stay
    if status == "pending" and any(output.output_type == "error" for output in cell.outputs):
        status = "failed"
    if status == "pending":
        cell.outputs, cell.execution_count = [], None
    _set_status(cell, status)


def _set_status(cell: Any, status: str) -> None:
    import nbformat

    about = cell.metadata.setdefault("papermill", nbformat.NotebookNode())
    about["status"] = status
    about["exception"] = True if status in {"failed", "interrupted"} else (None if status == "pending" else False)
    if status == "pending":
        about.update({"start_time": None, "end_time": None, "duration": None})


def _banner(story: Story, notebook: Any) -> Any:
    import nbformat

    runbook = story.started.get("runbook") or "This run"
    lines = [f'<b style="{_RED};font-size:1.6em">{_safe(runbook)} {_WORDS.get(story.status, story.status)}</b>']
    step = story.failing
    if step is not None:
        problem = step.error or f"started at a time when the run ended; it did not finish. {story.text}"
        lines.append(f"Step <b>{_safe(step.name)}</b>: {_safe(problem)}")
    elif story.text:
        lines.append(_safe(story.text))
    changes = [_safe(change.what) for change in story.made()]
    lines.append(f"Changed so far: {_listed(changes)}" if changes else "Nothing was changed.")
    unclear = [f"{_safe(change.what)} ({_safe(change.error or change.state)})" for change in story.unclear()]
    if unclear:
        lines.append(f"Begun, but not seen to end well; look at the target: {_listed(unclear)}")
    rest = steps_not_reached(notebook, story)
    if rest:
        lines.append(f"Not reached: {_safe(', '.join(rest))}")
    body = "".join(f"<div>{line}</div>" for line in lines)
    frame = f'<div style="{_RED};border:2px solid #b3261e;background-color:#fdecea;padding:10px">{body}</div>'
    return nbformat.v4.new_markdown_cell(frame, metadata={"tags": [BANNER_TAG]}, id="credscale-banner")


def _listed(items: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _safe(value: object) -> str:
    """Escape for a Markdown cell: no markup, no blank line that ends the block, no formula."""
    return html.escape(str(value)).replace("\n", "<br>").replace("$", "&#36;")


def _as_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else json.loads(to_json(value))
