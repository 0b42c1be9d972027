"""What is to be scheduled is checked before a file is written, and a file is never replaced by surprise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import EnvironmentInvalid, Refused, UnknownTarget
from credscale.frontends.schedule.asked import parse_settings, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from credscale.frontends.schedule.asked import Asked

GUARDED = "name: prod\npolicy: {confirm: type-name, require_ticket: true}\nmongo: {uri: 'mongodb://h:1'}\n"
TICKETED = "name: prod\npolicy: {confirm: none, require_ticket: true}\nmongo: {uri: 'mongodb://h:1'}\n"


def test_given_values_win_over_the_environments_and_those_over_the_defaults(ask: Callable[..., Asked]) -> None:
    found = ask(settings=["main-query=a,b", "read_sample=7"])
    assert found.given == {"main_query": "a,b", "read_sample": 7}
    assert (found.params["chunk_size_mb"], found.params["read_sample"], found.params["fullest_percent"]) == (32, 7, 80)
    assert ask(settings=["chunk_size_mb=16"]).params["chunk_size_mb"] == 16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["chunk_size=64"], "no parameter 'chunk_size'"),
        (["chunk_size_mb=many"], "must be a whole number"),
        (["stall_minutes=inf"], "must be a number, not 'inf'"),
        (["stall_minutes=nan"], "must be a number, not 'nan'"),
        (["chunk_size_mb"], "is not name=value"),
        (["=64"], "is not name=value"),
        (["chunk_size_mb=1", "chunk-size-mb=2"], "twice"),
        (["main_query=\udcff"], "not UTF-8"),
    ],
)
def test_a_wrong_parameter_is_an_error(ask: Callable[..., Asked], settings: list[str], words: str) -> None:
    with pytest.raises(EnvironmentInvalid, match=words):
        ask(settings=settings)


def test_a_value_may_hold_anything() -> None:
    assert parse_settings(["a==x\n=\"'{{ }}$(id)ü"]) == {"a": "=x\n=\"'{{ }}$(id)ü"}


def test_an_unknown_runbook_names_those_there_are(ask: Callable[..., Asked]) -> None:
    with pytest.raises(UnknownTarget, match="no runbook 'migrate'.*shard-migrate"):
        ask(runbook="migrate")


@pytest.mark.parametrize("cron", ["0 2 * * 6", "*/5 1,2 1-7 jan mon", "@weekly"])
def test_cron(ask: Callable[..., Asked], cron: str) -> None:
    assert ask(cron=cron).cron == cron


@pytest.mark.parametrize("cron", ["daily", "0 2 * *", "0 2 * * 6 7", "0 2 * * '", "@reboot\n", "{{ x }} 1 1 1 1"])
def test_no_cron(ask: Callable[..., Asked], cron: str) -> None:
    with pytest.raises(EnvironmentInvalid, match="five fields"):
        ask(cron=cron)


def test_a_schedule_can_neither_confirm_nor_bring_a_ticket(ask: Callable[..., Asked]) -> None:
    assert ask(GUARDED).confirms
    with pytest.raises(Refused, match=r"confirmed \(policy.confirm: type-name\), which a schedule cannot do"):
        ask(GUARDED, cron="@daily", ticket="CHG-1")
    with pytest.raises(Refused, match="requires a change ticket"):
        ask(TICKETED, cron="@daily")
    assert ask(TICKETED, cron="@daily", ticket="CHG-1").cron == "@daily"
    assert not ask(GUARDED, runbook="cluster-status", cron="@daily").confirms


def test_a_stale_notebook_is_refused(ask: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credscale.frontends.notebook.stale", lambda runbooks: [runbooks[0].name])
    with pytest.raises(Refused, match=r"notebooks/shard_migrate.ipynb does not match.*invoke notebooks.build"):
        ask()


def test_a_file_is_written_once_and_replaced_only_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "dags/a.py"
    assert write(path, "x = 'ü'\r\n", force=False) == f"wrote {path}"
    assert "already" in write(path, "x = 'ü'\r\n", force=False)
    with pytest.raises(Refused, match="is there and differs.*--force"):
        write(path, "y", force=False)
    assert path.read_bytes().decode() == "x = 'ü'\r\n"
    write(path, "y", force=True)
    assert [each.name for each in path.parent.iterdir()] == ["a.py"]
    assert path.read_text() == "y"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dag.py").mkdir()
    with pytest.raises(Refused, match="cannot be written: Is a directory"):
        write(tmp_path / "dag.py", "y", force=True)
    assert [each.name for each in tmp_path.iterdir()] == ["dag.py"], "nor is a draft left"
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot be written: File exists"):
        write(tmp_path / "file/a.py", "y", force=False)
