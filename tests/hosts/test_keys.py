"""A host key is accepted only when it is the one that somebody compared, and then it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, StepFailed, VerificationFailed
from credscale.core.machines import host_keys
from credscale.core.step import Status
from credscale.hosts.keys import accept_host_key
from tests.hosts.fakes import context

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD, OTHER = "SHA256:" + "a" * 43, "SHA256:" + "b" * 43


class Shown:
    """A host that shows a key, and what was accepted of it."""

    def __init__(self, *, known: bool = False, forgets: bool = False) -> None:
        self.known, self.forgets, self.jumps = known, forgets, list[Any]()

    def offered(
        self, _name: str, _host: object, jump: object = None, *, environment: str = "test"
    ) -> tuple[str, str, bool]:
        assert environment == "test"
        self.jumps.append(jump)
        return "ssh-ed25519", GOOD, self.known

    def accept(self, _name: str, _host: object, fingerprint: str, _jump: object = None) -> str:
        assert fingerprint == GOOD
        self.known = not self.forgets
        return "/home/ops/.ssh/known_hosts"


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[[Shown], Shown]:
    """Return what lets a host show its key."""

    def use(shown: Shown) -> Shown:
        monkeypatch.setattr(host_keys, "offered_key", shown.offered)
        monkeypatch.setattr(host_keys, "accept_host_key", shown.accept)
        return shown

    return use


def test_the_compared_key_is_accepted_and_then_there_is_nothing_to_do(show: Callable[[Shown], Shown]) -> None:
    shown = show(Shown())
    ctx = context({"d1": "debian"})
    result = accept_host_key(ctx, host="d1", fingerprint=GOOD)
    assert (result.status, result.changes) == (
        Status.CHANGED, [f"accept the key ssh-ed25519 {GOOD} of d1 (d1.example:22)"],
    )  # fmt: skip
    again = accept_host_key(ctx, host="d1", fingerprint=GOOD)
    assert (again.status, again.summary) == (Status.OK, "the key of d1 is known already")
    assert shown.jumps == [None] * 3


def test_another_key_is_refused_before_anything_is_changed(show: Callable[[Shown], Shown]) -> None:
    shown = show(Shown())
    with pytest.raises(StepFailed, match=f"shows the key ssh-ed25519 {GOOD}, expected was {OTHER}") as caught:
        accept_host_key(context({"d1": "debian"}), host="d1", fingerprint=OTHER)
    assert isinstance(caught.value.__cause__, PreconditionFailed)
    assert not shown.known


def test_a_key_that_is_still_not_known_afterwards_is_a_failure(show: Callable[[Shown], Shown]) -> None:
    show(Shown(forgets=True))
    with pytest.raises(StepFailed, match="is still not known") as caught:
        accept_host_key(context({"d1": "debian"}), host="d1", fingerprint=GOOD)
    assert isinstance(caught.value.__cause__, VerificationFailed)


@pytest.mark.parametrize(("host", "fingerprint"), [("", GOOD), ("d9", GOOD), ("d1", "MD5:aa"), ("d1", "")])
def test_odd_parameters(host: str, fingerprint: str, show: Callable[[Shown], Shown]) -> None:
    show(Shown())
    with pytest.raises(StepFailed) as caught:
        accept_host_key(context({"d1": "debian"}), host=host, fingerprint=fingerprint)
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)
