"""Keys move in portions that fit, and every answer of MIGRATE is understood."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import MovedError, ResponseError

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.redis_cluster.resharding import moving
from credscale.redis_cluster.resharding.routes import LEAST, End, Key, Pace, Route


class FakeNode:
    """A server that knows keys, SETSLOT and MIGRATE; ``answers`` are MIGRATE's complaints, in turn."""

    def __init__(self, name: str, log: list[str], keys: dict[str, int] | None = None) -> None:
        self.name, self.log, self.keys = name, log, dict(keys or {})
        self.other: FakeNode | None = None
        self.answers: list[Exception] = []
        self.refuses: set[str] = set()
        self.sizes: dict[str, int] = {}

    def pipeline(self, *, transaction: bool) -> FakePipeline:
        assert not transaction
        return FakePipeline(self)

    def ping(self) -> bool:
        self.log.append(f"{self.name} PING")
        return True

    def execute_command(self, *words: Any) -> Any:
        if words[:2] == ("CLUSTER", "COUNTKEYSINSLOT"):
            return sum(slot == words[2] for slot in self.keys.values())
        if words[:2] == ("CLUSTER", "GETKEYSINSLOT"):
            return [name for name, slot in self.keys.items() if slot == words[2]][: words[3]]
        if words[0] == "MEMORY":
            return self.sizes.get(words[2], 100)
        if words[0] == "ASKING":
            return "OK"
        if words[0] == "DUMP":
            return f"dump of {words[1]} on {self.name}"
        if words[:2] == ("CLUSTER", "SETSLOT"):
            self.log.append(f"{self.name} {words[3]} {words[2]}")
            if words[3] in self.refuses:
                raise ResponseError("You can use SETSLOT only with masters.")
            return "OK"
        assert words[0] == "MIGRATE"
        names = words[words.index("KEYS") + 1 :]
        self.log.append(f"{self.name} MIGRATE {len(names)}{' REPLACE' if 'REPLACE' in words else ''}")
        if self.answers:
            raise self.answers.pop(0)
        assert self.other is not None
        for name in names:
            self.other.keys[name] = self.keys.pop(name)
        return "OK"


class FakePipeline:
    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.words: list[tuple[Any, ...]] = []

    def execute_command(self, *words: Any) -> None:
        self.words.append(words)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        replies: list[Any] = []
        waiting, self.words = self.words, []
        for words in waiting:
            try:
                replies.append(self.node.execute_command(*words))
            except ResponseError as error:
                if raise_on_error:
                    raise
                replies.append(error)
        return replies


def world(keys: dict[str, int], **more: Any) -> tuple[Route, FakeNode, FakeNode, list[str]]:
    log: list[str] = []
    source, target, third = FakeNode("source", log, keys), FakeNode("target", log), FakeNode("third", log)
    source.other = target
    nodes: list[Any] = [source, target, third]
    ends = [End(node.name, node.name, node, "10.0.0.9", 7000) for node in nodes]
    return Route(ends[0], ends[1], (ends[2],), **more), source, target, log


def test_order_of_one_slot() -> None:
    route, source, target, log = world({"a": 5, "b": 5})
    done: list[int] = []
    assert moving.move_slots(route, [5], Pace(), done.append) == []
    assert log == [
        "target IMPORTING 5", "source MIGRATING 5", "source MIGRATE 2",
        "target NODE 5", "source NODE 5", "third NODE 5",
    ]  # fmt: skip
    assert (source.keys, set(target.keys), done) == ({}, {"a", "b"}, [1])


def test_many_slots_are_opened_in_batches() -> None:
    keys = {f"k{number}": number // 1500 for number in range(3000)}
    keys |= {f"one {slot}": slot for slot in range(200, 240)}
    route, source, _, log = world(keys, owned=8192)
    done: list[int] = []
    moving.move_slots(route, list(range(300)), Pace(), done.append)
    # each of two full ones alone, as many empty ones as fit, as many MIGRATEs as fit, the rest
    assert done == [1, 2, 130, 232, 300]
    assert source.keys == {}
    assert log.index("source MIGRATING 1") > log.index("third NODE 0")


def test_new_primary_gets_slots_one_by_one_first() -> None:
    route, _, _, _ = world({})
    done: list[int] = []
    pace = Pace()
    moving.move_slots(route, list(range(100)), pace, done.append)
    assert done[:64] == list(range(1, 65))
    assert done[64:68] == [66, 68, 70, 72]
    more: list[int] = []
    moving.move_slots(route, list(range(100, 200)), pace, more.append)
    assert more[0] == 3  # it goes on where it was


def test_receipt_that_was_lost_is_followed_by_replace() -> None:
    route, source, _, log = world({"a": 5})
    source.answers = [ResponseError("IOERR error or timeout reading to target instance")]
    moving.move_slots(route, [5], Pace(), lambda _: None)
    assert [line for line in log if "MIGRATE" in line] == ["source MIGRATE 1", "source MIGRATE 1 REPLACE"]
    assert log.count("target PING") == 2  # what was sent before is worked off first


def test_key_on_both_ends() -> None:
    route, source, _, log = world({"a": 5})
    source.answers = [ResponseError("Target instance replied with error: BUSYKEY Target key name already exists.")]
    moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "source MIGRATE 1 REPLACE" in log


def test_key_on_both_ends_and_nobody_knows_which_is_newer() -> None:
    busy = ResponseError("Target instance replied with error: BUSYKEY Target key name already exists.")
    route, source, _, log = world({"a": 5}, certain=False)
    source.answers = [busy]
    with pytest.raises(PreconditionFailed, match="1 keys of slot 5 are on source, which owns it"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "source MIGRATE 1 REPLACE" not in log
    route, source, _, log = world({"a": 5}, certain=False, prefer_owner=True)
    source.answers = [busy]
    moving.move_slots(route, [5], Pace(), lambda _: None, opened=True)
    assert "source MIGRATE 1 REPLACE" in log


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (ResponseError("Target instance replied with error: OOM command not allowed"), PreconditionFailed, "is full"),
        (ResponseError("Target instance replied with error: NOAUTH"), VerificationFailed, "NOAUTH"),
        (MovedError("5 10.0.0.3:7000"), VerificationFailed, "MovedError 5 10.0.0.3:7000"),
    ],
)
def test_other_answers_end_it(answer: Exception, kind: type[Exception], words: str) -> None:
    route, source, _, log = world({"a": 5})
    source.answers = [answer]
    with pytest.raises(kind, match=words):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "target NODE 5" not in log


def test_target_that_stays_silent() -> None:
    route, source, _, log = world({"a": 5})
    source.answers = [ResponseError("IOERR error or timeout writing to target instance")] * 9
    with pytest.raises(VerificationFailed, match="could not move keys of slot 5 to target: IOERR"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "target NODE 5" not in log


def test_keys_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    route, source, _, log = world({"a": 5})
    monkeypatch.setattr(source, "other", FakeNode("nowhere", []))
    monkeypatch.setattr(moving, "list_keys", lambda *_: [])  # as with a key in another database
    with pytest.raises(VerificationFailed, match="may be in another database"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "target NODE 5" not in log


def test_big_key_and_leftovers_are_refused_before_anything() -> None:
    route, source, _, log = world({"a": 5}, largest=1 << 20)
    source.sizes["a"] = 3 << 20
    with pytest.raises(PreconditionFailed, match="--max-key-mb 4"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    route, _, target, more = world({"a": 5})
    target.keys["b"] = 5
    with pytest.raises(PreconditionFailed, match="1 of slot 5"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert log == more == []


def test_source_that_has_become_a_replica_is_no_news() -> None:
    route, source, _, _ = world({})
    source.refuses = {"NODE"}
    assert moving.move_slots(route, [5], Pace(), lambda _: None) == []


def test_target_that_refuses_ends_it_before_the_source_is_told() -> None:
    route, _, target, log = world({})
    target.refuses = {"NODE"}
    with pytest.raises(VerificationFailed, match="target refused SETSLOT NODE"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "source NODE 5" not in log


def test_pace_follows_what_was_measured() -> None:
    pace = Pace()
    first = pace.allowance
    pace.measured(first, 0.001)
    assert pace.allowance == 2 * first  # never more than twice at once
    pace.measured(1000, 0.0001)
    assert pace.allowance == 2 * first  # a small load says nothing
    pace.measured(2 * first, 0.1)
    assert pace.allowance == first // 2  # a quarter of the time is left
    assert pace.longest == 0.1
    for _ in range(20):
        pace.measured(pace.allowance, 10.0)
    assert pace.allowance == LEAST


def test_password_is_not_shown() -> None:
    route, *_ = world({}, login=("AUTH", "secret"))
    assert "secret" not in repr(route)


def test_load_is_never_empty_even_for_a_key_above_the_allowance() -> None:
    pace = Pace()
    keys = [Key("a", 1, 10 * pace.allowance), Key("b", 1, 10), Key("c", 2, 10)]
    assert [[key.name for key in load] for load in moving._loads(keys, pace)] == [["a"], ["b"], ["c"]]
