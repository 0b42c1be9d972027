"""A move that a node refuses is told with what to do, and what somebody else did already is well."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from credscale.core.errors import VerificationFailed
from credscale.redis_cluster.deploy.moves import make
from credscale.redis_cluster.deploy.plan import ADD_SLOTS, KNOCK, MEET, SET_EPOCH, TELL, Move
from tests.redis_cluster.deploy.simulated_clients import Nodes


def test_what_somebody_else_did_meanwhile_is_well() -> None:
    nodes = Nodes()
    look = nodes.look()
    server = nodes.servers.all["10.0.0.1:7000"]
    server.slots, server.epoch = ((0, 5460),), 9
    nodes.refusals = {
        ("CLUSTER", "ADDSLOTSRANGE"): ResponseError("Slot 0 is already busy"),
        ("CLUSTER", "SET-CONFIG-EPOCH"): ResponseError("Node config epoch is already non-zero"),
    }
    make(nodes.connect, look, Move(ADD_SLOTS, "10.0.0.1:7000", slots=((0, 5460),)))
    make(nodes.connect, look, Move(SET_EPOCH, "10.0.0.1:7000", epoch=1))
    with pytest.raises(VerificationFailed, match="10.0.0.2:7001 refuses the move: Slot 0 is already busy"):
        make(nodes.connect, look, Move(ADD_SLOTS, "10.0.0.2:7001", slots=((0, 5460),)))
    with pytest.raises(VerificationFailed, match="10.0.0.2:7001 refuses the move: Node config epoch"):
        make(nodes.connect, look, Move(SET_EPOCH, "10.0.0.2:7001", epoch=1))


@pytest.mark.parametrize("move", [Move(MEET, "10.0.0.1:7000", peers=("10.0.0.2:7001",)), Move(TELL)])
def test_a_refused_meeting(move: Move) -> None:
    nodes = Nodes()
    nodes.refusals = {("CLUSTER", "MEET"): ResponseError("Invalid node address specified: nowhere:7001")}
    with pytest.raises(VerificationFailed, match="10.0.0.1:7000 refuses the move: Invalid node address"):
        make(nodes.connect, nodes.look(), move)


def test_only_a_missing_right_is_passed_over() -> None:
    nodes = Nodes()
    nodes.refusals = {("PUBLISH", "credscale:knock"): NoPermissionError("NOPERM no permissions")}
    assert make(nodes.connect, nodes.look(), Move(KNOCK)) == nodes.servers.addresses
    nodes.refusals = {("PUBLISH", "credscale:knock"): ResponseError("OOM command not allowed")}
    with pytest.raises(VerificationFailed, match="OOM command not allowed"):
        make(nodes.connect, nodes.look(), Move(KNOCK))
