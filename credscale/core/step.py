"""Steps and probes: the only place that times, catches, records and raises.

A step function takes the context first and keyword parameters after it, and returns a ``Finding``. The wrapper turns it
into a ``Result``, whose status is derived from what happened and never declared.
"""

from __future__ import annotations

import html
import inspect
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec

from credscale.core.errors import Observed, StepFailed
from credscale.core.journal import utc_now

if TYPE_CHECKING:
    from credscale.core.context import Context

P = ParamSpec("P")
Show = Callable[[dict[str, Any]], dict[str, Any]]
RESULT_MIME = "application/vnd.credscale.result+json"


class Status(StrEnum):
    """How a step ended. PLANNED: a dry run would change something; SKIPPED: not run, the summary says why."""

    OK = "ok"
    CHANGED = "changed"
    PLANNED = "planned"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """What a step function returns.

    Args:
        summary: one sentence; for a step that changed nothing it says why.
        output: JSON-compatible data. The key ``rows`` (list of flat dicts) is shown as a table.
    """

    summary: str
    output: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The record of one step; displays itself in a notebook."""

    step: str
    kind: str
    params: dict[str, Any]
    status: Status
    summary: str
    output: dict[str, Any]
    changes: list[str]
    error: str | None
    started: str
    duration: float
    show: Show | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-compatible data."""
        return {key: value for key, value in asdict(self).items() if key != "show"}

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        bundle: dict[str, Any] = {
            "text/plain": f"{self.step}: {self.status} - {self.summary}",
            RESULT_MIME: self.to_json(),
        }
        bundle["text/html"] = _headline(self) + rows_to_html(self.output.get("rows", []))
        if self.show is not None and self.status is not Status.FAILED:
            bundle |= self.show(self.output)
        return bundle


class Step(Generic[P]):
    """A step or probe: called with the context and keyword parameters, returns a Result.

    Wears the name, documentation and signature of the function it wraps, so that ``?`` in a notebook shows them.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Context, P], Finding],
        kind: str,
        show: Show | None,
        *,
        reads_all: bool = False,
        repairs: bool = False,
    ) -> None:
        update_wrapper(self, function)
        self.function, self.kind, self.show = function, kind, show
        self.reads_all, self.repairs = reads_all, repairs
        self.name = function.__name__
        self.__signature__ = inspect.signature(function)

    def __call__(self, ctx: Context, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run the step, record it, and raise StepFailed when it failed, unless the runbook keeps going."""
        if args:
            raise TypeError(f"{self.name}: parameters are given by name")
        params: dict[str, Any] = dict(kwargs)
        self.__signature__.bind(ctx, **params)
        started, clock = utc_now(), time.monotonic()
        ctx.begin_step(self.name, self.kind, params)
        status, finding, error = Status.OK, Finding(""), None
        cause: BaseException | None = None
        try:
            if ctx.dry_run and self.reads_all:
                status, finding = Status.SKIPPED, Finding("reads every document, so it is left out of a dry run")
            else:
                finding = self.function(ctx, *args, **kwargs)
        except Observed as problem:
            if ctx.planning:
                status, finding = Status.SKIPPED, Finding(f"waits for the planned changes: {problem}")
            else:
                status, error, cause = Status.FAILED, str(problem), problem
                finding = Finding(str(problem), problem.output)
        except KeyboardInterrupt as problem:
            status, error, cause = Status.FAILED, "interrupted by the operator", problem
        except Exception as problem:  # noqa: BLE001 - the one place that catches; recorded below and raised again
            status, error, cause = Status.FAILED, describe_error(problem), problem
        changes = ctx.end_step_changes()
        if status is Status.OK and changes:
            status = Status.PLANNED if ctx.dry_run else Status.CHANGED
        summary = finding.summary if error is None else error
        result = Result(
            self.name, self.kind, params, status, ctx.mask(summary), finding.output, changes,
            ctx.mask(error) if error is not None else None, started, round(time.monotonic() - clock, 3), self.show,
        )  # fmt: skip
        ctx.end_step(result)
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        if status is Status.FAILED:
            failure = StepFailed(result)
            failure.__cause__ = cause
            if not ctx.keep_going:
                raise failure
            ctx.failures.append(failure)
        return result


def describe_error(problem: BaseException) -> str:
    """Return an exception as one sentence with its type where that is not ours."""
    module = type(problem).__module__
    return str(problem) if module.startswith("credscale.") else f"{type(problem).__name__}: {problem}"


def step(
    *, show: Show | None = None, repairs: bool = False
) -> Callable[[Callable[Concatenate[Context, P], Finding]], Step[P]]:
    """Make a function a step that may change its target, through ``ctx.apply`` only.

    Args:
        show: turns the output into extra MIME data for the notebook, such as a figure.
        repairs: it is for a target that may serve nothing, and run alone it does without a lease there.
    """
    return lambda function: Step(function, "action", show, repairs=repairs)


def probe(
    *, show: Show | None = None, reads_all: bool = False
) -> Callable[[Callable[Concatenate[Context, P], Finding]], Step[P]]:
    """Make a function a probe: it reads and compares, and any ``ctx.apply`` in it is a TypeError.

    Args:
        show: as for ``step``.
        reads_all: reads a whole collection; left out of a dry run.
    """
    return lambda function: Step(function, "probe", show, reads_all=reads_all)


_MARKS = {Status.OK: "✓", Status.CHANGED: "✎", Status.PLANNED: "…", Status.SKIPPED: "–", Status.FAILED: "✗"}


def mark_of(status: str) -> str:
    """Return the sign that stands for a status everywhere."""
    return _MARKS[Status(status)]


def _headline(result: Result) -> str:
    changes = "".join(f"<li>{html.escape(change)}</li>" for change in result.changes)
    listed = f"<ul>{changes}</ul>" if changes else ""
    head = f"{mark_of(result.status)} <b>{html.escape(result.step)}</b> {result.status}"
    return f"<p>{head} · {html.escape(result.summary)} <small>({result.duration:.1f} s)</small></p>{listed}"


def rows_to_html(rows: list[dict[str, Any]]) -> str:
    """Return a list of flat dicts as an HTML table; the first row's keys are the columns."""
    if not rows:
        return ""
    columns = list(rows[0])
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(row.get(column, '')))}</td>" for column in columns) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
