"""The terminal or the kernel is killed, or Ctrl-C pressed, in the middle of a step; the next run completes it."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from credscale.testing import wait_for
from tests.scenarios.lab.conftest import DEADLINE, DOCUMENTS, Stage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(600)]


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
