"""Both probes on the lab: the guide's key is found poor, breaking writes are listed and fail the probe."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import ReadPreference
from pymongo.errors import OperationFailure

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import PreconditionFailed, StepFailed
from credscale.core.journal import Journal
from credscale.core.secrets import Secrets
from credscale.core.step import Status
from credscale.mongo.advice import plots, steps
from credscale.mongo.advice.steps import advise_shard_key, find_breaking_writes
from credscale.mongo.cluster import facts
from credscale.mongo.documents import sampling
from credscale.testing import fresh_collection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from credscale.lab.state import LabState
    from credscale.mongo.advice.keys import Sample

scenario = pytest.mark.scenario
GUIDE = "createdAt:hashed,userId:1"
QUERIES = [
    {"op": "find", "filter": {"userId": "u"}, "count": 900},
    {"op": "updateOne", "filter": {"_id": 1}, "update": {"$set": {"a": 1}}, "count": 90},
    {"op": "findOneAndUpdate", "filter": {"_id": 1}, "update": {"$set": {"a": 1}}, "count": 10},
]


@pytest.fixture
def lab_ctx(lab: LabState) -> Iterator[Context]:
    """Yield a context on the lab."""
    settings: dict[str, Any] = {"name": "lab", "mongo": {"uri": "mongodb://" + lab.process("mongos").plan.address}}
    environment, secrets = Environment.model_validate(settings), Secrets()
    clients = Clients(environment, secrets)
    yield Context(environment, Journal(None, secrets.mask), clients, secrets)
    clients.close()


@pytest.fixture
def queries(tmp_path: Path) -> str:
    """Return a file of queries."""
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in QUERIES))
    return str(path)


@scenario
def test_advice_without_real_queries_says_what_it_assumes(lab: LabState, lab_ctx: Context) -> None:
    result = advise_shard_key(lab_ctx, namespace=fresh_collection(lab), candidates="language:1", shards=3)
    rows = {row["key"]: row for row in result.output["rows"]}
    assert result.status is Status.OK
    assert result.output["rows"][0]["key"] == "userId:hashed,createdAt:1"
    assert rows[GUIDE]["every shard"] == "100.0%"
    assert "language:1" in rows
    assert "The guide's createdAt:hashed,userId:1 is poor" in result.output["verdict"]
    assert result.output["due"].startswith("not due: 0.0 GB")
    assert result.output["main_query"].startswith(f"queries by userId go to every shard under {GUIDE}")
    missing = " ".join(result.output["not_checked"])
    assert "queries by userId are assumed" in missing
    assert "db.setProfilingLevel(1" in missing
    assert all(sum(each["existing"]) + sum(each["newest"]) == 500 for each in result.output["candidates"])
    assert base64.b64decode(plots.candidates(result.output)["image/png"]).startswith(b"\x89PNG")
    json.dumps(result.output)


@scenario
def test_advice_with_queries(lab: LabState, lab_ctx: Context, queries: str) -> None:
    result = advise_shard_key(lab_ctx, namespace=fresh_collection(lab), queries=queries)
    best = result.output["rows"][0]
    assert (best["key"], best["one shard"], best["writes that fail"]) == ("userId:hashed,createdAt:1", "90.0%", "10.0%")
    assert result.output["queries_known"] == 1000
    assert [shape["query"] for shape in result.output["shapes"]] == [
        "find userId",
        "update_one _id",
        "find_and_modify _id",
    ]


@scenario
def test_advice_needs_documents(lab_ctx: Context) -> None:
    with pytest.raises(StepFailed, match="missing"):
        advise_shard_key(lab_ctx, namespace="nowhere.nothing")
    with pytest.raises(StepFailed, match="out of range"):
        advise_shard_key(lab_ctx, namespace="nowhere.nothing", sample=5)


@scenario
def test_breaking_writes_fail_the_probe(lab: LabState, lab_ctx: Context, queries: str, tmp_path: Path) -> None:
    (tmp_path / "app.ts").write_text("await Analysis.findByIdAndUpdate(id, { a: 1 });\nUser.deleteOne({ a: 1 });\n")
    namespace = fresh_collection(lab)
    with pytest.raises(StepFailed, match="2 would fail, 1 work") as failure:
        find_breaking_writes(lab_ctx, namespace=namespace, shard_key=GUIDE, source=str(tmp_path), queries=queries)
    output = failure.value.result.output
    assert [(row["where"], row["outcome"]) for row in output["rows"]] == [
        ("file, seen 10 times", "breaks"), ("app.ts:1", "breaks"), ("file, seen 90 times", "works"),
    ]  # fmt: skip
    assert output["rows"][1]["error"] == "61: Query for sharded findAndModify must contain the shard key"
    assert output["other_collections"] == {"User": 1}
    json.dumps(output)


@scenario
def test_what_can_not_be_told_warns(lab: LabState, lab_ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("analyses.delete_one(query)\n")
    result = find_breaking_writes(
        lab_ctx, namespace=fresh_collection(lab), shard_key=GUIDE, source=str(tmp_path / "app.py")
    )
    assert result.status is Status.OK
    assert "of 1 writes found 1 can't be told" in result.summary
    nothing = find_breaking_writes(lab_ctx, namespace=fresh_collection(lab), shard_key=GUIDE)
    assert "nothing can be said" in nothing.summary
    assert "no source was given" in " ".join(nothing.output["not_checked"])


@scenario
def test_large_collection_is_sampled(lab: LabState, lab_ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "LOOK_AT_ALL", 1000)
    result = advise_shard_key(lab_ctx, namespace=fresh_collection(lab, 3000), sample=1000)
    assert result.output["documents_looked_at"] == 142
    assert "a sample of 142 of 3000 documents" in " ".join(result.output["not_checked"])
    # Of 142 documents drawn by chance the two best keys lie too close to tell; both target the main query.
    assert result.output["rows"][0]["key"] in ("userId:hashed,createdAt:1", "userId:1,createdAt:1")


class FakeCollection:
    """Answers an aggregation with what it was given, errors first."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked, self.preference = list(answers), [], None  # type: ignore[var-annotated]

    def __getitem__(self, _name: str) -> FakeCollection:
        return self

    def get_collection(self, _name: str, *, read_preference: Any, codec_options: Any) -> FakeCollection:
        self.preference = read_preference
        return self

    def aggregate(self, pipeline: list[dict[str, Any]], **options: Any) -> Any:
        self.asked.append((pipeline, options))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def read_sample(collection: Any, documents: int) -> Sample:
    size = facts.DataSize(documents, documents * 100, 0, 0, {})
    return steps._sample(collection, "shop.orders", [facts.parse_key("a:1,a.b:hashed")], 5000, size)


def test_sample_is_bounded_and_read_from_secondaries() -> None:
    fake = FakeCollection([{"_id": 1, "a": 2, sampling.SIZE_FIELD: 77}])
    sample = read_sample(fake, 10**8)
    ((pipeline, options),) = fake.asked
    assert pipeline[0] == {"$sample": {"size": 5000}}
    assert set(pipeline[1]["$project"]) == {"_id", "a", sampling.SIZE_FIELD}  # a.b is inside a
    assert options["maxTimeMS"] > 0
    assert fake.preference == ReadPreference.SECONDARY_PREFERRED
    assert (list(sample.sizes), sample.documents, sample.total) == ([77], [{"_id": 1, "a": 2}], 10**8)


def test_a_sample_is_less_than_a_twentieth() -> None:
    """Above 5 % of the collection $sample reads and sorts all of it."""
    fake = FakeCollection([{"_id": 1}])
    read_sample(fake, 100_001)
    assert fake.asked[0][0][0] == {"$sample": {"size": 4761}}


def test_sizes_are_the_mean_where_the_server_has_none() -> None:
    fake = FakeCollection(OperationFailure("Unrecognized expression '$bsonSize'", 168), [{"_id": 1}])
    assert list(read_sample(fake, 50).sizes) == [100]
    assert fake.asked[0][0][0]["$project"]["_id"] == 1  # read wholly, without $sample


def test_sample_that_takes_too_long_says_what_to_do() -> None:
    with pytest.raises(PreconditionFailed, match="code 50.*Give a smaller sample"):
        read_sample(FakeCollection(OperationFailure("operation exceeded time limit", 50)), 10**8)


def test_no_candidates_no_figure() -> None:
    assert plots.candidates({}) == {}


def test_figure_without_known_queries_or_order() -> None:
    one = {"key": "a:1", "existing": [3, 1], "existing_bytes": [3, 1], "newest": None, "broadcast": None}
    assert base64.b64decode(plots.candidates({"candidates": [one]})["image/png"]).startswith(b"\x89PNG")
