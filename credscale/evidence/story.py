"""What a journal tells about a run, put together for the report and the notebook."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from credscale.core.journal import Event, run_status

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, Any]


@dataclass(frozen=True)
class StepRecord:
    """One step of a run; its status is the Result's, or ``interrupted`` for a step without an end."""

    name: str
    kind: str
    params: Row
    status: str = "interrupted"
    summary: str = ""
    output: Row = field(default_factory=dict)
    error: str | None = None
    duration: float | None = None
    changes: tuple[str, ...] = ()

    @property
    def cell_status(self) -> str:
        """The status of its notebook cell."""
        return self.status if self.status in {"failed", "interrupted"} else "completed"


@dataclass(frozen=True)
class Change:
    """One change; its state is ``done``, ``failed``, ``planned``, or ``under way`` when nobody saw its end."""

    step: str
    what: str
    state: str
    time: str
    error: str = ""


@dataclass(frozen=True)
class Story:
    """A run as its journal tells it.

    Args:
        started: the run_started event; empty when the journal lacks it.
        status: ok, failed, aborted, interrupted or killed.
        text: the end in words.
        finished: UTC time of the end, empty without one.
        last: UTC time of the last line.
        steps: in the order they were started.
        changes: in the order they were announced.
    """

    started: Row
    status: str
    text: str
    finished: str
    last: str
    steps: tuple[StepRecord, ...]
    changes: tuple[Change, ...]

    @property
    def ok(self) -> bool:
        """Whether the run did what it was meant to do."""
        return self.status == "ok"

    @property
    def dry_run(self) -> bool:
        """Whether the run only planned."""
        return bool(self.started.get("dry_run"))

    @property
    def failing(self) -> StepRecord | None:
        """The step the run came to grief in, if there is one."""
        broken = [step for step in self.steps if step.cell_status != "completed"]
        return None if self.ok or not broken else broken[0]

    def made(self) -> list[Change]:
        """Return the changes that were made."""
        return [change for change in self.changes if change.state == "done"]

    def unclear(self) -> list[Change]:
        """Return the changes that were begun and not seen to end well: the target has to be asked about them."""
        return [change for change in self.changes if change.state in {"failed", "under way"}]

    def outputs(self, key: str) -> list[Any]:
        """Return the lists that the steps' outputs hold under a key, as one list."""
        lists = (step.output.get(key) for step in self.steps)
        return [item for items in lists if isinstance(items, list) for item in items]


def tell(events: Iterable[Event]) -> Story:
    """Put a journal's events together; they are read once, and progress is not kept: there may be a week of it."""
    known: list[Event] = []
    last = ""
    for event in events:
        last = str(event.get("time") or last)
        if event.get("event", "progress") != "progress":
            known.append(event)
    started = next((event for event in known if event["event"] == "run_started"), {})
    ends = [event for event in known if event["event"] == "run_finished"]
    end = ends[-1] if ends else {}
    return Story(
        started,
        run_status(known),
        str(end.get("text") or ("" if ends else "the process was killed; the journal has no end")),
        str(end.get("time") or ""),
        last,
        tuple(_steps(known)),
        tuple(_changes(known)),
    )


def _steps(events: Iterable[Event]) -> list[StepRecord]:
    steps: list[StepRecord] = []
    for event in events:
        kind, name = event["event"], str(event.get("step"))
        if kind == "step_started":
            steps.append(StepRecord(name, str(event.get("kind")), _row(event.get("params"))))
        elif kind == "step_finished" and steps:
            steps[-1] = replace(
                steps[-1],
                status=str(event.get("status")),
                summary=str(event.get("summary") or ""),
                output=_row(event.get("output")),
                error=event.get("error"),
                duration=event.get("duration"),
                changes=tuple(map(str, event.get("changes") or ())),
            )
        elif kind == "change_finished" and event.get("status") == "done" and steps:
            steps[-1] = replace(steps[-1], changes=(*steps[-1].changes, str(event.get("what"))))
    return steps


def _changes(events: Iterable[Event]) -> list[Change]:
    changes: list[Change] = []
    for event in events:
        kind, time = event["event"], str(event.get("time") or "")
        if kind in {"change_planned", "change_started"}:
            state = "planned" if kind == "change_planned" else "under way"
            changes.append(Change(str(event.get("step")), str(event.get("what")), state, time))
        elif kind == "change_finished" and changes:
            changes[-1] = replace(
                changes[-1], state=str(event.get("status")), time=time, error=str(event.get("error") or "")
            )
    return changes


def _row(value: object) -> Row:
    return value if isinstance(value, dict) else {}
