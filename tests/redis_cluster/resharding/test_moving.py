"""Keys move in portions that fit, and every answer of MIGRATE is understood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import AskError, MovedError, ResponseError

from credscale.core.errors import PreconditionFailed, Refused, VerificationFailed
from credscale.redis_cluster.resharding import conflicts, moving
from credscale.redis_cluster.resharding.routes import LEAST, End, Key, Pace, Route

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeNode:
    """A server that knows keys, SETSLOT and MIGRATE; ``answers`` are MIGRATE's complaints, in turn."""

    def __init__(self, name: str, log: list[str], keys: dict[str, int] | None = None) -> None:
        self.name, self.log, self.keys = name, log, dict(keys or {})
        self.other: FakeNode | None = None
        self.answers: list[Exception] = []
        self.refuses: set[str] = set()
        self.sizes: dict[str, Any] = {}
        self.databases = {"db0": {"keys": 1}}
        self.values: dict[str, tuple[Any, Any]] = {}  # DUMP and PTTL; exceptions are raised
        self.members: dict[str, Any] = {}
        self.role = "master"
        self.leaving: dict[int, str] = {}
        self.lost: set[int] = set()  # slots that it does not own any more

    def pipeline(self, *, transaction: bool) -> FakePipeline:
        assert not transaction
        return FakePipeline(self)

    def ping(self) -> bool:
        self.log.append(f"{self.name} PING")
        return True

    def execute_command(self, *words: Any) -> Any:
        if words[0] in ("CLUSTER", "MIGRATE"):
            return self.cluster(*words[1:]) if words[0] == "CLUSTER" else self.migrate(*words)
        replica = ["slave", "10.0.0.1", 7000, "connected", 0]
        answers: dict[str, Callable[[], Any]] = {
            "MEMORY": lambda: self.sizes.get(words[2], 100),
            "INFO": lambda: self.databases,
            "ROLE": lambda: ["master", 0, []] if self.role == "master" else replica,
            "ASKING": lambda: "OK",
            "DUMP": lambda: self.values.get(words[1], ("dump", -1))[0],
            "PTTL": lambda: self.values.get(words[1], ("dump", -1))[1],
            "HGETALL": lambda: self.members[words[1]],
            "SMEMBERS": lambda: self.members[words[1]],
        }
        answer = answers[words[0]]()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cluster(self, *words: Any) -> Any:
        if words[0] == "COUNTKEYSINSLOT":
            return sum(slot == words[1] for slot in self.keys.values())
        if words[0] == "GETKEYSINSLOT":
            return [name for name, slot in self.keys.items() if slot == words[1]][: words[2]]
        if words[0] == "NODES":
            owned = " ".join(str(slot) for slot in range(400) if slot not in self.lost)
            opened = " ".join(f"[{slot}->-{peer}]" for slot, peer in self.leaving.items())
            return f"{self.name} 10.0.0.9:7000@17000 myself,{self.role} - 0 0 1 connected {owned} {opened}\n"
        assert words[0] == "SETSLOT"
        self.log.append(f"{self.name} {words[2]} {words[1]}")
        if words[2] == "MIGRATING":
            self.leaving[words[1]] = words[3]
        if words[2] in self.refuses:
            raise ResponseError("You can use SETSLOT only with masters.")
        return "OK"

    def migrate(self, *words: Any) -> str:
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


BUSY = ResponseError("Target instance replied with error: BUSYKEY Target key name already exists.")
SILENT = ResponseError("IOERR error or timeout reading to target instance")
ASK = AskError("5 10.0.0.9:7000")
HASH, OTHER_HASH, SET = "\x04one", "\x04two", "\x02one"


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("ours", [("dump", 9000), (ASK, ASK), (None, -2)])
def test_same_key_on_both_ends_or_one_that_has_gone(ours: Any, opened: bool) -> None:
    route, source, target, log = world({"a": 5})
    source.values["a"], target.values["a"] = ours, ("dump", 9900)  # it was made there a little later
    source.answers = [BUSY]
    moving.move_slots(route, [5], Pace(), lambda _: None, opened=opened)
    assert "source MIGRATE 1 REPLACE" in log


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("theirs", [("other", -1), ("dump", 60_000), ("other", 60_000)])
@pytest.mark.parametrize("answers", [[BUSY], [SILENT, BUSY]])
def test_different_keys_on_both_ends(theirs: Any, answers: list[Exception], opened: bool) -> None:
    route, source, target, log = world({"a": 5})
    target.values["a"] = theirs
    source.answers = list(answers)
    if answers[0] is SILENT and not opened:  # this very run has brought it there, so it replaces it
        source.answers = [SILENT]
        moving.move_slots(route, [5], Pace(), lambda _: None)
        return
    for _ in range(2):  # the second run knows no more
        with pytest.raises(
            PreconditionFailed, match="1 keys of slot 5 are on source.*repair-open-slots --prefer-owner"
        ):
            moving.move_slots(route, [5], Pace(), lambda _: None, opened=opened)
        opened, source.answers = True, list(answers)
    assert "source MIGRATE 1 REPLACE" not in log
    route, source, target, log = world({"a": 5}, prefer_owner=True)
    target.values["a"], source.answers = theirs, [BUSY]
    moving.move_slots(route, [5], Pace(), lambda _: None, opened=True)
    assert "source MIGRATE 1 REPLACE" in log


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ((HASH, {"a": "1"}), (OTHER_HASH, {"a": "1"}), True),
        ((HASH, {"a": "1"}), (OTHER_HASH, {"a": "2"}), False),
        (("\x10one", {"a": "1"}), (HASH, {"a": "1"}), True),
        (("\x0bone", {"1"}), (SET, {"1"}), True),
        ((SET, {"1"}), (HASH, {"1"}), False),
        (("\x18one", {"a": "1"}), ("\x18two", {"a": "1"}), False),  # fields that expire
        ((HASH + "x" * conflicts.MOST_DUMP, {"a": "1"}), (HASH, {"a": "1"}), False),
    ],
)
def test_hashes_and_sets_have_no_order(ours: tuple[str, Any], theirs: tuple[str, Any], same: bool) -> None:
    route, source, target, _ = world({})
    source.values["a"], source.members["a"] = (ours[0], -1), ours[1]
    target.values["a"], target.members["a"] = (theirs[0], -1), theirs[1]
    if same:
        conflicts.refuse_conflicts(route, [Key("a", 5, 10)])
        return
    with pytest.raises(PreconditionFailed, match="other values or times to live"):
        conflicts.refuse_conflicts(route, [Key("a", 5, 10)])


def test_other_errors_about_a_key_do_not_show_its_name() -> None:
    route, source, _, _ = world({"secret": 5})
    source.values["secret"] = (MovedError("5 10.0.0.3:7000"), -1)
    with pytest.raises(VerificationFailed, match="source answered MovedError") as caught:
        conflicts.refuse_conflicts(route, [Key("secret", 5, 10)])
    assert "secret" not in str(caught.value)


def test_keys_that_have_expired_while_their_slot_is_open() -> None:
    route, source, target, _ = world({"a": 5, "b": 5})
    source.sizes["a"] = ASK
    moving.move_slots(route, [5], Pace(), lambda _: None, opened=True)
    assert source.keys == {}
    assert "b" in target.keys


def test_keys_of_other_databases_are_not_left_behind() -> None:
    route, source, _, log = world({"a": 5})
    source.databases["db3"] = {"keys": 1}
    for opened in (True, False):
        with pytest.raises(PreconditionFailed, match="source holds keys in db3. MIGRATE reaches database 0 only"):
            moving.move_slots(route, [5], Pace(), lambda _: None, opened=opened)
    assert log == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda source: setattr(source, "role", "slave"), "it is a replica now"),
        (lambda source: source.lost.add(5), "it does not own slot 5 any more"),
        (lambda source: source.leaving.clear(), "slot 5 does not leave it any more"),
        (lambda source: source.leaving.update({5: "third"}), "slot 5 does not leave it any more"),
        (lambda source: source.keys.update({"new": 5}), "it holds 1 keys of slot 5"),
        (lambda source: source.databases.update(db1={"keys": 1}), "it holds keys in db1"),
    ],
)
def test_source_that_lost_the_slot_ends_it_before_anybody_is_told(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[FakeNode], None], why: str
) -> None:
    route, source, _, log = world({"a": 5})
    monkeypatch.setattr(moving, "move_keys", lambda *_, **__: change(source))
    source.keys.clear()
    with pytest.raises(VerificationFailed, match=why):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "target NODE 5" not in log


def test_run_without_its_lease_hands_nothing_over() -> None:
    def lost() -> None:
        raise Refused("somebody else took the lease")

    route, _, _, log = world({"a": 5}, held=lost)
    with pytest.raises(Refused):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "target NODE 5" not in log


def test_word_of_the_source_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    route, _, _, log = world({"a": 5})
    monkeypatch.setattr(moving, "FRESH_SECONDS", -1.0)
    with pytest.raises(VerificationFailed, match="took more than"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    assert "target NODE 5" not in log


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
    with pytest.raises(PreconditionFailed, match="run it again with --max-key-mb 4"):
        moving.move_slots(route, [5], Pace(), lambda _: None)
    with pytest.raises(PreconditionFailed, match="invoke redis.repair-open-slots --max-key-mb 4"):
        moving.move_slots(route, [5], Pace(), lambda _: None, opened=True)
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
