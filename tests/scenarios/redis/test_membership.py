"""A removal that names a node of another cluster, and one that broke off, on real servers without replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import EnvironmentInvalid, RunFailed
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.resharding import leaving
from credscale.testing import wait_for
from runbooks.redis_remove_node import redis_remove_node
from tests.scenarios.redis.conftest import RedisNodes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.scenario


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    """Yield a cluster of four primaries without replicas."""
    nodes = RedisNodes(tmp_path_factory.mktemp("four"))
    try:
        nodes.form(nodes.start(4), 4)
        yield nodes
    finally:
        nodes.end()


def test_node_of_another_cluster_stays_there(four: RedisNodes, tmp_path: Path) -> None:
    theirs = RedisNodes(tmp_path)
    try:
        theirs.form(theirs.start(3))
        ctx = four.context()
        with pytest.raises(RunFailed, match="belongs to another cluster, of 3 nodes") as caught:
            redis_remove_node(ctx, node=theirs.addresses[0])
        assert ctx.changes == 0
        assert caught.value.__cause__ is not None
        assert isinstance(caught.value.__cause__.__cause__, EnvironmentInvalid)
        assert not gate(theirs.look(), nodes=3)
    finally:
        theirs.end()


def test_removal_that_broke_off_after_the_drain_goes_on(four: RedisNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    node = four.addresses[0]

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(leaving, "_repoint", kill)
    with pytest.raises(KeyboardInterrupt):
        redis_remove_node(four.context(), node=node)
    monkeypatch.undo()
    wait_for(lambda: four.by_role("replica") == [node] and not gate(four.look()), 20)  # the servers do that themselves
    ctx = four.context()
    redis_remove_node(ctx, node=node)  # needs no more acceptance than the first run
    assert "has left the cluster" in ctx.results[-1].summary
    members = [each.address for each in four.look().topology]
    assert sorted(members) == sorted(four.addresses[1:])
