"""One command from flags to exit code: environment, policy, plan, confirmation, run, evidence."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import (
    CredscaleError,
    EnvironmentInvalid,
    MissingExtra,
    Refused,
    RunFailed,
    Stopped,
    UnknownTarget,
)
from credscale.core.journal import read_journal, run_status, to_json
from credscale.core.lock import lock_file
from credscale.core.secrets import Secrets
from credscale.core.signals import uninterrupted
from credscale.core.step import mark_of
from credscale.evidence.keys import load_or_create_key
from credscale.frontends import policy
from credscale.frontends.front import terminal
from credscale.frontends.masking import secrets_of
from credscale.frontends.session import JOURNAL, Request, begin, new_folder, open_context, run_in_process
from credscale.frontends.telling import changes_in, say_problem, say_where, tell, warn

if TYPE_CHECKING:
    from rich.console import Console

    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook
    from credscale.core.step import Result
    from credscale.evidence.keys import SigningKey
    from credscale.frontends.front import Front

PLAN_JOURNAL = "plan.jsonl"
DONE, FAILED, INVALID, REFUSED = 0, 1, 2, 3


@dataclass(frozen=True)
class Flags:
    """The flags that every runbook task has.

    Args:
        run: the run's id where it has one already, because it was sent here; empty for a new one.
        file: the environment file where ``env`` names one of another machine; empty for the one that ``env`` names.
    """

    env: str
    dry_run: bool = False
    yes: bool = False
    ticket: str = ""
    on: str = ""
    in_process: bool = False
    json: bool = False
    watch: float = 0.0
    params: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    file: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Args:
        code: the exit code of the contract.
        status: of the run, or ``invalid``, ``refused``, ``detached``.
        folder: the run's artifact folder; None where there is none, or not here.
        changes: how many changes were made, or may have been; None where that is not known here.
        problem: why there was no run, or what was wrong besides it; empty when nothing was.
        signer: fingerprint of the key that signed the evidence; empty without any.
        run: the run's id, where its folder is not here.
    """

    code: int
    status: str
    folder: Path | None = None
    changes: int | None = 0
    problem: str = ""
    signer: str = ""
    run: str | None = None


def run(runbook: Runbook, flags: Flags) -> int:
    """Run a runbook as asked and return the exit code of the contract.

    Everything for people goes to stdout, or to stderr with ``--json``, whose stdout is the one JSON object.
    """
    front = terminal(json=flags.json)
    signal.signal(signal.SIGTERM, _interrupt)
    if flags.on:
        from credscale.frontends.remote.launch import run_on

        outcome = run_on(runbook, flags, front)
    else:
        outcome = run_here(runbook, flags, front)
    if outcome.folder is not None:
        say_where(front.console, runbook, flags, outcome)
    if flags.json:
        sys.stdout.write(to_json(_answer(outcome)) + "\n")
    return outcome.code


def run_here(runbook: Runbook, flags: Flags, front: Front) -> Outcome:
    """Run a runbook on this machine, whoever looks at it from wherever."""
    folder: Path | None = None
    secrets = Secrets()
    try:
        key = load_or_create_key()  # before anything else: a run that could not be signed is not started
        if flags.watch:
            return Outcome(_watch(runbook, flags, front), "watched")
        request = _prepare(runbook, flags, front)
        folder, secrets = request.folder, secrets_of(request.environment)
        code, status = _run_locked(request, flags, front, key)
        return Outcome(code, status, folder, len(changes_in(folder).made), signer=key.fingerprint)
    except (CredscaleError, KeyboardInterrupt) as error:
        code, status, text = problem_of(error)
        text = secrets.mask(text)
    changes = changes_in(folder)
    say_problem(front.console, runbook, flags, text, changes)
    if folder is not None and not any(changes):
        _drop(folder)
        folder = None
    return Outcome(code, status, folder, len(changes.made), text)


def problem_of(error: BaseException) -> tuple[int, str, str]:
    """Return exit code, status and sentence for what kept a run from its end."""
    if isinstance(error, EnvironmentInvalid | UnknownTarget | MissingExtra):
        return INVALID, "invalid", str(error)
    if isinstance(error, Refused | Stopped):  # a run that has begun says by itself that it was stopped
        return REFUSED, "refused", str(error)
    if isinstance(error, KeyboardInterrupt):
        return FAILED, "interrupted", "interrupted by the operator"
    if isinstance(error, OSError):
        return FAILED, "failed", f"{error.strerror or error}: {error.filename or type(error).__name__}"
    return FAILED, "failed", str(error)


def _interrupt(_number: int, _frame: object) -> None:
    """Let a polite kill end a run the way Ctrl-C does: recorded, put back, sealed."""
    raise KeyboardInterrupt


def inputs(runbook: Runbook, flags: Flags) -> tuple[Environment, dict[str, Any]]:
    """Return the environment and the coerced parameters."""
    from credscale.core.environment import load, names

    if not flags.env:
        known = ", ".join(names())
        raise EnvironmentInvalid(f"{runbook.name} needs --env NAME: one of {known}, or a path to a YAML file")
    environment = load(flags.file or flags.env)
    return environment, runbook.coerce(environment.defaults_for(runbook.name, runbook.inherited) | flags.params)


def _watch(runbook: Runbook, flags: Flags, front: Front) -> int:
    from credscale.frontends.lab_view import raise_lab
    from credscale.frontends.watch import watch

    environment, params = inputs(runbook, flags)
    return watch(runbook, raise_lab(environment, runbook, front.console), params, flags.watch)


def _prepare(runbook: Runbook, flags: Flags, front: Front) -> Request:
    """Check everything that needs no target: environment, parameters, policy, folder."""
    from credscale.frontends.lab_view import raise_lab

    environment, params = inputs(runbook, flags)
    if not flags.dry_run and not runbook.reads_only:
        policy.check(environment, flags.ticket)
    environment = raise_lab(environment, runbook, front.console)
    folder = new_folder(environment.name, runbook.name, flags.run)
    return Request(runbook, environment, params, flags.ticket, folder)


def _run_locked(request: Request, flags: Flags, front: Front, key: SigningKey) -> tuple[int, str]:
    if request.runbook.reads_only and not flags.dry_run:
        return _read(request, flags, front, key)
    if flags.dry_run:
        _plan(request, front, JOURNAL)
        return _seal_and_tell(request, flags, front.console, key)
    lock = lock_file(Path(".credscale/locks") / f"{request.environment.name}.lock")
    try:
        planned = _plan(request, front, PLAN_JOURNAL)
        if planned is None:
            (request.folder / PLAN_JOURNAL).rename(request.folder / JOURNAL)
            return _seal_and_tell(request, flags, front.console, key)
        policy.confirm(request.environment.policy, request.environment.name, planned, yes=flags.yes, ask=front.ask)
        policy.check(request.environment, request.ticket)  # the window may have closed while the question stood
        results = _execute(request, flags, front)
        return _seal_and_tell(request, flags, front.console, key, results)
    finally:
        lock.release()


def _read(request: Request, flags: Flags, front: Front, key: SigningKey) -> tuple[int, str]:
    """Run what changes nothing: at once, in this process, without lock or confirmation; it leaves the same evidence."""
    results: list[Any] = []
    _write_plan(results, request)
    with front.view(f"{request.runbook.name} on {request.environment.name}") as view:
        try:
            run_in_process(request, view.update, results)
        except RunFailed as failure:
            _raise_refusal(failure)
        except (CredscaleError, KeyboardInterrupt):
            pass  # the journal tells
    return _seal_and_tell(request, flags, front.console, key, results)


def _raise_refusal(failure: RunFailed) -> None:
    """Raise what a step found wrong with a parameter, or what it wants a person to accept."""
    reason = failure.__cause__.__cause__ if failure.__cause__ is not None else None
    if isinstance(reason, EnvironmentInvalid | Refused):
        raise reason from None


def _plan(request: Request, front: Front, journal: str) -> int | None:
    """Run the runbook dry, write plan.json and show it.

    Returns:
        the number of planned changes; None when planning failed, which is journalled.
    """
    ctx = open_context(request, dry_run=True, journal=journal)
    try:
        with front.view(f"Plan: {request.runbook.name} on {request.environment.name}") as view:
            ctx.journal.listen(view.update)
            begin(ctx, request)
            request.runbook(ctx, **request.params)
    except RunFailed as failure:
        _raise_refusal(failure)
        return None
    finally:
        _write_plan(ctx.results, request)
        ctx.clients.close()
        ctx.journal.close()
    warn(front.console, ctx.results)
    if not ctx.changes:
        front.console.print("Plan: nothing to change; the run checks and proves only.")
        return 0
    front.console.print(f"Plan: {ctx.changes} changes")
    for result in ctx.results:
        for change in result.changes:
            front.console.print(f"  {mark_of('planned')} {result.step}: {change}", markup=False, soft_wrap=True)
    return ctx.changes


def _write_plan(results: list[Result], request: Request) -> None:
    import hashlib

    plan: dict[str, Any] = {
        "runbook": request.runbook.name,
        "environment": request.environment.name,
        "params": request.params,
        "changes": [{"step": result.step, "change": change} for result in results for change in result.changes],
        "steps": [{"step": result.step, "status": result.status, "summary": result.summary} for result in results],
    }
    plan["sha256"] = hashlib.sha256(to_json(plan).encode()).hexdigest()
    (request.folder / "plan.json").write_text(json.dumps(plan, indent=1, ensure_ascii=False), encoding="utf-8")


def _execute(request: Request, flags: Flags, front: Front) -> list[Any] | None:
    """Run for real; returns the results of a run without a kernel."""
    title = f"Run {request.run}: {request.runbook.name} on {request.environment.name}"
    with front.view(title) as view:
        from credscale.frontends import notebook

        if not flags.in_process and request.runbook.has_notebook and not request.runbook.reads_only:
            notebook.run_notebook(request, view.update)
            return None
        if request.runbook.has_notebook:
            notebook.write_unexecuted(request)
        results: list[Any] = []
        with suppress(CredscaleError, KeyboardInterrupt):  # the journal tells
            run_in_process(request, view.update, results)
        return results


def _seal_and_tell(
    request: Request, flags: Flags, console: Console, key: SigningKey, results: list[Any] | None = None
) -> tuple[int, str]:
    """Turn the folder into evidence, print the last lines, return exit code and status."""
    from credscale.evidence.seal import seal

    with uninterrupted(drop=True):
        seal(request.folder, secrets_of(request.environment), key, results)
    events = list(read_journal(request.folder / JOURNAL))
    status = run_status(events)
    tell(console, request, flags, events, status)
    if key.created:
        console.print(
            f"New signing key {key.path}\n  fingerprint {key.fingerprint} (give it to whoever verifies)", soft_wrap=True
        )
    if status == "ok":
        return DONE, status
    return (REFUSED, "refused") if events[-1].get("refused") else (FAILED, status)


def _drop(folder: Path) -> None:
    """Remove the folder of a run that never changed anything; its plan is not evidence of anything."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _answer(outcome: Outcome) -> dict[str, Any]:
    answer = {
        "run": outcome.folder.name if outcome.folder is not None else outcome.run,
        "status": outcome.status,
        "artifacts": str(outcome.folder) if outcome.folder is not None else None,
        "changes": outcome.changes,
    }
    return answer | ({"error": outcome.problem} if outcome.problem else {})
