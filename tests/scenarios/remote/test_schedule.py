"""Runs that a scheduler starts: a papermill of its own, and Airflow where ``$CREDSCALE_AIRFLOW_PYTHON`` has it.

That Python needs apache-airflow, apache-airflow-providers-papermill and credscale.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from credscale.core.journal import read_journal
from credscale.evidence import manifest
from credscale.testing import REQUIRE
from tests.scenarios.lab.conftest import DEADLINE, ROOT, Stage, stage

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]

__all__ = ["stage"]

PAPERMILL = (
    "import json, sys, papermill; papermill.execute_notebook(*sys.argv[1:3], parameters=json.loads(sys.argv[3]))"
)
AIRFLOW = "CREDSCALE_AIRFLOW_PYTHON"


@pytest.fixture
def python() -> str:
    """Return the Python that has Airflow, or skip; fail where it must be there."""
    named = os.environ.get(AIRFLOW, "")
    if named:
        return named
    if {name.strip() for name in os.environ.get(REQUIRE, "").split(",")} & {"airflow", "all"}:
        pytest.fail(f"{AIRFLOW} is not set, and {REQUIRE} says that Airflow must be there", pytrace=False)
    pytest.skip(f"needs Airflow: set {AIRFLOW} to a Python that has it, its papermill provider and credscale")


def invoke(stage: Stage, *arguments: str) -> tuple[int, str]:
    """Run an invoke command of the checkout; return exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *arguments], cwd=ROOT, env=stage.environ(), text=True, timeout=DEADLINE,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_a_kernel_killed_under_another_papermill_is_finished_and_sealed(stage: Stage) -> None:
    """The balancer was off; the run switched it on for its moves, and report.seal puts it back."""
    folder = stage.folder / f"artifacts/stage-{os.getpid()}/shard-migrate/20260101T020000Z-abc123"
    parameters = {
        "environment": str(stage.environment), "run_folder": str(folder), "namespace": stage.namespace,
        "chunk_size_mb": 1, "window": "", "backup_directory": str(stage.folder / "backups"), "stall_minutes": 0.5,
    }  # fmt: skip
    stage.client.admin.command("balancerStop")
    stage.faults.set(slow_move_seconds=3.0)
    notebook = str(ROOT / "notebooks/shard_migrate.ipynb")
    process = subprocess.Popen(
        [sys.executable, "-c", PAPERMILL, notebook, str(stage.folder / "output.ipynb"), json.dumps(parameters)],
        cwd=ROOT, env=stage.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        stage.wait_for_event(lambda event: event["event"] == "step_started" and event["step"] == "monitor_distribution")
        code, out = invoke(stage, "report.seal", str(folder))
        assert code == 3, out
        assert "is under way" in out
        kernel = next(event["pid"] for event in stage.journals()[-1] if event["event"] == "run_started")
        os.kill(kernel, signal.SIGKILL)
        process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    stage.faults.clear()
    assert stage.state()["mode"] == "full"
    code, out = invoke(stage, "report.seal", str(folder))
    assert code == 1, out
    assert "aborted: the run's process ended during monitor_distribution" in out
    assert stage.state()["mode"] == "off"
    assert manifest.verify(folder).problems == []
    code, out = invoke(stage, "report.seal", str(folder))
    assert code == 1, out
    assert "was sealed already" in out


@pytest.mark.parametrize("confirmed", [True, False])
def test_the_dag_runs_in_airflow(python: str, stage: Stage, confirmed: bool) -> None:
    """From the command that writes the DAG to evidence that is intact; unconfirmed, nothing is changed."""
    name, hostile = f"stage-{os.getpid()}", "{{ ds }} $(id) 'ü\"\n"
    text = stage.environment.read_text().replace("confirm: none", "confirm: type-name, require_ticket: true")
    stage.environment.write_text(text)
    dags, home = stage.folder / "dags", stage.folder / "airflow"
    code, out = invoke(
        stage, "schedule.airflow", "--runbook", "shard-migrate", "--env", str(stage.environment), "--out", str(dags),
        "--project", str(ROOT), "--set", f"namespace={stage.namespace}", "--set", f"external_restore_tested={hostile}",
    )  # fmt: skip
    assert code == 0, out
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    airflow = [python, "-m", "airflow"]
    _run([*airflow, "db", "migrate"], stage.environ(**settings))
    conf = '{"ticket": "CHG-7", "confirm": "%s"}' % (name if confirmed else "")
    dag = f"credscale-{name}-shard-migrate"
    code, out = _run([*airflow, "dags", "test", dag, "--conf", conf], stage.environ(**settings), check=False)
    runs = sorted((stage.folder / f"artifacts/{name}/shard-migrate").iterdir())
    if not confirmed:
        assert code != 0, out
        assert f'Set the parameter confirm to "{name}"' in out
        assert len(runs) == 1, "only the dry run leaves evidence"
        assert stage.state()["key"] == {}
        return
    assert code == 0, out
    _, real = runs
    assert manifest.verify(real).problems == []
    started = next(read_journal(real / "journal.jsonl"))
    assert (started["ticket"], started["params"]["external_restore_tested"]) == ("CHG-7", hostile)
    final = stage.state()
    assert (final["even"], final["mode"]) == (True, "full")


def _run(command: list[str], environment: Mapping[str, str], *, check: bool = True) -> tuple[int, str]:
    done = subprocess.run(
        command, env=environment, cwd=Path(environment["AIRFLOW_HOME"]).parent, text=True, timeout=DEADLINE,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stdout
    return done.returncode, done.stdout
