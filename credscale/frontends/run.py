"""One command from flags to exit code: environment, policy, plan, confirmation, run, evidence."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from credscale.core.errors import CredscaleError, EnvironmentInvalid, MissingExtra, Refused, RunFailed, UnknownTarget
from credscale.core.journal import read_journal, run_status, to_json
from credscale.core.lock import lock_file
from credscale.core.secrets import Secrets
from credscale.core.signals import uninterrupted
from credscale.core.step import mark_of
from credscale.evidence.keys import load_or_create_key
from credscale.frontends import policy
from credscale.frontends.masking import secrets_of
from credscale.frontends.progress import RunView
from credscale.frontends.session import JOURNAL, Request, begin, new_folder, open_context, run_in_process
from credscale.frontends.telling import changes_in, say_problem, tell, warn

if TYPE_CHECKING:
    from credscale.core.environment import Environment
    from credscale.core.runbook import Runbook
    from credscale.core.step import Result
    from credscale.evidence.keys import SigningKey

PLAN_JOURNAL = "plan.jsonl"
DONE, FAILED, INVALID, REFUSED = 0, 1, 2, 3
WIDTH = 160  # of what is no terminal


@dataclass(frozen=True)
class Flags:
    """The flags that every runbook task has."""

    env: str
    dry_run: bool = False
    yes: bool = False
    ticket: str = ""
    on: str = ""
    in_process: bool = False
    json: bool = False
    watch: float = 0.0
    params: dict[str, Any] = field(default_factory=dict)


def run(runbook: Runbook, flags: Flags) -> int:
    """Run a runbook as asked and return the exit code of the contract.

    Everything for people goes to stdout, or to stderr with ``--json``, whose stdout is the one JSON object.
    """
    stream = sys.stderr if flags.json else sys.stdout
    console = Console(stderr=flags.json, highlight=False, width=None if stream.isatty() else WIDTH)
    signal.signal(signal.SIGTERM, _interrupt)
    folder: Path | None = None
    text, secrets = "", Secrets()
    try:
        key = load_or_create_key()  # before anything else: a run that could not be signed is not started
        if flags.watch:
            return _watch(runbook, flags, console)
        request = _prepare(runbook, flags, console)
        folder, secrets = request.folder, secrets_of(request.environment)
        code, status = _run_locked(request, flags, console, key)
    except (EnvironmentInvalid, UnknownTarget, MissingExtra) as error:
        code, status, text = INVALID, "invalid", str(error)
    except Refused as error:
        code, status, text = REFUSED, "refused", str(error)
    except CredscaleError as error:
        code, status, text = FAILED, "failed", str(error)
    except KeyboardInterrupt:
        code, status, text = FAILED, "interrupted", "interrupted by the operator"
    changes, text = changes_in(folder), secrets.mask(text)
    if text:
        say_problem(console, runbook, flags, text, changes)
        if folder is not None and not changes:
            _drop(folder)
            folder = None
    if flags.json:
        sys.stdout.write(to_json(_answer(folder, status, changes, text)) + "\n")
    return code


def _interrupt(_number: int, _frame: object) -> None:
    """Let a polite kill end a run the way Ctrl-C does: recorded, put back, sealed."""
    raise KeyboardInterrupt


def _inputs(runbook: Runbook, flags: Flags) -> tuple[Environment, dict[str, Any]]:
    """Return the environment and the coerced parameters."""
    from credscale.core.environment import load, names

    if not flags.env:
        known = ", ".join(names())
        raise EnvironmentInvalid(f"{runbook.name} needs --env NAME: one of {known}, or a path to a YAML file")
    environment = load(flags.env)
    return environment, runbook.coerce(environment.defaults_for(runbook.name, runbook.inherited) | flags.params)


def _watch(runbook: Runbook, flags: Flags, console: Console) -> int:
    from credscale.frontends.lab_view import raise_lab
    from credscale.frontends.watch import watch

    environment, params = _inputs(runbook, flags)
    return watch(runbook, raise_lab(environment, runbook, console), params, flags.watch)


def _prepare(runbook: Runbook, flags: Flags, console: Console) -> Request:
    """Check everything that needs no target: environment, parameters, policy, folder."""
    from credscale.frontends.lab_view import raise_lab

    environment, params = _inputs(runbook, flags)
    if flags.on:
        raise Refused(
            f"--on {flags.on}: this version runs notebooks on this machine only. Nothing was changed. "
            f"Log in to {flags.on} and run it there, without --on"
        )
    if not flags.dry_run and not runbook.reads_only:
        policy.check(environment, flags.ticket)
    environment = raise_lab(environment, runbook, console)
    return Request(runbook, environment, params, flags.ticket, new_folder(environment.name, runbook.name))


def _run_locked(request: Request, flags: Flags, console: Console, key: SigningKey) -> tuple[int, str]:
    if request.runbook.reads_only and not flags.dry_run:
        return _read(request, flags, console, key)
    if flags.dry_run:
        _plan(request, console, JOURNAL)
        return _seal_and_tell(request, flags, console, key)
    lock = lock_file(Path(".credscale/locks") / f"{request.environment.name}.lock")
    try:
        planned = _plan(request, console, PLAN_JOURNAL)
        if planned is None:
            (request.folder / PLAN_JOURNAL).rename(request.folder / JOURNAL)
            return _seal_and_tell(request, flags, console, key)
        ask = console.input if sys.stdin.isatty() and not flags.json else None
        policy.confirm(request.environment.policy, request.environment.name, planned, yes=flags.yes, ask=ask)
        results = _execute(request, flags, console)
        return _seal_and_tell(request, flags, console, key, results)
    finally:
        lock.release()


def _read(request: Request, flags: Flags, console: Console, key: SigningKey) -> tuple[int, str]:
    """Run what changes nothing: at once, in this process, without lock or confirmation; it leaves the same evidence."""
    results: list[Any] = []
    _write_plan(results, request)
    with RunView(console, f"{request.runbook.name} on {request.environment.name}") as view:
        try:
            run_in_process(request, view.update, results)
        except RunFailed as failure:
            _raise_refusal(failure)
        except (CredscaleError, KeyboardInterrupt):
            pass  # the journal tells
    return _seal_and_tell(request, flags, console, key, results)


def _raise_refusal(failure: RunFailed) -> None:
    """Raise what a step found wrong with a parameter, or what it wants a person to accept."""
    reason = failure.__cause__.__cause__ if failure.__cause__ is not None else None
    if isinstance(reason, EnvironmentInvalid | Refused):
        raise reason from None


def _plan(request: Request, console: Console, journal: str) -> int | None:
    """Run the runbook dry, write plan.json and show it.

    Returns:
        the number of planned changes; None when planning failed, which is journalled.
    """
    ctx = open_context(request, dry_run=True, journal=journal)
    try:
        with RunView(console, f"Plan: {request.runbook.name} on {request.environment.name}") as view:
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
    warn(console, ctx.results)
    if not ctx.changes:
        console.print("Plan: nothing to change; the run checks and proves only.")
        return 0
    console.print(f"Plan: {ctx.changes} changes")
    for result in ctx.results:
        for change in result.changes:
            console.print(f"  {mark_of('planned')} {result.step}: {change}", markup=False, soft_wrap=True)
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


def _execute(request: Request, flags: Flags, console: Console) -> list[Any] | None:
    """Run for real; returns the results of a run without a kernel."""
    title = f"Run {request.run}: {request.runbook.name} on {request.environment.name}"
    with RunView(console, title) as view:
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


def _answer(folder: Path | None, status: str, changes: list[str], text: str) -> dict[str, Any]:
    answer = {
        "run": folder.name if folder is not None else None,
        "status": status,
        "artifacts": str(folder) if folder is not None else None,
        "changes": len(changes),
    }
    return answer | ({"error": text} if text else {})
