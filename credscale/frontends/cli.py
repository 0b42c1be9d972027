"""Runbooks and steps as invoke tasks: flags from signatures, errors as one sentence, exit codes of the contract."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from invoke import Collection, Exit, Task
from invoke.exceptions import ParseError
from invoke.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from invoke import Context as InvokeContext

    from credscale.frontends.catalogue import Entry

FLAGS: dict[str, tuple[str | bool | None, str]] = {
    "env": (None, "environment: a name in runbooks/environments, or a path to a YAML file (required)"),
    "dry_run": (False, "show the plan and change nothing"),
    "yes": (False, "do not ask for confirmation"),
    "ticket": (None, "change ticket; stands in the report"),
    "on": (None, "host to run the notebook on over SSH"),
    "in_process": (False, "run without a notebook kernel; leaves the same evidence"),
    "json": (False, "last line of stdout is one JSON object: run, status, artifacts, changes"),
}
WATCH = "repeat it on the screen, every 2 s or --watch=SECONDS, until Ctrl-C; leaves no evidence"


def namespace(entries: list[Entry], *tools: Task[Any] | Collection) -> Collection:
    """Return invoke's namespace: runbooks at the top, steps in the collection of their technology.

    Args:
        entries: the catalogue.
        tools: tasks and collections that stand beside the runbooks.
    """
    top = Collection(*tools)
    for technology in dict.fromkeys(entry.collection for entry in entries):
        tasks = [task_of(entry) for entry in entries if entry.collection == technology]
        if technology:
            top.add_collection(Collection(technology, *tasks))
        else:
            for task in tasks:
                top.add_task(task)
    return top


def task_of(entry: Entry) -> Task[Any]:
    """Return a runbook or a step as an invoke task.

    invoke reads flags from default values, so every parameter is a text here and coerced by its annotation later: a
    mistyped number becomes a sentence instead of a traceback.
    """

    def body(c: InvokeContext, **given: Any) -> None:
        _refuse_dry(c)
        from credscale.frontends.catalogue import runbook_behind
        from credscale.frontends.run import Flags, run

        watched = given.pop("watch", None)
        frame = {name: given.pop(name) for name in FLAGS}
        params = {name: value for name, value in given.items() if value is not None}
        texts: dict[str, Any] = {name: value if value is not None else "" for name, value in frame.items()}
        flags = Flags(params=params, watch=_seconds(watched), **texts)
        raise Exit(code=run(runbook_behind(entry), flags))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("c", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [inspect.Parameter(name, keyword, default=default) for name, (default, _) in FLAGS.items()]
    parameters += [inspect.Parameter(name, keyword, default=None) for name in entry.parameters]
    texts = {name: text for name, (_, text) in FLAGS.items()} | entry.parameters
    if entry.watchable:
        parameters.append(inspect.Parameter("watch", keyword, default=None))
        texts["watch"] = WATCH
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__doc__ = entry.doc
    optional = [*entry.switches, *(["watch"] if entry.watchable else [])]
    return Task(body, name=entry.name, positional=[], optional=optional, auto_shortflags=False, help=texts)


def _seconds(watched: str | bool | None) -> float:
    """Return the seconds of ``--watch``, which may stand without a value; 0 when it was not given."""
    if watched is None:
        return 0.0
    if watched is True:
        return 2.0
    try:
        seconds = float(watched)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise Exit(f"--watch takes seconds from 0.1 to 86400, not {watched!r}. Nothing was changed", code=2)
    return seconds


def _refuse_dry(c: InvokeContext) -> None:
    """invoke's own --dry still runs Python, so what looks like a plan would be the real thing."""
    if c.config.run.dry:
        text = "invoke's --dry would still run the steps. Nothing was changed. Use --dry-run after the task name"
        raise Exit(text, code=2)


def answer_usage_errors_with_2(program: type[Program] = Program) -> None:
    """Make a mistyped task or flag exit with 2 and name the nearest valid one; invoke itself answers 1.

    ``invoke`` loads tasks.py before it parses task names and flags, so this takes effect for the command that is
    being run.
    """
    original: Callable[[Program], None] = program.parse_tasks

    def parse_tasks(self: Program) -> None:
        try:
            original(self)
        except ParseError as error:
            raise Exit(_usage_message(self, error), code=2) from None

    program.parse_tasks = parse_tasks  # type: ignore[method-assign]


def _usage_message(program: Program, error: ParseError) -> str:
    import difflib

    wrong = next(iter(re.findall(r"'([^']*)'", str(error))), "")
    context = error.context
    if wrong.startswith("-") and context is not None and context.name:
        known, more = sorted(context.flags), f"invoke --help {context.name}"
    else:
        known, more = sorted(program.scoped_collection.task_names), "invoke --list"
    near = difflib.get_close_matches(wrong, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{error}{hint} Nothing was changed. See: {more}"
