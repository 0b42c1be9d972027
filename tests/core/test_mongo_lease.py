"""One run at a time: who holds it is told, a dead holder is replaced, a lost lease stops the next change."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError, OperationFailure

from credscale.core import lease as leases
from credscale.core.errors import ConnectFailed, Refused
from credscale.core.lease import Holder, MemoryLease, machine
from credscale.core.mongo_lease import MongoLease

START = datetime(2026, 11, 23, 2)  # noqa: DTZ001 - as pymongo returns the server's UTC


class FakeServer:
    """One lease document and a clock, behind the few calls that the lease makes."""

    def __init__(self) -> None:
        self.now, self.document = START, dict[str, Any]()
        self.admin = self

    def __getitem__(self, name: str) -> FakeServer:
        return self

    def get_collection(self, name: str, **options: Any) -> FakeServer:
        return self

    def command(self, name: str) -> dict[str, Any]:
        return {"localTime": self.now}

    def find_one(self, query: dict[str, Any]) -> dict[str, Any] | None:
        return dict(self.document) or None

    def _free(self, clause: dict[str, Any]) -> bool:
        holder = self.document.get("holder") or {}
        if "expires" in clause:
            return bool(self.document["expires"] <= clause["expires"]["$lte"])
        if "holder.run" in clause:
            return bool(holder.get("run") == clause["holder.run"])
        return not holder

    def find_one_and_update(self, query: dict[str, Any], update: dict[str, Any], **options: Any) -> None:
        if self.document and not any(self._free(clause) for clause in query["$or"]):
            raise DuplicateKeyError("held")
        self.document |= update["$set"]

    def update_one(self, query: dict[str, Any], update: dict[str, Any]) -> Any:
        if "holder.run" in query and not self._free(query):
            return type("Result", (), {"matched_count": 0})
        kept = self.document.setdefault("kept", {})
        for path, value in update.get("$set", {}).items():
            target, _, key = path.partition(".")
            if key:
                kept.setdefault(key, value)
            else:
                self.document[target] = value
        for path in update.get("$unset", {}):
            kept.pop(path.partition(".")[2], None)
        return type("Result", (), {"matched_count": 1})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    monkeypatch.setattr(leases, "GRACE_SECONDS", 0.0)
    return FakeServer()


def lease(server: FakeServer, run: str, notes: list[str] | None = None) -> MongoLease:
    return MongoLease(server, run, (notes if notes is not None else []).append, 20.0)  # type: ignore[arg-type]


def held_by(server: FakeServer, holder: Holder, seconds: float) -> None:
    server.document = {"_id": "run", "holder": asdict(holder), "expires": server.now + timedelta(seconds=seconds)}


def test_taken_released_and_taken_again(server: FakeServer) -> None:
    first = lease(server, "r1")
    first.acquire()
    first.check()
    first.release()
    lease(server, "r2").acquire()
    assert server.document["holder"]["run"] == "r2"


def test_a_living_holder_elsewhere_refuses_and_is_named(server: FakeServer) -> None:
    held_by(server, Holder("r0", "mallory", "elsewhere", "another", 1, 1.0), 10)
    with pytest.raises(Refused, match="mallory on elsewhere .pid 1, run r0."):
        lease(server, "r1").acquire()


def test_an_expired_lease_is_taken_over_with_a_note(server: FakeServer) -> None:
    held_by(server, Holder("r0", "mallory", "elsewhere", "another", 1, 1.0), -1)
    notes: list[str] = []
    lease(server, "r1", notes).acquire()
    assert notes == ["took over the stale lease of mallory on elsewhere (pid 1, run r0)"]


def test_a_dead_process_of_this_machine_is_replaced_at_once(server: FakeServer) -> None:
    held_by(server, Holder("r0", "me", "here", machine(), 2**22 + 1, 1.0), 10)
    lease(server, "r1").acquire()
    assert server.document["holder"]["run"] == "r1"


def test_a_reused_pid_counts_as_dead() -> None:
    me = Holder.me("r1")
    assert not me.is_dead()
    assert replace(me, process_started=me.process_started - 60).is_dead()
    assert not replace(me, process_started=me.process_started - 1).is_dead(), "the boot time is an estimate"


def test_the_same_host_name_elsewhere_proves_nothing() -> None:
    assert not replace(Holder.me("r1"), machine="another", pid=2**22 + 1).is_dead()


def test_a_lease_that_could_not_be_renewed_and_was_taken_stops_the_next_change(server: FakeServer) -> None:
    mine = lease(server, "r1")
    mine.acquire()
    held_by(server, Holder("r2", "mallory", "elsewhere", "another", 1, 1.0), 10)
    mine._valid_until = 0.0
    with pytest.raises(Refused, match="stopped before the next change"):
        mine.check()


def test_a_lease_that_ran_out_under_a_whole_other_run_is_not_taken_back(server: FakeServer) -> None:
    mine = lease(server, "r1")
    mine.acquire()
    server.now += timedelta(seconds=60)
    other = lease(server, "r2")
    other.acquire()
    other.release()
    mine._valid_until = 0.0
    with pytest.raises(Refused, match="somebody else took it; stopped before the next change"):
        mine.check()
    assert server.document["holder"] is None


def test_a_lease_that_ran_out_and_that_nobody_took_goes_on(server: FakeServer) -> None:
    mine = lease(server, "r1")
    mine.acquire()
    server.now += timedelta(seconds=60)
    mine._valid_until = 0.0
    mine.check()
    assert server.document["expires"] == server.now + timedelta(seconds=20)


@pytest.mark.parametrize("kind", ["memory", "mongo"])
def test_the_first_value_is_kept_until_forgotten(server: FakeServer, kind: str) -> None:
    memory = MemoryLease() if kind == "memory" else lease(server, "r1")
    memory.remember("balancer", {"mode": "full"})
    memory.remember("balancer", {"mode": "off"})
    assert memory.recall("balancer") == {"mode": "full"}
    assert memory.recall_all() == {"balancer": {"mode": "full"}}
    memory.forget("balancer")
    assert memory.recall("balancer") is None


def test_missing_rights_are_told_with_the_role(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unauthorized(*_: object, **__: object) -> None:
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(server, "find_one_and_update", unauthorized)
    with pytest.raises(ConnectFailed, match="readWrite on the database credscale"):
        lease(server, "r1").acquire()
