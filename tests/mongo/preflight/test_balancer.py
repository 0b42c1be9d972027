"""The checks of the balancer and of what moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Int64, MaxKey, MinKey
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from credscale.core.sections import MaintenanceWindow
from credscale.mongo.cluster.facts import parse_key, parse_sharded
from credscale.mongo.cluster.settings import parse_settings
from credscale.mongo.preflight import balancer, movements
from tests.mongo.preflight.looks import LINE, NAMESPACE, Nodes, look_at, recorded, said, severities

NOW = datetime(2026, 7, 1, tzinfo=UTC)
UTC_ZONE, BERLIN = timedelta(0), timedelta(hours=2)
NIGHT = ("02:00", "06:00")
KEY = parse_key("createdAt:hashed,userId:1")


@pytest.mark.parametrize(
    ("offsets", "window", "zone", "expected"),
    [
        ({"a": UTC_ZONE, "b": UTC_ZONE}, NIGHT, None, ["ok"]),
        ({"a": UTC_ZONE, "b": BERLIN}, NIGHT, None, ["stop"]),
        ({"a": UTC_ZONE, "b": BERLIN}, None, None, ["warn"]),
        ({"a": BERLIN}, NIGHT, None, ["ok", "note"]),
        ({"a": BERLIN}, NIGHT, "Europe/Berlin", ["ok", "note"]),
        ({"a": UTC_ZONE}, NIGHT, "Europe/Berlin", ["ok", "warn"]),
        ({"a": None, "b": UTC_ZONE}, NIGHT, None, ["unknown", "ok"]),
        ({"a": None}, NIGHT, None, ["unknown"]),
        ({}, NIGHT, None, ["unknown"]),
    ],
)
def test_local_times_of_config_servers(
    offsets: dict[str, timedelta | None], window: tuple[str, str] | None, zone: str | None, expected: list[str]
) -> None:
    maintenance = None if zone is None else MaintenanceWindow(timezone=zone, start="02:00", stop="06:00")
    assert severities(balancer.judge_offsets(offsets, window, maintenance, NOW)) == expected


def test_a_log_written_in_utc_does_not_tell_where_the_server_is() -> None:
    nodes = Nodes()
    address = "127.0.0.1:27029"
    nodes.nodes[address].replies["getCmdLineOpts"] = {"parsed": {"systemLog": {"timeStampFormat": "iso8601-utc"}}}
    rows = said(balancer.window_time_zone, look_at(nodes, window="02:00-06:00"))
    assert [row[0] for row in rows] == ["unknown", "ok"]
    assert f"the log of {address} does not tell its time zone, as systemLog.timeStampFormat is" in rows[0][1]
    assert rows[1][1].startswith("2 of 3 config servers")


def test_a_log_written_in_utc_is_seen_without_its_option() -> None:
    nodes = Nodes()
    nodes.answer("getLog global", {"log": [LINE.replace("+00:00", "Z")]})
    assert {row[0] for row in said(balancer.window_time_zone, look_at(nodes, window="02:00-06:00"))} == {"unknown"}
    assert {row[0] for row in said(balancer.window_time_zone, look_at(nodes))} == {"note"}, "no window depends on it"


def test_the_window_is_shown_in_utc() -> None:
    (row, *_) = balancer.judge_offsets({"a": timedelta(hours=-9, minutes=-30)}, ("20:00", "02:15"), None, NOW)
    assert (
        row.finding
        == "1 of 1 config servers tell their local time, UTC-09:30: the window 20:00-02:15 is 05:30-11:45 UTC"
    )


@given(st.integers(0, 23), st.integers(0, 59), st.integers(-14 * 4, 14 * 4))
def test_a_window_shifted_there_and_back_is_the_same(hour: int, minute: int, quarters: int) -> None:
    window, offset = (f"{hour:02}:{minute:02}", f"{(hour + 1) % 24:02}:00"), timedelta(minutes=15 * quarters)
    (there, *_) = balancer.judge_offsets({"a": offset}, window, None, NOW)
    shown = there.finding.split(" is ")[1].removesuffix(" UTC").split("-")
    (back, *_) = balancer.judge_offsets({"a": -offset}, (shown[0], shown[1]), None, NOW)
    assert back.finding.endswith(f" is {window[0]}-{window[1]} UTC")


STATUS = {"mode": "full", "inBalancerRound": False, "numBalancerRounds": 1}


@pytest.mark.parametrize(
    ("documents", "sizes", "expected"),
    [
        ([], {}, ["ok"]),
        ([{"_id": "chunksize", "value": 64}], {"s1": 64 << 20}, ["ok"]),
        ([{"_id": "chunksize", "value": 64}], {"s1": 128 << 20, "s2": 64 << 20}, ["ok", "note"]),
        ([{"_id": "chunksize", "value": "64"}], {}, ["stop"]),
        ([{"_id": "balancer", "activeWindow": {"start": "2am"}}], {}, ["stop"]),
        ([{"_id": "balancer", "mode": "on"}], {}, ["stop"]),
        ([{"_id": "automerge", "enabled": "yes"}], {}, ["stop"]),
        ([{"_id": "balancer", "activewindow": {"start": "02:00", "stop": "06:00"}}], {}, ["stop"]),
        ([{"_id": "balanser", "stopped": True}], {}, ["stop"]),
        ([{"_id": "audit"}, {"_id": "autosplit", "enabled": False}], {}, ["ok"]),
        ([{"_id": "ReadWriteConcernDefaults"}, {"_id": "automerge", "enabled": True}], {}, ["ok"]),
    ],
)
def test_documents_of_settings(documents: list[dict[str, Any]], sizes: dict[str, int], expected: list[str]) -> None:
    found = parse_settings(documents, STATUS)
    assert severities(balancer.judge_settings(found, sizes)) == expected


def test_a_misspelt_window_says_what_was_meant_and_keeps_the_balancer_off() -> None:
    found = parse_settings([{"_id": "balancer", "stopped": True, "activewindows": {}}, {"_id": "chunksiz"}], STATUS)
    document, field = balancer.judge_settings(found, {})
    assert document.finding.endswith("that no server reads; chunksize was meant, perhaps")
    assert field.finding.endswith("'activewindows' that no server reads; activeWindow was meant, perhaps")
    assert '{$unset: {"activewindows": 1}}' in field.remedy
    wrong = parse_settings([{"_id": "balancer", "stopped": "true"}], STATUS)
    assert "deleteOne" not in balancer.judge_settings(wrong, {})[0].remedy  # it would turn the balancer on


@pytest.mark.parametrize(
    ("status", "severity"),
    [
        ({"mode": "off", "inBalancerRound": False}, "ok"),
        ({"mode": "off", "inBalancerRound": True}, "note"),
        ({"mode": "full"}, "note"),
    ],
)
def test_states_of_the_balancer(status: dict[str, Any], severity: str) -> None:
    assert balancer.judge_balancer(parse_settings([], status)).severity == severity


def test_moves_of_ours_are_told_and_others_are_waited_for() -> None:
    rows = movements.judge_moves({NAMESPACE: "s1 -> s2", "other.coll": "s2 -> s1"}, NAMESPACE)
    assert severities(rows) == ["note", "warn"]


@pytest.mark.parametrize(
    ("lock", "expected"),
    [
        ({"_id": NAMESPACE, "why": "shardCollection"}, ["stop"]),
        ({"_id": "credibility_prod", "why": "dropDatabase"}, ["stop"]),
        ({"_id": "other.coll", "why": "shardCollection"}, ["warn"]),
        ({"_id": "balancer", "why": "CSRS Balancer"}, []),
        ({"_id": "moving.now", "why": "x"}, []),
        ({"_id": NAMESPACE, "why": f"Migrating chunk(s) in collection {NAMESPACE}"}, []),
    ],
)
def test_held_locks(lock: dict[str, Any], expected: list[str]) -> None:
    assert severities(movements.judge_locks([lock], {"moving.now"}, NAMESPACE)) == expected


def test_resharding_stops_its_database_only() -> None:
    rows = movements.judge_resharding([{"ns": "credibility_prod.users", "state": "cloning"}, {"ns": "a.b"}], NAMESPACE)
    assert severities(rows) == ["stop", "warn"]


LOW, HIGH = MinKey(), MaxKey()


@pytest.mark.parametrize(
    ("low", "high", "zones", "expected"),
    [
        ({"createdAt": LOW, "userId": LOW}, {"createdAt": HIGH, "userId": HIGH}, ["EU"], ["ok"]),
        ({"createdAt": Int64(-5), "userId": LOW}, {"createdAt": Int64(7), "userId": LOW}, ["EU"], ["ok"]),
        ({"createdAt": LOW, "userId": LOW}, {"createdAt": HIGH, "userId": HIGH}, [], ["stop"]),
        ({"userId": "a"}, {"userId": "b"}, ["EU"], ["stop"]),
        ({"createdAt": NOW, "userId": LOW}, {"createdAt": HIGH, "userId": HIGH}, ["EU"], ["stop"]),
    ],
)
def test_zones(low: dict[str, Any], high: dict[str, Any], zones: list[str], expected: list[str]) -> None:
    tags = [{"ns": NAMESPACE, "min": low, "max": high, "tag": "EU"}]
    assert severities(movements.judge_zones(tags, [{"_id": "s1", "tags": zones}, {"_id": "s2"}], KEY)) == expected


@pytest.mark.parametrize(
    ("extra", "remedies"),
    [
        ({}, []),
        ({"noBalance": True}, ["run sh.enableBalancing("]),
        ({"allowMigrations": False}, ["wait for the resharding or other change"]),
        ({"permitMigrations": False}, ["run db.adminCommand({setAllowMigrations: "]),
        ({"noBalance": True, "permitMigrations": False}, ["run sh.enableBalancing(", "run db.adminCommand({setAllow"]),
    ],
)
def test_each_switch_of_a_collection_has_its_own_remedy(extra: dict[str, Any], remedies: list[str]) -> None:
    entry = {"_id": NAMESPACE, "key": KEY, "uuid": None, **extra}
    rows = movements.judge_allowed(parse_sharded(entry), entry, NAMESPACE)
    assert severities(rows) == (["warn"] * len(remedies) or ["ok"])
    for row, remedy in zip(rows, remedies, strict=False):
        assert row.remedy.startswith(remedy)
        assert NAMESPACE in row.remedy
        assert "start_balancer will refuse" in row.finding


def test_a_collection_that_is_not_sharded_may_move() -> None:
    assert severities(movements.judge_allowed(None, {}, NAMESPACE)) == ["ok"]


def test_ranges_that_wait_for_their_deletion() -> None:
    rows = movements.judge_deletions("s1", {NAMESPACE: 3, "a.b": movements.MOST_DELETIONS}, NAMESPACE)
    assert rows[0].finding == "s1 still has to delete 10000 or more ranges of a.b"
    assert rows[1].finding == "s1 still has to delete 3 ranges of this collection"
    assert severities(movements.judge_deletions("s1", {}, NAMESPACE)) == ["ok"]


def test_the_recorded_cluster_passes() -> None:
    look = look_at(Nodes(), window="02:00-06:00")
    assert said(balancer.window_time_zone, look) == [
        ("ok", "3 of 3 config servers tell their local time, UTC+00:00: the window 02:00-06:00 is 02:00-06:00 UTC")
    ]
    assert said(balancer.settings, look)[0][0] == "ok"
    assert said(balancer.balancer, look) == [("ok", "the balancer is off and at rest")]
    assert said(movements.migrations, look) == [("ok", "nothing moves and nothing is resharded")]
    assert said(movements.zones, look) == [("ok", "the collection has no zones")]
    assert said(movements.balancing_allowed, look)[0][0] == "ok"
    assert [row[0] for row in said(movements.range_deletions, look)] == ["ok", "ok"]


def test_a_move_that_was_recorded() -> None:
    nodes = Nodes()
    nodes.router.documents["operations"] = recorded("06-balancing", "currentOp")
    rows = said(movements.migrations, look_at(nodes))
    assert rows == [("note", f"a chunk of {NAMESPACE} moves: shard1ReplSet -> shard2ReplSet")]


def test_operations_that_may_not_be_seen_leave_the_catalogue_to_be_seen() -> None:
    nodes = Nodes()
    nodes.router.documents["operations"] = OperationFailure("not authorized", 13)
    nodes.router.documents["config.locks"] = [{"_id": NAMESPACE, "state": 2, "why": "shardCollection"}]
    assert [row[0] for row in said(movements.migrations, look_at(nodes))] == ["unknown", "stop"]


def test_deletions_of_a_shard_without_a_primary_are_unknown() -> None:
    nodes = Nodes()
    nodes.kill("127.0.0.1:27020")
    nodes.nodes["127.0.0.1:27018"].documents["config.rangeDeletions"] = [{"nss": "a.b"}]
    rows = said(movements.range_deletions, look_at(nodes))
    assert [row[0] for row in rows] == ["unknown", "warn"]


def test_a_failed_read_is_not_repeated_by_the_next_check() -> None:
    nodes = Nodes()
    nodes.answer("balancerStatus", OperationFailure("not authorized", 13), "127.0.0.1:27017")
    look = look_at(nodes)
    assert said(balancer.balancer, look)[0][0] == said(balancer.settings, look)[0][0] == "unknown"
    assert sum("balancerStatus" in request for request in nodes.router.asked) == 1
