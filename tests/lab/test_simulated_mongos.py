"""The simulated mongos against what a real 4.4.6 cluster answered, and under faults, crashes and writers."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pymongo
import pytest
from bson import CodecOptions, Int64, MinKey, ObjectId, json_util
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure, WriteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.scenario

RECORDED = Path(__file__).parents[1] / "cases/mongo/recorded"  # replies of a real 4.4.6 cluster
KEY: dict[str, Any] = {"createdAt": "hashed", "userId": 1}
START = datetime(2026, 1, 1)  # noqa: DTZ001 - as pymongo returns dates
INDEX = "createdAt_hashed_userId_1"
DB = "credibility_prod"
DEADLINE = 30.0
# What every reply of a replica set carries, and what 5.0 no longer sends.
FRAME = {"$clusterTime", "operationTime", "lastCommittedOpTime", "$gleStats", "$configServerState", "collectionUUID"}
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)

Client = MongoClient[dict[str, Any]]
Documents = Collection[dict[str, Any]]


class Lab:
    """The processes of one simulated cluster."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.faults_file = home / "faults.json"
        self.ports = {name: free_port() for name in ("config", "shard1", "shard2", "mongos")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clients: dict[str, Client] = {}
        self.start_shard("config", "configReplSet", "configsvr")
        self.start_shard("shard1", "shard1ReplSet", "shardsvr")
        self.start_shard("shard2", "shard2ReplSet", "shardsvr")
        for name in ("config", "shard1", "shard2"):
            self.connect(name)
        self.start_mongos()

    def _start(self, name: str, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"credscale.lab.simulated.{module}", "--port", str(self.ports[name])]
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)

    def start_shard(self, name: str, replica_set: str, role: str) -> None:
        self._start(name, "shard", "--replica-set", replica_set, "--data", str(self.home / name), "--role", role)

    def start_mongos(self) -> None:
        config = f"127.0.0.1:{self.ports['config']}"
        options = ("--faults", str(self.faults_file), "--round-seconds", "0.1", "--time-zone", "UTC")
        self._start("mongos", "mongos", "--config", config, *options)
        self.connect("mongos")

    def connect(self, name: str) -> None:
        client: Client = MongoClient(
            "127.0.0.1", self.ports[name], directConnection=True, serverSelectionTimeoutMS=20000
        )
        client.admin.command("ping")
        self.clients[name] = client

    @property
    def mongos(self) -> Client:
        return self.clients["mongos"]

    def order(self, **faults: Any) -> None:
        self.faults_file.write_text(json.dumps(faults), encoding="utf-8")

    def kill_mongos(self) -> None:
        # A client that closes later would look for the dead server to end its sessions.
        self.mongos.close()
        self.processes["mongos"].kill()
        self.processes["mongos"].wait(DEADLINE)

    def stop(self) -> None:
        for client in self.clients.values():
            client.close()
        for name in ("mongos", "shard1", "shard2", "config"):
            self.processes[name].send_signal(signal.SIGTERM)
        codes = {name: process.wait(DEADLINE) for name, process in self.processes.items()}
        assert set(codes.values()) == {0}, codes

    def host(self, name: str) -> str:
        return f"{name}ReplSet/127.0.0.1:{self.ports[name]}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(claim: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := claim():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not seen within {DEADLINE} s: {what}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    made.clients["shard1"][DB].users.insert_many([{"_id": number, "email": f"{number}@x"} for number in range(50)])
    for name in ("shard1", "shard2"):
        made.mongos.admin.command("addShard", made.host(name))
    made.mongos.admin.command("balancerStop")
    made.mongos.config.settings.update_one({"_id": "chunksize"}, {"$set": {"value": 1}}, upsert=True)
    made.mongos.admin.command("enableSharding", DB)
    prepare_refusals(made.mongos)
    yield made
    made.stop()


def prepare_refusals(mongos: Client) -> None:
    """Create the collections that the recorded refusals are about."""
    db = mongos[DB]
    db.create_collection("capped1", capped=True, size=10000)
    db.create_collection("view1", viewOn="users", pipeline=[])
    db.uniq.create_index("email", unique=True)
    db.arr.insert_one({"createdAt": [1]})
    db.multi.insert_one({"createdAt": [1], "userId": 1})
    db.multi.create_index([("createdAt", 1), ("userId", 1)], name="m")


@pytest.fixture(autouse=True)
def _quiet(lab: Lab) -> Iterator[None]:
    """Leave every test with the balancer off, no faults and no window."""
    yield
    lab.mongos.admin.command("balancerStop")
    lab.mongos.config.settings.update_one({"_id": "balancer"}, {"$unset": {"activeWindow": 1}})
    if lab.faults_file.exists():
        lab.faults_file.unlink()
        # One round without an order lets the next test order the same fault.
        time.sleep(0.3)


def documents(number: int, size: int = 2000) -> list[dict[str, Any]]:
    chance = random.Random(number)
    return [
        {
            "_id": ObjectId(),
            "createdAt": START + timedelta(milliseconds=chance.randrange(10**9)),
            "userId": f"user-{chance.randrange(50):05}",
            "score": chance.random(),
            "big": Int64(chance.randrange(100)),
            "nested": {"b": [1, {"c": None}], "a": MinKey()},
            "text": "x" * size,
        }
        for _ in range(number)
    ]


def sharded(lab: Lab, name: str, number: int = 2000, size: int = 2000) -> Documents:
    """Shard a new collection that already has documents."""
    collection = lab.mongos[DB][name]
    lab.clients["shard1"][DB][name].insert_many(documents(number, size))
    collection.create_index(list(KEY.items()))
    lab.mongos.admin.command({"shardCollection": f"{DB}.{name}", "key": KEY})
    return collection


def chunks(lab: Lab, name: str) -> dict[str, int]:
    uuid = lab.mongos.config.collections.find_one({"_id": f"{DB}.{name}"})["uuid"]  # type: ignore[index]
    found = lab.mongos.config.chunks.find({"uuid": uuid}, {"shard": 1})
    counts: dict[str, int] = {}
    for chunk in found:
        counts[chunk["shard"]] = counts.get(chunk["shard"], 0) + 1
    return counts


def balance(lab: Lab, name: str) -> None:
    lab.mongos.admin.command("balancerStart")
    ask = {"balancerCollectionStatus": f"{DB}.{name}"}
    wait_for(lambda: lab.mongos.admin.command(ask)["balancerCompliant"], f"{name} is balanced")
    lab.mongos.admin.command("balancerStop")


def digest(collection: Documents) -> tuple[int, int]:
    total = number = 0
    for document in collection.with_options(codec_options=RAW).find():
        total += int.from_bytes(hashlib.blake2b(document.raw, digest_size=16).digest(), "big")
        number += 1
    return number, total


def held(lab: Lab, name: str) -> dict[str, int]:
    """Count what each shard really has, orphans included."""
    return {shard: lab.clients[shard][DB][name].count_documents({}) for shard in ("shard1", "shard2")}


# What a real cluster answered


def recorded(name: str) -> dict[str, Any]:
    text = (RECORDED / name).read_text(encoding="utf-8")
    return dict(json_util.loads(text, json_options=json_util.JSONOptions(tz_aware=False)))


def shape(value: Any) -> Any:
    """Reduce a reply to its keys."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items() if name not in FRAME and "/127.0.0.1" not in name}
    return None


@pytest.mark.parametrize(
    "name",
    [
        "02-add-shards/listShards.json",
        "02-add-shards/addShard-shard2.json",
        "02-add-shards/getShardMap.json",
        "02-add-shards/balancerStatus.json",
        "03-before-sharding/balancerStop.json",
        "03-before-sharding/enableSharding.json",
        "03-before-sharding/enableSharding-again.json",
    ],
)
def test_answers_have_the_recorded_shape(lab: Lab, name: str) -> None:
    case = recorded(name)
    command = case["request"]["command"]
    if "addShard" in command:
        command = {"addShard": lab.host("shard2")}
    answer = lab.mongos[case["request"]["db"]].command(command)
    assert shape(answer) == shape(case["reply"])


@pytest.mark.parametrize(
    "name",
    [
        "02-add-shards/dbHash-on-mongos.json",
        "02-add-shards/fsync-lock-on-mongos.json",
        "02-add-shards/replSetGetStatus-on-mongos.json",
        "02-add-shards/addShard-wrong-set-name.json",
        "03-before-sharding/createIndexes-hashed-on-array.json",
        "03-before-sharding/shardCollection-bad-key.json",
        "03-before-sharding/shardCollection-capped.json",
        "03-before-sharding/shardCollection-hashed-unique.json",
        "03-before-sharding/shardCollection-multikey.json",
        "03-before-sharding/shardCollection-no-index.json",
        "03-before-sharding/shardCollection-unique-conflict.json",
        "03-before-sharding/shardCollection-view.json",
    ],
)
def test_refusals_have_the_recorded_code_and_words(lab: Lab, name: str) -> None:
    case = recorded(name)
    db = lab.mongos[DB]
    if name.endswith("no-index.json"):
        db.analyses.insert_one({"createdAt": 1})
    command = case["request"]["command"]
    if "addShard" in command:
        command = {"addShard": f"nope/127.0.0.1:{lab.ports['shard1']}"}
    with pytest.raises(OperationFailure) as caught:
        lab.mongos[case["request"]["db"]].command(command)
    if name.endswith("no-index.json"):
        db.analyses.drop()
    expected = case["error"]["details"]
    assert caught.value.code == expected.get("code")
    assert caught.value.details is not None
    told = caught.value.details["errmsg"]
    assert caught.value.details.get("codeName") == expected.get("codeName")
    # Identities of index builds differ from run to run.
    assert told.rpartition(" :: ")[2].startswith(expected["errmsg"].rpartition(" :: ")[2])


def test_hello_and_build_info_say_what_this_is(lab: Lab) -> None:
    answer = lab.mongos.admin.command("hello")
    expected = recorded("02-add-shards/hello-mongos.json")["reply"]
    assert set(shape(expected)) <= set(answer)
    assert (answer["msg"], answer["maxWireVersion"]) == ("isdbgrid", 13)
    for name in ("mongos", "shard1"):
        info = lab.clients[name].admin.command("buildInfo")
        assert info["simulated"] is True
        assert "credscale-lab" in info["modules"]


def test_sharding_needs_an_enabled_database_and_shards_an_empty_collection_evenly(lab: Lab) -> None:
    with pytest.raises(OperationFailure, match="sharding not enabled for db fresh") as caught:
        lab.mongos.admin.command({"shardCollection": "fresh.c", "key": KEY})
    assert caught.value.code == 20
    lab.mongos.admin.command("enableSharding", "fresh")
    lab.mongos.admin.command({"shardCollection": "fresh.c", "key": KEY})
    found = list(lab.mongos.config.chunks.find({}, sort=[("min", 1)]))
    mine = lab.mongos.config.collections.find_one({"_id": "fresh.c"})
    assert mine is not None
    made = [chunk for chunk in found if chunk["uuid"] == mine["uuid"]]
    assert [chunk["shard"] for chunk in made] == ["shard1ReplSet"] * 2 + ["shard2ReplSet"] * 2
    assert [chunk["min"]["createdAt"] for chunk in made[1:]] == [-4611686018427387902, 0, 4611686018427387902]
    assert all(isinstance(chunk["min"]["userId"], MinKey) for chunk in made)
    lab.mongos.drop_database("fresh")
    assert lab.mongos.config.collections.find_one({"_id": "fresh.c"}) is None


def test_a_collection_with_documents_is_cut_into_half_size_chunks_on_its_primary(lab: Lab) -> None:
    collection = sharded(lab, "cut")
    expected = 2000 // (1024 * 1024 // (2 * 2150))
    assert expected <= chunks(lab, "cut")["shard1ReplSet"] <= expected + 2
    assert set(chunks(lab, "cut")) == {"shard1ReplSet"}
    end = lab.mongos.config.changelog.find_one({"what": "shardCollection.end", "ns": collection.full_name})
    assert end is not None
    assert end["details"]["numChunks"] == chunks(lab, "cut")["shard1ReplSet"]
    indexes = collection.index_information()
    assert indexes[INDEX] == {"v": 2, "key": list(KEY.items())}
    again = lab.mongos.admin.command({"shardCollection": collection.full_name, "key": KEY})
    assert again["collectionsharded"] == collection.full_name
    with pytest.raises(OperationFailure, match="sharding already enabled for collection") as caught:
        lab.mongos.admin.command({"shardCollection": collection.full_name, "key": {"_id": "hashed"}})
    assert caught.value.code == 23
    collection.drop()


# Balancing


def test_balancing_moves_every_document_byte_for_byte_and_logs_it(lab: Lab) -> None:
    collection = sharded(lab, "even")
    before = digest(collection)
    balance(lab, "even")
    counts = chunks(lab, "even")
    assert abs(counts["shard1ReplSet"] - counts["shard2ReplSet"]) <= 1
    assert digest(collection) == before
    assert collection.count_documents({}) == collection.estimated_document_count() == 2000
    assert sum(held(lab, "even").values()) == 2000
    logged = {each["what"]: each for each in lab.mongos.config.changelog.find({"ns": collection.full_name})}
    for each in recorded("07-balanced/config.changelog-newest-20.json")["reply"]:
        if each["what"] in ("moveChunk.start", "moveChunk.from", "moveChunk.to", "moveChunk.commit"):
            mine = logged[each["what"]]
            assert set(mine) == set(each)
            assert set(mine["details"]) == set(each["details"])
    rounds = lab.mongos.config.actionlog.find_one({"what": "balancer.round"})
    assert rounds is not None
    assert set(rounds["details"]) == {"executionTimeMillis", "errorOccured", "candidateChunks", "chunksMoved"}
    assert lab.mongos.config.migrations.count_documents({}) == 0
    moved = lab.clients["shard2"].local["oplog.rs"].find({"ns": collection.full_name, "op": "i"})
    assert all(entry.get("fromMigrate") is True for entry in moved)
    lab.mongos[DB].even.insert_many(documents(20))
    for shard in ("shard1", "shard2"):
        newest = lab.clients[shard].local["oplog.rs"].find({"ns": collection.full_name}).sort("$natural", -1).limit(1)
        assert "fromMigrate" not in newest[0]
    collection.drop()


def test_writes_follow_the_targeting_rules(lab: Lab) -> None:
    collection = sharded(lab, "aimed")
    balance(lab, "aimed")
    one = collection.find_one()
    assert one is not None
    assert collection.update_one({"_id": one["_id"]}, {"$set": {"x": 1}}).modified_count == 1
    cases: list[tuple[str, Callable[[], object]]] = [
        (
            "07-balanced/write-update-one-no-key.json",
            lambda: collection.update_one({"label": "mixed"}, {"$set": {"x": 1}}),
        ),
        ("07-balanced/write-delete-one-no-key.json", lambda: collection.delete_one({"label": "none"})),
        (
            "07-balanced/write-upsert-no-key.json",
            lambda: collection.update_one({"_id": "z"}, {"$set": {"x": 1}}, upsert=True),
        ),
    ]
    for name, write in cases:
        expected = recorded(name)["reply"]["writeErrors"][0]
        with pytest.raises(WriteError) as refused:
            write()
        assert refused.value.details is not None
        assert (refused.value.code, refused.value.details["errmsg"]) == (expected["code"], expected["errmsg"])
    with pytest.raises(OperationFailure, match="Query for sharded findAndModify must contain the shard key") as caught:
        collection.find_one_and_update({"_id": one["_id"]}, {"$set": {"x": 1}})
    assert caught.value.code == 61
    with pytest.raises(OperationFailure, match="Shard key cannot contain array values") as caught:
        collection.insert_one({"createdAt": [1]})
    assert caught.value.code == 61
    with pytest.raises(OperationFailure, match="cannot create unique index over") as caught:
        collection.create_index("url", unique=True)
    assert caught.value.code == 67
    key = {field: one[field] for field in KEY}
    after = collection.find_one_and_update({**key, "_id": one["_id"]}, {"$set": {"x": 2}}, return_document=True)
    assert after is not None
    assert after["x"] == 2
    upserted = collection.update_one({"createdAt": 1, "userId": "new"}, {"$set": {"x": 3}}, upsert=True)
    assert collection.find_one({"_id": upserted.upserted_id}) is not None
    collection.insert_many([{"createdAt": number, "userId": "many"} for number in range(300)])
    assert collection.update_many({"userId": "many"}, {"$set": {"y": 1}}).modified_count == 300
    assert collection.count_documents({"y": 1}) == 300
    assert collection.delete_many({"userId": "many"}).deleted_count == 300
    with pytest.raises(BulkWriteError):
        collection.insert_many([{"_id": one["_id"], **key}, {"createdAt": 5, "userId": "after"}])
    assert collection.count_documents({"userId": "after"}) == 0
    collection.drop()


def test_reads_sort_project_page_and_aggregate_across_shards(lab: Lab) -> None:
    collection = sharded(lab, "read", number=600)
    everything = sorted(collection.find(), key=lambda each: (each["userId"], each["_id"]))
    balance(lab, "read")
    ordered = list(collection.find().sort([("userId", 1), ("_id", 1)]).batch_size(70))
    assert ordered == everything
    assert list(collection.find().sort([("userId", 1), ("_id", 1)]).skip(10).limit(5)) == everything[10:15]
    assert [set(each) for each in collection.find({}, {"userId": 1}).limit(2)] == [{"_id", "userId"}] * 2
    assert "text" not in next(collection.find({}, {"text": 0}).limit(1))
    user = everything[0]["userId"]
    mine = sum(1 for each in everything if each["userId"] == user)
    assert collection.count_documents({"userId": user}) == mine
    assert sorted(collection.distinct("userId")) == sorted({each["userId"] for each in everything})
    grouped = collection.aggregate([{"$match": {"userId": user}}, {"$group": {"_id": "$userId", "n": {"$sum": 1}}}])
    assert list(grouped) == [{"_id": user, "n": mine}]
    stages = {each["shard"]: each["count"] for each in collection.aggregate([{"$collStats": {"count": {}}}])}
    assert sum(stages.values()) == 600
    assert not [name for name in lab.mongos[DB].list_collection_names() if "scratch" in name]
    collection.drop()


# Faults


def test_orphans_are_counted_by_count_and_seen_by_nobody_else(lab: Lab) -> None:
    collection = sharded(lab, "orphaned")
    before = digest(collection)
    lab.order(leave_orphans=7)
    balance(lab, "orphaned")
    assert sum(held(lab, "orphaned").values()) == collection.estimated_document_count() == 2007
    assert collection.count_documents({}) == 2000
    assert digest(collection) == before
    find = {"find": "orphaned", "filter": {}, "projection": {"_id": 0, "userId": 1}, "hint": INDEX}
    answer = lab.mongos[DB].command({"explain": find, "verbosity": "executionStats"})
    stages = {
        each["shardName"]: each["executionStages"] for each in answer["executionStats"]["executionStages"]["shards"]
    }
    filters = {name: stage["inputStage"] for name, stage in stages.items()}
    assert {each["stage"] for each in filters.values()} == {"SHARDING_FILTER"}
    assert sum(each["nReturned"] for each in filters.values()) == 2000
    assert {name: each["chunkSkips"] for name, each in filters.items()} == {"shard1ReplSet": 7, "shard2ReplSet": 0}
    assert collection.update_many({}, {"$set": {"seen": 1}}).modified_count == 2000
    orphan = next(each for each in lab.clients["shard1"][DB].orphaned.find({"seen": {"$exists": False}}))
    assert collection.delete_one({"_id": orphan["_id"]}).deleted_count == 1
    collection.drop()


def test_lost_documents_are_lost_once(lab: Lab) -> None:
    collection = sharded(lab, "losing")
    lab.order(lose=3)
    balance(lab, "losing")
    assert collection.count_documents({}) == 1997
    collection.drop()


def test_an_aborted_migration_leaves_everything_and_says_why_on_the_recipient(lab: Lab) -> None:
    collection = sharded(lab, "aborted")
    lab.order(abort="Aborting migration because of high memory usage")
    lab.mongos.admin.command("balancerStart")
    query = {"what": "moveChunk.to", "ns": collection.full_name}
    told = wait_for(lambda: lab.mongos.config.changelog.find_one(query), "an aborted migration")
    lab.mongos.admin.command("balancerStop")
    assert told["details"]["note"] == "aborted"
    assert told["details"]["errmsg"] == "Aborting migration because of high memory usage"
    donor = lab.mongos.config.changelog.find_one({**query, "what": "moveChunk.from"})
    assert donor is not None
    assert donor["details"]["note"] == "aborted"
    assert "errmsg" not in donor["details"]
    assert held(lab, "aborted") == {"shard1": 2000, "shard2": 0}
    collection.drop()


def test_jumbo_chunks_stay_and_still_count_as_compliant(lab: Lab) -> None:
    collection = sharded(lab, "jumbo")
    total = chunks(lab, "jumbo")["shard1ReplSet"]
    lab.order(jumbo=total)
    balance(lab, "jumbo")
    assert chunks(lab, "jumbo") == {"shard1ReplSet": total}
    assert lab.mongos.config.chunks.count_documents({"jumbo": True}) == total
    collection.drop()


def test_a_malformed_window_stops_balancing_without_a_word(lab: Lab) -> None:
    collection = sharded(lab, "window")
    settings = lab.mongos.config.settings
    settings.update_one({"_id": "balancer"}, {"$set": {"activeWindow": {"start": "2am", "stop": "6am"}}})
    expected = recorded("05-malformed-window/balancerStart-malformed-window.json")["error"]["details"]
    with pytest.raises(OperationFailure) as caught:
        lab.mongos.admin.command("balancerStart")
    assert caught.value.details is not None
    assert (caught.value.code, caught.value.details["errmsg"]) == (expected["code"], expected["errmsg"])
    assert lab.mongos.admin.command("balancerStatus")["mode"] == "off"
    settings.update_one({"_id": "balancer"}, {"$set": {"mode": "full", "stopped": False}})
    began = lab.mongos.admin.command("balancerStatus")["numBalancerRounds"]
    ask = "balancerStatus"
    wait_for(lambda: lab.mongos.admin.command(ask)["numBalancerRounds"] > began + 3, "rounds go on")
    assert set(chunks(lab, "window")) == {"shard1ReplSet"}
    collection.drop()


def test_a_paused_migration_refuses_a_second_one_and_outlasts_a_hasty_stop(lab: Lab) -> None:
    collection = sharded(lab, "paused")
    lab.order(pause=True)
    lab.mongos.admin.command("balancerStart")
    record = wait_for(lambda: lab.mongos.config.migrations.find_one(), "a migration under way")
    running = list(lab.mongos.admin.aggregate([{"$currentOp": {}}]))
    assert running[0]["command"]["moveChunk"] == collection.full_name
    other = next(
        each
        for each in lab.mongos.config.chunks.find({"shard": "shard1ReplSet"})
        if each["min"] != record["min"] and each["lastmod"] != record["chunkVersion"][0]
    )
    move = {"moveChunk": collection.full_name, "bounds": [other["min"], other["max"]], "to": "shard2ReplSet"}
    with pytest.raises(OperationFailure, match="Unable to start new migration because this shard") as caught:
        lab.mongos.admin.command(move)
    assert caught.value.code == 117
    with pytest.raises(OperationFailure) as hasty:
        lab.mongos.admin.command({"balancerStop": 1, "maxTimeMS": 100})
    assert hasty.value.code == 50
    assert lab.mongos.admin.command("balancerStatus")["mode"] == "off"
    lab.order()
    lab.mongos.admin.command("balancerStop")
    assert "millis" in lab.mongos.admin.command(move)
    assert collection.count_documents({}) == 2000
    collection.drop()


def test_writers_lose_nothing_while_chunks_move(lab: Lab) -> None:
    collection = sharded(lab, "busy")
    done = threading.Event()
    written: dict[Any, int] = {}

    def write() -> None:
        chance = random.Random(7)
        while not done.is_set():
            new = documents(1, 50)[0] | {"createdAt": START + timedelta(seconds=chance.randrange(10**6))}
            collection.insert_one(new)
            written[new["_id"]] = 0
            known = chance.choice(list(written))
            collection.update_one({"_id": known}, {"$set": {"version": written[known] + 1}})
            written[known] += 1

    writer = threading.Thread(target=write)
    writer.start()
    lab.order(slow_move_seconds=0.1)
    balance(lab, "busy")
    done.set()
    writer.join(DEADLINE)
    assert collection.count_documents({}) == 2000 + len(written)
    found = {each["_id"]: each.get("version", 0) for each in collection.find({"_id": {"$in": list(written)}})}
    assert found == written
    assert sum(held(lab, "busy").values()) == 2000 + len(written)
    collection.drop()


def test_a_collection_is_sharded_or_dropped_while_others_write_to_it(lab: Lab) -> None:
    done = threading.Event()
    refused: list[str] = []

    def write(name: str) -> None:
        while not done.is_set():
            try:
                lab.mongos[DB][name].insert_many(documents(3, 50))
            except BulkWriteError as error:
                refused.append(str(error))

    names = [f"written{number}" for number in range(3)]
    writers = [threading.Thread(target=write, args=(name,), daemon=True) for name in names * 2]
    for name in names:
        lab.mongos[DB][name].create_index(list(KEY.items()))
    for writer in writers:
        writer.start()
    for name in names:
        # A lock taken in the wrong order showed as a command that never came back.
        with pymongo.timeout(DEADLINE):
            lab.mongos.admin.command({"shardCollection": f"{DB}.{name}", "key": KEY})
    with pymongo.timeout(DEADLINE):
        lab.mongos[DB][names[0]].drop()
    done.set()
    for writer in writers:
        writer.join(DEADLINE)
    assert not [writer for writer in writers if writer.is_alive()]
    assert refused == []
    assert all(sum(chunks(lab, name).values()) > 0 for name in names[1:])
    for name in names:
        lab.mongos[DB][name].drop()


@pytest.mark.parametrize("committed", [False, True])
def test_a_killed_mongos_mends_its_migration_when_started_again(lab: Lab, committed: bool) -> None:
    ours = f"killed_{committed}"
    collection = sharded(lab, ours)
    name = collection.full_name
    before = digest(collection)
    lab.order(slow_move_seconds=3)
    lab.mongos.admin.command("balancerStart")
    config = lab.clients["config"].config
    if committed:
        wait_for(lambda: config.changelog.find_one({"what": "moveChunk.commit", "ns": name}), "a commit")
    else:
        wait_for(lambda: held(lab, ours)["shard2"], "copies on the recipient")
    lab.kill_mongos()
    assert config.migrations.count_documents({}) == 1
    assert sum(held(lab, ours).values()) > 2000
    lab.order()
    config.settings.update_one({"_id": "balancer"}, {"$set": {"mode": "off", "stopped": True}})
    lab.start_mongos()
    assert config.migrations.count_documents({}) == 0
    collection = lab.mongos[DB][ours]
    assert digest(collection) == before
    assert sum(held(lab, ours).values()) == 2000
    assert chunks(lab, ours).get("shard2ReplSet", 0) == int(committed)
    balance(lab, ours)
    assert digest(collection) == before
    collection.drop()


def test_a_shard_that_dies_in_a_migration_is_mended_when_it_is_back(lab: Lab) -> None:
    collection = sharded(lab, "died")
    before = digest(collection)
    lab.order(slow_move_seconds=1)
    lab.mongos.admin.command("balancerStart")
    # With one chunk of its own the recipient has to be asked for every count, whatever becomes of the next one.
    wait_for(lambda: chunks(lab, "died").get("shard2ReplSet"), "a chunk of the recipient's own")
    owned = held(lab, "died")["shard2"]
    wait_for(lambda: held(lab, "died")["shard2"] > owned, "copies on the recipient")
    lab.clients["shard2"].close()
    lab.processes["shard2"].kill()
    lab.processes["shard2"].wait(DEADLINE)
    lab.mongos.admin.command("balancerStop")
    with pytest.raises(OperationFailure, match="operation exceeded time limit") as caught:
        collection.count_documents({"userId": "nobody"}, maxTimeMS=1000)
    assert caught.value.code == 50
    lab.order()
    lab.start_shard("shard2", "shard2ReplSet", "shardsvr")
    lab.connect("shard2")
    wait_for(lambda: not lab.mongos.config.migrations.count_documents({}), "the interrupted migration is mended")
    assert digest(collection) == before
    assert sum(held(lab, "died").values()) == 2000
    balance(lab, "died")
    assert digest(collection) == before
    collection.drop()


def test_an_application_works_without_a_direct_connection(lab: Lab) -> None:
    uri = f"mongodb://127.0.0.1:{lab.ports['mongos']}/?w=majority&retryWrites=true&readConcernLevel=majority"
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=5000) as client:
        things = client.shop.things
        with client.start_session() as session:
            things.insert_many([{"_id": number, "n": number} for number in range(1000)], session=session)
            assert things.update_one({"_id": 1}, {"$set": {"n": 7}}, session=session).modified_count == 1
            found = list(things.find({"n": {"$gte": 500}}, session=session).batch_size(50))
        assert [each["_id"] for each in found] == list(range(500, 1000))
        with pytest.raises(OperationFailure, match="does not do transactions"), client.start_session() as session:
            session.with_transaction(lambda inside: things.insert_one({}, session=inside))
        database = client.config.databases.find_one({"_id": "shop"})
        assert database is not None
        assert database["partitioned"] is False
        assert "shop" in client.list_database_names()
        with pytest.raises(OperationFailure, match="no such cmd: dance") as caught:
            client.admin.command("dance")
        assert caught.value.code == 59
        client.drop_database("shop")


def test_a_shard_tells_the_truth_about_its_process(lab: Lab) -> None:
    member, pid = lab.clients["shard1"], lab.processes["shard1"].pid
    limit = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0]
    status, host = member.admin.command("serverStatus"), member.admin.command("hostInfo")
    assert (status["process"], status["pid"]) == ("mongod", pid)
    assert status["host"] == host["system"]["hostname"] == f"{socket.gethostname()}:{lab.ports['shard1']}"
    assert host["extra"]["maxOpenFiles"] == limit
    before = status["connections"]["current"]
    with MongoClient[dict[str, Any]]("127.0.0.1", lab.ports["shard1"], directConnection=True) as another:
        another.admin.command("ping")
        connections = another.admin.command("serverStatus")["connections"]
        assert connections["current"] > before
        assert 0 < connections["available"] < limit - connections["current"]
    assert "wiredTiger" not in status  # figures that SecantusDB does not have are left out, not made up
    assert "globalLock" not in status


def test_a_shards_log_has_the_form_of_mongodb(lab: Lab) -> None:
    member = lab.clients["shard1"]
    lines = [json.loads(line) for line in member.admin.command("getLog", "global")["log"]]
    moment = datetime.fromisoformat(lines[-1]["t"]["$date"])
    assert moment.utcoffset() == datetime.now().astimezone().utcoffset()
    assert {"s", "c", "msg"} <= set(lines[-1])
    warned = [json.loads(line) for line in member.admin.command("getLog", "startupWarnings")["log"]]
    assert {line["s"] for line in warned} == {"W"}
    assert warned[0]["msg"].startswith("Access control is not enabled")


def test_a_member_was_elected_when_it_started(lab: Lab) -> None:
    first, second = (lab.clients["shard1"].admin.command("replSetGetStatus") for _ in range(2))
    elected = first["members"][0]["electionDate"]
    assert second["members"][0]["electionDate"] == elected, "asking elects nobody"
    assert elected < first["date"]
    assert first["members"][0]["uptime"] <= second["members"][0]["uptime"]


def test_a_router_tells_who_is_logged_in_and_what_writes_wait_for(lab: Lab) -> None:
    login = lab.mongos.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    assert login == {"authenticatedUsers": [], "authenticatedUserRoles": [], "authenticatedUserPrivileges": []}
    assert "authenticatedUserPrivileges" not in lab.mongos.admin.command("connectionStatus")["authInfo"]
    concern = lab.mongos.admin.command("getDefaultRWConcern")
    assert concern["defaultWriteConcern"] == {"w": "majority", "wtimeout": 0}
    assert concern["defaultWriteConcernSource"] == "implicit"
    status = lab.mongos.admin.command("serverStatus")["connections"]
    assert status["current"] >= 1
    assert status["available"] > 0
