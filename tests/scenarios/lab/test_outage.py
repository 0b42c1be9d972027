"""mongos goes away in the middle and comes back."""

from __future__ import annotations

import os
import signal
import time

import pytest

from credscale import lab as labs
from credscale.testing import TUNING
from tests.scenarios.lab.conftest import DEADLINE, DOCUMENTS, Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


@pytest.mark.parametrize("step", ["backup", "monitor_distribution", "verify_digest"])
def test_mongos_is_killed_and_restarted_during(stage: Stage, step: str) -> None:
    stage.faults.set(slow_move_seconds=0.4)
    process = stage.start("--in-process")
    stage.wait_for_event(lambda event: event["event"] == "step_started" and event["step"] == step)
    state = labs.status(stage.lab.directory)
    assert state is not None
    os.kill(state.process("mongos").pid, signal.SIGKILL)
    time.sleep(2)
    labs.up(stage.lab.directory, tuning=TUNING)
    stage.faults.clear()
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, out
    final = stage.state()
    assert (final["even"], final["mode"], final["documents"]) == (True, "full", DOCUMENTS)


def test_mongos_is_gone_for_good(stage: Stage) -> None:
    text = stage.environment.read_text()
    uri = "mongodb://127.0.0.1:1/"  # nothing listens there
    lines = [line for line in text.splitlines() if not line.startswith(("lab:", "mongo:"))]
    stage.environment.write_text("\n".join([*lines, f"mongo: {{uri: '{uri}'}}"]))
    code, out = stage.run("--in-process")
    assert code == 1
    assert "127.0.0.1:1" in out
    assert "no mongos answered" in out
    assert "Changed so far" in out
