"""A terminal that watches: what it shows, asks and decides, and how it bears a lost connection."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.frontends.front import Terminal
from credscale.frontends.remote import following
from credscale.frontends.remote.following import Detached, follow

if TYPE_CHECKING:
    from collections.abc import Iterator

END = object()  # the agent ends
ENDED = {"ended": {"code": 0, "status": "ok"}}


class Host:
    """A host whose stream breaks where the script says so.

    Args:
        script: records, or exceptions that end the connection; the stream goes on behind them when asked again.
    """

    name = "bastion"

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked_from: list[str] = []
        self.calls: list[tuple[Any, ...]] = []
        self.answered = "answered"
        self.fails: BaseException | None = None

    def stream(self, verb: str, run: str, offset: str) -> Iterator[Any]:
        assert (verb, run) == ("follow", "run")
        self.asked_from.append(offset)
        while self.script:
            record = self.script.pop(0)
            if record is END:
                return
            if isinstance(record, BaseException):
                raise record
            yield [100 - len(self.script), record]

    def call(self, verb: str, run: str, *, stdin: bytes = b"") -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        self.calls.append((verb, stdin))
        return {"done": self.answered}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSES", (0.0,))


def watch(host: Host, *answers: Any) -> tuple[Any, str]:
    """Follow a run; answers are what a person types, or presses as an exception."""
    out, left = io.StringIO(), list(answers)

    def ask(question: str) -> str:
        out.write(question)
        answer = left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)

    console = Console(file=out, width=200)
    last = follow(host, "run", Terminal(console, ask if answers else None))  # type: ignore[arg-type]
    assert not left
    return last, out.getvalue()


def test_shows_phases_events_and_sentences() -> None:
    host = Host(
        {"title": "Plan: shard-migrate"},
        {"event": {"event": "step_finished", "step": "preflight", "status": "ok", "summary": "56 checks"}},
        {"close": True},
        {"said": "Plan: 8 changes [not markup]\n"},
        {},
        ENDED,
    )
    last, out = watch(host)
    assert last == ENDED
    assert "Plan: shard-migrate\n✓ preflight: 56 checks\nPlan: 8 changes [not markup]\n" in out


def test_goes_on_where_it_was_when_the_connection_broke() -> None:
    lost = ConnectFailed("no sign of life", why="timed out")
    again = ConnectFailed("refused", why="refused")
    host = Host({"said": "first\n"}, lost, again, {"said": "second\n"}, ENDED)
    last, out = watch(host)
    assert last == ENDED
    assert host.asked_from == ["0", "96", "96"]
    assert out.count("the connection is lost; the run goes on at bastion, trying again (timed out)") == 1
    assert out.index("first") < out.index("is lost") < out.index("connected to bastion again") < out.index("second")


@pytest.mark.parametrize("why", ["host key", "auth"])
def test_another_key_is_not_tried_again(why: Any) -> None:
    host = Host(ConnectFailed("not the one known", why=why), ENDED)
    with pytest.raises(ConnectFailed, match="not the one known"):
        watch(host)


def test_gives_up_after_half_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "GIVE_UP_SECONDS", 0.0)
    lost = ConnectFailed("unreachable", why="unreachable")
    with pytest.raises(ConnectFailed):
        watch(Host(lost, lost, ENDED))


def test_an_agent_that_ends_without_the_last_word_is_asked_again() -> None:
    host = Host({"said": "a\n"}, END, ENDED)
    assert watch(host)[0] == ENDED
    assert host.asked_from == ["0", "98"]


def test_an_agent_that_was_killed_is_started_again_but_not_for_ever() -> None:
    killed = PreconditionFailed("agent.py ended with exit code 137")
    assert watch(Host({"said": "a\n"}, killed, killed, ENDED))[0] == ENDED
    with pytest.raises(PreconditionFailed, match="137"):
        watch(Host(*[killed] * 10))


def test_a_run_that_is_gone_is_told() -> None:
    assert watch(Host({"gone": "there is no run"}))[0] == {"gone": "there is no run"}


def test_a_question_is_asked_once_all_is_shown() -> None:
    host = Host({"ask": "Type prod: "}, {"said": "more\n"}, {}, {}, ENDED)
    _, out = watch(host, "prod")
    assert out.index("more") < out.index("Type prod: ")
    assert host.calls == [("answer", b"prod")]


def test_a_question_that_was_answered_is_not_asked_again() -> None:
    host = Host({"ask": "Type prod: "}, {"answered": True}, {}, ENDED)
    assert "Type prod" not in watch(host)[1]
    assert host.calls == []


def test_an_answer_that_came_second_is_said() -> None:
    host = Host({"ask": "Type prod: "}, {}, ENDED)
    host.answered = "it was answered before"
    assert "it was answered at another terminal before" in watch(host, "prod")[1]


def test_without_a_terminal_the_question_is_shown() -> None:
    host = Host({"ask": "Type prod: "}, {}, ENDED)
    assert "it waits for an answer from a terminal: Type prod:" in watch(host)[1]


@pytest.mark.parametrize(
    ("answer", "called", "said"),
    [("s", "stop", "it stops before its next step"), ("I", "interrupt", "its step is interrupted"), ("", None, "a")],
)
def test_ctrl_c_asks_what_is_meant(answer: str, called: str | None, said: str) -> None:
    host = Host({"said": "a\n"}, KeyboardInterrupt(), ENDED)
    last, out = watch(host, answer)
    assert last == ENDED
    assert "[d]etach, [s]top before its next step" in out
    assert [verb for verb, _ in host.calls] == ([called] if called else [])
    assert said in out


@pytest.mark.parametrize("answers", [("d",), (" Detach ",), (KeyboardInterrupt(),), (EOFError(),)])
def test_detaches_when_asked_or_by_a_second_ctrl_c(
    answers: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    host = Host(KeyboardInterrupt(), ENDED)

    def ask(question: str) -> str:
        asked.append(question)
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return str(answers[0])

    with pytest.raises(Detached):
        follow(host, "run", Terminal(Console(file=io.StringIO()), ask))  # type: ignore[arg-type]
    assert len(asked) == 1
    assert "[d]etach" in asked[0]
    assert host.calls == []


def test_detaches_when_nobody_can_be_asked() -> None:
    with pytest.raises(Detached):
        watch(Host(KeyboardInterrupt(), ENDED))


def test_ctrl_c_while_the_host_is_told_detaches() -> None:
    host = Host({"said": "a\n"}, KeyboardInterrupt(), ENDED)
    host.fails = KeyboardInterrupt()
    with pytest.raises(Detached):
        watch(host, "s")


def test_what_could_not_be_told_is_said() -> None:
    host = Host({"said": "a\n"}, KeyboardInterrupt(), ENDED)
    host.fails = ConnectFailed("cut", why="broken")
    assert "it could not be told, ask again" in watch(host, "s")[1]


def test_ctrl_c_at_the_confirmation_asks_as_well_and_puts_it_again() -> None:
    host = Host({"ask": "Type prod: "}, {}, {}, ENDED)
    _, out = watch(host, KeyboardInterrupt(), "go on", "prod")
    assert out.count("Type prod: ") == 2
    assert host.calls == [("answer", b"prod")]


def test_a_dead_run_is_told() -> None:
    assert watch(Host({"died": "killed"}))[0] == {"died": "killed"}
