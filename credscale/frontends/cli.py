"""Runbooks and steps as invoke tasks: flags from signatures, errors as one sentence, exit codes of the contract."""

from __future__ import annotations

import difflib
import inspect
import re
from typing import TYPE_CHECKING, Any

from invoke import Collection, Exit, Task
from invoke.exceptions import ParseError
from invoke.program import Program

from credscale.core.runbook import Runbook

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from invoke import Context as InvokeContext

    from credscale.core.step import Step

FLAGS: dict[str, tuple[str | bool | None, str]] = {
    "env": (None, "environment: a name in runbooks/environments, or a path to a YAML file (required)"),
    "dry_run": (False, "show the plan and change nothing"),
    "yes": (False, "do not ask for confirmation"),
    "ticket": (None, "change ticket; stands in the report"),
    "on": (None, "host to run the notebook on over SSH"),
    "in_process": (False, "run without a notebook kernel; leaves the same evidence"),
    "json": (False, "last line of stdout is one JSON object: run, status, artifacts, changes"),
}


def task_of(runbook: Runbook) -> Task[Any]:
    """Return a runbook as an invoke task.

    invoke reads flags from default values, so every parameter is a text here and coerced by its annotation later: a
    mistyped number becomes a sentence instead of a traceback.
    """

    def body(c: InvokeContext, **given: Any) -> None:
        _refuse_dry(c)
        from credscale.frontends.run import Flags, run

        frame = {name: given.pop(name) for name in FLAGS}
        params = {name: value for name, value in given.items() if value is not None}
        texts: dict[str, Any] = {name: value if value is not None else "" for name, value in frame.items()}
        raise Exit(code=run(runbook, Flags(params=params, **texts)))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("c", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [inspect.Parameter(name, keyword, default=default) for name, (default, _) in FLAGS.items()]
    parameters += [inspect.Parameter(name, keyword, default=None) for name in runbook.parameters]
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__doc__ = _without_args(inspect.getdoc(runbook.function) or runbook.title)
    help_texts = {name: text for name, (_, text) in FLAGS.items()} | _argument_help(runbook)
    return Task(body, name=runbook.name.rpartition(".")[2], positional=[], auto_shortflags=False, help=help_texts)


def runbook_of(step: Step[Any], collection: str) -> Runbook:
    """Return a single step as a runbook of one, named ``collection.step``."""

    def body(ctx: Any, **params: Any) -> None:
        step(ctx, **params)

    body.__name__, body.__doc__, body.__module__ = step.name, step.__doc__, step.function.__module__
    body.__signature__ = step.__signature__  # type: ignore[attr-defined]
    return Runbook(body, (), task=f"{collection}.{step.name.replace('_', '-')}", has_notebook=False)


def steps_collection(name: str, steps: list[Step[Any]]) -> Collection:
    """Return a collection with one task per step."""
    return Collection(name, *(task_of(runbook_of(step, name)) for step in steps))


def runbooks_in(package: ModuleType) -> list[Runbook]:
    """Return the runbooks of a package: in each module the one of the module's own name."""
    import importlib
    import pkgutil

    modules = (
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    )
    return [getattr(module, module.__name__.rpartition(".")[2]) for module in modules]


def _refuse_dry(c: InvokeContext) -> None:
    """invoke's own --dry still runs Python, so what looks like a plan would be the real thing."""
    if c.config.run.dry:
        raise Exit(
            "invoke's --dry would still run the steps. Nothing was changed. Use --dry-run after the task name", code=2
        )


def _without_args(text: str) -> str:
    return text.split("\nArgs:")[0].strip()


def _argument_help(runbook: Runbook) -> dict[str, str]:
    """Read the Args section of the docstring; the default is added where there is one."""
    section = (inspect.getdoc(runbook.function) or "").partition("Args:\n")[2]
    texts = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE))
    result = {}
    for name, parameter in runbook.parameters.items():
        text = re.sub(r"\s+", " ", texts.get(name, name.replace("_", " ")))
        default = "required" if parameter.default is parameter.empty else f"default: {parameter.default!r}"
        result[name] = f"{text} ({default})"
    return result


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
    wrong = next(iter(re.findall(r"'([^']*)'", str(error))), "")
    context = error.context
    if wrong.startswith("-") and context is not None and context.name:
        known, what = sorted(context.flags), f"the task {context.name}"
        more = f"invoke --help {context.name}"
    else:
        known, what = sorted(program.scoped_collection.task_names), "this project"
        more = "invoke --list"
    near = difflib.get_close_matches(wrong, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{error} Unknown to {what}.{hint} Nothing was changed. See: {more}"
