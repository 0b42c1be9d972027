"""kill -9 at any moment, then the same command again, completes the migration."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

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
