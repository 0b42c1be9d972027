"""The checks of rights, backup, policy and lease."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from credscale.core.sections import Policy
from credscale.mongo.backup.manifest import Manifest
from credscale.mongo.documents.digest import Digest
from credscale.mongo.preflight import privileges, rights
from tests.mongo.preflight.looks import Nodes, look_at, said, severities

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NEEDS = privileges.needs_of_migration("shop", "orders", (5, 0, 28))
MANIFEST = Manifest(
    folder=Path("/b/20261123"),
    engine="credscale",
    namespace="shop.orders",
    cluster_id="c1",
    collection_uuid="u1",
    sharded_at_start=False,
    started="2026-11-23T10:00:00+00:00",
    finished="2026-11-23T11:00:00+00:00",
    operation_time_start=None,
    operation_time_end=None,
    documents=1000,
    bytes=100_000,
    files={},
    digest=Digest(1000, 100_000, ()),
    verified="2026-11-23T11:01:00+00:00",
    restore_checked={"documents": 1000, "time": "2026-11-23T11:02:00+00:00"},
)


@pytest.mark.parametrize(
    ("found", "severity", "said_of"),
    [
        (None, "note", "there is no backup"),
        (MANIFEST, "ok", "20261123, 1000 documents, 1.0 hours old"),
        (replace(MANIFEST, verified=None), "note", "not read again yet"),
        (replace(MANIFEST, restore_checked=None), "note", "not restored yet"),
        (replace(MANIFEST, finished="2026-11-21T11:00:00+00:00"), "note", "older than a day"),
    ],
)
def test_backups(found: Manifest | None, severity: str, said_of: str) -> None:
    row = rights.judge_backup(found, "/b", NOW)
    assert row.severity == severity
    assert said_of in row.finding


def test_a_backup_is_looked_for_where_it_lies(tmp_path: Path) -> None:
    assert said(rights.backup, look_at(Nodes()))[0][1] == "it is not known where backups lie"
    rows = said(rights.backup, look_at(Nodes(), backup_directory=str(tmp_path)))
    assert rows == [
        ("note", f"there is no backup of this collection under {tmp_path}/unit/credibility_prod.analyses yet")
    ]


def granted(*pairs: tuple[dict[str, Any], str]) -> list[dict[str, Any]]:
    return [{"resource": resource, "actions": actions.split()} for resource, actions in pairs]


def test_nothing_is_missing_to_one_who_may_do_everything() -> None:
    assert privileges.missing(granted(({"anyResource": True}, "anyAction")), NEEDS) == []


def test_everything_is_missing_to_one_who_may_do_nothing() -> None:
    found = privileges.missing([], NEEDS)
    assert len(found) == len(NEEDS)
    assert "find, insert, update on config.settings" in found


@pytest.mark.parametrize(
    ("resource", "covers"),
    [
        ({"db": "", "collection": ""}, {"shop.orders"}),
        ({"db": "config", "collection": ""}, {"config.settings"}),
        ({"db": "shop", "collection": ""}, {"shop.orders"}),
        ({"db": "", "collection": "orders"}, {"shop.orders"}),
        ({"db": "shop", "collection": "orders"}, {"shop.orders"}),
        ({"db": "shop", "collection": "other"}, set()),
        ({"cluster": True}, {"the cluster"}),
        ({"anyResource": True}, {"shop.orders", "config.settings", "the cluster"}),
        ({"system_buckets": "x"}, set()),
    ],
)
def test_what_a_resource_takes_in(resource: dict[str, Any], covers: set[str]) -> None:
    """A privilege on any database leaves out config and local, as the server has it."""
    needs = [
        privileges.Need("shop", "orders", frozenset({"x"})),
        privileges.Need("config", "settings", frozenset({"x"})),
        privileges.Need("", "", frozenset({"x"})),
    ]
    lacking = " ".join(privileges.missing(granted((resource, "x")), needs))
    assert {need.place for need in needs if f"on {need.place}" not in lacking} == covers


def test_newer_servers_need_more() -> None:
    newest = privileges.needs_of_migration("shop", "orders", (8, 0, 1))
    assert any("shardedDataDistribution" in need.actions for need in newest)
    direct = "issueDirectShardOperations"
    assert direct in privileges.needs_on_member("shop", (8, 0, 1))[0].actions
    assert direct not in privileges.needs_on_member("shop", (7, 0, 1))[0].actions


ROOT = {"authenticatedUsers": [{"user": "root", "db": "admin"}]}


@pytest.mark.parametrize(
    ("login", "guarded", "severity"),
    [
        ({"authenticatedUsers": []}, False, "warn"),
        ({"authenticatedUsers": []}, True, "stop"),
        (ROOT, True, "unknown"),
        (ROOT | {"authenticatedUserPrivileges": []}, True, "stop"),
        (ROOT | {"authenticatedUserPrivileges": granted(({"anyResource": True}, "anyAction"))}, True, "ok"),
    ],
)
def test_logins(login: dict[str, Any], guarded: bool, severity: str) -> None:
    assert rights.judge_login("mongos", login, NEEDS, guarded=guarded).severity == severity


def test_only_a_lab_goes_without_a_login() -> None:
    assert said(rights.roles, look_at(Nodes()))[0][0] == "warn"
    assert said(rights.roles, look_at(Nodes(), rehearsal=True))[0][0] == "note"


def test_members_that_lack_the_same_are_told_together() -> None:
    needs = privileges.needs_on_member("shop", (5, 0, 28))
    login = {"authenticatedUserPrivileges": granted(({"db": "", "collection": ""}, "find"))}
    rows = rights.judge_members({"a:1": login, "b:1": login}, needs)
    assert severities(rows) == ["warn"]
    assert rows[0].finding.startswith("not allowed on a:1, b:1: ")
    assert "collStats, find on local.oplog.rs" in rows[0].finding


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, ["ok"]),
        ({"require_ticket": True}, ["note"]),
        ({"maintenance_window": {"start": "11:00", "stop": "13:00"}}, ["ok"]),
        ({"maintenance_window": {"start": "02:00", "stop": "06:00"}}, ["warn"]),
        ({"maintenance_window": {"start": "13:00", "stop": "13:30", "timezone": "Europe/Berlin"}}, ["ok"]),
    ],
)
def test_policies(policy: dict[str, Any], expected: list[str]) -> None:
    assert severities(rights.judge_policy(Policy.model_validate(policy), "prod", NOW)) == expected


HOLDER = {"run": "20261123T110000Z-abc", "operator": "ada", "host": "ops1"}


@pytest.mark.parametrize(
    ("document", "run", "expected"),
    [
        (None, "mine", ["ok"]),
        ({"holder": None}, "mine", ["ok"]),
        ({"holder": HOLDER, "expires": NOW + timedelta(seconds=9)}, "mine", ["warn"]),
        ({"holder": HOLDER, "expires": NOW + timedelta(seconds=9)}, HOLDER["run"], ["ok"]),
        ({"holder": HOLDER, "expires": NOW - timedelta(seconds=9)}, "mine", ["ok"]),
        ({"holder": None, "kept": {"balancer": {}}}, "mine", ["ok", "note"]),
    ],
)
def test_leases(document: dict[str, Any] | None, run: str, expected: list[str]) -> None:
    assert severities(list(rights.judge_lease(document, run, NOW))) == expected


def test_rights_and_approval_of_the_recorded_cluster() -> None:
    nodes = Nodes()
    assert said(rights.roles, look_at(nodes))[0][0] == "warn"
    assert [row[0] for row in said(rights.approval, look_at(nodes))] == ["ok", "ok"]
    expires = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=10_000)
    nodes.router.documents["credscale.lease"] = [{"_id": "run", "holder": HOLDER, "expires": expires}]
    rows = said(rights.approval, look_at(nodes))
    assert rows[1][0] == "warn"
    assert rows[1][1].startswith("ada on ops1 works on this cluster")


def test_a_user_who_may_do_all_on_mongos_and_nothing_on_a_shard() -> None:
    nodes = Nodes()
    everything = granted(({"anyResource": True}, "anyAction"))
    nodes.answer("connectionStatus", {"authInfo": ROOT | {"authenticatedUserPrivileges": everything}})
    nodes.answer("connectionStatus", {"authInfo": ROOT | {"authenticatedUserPrivileges": []}}, "127.0.0.1:27020")
    rows = said(rights.roles, look_at(nodes))
    assert [row[0] for row in rows] == ["ok", "warn"]
    assert "127.0.0.1:27020" in rows[1][1]
