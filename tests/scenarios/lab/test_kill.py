"""kill -9 at any moment, then the same command again, completes the migration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from credscale.testing import wait_for
from tests.scenarios.lab.conftest import DEADLINE, DOCUMENTS, ROOT, Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(600)]


def attempt(stage: Stage, moment: str) -> int:
    """Run once, dying before or after the first change; return the exit code."""
    script = Path(__file__).with_name("interrupted_run.py")
    done = subprocess.run(
        [sys.executable, str(script), moment, str(stage.environment), stage.namespace],
        cwd=ROOT, env=stage.environ(), capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode


def changes(journal: list[dict[str, Any]], event: str) -> list[str]:
    """Return the steps of the changes: their texts hold folder names that differ from run to run."""
    return [line["step"] for line in journal if line["event"] == event]


def test_before_and_after_every_change_in_turn(stage: Stage) -> None:
    """Each attempt dies one change further on: right after it, and before every third as well.

    Dying before a change leaves what dying after the one before it leaves, but for a change announced and not made.
    """
    done: Counter[str] = Counter()
    for number in range(100):
        moment = "after" if number % 4 else "before"
        code = attempt(stage, moment)
        announced = changes(stage.journals()[-1], "change_started")
        if moment == "after" or code == 0:
            done.update(announced)
        if code == 0:
            break
        assert len(announced) == 1
    else:
        pytest.fail(f"never came to an end: {done}")
    once = {"backup", "restore_check", "stop_balancer", "set_chunk_size", "enable_sharding", "create_shard_key_index"}
    once |= {"shard_collection", "start_balancer", "record_verification"}
    assert done == Counter(once), "every change was made exactly once"
    final = stage.state()
    assert (final["even"], final["mode"], final["documents"]) == (True, "full", DOCUMENTS)
    code, answer = stage.json("--in-process")
    assert (code, answer["status"], answer["changes"]) == (0, "ok", 0)


@pytest.mark.parametrize("step", ["backup", "shard_collection", "monitor_distribution"])
def test_the_terminal_is_killed_during(stage: Stage, step: str) -> None:
    """The kernel must not outlive its terminal, nor its lease hold up the next run."""
    stage.faults.set(slow_move_seconds=0.3)
    process = stage.start()
    stage.wait_for_event(lambda event: event["event"] == "step_started" and event["step"] == step)
    kernel = next(event["pid"] for event in stage.journals()[-1] if event["event"] == "run_started")
    process.kill()
    process.communicate(timeout=DEADLINE)
    wait_for(lambda: not psutil.pid_exists(kernel), 10)
    stage.faults.clear()
    code, out = stage.run()
    assert code == 0, out
    final = stage.state()
    assert (final["even"], final["mode"], final["documents"]) == (True, "full", DOCUMENTS)


def test_the_kernel_is_killed(stage: Stage) -> None:
    stage.faults.set(slow_move_seconds=0.3)
    process = stage.start()
    stage.wait_for_event(lambda event: event["event"] == "step_started" and event["step"] == "shard_collection")
    kernel = next(event["pid"] for event in stage.journals()[-1] if event["event"] == "run_started")
    os.kill(kernel, signal.SIGKILL)
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "aborted" in out
    assert "Next:" in out
    journal = stage.journals()[-1]
    assert journal[-1]["event"] == "run_finished"
    assert journal[-1]["status"] == "aborted"
    assert stage.state()["mode"] == "full"  # put back by the terminal
    folder = max((stage.folder / "artifacts").glob("*/*/*"))
    assert '"completed"' not in _statuses_after(folder, "shard_collection")
    stage.faults.clear()
    assert stage.run()[0] == 0


def _statuses_after(folder: Path, step: str) -> str:
    """Return the papermill statuses of the step's cell and all later step cells, as text."""
    import json

    cells = json.loads((folder / "output.ipynb").read_text())["cells"]
    names = [cell["metadata"].get("credscale", {}).get("step") for cell in cells]
    later = [cell for cell, name in zip(cells, names, strict=True) if name][[n for n in names if n].index(step) :]
    return json.dumps([cell["metadata"].get("papermill", {}).get("status") for cell in later])


@pytest.mark.parametrize(("flags", "number"), [((), signal.SIGINT), (("--in-process",), signal.SIGTERM)])
def test_ctrl_c_stops_puts_back_and_seals(stage: Stage, number: signal.Signals, flags: tuple[str, ...]) -> None:
    stage.faults.set(slow_move_seconds=1.0)
    process = stage.start(*flags)
    stage.wait_for_event(lambda event: event["event"] == "progress" and event["step"] == "monitor_distribution")
    time.sleep(0.3)
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1, out
    assert "interrupted" in out
    journal = stage.journals()[-1]
    assert journal[-1].get("status") == "interrupted"
    assert stage.state()["mode"] == "full"
    assert (max((stage.folder / "artifacts").glob("*/*/*")) / "manifest.sig").exists()
    stage.faults.clear()
    assert stage.run("--in-process")[0] == 0
    assert stage.state()["even"]
