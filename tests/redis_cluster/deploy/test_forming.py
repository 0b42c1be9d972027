"""Moves are made in their order, each kind after a fresh look, and what goes wrong is named with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import NoPermissionError

from credscale.core.errors import ConnectFailed, PreconditionFailed, VerificationFailed, WaitTimeout
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.deploy import forming
from credscale.redis_cluster.deploy.forming import form_cluster
from tests.redis_cluster.deploy.simulated_clients import Nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.redis_cluster.cluster.views import Look


def test_a_cluster_comes_to_be_and_stays() -> None:
    nodes = Nodes()
    assert nodes.form() == len(nodes.texts) == 6 + 3 + 5 + 3 + 2
    assert nodes.commands("CLUSTER", "ADDSLOTSRANGE")[1][3:] == (5461, 10922)
    assert len(nodes.commands("CLUSTER", "MEET")) == 15 + 30
    assert nodes.commands("CLUSTER", "MEET")[0] == ("10.0.0.1:7000", "CLUSTER", "MEET", "10.0.0.1", 7003, 17000)
    assert len(nodes.commands("PUBLISH")) == 6
    assert nodes.notes == []
    sent = len(nodes.sent)
    assert nodes.form() == 0
    assert len(nodes.sent) == sent
    assert not {words[2] for words in nodes.sent} & {"RESET", "FORGET", "DELSLOTS"}


def test_what_is_told_in_the_end_is_the_look_that_showed_it_ready() -> None:
    """Another one may find a node that does not answer just then, and has no IP address."""
    nodes = Nodes()
    looks: list[Look] = []
    look = nodes.look
    nodes.look = lambda: looks.append(look()) or looks[-1]  # type: ignore[func-returns-value, method-assign]
    nodes.form()
    assert nodes.last is looks[-1]
    assert gate(nodes.last, nodes=6) == ()


def test_a_replica_at_the_wrong_primary_is_told_instead_of_called_complete() -> None:
    nodes = Nodes()
    nodes.form()
    replica = nodes.servers.all["10.0.0.1:7003"]
    left, replica.primary = (
        replica.primary,
        next(
            each.address for each in nodes.servers.all.values() if not each.primary and each.address != replica.primary
        ),
    )
    with pytest.raises(PreconditionFailed, match=f"{left}: it has 0 replicas, expected at least 1.*CLUSTER REPLICATE"):
        nodes.form()


def test_messages_are_sent_until_all_connections_show() -> None:
    nodes = Nodes()
    nodes.missed = 6
    nodes.form()
    assert len(nodes.commands("PUBLISH")) == 12


def test_before_7_slots_are_given_one_by_one() -> None:
    nodes = Nodes("6.2.14")
    nodes.form()
    assert not nodes.commands("CLUSTER", "ADDSLOTSRANGE")
    assert len(nodes.commands("CLUSTER", "ADDSLOTS")[0]) == 3 + 5461


def test_a_dead_node_is_named_before_anything_is_changed() -> None:
    nodes = Nodes()
    nodes.dead = {"10.0.0.2:7004"}
    with pytest.raises(PreconditionFailed) as caught:
        nodes.form()
    assert str(caught.value) == (
        "the cluster cannot be created: 10.0.0.2:7004: nothing listens at its port (look at its process and its log). "
        "Nothing was changed"
    )
    assert nodes.sent == nodes.texts == []


def test_a_node_that_dies_meanwhile_is_named_with_what_to_do() -> None:
    nodes = Nodes()
    apply = nodes.apply

    def dies(what: str, func: Callable[..., Any], /, *args: Any) -> Any:
        if what.startswith("give the slots 5461"):
            nodes.dead = {"10.0.0.2:7001"}
        return apply(what, func, *args)

    nodes.apply = dies  # type: ignore[method-assign]
    with pytest.raises(ConnectFailed, match="10.0.0.2:7001 at CLUSTER ADDSLOTSRANGE: nothing listens at its port"):
        nodes.form()
    nodes.dead, nodes.apply = set(), apply  # type: ignore[method-assign]
    nodes.form()
    again = Nodes()
    again.form()
    assert nodes.servers.result() == again.servers.result()


def test_a_node_that_is_found_dead_between_the_moves() -> None:
    nodes = Nodes()
    apply = nodes.apply

    def dies(what: str, func: Callable[..., Any], /, *args: Any) -> Any:
        done = apply(what, func, *args)
        if what.endswith("10.0.0.1:7000 to 1"):
            nodes.servers.all["10.0.0.3:7005"].keys = 3
        return done

    nodes.apply = dies  # type: ignore[method-assign]
    with pytest.raises(VerificationFailed, match=r"half made.*10.0.0.3:7005: it holds 3 keys.*6 changes were made"):
        nodes.form()


def test_a_user_who_may_not_publish() -> None:
    nodes = Nodes()
    nodes.refusals = {("PUBLISH", "credscale:knock"): NoPermissionError("NOPERM no permissions")}
    nodes.form()
    assert len(nodes.notes) == 1
    assert "our user may not PUBLISH on 10.0.0.1:7000" in nodes.notes[0]


def test_without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's function looks by itself; here the looks are the simulated ones, and gossip takes two of them."""
    nodes = Nodes()
    looks = 0

    def look_at(addresses: tuple[str, ...], connect: Any, *, discover: bool) -> Look:
        nonlocal looks
        assert addresses == nodes.servers.addresses
        assert not discover
        looks += 1
        if looks % 3 == 0:
            nodes.servers.gossip()
        return nodes.look()

    monkeypatch.setattr(forming, "look_at", look_at)
    form_cluster(nodes.connect, nodes.servers.addresses, replicas=1, timeout=2)
    assert sum(bool(each.primary) for each in nodes.servers.all.values()) == 3
    nodes.servers.all["10.0.0.1:7000"].others = set()
    monkeypatch.setattr(nodes.servers, "make", lambda *_: None)
    monkeypatch.setattr(nodes.servers, "gossip", lambda: None)
    with pytest.raises(
        WaitTimeout, match="waited 0 s for: every node knows every other.*10.0.0.1:7000: it does not know"
    ):
        form_cluster(nodes.connect, nodes.servers.addresses, replicas=1, timeout=0.1)
