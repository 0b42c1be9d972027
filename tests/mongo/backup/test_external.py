"""Backups that others took are believed as far as their maker's records go, and no further."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.mongo.backup.external import Checked, Declared, check_external, parse_external
from credscale.mongo.cluster.facts import Shard

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TAKEN = NOW - timedelta(hours=3)
SHARDS = tuple(Shard(name, f"{name}RS", (f"{name}:27018",), 1, draining=False) for name in ("shard1", "shard2"))


def document(**changes: Any) -> dict[str, Any]:
    """Return a document of admin.pbmBackups as PBM 2.x writes it for a sharded cluster."""
    sets = [{"name": name, "status": "done"} for name in ("shard1RS", "shard2RS")]
    return {
        "name": "2026-11-23T09:00:00Z",
        "type": "logical",
        "status": "done",
        "replsets": [{"name": "cfg", "status": "done", "iscs": True}, *sets],
        "start_ts": int(TAKEN.timestamp()) - 60,
        "last_write_ts": Timestamp(int(TAKEN.timestamp()), 3),
        "mongodb_version": "5.0.28-24",
        "pbm_version": "2.4.1",
        **changes,
    }


class FakePbm:
    """Stands for the client, its database admin and the collection of backups in one."""

    def __init__(self, *documents: dict[str, Any], error: Exception | None = None) -> None:
        self.documents, self.error = {each["name"]: each for each in documents}, error
        self.fields: list[str] = []

    def __getitem__(self, _name: str) -> FakePbm:
        return self

    def get_collection(self, name: str, **options: Any) -> FakePbm:
        assert (name, options["read_concern"].level) == ("pbmBackups", "majority")
        return self

    def find_one(self, query: dict[str, Any], fields: dict[str, int]) -> dict[str, Any] | None:
        self.fields += fields
        if self.error is not None:
            raise self.error
        return self.documents.get(query["name"])

    def find(self, query: dict[str, Any], _fields: Any) -> FakePbm:
        assert query == {"status": "done"}
        return self

    def sort(self, *_order: Any) -> FakePbm:
        return self

    def limit(self, count: int) -> list[dict[str, Any]]:
        return list(self.documents.values())[:count]


def check(pbm: FakePbm, text: str = "pbm:2026-11-23T09:00:00Z", version: str = "5.0.28") -> Checked:
    client: Any = pbm
    return check_external(
        client, parse_external(text), namespace="shop.orders", shards=SHARDS, version=version, now=NOW
    )


def test_a_pbm_backup_that_is_done_and_whole() -> None:
    checked = check(FakePbm(document()))
    assert checked.time == TAKEN
    assert checked.known["replica_sets"] == ["cfg", "shard1RS", "shard2RS"]
    assert (checked.known["config_servers"], checked.known["last_write"]) == (True, [int(TAKEN.timestamp()), 3])
    assert checked.not_checked == (
        "whether its files are still on PBM's storage and whole: pbm describe-backup and a restore tell",
    )


def test_the_storage_and_its_keys_are_not_read() -> None:
    pbm = FakePbm(document())
    check(pbm)
    assert "store" not in {field.partition(".")[0] for field in pbm.fields}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "running"}, "its status is 'running', not 'done'"),
        ({"status": "error", "error": "shard2RS: lost agent"}, "'error', not 'done' shard2RS: lost agent"),
        ({"replsets": [{"name": "shard1RS", "status": "done"}]}, "the replica set shard2RS is not in it"),
        (
            {"replsets": [{"name": "shard1RS", "status": "done"}, {"name": "shard2RS", "status": "partlyDone"}]},
            "its part of shard2RS is 'partlyDone'",
        ),
        ({"nss": ["shop.carts", "other.*"]}, r"it holds only shop\.carts, other\.\*"),
        ({"type": "incremental", "src_backup": "base"}, "it rests on base, which is gone"),
        ({"last_write_ts": Timestamp(0, 0), "start_ts": 0}, "it records no time"),
    ],
)
def test_pbm_backups_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PreconditionFailed, match=reason):
        check(FakePbm(document(**changes)))


@pytest.mark.parametrize("nss", [["shop.orders"], ["shop.*"], ["*.*"], []])
def test_selective_backups_that_hold_the_collection(nss: list[str]) -> None:
    assert check(FakePbm(document(nss=nss))).time == TAKEN


def test_an_incremental_backup_rests_on_all_before_it() -> None:
    newest = document(type="incremental", src_backup="middle")
    middle = document(name="middle", type="incremental", src_backup="base")
    assert check(FakePbm(newest, middle, document(name="base"))).known["type"] == "incremental"
    with pytest.raises(PreconditionFailed, match="it rests on base, which is 'canceled'"):
        check(FakePbm(newest, middle, document(name="base", status="canceled")))


def test_what_cannot_be_known_is_said() -> None:
    sets = [{"name": name} for name in ("shard1RS", "shard2RS")]
    checked = check(FakePbm(document(type="external", replsets=sets)), version="6.0.1")
    assert [sentence.partition(":")[0] for sentence in checked.not_checked[1:]] == [
        "whether it restores here",
        "whether the data files were copied",
        "whether the config servers are in it",
    ]


def test_an_unknown_name_shows_the_known_ones() -> None:
    with pytest.raises(PreconditionFailed, match=r"has 2026-11-23T09:00:00Z as the latest"):
        check(FakePbm(document()), "pbm:2026-11-22T09:00:00Z")
    with pytest.raises(PreconditionFailed, match="has none that is done"):
        check(FakePbm(), "pbm:2026-11-22T09:00:00Z")


def test_an_old_pbm_backup() -> None:
    old = Timestamp(int((NOW - timedelta(hours=30)).timestamp()), 1)
    with pytest.raises(PreconditionFailed, match="30 h ago; at most 24 h"):
        check(FakePbm(document(last_write_ts=old)))


def test_without_the_right_to_read_its_records() -> None:
    refused = OperationFailure("not authorized", 13)
    checked = check(FakePbm(error=refused))
    assert checked.time == datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    assert checked.known == {}
    assert checked.not_checked[0].startswith("anything about it")
    with pytest.raises(PreconditionFailed, match="its age is unknown"):
        check(FakePbm(error=refused), "pbm:nightly")
    with pytest.raises(OperationFailure):
        check(FakePbm(error=OperationFailure("broken", 8)))


def test_a_snapshot_is_only_recorded() -> None:
    checked = check(FakePbm(), "snapshot:vol-123@2026-11-23T11:00:00+01:00")
    assert checked.time == datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
    assert len(checked.not_checked) == 2
    assert checked.to_json()["id"] == "vol-123"


@pytest.mark.parametrize(
    "text",
    [
        "", "vol-123", "ebs:vol-123@2026-11-23T09:00:00Z", "snapshot:vol-123", "snapshot:@2026-11-23T09:00:00Z",
        "snapshot:a b@2026-11-23T09:00:00Z", "snapshot:v@yesterday", "snapshot:v@2026-11-23T09:00:00", "pbm:",
        "pbm:2026-11-23T09:00:00Z@2026-11-23T09:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_external_backup(text: str) -> None:
    with pytest.raises(EnvironmentInvalid, match="external"):
        parse_external(text)


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        found = parse_external(text)
    except EnvironmentInvalid:
        return
    assert isinstance(found, Declared)
    assert text.startswith(found.text)
