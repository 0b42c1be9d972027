"""A look at several targets: what fails in one neither hides the others nor is forgotten in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale import Context, Finding, probe, runbook, step
from credscale.core.errors import EnvironmentInvalid, RunFailed, StepFailed, VerificationFailed
from credscale.core.journal import Journal, read_journal
from credscale.core.step import Status
from credscale.evidence import manifest
from credscale.frontends.run import Flags, run
from credscale.frontends.session import JOURNAL

if TYPE_CHECKING:
    from credscale.core.environment import Environment

ROOT = Path(__file__).parents[2]
LOOKS: list[str] = []


@probe()
def fits(ctx: Context, *, name: str, value: int) -> Finding:
    """The value fits."""
    LOOKS.append(name)
    rows = [{"target": name, "value": value}]
    if value == 99:
        raise EnvironmentInvalid(f"{name} takes no 99")
    if value > 10:
        raise VerificationFailed(f"{name} is {value}", {"rows": rows})
    return Finding(f"{name} fits", {"rows": rows})


@runbook(reads_only=True, keep_going=True)
def look(ctx: Context, *, first: int = 1, second: int = 1) -> None:
    """Look at both."""
    fits(ctx, name="alpha", value=first)
    fits(ctx, name="beta", value=second)


@runbook(reads_only=True)
def look_once(ctx: Context) -> None:
    """Look at both until one fails."""
    fits(ctx, name="alpha", value=50)
    fits(ctx, name="beta", value=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    LOOKS.clear()
    (tmp_path / "env.yaml").write_text("name: test\n")
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], **params: str) -> tuple[int, dict[str, Any], str]:
    code = run(look, Flags(env="env.yaml", json=True, params=params))
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def last(artifacts: str) -> dict[str, Any]:
    return list(read_journal(Path(artifacts) / JOURNAL))[-1]


def test_all_well_is_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = asked(capsys)
    assert (code, answer["status"], LOOKS) == (0, "ok", ["alpha", "beta"])


def test_the_first_one_failing_does_not_hide_the_second(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = asked(capsys, first="50")
    assert (code, answer["status"], LOOKS) == (1, "failed", ["alpha", "beta"])
    assert last(answer["artifacts"])["text"] == "fits failed: alpha is 50"
    assert "beta" in text
    assert manifest.verify(Path(answer["artifacts"])).ok


def test_the_reasons_of_both_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, text = asked(capsys, first="50", second="60")
    assert code == 1
    assert last(answer["artifacts"])["text"] == "fits failed: alpha is 50; fits failed: beta is 60"
    assert "fits failed: alpha is 50; fits failed: beta is 60" in text


def test_a_bad_parameter_is_still_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = asked(capsys, first="99")
    assert (code, answer["status"]) == (2, "invalid")


def test_other_runbooks_stop_at_the_first_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(look_once, Flags(env="env.yaml")) == 1
    assert LOOKS == ["alpha"]


def test_as_a_function_it_raises_after_everything(environment: Environment, context: Context) -> None:
    with pytest.raises(RunFailed, match="alpha is 50; fits failed: beta is 60") as caught:
        look(context, first=50, second=60)
    assert isinstance(caught.value.__cause__, StepFailed)
    assert isinstance(caught.value.__cause__.__cause__, VerificationFailed)
    assert [result.status for result in context.results] == [Status.FAILED, Status.FAILED]


def test_what_changes_something_cannot_keep_going() -> None:
    @step()
    def change(ctx: Context) -> Finding:
        """Change something."""
        return Finding("done")

    with pytest.raises(TypeError, match="stops at the first failure"):

        @runbook(keep_going=True)
        def careless(ctx: Context) -> None:
            """Change on."""
            change(ctx)


@pytest.fixture
def environment(folder: Path) -> Environment:
    from credscale.core.environment import load

    return load("env.yaml")


@pytest.fixture
def context(environment: Environment) -> Context:
    from credscale.core.clients import Clients
    from credscale.core.secrets import Secrets

    secrets = Secrets()
    return Context(environment, Journal(None), Clients(environment, secrets), secrets, reads_only=True)


KERNEL = """
import sys
from pathlib import Path
from credscale.core.environment import load
from credscale.frontends import notebook
from credscale.frontends.session import Request
from runbooks.cluster_status import cluster_status
path = notebook.path_of(cluster_status)
path.parent.mkdir()
path.write_text(notebook.build(cluster_status))
notebook.run_notebook(Request(cluster_status, load("env.yaml"), {"verbose": False}, "", Path("run")), print)
"""


@pytest.mark.scenario
def test_in_a_notebook_every_cell_runs_and_the_last_one_tells(folder: Path) -> None:
    """Nobody listens on port 1 to 3: both technologies are down."""
    nodes = [f"127.0.0.1:{port}" for port in (1, 2, 3)]
    (folder / "env.yaml").write_text(
        f"name: down\nmongo: {{uri: 'mongodb://127.0.0.1:1/'}}\nredis: {{nodes: {json.dumps(nodes)}}}\n"
    )
    (folder / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = list(read_journal(folder / "run" / JOURNAL))
    ended = {event["step"]: event["status"] for event in events if event["event"] == "step_finished"}
    assert ended == {"cluster_status": "failed", "redis_status": "failed"}
    assert events[0]["target"].startswith("not reached: no mongos answered within 3 s")
    assert events[-1]["status"] == "failed"
    assert "no mongos answered" in events[-1]["text"]
    assert "redis_status failed: the Redis Cluster is not healthy" in events[-1]["text"]
    shown = json.loads((folder / "run" / "output.ipynb").read_text())["cells"]
    assert "RunFailed" in json.dumps(shown[-1]["outputs"])
