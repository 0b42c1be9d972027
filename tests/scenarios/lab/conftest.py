"""A stage for whole runs: the real command line, real processes, a lab of its own, deadlines."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from credscale import lab as labs
from credscale.core.journal import read_journal
from credscale.testing import TUNING, Faults, fresh_collection, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credscale.lab.state import LabState

ROOT = Path(__file__).parents[3]
DEADLINE = 120.0 * float(os.environ.get("CREDSCALE_PATIENCE", "1"))
DOCUMENTS = 2500  # about 2.5 MB: five or six chunks of half a megabyte
ENVIRONMENT = """\
name: {name}
policy: {{confirm: none}}
lab: {{directory: "{lab}", documents: 0}}
mongo: {{uri: "file:{lab}/mongo-uri"}}
runbooks:
  shard-migrate:
    {{chunk_size_mb: 1, window: "", backup_directory: "{folder}/backups", stall_minutes: 0.5, read_sample: 20}}
"""


class Stage:
    """One collection to migrate, an environment file, a working folder."""

    def __init__(self, lab: LabState, folder: Path, documents: int = DOCUMENTS) -> None:
        self.lab, self.folder = lab, folder
        self.namespace = fresh_collection(lab, documents)
        self.environment = folder / "stage.yaml"
        self.environment.write_text(ENVIRONMENT.format(name=f"stage-{os.getpid()}", lab=lab.directory, folder=folder))
        self.faults = Faults(lab)
        self.client: MongoClient[dict[str, Any]] = MongoClient(lab.uri, serverSelectionTimeoutMS=10_000)
        database, _, name = self.namespace.partition(".")
        self.collection = self.client[database][name]

    def environ(self, **extra: str) -> dict[str, str]:
        """Return the environment variables of a run: evidence and locks go to the stage's folder."""
        return os.environ | {"CREDSCALE_ARTIFACTS": str(self.folder / "artifacts"), "PYTHONPATH": str(ROOT)} | extra

    def command(self, *flags: str) -> list[str]:
        """Return the command line of a migration of the stage's collection."""
        target = ["--env", str(self.environment), "--namespace", self.namespace]
        return [sys.executable, "-m", "invoke", "shard-migrate", *target, *flags]

    def start(self, *flags: str, **extra: str) -> subprocess.Popen[str]:
        """Start a migration and return its process."""
        return subprocess.Popen(
            self.command(*flags), cwd=ROOT, env=self.environ(**extra), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *flags: str, **extra: str) -> tuple[int, str]:
        """Run a migration to its end; return exit code and what it printed."""
        process = self.start(*flags, **extra)
        try:
            out, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not done within {DEADLINE:.0f} s:\n{process.communicate()[0]}") from None
        return process.returncode, out

    def json(self, *flags: str, **extra: str) -> tuple[int, dict[str, Any]]:
        """Run a migration with --json; return exit code and the last line as an object."""
        code, out = self.run("--json", *flags, **extra)
        return code, json.loads(out.strip().splitlines()[-1])

    def journals(self) -> list[list[dict[str, Any]]]:
        """Return the journals of all runs, oldest first."""
        folders = sorted((self.folder / "artifacts").glob("*/*/*"))
        return [list(read_journal(path / "journal.jsonl")) for path in folders if (path / "journal.jsonl").exists()]

    def wait_for_event(self, match: Callable[[dict[str, Any]], bool], deadline: float = DEADLINE) -> dict[str, Any]:
        """Wait until the newest journal holds a matching event."""

        def found() -> dict[str, Any] | None:
            journals = self.journals()
            return next((event for event in reversed(journals[-1]) if match(event)), None) if journals else None

        event = wait_for(found, deadline)
        assert event is not None
        return event

    def state(self) -> dict[str, Any]:
        """Return what a migration must have achieved, in comparable form."""
        config = self.client["config"]
        sharded = config["collections"].find_one({"_id": self.namespace}) or {}
        selector = {"uuid": sharded["uuid"]} if "timestamp" in sharded else {"ns": self.namespace}
        counts = [
            config["chunks"].count_documents({**selector, "shard": shard["_id"]}) for shard in config["shards"].find()
        ]
        status = self.client.admin.command("balancerStatus")
        return {
            "key": dict(sharded.get("key", {})),
            "even": max(counts) - min(counts) <= 1,
            "chunks": sum(counts),
            "mode": status["mode"],
            "documents": self.collection.count_documents({}),
        }


_numbers = itertools.count()


@pytest.fixture
def stage(lab: LabState, tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage whose balancer was on before; faults and leftovers are cleared afterwards."""
    made = Stage(lab, tmp_path)
    made.client["config"]["settings"].delete_many({})
    made.client.admin.command("balancerStart")
    made.client["credscale"]["lease"].delete_many({})
    try:
        yield made
    finally:
        made.faults.clear()
        made.client.drop_database(made.namespace.partition(".")[0])
        made.client.close()
        labs.up(lab.directory, tuning=TUNING)


def kill(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process and wait for its end."""
    process.send_signal(number)
    process.communicate(timeout=DEADLINE)
