"""The packet filter cuts off one node and nobody else, and is removed as a whole."""

from __future__ import annotations

import pytest

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.redis_cluster.drill import partition
from credscale.redis_cluster.drill.partition import Cut, End
from tests.redis_cluster.drill.machines import FakeMachine

NODE, PEER, SIX = End("10.0.0.1", 7000, 17000), End("10.0.0.2", 7001, 17001), End("fd00::3", 7002, 17002)
TABLE = partition.table_of("redis1.example:7000")


def test_alone_on_its_machine() -> None:
    lines = partition.rules(Cut(TABLE, NODE, (PEER, SIX), alone=True)).splitlines()
    assert lines[0] == "table inet credscale_drill_redis1_example_7000 {"
    assert [line.strip() for line in lines if "drop" in line] == [
        "tcp dport { 7000, 17000 } drop",
        "ip saddr 10.0.0.2 tcp sport { 7001, 17001 } drop",
        "ip6 saddr fd00::3 tcp sport { 7002, 17002 } drop",
        "tcp sport { 7000, 17000 } drop",
        "ip daddr 10.0.0.2 tcp dport { 7001, 17001 } drop",
        "ip6 daddr fd00::3 tcp dport { 7002, 17002 } drop",
    ]


def test_with_neighbours_every_rule_bears_its_address() -> None:
    lines = partition.rules(Cut(TABLE, NODE, (PEER,), alone=False)).splitlines()
    drops = [line for line in lines if "drop" in line]
    assert len(drops) == 4
    assert all(NODE.ip in line for line in drops)


@pytest.mark.parametrize(
    ("peer", "source"), [(PEER, ""), (PEER, "10.0.0.9"), (End(NODE.ip, 7001, 17001), NODE.ip)]
)  # fmt: skip
def test_node_that_cannot_be_told_from_its_neighbours(peer: End, source: str) -> None:
    machine = FakeMachine()
    with pytest.raises(PreconditionFailed, match=r"10.0.0.2:7001 run on redis1 as well.*bind-source-addr"):
        partition.refuse_unless_possible(
            machine, Cut(TABLE, NODE, (peer,), alone=False), address="10.0.0.1:7000", source=source,
            neighbours=["10.0.0.2:7001"],
        )  # fmt: skip
    assert machine.ran == []


def test_neighbour_with_an_address_of_its_own() -> None:
    cut = Cut(TABLE, NODE, (PEER,), alone=False)
    machine = FakeMachine()
    partition.refuse_unless_possible(machine, cut, address="a:1", source=NODE.ip, neighbours=["10.0.0.2:7001"])
    assert "--check" in machine.ran[0]


def test_machine_that_does_not_let_us() -> None:
    cut = Cut(TABLE, NODE, (PEER,), alone=True)
    with pytest.raises(PreconditionFailed, match=r"it says no.*nftables"):
        partition.refuse_unless_possible(FakeMachine({"--check": 1}), cut, address="a:1", source="", neighbours=[])
    with pytest.raises(PreconditionFailed, match="nft refused"):
        partition.add(FakeMachine({"nft": 1}), cut)
    assert partition.tables(FakeMachine({"nft": 127})) is None


def test_only_our_table_is_removed() -> None:
    listed = f"table ip filter\ntable inet {TABLE}\n"
    machine = FakeMachine({"list tables": "table ip filter\n"})
    assert partition.tables(FakeMachine({"list tables": listed})) == frozenset({TABLE})
    partition.remove(machine, TABLE)
    assert machine.ran[0][-4:] == ["delete", "table", "inet", TABLE]
    with pytest.raises(VerificationFailed, match=f"nft delete table inet {TABLE}"):
        partition.remove(FakeMachine({"list tables": listed}), TABLE)


def test_where_nft_stops_working_its_exit_code_decides() -> None:
    partition.remove(FakeMachine({"list tables": 1}), TABLE)
    with pytest.raises(VerificationFailed, match="could not be removed"):
        partition.remove(FakeMachine({"nft": 1}), TABLE)
