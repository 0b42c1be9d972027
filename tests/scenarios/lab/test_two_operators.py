"""Two operators cannot work on one cluster; a stale lease is taken over and says whose it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from credscale.core.lease import machine
from tests.scenarios.lab.conftest import DEADLINE, Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


def test_a_second_run_on_the_same_machine_is_refused(stage: Stage) -> None:
    stage.faults.set(slow_move_seconds=0.5)
    first = stage.start("--in-process")
    stage.wait_for_event(lambda event: event["event"] == "change_started")
    code, out = stage.run("--in-process")
    assert code == 3, out
    assert "Nothing was changed" in out
    assert "pid" in out
    stage.faults.clear()
    out, _ = first.communicate(timeout=DEADLINE)
    assert first.returncode == 0, out


def lease(machine_id: str, seconds: float) -> dict[str, object]:
    holder = {
        "run": "20261123T020000Z-abcdef",
        "operator": "mallory",
        "host": "elsewhere",
        "machine": machine_id,
        "pid": 4711,
        "process_started": 1.5,
    }
    return {"_id": "run", "holder": holder, "expires": datetime.now(UTC) + timedelta(seconds=seconds)}


def test_a_lease_of_another_machine_refuses(stage: Stage) -> None:
    leases = stage.client["credscale"]["lease"]
    leases.replace_one({"_id": "run"}, lease("other-host", 60), upsert=True)
    code, out = stage.run("--in-process")
    assert code == 3, out
    assert "mallory on elsewhere" in " ".join(out.split())
    assert stage.state()["key"] == {}
    code, answer = stage.json("--in-process")
    assert (code, answer["status"], answer["changes"]) == (3, "refused", 0)
    leases.delete_many({})


@pytest.mark.parametrize(("machine_id", "seconds"), [("other-host", -1.0), (machine(), 60.0)])
def test_a_stale_lease_is_taken_over_with_a_note(stage: Stage, machine_id: str, seconds: float) -> None:
    stage.client["credscale"]["lease"].replace_one({"_id": "run"}, lease(machine_id, seconds), upsert=True)
    code, out = stage.run("--in-process")
    assert code == 0, out
    notes = [event["text"] for event in stage.journals()[-1] if event["event"] == "note"]
    assert any("mallory" in note and "stale lease" in note for note in notes)


def test_a_killed_operators_balancer_is_put_back_by_the_next_one(stage: Stage) -> None:
    """The first one stopped the balancer on another machine and died; its lease ran out."""
    kept = lease("other-host", -1.0) | {"kept": {"balancer": {"mode": "full", "autosplit": True}}}
    stage.client["credscale"]["lease"].replace_one({"_id": "run"}, kept, upsert=True)
    stage.client.admin.command("balancerStop")
    code, out = stage.run("--in-process")
    assert code == 0, out
    assert stage.state()["mode"] == "full"
