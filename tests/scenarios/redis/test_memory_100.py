"""The memory report of a hundred real nodes: complete, in one look, and quick enough to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.core.step import Status
from credscale.redis_cluster.memory.report import redis_memory
from credscale.testing import wait_for
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]
PRIMARIES = 50


@pytest.fixture
def hundred(tmp_path: Path) -> Iterator[RedisNodes]:
    """Yield fifty primaries with a replica each."""
    nodes = RedisNodes(tmp_path, options={"cluster-node-timeout": "15000", "appendonly": "no"}, hosts=10)
    try:
        nodes.start_formed(PRIMARIES)
        yield nodes
    finally:
        nodes.end()


def in_sync(nodes: RedisNodes) -> bool:
    found = nodes.look()
    links = [view.info.get("master_link_status") for view in found.answering if view.me and view.me.is_replica]
    return links == ["up"] * PRIMARIES


def test_every_one_of_a_hundred_nodes_is_reported(hundred: RedisNodes) -> None:
    wait_for(lambda: in_sync(hundred), 40, every=0.3)
    silent = hundred.addresses[-1]
    ctx = hundred.context()
    whole = redis_memory(ctx, interval=0.0)
    assert whole.status is Status.OK, whole.error
    assert sorted(row["node"] for row in whole.output["rows"]) == sorted(hundred.addresses)
    assert all(row["used"] for row in whole.output["rows"])
    roles = [row["role"] for row in whole.output["rows"]]
    assert roles.count("primary") == roles.count("replica") == PRIMARIES
    hundred.freeze(silent)
    try:
        ctx.keep_going = True
        partly = redis_memory(ctx, interval=0.0, sample=0)
    finally:
        hundred.thaw(silent)
    assert partly.status is Status.FAILED
    assert f"{silent}: no answer" in (partly.error or "")
    assert len(partly.output["rows"]) == 2 * PRIMARIES - 1
