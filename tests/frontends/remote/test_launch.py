"""``--on HOST``: what is checked here, what the host is sent, what is said and remembered of a failure."""

from __future__ import annotations

import getpass
import json
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from credscale import Context, Finding, step
from credscale.core.errors import ConnectFailed, PreconditionFailed, UnknownTarget
from credscale.core.runbook import Runbook
from credscale.frontends import notebook
from credscale.frontends.front import Terminal
from credscale.frontends.remote import following, launch, package, preparing
from credscale.frontends.remote.launch import run_on
from credscale.frontends.remote.records import FOLDER, away
from credscale.frontends.run import Flags
from tests.frontends.remote.fake_host import FakeHost, ended, evidence, put_in_place, quiet_terminal, shown

if TYPE_CHECKING:
    from credscale.frontends.run import Outcome
    from tests.frontends.remote.fake_host import FakeClients

RUN_ID = re.compile(r"^\d{8}T\d{6}Z-[0-9a-f]{6}$")
SECRET, OTHER_SECRET = "hunter2hunter2", "correct-horse-battery"
INVENTORY = {
    "name": "prod",
    "policy": {"confirm": "none", "require_ticket": True},
    "mongo": {"uri": "env:CREDSCALE_TEST_URI"},
    "redis": {"nodes": ["h:1"], "password": "env:CREDSCALE_TEST_PASSWORD"},
    "hosts": {"bastion": {"address": "10.0.0.1", "sudo": "env:CREDSCALE_NOBODY_HAS"}, "spare": {"address": "10.0.0.2"}},
}  # fmt: skip
LOOK = {
    "python": "3.12.4", "implementation": "cpython", "platform": "linux-x86_64", "libc": ["glibc", "2.36"],
    "packages": True, "version": True, "free": 0, "has": ["env:CREDSCALE_TEST_URI"],
}  # fmt: skip
BROKEN = ConnectFailed("the connection ended", why="broken")


@step()
def move_value(ctx: Context, *, value: int, target: str) -> Finding:
    """Move a value."""
    ctx.apply("move it", print, value, target)
    return Finding("moved")


def move(ctx: Context, *, value: int = 1, target: str = "") -> None:
    """Move a value."""
    move_value(ctx, value=value, target=target)


def made(**more: Any) -> Runbook:
    """Return the runbook; it runs nowhere, because a host is only sent its name."""
    return Runbook(move, (), **({"has_notebook": False} | more))


class Sending:
    """Sends the runbook to hosts, with what is shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bastion = FakeHost(
            look=[LOOK], launch=[{"done": "started"}], follow=[shown(ended(evidence=False, changes=0))]
        )
        self.spare = FakeHost("spare")
        self.clients: FakeClients = put_in_place(monkeypatch, launch, self.bastion, self.spare)
        self.front, self._out = quiet_terminal()

    def __call__(self, runbook: Runbook | None = None, **flags: Any) -> Outcome:
        given = {"env": "prod.yaml", "on": "bastion", "ticket": "CHG-1"} | flags
        return run_on(runbook if runbook is not None else made(), Flags(**given), self.front)

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def order(self) -> dict[str, Any]:
        """What the host was sent, last."""
        order: dict[str, Any] = json.loads([each for each in self.bastion.asked if each.verb == "launch"][-1].stdin)
        return order

    @property
    def run(self) -> str:
        return next(each.arguments[0] for each in self.bastion.asked if each.verb == "launch")


def inventory(**changed: Any) -> None:
    Path("prod.yaml").write_text(yaml.safe_dump(INVENTORY | changed))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an environment and two of its three secrets, and never pause."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDSCALE_ARTIFACTS", raising=False)
    monkeypatch.setenv("CREDSCALE_TEST_PASSWORD", SECRET)
    monkeypatch.setenv("CREDSCALE_TEST_URI", f"mongodb://ada:{OTHER_SECRET}@h")
    monkeypatch.setenv("CREDSCALE_COMMIT", "abc123 True")
    monkeypatch.setattr(preparing, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(following, "PAUSES", (0.0,))
    monkeypatch.setattr(package, "version", lambda: "v1")
    monkeypatch.setattr(package, "requirements", lambda *_: ("a==1",))
    inventory()


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Sending:
    return Sending(monkeypatch)


def untouched(sending: Sending, outcome: Outcome, code: int, status: str, text: str) -> None:
    """Make sure that a command ended before any host, and says so."""
    assert (outcome.code, outcome.status, outcome.changes) == (code, status, 0)
    assert (outcome.run, outcome.folder) == (None, None)
    assert text in outcome.problem
    assert f"✗ move: {outcome.problem}\nChanged so far: nothing\nNext: " in sending.out
    assert sending.clients.opened == 0
    assert sending.bastion.asked == sending.spare.asked == []
    assert away() == []
    assert not [path for path in Path("artifacts").rglob("*") if RUN_ID.match(path.name)]


@pytest.mark.parametrize(
    ("flags", "code", "status", "text"),
    [
        ({"on": "bastoin"}, 2, "invalid", "prod.yaml. Nothing was changed. It has: bastion, spare"),
        ({"watch": 5.0}, 2, "invalid", "--watch looks from here; log in to bastion to look from there"),
        ({"env": "prdo.yaml"}, 2, "invalid", "no environment 'prdo.yaml'"),
        ({"params": {"value": "many"}}, 2, "invalid", "parameter value must be"),
        ({"ticket": ""}, 3, "refused", "prod requires a change ticket"),
    ],
)
def test_a_mistake_is_found_before_any_host(
    sending: Sending, flags: dict[str, Any], code: int, status: str, text: str
) -> None:
    untouched(sending, sending(**flags), code, status, text)


def test_outside_the_maintenance_window(sending: Sending) -> None:
    day = (datetime.now(UTC) + timedelta(days=3)).strftime("%a").lower()
    inventory(policy={"maintenance_window": {"days": [day], "start": "09:00", "stop": "10:00"}})
    untouched(sending, sending(), 3, "refused", f"prod may be changed only {day} 09:00-10:00 UTC")


@pytest.mark.parametrize("more", [{"dry_run": True}, {"runbook": made(reads_only=True)}])
def test_what_changes_nothing_needs_no_ticket(sending: Sending, more: dict[str, Any]) -> None:
    assert sending(ticket="", **more).code == 0
    assert sending.bastion.verbs() == ["look", "look", "launch", "follow"]


def test_a_parameter_with_a_password_does_not_reach_a_disk(sending: Sending) -> None:
    outcome = sending(params={"target": f"mongodb://ada:{OTHER_SECRET}@h"})
    untouched(sending, outcome, 2, "invalid", "parameter target has a password in it, which would lie on bastion's")
    assert OTHER_SECRET not in outcome.problem


def test_a_parameter_with_a_password_is_not_shown(sending: Sending) -> None:
    sending(params={"target": f"mongodb://ada:{OTHER_SECRET}@h"})
    assert OTHER_SECRET not in sending.out


def test_a_stale_notebook_is_not_sent(sending: Sending) -> None:
    path = notebook.path_of(made())
    outcome = sending(made(has_notebook=True))
    untouched(sending, outcome, 3, "refused", f"{path} does not match")
    path.parent.mkdir()
    path.write_text(notebook.build(made()))
    assert sending(made(has_notebook=True)).code == 0


def test_evidence_that_could_not_be_kept_here(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("CREDSCALE_ARTIFACTS", "file/artifacts")
    untouched(sending, sending(), 3, "refused", "the artifact folder file/artifacts/prod/move")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (PreconditionFailed("bastion has no Python 3.11 or newer"), "failed", "bastion has no Python 3.11 or newer"),
        (ConnectFailed("10.0.0.1 does not let ops in", why="auth"), "failed", "10.0.0.1 does not let ops in"),
        (BROKEN, "failed", "the connection ended"),
        (KeyboardInterrupt(), "interrupted", "interrupted by the operator"),
    ],
)
def test_a_host_that_cannot_be_prepared(sending: Sending, error: BaseException, status: str, text: str) -> None:
    sending.bastion.answers["look"] = [error]
    outcome = sending()
    assert (outcome.code, outcome.status, outcome.changes, outcome.run) == (1, status, 0, None)
    assert outcome.problem == text
    assert f"✗ move: {text}\nChanged so far: nothing\n" in sending.out
    assert sending.bastion.verbs() == ["look"]
    assert sending.clients.closed == 1
    assert away() == []


def test_a_run_that_could_not_be_remembered_is_not_started(sending: Sending) -> None:
    Path(".credscale").touch()
    outcome = sending()
    assert (outcome.code, outcome.status, outcome.changes) == (1, "failed", 0)
    assert "Changed so far: nothing" in sending.out
    assert "launch" not in sending.bastion.verbs()


def test_a_launch_that_the_host_refused(sending: Sending) -> None:
    sending.bastion.answers["launch"] = [PreconditionFailed("bastion: launch failed: No space left on device")]
    sending.bastion.answers["evidence"] = [UnknownTarget("there is no run")]
    outcome = sending()
    assert (outcome.code, outcome.status, outcome.changes, outcome.run) == (1, "failed", 0, None)
    assert "✗ move: bastion: launch failed: No space left on device\nChanged so far: nothing\n" in sending.out
    assert away() == []
    assert "follow" not in sending.bastion.verbs()


@pytest.mark.parametrize("asked", [{"files": {}}, PreconditionFailed("killed"), ConnectFailed("cut", why="host key")])
def test_a_launch_that_failed_with_the_run_there_may_go_on(sending: Sending, asked: Any) -> None:
    sending.bastion.answers["launch"] = [PreconditionFailed("bastion: launch failed: something ended it")]
    sending.bastion.answers["evidence"] = [asked]
    outcome = sending()
    assert (outcome.code, outcome.status, outcome.changes) == (1, "detached", None)
    assert "The run may go on there" in sending.out
    assert [each.run for each in away()] == [outcome.run]


@pytest.mark.parametrize(
    ("error", "said", "times"),
    [
        (BROKEN, "the connection ended", 3),
        (ConnectFailed("a new key", why="host key"), "a new key", 1),
        (KeyboardInterrupt(), "interrupted by the operator", 1),
    ],
)
def test_a_launch_nobody_saw_the_end_of(sending: Sending, error: BaseException, said: str, times: int) -> None:
    sending.bastion.answers["launch"] = [error]
    outcome = sending()
    run = sending.run
    assert RUN_ID.match(run)
    assert (outcome.code, outcome.status, outcome.changes, outcome.run) == (1, "detached", None, run)
    assert outcome.problem == said
    told = f"✗ bastion was lost: {said}\nThe run may go on there. Watch it again: invoke report.attach {run}\n"
    assert told in sending.out
    assert "Changed so far" not in sending.out
    assert [(each.run, each.on) for each in away()] == [(run, "bastion")]
    assert sending.bastion.verbs().count("launch") == times
    assert {each.arguments for each in sending.bastion.asked if each.verb == "launch"} == {(run,)}


def test_a_launch_is_repeated_where_the_connection_broke(sending: Sending) -> None:
    sending.bastion.answers["launch"] = [BROKEN, {"done": "it was started before"}]
    assert sending().code == 0
    first, second = (each for each in sending.bastion.asked if each.verb == "launch")
    assert first == second


def test_a_launch_that_is_refused_after_the_connection_broke(sending: Sending) -> None:
    sending.bastion.answers["launch"] = [BROKEN, PreconditionFailed("somebody else has held runs for 60 s")]
    outcome = sending()
    assert (outcome.status, outcome.changes) == ("detached", None)
    assert [each.run for each in away()] == [sending.run]


def test_a_run_from_its_start_to_its_evidence(
    sending: Sending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, signer = evidence(tmp_path / "there", monkeypatch)
    sending.bastion.files = files
    sending.bastion.answers["follow"] = [shown({"said": "moved\n"}, ended(signer=signer))]
    outcome = sending()
    folder = Path("artifacts/prod/move") / sending.run
    assert (outcome.code, outcome.status, outcome.changes, outcome.run) == (0, "ok", 2, sending.run)
    assert (outcome.folder, outcome.signer) == (folder, signer)
    assert {path.name for path in folder.iterdir()} == set(files)
    assert list(folder.parent.iterdir()) == [folder]
    assert f"bastion: run {sending.run} goes on without this terminal\nmoved\n" in sending.out
    assert sending.bastion.section is not None
    assert sending.bastion.section.address == "10.0.0.1"
    assert sending.clients.closed == 1
    assert away() == []
    assert sending.spare.asked == []


def test_evidence_with_a_secret_of_the_environment_stays_there(
    sending: Sending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, signer = evidence(tmp_path / "there", monkeypatch, text=f"password {SECRET}")
    sending.bastion.files = files
    sending.bastion.answers["follow"] = [shown(ended(signer=signer))]
    assert sending().code == 1
    assert "a secret stands in journal.jsonl" in sending.out
    assert not list(Path("artifacts").rglob("journal.jsonl"))


def test_what_the_host_is_sent(sending: Sending) -> None:
    sending(yes=True, params={"value": 7, "target": "a.b"})
    assert sending.order == {
        "runbook": "move", "environment": "prod", "file": "prod.yaml", "inventory": Path("prod.yaml").read_text(),
        "version": "v1", "packages": package.name_of(("a==1",), LOOK),
        "flags": {
            "env": "prod.yaml", "on": "bastion", "dry_run": False, "yes": True, "ticket": "CHG-1", "in_process": False,
            "params": {"value": 7, "target": "a.b"},
        },
        "width": 200, "answers": False, "requested_by": f"{getpass.getuser()}@{socket.gethostname()}",
        "commit": "abc123 True", "artifacts": f"artifacts/prod/move/{sending.run}",
        "secrets": {"env:CREDSCALE_TEST_PASSWORD": SECRET},  # not what it has, nor what nobody has
    }  # fmt: skip


def test_flags_reach_the_host(sending: Sending) -> None:
    sending(dry_run=True, in_process=True, ticket="")
    flags = sending.order["flags"]
    assert (flags["dry_run"], flags["in_process"], flags["yes"], flags["ticket"]) == (True, True, False, "")
    assert Flags(**flags).on == "bastion"  # the worker makes them again


def test_evidence_lies_there_where_the_host_keeps_it(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder here is this machine's business alone."""
    monkeypatch.setenv("CREDSCALE_ARTIFACTS", "elsewhere")
    sending()
    assert sending.order["artifacts"] == f"artifacts/prod/move/{sending.run}"


def test_references_are_asked_for_and_a_host_that_has_all_is_sent_none(sending: Sending) -> None:
    references = ["env:CREDSCALE_NOBODY_HAS", "env:CREDSCALE_TEST_PASSWORD", "env:CREDSCALE_TEST_URI"]
    sending.bastion.answers["look"] = [LOOK | {"has": references}]
    sending()
    assert list(sending.bastion.asked[0].arguments[2:]) == references
    assert sending.order["secrets"] == {}


def test_a_lab_has_secrets_of_its_own(sending: Sending) -> None:
    inventory(lab={})
    sending()
    assert sending.order["secrets"] == {}


def test_a_terminal_where_somebody_answers(sending: Sending) -> None:
    sending.front = Terminal(sending.front.console, input)
    sending()
    assert sending.order["answers"] is True


def test_what_is_remembered_has_no_secret_and_is_nobody_elses(sending: Sending) -> None:
    sending.bastion.answers["follow"] = [shown(KeyboardInterrupt())]
    outcome = sending(yes=True, params={"value": 7})
    assert outcome.status == "detached"
    (path,) = FOLDER.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert SECRET not in text
    assert OTHER_SECRET not in text
    (record,) = away()
    assert (record.run, record.runbook, record.environment, record.env, record.on) == (
        sending.run, "move", "prod", "prod.yaml", "bastion",
    )  # fmt: skip
    assert record.flags == {
        "dry_run": False, "yes": True, "ticket": "CHG-1", "in_process": False, "params": {"value": 7},
    }  # fmt: skip


def test_it_is_remembered_before_it_is_started(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Looking(FakeHost):
        def call(self, verb: str, *arguments: str, **more: Any) -> dict[str, Any]:
            seen.extend(each.run for each in away() if verb == "launch")
            return super().call(verb, *arguments, **more)

    put_in_place(monkeypatch, launch, Looking("bastion", **sending.bastion.answers))
    sending()
    assert len(seen) == 1


def test_what_is_done_there_is_told(sending: Sending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text("wheel")
    monkeypatch.setattr(package, "pack_version", lambda _: tmp_path / "version")
    sending.bastion.answers |= {
        "look": [LOOK | {"version": False}], "receive": [{"done": "received"}],
        "install": [[{"doing": "unpacking [it]", "seconds": 2}]],
    }  # fmt: skip
    sending()
    assert "bastion: building this version's wheel\nbastion: unpacking [it] (2 s)\nbastion: run " in sending.out


def test_a_problem_shows_no_secret(sending: Sending) -> None:
    sending.bastion.answers["look"] = [PreconditionFailed(f"it said {SECRET}")]
    outcome = sending()
    assert outcome.problem == "it said ********"
    assert SECRET not in sending.out
