"""Seal a run that nobody sealed: its notebook was executed by another papermill, or its terminal was killed."""

from __future__ import annotations

import socket
from datetime import datetime
from typing import TYPE_CHECKING, Any

from credscale.core.errors import CredscaleError, Refused
from credscale.core.journal import read_journal, run_status
from credscale.core.signals import uninterrupted
from credscale.frontends.run import DONE, FAILED, REFUSED
from credscale.frontends.session import JOURNAL, Request, finish_for

if TYPE_CHECKING:
    from pathlib import Path

_SAME_PROCESS_SECONDS = 1.0  # a process that began later than this after the first line has only taken over its number


def seal_run(folder: Path, *, ended: bool = False) -> bool:
    """Turn a run's folder into evidence; one whose process was killed is finished first.

    Args:
        folder: the artifact folder.
        ended: the run's process has ended, also where this machine cannot tell.

    Returns:
        whether it was sealed now; False when it was sealed before and is intact.

    Raises:
        Refused: the run is under way, or nobody can tell; nothing was changed.
        CredscaleError: it was sealed and is no longer what was signed.
        UnknownTarget: its environment file or runbook is gone.
        EnvironmentInvalid: the signing key or the environment file is wrong.
    """
    from credscale.core.environment import load
    from credscale.evidence import manifest
    from credscale.evidence.keys import load_or_create_key
    from credscale.evidence.seal import seal
    from credscale.frontends import catalogue
    from credscale.frontends.masking import secrets_of

    if (folder / manifest.SIGNATURE).exists():
        found = manifest.verify(folder)
        if not found.ok:
            raise CredscaleError(
                f"{folder} was sealed and is no longer what was signed: {'; '.join(found.problems)}. Sealing it again "
                f"would hide that. Nothing was changed. Look at it: invoke report.verify {folder}"
            )
        return False
    started = _started(folder)
    key = load_or_create_key()
    environment = load(started["environment_file"])
    with uninterrupted(drop=True):
        if run_status(read_journal(folder / JOURNAL)) == "killed":
            _refuse_living(folder, started, ended=ended)
            runbook = catalogue.runbook_behind(catalogue.named(started["runbook"]))
            finish_for(Request(runbook, environment, started["params"], started["ticket"], folder), *_ending(folder))
        seal(folder, secrets_of(environment), key)
    return True


def ending_of(folder: Path) -> tuple[str, int]:
    """Return how a run ended, in words and as the exit code that its command would have had.

    Args:
        folder: the artifact folder of a run with an end.
    """
    last = [event for event in read_journal(folder / JOURNAL) if event["event"] == "run_finished"][-1]
    text = f"{last['status']}: {last['text']}, {last['changes']} changes"
    if last["status"] == "ok":
        return text, DONE
    return text, REFUSED if last.get("refused") else FAILED


def _started(folder: Path) -> dict[str, Any]:
    journal = folder / JOURNAL
    first = next(read_journal(journal), {}) if journal.exists() else {}
    if first.get("event") != "run_started" or "environment_file" not in first:
        raise CredscaleError(
            f"{journal} does not begin with the start of a run, so what it would have to hide is not known. "
            "Nothing was changed"
        )
    return first


def _refuse_living(folder: Path, started: dict[str, Any], *, ended: bool) -> None:
    """Refuse to end a run whose process works on, or may do so on another machine."""
    import psutil

    where = f"process {started['pid']} on {started['host']}"
    if started["host"] != socket.gethostname():
        if ended:
            return
        raise Refused(
            f"the run in {folder} has no end, and only {started['host']} can tell whether its {where} is under way. "
            "Nothing was changed. Seal it there, or make sure that it has ended and add --ended"
        )
    began = datetime.fromisoformat(started["time"]).timestamp()
    try:
        process = psutil.Process(started["pid"])
        same = process.create_time() < began + _SAME_PROCESS_SECONDS
        alive = same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        alive = False
    if alive:
        raise Refused(
            f"the run in {folder} is under way ({where}). Nothing was changed. "
            f"Wait for its end: invoke report.show --run {folder}"
        )


def _ending(folder: Path) -> tuple[str, str]:
    """Say how a run ended that wrote no last line: by its last step."""
    open_step, failed = "", ""
    for event in read_journal(folder / JOURNAL):
        if event["event"] == "step_started":
            open_step = event["step"]
        elif event["event"] == "step_finished":
            open_step = ""
            failed = f"{event['step']} failed: {event['error']}" if event["status"] == "failed" else ""
    if failed:
        return "failed", failed
    where = f" during {open_step}" if open_step else ""
    return "aborted", f"the run's process ended{where} without finishing; report.seal finished for it"
