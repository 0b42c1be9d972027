"""A backup is whole, is found again, is refused when damaged, and restores."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import psutil
import pytest
from bson import Binary, Int64, ObjectId, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import ASCENDING, MongoClient

from credscale.core.errors import CredscaleError, PreconditionFailed, VerificationFailed
from credscale.mongo.backup import dump as backup
from credscale.mongo.backup import dump_files
from credscale.mongo.backup import manifest as manifests
from credscale.mongo.backup import restore as backup_restore
from credscale.mongo.backup.engine import Tool, read_mongodump
from credscale.mongo.backup.manifest import Manifest
from credscale.mongo.backup.mongodump import Access, disk_full, mongodump_path, run_mongodump, without_database
from credscale.mongo.backup.reading import refuse_unsupported
from credscale.mongo.backup.target import logical_time, timed_digest
from credscale.mongo.documents.digest import digest_documents
from credscale.mongo.documents.oplog import user_operations
from credscale.mongo.documents.scan import scan_raw
from credscale.testing import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.collection import Collection

    from credscale.core.context import Context

RAWS = [bson.encode({"_id": n, "text": "x" * n}) for n in range(30)]
UUID = "0f" * 16
FACTS = manifests.BackupFacts("db.things", "cluster", UUID, False)


def make_backup(folder: Path, *, finished: str = "2024-01-01T00:00:00.000+00:00", **changes: Any) -> Path:
    """Write a finished backup of RAWS without a server."""
    data = dump_files.data_file(folder, "db.things")
    data.parent.mkdir(parents=True)
    data.write_bytes(b"".join(RAWS))
    metadata = dump_files.metadata_file(folder, "db.things")
    metadata.write_text(dump_files.encode_metadata({"name": "things"}, []))
    survey = dump_files.survey(data, str(data))
    fields: dict[str, Any] = {
        "engine": "native",
        "namespace": "db.things",
        "cluster_id": "cluster",
        "collection_uuid": UUID,
        "sharded_at_start": False,
        "started": "2024-01-01T00:00:00.000+00:00",
        "finished": finished,
        "operation_time_start": Timestamp(5, 6),
        "operation_time_end": None,
        "documents": survey.digest.documents,
        "bytes": survey.bytes,
        "files": {
            data.relative_to(folder).as_posix(): {"bytes": survey.bytes, "sha256": survey.sha256},
            metadata.relative_to(folder).as_posix(): dump_files.checksum(metadata),
        },
        "digest": survey.digest,
        **changes,
    }
    dump_files.write_json(folder / "manifest.json", Manifest(folder=folder, **fields).to_json())
    return folder


@pytest.fixture
def things(client: MongoClient[Any]) -> Iterator[Collection[Any]]:
    """A collection with documents, options and indexes."""
    database = client["backup-db"]
    database.command({"create": "things", "validator": {"n": {"$exists": True}}, "validationAction": "warn"})
    collection = database["things"]
    collection.insert_many([{"_id": n, "n": Int64(n), "text": "é" * n} for n in range(500)])
    collection.insert_many([{"_id": ObjectId(), "n": 1}, {"_id": "text", "n": 2.0}])
    collection.create_index([("n", ASCENDING), ("a", ASCENDING)], name="second", sparse=True)
    yield collection
    client.drop_database("backup-db")


def facts_of(collection: Collection[Any]) -> manifests.BackupFacts:
    entry = next(collection.database.list_collections(filter={"name": collection.name}))
    return manifests.BackupFacts(collection.full_name, "cluster", entry["info"]["uuid"].hex(), False)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("analyses", "analyses"),
        ("a/b?c;d,e f%g", "a%2Fb%3Fc%3Bd%2Ce%20f%25g"),
        ("a$b&c+d=e:f@g-h_i.j~k", "a$b&c+d=e:f@g-h_i.j~k"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("n" * 238, "n" * 238),
        ("n" * 239, "n" * 208 + "%24KlE1B8w-hZ88ofC8BT2w5nPt7Ws"),
    ],
)
def test_file_names_are_mongodumps(name: str, stem: str) -> None:
    assert dump_files.file_stem(name) == stem
    assert dump_files.data_file(Path("b"), f"db.{name}") == Path("b", "dump", "db", f"{stem}.bson")
    assert dump_files.metadata_file(Path("b"), f"db.{name}").name == f"{stem}.metadata.json"
    assert len(stem) <= 238


def test_dots_in_a_name_are_no_ending() -> None:
    assert dump_files.metadata_file(Path("b"), "db.a.b.c") == Path("b", "dump", "db", "a.b.c.metadata.json")


INDEXES = st.lists(
    st.dictionaries(
        st.text("ab.$*ü", min_size=1, max_size=5), st.sampled_from([1, -1, "hashed", Int64(1), 1.0]), min_size=1
    ).map(lambda key: {"v": 2, "key": key, "name": "n", "ns": "db.things"}),
    max_size=3,
)
OPTIONS = st.dictionaries(
    st.sampled_from(["validator", "collation", "size"]),
    st.one_of(st.integers(0, 9), st.integers(2**40, 2**41).map(Int64), st.floats(allow_nan=False), st.text()),
)


@settings(deadline=None)
@given(OPTIONS, INDEXES, st.binary(min_size=16, max_size=16))
def test_metadata_round_trip(options: dict[str, Any], indexes: list[dict[str, Any]], uuid: bytes) -> None:
    entry = {"name": "things", "type": "collection", "options": options, "info": {"uuid": Binary(uuid, 4)}}
    metadata = dump_files.decode_metadata(dump_files.encode_metadata(entry, indexes))
    assert list(metadata) == ["options", "indexes", "uuid", "collectionName", "type"]
    # Encoded, so that number types and the order of keys count.
    assert bson.encode(metadata["options"]) == bson.encode(options)
    kept = [{"v": 2, "key": index["key"], "name": "n"} for index in indexes]
    assert bson.encode({"": metadata["indexes"]}) == bson.encode({"": kept})
    assert (metadata["uuid"], metadata["collectionName"], metadata["type"]) == (uuid.hex(), "things", "collection")


def test_metadata_is_canonical_extended_json() -> None:
    text = dump_files.encode_metadata(
        {"name": "t", "options": {"size": Int64(5)}}, [{"v": 2, "key": {"b": 1, "a": -1}}]
    )
    assert '{"size": {"$numberLong": "5"}}' in text
    assert '"key": {"b": {"$numberInt": "1"}, "a": {"$numberInt": "-1"}}' in text


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"name": "v", "type": "view", "options": {"viewOn": "x"}}, "view"),
        ({"name": "t", "type": "timeseries", "options": {"timeseries": {}}}, "timeseries"),
        ({"name": "c", "type": "collection", "options": {"capped": True, "size": 1}}, "capped"),
        ({"name": "c", "type": "collection", "options": {"clusteredIndex": {"key": {"_id": 1}}}}, "clustered"),
        ({"name": "e", "type": "collection", "options": {"encryptedFields": {"fields": []}}}, "encrypted"),
        ({"name": "system.buckets.t", "type": "collection", "options": {}}, "system"),
    ],
)
def test_what_is_no_plain_collection_is_refused(entry: dict[str, Any], kind: str) -> None:
    with pytest.raises(PreconditionFailed, match=rf"{entry['name']}.*{kind}"):
        refuse_unsupported(entry)


def test_a_plain_collection_is_not_refused() -> None:
    entry = {"name": "things", "type": "collection", "options": {"capped": False}}
    assert refusal(entry) is None
    assert refusal({**entry, "options": {"capped": True}}) is not None


def refusal(entry: dict[str, Any]) -> PreconditionFailed | None:
    try:
        refuse_unsupported(entry)
    except PreconditionFailed as error:
        return error
    return None


def walked(content: bytes, tmp: Path) -> list[bytes]:
    path = tmp / "data.bson"
    path.write_bytes(content)
    with path.open("rb") as stream:
        return [raw for _, raw in dump_files.walk(stream, "data.bson")]


def test_every_truncation_is_rejected(tmp_path: Path) -> None:
    folder = make_backup(tmp_path / "b")
    data = dump_files.data_file(folder, "db.things")
    content = data.read_bytes()
    starts = [sum(map(len, RAWS[:n])) for n in range(len(RAWS))]
    for cut in range(len(content)):
        data.write_bytes(content[:cut])
        with pytest.raises(VerificationFailed) as caught:
            backup.verify(folder)
        # Between two documents only the manifest tells; within one the walk does, and says where that one began.
        expected = cut if cut in starts else max(start for start in starts if start < cut)
        assert caught.value.output == {"file": str(data), "offset": expected}
        if cut not in starts:
            with pytest.raises(VerificationFailed):
                walked(content[:cut], tmp_path)
    data.write_bytes(content)
    assert backup.verify(folder).verified is not None


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_the_walk_gives_back_every_byte_or_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    tmp = tmp_path_factory.getbasetemp()
    try:
        assert b"".join(walked(content, tmp)) == content
    except VerificationFailed as error:
        found = error.output
    else:
        return
    assert found["file"] == "data.bson"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"\x04\0\0\0\0", "claims 4 bytes"),
        (b"\xff\xff\xff\xff\0", "claims -1 bytes"),
        ((dump_files.LARGEST_DOCUMENT + 1).to_bytes(4, "little"), f"claims {dump_files.LARGEST_DOCUMENT + 1} bytes"),
        (b"\x05\0\0\0\1", "NUL"),
        (b"\x06\0", "ends 2 bytes into"),
    ],
)
def test_the_walk_names_file_offset_and_reason(frame: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match=rf"data\.bson: at byte {len(RAWS[0])}: .*{reason}"):
        walked(RAWS[0] + frame, tmp_path)


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = make_backup(tmp_path / "b")
    data = dump_files.data_file(folder, "db.things")
    content = bytearray(data.read_bytes())
    at = sum(map(len, RAWS[:20])) + len(RAWS[20]) - 3
    content[at] ^= 1
    data.write_bytes(content)
    with pytest.raises(VerificationFailed) as caught:
        backup.verify(folder)
    assert caught.value.output == {"file": str(data), "offset": sum(map(len, RAWS[:20]))}


def test_swapped_documents_are_found_by_the_checksum(tmp_path: Path) -> None:
    folder = make_backup(tmp_path / "b")
    dump_files.data_file(folder, "db.things").write_bytes(b"".join([RAWS[1], RAWS[0], *RAWS[2:]]))
    with pytest.raises(VerificationFailed, match="SHA-256"):
        backup.verify(folder)


def test_damage_to_any_other_file_is_found(tmp_path: Path) -> None:
    folder = make_backup(tmp_path / "b")
    metadata = dump_files.metadata_file(folder, "db.things")
    metadata.write_text(metadata.read_text().replace("things", "thongs"))
    with pytest.raises(VerificationFailed, match="things.metadata.json: at byte 0: .*SHA-256"):
        backup.verify(folder)
    metadata.unlink()
    with pytest.raises(VerificationFailed, match="the file is gone"):
        backup.verify(folder)


def test_a_document_without_id_is_found(tmp_path: Path) -> None:
    path = tmp_path / "data.bson"
    path.write_bytes(RAWS[0] + bson.encode({"no": "id"}))
    with pytest.raises(VerificationFailed) as caught:
        dump_files.survey(path, "data.bson")
    assert caught.value.output == {"file": "data.bson", "offset": len(RAWS[0])}


def test_manifest_round_trip_and_marks(tmp_path: Path) -> None:
    folder = make_backup(tmp_path / "b")
    manifest = manifests.read_manifest(folder)
    stored = json.loads((folder / "manifest.json").read_text())
    assert stored == manifest.to_json()
    assert (stored["format"], stored["operation_time_start"], stored["operation_time_end"]) == (2, [5, 6], None)
    checked = {"time": "now", "documents": 30, "namespace": "scratch.things"}
    assert manifests.mark(folder, restore_checked=checked) == manifests.read_manifest(folder)
    assert manifests.read_manifest(folder).restore_checked == checked
    assert sorted(item.name for item in folder.iterdir()) == ["dump", "manifest.json"]
    with pytest.raises(TypeError):
        manifests.mark(folder, verfied="a typing error")


def test_a_failed_mark_leaves_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_backup(tmp_path / "b")
    before = (folder / "manifest.json").read_bytes()
    monkeypatch.setattr(dump_files, "sync", _disk_full)
    with pytest.raises(OSError, match="No space"):
        manifests.mark(folder, verified="now")
    assert (folder / "manifest.json").read_bytes() == before
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("text", ["", "[1]x", "{}", '{"format": 1}', '{"format": 2}', '{"format": 3}'])
def test_an_unreadable_manifest_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(VerificationFailed):
        manifests.read_manifest(tmp_path)
    with pytest.raises(PreconditionFailed, match="never finished"):
        manifests.read_manifest(tmp_path / "other")


def test_only_finished_backups_of_this_collection_are_found_newest_first(tmp_path: Path) -> None:
    old = make_backup(tmp_path / "z-old", finished="2024-01-01T00:00:00.000+00:00")
    new = make_backup(tmp_path / "a-new", finished="2024-01-02T00:00:00.000+00:00")
    make_backup(tmp_path / "other-collection", collection_uuid="ab" * 16)
    make_backup(tmp_path / "other-cluster", cluster_id="elsewhere")
    make_backup(tmp_path / "other-name", namespace="db.other")
    (make_backup(tmp_path / "unfinished") / "manifest.json").unlink()
    (make_backup(tmp_path / "garbled") / "manifest.json").write_text("{")
    found = manifests.find_backups(tmp_path, "db.things", "cluster", UUID)
    assert [manifest.folder for manifest in found] == [new, old]
    assert manifests.find_backups(tmp_path / "nowhere", "db.things", "cluster", UUID) == []


@pytest.mark.scenario
def test_dump_verify_restore(things: Collection[Any], tmp_path: Path) -> None:
    folder = tmp_path / "root" / "backup"
    seen: list[tuple[int, int]] = []
    manifest = backup.dump(
        things, folder, facts=facts_of(things), needed=1000, on_progress=lambda done, size: seen.append((done, size))
    )
    assert manifests.read_manifest(folder) == manifest
    assert (manifest.engine, manifest.documents, manifest.verified) == ("native", 502, None)
    assert seen[-1] == (502, manifest.bytes)
    assert manifest.operation_time_start is not None
    assert sorted(manifest.files) == [
        f"dump/backup-db/{name}" for name in ("prelude.json", "things.bson", "things.metadata.json")
    ]
    assert list(backup.read_documents(folder)) == list(scan_raw(things))
    metadata = dump_files.decode_metadata((folder / "dump/backup-db/things.metadata.json").read_text())
    assert metadata["uuid"] == manifest.collection_uuid
    assert [list(index["key"]) for index in metadata["indexes"]] == [["_id"], ["n", "a"]]
    assert list(json.loads((folder / "dump/backup-db/prelude.json").read_text())) == ["ServerVersion", "ToolVersion"]
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert backup.verify(folder).verified
    scratch = things.database["scratch"]
    sent = backup_restore.restore(folder, scratch)
    assert sent == manifest.digest == digest_documents(scan_raw(scratch))
    assert next(scratch.database.list_collections(filter={"name": "scratch"}))["options"] == metadata["options"]
    assert list(scratch.index_information()) == ["_id_"]
    with pytest.raises(PreconditionFailed, match="scratch exists"):
        backup_restore.restore(folder, scratch)


@pytest.mark.scenario
def test_restore_of_a_part_in_small_batches(
    things: Collection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0)
    monkeypatch.setattr(backup_restore, "BATCH_DOCUMENTS", 30)
    seen: list[int] = []
    sent = backup_restore.restore(
        tmp_path / "b", things.database["part"], sample=100, on_progress=lambda n, _: seen.append(n)
    )
    assert seen == [30, 60, 90, 100]
    assert sent == digest_documents(scan_raw(things.database["part"]))


@pytest.mark.scenario
def test_an_empty_collection(client: MongoClient[Any], tmp_path: Path) -> None:
    empty = client["backup-db"].create_collection("empty")
    manifest = backup.dump(empty, tmp_path / "b", facts=facts_of(empty), needed=0)
    assert (manifest.documents, manifest.bytes) == (0, 0)
    assert backup.verify(tmp_path / "b").verified
    assert backup_restore.restore(tmp_path / "b", client["backup-db"]["restored"]).documents == 0
    client.drop_database("backup-db")


@pytest.mark.scenario
def test_dump_refuses_before_starting(things: Collection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = facts_of(things)
    with pytest.raises(PreconditionFailed, match="made anew"):
        backup.dump(things, tmp_path / "b", facts=manifests.BackupFacts(facts.namespace, "c", UUID, False), needed=0)
    other = manifests.BackupFacts("backup-db.none", "c", UUID, False)
    with pytest.raises(PreconditionFailed, match="does not exist"):
        backup.dump(things.database["none"], tmp_path / "b", facts=other, needed=0)
    with pytest.raises(PreconditionFailed, match=r"facts are about db\.things"):
        backup.dump(things, tmp_path / "b", facts=FACTS, needed=0)
    assert not (tmp_path / "b").exists()
    monkeypatch.setattr(dump_files, "free_bytes", lambda _: 1_099)
    with pytest.raises(PreconditionFailed, match=r"needs 1100 bytes .*only 1099 are free"):
        backup.dump(things, tmp_path / "b", facts=facts, needed=1000)
    assert not list((tmp_path / "b").iterdir())
    backup.dump(things, tmp_path / "b", facts=facts, needed=999)
    with pytest.raises(PreconditionFailed, match="holds a backup already"):
        backup.dump(things, tmp_path / "b", facts=facts, needed=999)


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.scenario
@pytest.mark.parametrize("call", ["sync", "sync_folder", "checksum"])
def test_a_full_disk_leaves_nothing_behind(
    call: str, things: Collection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(dump_files, call, _disk_full)
        with pytest.raises(
            PreconditionFailed, match=rf"disk of {tmp_path}/b is full \(No space.*about 7777 bytes, \d+ were left"
        ):
            backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=7777)
    assert not list((tmp_path / "b").iterdir())
    (tmp_path / "b" / "dump.partial" / "left").mkdir(parents=True)  # by a killed run
    assert backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0).documents == 502


# Stands for mongodump: copies a file that a test made, and notes its arguments and what it found in --config.
PROGRAM = """#!{python}
import json, pathlib, stat, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
config = pathlib.Path(options["--config"])
out = pathlib.Path(options["--out"], options["--db"])
seen = [sys.argv[1:], config.read_text(), stat.S_IMODE(config.stat().st_mode)]
pathlib.Path({notes!r}).write_text(json.dumps(seen))
if "FAIL" in seen[1]:
    print("Failed:", {failure!r}, seen[1], file=sys.stderr)
    sys.exit(1)
out.mkdir(parents=True)
data = pathlib.Path({source!r}).read_bytes()
(out / "things.bson").write_bytes(data[:100])
time.sleep(0.3)
(out / "things.bson").write_bytes(data)
(out / "things.metadata.json").write_text('{{"options": {{}}, "indexes": []}}')
"""


@pytest.fixture
def fake_mongodump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mongodump on PATH; returns where it leaves its notes."""
    notes, source = tmp_path / "notes.json", tmp_path / "source.bson"
    source.write_bytes(b"".join(RAWS))
    program = tmp_path / "bin" / "mongodump"
    program.parent.mkdir()
    failure = "no space left on device" if "full" in os.environ.get("PYTEST_CURRENT_TEST", "") else "bad uri"
    program.write_text(PROGRAM.format(python=sys.executable, notes=str(notes), source=str(source), failure=failure))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return notes


URI = "mongodb://user@host/?authSource=admin"


@pytest.mark.scenario
def test_mongodump_is_used_where_it_is(things: Collection[Any], fake_mongodump: Path, tmp_path: Path) -> None:
    access = Access(URI, "pass: 'word\"")
    read = partial(read_mongodump, tool=Tool(str(mongodump_path()), (100, 9, 4)), access=access)
    manifest = backup.dump(things, tmp_path / "b", facts=facts_of(things), needed=0, read=read)
    assert (manifest.engine, manifest.tool) == ("mongodump", "mongodump 100.9.4")
    assert manifest.digest == digest_documents(RAWS)
    assert backup.verify(tmp_path / "b").documents == len(RAWS)
    arguments, config, mode = json.loads(fake_mongodump.read_text())
    assert "word" not in str(arguments)
    assert "mongodb://" not in str(arguments)
    assert mode == 0o600
    import yaml

    assert yaml.safe_load(config) == {"uri": URI, "password": "pass: 'word\""}
    assert arguments[arguments.index("--config") + 1].startswith("/dev/fd/"), "a file would outlive a killed run"
    for path in (tmp_path / "b" / "dump").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_mongodump_progress_is_the_file_size(fake_mongodump: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    program = mongodump_path()
    assert program is not None
    out = tmp_path / "out"
    run_mongodump(program, Access(URI), "db.things", out, on_progress=lambda *now: seen.append(now), poll=0.05)
    assert (0, 100) in seen


def test_mongodump_failure_shows_no_secret(fake_mongodump: Path, tmp_path: Path) -> None:
    with pytest.raises(CredscaleError, match="exit code 1: Failed: bad uri") as caught:
        run_mongodump(str(mongodump_path()), Access(f"{URI}&FAIL", "secret-word"), "db.things", tmp_path / "out")
    assert "secret-word" not in str(caught.value)
    assert URI not in str(caught.value)
    assert "secret-word" not in repr(Access(URI, "secret-word"))


def test_mongodump_on_a_full_disk(fake_mongodump: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        run_mongodump(str(mongodump_path()), Access("FAIL"), "db.things", tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("Failed: error writing data for collection `a.b` to disk: write x: No space left on device", errno.ENOSPC),
        ("Failed: write x: disk quota exceeded", errno.EDQUOT),
        ("Failed: write x: file too large", errno.EFBIG),
        ("Failed: can't create session: could not connect to server", None),
    ],
)
def test_what_mongodump_says_of_a_full_disk(output: str, number: int | None) -> None:
    assert disk_full(output) == number


def test_without_mongodump_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mongodump_path() is None


def test_mongodump_leaves_no_file_behind(fake_mongodump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed could not remove it, and it would hold the password."""
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    seen: list[list[Path]] = []
    run_mongodump(
        str(mongodump_path()), Access(URI, "secret"), "db.things", tmp_path / "out",
        on_progress=lambda *_: seen.append(list(private.rglob("*"))), poll=0.05,
    )  # fmt: skip
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    ("uri", "given"),
    [
        ("mongodb://u@h/admin", "mongodb://u@h/?authSource=admin"),
        ("mongodb://u@h1:1,h2:2/app?tls=true", "mongodb://u@h1:1,h2:2/?tls=true&authSource=app"),
        ("mongodb://u@h", "mongodb://u@h/?authSource=admin"),
        ("mongodb://u@h/app?authsource=x&w=1", "mongodb://u@h/?authsource=x&w=1"),
        ("mongodb://h/app", "mongodb://h/"),
        ("mongodb://h:1/?w=1", "mongodb://h:1/?w=1"),
        ("mongodb+srv://u@c.example.net/x", "mongodb+srv://u@c.example.net/?authSource=x"),
        ("mongodb://CN%3Dops@h/?authMechanism=MONGODB-X509", "mongodb://CN%3Dops@h/?authMechanism=MONGODB-X509"),
    ],
)
def test_mongodump_gets_no_second_database(uri: str, given: str) -> None:
    assert without_database(uri) == given


KILLED = """
import sys
from pathlib import Path
from credscale.mongo.backup.mongodump import Access, run_mongodump
run_mongodump(sys.argv[1], Access("mongodb://h"), "db.things", Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_mongodump_dies_with_its_run(tmp_path: Path) -> None:
    program, pid_file = tmp_path / "mongodump", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 60\n")
    program.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(program), str(tmp_path)]) as run:
        wait_for(pid_file.exists, 20)
        child = int(pid_file.read_text())
        assert is_alive(child)
        run.kill()
    wait_for(lambda: not is_alive(child), 10)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_mongodump_that_stands_still_is_ended(tmp_path: Path) -> None:
    """As with a mongos that neither answers nor closes the connection."""
    program, pid_file = tmp_path / "mongodump", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid_file}\necho waiting for a server\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(PreconditionFailed, match="wrote nothing for .* waiting for a server"):
        run_mongodump(str(program), Access("mongodb://h"), "db.things", tmp_path / "out", poll=0.05, still=0.5)
    assert not is_alive(int(pid_file.read_text()))


@pytest.mark.scenario
def test_what_a_look_may_not_have_seen_comes_after_its_time(things: Collection[Any], ctx: Context) -> None:
    """A kept backup is explained from the look that found it to be of the same data, so nothing may fall between."""
    client = things.database.client
    digest, since, until = timed_digest(ctx, client, things.full_name)
    assert digest == digest_documents(scan_raw(things))
    assert since is not None
    assert until is not None
    assert since <= until
    things.insert_one({"_id": "later"})
    seen = list(user_operations(lambda: client, "rs0", things.full_name, since))
    assert [item.id.value for item in seen if item.ts > until] == ["later"]
    time = logical_time(client, things.full_name)
    assert time is not None
    assert time >= seen[-1].ts
