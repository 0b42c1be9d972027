"""Counts derived from changes are those of a full count, or there are none: over random moves, splits and merges."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId, Timestamp, json_util
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.mongo.chunks.chunk_counts import Changed, ChunkCounts, parse_changed

RECORDED = Path(__file__).parents[2] / "cases" / "mongo" / "recorded"
BORN = datetime(2026, 3, 1, tzinfo=UTC)
SHARDS = "abc"


class Config:
    """The config server's rules for versions and history (S44); ``history`` shows which shard a chunk was on before."""

    def __init__(self, chunks: int, shards: str = SHARDS, window: int = 10) -> None:
        self.shards, self.window = shards, window
        self.seconds, self.ticks = 0, 0
        self.chunks: list[dict[str, Any]] = [
            {"_id": self._name(), "shard": shards[0], "lastmod": (1, number), "history": [((0, 0), shards[0])]}
            for number in range(chunks)
        ]

    def _name(self) -> tuple[datetime, int]:
        self.ticks += 1
        return BORN + timedelta(seconds=self.seconds), self.ticks

    @property
    def version(self) -> tuple[int, int]:
        return max(chunk["lastmod"] for chunk in self.chunks)

    @property
    def time(self) -> tuple[int, int]:
        self.ticks += 1
        return self.seconds, self.ticks

    def move(self, random_: random.Random, chunk: dict[str, Any], to: str) -> None:
        if chunk["shard"] == to:
            return
        donor, moment, major = chunk["shard"], self.time, self.version[0] + 1
        kept = [entry for entry in chunk["history"] if entry[0][0] + self.window >= moment[0]]
        chunk.update(shard=to, lastmod=(major, 0), history=[(moment, to), *kept], merged=False)
        left = [each for each in self.chunks if each["shard"] == donor]
        if left:
            random_.choice(left)["lastmod"] = (major, 1)

    def split(self, chunk: dict[str, Any], pieces: int) -> None:
        major, minor = self.version
        place = self.chunks.index(chunk)
        chunk["lastmod"] = (major, minor + 1)
        more = [{**chunk, "_id": self._name(), "lastmod": (major, minor + 1 + number)} for number in range(1, pieces)]
        self.chunks[place + 1 : place + 1] = more

    def merge(self, place: int) -> None:
        first, second = self.chunks[place : place + 2]
        if first["shard"] != second["shard"]:
            return
        major, minor = self.version
        first.update(lastmod=(major, minor + 1), history=[(self.time, first["shard"])], merged=True)
        self.chunks.remove(second)

    def carve(self, random_: random.Random, chunk: dict[str, Any], to: str) -> None:
        """Move the middle of a chunk, as the balancer does since 6.0.3: the rest are new versions on the donor."""
        if chunk["shard"] == to:
            return
        donor, major, place = chunk["shard"], self.version[0] + 1, self.chunks.index(chunk)
        chunk["lastmod"] = (major, 1)
        middle = {**chunk, "_id": self._name(), "shard": to, "lastmod": (major, 0), "history": [(self.time, to)]}
        right = {**chunk, "_id": self._name(), "shard": donor, "lastmod": (major, 2)}
        self.chunks[place + 1 : place + 1] = [middle, right] if random_.random() < 0.5 else [middle]

    def clear_jumbo(self, chunk: dict[str, Any]) -> None:
        """Clear the flag, but not of a merged chunk: the one case that looks like a move (see ``chunk_counts``)."""
        if chunk.get("merged"):
            return
        chunk["lastmod"] = (self.version[0] + 1, 0)

    def count(self) -> dict[str, int]:
        found = Counter(chunk["shard"] for chunk in self.chunks)
        return {shard: found[shard] for shard in self.shards}

    def counts(self) -> ChunkCounts:
        """Count all of them."""
        return ChunkCounts(self.count(), self.version, BORN + timedelta(seconds=self.seconds), self.time)

    def changed(self, since: tuple[int, int]) -> list[Changed]:
        return [
            Changed(
                chunk["lastmod"],
                chunk["shard"],
                chunk["history"][0][0],
                chunk["history"][1][1] if len(chunk["history"]) > 1 else "",
                chunk["_id"][0],
            )
            for chunk in self.chunks
            if chunk["lastmod"] > since
        ]


def do(config: Config, random_: random.Random, action: str) -> None:
    chunk, to = random_.choice(config.chunks), random_.choice(config.shards)
    if action == "move":
        config.move(random_, chunk, to)
    elif action == "split":
        config.split(chunk, random_.randint(2, 4))
    elif action == "merge" and len(config.chunks) > 1:
        config.merge(random_.randrange(len(config.chunks) - 1))
    elif action == "carve":
        config.carve(random_, chunk, to)
    elif action == "conspire":
        conspire(config, random_)
    elif action == "clear":
        config.clear_jumbo(chunk)
    elif action == "wait":
        config.seconds += random_.choice([1, 5, 30, 100])


def conspire(config: Config, random_: random.Random) -> None:
    """Split a chunk and merge two others, so that the total stays, then move some of them, or all, out of sight."""
    places = range(len(config.chunks) - 1)
    pairs = [place for place in places if config.chunks[place]["shard"] == config.chunks[place + 1]["shard"]]
    if not pairs:
        return
    place = random_.choice(pairs)
    merged = config.chunks[place]
    config.merge(place)
    before = list(config.chunks)
    split = random_.choice(before)
    config.split(split, 2)
    share = random_.choice([0.0, 0.8, 1.0])
    for chunk in (merged, split, *(each for each in config.chunks if each not in before)):
        if random_.random() < share:
            config.move(random_, chunk, random_.choice(config.shards))


ACTIONS = st.sampled_from(["move"] * 6 + ["split", "merge", "carve", "clear", "wait", "conspire", "look", "look"])


@settings(max_examples=600, deadline=None)
@given(
    actions=st.lists(ACTIONS, min_size=2, max_size=60),
    chunks=st.integers(1, 8),
    shards=st.sampled_from(["ab", "abc", "abcdef"]),
    window=st.sampled_from([0, 10, 300]),
    seed=st.integers(0, 2**32),
)
def test_derived_counts_are_those_of_a_full_count(
    actions: list[str], chunks: int, shards: str, window: int, seed: int
) -> None:
    random_, config = random.Random(seed), Config(chunks, shards, window)
    counts = config.counts()
    for action in [*actions, "look"]:
        if action != "look":
            do(config, random_, action)
            continue
        found = counts.apply(config.changed(counts.version), len(config.chunks), config.time)
        counts = found if found is not None else config.counts()
        assert counts.by_shard == config.count()
        assert counts.version == config.version


@settings(max_examples=200, deadline=None)
@given(shards=st.sampled_from(["ab", "abc", "abcdef"]), chunks=st.integers(2, 30), seed=st.integers(0, 2**32))
def test_single_moves_never_need_a_recount(shards: str, chunks: int, seed: int) -> None:
    """What the balancer does between two polls, as long as no donor gives away its last chunk."""
    random_, config = random.Random(seed), Config(chunks, shards)
    counts = config.counts()
    for _ in range(20):
        chunk = random_.choice(config.chunks)
        if config.count()[chunk["shard"]] > 1:
            config.move(random_, chunk, random_.choice(shards))
        found = counts.apply(config.changed(counts.version), len(config.chunks), config.time)
        assert found is not None
        counts = found
        assert counts.by_shard == config.count()


def test_many_moves_between_two_polls_need_no_recount_on_two_shards() -> None:
    """The balancer of 4.4 takes the donor's chunks in order, so nearly every control chunk is moved next."""
    config, random_ = Config(44, "ab"), random.Random(1)
    config.seconds = 500
    counts = config.counts()
    for chunk in config.chunks[:22]:
        chunk["lastmod"], config.seconds = chunk["lastmod"], config.seconds + 1
        major = config.version[0] + 1
        chunk.update(shard="b", lastmod=(major, 0), history=[(config.time, "b")])
        config.chunks[config.chunks.index(chunk) + 1]["lastmod"] = (major, 1)
    assert random_
    found = counts.apply(config.changed(counts.version), 44, config.time)
    assert found is not None
    assert found.by_shard == {"a": 22, "b": 22}


COUNTS = ChunkCounts({"a": 3, "b": 1, "c": 0}, (4, 1), BORN + timedelta(hours=1), (3600, 0))


@pytest.mark.parametrize(
    "changed",
    [
        [Changed((4, 2), "a", created=BORN), Changed((4, 3), "a", created=BORN)],
        [Changed((5, 0), "b", created=BORN), Changed((5, 1), "a", created=BORN), Changed((5, 2), "a", created=BORN)],
        [Changed((5, 0), "a", created=BORN)],
        [Changed((6, 0), "b", (3700, 0), created=BORN), Changed((6, 1), "a", created=BORN)],
        [Changed((5, 0), "c", (3700, 0), created=BORN)],
        [Changed((5, 0), "b", created=BORN), Changed((5, 1), "b", created=BORN)],
    ],
    ids=["split", "later split", "cleared jumbo flag", "moved twice", "two donors possible", "no such donor"],
)
def test_what_versions_do_not_prove_is_counted_anew(changed: list[Changed]) -> None:
    assert COUNTS.apply(changed, 4, (3800, 0)) is None


def test_a_missing_chunk_is_a_merge() -> None:
    changed = [Changed((5, 0), "b", created=BORN), Changed((5, 1), "a", created=BORN)]
    assert COUNTS.apply(changed, 3, (3800, 0)) is None
    found = COUNTS.apply(changed, 4, (3800, 0))
    assert found is not None
    assert found.by_shard == {"a": 2, "b": 2, "c": 0}


def test_recorded_first_move() -> None:
    """44 chunks of a real 4.4.6 cluster, one just moved; history has forgotten the donor, its control chunk has not."""
    case = json.loads((RECORDED / "06-balancing" / "config.chunks-first-5.json").read_text(encoding="utf-8"))
    documents = json_util.loads(json.dumps(case["reply"]))
    changed = [each for each in parse_changed(documents) if each.version > (1, 43)]
    assert [(each.version, each.shard, each.before) for each in changed] == [
        ((2, 0), "shard2ReplSet", ""),
        ((2, 1), "shard1ReplSet", ""),
    ]
    found = ChunkCounts({"shard1ReplSet": 44, "shard2ReplSet": 0}, (1, 43)).apply(changed, 44)
    assert found is not None
    assert found.by_shard == {"shard1ReplSet": 43, "shard2ReplSet": 1}


def test_a_chunk_document_without_history_or_with_a_text_as_id() -> None:
    document = {"_id": "shop.orders-a_1", "lastmod": Timestamp(3, 1), "shard": "a"}
    assert parse_changed([document]) == (Changed((3, 1), "a"),)
    dated = parse_changed([{**document, "_id": ObjectId("6b041fe90000000000000000")}])[0].created
    assert dated == ObjectId("6b041fe90000000000000000").generation_time
