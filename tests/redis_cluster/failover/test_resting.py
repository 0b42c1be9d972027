"""Nobody is asked to take over while it could count the votes of an earlier election."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from credscale.redis_cluster.failover.plan import Move
from credscale.redis_cluster.failover.resting import Rested, link_age, rest, window
from tests.redis_cluster.fakes import look_of, node_id, topology

AWAY, BACK = Move(node_id(0), node_id(3)), Move(node_id(3), node_id(0), back=True)
LINK = "id=7 addr=10.0.0.0:7000 laddr=10.0.0.3:4711 fd=18 name= age={} idle=0 flags=M db=0\n"


class Client:
    """A replica that says how old its link is."""

    def __init__(self, reply: str | Exception) -> None:
        self.reply = reply

    def execute_command(self, *words: str) -> str:
        assert words == ("CLIENT", "LIST", "TYPE", "master")
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


class Run:
    """As much of a context as the rest needs."""

    def __init__(self, reply: str | Exception) -> None:
        self.client, self.clients = Client(reply), self
        self.waited: list[tuple[bool, float]] = []

    def redis_node(self, address: str, *, timeout: float) -> Client:
        assert address == topology()[3].address
        return self.client

    def wait_until(self, what: str, probe: Any, timeout: float, *, every: float) -> None:
        self.waited.append((probe()[0], timeout))


def waits(reply: str | Exception, rested: Rested) -> bool:
    run: Any = Run(reply)
    rest(run, look_of(topology()), AWAY, rested)
    ((enough, timeout),) = run.waited
    assert timeout > window(look_of(topology()), node_id(3))
    return not enough


@pytest.mark.parametrize(("timeout", "seconds"), [("15000", 61), ("5000", 21), ("500", 5)])
def test_the_window_follows_the_node_timeout(timeout: str, seconds: float) -> None:
    found = look_of(topology(), {3: {"settings": {"cluster-node-timeout": timeout}}})
    assert window(found, node_id(3)) == seconds
    assert window(look_of(topology(), {3: {"settings": {}}}), node_id(3)) == 61


def test_an_old_link_shows_that_nobody_was_elected_since() -> None:
    assert not waits(LINK.format(22), Rested())
    assert waits(LINK.format(20), Rested())


@pytest.mark.parametrize("reply", ["", NoPermissionError("no CLIENT for you")])
def test_without_a_link_to_go_by_the_whole_time_is_waited(reply: str | Exception) -> None:
    assert link_age(Client(reply)) == 0
    assert waits(reply, Rested())


def test_the_way_back_need_not_wait_for_the_way_there() -> None:
    rested = Rested()
    rested.linked(AWAY, 100)
    rested.elected(AWAY.replica)
    rested.linked(BACK, 1)  # the new link is young, but what the old one showed still holds
    assert rested.seconds(BACK.replica) >= 100
    assert rested.seconds(AWAY.replica) < 50


def test_an_election_counts_whatever_links_say() -> None:
    rested = Rested()
    rested.elected(node_id(3))
    time.sleep(0.02)
    assert rested.seconds(node_id(3)) < 5
    assert rested.seconds(node_id(9)) < 0.01  # of whom nothing is known


def test_a_move_whose_turn_comes_later_is_left_alone() -> None:
    run: Any = Run("")
    rest(run, look_of(topology()), BACK, Rested())
    assert run.waited == []
