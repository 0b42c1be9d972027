"""The probe's clients follow the owner, count what was acknowledged, and notice what is gone."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    RedisClusterException,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.redis_cluster.cluster.slots import key_slot
from credscale.redis_cluster.measuring import reading, writer
from credscale.redis_cluster.measuring.probing import Writers
from credscale.redis_cluster.measuring.senders import PATIENT_SECONDS, QUICK_SECONDS, Application, Direct, places_of
from credscale.redis_cluster.measuring.writer import Writer
from tests.redis_cluster.fakes import look_of, node_id, topology

if TYPE_CHECKING:
    from collections.abc import Callable

NODES = topology()
FOUND = look_of(NODES)
REFUSED = RedisConnectionError("Error 111 connecting to 10.0.0.0:7000. Connection refused.")


class Store:
    """Nodes that share one set of keys; ``answers`` tells what each does instead of obeying."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.answers: dict[str, Exception | None] = {}
        self.asked: list[tuple[str, float]] = []

    def redis_node(self, address: str, *, timeout: float) -> Any:
        return self.client(address, timeout)

    def client(self, address: str, timeout: float) -> Any:
        store = self

        class Client:
            def execute_command(self, name: str, *words: Any) -> Any:
                store.asked.append((address, timeout))
                problem = store.answers.get(address)
                if problem is not None:
                    raise problem
                if name == "SET":
                    store.keys[words[0]] = str(words[1])
                    return "OK"
                found = [store.keys.get(key) for key in words]
                if name == "UNLINK":
                    for key in words:
                        store.keys.pop(key, None)
                return found

        return Client()


class Run:
    """As much of a context as the probe needs."""

    def __init__(self, store: Store) -> None:
        self.clients = store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(reading, "look", lambda *_, **__: FOUND)
    return Store()


def direct(store: Store) -> Direct:
    places = places_of(FOUND)
    return Direct(store.client, [NODES[0].address, NODES[3].address], places)


def writer_of(store: Store, sender: Any = None) -> Writer:
    return Writer("a:1", "0", "run", sender or direct(store))


def read_back(writer: Writer, store: Store) -> bool:
    run: Any = Run(store)
    return writer.read_back(run, FOUND, 0.0)


def write(writer: Writer, enough: Callable[[], bool]) -> None:
    writer.watch()
    writer.start(time.monotonic(), 0.0005)
    deadline = time.monotonic() + 20
    while not enough() and time.monotonic() < deadline:
        time.sleep(0.002)
    writer.stop(5)


def owner_of(tag: str) -> str:
    place = reading.owner_of(FOUND, key_slot(tag))
    assert place
    return place


def test_all_acknowledged_writes_are_found_and_deleted(store: Store) -> None:
    writer = writer_of(store)
    write(writer, lambda: len(store.keys) > 700)
    written = len(store.keys)
    assert set(store.keys.values()) == {str(number) for number in range(written)}
    assert read_back(writer, store)
    record = writer.record()
    assert (record.acknowledged, record.lost, record.unread, record.unknown) == (written, 0, 0, 0)
    assert record.errors == {}
    assert record.points
    assert store.keys == {}


def test_a_key_that_is_gone_or_has_another_value_is_lost(store: Store) -> None:
    writer = writer_of(store)
    write(writer, lambda: len(store.keys) > 600)
    del store.keys["credscale:probe:{0}:run:direct:3"]
    store.keys["credscale:probe:{0}:run:direct:555"] = "0"
    assert read_back(writer, store)
    assert read_back(writer, store)
    assert writer.record().lost == 2
    assert store.keys == {}


def test_keys_that_may_have_run_out_are_not_called_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client = writer_of(store)
    write(client, lambda: len(store.keys) > 20)
    store.keys.clear()
    monkeypatch.setattr(writer, "SURE_SECONDS", -1.0)
    assert read_back(client, store)
    record = client.record()
    assert (record.lost, record.unread) == (0, record.acknowledged)


def test_a_shard_for_which_nobody_answers_is_unread(store: Store) -> None:
    writer = writer_of(store)
    write(writer, lambda: len(store.keys) > 20)
    store.answers[owner_of("0")] = REFUSED
    assert not read_back(writer, store)
    record = writer.record()
    assert (record.lost, record.unread) == (0, record.acknowledged)
    assert len(store.keys) == record.acknowledged  # nothing was deleted unread


class Scripted:
    """A sender that raises what it is told, then succeeds."""

    name = "cluster"

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.sent, self.closed = list(errors), [], False

    def send(self, *words: Any) -> None:
        self.sent.append(words[1])
        if self.errors:
            raise self.errors.pop(0)

    def close(self) -> None:
        self.closed = True


def test_a_failed_write_is_made_again_and_counted_by_its_error() -> None:
    reset = RedisConnectionError("Connection closed by server.")
    moved = MovedError("0 10.0.0.1:7001")
    errors = (
        REFUSED,
        reset,
        RedisTimeoutError("x"),
        ClusterDownError("x"),
        BusyLoadingError("x"),
        moved,
        KeyError("x"),
    )
    sender: Any = Scripted(*errors)
    writer = Writer("a:1", "0", "run", sender)
    write(writer, lambda: len(sender.sent) > 30)
    assert len(set(sender.sent[:8])) == 1
    assert len(set(sender.sent)) == len(sender.sent) - 7
    record = writer.record()
    assert record.errors == {
        "ConnectionError": 2, "TimeoutError": 1, "ClusterDownError": 1, "BusyLoadingError": 1, "KeyError": 1,
    }  # fmt: skip
    assert record.unknown == 2  # the reset and the timeout: nobody knows what the server did
    assert sender.closed


def test_gaps_are_counted_from_the_first_mark_on() -> None:
    sender: Any = Scripted()
    writer = Writer("a:1", "0", "run", sender)
    writer.start(time.monotonic(), 0.0005)
    time.sleep(0.05)
    writer.stop(5)
    assert writer.record().gaps == ()
    stuck: Any = Scripted(*[REFUSED] * 10_000)
    hung = Writer("a:1", "0", "run", stuck)
    write(hung, lambda: len(stuck.sent) > 20)
    longest = hung.record().longest
    assert longest is not None
    assert not longest.ended


@pytest.mark.parametrize("error", [NoPermissionError("no"), OutOfMemoryError("full")])
def test_a_server_that_lets_nobody_write_is_told_beforehand(error: Exception) -> None:
    sender: Any = Scripted(error)
    with pytest.raises(PreconditionFailed, match="the probe cannot write"):
        Writer("a:1", "0", "run", sender).try_once()


@pytest.mark.parametrize("error", [REFUSED, ClusterDownError("x"), MovedError("0 x:1"), RedisClusterException("x")])
def test_a_shard_that_is_down_may_be_measured(error: Exception) -> None:
    sender: Any = Scripted(error)
    Writer("a:1", "0", "run", sender).try_once()


def test_the_direct_client_follows_the_owner(store: Store) -> None:
    client = direct(store)
    old, new = NODES[0].address, NODES[3].address
    client.send("SET", "k", 1)
    store.answers[old] = MovedError(f"0 {new}")
    with pytest.raises(MovedError):
        client.send("SET", "k", 1)
    client.send("SET", "k", 1)
    assert store.asked == [(old, PATIENT_SECONDS)] * 2 + [(new, PATIENT_SECONDS)]


def test_the_direct_client_does_not_wait_long_for_one_that_was_silent(store: Store) -> None:
    client = direct(store)
    old, new = NODES[0].address, NODES[3].address
    store.answers = {old: RedisTimeoutError("x"), new: MovedError(f"0 {old}")}
    for _ in range(3):
        with pytest.raises((RedisTimeoutError, MovedError)):
            client.send("SET", "k", 1)
    assert store.asked == [(old, PATIENT_SECONDS), (new, PATIENT_SECONDS), (old, QUICK_SECONDS)]
    store.answers = {old: MovedError(f"0 {new}")}
    client.send("SET", "k", 1)
    store.answers, store.asked = {}, []
    client.send("SET", "k", 1)
    assert store.asked == [(new, PATIENT_SECONDS)]


def test_the_direct_client_asks_on_where_moved_names_nobody_we_know(store: Store) -> None:
    client = direct(store)
    store.answers[NODES[0].address] = MovedError("0 192.0.2.9:1")
    with pytest.raises(MovedError):
        client.send("SET", "k", 1)
    client.send("SET", "k", 1)
    assert store.asked[-1][0] == NODES[3].address


def test_the_cluster_client_is_made_when_it_can_be() -> None:
    made = [RedisClusterException("no slots"), Store().client("x", 1.0)]

    def build() -> Any:
        found = made.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    sender = Application(build)
    with pytest.raises(RedisClusterException):
        sender.send("SET", "k", 1)
    sender.send("SET", "k", 1)
    sender.send("SET", "k", 1)
    assert made == []


def test_the_owner_is_who_all_agree_on(store: Store) -> None:
    assert owner_of("0") == reading.owner_of(FOUND, key_slot("0"))
    dead = next(number for number, node in enumerate(NODES) if node.address == owner_of("0"))
    assert reading.owner_of(look_of(NODES, {dead: {"error": "gone"}}), key_slot("0")) == ""
    other = look_of(topology(4, 1)[:4])
    assert reading.owner_of(type(FOUND)((*FOUND.nodes, *other.nodes)), key_slot("0")) == ""


@pytest.mark.parametrize("rate", [0, -1, 1001])
def test_the_rate_is_bounded(rate: int) -> None:
    ctx: Any = None
    with pytest.raises(EnvironmentInvalid, match="--rate"):
        Writers(ctx, FOUND, rate=rate)


def test_a_dry_run_writes_nothing() -> None:
    class Planned:
        def __init__(self) -> None:
            self.said: list[str] = []

        def apply(self, what: str, *_: Any) -> None:
            self.said.append(what)

    ctx: Any = Planned()
    with Writers(ctx, FOUND, shards=(node_id(1),)) as writers:
        writers.mark("asked", "x")
        writers.settle(60)
        assert writers.read_back() == 0
        assert writers.finish().output()["acknowledged_writes"] == 0
    assert len(ctx.said) == 1
    assert NODES[1].address in ctx.said[0]
    assert NODES[0].address not in ctx.said[0]


def test_a_replica_without_an_address_takes_no_part() -> None:
    gone = replace(NODES[3], host="", port=0, flags=("slave", "fail", "noaddr"))
    found = look_of((*NODES[:3], gone, *NODES[4:]))
    ctx: Any = None
    writers = Writers(ctx, found)
    assert writers._members(found.topology[0], places_of(found)) == [NODES[0].address]


def test_the_rate_that_is_announced_is_the_one_that_is_kept() -> None:
    ctx: Any = None
    assert Writers(ctx, FOUND, rate=200)._rate == 200
    assert Writers(ctx, look_of(topology(50, 0)), rate=200)._rate == 30
