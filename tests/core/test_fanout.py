"""Many machines at once: one that hangs holds up nobody, answers are kept, and a change says where it is made."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.clients import Clients
from credscale.core.context import Context
from credscale.core.environment import Environment
from credscale.core.errors import (
    ConnectFailed,
    EnvironmentInvalid,
    PreconditionFailed,
    StepFailed,
    VerificationFailed,
)
from credscale.core.journal import Journal, read_journal
from credscale.core.machines import Completed, LocalMachine, Machine
from credscale.core.machines.asking import ask_hosts, change_hosts
from credscale.core.machines.fanout import Answer, fan_out
from credscale.core.secrets import Secrets
from credscale.core.step import Finding, Status, probe, step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Fake(LocalMachine):
    """This machine under another name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Yield what hanging work waits for; it is set at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


def fakes(count: int) -> list[Machine]:
    return [Fake(f"h{number}") for number in range(count)]


def raises(error: Exception) -> None:
    raise error


def test_answers_come_in_the_order_of_the_machines() -> None:
    turns = {f"h{number}": threading.Event() for number in range(5)}
    last = turns["h4"]
    last.set()

    def work(machine: Machine) -> str:
        """End in the opposite order."""
        assert turns[machine.name].wait(10)
        before = turns.get(f"h{int(machine.name[1:]) - 1}")
        if before is not None:
            before.set()
        return machine.name.upper()

    came: list[str] = []
    answers = fan_out(fakes(5), work, on_done=lambda answer: came.append(answer.host))
    assert came == ["h4", "h3", "h2", "h1", "h0"]
    assert [(answer.host, answer.value, answer.why) for answer in answers] == [
        (f"h{number}", f"H{number}", "") for number in range(5)
    ]


def test_failures_are_told_apart_and_lose_nothing() -> None:
    problems: dict[str, Exception] = {
        "h0": ConnectFailed("no route", "unreachable"), "h1": ConnectFailed("closed", "refused"),
        "h2": ConnectFailed("changed", "host key"), "h3": ConnectFailed("no key", "auth"),
        "h4": ConnectFailed("silent", "timed out"), "h5": ConnectFailed("cut", "broken"),
        "h6": PreconditionFailed("no such program"), "h7": KeyError("odd"),
    }  # fmt: skip

    def work(machine: Machine) -> int:
        if machine.name in problems:
            raises(problems[machine.name])
        return 1

    answers = fan_out(fakes(9), work)
    assert [answer.why for answer in answers] == [
        "unreachable", "refused", "host key", "auth", "timed out", "broken", "failed", "failed", "",
    ]  # fmt: skip
    assert [answer.problem for answer in answers][5:] == ["cut", "no such program", "KeyError: 'odd'", ""]
    assert answers[8].value == 1


def test_what_hangs_is_given_up_and_its_place_goes_to_the_next(release: threading.Event) -> None:
    def work(machine: Machine) -> str:
        if machine.name in ("h0", "h1"):
            release.wait(60)
        return "done"

    answers = fan_out(fakes(6), work, parallel=2, timeout=0.5)
    assert [answer.why for answer in answers] == ["timed out", "timed out", "", "", "", ""]
    assert "no answer within 0." in answers[0].problem
    assert answers[0].value is None


def test_an_answer_that_comes_too_late_is_not_taken() -> None:
    late = threading.Event()

    def work(machine: Machine) -> str:
        if machine.name == "h0":
            assert late.wait(60)
            return "late"
        (given_up,) = (thread for thread in threading.enumerate() if thread.name == "host-h0")
        late.set()
        given_up.join(60)
        return "done"

    answers = fan_out(fakes(2), work, parallel=1, timeout=0.8)
    assert [(answer.why, answer.value) for answer in answers] == [("timed out", None), ("", "done")]


def test_when_the_time_for_all_is_over_it_ends(release: threading.Event) -> None:
    def work(machine: Machine) -> str:
        if machine.name != "h0":
            release.wait(60)
        return "done"

    answers = fan_out(fakes(5), work, parallel=2, timeout=60, deadline=0.8)
    assert [answer.why for answer in answers] == ["", "timed out", "timed out", "not asked", "not asked"]
    assert answers[4].problem == "the time for all was over"


@pytest.mark.parametrize(("allowed", "asked"), [(0, 2), (1, 3), (-1, 6)])
def test_after_too_many_failures_nobody_else_is_asked(allowed: int, asked: int) -> None:
    def work(machine: Machine) -> str:
        if machine.name != "h0":
            raise ConnectFailed("closed", "refused")
        return "done"

    answers = fan_out(fakes(6), work, parallel=1, errors_allowed=allowed)
    assert [answer.why for answer in answers] == ["", *["refused"] * (asked - 1), *["not asked"] * (6 - asked)]
    if asked < 6:
        assert answers[-1].problem == f"{allowed + 1} hosts had failed before its turn"


@given(
    count=st.integers(0, 12), parallel=st.integers(1, 5), bad=st.sets(st.integers(0, 11)), allowed=st.integers(-1, 4)
)
def test_everybody_has_one_answer_and_no_more_are_busy_than_allowed(
    count: int, parallel: int, bad: set[int], allowed: int
) -> None:
    lock, busy, most = threading.Lock(), 0, 0

    def work(machine: Machine) -> str:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        try:
            if int(machine.name[1:]) in bad:
                raise ConnectFailed("closed", "refused")
            return machine.name
        finally:
            with lock:
                busy -= 1

    told: list[Answer[str]] = []
    answers = fan_out(fakes(count), work, parallel=parallel, errors_allowed=allowed, on_done=told.append)
    assert [answer.host for answer in answers] == [f"h{number}" for number in range(count)]
    assert sorted(answer.host for answer in told) == sorted(answer.host for answer in answers)
    assert most <= parallel
    for number, answer in enumerate(answers):
        assert (answer.value == answer.host) == (answer.why == "")
        assert answer.why in (("refused", "not asked") if number in bad else ("", "not asked"))
    refused = sum(answer.why == "refused" for answer in answers)
    if allowed < 0 or refused <= allowed:
        assert all(answer.why != "not asked" for answer in answers)
    elif parallel == 1:
        assert refused == allowed + 1


def test_who_is_still_out_is_told_while_nothing_happens(release: threading.Event) -> None:
    seen: list[tuple[str, ...]] = []

    def watch(out: tuple[str, ...]) -> None:
        seen.append(out)
        if out == ("h1",) and seen.count(out) == 2:  # once when h0 answered, once a moment later
            release.set()

    def work(machine: Machine) -> None:
        if machine.name == "h1":
            assert release.wait(30)

    fan_out(fakes(2), work, on_wait=watch)
    assert seen == [("h1",), ("h1",), ()]


def test_the_process_can_end_though_a_host_hangs() -> None:
    script = (
        "import threading\n"
        "from credscale.core.machines import LocalMachine\n"
        "from credscale.core.machines.fanout import fan_out\n"
        "print(fan_out([LocalMachine()], lambda _: threading.Event().wait(), timeout=0.1)[0].why)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "timed out\n"


class Closed(Fake):
    """A machine that cannot be reached."""

    def run(self, *_: Any, **__: Any) -> Completed:
        raise ConnectFailed("its port is closed", "refused")


class FakeClients(Clients):
    """Clients whose machines are all this one; those called bad cannot be reached."""

    def machine(self, name: str) -> Machine:
        made = Closed(name) if name.startswith("bad") else Fake(name or "this machine")
        return self._machines.setdefault(name, made)


def context(folder: Path, *, dry_run: bool = False) -> Context:
    environment, secrets = Environment.model_validate({"name": "test"}), Secrets()
    journal = Journal(folder / "journal.jsonl", secrets.mask)
    return Context(environment, journal, FakeClients(environment, secrets), secrets, dry_run=dry_run)


def events(ctx: Context, kind: str) -> list[dict[str, Any]]:
    assert ctx.journal.path is not None
    return [event for event in read_journal(ctx.journal.path) if event["event"] == kind]


@probe()
def ask_three(ctx: Context, *, parallel: int = 3, timeout: float = 10.0, errors_allowed: int = -1) -> Finding:
    """Ask three hosts."""

    def work(machine: Machine) -> str:
        if machine.name == "b":
            raise ConnectFailed("its port is closed", "refused")
        return machine.name

    answers = ask_hosts(ctx, ["a", "b", "c"], work, parallel=parallel, timeout=timeout, errors_allowed=errors_allowed)
    return Finding("asked", {"answers": [answer.value for answer in answers]})


def test_the_journal_tells_how_far_it_is_and_who_failed(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    assert ask_three(ctx).output == {"answers": ["a", None, "c"]}
    assert [event["text"] for event in events(ctx, "note")] == ["b: refused: its port is closed"]
    last = events(ctx, "progress")[-1]
    assert (last["done"], last["total"], last["unit"]) == (3, 3, "hosts")
    ctx.journal.close()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"parallel": 0}, "parallel must be from 1 to 500, not 0"),
        ({"timeout": 0.0}, "timeout must be above 0"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"errors_allowed": -2}, "errors_allowed must be 0 or more, or -1 for no limit"),
    ],
)
def test_odd_parameters(params: dict[str, Any], message: str, tmp_path: Path) -> None:
    ctx = context(tmp_path)
    with pytest.raises(StepFailed, match=message) as caught:
        ask_three(ctx, **params)
    assert isinstance(caught.value.__cause__, EnvironmentInvalid)
    ctx.journal.close()


def test_ctrl_c_says_who_had_answered(tmp_path: Path, release: threading.Event) -> None:
    ctx = context(tmp_path)
    asked = threading.Event()

    def work(machine: Machine) -> str:
        if machine.name == "slow":
            asked.set()
            release.wait(60)
        return "done"

    def interrupt(out: tuple[str, ...]) -> None:
        if out == ("slow",):
            assert asked.wait(30)
            raise KeyboardInterrupt

    ctx.progress = lambda *_, **extra: interrupt(tuple(extra["left"].split()[2:]))  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ask_hosts(ctx, ["quick", "slow"], work)
    assert events(ctx, "note")[-1]["text"] == "interrupted when 1 of 2 hosts had answered: quick"
    ctx.journal.close()


FOLDER: list[Path] = []


def write_file(machine: Machine) -> bytes | None:
    path = str(FOLDER[-1] / machine.name)
    if machine.name.startswith("odd"):
        raise PreconditionFailed("it is of another kind")
    if machine.name.startswith("cut"):
        raise ConnectFailed("the connection ended", "broken")
    machine.write(path, b"on", mode=0o600)
    return machine.read(path)


@step()
def write_files(ctx: Context, *, names: str, errors_allowed: int = 0, parallel: int = 1) -> Finding:
    """Write a file on each host."""
    missing = [name for name in names.split(",") if name and not (FOLDER[-1] / name).exists()]
    answers = change_hosts(ctx, "write the file", missing, write_file, parallel=parallel, errors_allowed=errors_allowed)
    return Finding(f"{len(answers)} written", {"written": [answer.host for answer in answers]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the fake machines have their files."""
    FOLDER.append(tmp_path / "files")
    FOLDER[-1].mkdir()
    return FOLDER[-1]


def test_a_change_of_several_hosts_is_one_change_that_names_them(tmp_path: Path, folder: Path) -> None:
    ctx = context(tmp_path)
    result = write_files(ctx, names="a,b,c")
    assert (result.status, result.changes) == (Status.CHANGED, ["write the file on a, b, c"])
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]
    again = write_files(ctx, names="a,b,c")
    assert (again.status, again.changes) == (Status.OK, [])
    ctx.journal.close()


def test_a_plan_touches_no_host(tmp_path: Path, folder: Path) -> None:
    ctx = context(tmp_path, dry_run=True)
    result = write_files(ctx, names="a,b")
    assert (result.status, result.changes) == (Status.PLANNED, ["write the file on a, b"])
    assert list(folder.iterdir()) == []
    ctx.journal.close()


def test_a_change_that_did_not_reach_all_says_which(tmp_path: Path, folder: Path) -> None:
    ctx = context(tmp_path)
    with pytest.raises(StepFailed, match="changed on a; not changed on bad, odd, z; not known of cut") as caught:
        write_files(ctx, names="a,cut,bad,odd,z", errors_allowed=2)
    result = caught.value.result
    assert isinstance(caught.value.__cause__, VerificationFailed)
    assert [(row["host"], row["severity"], row["outcome"]) for row in result.output["rows"]] == [
        ("a", "ok", "done"), ("cut", "stop", "broken"), ("bad", "stop", "refused"), ("odd", "stop", "failed"),
        ("z", "stop", "not asked"),
    ]  # fmt: skip
    assert result.changes == ["write the file on a, cut, bad, odd, z"]
    assert [path.name for path in folder.iterdir()] == ["a"]
    ctx.journal.close()


def test_a_change_that_reached_nobody_is_none(tmp_path: Path, folder: Path) -> None:
    ctx = context(tmp_path)
    with pytest.raises(StepFailed, match="none was changed: bad: refused: its port is closed") as caught:
        write_files(ctx, names="bad,a")
    assert caught.value.result.changes == []
    assert list(folder.iterdir()) == []
    assert events(ctx, "change_finished")[0]["status"] == "failed"
    ctx.journal.close()


def test_a_host_that_is_reached_too_late_is_left_alone(tmp_path: Path, folder: Path) -> None:
    """Its time was over, the report says so, and then the change must not still be made."""
    ctx = context(tmp_path)
    reached = threading.Event()

    class Slow(Fake):
        def run(self, *args: Any, **params: Any) -> Completed:
            assert reached.wait(60)
            return super().run(*args, **params)

    ctx.clients._machines["slow"] = Slow("slow")

    @step()
    def change(ctx: Context) -> Finding:
        """Change two hosts."""
        change_hosts(ctx, "write the file", ["a", "slow"], write_file, timeout=2.0)
        return Finding("")

    with pytest.raises(StepFailed, match="changed on a; not changed on none; not known of slow"):
        change(ctx)
    (given_up,) = (thread for thread in threading.enumerate() if thread.name == "host-slow")
    reached.set()
    given_up.join(60)
    assert [path.name for path in folder.iterdir()] == ["a"]
    ctx.journal.close()


def test_ctrl_c_in_a_change_leaves_in_the_journal_where_it_is_made(
    tmp_path: Path, folder: Path, release: threading.Event
) -> None:
    ctx = context(tmp_path)
    began = threading.Event()

    def work(machine: Machine) -> bytes | None:
        if machine.name == "slow":
            began.set()
            release.wait(60)
        return write_file(machine)

    def interrupt(done: float, *_: object, **__: object) -> None:
        if done == 1:
            assert began.wait(30)
            raise KeyboardInterrupt

    ctx.progress = interrupt  # type: ignore[assignment]

    @step()
    def change(ctx: Context) -> Finding:
        """Change two hosts."""
        change_hosts(ctx, "write the file", ["a", "slow"], work)
        return Finding("")

    with pytest.raises(KeyboardInterrupt):
        change(ctx)
    (finished,) = events(ctx, "change_finished")
    assert finished["status"] == "failed"
    assert "done on a; not known or not done on the others of 2" in finished["error"]
    ctx.journal.close()
