"""A sample of the backup is read back one by one; what differs is a writer's doing or a fault."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Regex, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.core.errors import EnvironmentInvalid, StepFailed
from credscale.core.step import Status
from credscale.mongo.backup import dump_files as files
from credscale.mongo.backup import target as backup_target
from credscale.mongo.backup.baseline import baseline, encode, hashes_file
from credscale.mongo.documents.digest import document_hash, document_id, id_key
from credscale.mongo.documents.oplog import Operation
from credscale.mongo.proof import comparison, point_reads
from credscale.mongo.proof.point_reads import asked_shards, percentile, sample_of, targeted, verify_reads
from tests.mongo.conftest import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from credscale.core.context import Context
    from tests.mongo.conftest import FakeCluster

KEY = {"createdAt": "hashed", "user.id": 1}
ARGUMENTS: dict[str, Any] = {"namespace": NAMESPACE, "backup_directory": "b"}


def raw(identity: Any, **fields: Any) -> bytes:
    return bson.encode({"_id": identity, "createdAt": 5, "userId": "u", **fields})


def pairs(*documents: bytes) -> list[tuple[bytes, bytes]]:
    return [(id_key(each), document_hash(each)) for each in documents]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(1, 100))
@settings(deadline=None)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found is not None
    within = sum(round(value, 3) <= found for value in values)
    assert within >= len(values) * percent / 100 - 1e-9
    assert sum(round(value, 3) < found for value in values) < len(values) * percent / 100 + 1e-9


def test_percentiles_of_known_values() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert (percentile(hundred, 50), percentile(hundred, 99), percentile([3.0], 99)) == (50.0, 99.0, 3.0)
    assert percentile([], 50) is None


def test_a_sample_is_fair_and_no_larger_than_wanted() -> None:
    documents = pairs(*(raw(number) for number in range(10)))
    drawn = Counter(item.id.value for seed in range(2000) for item in sample_of(documents, 3, random.Random(seed)))
    assert sum(drawn.values()) == 6000
    assert all(500 < drawn[number] < 700 for number in range(10)), drawn
    assert {item.id.value for item in sample_of(documents, 99, random.Random(1))} == set(range(10))


def test_the_query_names_one_document() -> None:
    document = bson.encode({"_id": 1, "createdAt": Regex("a"), "user": {"id": {"x": 1}}})
    query = targeted(document, KEY)
    assert query is not None
    assert list(query) == ["createdAt", "user.id", "_id"]
    assert query["createdAt"] == {"$eq": Regex("a")}
    assert bson.encode(query["user.id"]["$eq"]) == bson.encode({"x": 1})
    missing = targeted(bson.encode({"_id": 1, "createdAt": datetime(2026, 1, 1, tzinfo=UTC)}), KEY)
    assert missing is not None
    assert missing["user.id"] == {"$eq": None}
    assert targeted(bson.encode({"_id": 1, "createdAt": [1]}), KEY) is None


def test_a_baseline_of_hashes_is_as_good_as_one_of_documents(tmp_path: Path) -> None:
    documents = [raw(1), raw("two")]
    data = files.data_file(tmp_path, NAMESPACE)
    data.parent.mkdir(parents=True)
    data.write_bytes(b"".join(documents))
    from_documents = list(baseline(tmp_path, NAMESPACE))
    hashes_file(tmp_path, NAMESPACE).write_bytes(b"".join(encode(key, value) for key, value in from_documents))
    data.unlink()
    assert list(baseline(tmp_path, NAMESPACE)) == from_documents == pairs(*documents)


def test_a_plan_without_shards_asks_one() -> None:
    assert asked_shards({"queryPlanner": {"winningPlan": {"stage": "EOF"}}}) == 1


@pytest.fixture
def stored(
    ctx: Context, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[bytes]]:
    """Return what mongos holds by `_id`; at first it is the backup of ten documents."""
    cluster.shard({"createdAt": "hashed", "userId": 1})
    documents = [raw(number) for number in range(10)]
    data = files.data_file(tmp_path, NAMESPACE)
    data.parent.mkdir(parents=True)
    data.write_bytes(b"".join(documents))
    held = {str(number): [each] for number, each in enumerate(documents)}
    manifest: Any = type(
        "M", (), {"folder": tmp_path, "namespace": NAMESPACE, "external": None, "operation_time_start": Timestamp(5, 1)}
    )

    def find(_client: Any, _namespace: str, query: dict[str, Any]) -> list[bytes]:
        found = held.get(str(query["_id"]), [])
        return [each for each in found if "createdAt" not in query or bson.decode(each)["createdAt"] == 5]

    monkeypatch.setattr(backup_target.Target, "baseline", lambda _self: manifest)
    monkeypatch.setattr(point_reads, "_find", find)
    monkeypatch.setattr(point_reads, "_shards_of", lambda *asked: 1 if "createdAt" in asked[2] else 2)
    monkeypatch.setattr(point_reads, "no_oplog", lambda *_: "")
    monkeypatch.setattr(point_reads, "written_since", lambda *_: iter(()))
    monkeypatch.setattr(point_reads, "logical_time", lambda *_: None)
    monkeypatch.setattr(
        point_reads,
        "documents_now",
        lambda _client, _manifest, ids: {item: held.get(str(item.value), []) for item in ids},
    )
    monkeypatch.setattr(comparison, "PAUSE_SECONDS", 0.0)
    assert ctx
    return held


def test_all_are_as_they_were(ctx: Context, stored: dict[str, list[bytes]]) -> None:
    assert len(stored) == 10
    result = verify_reads(ctx, **ARGUMENTS, sample=5)
    assert result.summary.startswith(
        "5 sampled documents were read back through mongos, byte for byte; 5 of 5 reads by"
    )
    by_key, by_id = result.output["rows"]
    assert (by_key["read by"], by_key["reads"], by_key["one shard asked"]) == ("shard key and _id", 5, "5 of 5")
    assert (by_id["read by"], by_id["one shard asked"]) == ("_id alone", "0 of 5")
    assert by_key["p50 ms"] <= by_key["p99 ms"]


@pytest.mark.parametrize(
    ("now", "kind"),
    [([], "lost"), ([raw(3, views=1)], "unexpected_changed"), ([raw(3), raw(3, userId="v")], "duplicated")],
)
def test_what_nobody_wrote_is_a_fault(
    ctx: Context, stored: dict[str, list[bytes]], now: list[bytes], kind: str
) -> None:
    stored["3"] = now
    words = kind.replace("_", " ")
    with pytest.raises(
        StepFailed, match=rf"1 of 10 sampled documents .* first is _id 3 \({words}\).*Run verify_digest"
    ) as caught:
        verify_reads(ctx, **ARGUMENTS)
    output = caught.value.result.output
    assert output[kind] == ["3"]
    assert list(output["what_to_do"]) == [kind]
    assert output["rows"][0]["_id"] == "3"


@pytest.mark.parametrize(("now", "op"), [([], "d"), ([raw(3, views=1)], "u")])
def test_what_users_wrote_is_none(
    ctx: Context, stored: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, now: list[bytes], op: str
) -> None:
    stored["3"] = now
    asked: list[Any] = []

    def written(*given: Any) -> Any:
        asked.append(given[3])
        return iter([Operation(document_id(raw(3)), op, Timestamp(6, 1), "s1")])

    monkeypatch.setattr(point_reads, "written_since", written)
    result = verify_reads(ctx, **ARGUMENTS)
    assert "; 1 differ by what users wrote since; 9 of 9 reads" in result.summary
    assert asked == [{document_id(raw(3))}]


def test_a_document_that_its_shard_key_does_not_find(
    ctx: Context, stored: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `_id` it is there, but not where its key sends the query."""
    find = point_reads._find

    def misled(client: Any, namespace: str, query: dict[str, Any]) -> list[bytes]:
        return [] if query["_id"] == 3 and "createdAt" in query else find(client, namespace, query)

    assert stored
    monkeypatch.setattr(point_reads, "_find", misled)
    with pytest.raises(StepFailed, match=r"first is _id 3 \(not found by key\): by _id alone it is found"):
        verify_reads(ctx, **ARGUMENTS)


def test_without_oplogs_nobody_is_blamed_and_nothing_proven(
    ctx: Context, stored: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored["3"] = []
    monkeypatch.setattr(point_reads, "no_oplog", lambda *_: "the oplog of s1 is short")
    with pytest.raises(StepFailed, match="cannot be proven that writers did it: the oplog of s1 is short") as caught:
        verify_reads(ctx, **ARGUMENTS)
    assert caught.value.result.output == {"differing_ids": ["3"]}
    monkeypatch.setattr(point_reads, "read_record", lambda _: {"time": "2026-11-24"})
    result = verify_reads(ctx, **ARGUMENTS)
    assert "; 1 differ, the migration was verified at 2026-11-24; " in result.summary
    assert result.output["not_checked"] == ["whether users wrote the 1 that differ: the oplog of s1 is short"]


def test_parameters_and_dry_run(
    ctx: Context, stored: dict[str, list[bytes]], make_context: Callable[..., Context]
) -> None:
    assert stored
    with pytest.raises(StepFailed) as caught:
        verify_reads(ctx, **ARGUMENTS, sample=0)
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)
    assert verify_reads(make_context(dry_run=True), **ARGUMENTS).status is Status.SKIPPED
