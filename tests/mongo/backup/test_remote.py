"""mongodump on another machine: the password goes over its input, its files are checked there, its leftovers go."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import CredscaleError, EnvironmentInvalid, PreconditionFailed, VerificationFailed
from credscale.core.machines import LocalMachine
from credscale.mongo.backup import baseline as backup_baseline
from credscale.mongo.backup import dump as backup
from credscale.mongo.backup.engine import Tool
from credscale.mongo.backup.mongodump import Access
from credscale.mongo.backup.reading import Job
from credscale.mongo.backup.remote import (
    find_remote,
    listing,
    parse_free,
    parse_listing,
    parse_place,
    read_remote,
    unfinished_there,
    verify_there,
)
from credscale.mongo.documents.digest import digest_documents
from tests.mongo.backup.test_dump import RAWS

if TYPE_CHECKING:
    from credscale.core.context import Context

NAME = "20261123T101112Z-0a1b2c"
ACCESS = Access("mongodb://user@host/?authSource=admin", "secret-word")
PROGRAM = """#!{python}
import json, os, pathlib, stat, sys
if sys.argv[1] == "--version":
    print("mongodump version: 100.9.4")
    sys.exit(0)
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
config = open(options["--config"]).read()
pathlib.Path({notes!r}).write_text(json.dumps([sys.argv, config, stat.S_ISFIFO(os.fstat(0).st_mode)]))
out = pathlib.Path(options["--out"], options["--db"])
out.mkdir(parents=True)
(out / "things.bson").write_bytes(b"0123456789")
if "full" in config:
    print("Failed: write: no space left on device " + config, file=sys.stderr)
    sys.exit(1)
if "bad" in config:
    print("Failed: bad uri " + config, file=sys.stderr)
    sys.exit(1)
(out / "things.metadata.json").write_text("{{}}")
print("2026-11-23T10:00:00.000+0000\\tdone dumping db.things (29 documents)", file=sys.stderr)
"""


class FakeCollection:
    """Stands for the live collection."""

    full_name = "db.things"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a mongodump on the other machine's PATH; return where it leaves its notes."""
    program = tmp_path / "bin" / "mongodump"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, notes=str(tmp_path / "notes")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(backup_baseline, "scan_raw", lambda *_, **__: iter(RAWS))
    return tmp_path / "notes"


def taken(tmp_path: Path, access: Access = ACCESS, size: int = 10) -> Any:
    """Take a backup on the other machine, which is this one."""
    folder, machine = tmp_path / "here" / NAME, LocalMachine()
    (folder / "dump.partial").mkdir(parents=True)
    session, collection = object(), FakeCollection()
    place = parse_place(f"backup1:{tmp_path}/there")
    return read_remote(
        Job(collection, folder, {}), session, machine=machine, tool=find_remote(machine), access=access,  # type: ignore[arg-type]
        place=place, parent=f"{tmp_path}/there/unit/db.things", size=size,
    )  # fmt: skip


def test_the_dump_stays_there_and_the_hashes_come_here(notes: Path, tmp_path: Path) -> None:
    reading = taken(tmp_path)
    there = tmp_path / "there" / "unit" / "db.things" / NAME
    assert sorted(path.name for path in there.rglob("*") if path.is_file()) == [
        "SHA256SUMS", "things.bson", "things.metadata.json",
    ]  # fmt: skip
    assert reading.survey.digest == digest_documents(RAWS)
    began = datetime.fromisoformat(reading.external["time"]).timestamp()
    assert began <= notes.stat().st_mtime, "what is written while mongodump reads may not be in the dump"
    assert (reading.engine, reading.external["id"]) == ("mongodump", f"backup1:{tmp_path}/there")
    assert reading.external["known"]["files"]["db/things.bson"]["bytes"] == 10
    assert "mongodump counted 29 documents and the pass for the hashes 30" in reading.external["not_checked"][1]
    arguments, config, is_pipe = json.loads(notes.read_text())
    assert "secret" not in str(arguments)
    assert "mongodb://" not in str(arguments)
    assert "secret-word" in config
    assert is_pipe, "a socket, which sshd may give, can't be opened as /dev/stdin"


def test_its_files_are_read_again_there(notes: Path, tmp_path: Path, ctx: Context) -> None:
    reading = taken(tmp_path)
    clients: Any = ctx.clients
    clients.machine = lambda name: {"backup1": LocalMachine()}[name]
    manifest: Any = type("Taken", (), {"external": json.loads(json.dumps(reading.external))})
    verify_there(ctx, manifest)
    data = Path(reading.external["folder"], "db", "things.bson")
    data.write_bytes(b"0123456780")
    with pytest.raises(VerificationFailed, match=r"on backup1 .*not what was written: db/things.bson"):
        verify_there(ctx, manifest)


@pytest.mark.parametrize(("uri", "reason"), [("mongodb://full", "is full"), ("mongodb://bad", "exit code 1")])
def test_a_failed_dump_leaves_nothing_there(notes: Path, tmp_path: Path, uri: str, reason: str) -> None:
    with pytest.raises(CredscaleError, match=reason) as caught:
        taken(tmp_path, Access(uri, "secret-word"))
    assert "secret-word" not in str(caught.value)
    assert not list((tmp_path / "there" / "unit" / "db.things").iterdir())


def test_too_little_room_there(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match=r"needs \d+ bytes .*Nothing was written"):
        taken(tmp_path, size=1 << 60)
    assert not notes.exists()


def test_what_killed_runs_left_there(tmp_path: Path) -> None:
    parent = tmp_path / "db.things"
    for name in (NAME, "20261123T101113Z-0a1b2c", "somebody-elses"):
        (parent / name).mkdir(parents=True)
    (parent / NAME / "SHA256SUMS").touch()
    assert unfinished_there(LocalMachine(), str(parent)) == [f"{parent}/20261123T101113Z-0a1b2c"]
    assert unfinished_there(LocalMachine(), f"{parent}/none") == []


def test_names_with_blanks_and_signs_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a b%2Fc$.bson").write_bytes(b"xyz")
    found = listing(LocalMachine(), str(tmp_path))
    assert found["a b%2Fc$.bson"]["bytes"] == 3
    assert len(found["a b%2Fc$.bson"]["sha256"]) == 64


def test_no_mongodump_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = LocalMachine()
    monkeypatch.setattr(machine, "find_program", lambda _name: None)
    with pytest.raises(PreconditionFailed, match="mongodump is not on the PATH of"):
        find_remote(machine)


def test_an_old_mongodump_there(notes: Path) -> None:
    machine = LocalMachine()
    assert find_remote(machine) == Tool(str(notes.parent / "bin" / "mongodump"), (100, 9, 4))


@pytest.mark.parametrize("text", ["backup1", "backup1:folder", "/srv", ":/srv", "backup1:/", "b c:/x", "b:/x y"])
def test_places_that_are_refused(text: str) -> None:
    with pytest.raises(EnvironmentInvalid, match="backup1:/srv/backups"):
        parse_place(text)


def test_df_in_posix_format() -> None:
    text = (
        "Filesystem     1024-blocks      Used Available Capacity Mounted on\n"
        "/dev/sda1        102400000  22400000  80000000      22% /srv/back ups\n"
    )
    assert parse_free(text) == 80_000_000 * 1024


def test_sums_and_sizes() -> None:
    text = f"{'a' * 64}  ./db/x.bson\n{'b' * 64} *./db/y.json\n10 ./db/x.bson\n  3 ./db/y.json\n9 ./db/z\n"
    assert parse_listing(text) == {
        "db/x.bson": {"sha256": "a" * 64, "bytes": 10},
        "db/y.json": {"sha256": "b" * 64, "bytes": 3},
    }


def test_documents_that_are_elsewhere_are_not_read_here(notes: Path, tmp_path: Path) -> None:
    reading = taken(tmp_path)
    manifest = type("Taken", (), {"external": reading.external})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backup, "read_manifest", lambda _folder: manifest)
        with pytest.raises(PreconditionFailed, match="holds hashes only"):
            list(backup.read_documents(tmp_path))
