"""The commands: repeated --set, what is printed or written, exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from invoke import Collection, Exit
from invoke import Context as InvokeContext
from invoke.parser import Parser, ParserContext

from credscale.frontends.schedule import tasks

ROOT = Path(__file__).parents[3]
EXAMPLE = "runbooks/environments/prod.example.yaml"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_set_may_stand_several_times() -> None:
    parser = Parser(contexts=Collection(schedule=tasks.schedule).to_contexts(), initial=ParserContext())
    words = ["schedule.airflow", "--runbook", "shard-migrate", "--env", "prod", "--set", "a=1", "--set=b=-- {{ x }}"]
    parsed = parser.parse_argv(words)[-1]
    assert parsed.as_kwargs["set_"] == ["a=1", "b=-- {{ x }}"]


def test_a_dag_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"runbook": "shard-migrate", "env": EXAMPLE}
    tasks.airflow.body(InvokeContext(), **given)
    printed = capsys.readouterr().out
    compile(printed, "dag.py", "exec")
    assert f"PROJECT = {str(ROOT)!r}" in printed
    tasks.airflow.body(InvokeContext(), **given, out=str(tmp_path / "dags"))
    written = tmp_path / "dags/credscale_prod_shard_migrate.py"
    assert capsys.readouterr().out == f"wrote {written}\n"
    assert written.read_text() == printed
    with pytest.raises(Exit) as refused:
        tasks.airflow.body(InvokeContext(), **given, out=str(tmp_path / "dags"), ticket="CHG-2")
    assert refused.value.code == 3
    tasks.airflow.body(InvokeContext(), **given, out=str(tmp_path / "dags"), ticket="CHG-2", force=True)
    assert "CHG-2" in written.read_text()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"runbook": "nope", "env": EXAMPLE}, 2),
        ({"runbook": "shard-migrate", "env": "nope"}, 2),
        ({"runbook": "shard-migrate", "env": EXAMPLE, "set_": ["nope=1"]}, 2),
        ({"runbook": "shard-migrate", "env": EXAMPLE, "cron": "soon"}, 2),
        ({"runbook": "shard-migrate", "env": EXAMPLE, "cron": "@daily"}, 3),
    ],
)
def test_exit_codes(given: dict[str, Any], code: int) -> None:
    with pytest.raises(Exit) as ending:
        tasks.airflow.body(InvokeContext(), **given)
    assert ending.value.code == code


def test_a_job_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"runbook": "shard-migrate", "env": EXAMPLE, "image": "i:1", "claim": "c", "secret": "s"}
    tasks.kubernetes.body(InvokeContext(), **given, ticket="CHG-1")
    printed = capsys.readouterr().out
    tasks.kubernetes.body(InvokeContext(), **given, ticket="CHG-1", out=str(tmp_path / "job.yaml"))
    assert (tmp_path / "job.yaml").read_text() == printed
    with pytest.raises(Exit, match="requires a change ticket") as refused:
        tasks.kubernetes.body(InvokeContext(), **given)
    assert refused.value.code == 3
