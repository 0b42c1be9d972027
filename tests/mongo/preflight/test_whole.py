"""All checks against a cluster of recorded replies: what they ask, how long it may take, what one dead member costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect

from credscale.core.errors import StepFailed
from credscale.mongo.documents.sampling import SIZE_FIELD
from credscale.mongo.preflight import capacity
from credscale.mongo.preflight.catalogue import CHECKS
from credscale.mongo.preflight.check import Seen, united
from credscale.mongo.preflight.members_asked import QUESTIONS
from credscale.mongo.preflight.step import preflight
from tests.mongo.preflight.looks import KEY, NAMESPACE, Nodes, Read, context, look_at

if TYPE_CHECKING:
    from credscale.mongo.preflight.check import Row
    from credscale.mongo.preflight.look import Look

QUIET = "127.0.0.1:27028"  # a secondary, which its set sees as healthy
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_second_look_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LOOK_AGAIN_SECONDS", 0.0)


@pytest.fixture
def nodes() -> Nodes:
    """Return a cluster with some documents to sample."""
    found = Nodes()
    found.router.documents[NAMESPACE] = [
        {
            "_id": ObjectId.from_datetime(START + timedelta(seconds=n)), "createdAt": START + timedelta(seconds=n),
            "userId": f"user{n}@example.org", SIZE_FIELD: 500,
        }
        for n in range(300)
    ]  # fmt: skip
    return found


def everything(look: Look) -> list[Row]:
    return [row for check in CHECKS for row in check.run(look)]


def test_every_reply_of_the_recorded_cluster_is_understood(nodes: Nodes) -> None:
    rows = everything(look_at(nodes))
    assert not [row.sentence for row in rows if "not understood" in row.seen.finding]
    assert {row.check.number for row in rows} == set(range(1, 57))


def test_no_value_of_a_document_is_in_the_table(nodes: Nodes) -> None:
    assert "example.org" not in " ".join(str(row.flat()) for row in everything(look_at(nodes)))


def test_users_data_are_read_once_from_secondaries_with_a_limit(nodes: Nodes) -> None:
    everything(look_at(nodes))
    ours = [read for node in nodes.nodes.values() for read in node.reads if read.namespace == NAMESPACE]
    assert ours == [Read("aggregate", NAMESPACE, 60_000, secondaries=True)]


BY_IDENTITY = {"config.version", "config.collections", "config.databases", "credibility_prod"}


def test_every_read_that_could_be_long_has_a_limit_on_the_server(nodes: Nodes) -> None:
    """Those without one look up a single document by its key, or the entry of one collection."""
    everything(look_at(nodes))
    reads = [read for node in nodes.nodes.values() for read in node.reads]
    assert {read.namespace for read in reads if read.milliseconds is None} <= BY_IDENTITY
    assert max(read.milliseconds or 0 for read in reads) == 60_000
    assert not [read for read in reads if read.kind == "aggregate" and read.milliseconds is None]


def test_a_member_that_hangs_is_waited_for_once_and_told_once(nodes: Nodes) -> None:
    nodes.hang(QUIET)
    rows = everything(look_at(nodes))
    assert nodes.nodes[QUIET].waited == 1
    told = [row for row in united(rows) if row.seen.member == QUIET]
    assert len(told) == 1
    assert len(told[0].also) > 5
    assert told[0].blocks


def test_a_member_that_dies_meanwhile_is_waited_for_once(nodes: Nodes) -> None:
    look = look_at(nodes)
    assert QUIET in look.replies("hello").found
    asked: list[str] = []

    def question(_client: Any) -> None:
        asked.append(QUIET)
        raise AutoReconnect("gone")

    first, again = (look.ask_each([QUIET], question)[QUIET] for _ in range(2))
    assert asked == [QUIET]
    assert isinstance(first, Seen)
    assert first == again
    assert first.member == QUIET


def test_a_member_that_answers_is_asked_each_question_once(nodes: Nodes) -> None:
    look = look_at(nodes)
    assert len(look.members) == 7
    assert look.members is look.members
    asked = [next(iter(command)) for command in nodes.nodes[QUIET].asked]
    assert asked == [next(iter(command)) for _, command in QUESTIONS]


def test_a_real_cluster_stops_where_a_member_is_not_known_unless_it_is_named(nodes: Nodes) -> None:
    """Everything is left out but the clocks, so that only the hanging member can stop the run."""
    nodes.hang(QUIET)
    wanted: dict[str, Any] = {"namespace": NAMESPACE, "shard_key": KEY, "only": "clock-skew, uniform-versions"}
    with pytest.raises(StepFailed, match="must be known first.* this concerns uniform-versions, clock-skew"):
        preflight(context(nodes), **wanted)
    skip = f"{QUIET}=behind a firewall until Monday, OPS-7"
    output = preflight(context(nodes), skip=skip, **wanted).output
    assert [row["severity"] for row in output["rows"]] == ["skipped", "ok", "ok"]
    assert "behind a firewall until Monday, OPS-7" in output["rows"][0]["finding"]
    assert len(output["not_checked"]) == 1
    preflight(context(nodes, rehearsal=True), **wanted)


def test_a_server_that_is_not_there_cannot_be_left_out(nodes: Nodes) -> None:
    with pytest.raises(StepFailed, match="no member of the cluster is called db9:27018"):
        preflight(context(nodes), namespace=NAMESPACE, shard_key=KEY, skip="db9:27018=typing error")


@pytest.mark.parametrize(
    ("wanted", "settings", "version", "expected"),
    [
        (0, [], "4.4.29", 64),
        (0, [], "6.0.16", 128),
        (0, [{"_id": "chunksize", "value": 256}], "6.0.16", 256),
        (32, [{"_id": "chunksize", "value": 256}], "6.0.16", 32),
    ],
)
def test_the_chunk_size_to_judge_by(
    nodes: Nodes, wanted: int, settings: list[dict[str, Any]], version: str, expected: int
) -> None:
    nodes.router.documents["config.settings"] = settings
    nodes.router.replies["buildInfo"] = {"version": version}
    assert look_at(nodes, chunk_size_mb=wanted).chunk_size_mb == expected


def test_a_terabyte_is_no_matter_with_the_servers_own_chunk_size(nodes: Nodes) -> None:
    nodes.router.replies["collStats"] = {"count": 10**9, "size": 10**12, "storageSize": 1, "totalIndexSize": 1}
    wanted: dict[str, Any] = {"namespace": NAMESPACE, "shard_key": KEY, "only": "size-limit"}
    assert {row["severity"] for row in preflight(context(nodes), **wanted).output["rows"]} == {"ok"}
    with pytest.raises(StepFailed, match="chunks are expected with 1 MB"):
        preflight(context(nodes), chunk_size_mb=1, **wanted)
