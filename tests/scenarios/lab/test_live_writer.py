"""Documents are inserted, updated and deleted during the whole migration; the proof tells that from loss."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from credscale.lab.documents import make_documents

if TYPE_CHECKING:
    from tests.scenarios.lab.conftest import Stage

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


class Writer(threading.Thread):
    """Write as an application that knows the shard key would; remember what must be there at the end."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.client: MongoClient[dict[str, Any]] = MongoClient(stage.lab.uri)
        database, _, name = stage.namespace.partition(".")
        self.collection = self.client[database][name]
        self.present: dict[Any, int] = {}
        self.gone: set[Any] = set()
        self.counts = {"inserted": 0, "updated": 0, "deleted": 0}
        self.halt = threading.Event()
        self.errors: list[str] = []
        self._random = random.Random(7)
        self._known = list(self.collection.find({}, {"_id": 1, "createdAt": 1, "userId": 1}))

    def run(self) -> None:
        template = next(make_documents(1))
        while not self.halt.wait(0.03):
            try:
                self._write(dict(template))
            except PyMongoError as error:
                self.errors.append(str(error))

    def _write(self, document: dict[str, Any]) -> None:
        victim = self._known.pop(self._random.randrange(len(self._known)))
        key = {name: victim[name] for name in ("_id", "createdAt", "userId")}
        document["_id"] = ObjectId()
        self.collection.insert_one(document)
        self.present[document["_id"]] = 0
        self.counts["inserted"] += 1
        if self._random.random() < 0.5:
            self.counts["deleted"] += self.collection.delete_one(key).deleted_count
            self.gone.add(victim["_id"])
        else:
            self.counts["updated"] += self.collection.update_one(key, {"$inc": {"views": 1}}).modified_count
            self.present[victim["_id"]] = 1


def test_concurrent_change_is_no_loss(stage: Stage) -> None:
    stage.faults.set(slow_move_seconds=0.3)
    writer = Writer(stage)
    writer.start()
    try:
        code, out = stage.run("--in-process")
    finally:
        writer.halt.set()
        writer.join(30)
        writer.client.close()
    assert code == 0, out
    assert writer.errors == []
    assert all(count > 10 for count in writer.counts.values()), writer.counts
    found = {
        document["_id"]: document.get("views", 0) for document in stage.collection.find({}, {"_id": 1, "views": 1})
    }
    assert {key: found.get(key) for key in writer.present} == writer.present
    assert not writer.gone & set(found)
    output = next(
        event["output"] for event in stage.journals()[-1] if event.get("step") == "verify_digest" and "output" in event
    )
    concurrent = output["concurrent"]
    assert all(concurrent[kind] > 0 for kind in ("inserted", "updated", "deleted")), concurrent


def test_loss_is_found_among_concurrent_change(stage: Stage) -> None:
    stage.faults.set(lose=2, slow_move_seconds=0.3)
    writer = Writer(stage)
    writer.start()
    try:
        code, out = stage.run("--in-process")
    finally:
        writer.halt.set()
        writer.join(30)
        writer.client.close()
    assert code == 1, out
    output = next(
        event["output"] for event in stage.journals()[-1] if event.get("step") == "verify_digest" and "output" in event
    )
    lost = {ObjectId(text) for text in output["lost"]}
    assert len(lost) == 2
    assert not lost & {document["_id"] for document in stage.collection.find({}, {"_id": 1})}
