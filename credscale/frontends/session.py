"""One run's life: open its folder, journal, lease and context; end it; finish it for a process that died.

The same functions serve the terminal (``--in-process``), the notebook kernel and Jupyter: there is one way to run.
"""

from __future__ import annotations

import getpass
import os
import secrets as randomness
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.clients import SELECT_SECONDS, Clients
from credscale.core.context import Context
from credscale.core.errors import CredscaleError, Refused, RunFailed
from credscale.core.journal import Journal
from credscale.core.lease import TargetLease
from credscale.frontends.masking import secrets_of
from credscale.frontends.targets import describe_target, plan_lease, take_lease

if TYPE_CHECKING:
    from credscale.core.environment import Environment
    from credscale.core.journal import Listener
    from credscale.core.runbook import Runbook
    from credscale.core.step import Result

RUNNER = "CREDSCALE_RUNNER_PID"  # set by the terminal for its kernel, which must not outlive it
ENVIRONMENT = "CREDSCALE_ENV"  # what a notebook opened by hand works on; set by notebooks.open
REQUESTED_BY = "CREDSCALE_REQUESTED_BY"  # who sent this run here from another machine
JOURNAL = "journal.jsonl"
LOOK_SECONDS = 3.0  # for a router, in a look at several targets: a dead one shall not hide the others for long


def artifacts_root() -> Path:
    """Return the folder of all evidence: ``$CREDSCALE_ARTIFACTS`` or ``artifacts``."""
    return Path(os.environ.get("CREDSCALE_ARTIFACTS", "artifacts"))


def new_run() -> str:
    """Return an id for a run: the moment and something nobody else has."""
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{randomness.token_hex(3)}"


def new_folder(environment: str, runbook: str, run: str = "") -> Path:
    """Create the artifact folder of a new run.

    Args:
        environment: the environment's name.
        runbook: the runbook's name.
        run: the run's id; empty for a new one.

    Raises:
        Refused: it cannot be written; nothing was changed.
    """
    return _make_folder(artifacts_root() / environment / runbook / (run or new_run()))


def _make_folder(folder: Path, *, may_exist: bool = False) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=may_exist)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise Refused(
            f"the artifact folder {folder} cannot be written: {error.strerror}. A run without evidence is not started; "
            "nothing was changed. Make the folder writable or point CREDSCALE_ARTIFACTS elsewhere"
        ) from None
    return folder


@dataclass(frozen=True)
class Request:
    """What was asked for: which runbook, where, for which ticket."""

    runbook: Runbook
    environment: Environment
    params: dict[str, Any]
    ticket: str
    folder: Path

    @property
    def run(self) -> str:
        """The run's id: the name of its folder."""
        return self.folder.name


def open_context(request: Request, *, dry_run: bool = False, journal: str = JOURNAL) -> Context:
    """Open a context without a lease: enough to plan.

    Args:
        request: the run.
        dry_run: plan only.
        journal: file name in the run's folder.
    """
    secrets = secrets_of(request.environment)
    return Context(
        request.environment,
        Journal(request.folder / journal, secrets.mask),
        Clients(
            request.environment, secrets, select_timeout=LOOK_SECONDS if request.runbook.keep_going else SELECT_SECONDS
        ),
        secrets,
        dry_run=dry_run,
        reads_only=request.runbook.reads_only,
        folder=request.folder,
    )


def begin(ctx: Context, request: Request) -> None:
    """Take the lease unless this run changes nothing, and write the journal's first line.

    Raises:
        Refused: somebody else works on the target.
        ConnectFailed: the target does not answer.
    """
    ctx.journal.append(
        "run_started",
        run=request.run,
        runbook=request.runbook.name,
        title=request.runbook.title,
        environment=request.environment.name,
        environment_file=str(request.environment.path),
        operator=getpass.getuser(),
        host=socket.gethostname(),
        pid=os.getpid(),
        ticket=request.ticket,
        **({"requested_by": os.environ[REQUESTED_BY]} if REQUESTED_BY in os.environ else {}),
        dry_run=ctx.dry_run,
        params=request.params,
        **describe_target(ctx, request),
    )
    ctx.lease = plan_lease(ctx, request) if ctx.dry_run or ctx.reads_only else take_lease(ctx, request)


def _abort(ctx: Context, error: CredscaleError) -> None:
    """End the journal of a run that could not begin."""
    refused = isinstance(error, Refused)
    ctx.journal.append("run_finished", status="aborted", text=str(error), changes=0, refused=refused)


def end(ctx: Context) -> None:
    """Give the lease back and close connections and journal."""
    if isinstance(ctx.lease, TargetLease):
        ctx.lease.release()
    ctx.clients.close()
    ctx.journal.close()


def run_in_process(request: Request, on_event: Listener, results: list[Result]) -> None:
    """Run a runbook in this process; its journal tells how it ended.

    Args:
        request: the run.
        on_event: receives the journal's events.
        results: filled with the steps' results, also when the run fails.

    Raises:
        CredscaleError: it failed, or could not begin.
        KeyboardInterrupt: the operator stopped it; the journal is complete.
    """
    ctx = open_context(request)
    ctx.journal.listen(on_event)
    try:
        begin(ctx, request)
    except CredscaleError as error:
        _abort(ctx, error)
        ctx.journal.close()
        raise
    try:
        request.runbook(ctx, **request.params)
    finally:
        results += ctx.results
        end(ctx)


def open_run(
    runbook: Runbook, environment: str, ticket: str, confirm: str, run_folder: str, params: dict[str, Any]
) -> Context:
    """Open a run from a notebook: the first cell after the parameters.

    Opened by hand or by a scheduler, the environment's policy holds as it does in the terminal, which has looked
    already when it is what started this kernel.

    Args:
        runbook: the runbook that this notebook was built from.
        environment: name or path, as ``--env``; empty for ``$CREDSCALE_ENV``, or the lab.
        ticket: the change ticket, may be empty.
        confirm: the environment's name, where its policy wants a confirmation.
        run_folder: the artifact folder; empty when opened by hand in Jupyter, which makes one.
        params: the runbook's parameters.

    Raises:
        Refused: a policy forbids it, the folder holds a run already or cannot be written, or somebody else works on
            the target; nothing was changed.
    """
    from credscale.core.environment import load
    from credscale.frontends import policy

    inventory = load(environment or os.environ.get(ENVIRONMENT, "lab"))
    if _runner() != os.getppid() and not runbook.reads_only:
        policy.check(inventory, ticket)
        if inventory.policy.confirm != "none" and confirm != inventory.name:
            raise Refused(
                f"this would change {inventory.name}. Nothing was changed. "
                f'Set the parameter confirm to "{inventory.name}"'
            )
    folder = _given_folder(Path(run_folder)) if run_folder else new_folder(inventory.name, runbook.name)
    request = Request(runbook, inventory, runbook.coerce(params), ticket, folder)
    ctx = open_context(request)
    ctx.keep_going = runbook.keep_going
    _die_with_runner()
    try:
        begin(ctx, request)
    except CredscaleError as error:
        _abort(ctx, error)
        raise
    return ctx


def close_run(ctx: Context, runbook: Runbook) -> str:
    """End a run from a notebook: its last cell.

    Returns:
        one sentence with the folder of the evidence.

    Raises:
        RunFailed: it kept going after something had failed.
    """
    status, text = "ok", "done"
    try:
        runbook.judge(ctx)
    except RunFailed as failure:
        status, text = "failed", str(failure)
        raise
    finally:
        try:
            runbook.finish(ctx, status, text)
        finally:
            end(ctx)
    return f"{ctx.changes} changes; evidence in {ctx.folder}"


def _given_folder(folder: Path) -> Path:
    """Make the folder that a scheduler named; another run's it must not be, whose evidence this would spoil."""
    if (folder / JOURNAL).exists():
        raise Refused(
            f"{folder} holds a run already. Nothing was changed. Give the next run a folder of its own: start it anew "
            "rather than its last part again"
        )
    return _make_folder(folder, may_exist=True)


def _runner() -> int:
    """Return the process id of the terminal that started this kernel; 0 when none did."""
    return int(os.environ.get(RUNNER, "0"))


def _die_with_runner() -> None:
    """End this kernel when the terminal that started it is gone: nobody would see or stop it any more."""
    runner = _runner()
    if not runner:
        return

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(0.3)
        os._exit(1)

    threading.Thread(target=watch, name="runner-watch", daemon=True).start()


def finish_for(request: Request, status: str, text: str) -> None:
    """End a run whose kernel cannot: put back what it must, write the last journal line.

    Args:
        request: the run.
        status: failed, aborted or interrupted.
        text: the same in words.
    """
    ctx = open_context(request)
    try:
        ctx.lease = take_lease(ctx, request)
        request.runbook.finish(ctx, status, text)
    except CredscaleError as error:
        left = f"{text}. What the run must put back is left to the next run: {error}"
        ctx.journal.append("run_finished", status=status, text=left, changes=ctx.journal.changes_made())
    finally:
        with suppress(CredscaleError):
            end(ctx)
