"""What can go wrong with the data, planted behind the routers' back: each is found, named, and told how to mend."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import StepFailed
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.core.step import Status
from credscale.lab.simulated.contract import IDENTITY_COMMAND, MIGRATION_COMMENT
from credscale.mongo.backup.steps import backup
from credscale.mongo.proof.catalogue_check import verify_catalogue
from credscale.mongo.proof.duplicates import verify_unique_ids
from credscale.mongo.proof.point_reads import verify_reads
from credscale.mongo.proof.verification import verify_counts, verify_digest
from credscale.testing import fresh_collection
from tests.scenarios.lab.conftest import DEADLINE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bson import ObjectId

    from credscale.lab.state import LabState

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

DOCUMENTS = 400
KEY = {"createdAt": "hashed", "userId": 1}
KEY_TEXT = "createdAt:hashed,userId:1"
BEHIND = {"comment": MIGRATION_COMMENT}  # such writes are marked fromMigrate: no oplog explains them


class Site:
    """A collection that is backed up, sharded and spread over both shards, and the members that hold it."""

    def __init__(self, lab: LabState, folder: Path) -> None:
        self.namespace = fresh_collection(lab, DOCUMENTS)
        self.name, _, self.coll = self.namespace.partition(".")
        environment = Environment.model_validate({"name": "stage", "mongo": {"uri": f"file:{lab.directory}/mongo-uri"}})
        secrets = Secrets()
        self.clients = Clients(environment, secrets)
        self.ctx = Context(environment, Journal(None, secrets.mask), self.clients, secrets)
        self.mongos: MongoClient[dict[str, Any]] = MongoClient(lab.uri)
        self.collection = self.mongos[self.name][self.coll]
        self.collection.create_index([("userId", 1)], name="by_user", partialFilterExpression={"userId": {"$gt": ""}})
        self.environment = folder / "stage.yaml"
        self.environment.write_text(f'name: stage\nmongo: {{uri: "file:{lab.directory}/mongo-uri"}}\n')
        self.target: dict[str, Any] = {"namespace": self.namespace, "backup_directory": str(folder)}
        # The simulated router knows whole seconds only: what is inserted in the backup's second was "written since".
        time.sleep(1.1)
        backup(self.ctx, **self.target)
        self._shard()
        shards = self.mongos.admin.command("listShards")["shards"]
        hosts = {each["_id"]: each["host"].partition("/")[2] for each in shards}
        self.members = {name: MongoClient[dict[str, Any]](host, directConnection=True) for name, host in hosts.items()}

    def _shard(self) -> None:
        admin = self.mongos.admin
        admin.command({"balancerStop": 1})
        admin.command({"enableSharding": self.name})
        spec = {"key": KEY, "name": "createdAt_hashed_userId_1"}
        self.mongos[self.name].command({"createIndexes": self.coll, "indexes": [spec]})
        admin.command({"shardCollection": self.namespace, "key": KEY})
        middle = next(iter(self.mongos["config"]["chunks"].find(self._chunks())))
        if middle["min"]["createdAt"] != 0 and self.mongos["config"]["chunks"].count_documents(self._chunks()) == 1:
            admin.command({"split": self.namespace, "middle": {"createdAt": 0, "userId": ""}})
        chunks = list(self.mongos["config"]["chunks"].find(self._chunks()))
        for chunk in chunks[: len(chunks) // 2]:
            to = "shard2ReplSet" if chunk["shard"] == "shard1ReplSet" else "shard1ReplSet"
            admin.command({"moveChunk": self.namespace, "bounds": [chunk["min"], chunk["max"]], "to": to})

    def _chunks(self) -> dict[str, Any]:
        sharded = self.mongos["config"]["collections"].find_one({"_id": self.namespace})
        assert sharded is not None
        return {"uuid": sharded["uuid"]}

    def holder(self, identity: ObjectId) -> tuple[str, dict[str, Any]]:
        """Return the shard that holds a document, and the document."""
        for name, member in self.members.items():
            found = member[self.name][self.coll].find_one({"_id": identity})
            if found is not None:
                return name, found
        raise AssertionError(f"nobody holds {identity}")

    def on(self, shard: str, command: dict[str, Any]) -> dict[str, Any]:
        """Run a command on a shard behind the routers' back."""
        return self.members[shard][self.name].command({**command, **BEHIND})

    def task(self, name: str, folder: Path) -> tuple[int, str]:
        """Run a step from the command line; return exit code and what it printed."""
        options = ["--env", str(self.environment), "--namespace", self.namespace]
        options += ["--backup-directory", self.target["backup_directory"]]
        environ = os.environ | {"CREDSCALE_ARTIFACTS": str(folder / "artifacts"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "invoke", name, *options],
            cwd=ROOT, env=environ, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=DEADLINE,
        )  # fmt: skip
        return done.returncode, done.stdout

    def close(self) -> None:
        """Drop the collection and hang up."""
        self.mongos.drop_database(self.name)
        for client in (self.mongos, *self.members.values()):
            client.close()
        self.clients.close()


@pytest.fixture
def site(lab: LabState, tmp_path: Path) -> Iterator[Site]:
    """Yield a site of its own."""
    made = Site(lab, tmp_path)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def found(match: str) -> Iterator[dict[str, Any]]:
    """Expect a step to fail with a text; give its output."""
    output: dict[str, Any] = {}
    with pytest.raises(StepFailed, match=match) as caught:
        yield output
    output |= caught.value.result.output


def test_a_clean_migration_passes_every_check(site: Site) -> None:
    counts = verify_counts(site.ctx, **site.target, shard_key=KEY_TEXT)
    assert counts.summary == f"{DOCUMENTS} documents, the sum of what the shards own"
    assert all(row["owned"] > 0 for row in counts.output["rows"])
    digest = verify_digest(site.ctx, **site.target)
    assert digest.summary.endswith("byte for byte")
    assert digest.output["read"] == "not read at one moment: the router names no moment of its snapshot"
    assert verify_unique_ids(site.ctx, namespace=site.namespace).status is Status.OK
    catalogue = verify_catalogue(site.ctx, **site.target)
    assert set(catalogue.output["asked"]) == {"mongos", "shard1ReplSet", "shard2ReplSet"}
    reads = verify_reads(site.ctx, **site.target, sample=60)
    by_key, by_id = reads.output["rows"]
    assert (by_key["one shard asked"], by_id["one shard asked"]) == ("60 of 60", "0 of 60")


def test_lost_and_changed_documents(site: Site, tmp_path: Path) -> None:
    first, second, third = (each["_id"] for each in site.collection.find({}, {"_id": 1}).limit(3))
    deletes = [{"q": {"_id": first}, "limit": 1}]
    site.on(site.holder(first)[0], {"delete": site.coll, "deletes": deletes})
    updates = [{"q": {"_id": second}, "u": {"$set": {"score": "forged"}}}]
    site.on(site.holder(second)[0], {"update": site.coll, "updates": updates})
    site.collection.update_one({"_id": third, **_key(site.holder(third)[1])}, {"$set": {"score": "a user's"}})
    with found(f"1 lost, 1 unexpected changed; the first is _id {first}: restore it") as output:
        verify_digest(site.ctx, **site.target)
    assert (output["lost"], output["unexpected_changed"]) == ([str(first)], [str(second)])
    assert output["concurrent"]["updated"] == 1
    assert set(output["what_to_do"]) == {"lost", "unexpected_changed"}
    code, printed = site.task("mongo.verify-digest", tmp_path)
    assert (code, str(first) in printed) == (1, True), printed
    with found("2 of 400 sampled documents") as output:
        verify_reads(site.ctx, **site.target, sample=DOCUMENTS)
    assert (output["lost"], output["unexpected_changed"]) == ([str(first)], [str(second)])


def test_a_users_update_that_was_lost(site: Site) -> None:
    """Behind the routers' back the document becomes again what it was in the backup: no digest shows it."""
    lost, kept, back = list(site.collection.find({}).limit(3))
    for document, now in ((lost, {**lost, "n": 1}), (kept, {**kept, "n": 2}), (back, {**back, "n": 3}), (back, back)):
        assert site.collection.replace_one({"_id": document["_id"], **_key(document)}, now).modified_count == 1
    updates = [{"q": {"_id": lost["_id"]}, "u": lost}]
    site.on(site.holder(lost["_id"])[0], {"update": site.coll, "updates": updates})
    # The simulated router knows whole seconds only: what is written in the second of the proof may come after it.
    time.sleep(1.1)
    with found(f"1 lost updates; the first is _id {lost['_id']}: here, but not as the last write") as output:
        verify_digest(site.ctx, **site.target)
    assert output["lost_updates"] == [str(lost["_id"])]
    assert output["concurrent"]["updated"] == 1


def test_a_document_that_two_shards_own(site: Site) -> None:
    """The same `_id` with another document's shard key, on the shard that owns that key."""
    original = next(iter(site.collection.find({})))
    here = site.holder(original["_id"])[0]
    other = next(each for each in site.collection.find({}) if site.holder(each["_id"])[0] != here)
    planted = {**original, **_key(other)}
    there = site.holder(other["_id"])[0]
    site.on(there, {"insert": site.coll, "documents": [planted]})
    for probe, target in ((verify_unique_ids, {"namespace": site.namespace}), (verify_digest, site.target)):
        with found(f"{original['_id']}") as output:
            probe(site.ctx, **target)
        assert output["duplicated"] == [str(original["_id"])]
        rows = output.get("copies") or output["rows"]
        assert {row["shard"] for row in rows} == {here, there}
        assert all(f'{{\\"$oid\\": \\"{original["_id"]}\\"}}' in row["delete with"] for row in rows)


def test_an_index_and_an_option_that_one_shard_has_otherwise(site: Site) -> None:
    site.on("shard2ReplSet", {"dropIndexes": site.coll, "index": "by_user"})
    validator = {"userId": {"$exists": True}}
    site.on("shard1ReplSet", {"collMod": site.coll, "validator": validator})
    with found("on (mongos|shard1ReplSet): the option validator") as output:
        verify_catalogue(site.ctx, **site.target)
    by_place = {row["place"]: row for row in output["rows"] if row["place"].startswith("shard")}
    assert by_place["shard1ReplSet"]["what"].startswith("the option validator is")
    assert '"validator": {}' in by_place["shard1ReplSet"]["what to do"]
    assert by_place["shard2ReplSet"]["what"] == "the index by_user is missing, or its build is not finished"
    site.collection.create_index([("userId", 1)], name="by_user", partialFilterExpression={"userId": {"$gt": ""}})
    site.on("shard1ReplSet", {"collMod": site.coll, "validator": {}})  # the lab's router can't
    assert verify_catalogue(site.ctx, **site.target).status is Status.OK


def test_another_collection_of_the_same_name_on_one_shard(site: Site) -> None:
    database, _, collection = site.namespace.partition(".")
    site.members["shard1ReplSet"][database].command({IDENTITY_COMMAND: collection, "uuid": b"another uuid 16b"})
    with found("UUID is 616e6f74686572.*stray collection") as output:
        verify_catalogue(site.ctx, **site.target)
    assert "shard1ReplSet" in {row["place"] for row in output["rows"]}


def _key(document: dict[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in KEY}
