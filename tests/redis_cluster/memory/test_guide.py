"""The nodes' memory stands beside what the guide gives a node, and its own contradiction is told."""

from __future__ import annotations

from credscale.redis_cluster.memory.guide import guide_rows, judge_by_guide
from credscale.redis_cluster.memory.readings import node_memory
from tests.redis_cluster.fakes import look_of, topology

GB = 1 << 30


def test_what_fits_is_only_shown() -> None:
    nodes = node_memory(look_of(topology()))
    assert list(judge_by_guide(nodes)) == []
    assert [(row["setting"], row["guide"], row["here"]) for row in guide_rows(nodes)] == [
        ("maxmemory", "2.0 GB", "400.0 MB"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("memory of a node's container", "1.0 GB",
         "largest node holds 110.0 MB; with its maxmemory reached it needs about 520.0 MB"),
    ]  # fmt: skip


def test_the_guides_own_maxmemory_does_not_fit_its_container() -> None:
    found = look_of(topology(), {1: {"info": {"maxmemory": 2 * GB}}, 2: {"info": {"maxmemory": 0}}})
    nodes = node_memory(found)
    reasons = list(judge_by_guide(nodes))
    assert [(each.severity, each.where) for each in reasons] == [("note", found.nodes[1].address)]
    assert "1.0 GB is less than its maxmemory needs" in reasons[0].what
    rows = guide_rows(nodes)
    assert rows[0]["here"] == "no limit, 400.0 MB, 2.0 GB"
    assert rows[2]["here"].endswith("may grow freely")


def test_no_nodes() -> None:
    assert guide_rows(()) == []
