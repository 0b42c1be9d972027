"""From flags to exit code: what is answered, what is left on disk, what is said last."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from credscale import Context, Finding, runbook, step
from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, Refused
from credscale.core.runbook import Runbook
from credscale.evidence import manifest
from credscale.frontends.run import Flags, run

TARGET: dict[str, int] = {}


@step()
def set_value(ctx: Context, *, value: int) -> Finding:
    """Set a value."""
    if value > 100:
        raise EnvironmentInvalid(f"value {value} is not from 0 to 100")
    if value == 66:
        raise Refused("66 needs --accept-sixty-six")
    if TARGET.get("value") == value:
        return Finding(f"the value is {value} already")
    ctx.apply(f"set the value to {value}", TARGET.__setitem__, "value", value)
    return Finding(f"the value is {value}")


@step()
def finish_value(ctx: Context, *, ending: str) -> Finding:
    """End as told, unless this is only a plan."""
    if ctx.dry_run or ending == "ok":
        return Finding("fine")
    if ending == "interrupt":
        os.kill(os.getpid(), signal.SIGTERM)
    raise PreconditionFailed("the value is wrong; look at it, password hunter2hunter2")


@runbook()
def procedure(ctx: Context, *, value: int = 1, ending: str = "ok") -> None:
    """Set a value, then end as told."""
    set_value(ctx, value=value)
    finish_value(ctx, ending=ending)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the procedure as the command line would: exit code, JSON answer, terminal text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREDSCALE_TEST_PASSWORD", "hunter2hunter2")
    TARGET.clear()
    (tmp_path / "env.yaml").write_text(
        "name: test\npolicy: {confirm: none}\nredis: {nodes: ['h:1'], password: env:CREDSCALE_TEST_PASSWORD}\n"
    )
    made = Runbook(procedure.function, (), task="test.procedure", has_notebook=False)

    def ask(capsys: pytest.CaptureFixture[str], **flags: Any) -> tuple[int, dict[str, Any], str]:
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = run(made, Flags(**{"env": "env.yaml", "json": True} | flags))
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]), err

    return ask


def test_done_and_again(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = asked(capsys)
    assert (code, answer["status"], answer["changes"], TARGET) == (0, "ok", 1, {"value": 1})
    assert manifest.verify(Path(answer["artifacts"])).ok
    assert f"invoke report.verify {answer['artifacts']}" in text
    code, answer, text = asked(capsys)
    assert (code, answer["changes"]) == (0, 0)
    assert "nothing had to be changed" in text


def test_a_dry_run_changes_nothing(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = asked(capsys, dry_run=True)
    assert (code, answer["changes"], TARGET) == (0, 0, {})
    assert "set the value to 1" in text
    plan = json.loads((Path(answer["artifacts"]) / "plan.json").read_text())
    assert plan["changes"] == [{"step": "set_value", "change": "set the value to 1"}]


def test_a_failed_step_says_what_happened_what_was_changed_and_what_next(
    asked: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer, text = asked(capsys, params={"ending": "fail"}, ticket="CHG-1")
    assert (code, answer["status"], answer["changes"]) == (1, "failed", 1)
    assert "the value is wrong" in text
    assert "✎ set the value to 1" in text
    assert "Next:     invoke test.procedure --env env.yaml --ticket CHG-1 --ending fail --json" in text
    assert manifest.verify(Path(answer["artifacts"])).ok


def test_no_secret_is_left_anywhere(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, answer, _ = asked(capsys, params={"ending": "fail"})
    for path in Path(answer["artifacts"]).iterdir():
        assert b"hunter2hunter2" not in path.read_bytes(), path.name


def test_a_polite_kill_is_recorded_and_sealed(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = asked(capsys, params={"ending": "interrupt"})
    assert (code, answer["status"], answer["changes"]) == (1, "interrupted", 1)
    assert manifest.verify(Path(answer["artifacts"])).ok


@pytest.mark.parametrize(
    ("flags", "code", "status", "words"),
    [
        ({"env": ""}, 2, "invalid", "needs --env"),
        ({"env": "nowhere"}, 2, "invalid", "no environment 'nowhere'"),
        ({"params": {"value": "x"}}, 2, "invalid", "whole number"),
        ({"params": {"value": "500"}}, 2, "invalid", "not from 0 to 100"),
        ({"params": {"value": "66"}}, 3, "refused", "--accept-sixty-six"),
        ({"params": {"valeu": "5"}}, 2, "invalid", "no parameter 'valeu'"),
        ({"on": "bastion"}, 2, "invalid", "--on bastion: no such host"),
    ],
)
def test_nothing_is_changed_and_nothing_left_on_bad_input(
    asked: Any, capsys: pytest.CaptureFixture[str], flags: dict[str, Any], code: int, status: str, words: str
) -> None:
    found, answer, text = asked(capsys, **flags)
    assert (found, answer["status"], answer["artifacts"], answer["changes"]) == (code, status, None, 0)
    assert words in answer["error"]
    assert words in text
    assert "Changed so far: nothing" in text
    assert TARGET == {}
    assert not list(Path().glob("artifacts/*/*/*"))


def test_a_run_that_could_not_be_signed_is_not_started(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked(capsys)
    key = next(Path(os.environ["CREDSCALE_KEY_DIR"]).glob("*.pem"))
    key.chmod(0o644)
    code, answer, _ = asked(capsys, params={"value": "7"})
    assert (code, answer["artifacts"], TARGET) == (2, None, {"value": 1})
    assert "chmod 600" in answer["error"]


def test_a_question_that_nobody_can_answer_refuses(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("env.yaml").write_text("name: test\npolicy: {confirm: yes}\n")
    code, answer, _ = asked(capsys)
    assert (code, answer["status"], TARGET) == (3, "refused", {})
    code, answer, _ = asked(capsys, yes=True)
    assert (code, TARGET) == (0, {"value": 1})
