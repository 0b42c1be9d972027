"""Backups of a running cluster: kept, tried, declared, and what a disk that fills up leaves behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import PreconditionFailed
from credscale.mongo.backup import dump as backup
from credscale.mongo.backup import manifest as manifests
from credscale.mongo.backup.leftovers import leftovers, new_folder
from tests.mongo.backup.test_dump import facts_of
from tests.scenarios.lab.conftest import DEADLINE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scenarios.lab.conftest import Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]
ROOM = 20_000_000


def step(stage: Stage, name: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run one step; return exit code and its record in the newest journal."""
    command = [sys.executable, "-m", "invoke", f"mongo.{name}", "--env", str(stage.environment), "--in-process"]
    done = subprocess.run(
        [*command, "--namespace", stage.namespace, *flags],
        cwd=ROOT, env=stage.environ(), capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    ends = [event for lines in stage.journals() for event in lines if event["event"] == "step_finished"]
    assert ends, done.stdout + done.stderr
    return done.returncode, max(ends, key=lambda event: str(event["time"]))


@pytest.fixture(autouse=True)
def _own_lock(stage: Stage) -> None:
    """Give the stage a name of its own: the lock on an environment is one per checkout."""
    text = stage.environment.read_text()
    stage.environment.write_text(text.replace("name: stage", f"name: backup-stage-{os.getpid()}"))


def manifest_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest in the backup's folder that a step names."""
    return dict(json.loads(Path(record["output"]["folder"], "manifest.json").read_text()))


def test_taken_tried_and_kept(stage: Stage) -> None:
    stage.collection.create_index([("userId", 1), ("createdAt", -1)], name="by_user", sparse=True)
    code, record = step(stage, "backup", "--engine", "native")
    assert (code, record["output"]["baseline"]) == (0, "taken")
    assert "users, roles, zones and every other collection are not in this backup" in record["summary"]
    manifest = manifest_of(record)
    assert manifest["point"]["start"]["shards"] == ["shard1ReplSet", "shard2ReplSet"]
    assert manifest["point"]["start"]["balancer"].startswith("full")
    assert manifest["tool"].startswith("credscale-native")
    assert record["output"]["retained"]["backups"] == 1
    code, record = step(stage, "restore-check", "--sample", "200")
    assert code == 0, record
    assert "200 documents were restored" in record["summary"]
    assert "by_user" in record["output"]["indexes"]
    code, record = step(stage, "restore-check")
    assert (code, record["output"]["documents"]) == (0, manifest["documents"])
    code, record = step(stage, "backup")
    assert (code, record["status"]) == (0, "ok"), record
    assert record["output"]["baseline"] == "kept"
    assert "credscale_restore_check" not in stage.client.list_database_names()


def test_a_declared_snapshot(stage: Stage) -> None:
    declared = f"snapshot:vol-123@{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    code, record = step(stage, "backup", "--external", declared)
    assert (code, record["output"]["engine"]) == (0, "external")
    assert "not checked: whether the snapshot vol-123 exists" in record["summary"]
    manifest = manifest_of(record)
    assert [*manifest["files"]] == [f"dump/{stage.namespace.replace('.', '/')}.hashes"]
    assert manifest["digest"]["documents"] == stage.collection.count_documents({})
    code, record = step(stage, "restore-check")
    assert code == 0
    assert record["summary"].startswith("not checked: whether snapshot:vol-123 restores")
    code, record = step(stage, "restore-check", "--external-restore-tested", "OPS-12")
    assert (code, record["status"]) == (0, "changed")


def test_the_proof_compares_with_the_hashes_beside_a_declared_snapshot(stage: Stage) -> None:
    """A writer's change is explained by the oplogs, and what is lost is named, without the documents themselves."""
    code, _ = step(stage, "backup", "--external", f"snapshot:vol-1@{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    assert code == 0
    stage.collection.insert_one({"_id": "by a writer", "userId": 1, "createdAt": datetime.now(UTC)})
    code, record = step(stage, "verify-digest")
    assert (code, record["status"]) == (0, "ok"), record["summary"]
    assert record["output"]["concurrent"]["inserted"] == 1, record["output"]


def test_a_pbm_backup_that_pbm_does_not_know(stage: Stage) -> None:
    code, record = step(stage, "backup", "--external", "pbm:2026-11-20T02:00:00Z")
    assert code == 1
    assert "PBM has no backup 2026-11-20T02:00:00Z" in record["summary"]
    assert not list((stage.folder / "backups").rglob("manifest.json"))


class Disk:
    """A folder whose room can be cut: a file system of its own, or where none can be mounted a limit on file sizes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = self._mount(f"size={ROOM}")

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def cut(self, left: int) -> None:
        """Leave room for so many bytes."""
        if self.own:
            used = shutil.disk_usage(self.folder).used
            assert self._mount(f"remount,size={used + left}")
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (left, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Yield a disk; it is gone afterwards."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    (tmp_path / "disk").mkdir()
    made = Disk(tmp_path / "disk")
    try:
        yield made
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        if made.own:
            subprocess.run(["umount", made.folder], check=True)


def test_a_disk_that_fills_up_half_way(stage: Stage, disk: Disk) -> None:
    """The space asked for beforehand was there; somebody else took it meanwhile."""
    collection, root = stage.collection, disk.folder
    kept = backup.dump(collection, new_folder(root), facts=facts_of(collection), needed=1)
    disk.cut(kept.bytes // 2)
    folder = new_folder(root)
    with pytest.raises(PreconditionFailed) as caught:
        backup.dump(collection, folder, facts=facts_of(collection), needed=1)
    text = str(caught.value)
    assert f"The disk of {folder} is full" in text
    assert "The unfinished files were removed. Beside it lie 1 finished backups of 2." in text
    assert list(folder.iterdir()) == []
    assert [leftover.folder for leftover in leftovers(root)] == [folder]
    assert backup.verify(kept.folder).documents == kept.documents
    assert [each.folder for each in _found(root, kept)] == [kept.folder]
    disk.cut(ROOM)
    again = backup.dump(collection, new_folder(root), facts=facts_of(collection), needed=kept.bytes)
    assert again.digest == kept.digest


def _found(root: Path, kept: manifests.Manifest) -> list[manifests.Manifest]:
    return manifests.find_backups(root, kept.namespace, kept.cluster_id, kept.collection_uuid)
