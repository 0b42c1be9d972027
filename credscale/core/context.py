"""The context: the explicit first argument of every step, and the only door to the outside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from credscale.core.errors import Stopped, WaitTimeout
from credscale.core.lease import Lease, MemoryLease

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from credscale.core.clients import Clients
    from credscale.core.environment import Environment
    from credscale.core.errors import StepFailed
    from credscale.core.journal import Journal
    from credscale.core.secrets import Secrets
    from credscale.core.step import Result

T = TypeVar("T")
PROGRESS_SECONDS = 0.25
PAUSE_FILE, STOP_FILE = "pause", "stop"


class Context:
    """Carry one run: its environment, journal, clients and lease.

    Args:
        environment: the checked inventory.
        journal: where every event goes.
        clients: connections to the targets.
        secrets: what masks texts.
        lease: the right to change the target; a dry run needs none.
        dry_run: plan only.
        reads_only: refuse every change; the run has no lease.
        folder: the run's artifact folder; a file named ``pause`` in it holds the run before its next change, and one
            named ``stop`` ends it before its next step.
    """

    def __init__(
        self,
        environment: Environment,
        journal: Journal,
        clients: Clients,
        secrets: Secrets,
        *,
        lease: Lease | None = None,
        dry_run: bool = False,
        reads_only: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.environment, self.journal, self.clients, self.secrets = environment, journal, clients, secrets
        self.lease: Lease = lease if lease is not None else MemoryLease()
        self.dry_run, self.reads_only, self.folder = dry_run, reads_only, folder
        self.keep_going = False  # set for a runbook that looks at several targets: a failed probe ends only itself
        self.failures: list[StepFailed] = []  # of such a runbook
        self.ending = False  # set when only what must be put back is left to do, which nobody stops
        self.results: list[Result] = []
        self._step: str | None = None
        self._kind = ""
        self._changes: list[str] = []
        self._planned = 0
        self._last_progress = 0.0

    @property
    def planning(self) -> bool:
        """Whether this is a dry run that has already planned a change; what follows may depend on it."""
        return self.dry_run and self._planned > 0

    def mask(self, text: str) -> str:
        """Hide secrets in a text."""
        return self.secrets.mask(text)

    def apply(self, what: str, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T | None:
        """Make one change: the only place where a change is made.

        In a dry run the change is listed and nothing is called. Otherwise the journal holds the announcement on disk
        before ``func`` runs, and its end after.

        Args:
            what: the change in words, with its target, as the plan and the report show it.
            func: makes the change; called with the remaining arguments.

        Returns:
            what ``func`` returned; None in a dry run.

        Raises:
            TypeError: called outside a step, in a probe, or in a run that reads only.
        """
        if self._step is None:
            raise TypeError(f"apply({what!r}) outside a step")
        if self._kind == "probe":
            raise TypeError(f"{self._step} is a probe and must not change anything: {what}")
        if self.reads_only:
            raise TypeError(f"{self._step} changes something in a run that reads only: {what}")
        number = len(self._changes) + 1
        if self.dry_run:
            self._changes.append(self.mask(what))
            self._planned += 1
            self.journal.append("change_planned", step=self._step, change=number, what=what)
            return None
        self._gate()
        self.journal.append("change_started", step=self._step, change=number, what=what)
        try:
            value = func(*args, **kwargs)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            self.journal.append(
                "change_finished", step=self._step, change=number, what=what, status="failed", error=text
            )
            raise
        self._changes.append(self.mask(what))
        self.journal.append("change_finished", step=self._step, change=number, what=what, status="done")
        return value

    def _gate(self) -> None:
        """Hold while somebody paused the run, then make sure that the target is still ours."""
        pause = self.folder / PAUSE_FILE if self.folder is not None else None
        if pause is not None and pause.exists():
            self.hold(f"paused by {pause}; remove the file to go on")
            while pause.exists():
                time.sleep(0.5)
        self.lease.check()

    def require(self, condition: bool, problem: Exception) -> None:
        """Raise ``problem`` unless the condition holds; while planning, say what is waited for instead."""
        if condition:
            return
        if not self.planning:
            raise problem
        self.note(f"waits for the planned changes: {problem}", waiting=True)

    def wait_until(
        self, what: str, probe: Callable[[], tuple[bool, str]], timeout: float, *, every: float = 0.5
    ) -> str:
        """Poll until the probe's first value is true; returns at once when the change is only planned.

        Args:
            what: the awaited state in words.
            probe: returns whether it is reached, and what is seen now.
            timeout: seconds.
            every: seconds between two polls.

        Returns:
            what was seen last.

        Raises:
            WaitTimeout: the state was not seen in time.
        """
        if self.planning:
            return "only planned"
        deadline = time.monotonic() + timeout
        while True:
            reached, seen = probe()
            if reached:
                return seen
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"waited {timeout:.0f} s for: {what}. Seen last: {seen}")
            self.progress(timeout - (deadline - time.monotonic()), timeout, "s", what=what, seen=seen)
            time.sleep(every)

    def progress(self, done: float, total: float, unit: str, **extra: Any) -> None:
        """Tell how far the current step is; at most four times a second, the end always.

        Args:
            done: units done.
            total: units in all; 0 when unknown.
            unit: ``bytes``, ``documents``, ``chunks``, ``s``.
            extra: further values for the display, such as ``eta`` in seconds.
        """
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_SECONDS and done < total:
            return
        self._last_progress = now
        self.journal.append("progress", step=self._step, done=round(done, 1), total=round(total, 1), unit=unit, **extra)

    def note(self, sentence: str, *, waiting: bool = False) -> None:
        """Record one sentence.

        Args:
            sentence: what to know.
            waiting: it only says that a planned step waits for another one; the terminal leaves it out.
        """
        self.journal.append("note", step=self._step, text=sentence, waiting=waiting)

    def hold(self, reason: str) -> None:
        """Record why the run waits."""
        self.journal.append("hold", step=self._step, reason=reason)

    def begin_step(self, name: str, kind: str, params: dict[str, Any]) -> None:
        """Open a step; called by the step itself."""
        if self._step is not None:
            raise TypeError(f"{name} called inside {self._step}; steps do not nest")
        self._stop_before(name)
        self._step, self._kind, self._changes, self._last_progress = name, kind, [], 0.0
        self.journal.append("step_started", step=name, kind=kind, params=params)

    def _stop_before(self, step: str) -> None:
        stop = self.folder / STOP_FILE if self.folder is not None else None
        if stop is None or self.ending or not stop.exists():
            return
        stop.unlink()
        raise Stopped(f"stopped before {step}, as asked")

    def end_step_changes(self) -> list[str]:
        """Return the changes of the open step."""
        return self._changes

    def end_step(self, result: Result) -> None:
        """Close the open step and record its result."""
        self._step, self._changes = None, []
        self.results.append(result)
        record = result.to_json()
        record.pop("started")
        self.journal.append("step_finished", **record)

    @property
    def changes(self) -> int:
        """How many changes this run has made (or would make)."""
        return sum(len(result.changes) for result in self.results)
