"""Elections of the config servers' and the shards' primaries, and lost replies: waited for, and nothing done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure, PyMongoError

from credscale.core.context import Context
from credscale.frontends.run import Flags, run
from credscale.mongo.cluster.failures import explain_failure
from credscale.testing import wait_for
from runbooks.shard_migrate import shard_migrate
from tests.scenarios.lab.conftest import DOCUMENTS, ROOT, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
SECONDS = 0.8


def primary_of(stage: Stage) -> str:
    """Return the shard on which the stage's collection lies before it is sharded."""
    database = stage.client["config"]["databases"].find_one({"_id": stage.namespace.partition(".")[0]})
    assert database is not None
    return str(database["primary"])


def in_this_process(stage: Stage, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> int:
    """Run a migration in this process; return the exit code."""
    monkeypatch.setenv("CREDSCALE_ARTIFACTS", str(stage.folder / "artifacts"))
    monkeypatch.chdir(ROOT)
    params = {"namespace": stage.namespace}
    return run(shard_migrate, Flags(env=str(stage.environment), in_process=True, params=params, **flags))


def effects(stage: Stage) -> dict[str, int]:
    """Count what must have happened once."""
    config, database = stage.client["config"], stage.client[stage.namespace.partition(".")[0]]
    logged = {"what": "shardCollection.end", "ns": stage.namespace}
    names = [index["name"] for index in database[stage.namespace.partition(".")[2]].list_indexes()]
    return {
        "sharded": config["changelog"].count_documents(logged),
        "indexed": names.count("createdAt_hashed_userId_1"),
        "collections": config["collections"].count_documents({"_id": stage.namespace}),
    }


ONCE = {"sharded": 1, "indexed": 1, "collections": 1}


def check_done(stage: Stage) -> None:
    """Fail unless the migration is complete and each effect is there once."""
    done = stage.state()
    assert (done["even"], done["mode"], done["documents"]) == (True, "full", DOCUMENTS)
    assert effects(stage) == ONCE


def test_an_election_of_everybody_at_each_step_and_at_each_change(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Config servers and both shards lose their primaries when a step begins, and again when it changes something."""
    sets = ["config", *(shard["_id"] for shard in stage.client["config"]["shards"].find())]
    begun: list[str] = []
    begin, apply = Context.begin_step, Context.apply

    def begin_step(self: Context, name: str, kind: str, params: dict[str, Any]) -> None:
        begin(self, name, kind, params)
        if not self.dry_run:
            begun.append(name)
            stage.faults.elect(*sets, seconds=SECONDS)

    def apply_change(self: Context, what: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        def during_an_election(*inner: Any, **named: Any) -> Any:
            stage.faults.elect(*sets, seconds=SECONDS)
            return func(*inner, **named)

        return apply(self, what, during_an_election, *args, **kwargs)

    monkeypatch.setattr(Context, "begin_step", begin_step)
    monkeypatch.setattr(Context, "apply", apply_change)
    code = in_this_process(stage, monkeypatch)
    assert code == 0, capsys.readouterr().out
    assert {"preflight", "shard_collection", "monitor_distribution", "verify_digest", "restore_balancer"} <= set(begun)
    stage.faults.clear()
    check_done(stage)


@pytest.mark.parametrize(
    ("step", "command"),
    [
        ("shard_collection", "shardCollection"),
        ("create_shard_key_index", "createIndexes"),
        ("enable_sharding", "enableSharding"),
        ("stop_balancer", "balancerStop"),
        ("start_balancer", "balancerStart"),
    ],
)
def test_a_lost_reply_is_looked_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str, command: str
) -> None:
    """The command was carried out and its answer lost: one effect, and the run goes on."""
    begin = Context.begin_step

    def begin_step(self: Context, name: str, kind: str, params: dict[str, Any]) -> None:
        begin(self, name, kind, params)
        if name == step and not self.dry_run:
            stage.faults.set(lose_reply=command)

    monkeypatch.setattr(Context, "begin_step", begin_step)
    code = in_this_process(stage, monkeypatch)
    assert code == 0, capsys.readouterr().out
    check_done(stage)


def test_an_election_that_does_not_end_stops_the_run_with_advice_and_the_next_one_puts_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("credscale.mongo.cluster.commands.retrying.__kwdefaults__", {"deadline": 2.0})
    monkeypatch.setattr("credscale.mongo.cluster.commands.run.__kwdefaults__", {"deadline": 2.0})
    apply = Context.apply

    def apply_change(self: Context, what: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._step == "enable_sharding" and not self.dry_run:
            stage.faults.elect("config", primary_of(stage), seconds=3600.0)
        return apply(self, what, func, *args, **kwargs)

    monkeypatch.setattr(Context, "apply", apply_change)
    code = in_this_process(stage, monkeypatch)
    out = " ".join(capsys.readouterr().out.split())
    assert code == 1, out
    assert "a replica set" in out or "no primary of the named replica set" in out
    assert "run the same command again" in out
    assert "Next: invoke shard-migrate" in out
    monkeypatch.undo()
    stage.faults.clear()
    assert stage.state()["mode"] == "off", "the killed cluster could not put it back"
    code, out = stage.run("--in-process")
    assert code == 0, out
    check_done(stage)


class TestFaults:
    """The faults do what they say, with the errors that mongos gives."""

    def test_an_election_refuses_what_needs_the_primary_and_ends(self, stage: Stage) -> None:
        stage.faults.elect("config", seconds=3600.0)
        found = []
        for _ in range(4):
            with pytest.raises(PyMongoError) as caught:
                stage.client.admin.command("balancerStatus")
            found.append(explain_failure(caught.value).code)
        assert set(found) == {6, 133}
        stage.faults.elect("config", seconds=3600.0, codes=[10107])
        with pytest.raises(NotPrimaryError):
            stage.client.admin.command("balancerStatus")
        assert stage.client.admin.command("listShards")["ok"] == 1.0, "read from any config server (recorded)"
        assert stage.collection.count_documents({}) == DOCUMENTS
        stage.faults.elect(primary_of(stage), seconds=0.3)
        wait_for(lambda: _answers(lambda: stage.collection.count_documents({})), 10)

    def test_an_unreachable_shard_is_named(self, stage: Stage) -> None:
        stage.faults.set(unreachable=primary_of(stage))
        told = f'read preference {{ mode: "primary" }} for set {primary_of(stage)}'
        with pytest.raises(OperationFailure, match=told) as caught:
            stage.collection.find_one({})
        assert caught.value.code == 133
        with pytest.raises(OperationFailure, match="for set"):
            list(stage.client.admin.aggregate([{"$currentOp": {}}]))

    def test_a_lost_reply_is_lost_once(self, stage: Stage) -> None:
        stage.faults.set(lose_reply="balancerStop")
        with pytest.raises(AutoReconnect):
            stage.client.admin.command("balancerStop")
        assert stage.client.admin.command("balancerStatus")["mode"] == "off"
        assert stage.client.admin.command("balancerStop")["ok"] == 1.0


def _answers(action: Callable[[], Any]) -> bool:
    try:
        action()
    except PyMongoError:
        return False
    return True
