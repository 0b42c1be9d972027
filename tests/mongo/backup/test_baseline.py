"""The hashes beside an external backup tell exactly what the documents would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.mongo.backup import dump as backup
from credscale.mongo.backup import dump_files
from credscale.mongo.backup.baseline import baseline_hashes, encode, hashes_file, read_hashes
from credscale.mongo.documents.digest import BUCKETS, compare, digest_documents, document_hash, document_hashes, id_key
from credscale.mongo.documents.scan import scan_raw
from tests.mongo.backup.test_dump import facts_of

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo import MongoClient

# Every type that MongoDB takes for an `_id`; arrays, undefined and regular expressions it refuses.
IDS: list[Any] = [
    None, 1, Int64(2), 2.5, Decimal128("3.25"), float("inf"), "a", "ä\0b", "", {}, {"b": 1, "a": [1, 2]}, b"bytes",
    Binary(b"0123456789abcdef", 4), Binary(b"x", 128), ObjectId(), False, True, Timestamp(1, 2), MinKey(), MaxKey(),
    Code("f()"), {"at": DBRef("c", 1), "like": Regex("^a", "i")},
]  # fmt: skip
EVERYTHING = range(BUCKETS)
values = st.recursive(
    st.sampled_from(IDS) | st.text() | st.integers(-(2**63), 2**63 - 1).map(Int64) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.$", min_size=1), inner, max_size=3),
    max_leaves=4,
)


@settings(deadline=None)
@given(values, st.binary(min_size=16, max_size=16))
def test_a_line_is_bson_and_keeps_the_id_byte_for_byte(value: Any, content: bytes) -> None:
    key = id_key(bson.encode({"_id": value}))
    line = encode(key, content)
    assert bson.is_valid(line)
    assert id_key(line) == key
    assert bson.decode(line)["h"] == content


@settings(deadline=None)
@given(st.lists(st.tuples(values, st.integers(0, 3)), max_size=20))
def test_hashes_are_those_of_the_documents(tmp_path_factory: pytest.TempPathFactory, pairs: list[Any]) -> None:
    """An `_id` may come twice: two shards can hold the same one."""
    folder = tmp_path_factory.mktemp("b")
    raws = [bson.encode({"_id": value, "n": number}) for value, number in pairs]
    path = hashes_file(folder, "db.a.b")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(encode(id_key(raw), document_hash(raw)) for raw in raws))
    assert baseline_hashes(folder, "db.a.b", EVERYTHING) == document_hashes(raws, EVERYTHING)
    path.rename(path.with_suffix(".aside"))
    dump_files.data_file(folder, "db.a.b").write_bytes(b"".join(raws))
    assert baseline_hashes(folder, "db.a.b", EVERYTHING) == document_hashes(raws, EVERYTHING)


def test_only_the_wanted_buckets_are_listed(tmp_path: Path) -> None:
    raws = [bson.encode({"_id": number}) for number in range(50)]
    path = hashes_file(tmp_path, "db.c")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(encode(id_key(raw), document_hash(raw)) for raw in raws))
    wanted = digest_documents(raws[:3]).differing(digest_documents([]))
    assert baseline_hashes(tmp_path, "db.c", wanted) == document_hashes(raws, wanted)


@pytest.mark.scenario
def test_an_external_backup_names_what_is_lost(client: MongoClient[Any], tmp_path: Path) -> None:
    collection = client["baseline-db"]["things"]
    collection.insert_many([{"_id": value, "n": 1} for value in IDS])
    external = {"kind": "snapshot", "id": "vol-1", "time": "2026-11-23T10:00:00+00:00", "not_checked": ["it"]}
    manifest = backup.dump(
        collection, tmp_path / "b", facts=facts_of(collection), needed=0,
        read=lambda job, session: read_hashes(job, session, tool="snapshot:vol-1", external=external),
    )  # fmt: skip
    assert (manifest.engine, manifest.external, manifest.documents) == ("external", external, len(IDS))
    assert [*manifest.files] == ["dump/baseline-db/things.hashes"]
    assert manifest.digest == digest_documents(scan_raw(collection))
    assert "the backup itself is of 2026-11-23T10:00:00+00:00" in manifest.point["statement"]
    assert backup.verify(tmp_path / "b").verified
    with pytest.raises(PreconditionFailed, match=r"hashes only; the documents are in vol-1"):
        list(backup.read_documents(tmp_path / "b"))
    collection.delete_one({"_id": "a"})
    live = digest_documents(scan_raw(collection))
    buckets = manifest.digest.differing(live)
    before = baseline_hashes(tmp_path / "b", collection.full_name, buckets)
    difference = compare(before, document_hashes(scan_raw(collection), buckets))
    assert [item.value for item in difference.missing] == ["a"]
    path = hashes_file(tmp_path / "b", collection.full_name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationFailed, match=r"things\.hashes"):
        backup.verify(tmp_path / "b")
    client.drop_database("baseline-db")
