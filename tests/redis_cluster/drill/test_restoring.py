"""Whatever a drill has left is put back, by what the machines say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed, Refused, StepFailed
from credscale.core.journal import Journal
from credscale.core.lease import MemoryLease
from credscale.core.secrets import Secrets
from credscale.core.sections import Redis
from credscale.core.step import Finding, Status, step
from credscale.redis_cluster.drill import partition, processes, restoring
from credscale.redis_cluster.drill.plan import NodeState
from credscale.redis_cluster.drill.restoring import Broken
from credscale.redis_cluster.drill.starting import Way
from credscale.redis_cluster.drill.steps import restore_nodes
from tests.redis_cluster.drill.machines import FakeMachine
from tests.redis_cluster.drill.test_processes import SURVEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.step import Result

FIRST, SECOND = "127.0.0.1:7000", "127.0.0.1:7001"
WAY = Way("systemd", "redis@7000.service")


class FakeClients:
    """Every machine is the same one."""

    def __init__(self, machine: FakeMachine) -> None:
        self.only = machine

    def machine(self, _name: str) -> FakeMachine:
        return self.only


class LostLease(MemoryLease):
    """A lease that lies where the cluster is broken."""

    def check(self) -> None:
        raise Refused("the lease ran out")


@step()
def try_to_put_back(ctx: Context) -> Finding:
    """Put back as a step, so that changes may be made."""
    moves = restoring.put_back(ctx)
    return Finding(" ".join(f"{move.kind} {move.address}" for move in moves))


@step()
def plan_fault(ctx: Context) -> Finding:
    """Plan a fault and its restoration."""
    restoring.remember(ctx, Broken(FIRST, "kill", WAY))
    ctx.apply("kill it", pytest.fail, "a dry run changes nothing")
    return Finding(" ".join(move.kind for move in (*restoring.put_back(ctx), *restoring.put_back(ctx))))


def context(machine: FakeMachine, **more: Any) -> Context:
    environment = Environment(name="staging", redis=Redis(nodes=[FIRST, SECOND]), path=Path("x.yaml"))
    secrets = Secrets()
    clients: Any = FakeClients(machine)
    return Context(environment, Journal(None, secrets.mask), clients, secrets, **more)


def seen(monkeypatch: pytest.MonkeyPatch, *nodes: NodeState) -> None:
    monkeypatch.setattr(restoring, "states", lambda _ctx: nodes)


def failure(step_: Callable[[Context], Result], ctx: Context) -> Result:
    with pytest.raises(StepFailed) as caught:
        step_(ctx)
    return caught.value.result


def test_nothing_to_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, NodeState(FIRST, runs=True), NodeState(SECOND, runs=None))
    machine = FakeMachine()
    ctx = context(machine)
    ctx.lease.remember(restoring.KEY, Broken(FIRST, "freeze").to_json())
    result = restore_nodes(ctx)
    assert (result.status, machine.ran) == (Status.OK, [])
    assert "nothing to put back" in result.summary
    assert ctx.lease.recall(restoring.KEY) is None, "what is put back needs no memory"


def test_frozen_cut_off_and_dead_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is kept in the cluster: where that is broken, its loss must not keep us from putting back."""
    seen(monkeypatch, NodeState(FIRST, runs=False), NodeState(SECOND, runs=True, frozen=(41,), cut=True))
    machine = FakeMachine({"State": "S"})
    ctx = context(machine, lease=LostLease())
    restoring.remember(ctx, Broken(FIRST, "kill", WAY))
    result = try_to_put_back(ctx)
    assert result.summary == f"join {SECOND} resume {SECOND} start {FIRST}"
    assert machine.ran[0][-4:] == ["delete", "table", "inet", partition.table_of(SECOND)]
    assert any(argv[-2:] == ["CONT", "41"] for argv in machine.ran)
    assert machine.ran[-1] == ["systemctl", "start", "redis@7000.service"]
    with pytest.raises(Refused):
        ctx.lease.check()


def test_dead_node_of_which_nobody_knows_how_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be put back is, and the rest is told."""
    seen(monkeypatch, NodeState(FIRST, runs=False), NodeState(SECOND, runs=True, frozen=(41,)))
    machine = FakeMachine({"State": "S"})
    result = failure(try_to_put_back, context(machine))
    assert any(argv[-2:] == ["CONT", "41"] for argv in machine.ran)
    assert result.error is not None
    assert f"{FIRST}: nothing listens there" in result.error
    assert "Start it on redis1 by hand" in result.error
    assert len(result.changes) == 1


def test_failure_of_one_does_not_keep_the_next_from_being_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, NodeState(FIRST, runs=True, cut=True), NodeState(SECOND, runs=True, frozen=(41,)))
    table = partition.table_of(FIRST)
    machine = FakeMachine({"State": "S", "list tables": table})
    result = failure(try_to_put_back, context(machine))
    assert result.error is not None
    assert f"nft delete table inet {table}" in result.error
    assert any(argv[-2:] == ["CONT", "41"] for argv in machine.ran)


def test_dry_run_plans_the_restoration_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, NodeState(FIRST, runs=True), NodeState(SECOND, runs=True))
    machine = FakeMachine()
    result = plan_fault(context(machine, dry_run=True))
    assert (result.status, result.summary, machine.ran) == (Status.PLANNED, "start", [])
    assert result.changes == ["kill it", f"start {FIRST} again on redis1: systemctl start redis@7000.service"]


def test_dry_run_plans_once_what_an_earlier_drill_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, NodeState(FIRST, runs=False), NodeState(SECOND, runs=True, frozen=(41,)))
    ctx = context(FakeMachine(), dry_run=True)
    ctx.lease.remember(restoring.KEY, Broken(FIRST, "kill", WAY).to_json())
    first, again = restore_nodes(ctx), restore_nodes(ctx)
    assert (first.status, len(first.changes)) == (Status.PLANNED, 2)
    assert (again.status, again.changes) == (Status.OK, [])


def test_earlier_drill_that_was_never_put_back() -> None:
    ctx = context(FakeMachine())
    restoring.remember(ctx, Broken(FIRST, "freeze"))
    with pytest.raises(Refused, match=r"Nothing was broken.*invoke redis.restore-nodes"):
        restoring.remember(ctx, Broken(SECOND, "kill", WAY))


def test_states_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine({"/proc/net/tcp": SURVEY, "list tables": f"table inet {partition.table_of(FIRST)}"})
    assert restoring.states(context(machine)) == (
        NodeState(FIRST, runs=True, cut=True),
        NodeState(SECOND, runs=True, frozen=(42,)),
    )
    monkeypatch.setattr(restoring, "_connects", lambda _address: False)
    empty = FakeMachine({"/proc/net/tcp": "me 0 root\n"})
    assert [node.runs for node in restoring.states(context(empty))] == [False, False]
    monkeypatch.setattr(restoring, "_connects", lambda _address: True)
    assert [node.runs for node in restoring.states(context(empty))] == [True, True]


def test_machine_that_cannot_be_reached_is_told_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectFailed("redis1 is not reached")

    monkeypatch.setattr(processes, "survey", refuse)
    ctx = context(FakeMachine())
    assert restore_nodes(ctx).status is Status.OK
    notes = [event["text"] for event in ctx.journal.events if event["event"] == "note"]
    assert notes == [f"whether {FIRST}, {SECOND} must be put back is unknown: redis1 is not reached"]


def test_what_a_drill_broke_on_a_machine_out_of_reach_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, NodeState(FIRST, runs=None), NodeState(SECOND, runs=True))
    ctx = context(FakeMachine())
    restoring.remember(ctx, Broken(FIRST, "kill", WAY))
    failed = failure(restore_nodes, ctx)
    assert f"{FIRST}: its machine cannot be reached" in str(failed.error)
    assert restoring.recall(ctx) == Broken(FIRST, "kill", WAY)


def test_dead_node_with_a_neighbour_at_the_same_port_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = processes.Survey({}, {7000: frozenset({"10.0.0.2"})}, "root")
    monkeypatch.setattr(processes, "survey", lambda *_: neighbour)
    monkeypatch.setattr(restoring.partition, "tables", lambda _machine: frozenset())
    monkeypatch.setattr(restoring, "_connects", lambda _address: False)
    monkeypatch.setattr(restoring, "inventory", lambda _ctx: ("10.0.0.1:7000", "10.0.0.2:7000"))
    ctx = context(FakeMachine())
    monkeypatch.setattr(type(ctx.environment), "machine_of", lambda _self, _address: "")
    assert [(node.address, node.runs) for node in restoring.states(ctx)] == [
        ("10.0.0.1:7000", False), ("10.0.0.2:7000", True),
    ]  # fmt: skip
