"""One look tells what is there and what is wrong; what does not answer is named and not waited for."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import Binary, json_util
from pymongo.errors import NetworkTimeout, OperationFailure

from credscale.core.errors import StepFailed
from credscale.core.step import Status
from credscale.mongo.chunks import plots
from credscale.mongo.cluster.operations import migrations
from credscale.mongo.status import reads as status_reads
from credscale.mongo.status.screen import cluster_status
from tests.mongo.conftest import NAMESPACE, UUID
from tests.mongo.watched_cluster import FakeMember, WatchedCluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context

RECORDED = Path(__file__).parents[2] / "cases" / "mongo" / "recorded"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Cluster(WatchedCluster):
    """A cluster that answers what a look asks for; ``commands`` counts what routers and members were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: Counter[str] = Counter()
        self.routers = [{"_id": "router:27017", "ping": NOW, "up": 7200, "mongoVersion": "5.0.28"}]
        self.groups: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {}
        self.index_names = ["uuid_1_shard_1_min_1"]

    def command(self, database: str, request: dict[str, Any]) -> dict[str, Any]:
        self.commands[next(iter(request))] += 1
        return super().command(database, request)

    def do_hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"msg": "isdbgrid", "localTime": NOW}

    def __getitem__(self, name: str) -> Any:
        return Database(self, name)


class Database:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    def __getitem__(self, name: str) -> Any:
        return Documents(self.cluster, f"{self.name}.{name}")

    def get_collection(self, name: str, **_options: Any) -> Any:
        return self[name]

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.cluster.command(self.name, request)

    def aggregate(self, pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.cluster.commands["aggregate"] += 1
        assert "$shardedDataDistribution" in pipeline[0] or "$currentOp" in pipeline[0]
        return self.cluster.operations


class Documents:
    """A collection of config, with the aggregates and the distinct that a look sends."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def find(self, _query: Any = None, _fields: Any = None) -> Any:
        self.cluster.commands["find"] += 1
        known = {"config.tags": self.cluster.tags, "config.actionlog": self.cluster.actionlog}
        known |= {"config.mongos": self.cluster.routers, "config.migrations": self.cluster.migrations}
        known["config.collections"] = list(self.cluster.collections.values())
        known["config.settings"] = [{"_id": name, **rest} for name, rest in self.cluster.settings.items()]
        from tests.mongo.watched_cluster import Newest

        return Newest(known[self.namespace])

    def find_one(self, _query: Any) -> dict[str, Any] | None:
        self.cluster.commands["find"] += 1
        return {"clusterId": "c1"} if self.namespace == "config.version" else {"kept": self.cluster.kept}

    def distinct(self, field: str) -> list[Any]:
        return [each[field] for each in self.cluster.tags]

    def list_indexes(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.cluster.index_names]

    def aggregate(self, pipeline: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        self.cluster.commands["aggregate"] += 1
        if self.cluster.failures.get(self.namespace):
            raise self.cluster.failures[self.namespace].pop(0)
        if self.namespace == "config.changelog":
            return self.cluster.groups
        jumbo = "$match" in pipeline[0]
        assert jumbo or options.get("hint", "") in (*self.cluster.index_names, "")
        chosen = [each for each in self.cluster.chunks if each.get("jumbo") or not jumbo]
        counted = Counter((bytes(each["uuid"]), each["shard"]) for each in chosen)
        return [
            {"_id": {"of": Binary(identity, 4), "shard": shard}, "n": number}
            for (identity, shard), number in counted.items()
        ]


@pytest.fixture
def cluster() -> Cluster:
    """Return a healthy cluster whose eight chunks lie evenly."""
    cluster = Cluster()
    cluster.shard(chunks=8)
    cluster.move(4)
    return cluster


@pytest.fixture(autouse=True)
def _members(cluster: Cluster, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ctx.clients), "mongo_member", lambda _self, address, **_options: cluster.members[address])
    monkeypatch.setattr(type(ctx.clients), "mongo_router", lambda _self: "router:27017", raising=False)
    monkeypatch.setattr(status_reads, "ROUTER_SECONDS", 2.0)


def look(ctx: Context, *, fails: bool = False, verbose: bool = False) -> dict[str, Any]:
    """Look and return the screen, which is whole also when something is wrong."""
    if not fails:
        result = cluster_status(ctx, verbose=verbose)
        assert result.status is Status.OK
    else:
        with pytest.raises(StepFailed) as caught:
            cluster_status(ctx, verbose=verbose)
        result = caught.value.result
    json.dumps(result.output)
    return result.output


def test_a_healthy_cluster_on_one_screen(ctx: Context) -> None:
    output = look(ctx)
    assert ctx.results[-1].summary == "2 shards, 3 members, 1 sharded collections, balanced, balancer full"
    assert output["problems"] == []
    assert output["rows"][1] == {
        "shard": "shard2", "state": "ok", "members": "1 of 1", "chunks": 4, "ranges to delete": 0, "disk used": "40%",
    }  # fmt: skip
    assert output["routers"] == [{"router": "router:27017", "version": "5.0.28", "last ping (s)": 0, "up (h)": 2.0}]
    assert output["collections"][0]["by shard"] == "shard1 4, shard2 4"
    assert output["collections"][0]["balance"] == "even"
    assert [row["set"] for row in output["members"]] == ["config", "shard1", "shard2"]
    assert output["balancer"][0]["open now"] is True


def test_commands_depend_on_neither_chunks_nor_collections(cluster: Cluster, ctx: Context) -> None:
    look(ctx)
    few = Counter(cluster.commands)
    for number in range(1000):
        identity = Binary(number.to_bytes(16), 4)
        name = f"shop.c{number}"
        cluster.collections[name] = {**cluster.collections[NAMESPACE], "_id": name, "uuid": identity}
        cluster.chunks += [{"uuid": identity, "shard": f"shard{each % 2 + 1}"} for each in range(4)]
    cluster.commands.clear()
    output = look(ctx)
    assert cluster.commands == few
    assert output["collections_total"] == 1001
    assert len(output["collections"]) == 15
    assert len(look(ctx, verbose=True)["collections"]) == 1001


def dead_member(cluster: Cluster) -> None:
    cluster.members["shard2:27018"].down = True


def two_hosts(cluster: Cluster, state: str, lag: float) -> None:
    status = cluster.members["shard2:27018"].replies["replSetGetStatus"]
    other = {"name": "other:1", "stateStr": state, "optimeDate": NOW - timedelta(seconds=lag)}
    status["members"].append(other)
    shards = [
        {"_id": "shard1", "host": "shard1/shard1:27018"},
        {"_id": "shard2", "host": "shard2/shard2:27018,other:1"},
    ]
    cluster.do_listShards = lambda _request: {"shards": shards}  # type: ignore[method-assign]
    member = FakeMember("other:1", "shard2")
    member.replies |= {"hello": {"isWritablePrimary": False}, "replSetGetStatus": status}
    cluster.members["other:1"] = member


def lagging(cluster: Cluster) -> None:
    two_hosts(cluster, "SECONDARY", 90)


def recovering(cluster: Cluster) -> None:
    two_hosts(cluster, "RECOVERING", 0)


def full_disk(cluster: Cluster) -> None:
    cluster.members["shard1:27018"].replies["dbStats"] = {"fsTotalSize": 100, "fsUsedSize": 95}


def bad_settings(cluster: Cluster) -> None:
    cluster.settings["balancer"] = {"activeWindow": {"start": "2am"}}


def left_stopped(cluster: Cluster) -> None:
    cluster.mode, cluster.kept = "off", {"balancer": {"mode": "full"}}
    cluster.actionlog = [{"what": "balancer.stop", "time": NOW - timedelta(hours=9)}]


def failing_rounds(cluster: Cluster) -> None:
    details = {"errorOccurred": True, "errmsg": "no primary"}
    cluster.actionlog = [{"what": "balancer.round", "time": NOW, "details": details}]


def failing_moves(cluster: Cluster) -> None:
    event = {"ns": NAMESPACE, "from": "shard1", "to": "shard2", "note": "aborted"}
    text = "identically named collection"
    cluster.groups = [
        {"_id": {**event, "what": "moveChunk.to", "errmsg": text}, "n": 7, "last": NOW},
        {"_id": {**event, "what": "moveChunk.from", "note": "success"}, "n": 7, "last": NOW - timedelta(hours=1)},
    ]


def upgrading(cluster: Cluster) -> None:
    version = {"featureCompatibilityVersion": {"version": "5.0", "targetVersion": "6.0"}}
    cluster.members["shard1:27018"].replies["getParameter"] = version


def only_jumbo(cluster: Cluster) -> None:
    cluster.chunks = [{"uuid": UUID, "shard": "shard1", "jumbo": True} for _ in range(8)]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (dead_member, "shard2 shard2:27018: no answer"),
        (dead_member, "shard2: it has no primary"),
        (lagging, "shard2 other:1: it lags 90 s"),
        (recovering, "shard2 other:1: it is RECOVERING"),
        (full_disk, "shard1 shard1:27018: its disk is 95% full"),
        (bad_settings, "balancer: config.settings balancer: activeWindow"),
        (left_stopped, "balancer: a run of credscale has stopped it for 9.0 h and not put it back"),
        (failing_rounds, "balancer: 1 of its last 1 rounds failed: no primary"),
        (failing_moves, "7 migrations shard1 -> shard2 failed in 24 h: the recipient holds a stray collection"),
        (upgrading, "shard1 shard1:27018: its feature compatibility version is being changed"),
        (only_jumbo, "shop.orders: only jumbo chunks are left to move"),
    ],
)
def test_what_is_unhealthy_fails_the_probe_and_shows_the_whole_screen(
    cluster: Cluster, ctx: Context, cause: Callable[[Cluster], None], said: str
) -> None:
    cause(cluster)
    output = look(ctx, fails=True)
    assert said in str(ctx.results[-1].error)
    assert output["rows"]
    assert output["collections"]
    assert output["problems"][0]["level"] == "problem"
    assert output["problems"][0]["what to do"]


def remarks(output: dict[str, Any]) -> str:
    return "; ".join(f"{row['where']}: {row['what']}" for row in output["problems"] if row["level"] == "remark")


def test_what_is_only_worth_knowing_does_not_fail(cluster: Cluster, ctx: Context) -> None:
    cluster.mode = "off"
    cluster.actionlog = [{"what": "balancer.stop", "time": NOW - timedelta(hours=1)}]
    cluster.chunks[0]["jumbo"] = True
    cluster.members["shard1:27018"].replies["buildInfo"] = {"version": "5.0.27"}
    cluster.members["shard2:27018"].replies["serverStatus"] = {"sharding": {"maxChunkSizeInBytes": 1 << 20}}
    said = remarks(look(ctx))
    assert "balancer: it is off for 1.0 h" in said
    assert "shop.orders: 1 jumbo chunks are not moved" in said
    assert "different server versions: 5.0.27, 5.0.28" in said
    assert "64 MB is not in effect everywhere: shard2 1 MB" in said


def test_a_run_at_work_may_stop_the_balancer_for_a_while(cluster: Cluster, ctx: Context) -> None:
    left_stopped(cluster)
    cluster.actionlog[0]["time"] = NOW - timedelta(hours=1)
    assert "a run of credscale has stopped it for 1.0 h" in remarks(look(ctx))


def test_an_arbiter_that_refuses_is_well(cluster: Cluster, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    two_hosts(cluster, "ARBITER", 0)
    arbiter = cluster.members["other:1"]

    def command(request: dict[str, Any]) -> dict[str, Any]:
        if "hello" in request:
            return {"arbiterOnly": True}
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(arbiter, "command", command)
    output = look(ctx)
    assert output["problems"] == []
    assert output["members"][-1]["state"] == "ARBITER"


def test_a_user_that_the_shards_do_not_know_fails_no_healthy_cluster(
    cluster: Cluster, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a keyFile a shard's users are its own: each command on a connection to it ends with code 18 (§2.5)."""

    def refuse(_request: dict[str, Any]) -> dict[str, Any]:
        raise OperationFailure("Authentication failed.", 18)

    for number in (1, 2):
        monkeypatch.setattr(cluster.members[f"shard{number}:27018"], "command", refuse)
    output = look(ctx)
    assert [(row["level"], row["where"]) for row in output["problems"]] == [("remark", "shard1"), ("remark", "shard2")]
    assert "not looked at: shard1:27018; the user is not known here" in output["problems"][0]["what"]
    assert "the roles of docs/how-to.md (Rights)" in output["problems"][0]["what to do"]
    assert output["members"][1]["answer"] == "the user is not known here (§2.5)"


def test_a_secondary_without_the_right_to_tell_more_is_well(cluster: Cluster, ctx: Context) -> None:
    two_hosts(cluster, "SECONDARY", 0)
    for address in ("shard2:27018", "other:1"):
        cluster.members[address].replies["replSetGetStatus"] = {}
    cluster.members["other:1"].replies["hello"] = {"isWritablePrimary": False, "secondary": True}
    assert look(ctx)["members"][-1]["state"] == "SECONDARY"


def test_what_takes_too_long_is_named_and_the_rest_is_shown(cluster: Cluster, ctx: Context) -> None:
    cluster.failures["config.chunks"] = [NetworkTimeout("timed out"), NetworkTimeout("timed out")]
    output = look(ctx)
    assert "not read: chunks (NetworkTimeout)" in remarks(output)
    assert output["collections"][0]["balance"] == "unknown"
    assert output["rows"][0]["chunks"] is None


def test_a_member_that_hangs_does_not_hang_the_screen() -> None:
    release = threading.Event()
    reads: dict[str, Any] = {"hangs": lambda: release.wait(30), "answers": lambda: 1}
    started = time.monotonic()
    found, unread = status_reads.side_by_side(reads, 0.2)
    release.set()
    assert found == {"answers": 1}
    assert unread == ["hangs (no answer within 0.2 s)"]
    assert time.monotonic() - started < 10


def test_chunks_without_their_index_are_counted_all_the_same(cluster: Cluster, ctx: Context) -> None:
    cluster.index_names = []
    assert look(ctx)["collections"][0]["chunks"] == 8


def test_chunks_of_4_4_are_found_by_namespace() -> None:
    documents = [{"_id": "a.b", "uuid": UUID}, {"_id": "c.d", "uuid": Binary(b"x" * 16, 4), "timestamp": 1}]
    rows = [
        {"_id": {"of": "a.b", "shard": "s1"}, "n": 3},
        {"_id": {"of": Binary(b"x" * 16, 4), "shard": "s2"}, "n": 5},
        {"_id": {"of": "dropped.c", "shard": "s2"}, "n": 9},
    ]
    assert status_reads.by_collection(rows, documents) == {"a.b": {"s1": 3}, "c.d": {"s2": 5}}


def test_bytes_decide_since_6_0_3(cluster: Cluster, ctx: Context) -> None:
    cluster.version = "7.0.14"
    shards = [
        {"shardName": "shard1", "ownedSizeBytes": 2 << 30, "numOrphanedDocs": 9, "numOwnedDocuments": 1},
        {"shardName": "shard2", "ownedSizeBytes": 0, "numOrphanedDocs": 0, "numOwnedDocuments": 0},
    ]
    cluster.operations = [{"ns": NAMESPACE, "shards": shards}]
    for member in cluster.members.values():
        member.replies["serverStatus"] = {}
    output = look(ctx)
    assert output["collections"][0]["moves left"] == 8  # half of 2 GB, in ranges of 128 MB
    assert output["collections"][0]["balance"] == "uneven"
    assert output["rows"][0]["bytes"] == 2 << 30
    assert output["rows"][0]["orphans"] == 9
    shards[0]["ownedSizeBytes"] = 2 << 20
    small = look(ctx)["collections"][0]
    assert (small["moves left"], small["balance"]) == (0, "within three ranges")
    shards[1]["ownedSizeBytes"] = 2 << 20
    assert look(ctx)["collections"][0]["balance"] == "even"


def test_running_moves_of_current_op_are_shown_once() -> None:
    text = (RECORDED / "06-balancing" / "currentOp.json").read_text(encoding="utf-8")
    operations = json_util.loads(json.dumps(json.loads(text)["reply"]))
    expected = {"ns": "credibility_prod.analyses", "fromShard": "shard1ReplSet", "toShard": "shard2ReplSet"}
    assert migrations(operations * 2) == [expected]


def test_a_window_is_shown_in_the_config_primarys_time(cluster: Cluster, ctx: Context) -> None:
    cluster.settings["balancer"] = {"activeWindow": {"start": "13:00", "stop": "15:00"}}
    row = look(ctx)["balancer"][0]
    assert (row["window"], row["open now"], row["opens in (min)"]) == ("13:00-15:00 (UTC+0 h)", False, 60)
    log = ['{"t":{"$date":"2026-11-23T11:14:24.885+02:00"}}']
    cluster.members["config1:27019"].replies["getLog"] = {"log": log}
    assert look(ctx)["balancer"][0]["open now"] is True


def test_a_mongod_is_no_sharded_cluster(cluster: Cluster, ctx: Context) -> None:
    cluster.do_hello = lambda _request: {"setName": "rs"}  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="a mongod of version 5.0.28 and no mongos"):
        cluster_status(ctx)


def test_a_cluster_without_shards(cluster: Cluster, ctx: Context) -> None:
    cluster.do_listShards = lambda _request: {"shards": []}  # type: ignore[method-assign]
    cluster.collections.clear()
    output = look(ctx)
    assert "it has no shards yet" in remarks(output)
    assert output["rows"] == []
    assert plots.status(output) == {}


def test_figure_of_chunks_per_shard(ctx: Context) -> None:
    shown = plots.status(look(ctx))
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
