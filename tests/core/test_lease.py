"""What every lease does, wherever it is kept: the heartbeat, its end, and patience with a target that is away."""

from __future__ import annotations

import threading
import time

import pytest

from credscale.core import lease as leases
from credscale.core.errors import Refused
from credscale.core.lease import Holder, Taken, TargetLease


class Away(Exception):
    """What the driver of the fake target raises."""


class FakeLease(TargetLease):
    """A lease in this process, whose target answers as told."""

    place, needs = "here", "Nothing is needed"

    def __init__(self, seconds: float = 20.0) -> None:
        super().__init__("r1", self.said, seconds)
        self.done: list[str] = []
        self.notes: list[str] = []
        self.away = 0  # so many answers are errors
        self.ours = True
        self.renewing, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def said(self, text: str) -> None:
        self.notes.append(text)

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return (Away,)

    def _answer(self, what: str) -> bool:
        self.done.append(what)
        if self.away:
            self.away -= 1
            raise Away
        return self.ours

    def _write(self) -> tuple[bool, Holder | None]:
        return self._answer("write"), None

    def _renew(self) -> bool:
        self.renewing.set()
        assert self.go_on.wait(5)
        return self._answer("renew")

    def _found(self) -> Taken:
        return Taken(None, "its lease ends")

    def _give_back(self) -> None:
        self._answer("give back")

    def recall_all(self) -> dict[str, object]:
        return {}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(leases, "PATIENCE", 0.0)


def test_a_renewal_under_way_ends_before_the_lease_is_given_back() -> None:
    """Otherwise it would take the lease again after the end of the run."""
    mine = FakeLease(seconds=0.04)
    mine.go_on.clear()
    mine.acquire()
    assert mine.renewing.wait(5)
    ending = threading.Thread(target=mine.release)
    ending.start()
    ending.join(0.1)
    assert mine.done == ["write"]
    mine.go_on.set()
    ending.join(5)
    assert mine.done[-2:] == ["renew", "give back"]


def test_a_lease_never_taken_can_be_given_back() -> None:
    mine = FakeLease()
    mine.release()
    assert mine.done == ["give back"]


def test_an_outage_shorter_than_its_validity_stops_nothing() -> None:
    mine = FakeLease()
    mine.acquire()
    mine.away = 1
    mine.check()
    assert mine.done == ["write"], "the validity is known here; nobody is asked"
    mine.release()


def test_an_outage_longer_than_the_patience_stops_before_the_next_change() -> None:
    mine = FakeLease()
    mine.acquire()
    mine._valid_until, mine.away = 0.0, 1
    with pytest.raises(Refused, match="could not be renewed for 0 s .Away.; stopped before the next change"):
        mine.check()
    mine.release()


def test_a_lease_that_ran_out_is_renewed_and_never_taken_anew() -> None:
    """Who took it in between may be gone again: the lease is free then, and what this run knows is stale."""
    mine = FakeLease()
    mine.acquire()
    mine._valid_until = 0.0
    mine.check()
    assert mine.done == ["write", "renew"]
    mine._valid_until, mine.ours = 0.0, False
    with pytest.raises(Refused, match="could not be renewed for 20 s and somebody else took it; stopped before"):
        mine.check()
    mine.ours = True
    with pytest.raises(Refused, match="somebody else took it"):
        mine.check()
    mine.release()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux counts the time of a suspend")
def test_a_suspended_machine_does_not_keep_a_lease_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = FakeLease()
    mine.acquire()
    awake = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: awake(clock) + 60 * (clock == time.CLOCK_BOOTTIME))
    mine.check()
    assert mine.done == ["write", "renew"]
    mine.release()


def test_a_renewal_that_finds_another_holder_loses_it() -> None:
    mine = FakeLease(seconds=0.04)
    mine.acquire()
    mine.ours = False
    mine._heart.join(5)
    with pytest.raises(Refused, match="somebody else took the lease; stopped before the next change"):
        mine.check()


def test_what_cannot_be_given_back_is_said() -> None:
    mine = FakeLease()
    mine.acquire()
    mine.away = 1
    mine.release()
    assert mine.notes == ["the lease could not be given back (); it expires within 20 s"]
