"""A host made ready: nothing twice, nothing without room, again only where the connection broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.frontends.remote import package, preparing
from credscale.frontends.remote.preparing import ROOM_BYTES, patiently, prepare
from tests.frontends.remote.fake_host import FakeHost

if TYPE_CHECKING:
    from pathlib import Path

LOOK = {
    "python": "3.12.4", "implementation": "cpython", "platform": "linux-x86_64", "libc": ["glibc", "2.36"],
    "packages": True, "version": True, "free": ROOM_BYTES, "has": ["env:THERE"],
}  # fmt: skip
PINNED = ("a==1", "b==2")
NAME = package.name_of(PINNED, LOOK)
BROKEN = ConnectFailed("the connection ended", why="broken")
NO_PACKAGE = PreconditionFailed("bastion: install failed: no matching distribution found for a==1")


class Clock:
    """A clock that goes on by a step whenever it is looked at."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(preparing, "time", made)
    return made


@pytest.fixture(autouse=True)
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pack a word instead of packages; returns what was packed, in order."""
    done: list[str] = []

    def pack(word: str) -> Path:
        done.append(word)
        (tmp_path / word).write_text(word)
        return tmp_path / word

    def requirements(python: str, machine: str) -> tuple[str, ...]:
        assert (python, machine) == ("3.12.4", "x86_64")
        return PINNED

    def pack_requirements(name: str, pinned: tuple[str, ...], look: dict[str, Any], *, wheels: bool) -> Path:
        assert (name, pinned, look["python"]) == (NAME, PINNED, "3.12.4")
        return pack("wheels" if wheels else "requirements")

    monkeypatch.setattr(package, "version", lambda: "v1")
    monkeypatch.setattr(package, "requirements", requirements)
    monkeypatch.setattr(package, "pack_requirements", pack_requirements)
    monkeypatch.setattr(package, "pack_version", lambda name: pack(f"version-{name}"))
    return done


def bare(**look: Any) -> FakeHost:
    """Return a host on which nothing is installed, but for what is given."""
    found = LOOK | {"packages": False, "version": False} | look
    return FakeHost(look=[found], receive=[{"done": "received"}], install=[[{"doing": "installing"}, {"done": "x"}]])


def prepared(host: FakeHost) -> tuple[tuple[str, str, list[str]], list[str]]:
    doing: list[str] = []
    return prepare(host, ["env:THERE", "env:HERE"], doing.append), doing  # type: ignore[arg-type]


def sent(host: FakeHost) -> list[tuple[str, ...]]:
    """Return what was received and installed, in order, with what was in it."""
    return [(each.verb, *each.arguments, each.stdin.decode()) for each in host.asked if each.verb != "look"]


def test_nothing_is_done_where_all_is_there(packed: list[str]) -> None:
    host = FakeHost(look=[LOOK | {"free": 0}])  # so no room is needed either
    assert prepared(host) == ((NAME, "v1", ["env:THERE"]), [])
    references = ("env:THERE", "env:HERE")
    assert [asked.arguments for asked in host.asked] == [("", "v1", *references), (NAME, "v1", *references)]
    assert packed == []


def test_packages_come_from_its_registry_and_then_the_version() -> None:
    host = bare()
    found, doing = prepared(host)
    assert found == (NAME, "v1", ["env:THERE"])
    assert sent(host) == [
        ("receive", "packages", NAME, "requirements"), ("install", "packages", NAME, ""),
        ("receive", "versions", "v1", "version-v1"), ("install", "versions", "v1", ""),
    ]  # fmt: skip
    assert doing == ["installing", "building this version's wheel", "installing"]


def test_only_what_is_not_there_is_sent(packed: list[str]) -> None:
    prepared(bare(packages=True))
    assert packed == ["version-v1"]
    packed.clear()
    prepared(bare(version=True))
    assert packed == ["requirements"]


def test_too_little_room_is_said_before_anything_is_sent(packed: list[str]) -> None:
    host = bare(free=ROOM_BYTES - 1)
    with pytest.raises(PreconditionFailed) as caught:
        prepared(host)
    text = str(caught.value)
    assert "bastion has 953.7 MB left where hosts.bastion.folder is, and 953.7 MB are needed" in text
    assert "Nothing was changed. Make room there" in text
    assert set(host.verbs()) == {"look"}
    assert packed == []


def test_a_host_without_a_registry_gets_the_wheels() -> None:
    host = bare(version=True)
    host.answers["install"] = [[{"doing": "asking its registry"}, NO_PACKAGE], [{"doing": "installing", "seconds": 7}]]
    _, doing = prepared(host)
    assert [each[-1] for each in sent(host) if each[0] == "receive"] == ["requirements", "wheels"]
    assert doing == [
        "asking its registry",
        "its registry does not give the packages, so they are downloaded here",
        "installing (7 s)",
    ]


def test_wheels_that_do_not_help_are_not_sent_again() -> None:
    host = bare()
    host.answers["install"] = [[NO_PACKAGE]]
    with pytest.raises(PreconditionFailed, match="no matching distribution"):
        prepared(host)
    assert [each[-1] for each in sent(host) if each[0] == "receive"] == ["requirements", "wheels"]


@pytest.mark.parametrize("verb", ["receive", "install"])
@pytest.mark.parametrize("words", ["[Errno 28] No space left on device", "it cannot make a virtual environment"])
def test_what_wheels_would_not_mend_is_passed_on(verb: str, words: str, packed: list[str]) -> None:
    host = bare()
    problem = PreconditionFailed(words)
    host.answers[verb] = [problem] if verb == "receive" else [[problem]]
    with pytest.raises(PreconditionFailed, match=words.split("] ")[-1]):
        prepared(host)
    assert packed == ["requirements"]


def test_a_version_that_cannot_be_installed_is_said() -> None:
    host = bare(packages=True)
    host.answers["install"] = [[PreconditionFailed("no wheel in it")]]
    with pytest.raises(PreconditionFailed, match="no wheel in it"):
        prepared(host)
    assert host.verbs().count("receive") == 1


@pytest.mark.parametrize("verb", ["receive", "install"])
def test_it_is_sent_again_where_the_connection_broke(verb: str, packed: list[str], clock: Clock) -> None:
    host = bare(version=True)
    whole = host.answers[verb][0]
    host.answers[verb] = [BROKEN, whole] if verb == "receive" else [[{"doing": "installing"}, BROKEN], whole]
    prepared(host)
    received = [each[-1] for each in sent(host) if each[0] == "receive"]
    assert received == ["requirements", "requirements"]  # from its beginning
    assert [each[0] for each in sent(host)][-1] == "install"
    assert packed == ["requirements"]
    assert clock.pauses == [1.0]


def test_how_far_it_is_sent_is_told(clock: Clock) -> None:
    clock.step = 0.6
    _, doing = prepared(bare(version=True))
    assert doing == ["sending it, 8 B of 12 B", "sending it, 12 B of 12 B", "installing"]
    clock.step = 0.1
    assert prepared(bare(version=True))[1] == ["installing"]


def test_a_host_that_was_not_reached_is_not_waited_for(clock: Clock) -> None:
    host = FakeHost(look=[ConnectFailed("nothing listens", why="refused"), LOOK])
    with pytest.raises(ConnectFailed, match="nothing listens"):
        prepared(host)
    assert clock.pauses == []


def test_a_host_that_was_reached_is_waited_for(clock: Clock) -> None:
    host = FakeHost(look=[LOOK, BROKEN, ConnectFailed("nothing listens", why="refused"), LOOK])
    assert prepared(host)[0][0] == NAME
    assert clock.pauses == [1.0, 2.0]


class Action:
    """Fails in this way so often, then succeeds."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.tries = error, times, 0

    def __call__(self) -> str:
        self.tries += 1
        if self.tries <= self.times:
            raise self.error
        return "done"


@pytest.mark.parametrize("why", ["broken", "timed out", "refused", "unreachable"])
def test_patience_where_a_connection_is_lost(why: Any, clock: Clock) -> None:
    action = Action(ConnectFailed("lost", why=why), 3)
    assert patiently(action) == "done"
    assert clock.pauses == [1.0, 2.0, 4.0]


def test_patience_ends_after_two_minutes(clock: Clock) -> None:
    action = Action(BROKEN, 1000)
    with pytest.raises(ConnectFailed, match="the connection ended"):
        patiently(action)
    assert sum(clock.pauses) == 120.0
    assert action.tries == len(clock.pauses) + 1


@pytest.mark.parametrize(
    "error", [ConnectFailed("x", why="auth"), ConnectFailed("x", why="host key"), PreconditionFailed("x")]
)
def test_no_patience_where_it_would_not_help(error: Exception, clock: Clock) -> None:
    action = Action(error, 1)
    with pytest.raises(type(error)):
        patiently(action)
    assert (action.tries, clock.pauses) == (1, [])


def test_no_patience_with_a_host_that_was_not_reached(clock: Clock) -> None:
    action = Action(BROKEN, 1)
    with pytest.raises(ConnectFailed):
        patiently(action, reached=False)
    assert (action.tries, clock.pauses) == (1, [])
