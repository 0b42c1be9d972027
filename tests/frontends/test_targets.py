"""Which cluster a run works on, and where its lease is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import NoPermissionError

from credscale import Context, runbook
from credscale.core.clients import Clients
from credscale.core.environment import Environment
from credscale.core.errors import ConnectFailed
from credscale.core.journal import Journal
from credscale.core.lease import MemoryLease
from credscale.core.redis_lease import LEASE
from credscale.core.runbook import Runbook
from credscale.core.secrets import Secrets
from credscale.frontends import catalogue, targets
from credscale.frontends.session import Request
from credscale.frontends.targets import describe_target, plan_lease, take_lease, target_of
from credscale.redis_cluster.cluster import views
from credscale.redis_cluster.cluster.slots import contains, key_slot
from credscale.redis_cluster.cluster.views import Look
from tests.redis_cluster.fakes import look_of, topology

if TYPE_CHECKING:
    from pathlib import Path


MONGO = {"mongo": {"uri": "mongodb://127.0.0.1:1/"}}
REDIS = {"redis": {"nodes": ["127.0.0.1:1"]}}


@runbook(target="redis")
def change_redis(ctx: Context) -> None:
    """Change Redis."""


@runbook(target="redis", reads_only=True)
def look_redis(ctx: Context) -> None:
    """Look at Redis."""


repair_redis = Runbook(change_redis.function, (), has_notebook=False, target="redis", repairs=True)


@runbook(target="redis", builds_target=True)
def build_redis(ctx: Context) -> None:
    """Build Redis."""


@runbook()
def change_mongo(ctx: Context) -> None:
    """Change MongoDB."""


@runbook(reads_only=True, keep_going=True)
def look_both(ctx: Context) -> None:
    """Look at both."""


@runbook(target="hosts", reads_only=True)
def look_hosts(ctx: Context, *, hosts: str = "") -> None:
    """Look at hosts."""


HOSTS = {"hosts": {"h1": {"address": "127.0.0.1"}, "h2": {"address": "127.0.0.2"}}}


def request(book: Runbook, folder: Path, *sections: dict[str, Any]) -> Request:
    data: dict[str, Any] = {"name": "test"}
    for section in sections:
        data |= section
    return Request(book, Environment.model_validate(data), {}, "", folder)


def context(asked: Request) -> Context:
    secrets = Secrets()
    return Context(asked.environment, Journal(None), Clients(asked.environment, secrets, select_timeout=0.1), secrets)


@pytest.mark.parametrize(
    ("book", "sections", "target"),
    [
        (change_redis, (MONGO, REDIS), "redis"),
        (change_redis, (MONGO,), ""),
        (change_mongo, (MONGO, REDIS), "mongo"),
        (change_mongo, (REDIS,), ""),
        (look_both, (MONGO, REDIS), "mongo"),
        (look_both, (REDIS,), "redis"),
        (look_both, (), ""),
        (look_hosts, (MONGO, REDIS), "hosts"),
        (look_hosts, (), "hosts"),
    ],
)
def test_target(book: Runbook, sections: tuple[dict[str, Any], ...], target: str, tmp_path: Path) -> None:
    assert target_of(request(book, tmp_path, *sections)) == target


@pytest.mark.parametrize(
    ("book", "sections"),
    [(look_redis, (REDIS,)), (build_redis, (REDIS,)), (look_both, (MONGO, REDIS)), (look_hosts, (MONGO, REDIS))],
)
def test_what_must_work_on_a_cluster_that_serves_nothing_needs_no_lease_of_it(
    book: Runbook, sections: tuple[dict[str, Any], ...], tmp_path: Path
) -> None:
    asked = request(book, tmp_path, *sections)
    assert isinstance(plan_lease(context(asked), asked), MemoryLease)
    assert isinstance(take_lease(context(asked), asked), MemoryLease)


@pytest.mark.parametrize(
    ("sections", "params", "target"),
    [
        ((HOSTS,), {}, "hosts: all 2 of test"),
        ((HOSTS,), {"hosts": "h*"}, "hosts: h*"),
        ((HOSTS,), {"host": "h1", "fingerprint": "SHA256:"}, "hosts: h1"),
        ((MONGO,), {}, "hosts: this machine"),
    ],
)
def test_the_journal_says_which_hosts(
    sections: tuple[dict[str, Any], ...], params: dict[str, Any], target: str, tmp_path: Path
) -> None:
    asked = replace(request(look_hosts, tmp_path, *sections), params=params)
    assert describe_target(context(asked), asked) == {"engine": "none", "target": target}


def seen(**changes: Any) -> Look:
    """Return a look at a cluster whose first primary, which has the lease's slot, is as told."""
    nodes = list(topology())
    keeper = next(number for number, node in enumerate(nodes) if contains(node.slots, key_slot(LEASE)))
    nodes[keeper] = replace(nodes[keeper], **changes.pop("node", {}))
    return look_of(nodes, {keeper: changes})


def down(found: Look) -> Look:
    views = [replace(view, cluster=replace(view.cluster, state="fail")) for view in found.nodes if view.cluster]
    return Look(tuple(views))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (seen(), ""),
        (seen(error="it is frozen"), ""),
        (seen(error="nothing listens at its port", node={"flags": ("master", "fail?")}), ""),
        (seen(error="nothing listens at its port", node={"flags": ("master", "fail")}), "is down"),
        (seen(node={"slots": ()}), "no node has the slot"),
        (down(seen()), "no node that answers says that the cluster serves"),
        (Look(()), "no node answers"),
    ],
)
def test_what_repairs_does_without_a_lease_only_where_none_can_be_held(
    found: Look, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen primary, or one not voted down yet, may hold another operator's lease."""
    asked, notes = request(repair_redis, tmp_path, REDIS), list[str]()
    ctx = context(asked)
    monkeypatch.setattr(ctx, "note", notes.append)
    monkeypatch.setattr(views, "look", lambda *_, **__: found)
    tries = []

    def fails(*_: object) -> None:
        tries.append("again")
        raise ConnectFailed("one timeout")

    monkeypatch.setattr(targets, "_take_lease", fails)
    if why:
        assert isinstance(take_lease(ctx, asked), MemoryLease)
        assert why in notes[0]
        return
    with pytest.raises(ConnectFailed, match="one timeout"):
        take_lease(ctx, asked)
    assert (len(tries), notes) == (2, [])


def test_what_repairs_is_not_let_in_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        try:
            raise NoPermissionError("NOPERM")
        except NoPermissionError:
            raise ConnectFailed("the lease cannot be taken (NoPermissionError)") from None

    monkeypatch.setattr(targets, "_take_lease", refused)
    monkeypatch.setattr(views, "look", lambda *_, **__: Look(()))
    asked = request(repair_redis, tmp_path, REDIS)
    with pytest.raises(ConnectFailed, match="NoPermission"):
        take_lease(context(asked), asked)


@pytest.mark.scenario
@pytest.mark.parametrize("take", [plan_lease, take_lease])
def test_a_change_needs_a_cluster_that_keeps_its_lease(take: Any, tmp_path: Path) -> None:
    asked = request(change_redis, tmp_path, MONGO, REDIS)
    with pytest.raises(ConnectFailed, match="no Redis Cluster serves at 127.0.0.1:1"):
        take(context(asked), asked)


@pytest.mark.scenario
def test_the_journal_says_why_a_target_is_not_reached(tmp_path: Path) -> None:
    asked = request(change_redis, tmp_path, REDIS)
    told = describe_target(context(asked), asked)
    assert told["engine"] == "unknown"
    assert told["target"].startswith("not reached: 127.0.0.1:1: ")
    built = request(build_redis, tmp_path, REDIS)
    assert describe_target(context(built), built) == {"engine": "none", "target": "test"}


def test_a_single_step_works_on_the_target_of_its_collection() -> None:
    entries = {entry.name: entry for entry in catalogue.entries() if entry.collection}
    assert catalogue.runbook_behind(entries["redis-status"]).target == "redis"
    assert catalogue.runbook_behind(entries["stop-balancer"]).target == "mongo"
