"""The order of a deployment holds from any half-built cluster on, and after any interruption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.environment import Environment
from credscale.mongo.deploy import plan
from credscale.mongo.deploy.layout import Layout, layout
from credscale.mongo.deploy.plan import (
    ADD_SHARD,
    CLUSTER,
    CREATE_ADMIN,
    INITIATE,
    JOIN,
    SET_CONCERN,
    START,
    START_ROUTER,
    WRITE,
    Facts,
    Move,
    ProcessFacts,
    SetFacts,
    plan_deployment,
    problems_of,
)

SETS = {"cfg": ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], "a": ["127.0.0.1:4", "127.0.0.1:5"], "b": ["127.0.0.1:6"]}
ROUTER = "127.0.0.1:7"
NEW = {"/x": ["new file"]}


def wanted(**deploy: Any) -> Layout:
    settings = {"security": {"key_file": "env:KEY"}, "admin": {"password": "env:PASSWORD"}, **deploy}
    sets = [{"replica_set": name, "members": members} for name, members in SETS.items()]
    mongo = {"uri": "mongodb://h:1/", "config_servers": sets[0], "shards": sets[1:], "routers": [ROUTER]}
    return layout(Environment.model_validate({"name": "unit", "mongo": mongo | {"deploy": settings}}))


def nothing(**deploy: Any) -> Facts:
    """Return the facts of empty machines."""
    found = wanted(**deploy)
    processes = {each.address: ProcessFacts(NEW, ours=False, release="7.0") for each in found.processes}
    return Facts(found, processes, {each.name: SetFacts() for each in found.sets})


def apply(facts: Facts, move: Move) -> Facts:
    """Do what a move does, and hold it to the invariant."""
    processes, sets = dict(facts.processes), dict(facts.sets)
    if move.kind == WRITE:
        processes[move.target] = replace(processes[move.target], changes={}, ours=True)
    elif move.kind in (START, START_ROUTER):
        assert not processes[move.target].changes, "it would start without its files"
        assert not processes[move.target].running
        processes[move.target] = replace(processes[move.target], running=True, is_router=move.kind == START_ROUTER)
    elif move.kind == INITIATE:
        assert not sets[move.target].initiated, "initiated again"
        assert all(processes[address].running for address in SETS[move.target]), "the quorum check needs all members"
        assert not any(processes[address].set_name for address in SETS[move.target])
        sets[move.target] = replace(sets[move.target], initiated=True)
        for address in SETS[move.target]:
            config = move.target == "cfg"
            processes[address] = replace(processes[address], set_name=move.target, is_config=config)
    elif move.kind == JOIN:
        name = next(name for name, members in SETS.items() if move.target in members)
        assert processes[move.target].running
        assert sets[name].initiated
        sets[name] = replace(sets[name], missing=tuple(each for each in sets[name].missing if each != move.target))
        processes[move.target] = replace(processes[move.target], set_name=name)
    elif move.kind == CREATE_ADMIN and move.target != CLUSTER:
        assert sets[move.target].initiated
        sets[move.target] = replace(sets[move.target], has_admin=True)
    elif move.kind == CREATE_ADMIN:
        assert sets["cfg"].initiated
        assert processes[ROUTER].running
        return replace(facts, has_admin=True)
    elif move.kind == SET_CONCERN:
        return replace(facts, write_concern=facts.layout.deploy.default_write_concern)
    elif move.kind == ADD_SHARD:
        holding = [name for name in ("a", "b") if sets[name].databases and name not in facts.shards]
        assert move.target in holding or not holding, "an empty shard before one with data"
        assert sets[move.target].initiated
        assert not sets[move.target].missing
        assert facts.has_admin or facts.layout.deploy.security == "none"
        assert sets[move.target].has_admin or facts.layout.deploy.security == "none", "a shard anybody could take over"
        return replace(facts, shards=facts.shards | {move.target})
    return replace(facts, processes=processes, sets=sets)


def test_from_nothing() -> None:
    facts = nothing()
    assert problems_of(facts) == []
    moves = plan_deployment(facts)
    assert [move.kind for move in moves] == [
        *[WRITE] * 7, *[START] * 6, *[INITIATE] * 3, START_ROUTER, *[CREATE_ADMIN] * 3, *[ADD_SHARD] * 2,
    ]  # fmt: skip
    for number, move in enumerate(moves):
        assert plan_deployment(facts) == moves[number:], "planning again gives the rest"
        assert problems_of(facts) == [], "a half-built cluster is no problem"
        facts = apply(facts, move)
    assert plan_deployment(facts) == []


@st.composite
def half_built(draw: st.DrawFn) -> Facts:
    """Build any number of the moves, then let some processes die, files drift and data appear."""
    facts = nothing(default_write_concern=draw(st.sampled_from([None, "majority", 1])))
    moves = plan_deployment(facts)
    for move in moves[: draw(st.integers(0, len(moves)))]:
        facts = apply(facts, move)
    processes, sets = dict(facts.processes), dict(facts.sets)
    for address, found in processes.items():
        if found.running and draw(st.booleans()):
            processes[address] = replace(found, running=False)
        if found.ours and draw(st.booleans()):
            processes[address] = replace(processes[address], changes={"/x": ["-a", "+b"]})
    for name in ("a", "b"):
        if sets[name].initiated and name not in facts.shards and draw(st.booleans()):
            sets[name] = replace(sets[name], databases=(f"data-{name}",))
    if sets["a"].initiated and "a" not in facts.shards and draw(st.booleans()):
        sets["a"] = replace(sets["a"], missing=("127.0.0.1:5",))
        processes["127.0.0.1:5"] = replace(processes["127.0.0.1:5"], set_name="")
    return replace(facts, processes=processes, sets=sets)


@given(half_built())
def test_from_anything_half_built_with_an_interruption_after_every_move(facts: Facts) -> None:
    assert problems_of(facts) == []
    before = {name for name, state in facts.sets.items() if state.initiated}
    for _ in range(60):
        moves = plan_deployment(facts)
        if not moves:
            break
        assert not [move for move in moves if move.kind == INITIATE and move.target in before]
        facts = apply(facts, moves[0])
    assert plan_deployment(facts) == []
    assert facts.shards == {"a", "b"}
    assert all(found.running for found in facts.processes.values())


def change(facts: Facts, address: str, **changes: Any) -> Facts:
    return replace(facts, processes=facts.processes | {address: replace(facts.processes[address], **changes)})


@pytest.mark.parametrize(
    ("address", "changes", "said"),
    [
        ("127.0.0.1:4", {"running": True, "set_name": "other"}, "belongs to the replica set 'other', expected 'a'"),
        ("127.0.0.1:4", {"running": True, "is_router": True}, "is a mongos, expected a member"),
        (ROUTER, {"running": True}, "is a mongod, expected router"),
        ("127.0.0.1:4", {"running": True, "set_name": "a", "is_config": True}, "is a config server"),
        ("127.0.0.1:4", {"running": True}, "was not set up from here and belongs to no replica set"),
        ("127.0.0.1:4", {"release": "6.0"}, "different releases: 6.0 on 127.0.0.1:4; 7.0 on"),
    ],
)
def test_what_is_somebody_elses_is_a_problem(address: str, changes: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems_of(change(nothing(), address, **changes)))


def test_an_initiated_members_absence_is_not_filled_with_an_empty_one() -> None:
    facts = nothing()
    facts = change(facts, "127.0.0.1:4", running=True, set_name="a")
    facts = replace(facts, sets=facts.sets | {"a": SetFacts(initiated=True)})
    assert any("127.0.0.1:5 does not answer and was not set up from here" in each for each in problems_of(facts))


def test_an_arbiter_needs_a_default_write_concern() -> None:
    weak = {"a": SetFacts(initiated=True, implicit_one=True)}
    facts = nothing()
    assert any("default_write_concern" in each for each in problems_of(replace(facts, sets=facts.sets | weak)))
    facts = nothing(default_write_concern="majority")
    assert not any("default_write_concern" in each for each in problems_of(replace(facts, sets=facts.sets | weak)))


def test_one_database_on_two_shards_is_a_problem() -> None:
    facts = nothing()
    both = {name: SetFacts(databases=("same",)) for name in ("a", "b")}
    facts = replace(facts, sets=facts.sets | both)
    assert any("the database same is on a and on b" in problem for problem in problems_of(facts))
    assert not [p for p in problems_of(replace(facts, shards=frozenset({"a"}))) if "same" in p], "a is one already"


def test_fewer_than_three_config_servers_are_for_labs() -> None:
    assert plan.problems_of(nothing()) == []
    facts = nothing(security="none", admin=None)
    one = replace(facts.layout.sets[0], members=facts.layout.sets[0].members[:1])
    lab = replace(facts, layout=replace(facts.layout, sets=(one, *facts.layout.sets[1:])))
    assert problems_of(lab) == []
    secured = nothing()
    small = replace(secured.layout, sets=(one, *secured.layout.sets[1:]))
    assert any("1 config servers are declared" in each for each in problems_of(replace(secured, layout=small)))
