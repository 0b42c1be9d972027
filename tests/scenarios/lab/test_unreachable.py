"""A shard goes away: for a while it is waited for, for good the run says which one, and the next run mends."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from credscale import lab as labs
from credscale.core.context import Context
from credscale.testing import TUNING
from tests.scenarios.lab.test_elections import check_done, in_this_process, primary_of

if TYPE_CHECKING:
    from tests.scenarios.lab.conftest import Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
AWAY = 5.0


def kill_shard(stage: Stage, name: str) -> None:
    """Kill the process of a shard, as a crash or a lost machine does.

    SecantusDB writes its journal now and then, whatever the client asked for: without the pause it would forget writes
    that MongoDB has on disk when it acknowledges them, such as what the balancer was before.
    """
    time.sleep(1)
    state = labs.status(stage.lab.directory)
    assert state is not None
    os.kill(next(each.pid for each in state.processes if each.plan.replica_set == name), signal.SIGKILL)


def at_step(monkeypatch: pytest.MonkeyPatch, step: str, action: Any) -> None:
    """Do something once, when a step of a real run begins."""
    begin, done = Context.begin_step, list[str]()

    def begin_step(self: Context, name: str, kind: str, params: dict[str, Any]) -> None:
        begin(self, name, kind, params)
        if name == step and not self.dry_run and not done:
            done.append(name)
            action()

    monkeypatch.setattr(Context, "begin_step", begin_step)


@pytest.mark.parametrize("step", ["shard_collection", "monitor_distribution"])
def test_a_shard_that_is_away_for_a_while_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    """It is killed and comes back with its data; in the monitoring, while chunks move to or from it."""
    name = primary_of(stage)
    stage.faults.set(slow_move_seconds=0.3)

    def come_back() -> None:
        time.sleep(AWAY)
        labs.up(stage.lab.directory, tuning=TUNING)

    helper = threading.Thread(target=come_back)

    def go_away() -> None:
        kill_shard(stage, name)
        helper.start()

    at_step(monkeypatch, step, go_away)
    code = in_this_process(stage, monkeypatch)
    helper.join(60)
    assert code == 0, capsys.readouterr().out
    check_done(stage)


def test_a_shard_that_is_gone_for_good_ends_the_run_by_name(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = primary_of(stage)
    for function in ("retrying", "run"):
        monkeypatch.setattr(f"credscale.mongo.cluster.commands.{function}.__kwdefaults__", {"deadline": 3.0})
    monkeypatch.setattr("credscale.mongo.sharding.indexing.DEADLINE", 3.0)
    at_step(monkeypatch, "create_shard_key_index", lambda: kill_shard(stage, name))
    code = in_this_process(stage, monkeypatch)
    out = " ".join(capsys.readouterr().out.split())
    assert code == 1, out
    assert f"for set {name} (FailedToSatisfyReadPreference 133): no primary of the named replica set answers" in out
    assert "Bring a majority of the members of the set that the text names up, then run the same command again" in out
    assert "Next: invoke shard-migrate" in out
    monkeypatch.undo()
    labs.up(stage.lab.directory, tuning=TUNING)
    code, out = stage.run("--in-process")
    assert code == 0, out
    check_done(stage)
