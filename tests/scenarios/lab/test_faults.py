"""Every fault of the lab is detected, named, and leads to the right exit code."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.lab.conftest import Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


def finding(stage: Stage, step: str) -> dict[str, object]:
    """Return the end of a step in the newest journal."""
    return next(
        event for event in reversed(stage.journals()[-1]) if event["event"] == "step_finished" and event["step"] == step
    )


def test_lost_documents_are_named(stage: Stage) -> None:
    ids = {str(document["_id"]) for document in stage.collection.find({}, {"_id": 1})}
    stage.faults.set(lose=3)
    code, out = stage.run("--in-process")
    assert code == 1, out
    remaining = {str(document["_id"]) for document in stage.collection.find({}, {"_id": 1})}
    output = finding(stage, "verify_digest")["output"]
    assert isinstance(output, dict)
    assert set(output["lost"]) == ids - remaining
    assert len(output["lost"]) == 3
    assert str(stage.folder / "backups") in out.replace("\n", "")
    assert stage.state()["mode"] == "full"


def test_orphans_are_reported_and_are_no_loss(stage: Stage) -> None:
    stage.faults.set(leave_orphans=5)
    code, out = stage.run("--in-process")
    assert code == 0, out
    output = finding(stage, "verify_counts")["output"]
    assert isinstance(output, dict)
    assert sum(row["orphaned"] for row in output["rows"]) == 5


def test_aborted_migrations_are_diagnosed_with_the_recipients_reason(stage: Stage) -> None:
    stage.faults.set(abort="there is a stray collection on the recipient")
    code, out = stage.run("--in-process", "--stall-minutes", "0.05")
    assert code == 1, out
    assert "stray collection on the recipient" in " ".join(out.split())
    assert stage.state()["mode"] == "full"
    stage.faults.clear()
    assert stage.run("--in-process")[0] == 0


def test_jumbo_chunks_are_diagnosed(stage: Stage) -> None:
    stage.faults.set(jumbo=100)
    code, out = stage.run("--in-process", "--stall-minutes", "0.05")
    assert code == 1, out
    assert "jumbo" in out


def test_a_pause_shorter_than_the_stall_is_waited_for(stage: Stage) -> None:
    stage.faults.set(pause=True)

    def go_on() -> None:
        stage.wait_for_event(lambda event: event["event"] == "progress" and event["step"] == "monitor_distribution")
        time.sleep(2)
        stage.faults.clear()

    helper = threading.Thread(target=go_on)
    helper.start()
    code, out = stage.run("--in-process")
    helper.join(30)
    assert code == 0, out
    assert stage.state()["even"]


def test_a_pause_longer_than_the_stall_ends_the_run(stage: Stage) -> None:
    stage.faults.set(pause=True)
    code, out = stage.run("--in-process", "--stall-minutes", "0.05")
    assert code == 1, out
    assert "no chunk" in " ".join(out.split())
    stage.faults.clear()
    assert stage.run("--in-process")[0] == 0
