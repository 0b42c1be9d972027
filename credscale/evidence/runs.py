"""Past runs: what the artifact folders tell about them."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from credscale.core.errors import JournalBroken, UnknownTarget
from credscale.core.journal import read_journal

ARTIFACTS = Path("artifacts")
_TAIL = 65536
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class RunInfo:
    """One past run.

    Args:
        run: its id.
        environment: the environment's name.
        runbook: the runbook's name.
        started: UTC ISO-8601; empty when nothing tells.
        status: ok, failed, aborted or interrupted; killed without an end, broken when the folder cannot be read.
        changes: how many changes were made, or planned in a dry run.
        duration: seconds; None when the run has no end.
        ticket: the change ticket, or None.
        engine: what was run against, such as ``simulated``; empty when nothing tells.
        folder: the artifact folder.
    """

    run: str
    environment: str
    runbook: str
    started: str
    status: str
    changes: int
    duration: float | None
    ticket: str | None
    engine: str
    folder: Path


def list_runs(root: Path = ARTIFACTS, environment: str | None = None) -> list[RunInfo]:
    """Return the runs under a folder, newest first.

    Args:
        root: holds ``<environment>/<runbook>/<UTC>-<id>/``.
        environment: only this one.
    """
    # what begins with a dot is still on its way from another machine, or was left there
    folders = [folder for folder in root.glob("*/*/*") if folder.is_dir() and not folder.name.startswith(".")]
    if environment is not None:
        folders = [folder for folder in folders if folder.parent.parent.name == environment]
    # two runs may begin in the same second; the journal's milliseconds decide
    return sorted((read_run(folder) for folder in folders), key=lambda run: (run.started, run.run), reverse=True)


def find_run(root: Path, id_or_path: str | Path) -> Path:
    """Return the artifact folder of a run.

    Args:
        root: as for ``list_runs``.
        id_or_path: ``last``, a path, or the beginning of one run's id or folder name.

    Raises:
        UnknownTarget: no run, or more than one, begins so.
    """
    wanted = str(id_or_path)
    if isinstance(id_or_path, Path) or "/" in wanted:
        return _by_path(Path(id_or_path), root)
    runs = list_runs(root)
    if wanted == "last" and runs:
        return runs[0].folder
    found = [run for run in runs if wanted and any(name.startswith(wanted) for name in _names(run))]
    exact = [run for run in found if wanted in _names(run)]
    if len(exact) == 1 or len(found) == 1:
        return (exact if len(exact) == 1 else found)[0].folder
    if found:
        names = ", ".join(run.folder.name for run in found[:5])
        raise UnknownTarget(f"{len(found)} runs begin with {wanted!r}: {names}. Give more of the id")
    if wanted and (Path(wanted) / "journal.jsonl").exists():
        return Path(wanted)
    raise UnknownTarget(_nothing(wanted, runs, root))


def read_run(folder: Path) -> RunInfo:
    """Return what one artifact folder tells; a broken one has the status ``broken``."""
    stamp, _, run = folder.name.partition("-")
    names = (folder.parent.parent.name, folder.parent.name)
    try:
        first = next(read_journal(folder / "journal.jsonl"), {})
        if first.get("event") != "run_started":
            raise JournalBroken(folder / "journal.jsonl", 1, "is not run_started")
        status, changes, end = _ending(folder / "journal.jsonl")
        started = str(first["time"])
        duration = None if end is None else (_moment(end) - _moment(started)).total_seconds()
    except (OSError, JournalBroken, KeyError, TypeError, ValueError, RecursionError):
        return RunInfo(run or folder.name, *names, _started(stamp), "broken", 0, None, None, "", folder)
    ticket = first.get("ticket")
    return RunInfo(
        str(first.get("run") or run or folder.name),
        *names,
        started,
        status,
        changes,
        duration,
        str(ticket) if ticket else None,
        str(first.get("engine") or ""),
        folder,
    )


def _ending(journal: Path) -> tuple[str, int, str | None]:
    last = _last_event(journal)
    if last.get("event") == "run_finished":
        return str(last["status"]), int(last["changes"]), str(last["time"])
    done, end = 0, None
    for event in read_journal(journal):
        done += event.get("event") == "change_finished" and event.get("status") == "done"
        end = event if event.get("event") == "run_finished" else end
    return ("killed", done, None) if end is None else (str(end["status"]), int(end["changes"]), str(end["time"]))


def _last_event(journal: Path) -> dict[str, Any]:
    """Return the last whole line without reading the rest: a long run has many progress lines."""
    with journal.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        lines = file.read().split(b"\n")
    try:
        event = json.loads(lines[-2])
    except (IndexError, ValueError):
        return {}
    return event if isinstance(event, dict) else {}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _started(stamp: str) -> str:
    try:
        moment = datetime.strptime(stamp, _STAMP)  # noqa: DTZ007 - the stamp is UTC by definition
    except ValueError:
        return ""
    return moment.isoformat(timespec="milliseconds") + "Z"


def _names(run: RunInfo) -> set[str]:
    return {run.run, run.folder.name, run.folder.name.partition("-")[2]} - {""}


def _by_path(path: Path, root: Path) -> Path:
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise UnknownTarget(_nothing(str(path), list_runs(root), root))
    return path


def _nothing(wanted: str, runs: list[RunInfo], root: Path) -> str:
    if not runs:
        return f"no run is called {wanted!r}: there are no runs under {root}/"
    names = {name: run for run in runs for name in _names(run)}
    near = difflib.get_close_matches(wanted.rstrip("/").rpartition("/")[2], names, n=1, cutoff=0.0)
    nearest = names[near[0]] if near else runs[0]
    return f"no run is called {wanted!r}. The nearest is {nearest.run!r} ({nearest.folder}). See: invoke report.list"
