"""What only reads: runs at once, asks for nothing, leaves evidence, shows its tables, and can be watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from invoke import Exit

from credscale import Context, Finding, probe, runbook, step
from credscale.core.errors import EnvironmentInvalid, VerificationFailed
from credscale.core.lock import lock_file
from credscale.evidence import manifest
from credscale.frontends import cli, watch
from credscale.frontends.run import Flags, run

if TYPE_CHECKING:
    from credscale.core.runbook import Runbook

STATE: dict[str, Any] = {}


@probe()
def value_fits(ctx: Context, *, most: int) -> Finding:
    """The value is small enough."""
    if most < 0:
        raise EnvironmentInvalid(f"most is {most}, which nothing fits")
    STATE["looks"] = STATE.get("looks", 0) + 1
    if STATE["looks"] == STATE.get("interrupt_at"):
        raise KeyboardInterrupt
    rows = [{"shard": "s1", "severity": "ok", "bytes": 2048, "command": "only the report shows this"}]
    if STATE["value"] > most:
        raise VerificationFailed(f"the value is {STATE['value']}", {"rows": rows, "problems": [{"what": "too big"}]})
    return Finding("it fits", {"rows": rows})


@step()
def set_value(ctx: Context) -> Finding:
    """Set the value."""
    ctx.apply("set the value", STATE.__setitem__, "value", 7)
    return Finding("set")


@runbook(reads_only=True)
def look(ctx: Context, *, most: int = 10) -> None:
    """Look at the value."""
    value_fits(ctx, most=most)


@runbook(reads_only=True)
def cheat(ctx: Context) -> None:
    """Say that it reads, and change something."""
    set_value(ctx)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    STATE.clear()
    STATE["value"] = 5
    Path("env.yaml").write_text("name: test\npolicy: {confirm: type-name, require_ticket: true}\n")


def asked(capsys: pytest.CaptureFixture[str], what: Runbook = look, **flags: Any) -> tuple[int, dict[str, Any], str]:
    code = run(what, Flags(**{"env": "env.yaml", "json": True} | flags))
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def test_needs_neither_ticket_nor_confirmation_nor_lock(capsys: pytest.CaptureFixture[str]) -> None:
    held = lock_file(Path(".credscale/locks/test.lock"))
    try:
        code, answer, text = asked(capsys)
    finally:
        held.release()
    assert (code, answer["status"], answer["changes"], STATE["looks"]) == (0, "ok", 0, 1)
    assert manifest.verify(Path(answer["artifacts"])).ok
    assert json.loads((Path(answer["artifacts"]) / "plan.json").read_text())["changes"] == []
    assert "2.0 KB" in text
    assert "only the report shows this" not in text


def test_what_is_wrong_is_exit_1_with_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = asked(capsys, params={"most": "1"})
    assert (code, answer["status"]) == (1, "failed")
    assert "the value is 5" in text
    assert "too big" in text
    assert manifest.verify(Path(answer["artifacts"])).ok


def test_a_parameter_that_no_target_takes_is_exit_2_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = asked(capsys, params={"most": "-1"})
    assert (code, answer["status"], answer["artifacts"]) == (2, "invalid", None)
    assert not list(Path().glob("artifacts/*/*/*"))


def test_a_change_in_it_is_refused_by_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = asked(capsys, cheat)
    assert (code, answer["changes"], STATE["value"]) == (1, 0, 5)
    assert "changes something in a run that reads only" in text


def test_watching_repeats_until_it_is_stopped_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.time, "sleep", lambda _seconds: None)
    STATE["interrupt_at"] = 3
    assert run(look, Flags(env="env.yaml", watch=0.1)) == 0
    assert capsys.readouterr().out.count("it fits") == 2
    STATE["interrupt_at"] = STATE["looks"] + 2
    assert run(look, Flags(env="env.yaml", watch=0.1, params={"most": "1"})) == 1
    assert "the value is 5" in capsys.readouterr().out
    assert not list(Path().glob("artifacts/*"))


@pytest.mark.parametrize(("given", "seconds"), [(None, 0.0), (True, 2.0), ("0.5", 0.5)])
def test_seconds_between_two_looks(given: str | bool | None, seconds: float) -> None:
    assert cli._seconds(given) == seconds


@pytest.mark.parametrize("given", ["0", "-1", "soon", "1e9", "nan"])
def test_other_seconds_are_refused(given: str) -> None:
    with pytest.raises(Exit) as caught:
        cli._seconds(given)
    assert caught.value.code == 2
