"""What the tasks of a generated Airflow DAG do on the worker, in the project's folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from credscale.core.errors import CredscaleError, UnknownTarget
from credscale.frontends.session import JOURNAL, new_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUT, OUTPUT, PLAN = "input.ipynb", "output.ipynb", "plan.json"


def plan(runbook: str, environment: str, ticket: str, parameters: dict[str, Any]) -> str:
    """Run a runbook dry and make the folder for the run that follows.

    What is said goes to the task's log.

    Args:
        runbook: its task name.
        environment: as ``--env``.
        ticket: the change ticket, may be empty.
        parameters: every parameter of the runbook.

    Returns:
        the absolute path of the new artifact folder, with the notebook to run and the plan.

    Raises:
        CredscaleError: a notebook is stale, or the dry run failed; its output says why.
    """
    from credscale.core.environment import load
    from credscale.frontends.notebook import path_of
    from credscale.frontends.schedule.asked import find_runbook

    procedure, inventory = find_runbook(runbook), load(environment)
    _invoke(["notebooks.check"])
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    about = [f"--env={environment}", *([f"--ticket={ticket}"] if ticket else [])]
    answer = json.loads(_invoke([runbook, *about, "--dry-run", "--json", *flags]).splitlines()[-1])
    folder = new_folder(inventory.name, procedure.name).resolve()
    shutil.copyfile(Path(answer["artifacts"]) / PLAN, folder / PLAN)
    shutil.copyfile(path_of(procedure), folder / INPUT)
    return str(folder)


def seal(folder: str) -> None:
    """Seal the run's evidence, and fail unless the run did what it should.

    Args:
        folder: as ``plan`` returned it; empty when the dry run failed.

    Raises:
        CredscaleError: nothing was run, it was refused, it failed, or its evidence lies elsewhere or cannot be sealed.
    """
    if not folder:
        raise UnknownTarget("nothing was run: the task plan made no folder, and its log says why. Nothing was changed")
    if not Path(folder).is_dir():
        raise CredscaleError(
            f"{folder} is not on this worker, so nothing could be sealed; what was changed stands in the log of the "
            "task run. Put CREDSCALE_ARTIFACTS on a share, or give the DAG a queue of one worker, and seal it where it "
            f"is: invoke report.seal {folder}"
        )
    if not (Path(folder) / JOURNAL).exists():
        _drop(Path(folder))
        raise CredscaleError(
            "the run ended before it began: refused, or its kernel did not start; the log of the task run says why. "
            "Nothing was changed"
        )
    _invoke(["report.seal", folder, "--ended"])


def _invoke(arguments: Sequence[str]) -> str:
    """Run an invoke command of the project, say on standard output what it says, and return its standard output."""
    command = [sys.executable, "-m", "invoke", *arguments]
    with (
        tempfile.TemporaryFile() as answer,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
        ) as process,
    ):
        for line in process.stderr or ():
            sys.stdout.write(line)
        process.wait()
        answer.seek(0)
        text = answer.read().decode(errors="replace")
    sys.stdout.write(text)
    if process.returncode:
        raise CredscaleError(f"invoke {arguments[0]} ended with exit code {process.returncode}; it says why above")
    return text


def _drop(folder: Path) -> None:
    """Remove the folder of a run that never began; its plan is not evidence of anything."""
    for name in (INPUT, OUTPUT, PLAN):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()
