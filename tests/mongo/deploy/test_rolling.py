"""A rolling restart never takes a majority away, whatever the set looks like and whenever it is interrupted."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from credscale.core.errors import PreconditionFailed
from credscale.mongo.deploy.config_edit import with_options
from credscale.mongo.deploy.joining import is_joining, lag_of, with_member, with_vote
from credscale.mongo.deploy.rolling import DONE, REFUSE, RESTART, STEP_DOWN, WAIT, MemberFacts, plan_turn
from credscale.mongo.deploy.survey import implicit_concern_is_one

OPTIONS = {"net.port": 27018, "sharding.clusterRole": "shardsvr"}


def members(*states: str) -> tuple[MemberFacts, ...]:
    return tuple(MemberFacts(f"m{n}", state, votes=state != "HIDDEN") for n, state in enumerate(states))


SETS = [
    members(*states)
    for size in (1, 2, 3, 4, 5)
    for rest in itertools.combinations_with_replacement(("SECONDARY", "ARBITER"), size - 1)
    for states in [("PRIMARY", *rest)]
]


def change(found: tuple[MemberFacts, ...], address: str, **values: object) -> tuple[MemberFacts, ...]:
    return tuple(replace(each, **values) if each.address == address else each for each in found)


@pytest.mark.parametrize("found", SETS, ids=lambda found: "-".join(each.state for each in found))
@pytest.mark.parametrize("allow", [False, True])
def test_every_set_with_a_look_at_every_moment(found: tuple[MemberFacts, ...], allow: bool) -> None:
    restarts: list[str] = []
    for _ in range(40):
        turn = plan_turn(found, allow_downtime=allow)
        assert turn == plan_turn(found, allow_downtime=allow)
        if turn.kind in (DONE, REFUSE):
            break
        assert turn.kind in (RESTART, STEP_DOWN)
        chosen = next(each for each in found if each.address == turn.address)
        others = [each for each in found if each is not chosen]
        assert all(each.state in ("PRIMARY", "SECONDARY", "ARBITER") and each.caught_up for each in others)
        if not allow:
            assert len(others) > len(found) // 2, "the majority is gone"
        if turn.kind == STEP_DOWN:
            assert all(each.converted for each in others if each.state != "PRIMARY"), "the primary comes last"
            heir = next(each.address for each in others if each.state == "SECONDARY")
            found = change(change(found, turn.address, state="SECONDARY"), heir, state="PRIMARY")
            continue
        restarts.append(turn.address)
        down = change(found, turn.address, state="(not reachable/healthy)", converted=False)
        assert plan_turn(down, allow_downtime=allow).kind == WAIT, "killed while it was down"
        behind = change(found, turn.address, state="SECONDARY", caught_up=False, converted=True)
        assert plan_turn(behind, allow_downtime=allow).kind == WAIT, "not caught up yet"
        found = change(found, turn.address, converted=True)
    assert len(restarts) == len(set(restarts)), "restarted twice"
    if allow or len(found) > 2:
        assert all(each.converted for each in found)
    else:
        assert turn.kind == REFUSE
        assert not restarts


FILE = """\
# where data lies
storage:
  dbPath: /data   # fast disk
net:
    bindIp: 10.0.0.1
replication:
  replSetName: rs0
"""


def test_only_the_lines_that_must_change_do() -> None:
    changed = with_options(FILE, OPTIONS)
    expected = FILE.replace("net:\n", "net:\n    port: 27018\n") + "sharding:\n  clusterRole: shardsvr\n"
    assert changed == expected
    assert with_options(changed, OPTIONS) == changed


def test_a_value_is_replaced_where_it_stands() -> None:
    assert (
        with_options("net:\n  port: 27017 # old\n  bindIp: a\n", {"net.port": 27018})
        == "net:\n  port: 27018\n  bindIp: a\n"
    )


@pytest.mark.parametrize("text", ["dbpath = /data\n", "net: {port: 27017}\n", "a: [\n", "- 1\n"])
def test_a_file_that_cannot_be_edited_safely_is_left_to_its_owner(text: str) -> None:
    with pytest.raises(PreconditionFailed, match="by hand: net.port: 27018"):
        with_options(text, OPTIONS)


def test_joining_takes_two_reconfigurations_and_leaves_no_trace() -> None:
    config = {"_id": "a", "version": 3, "members": [{"_id": 4, "host": "h:1", "votes": 1, "priority": 1}]}
    joined = with_member(config, "h:2")
    assert joined["version"] == 4
    assert joined["members"][1] == {
        "_id": 5,
        "host": "h:2",
        "votes": 0,
        "priority": 0,
        "tags": {"credscale": "joining"},
    }
    assert is_joining(joined, "h:2")
    assert not is_joining(joined, "h:1")
    voting = with_vote(joined, "h:2")
    assert voting["version"] == 5
    assert voting["members"][1] == {"_id": 5, "host": "h:2", "votes": 1, "priority": 1, "tags": {}}
    assert voting["members"][0] == config["members"][0]


def test_the_owners_member_without_a_vote_is_not_joining() -> None:
    config = {"members": [{"_id": 0, "host": "h:1", "votes": 0, "priority": 0, "tags": {"use": "reports"}}]}
    assert not is_joining(config, "h:1")


@pytest.mark.parametrize(
    ("arbiters", "data", "one"), [(0, 3, False), (1, 2, True), (1, 3, True), (1, 4, False), (0, 1, False), (2, 3, True)]
)
def test_the_implicit_write_concern_of_sets_with_arbiters(arbiters: int, data: int, one: bool) -> None:
    config = {"members": [{"votes": 1, "arbiterOnly": n < arbiters} for n in range(arbiters + data)]}
    assert implicit_concern_is_one(config) is one


def test_a_member_that_the_status_does_not_know_is_unknown() -> None:
    assert lag_of({"members": []}, "h:1") == ("UNKNOWN", float("inf"))
