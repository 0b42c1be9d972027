"""The DAG file, executed with stand-ins that take just the keywords which Airflow's own classes take."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credscale.core.errors import EnvironmentInvalid
from credscale.frontends.schedule import airflow

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.frontends.schedule.asked import Asked

RECORDED = json.loads((Path(__file__).parents[2] / "cases/schedule/airflow_signatures.json").read_text())
GUARDED = """\
name: prod
policy:
  confirm: type-name
  require_ticket: true
  maintenance_window: {timezone: Europe/Berlin, start: "02:00", stop: "06:00"}
mongo: {uri: "mongodb://h:1"}
"""
HOSTILE = "\"'\\\n\r\n{{ ds }}{% raw %}{# #}'''\"\"\"$(id)`id`\x00\u2028ü😀\n"


JSON_SCHEMA = {"type"}  # a Param takes what JSON Schema knows


class Recorder:
    """Takes the keywords of one class of Airflow."""

    keywords: tuple[str, ...] = ()
    made: list[Recorder]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unknown = set(kwargs) - set(self.keywords) - (JSON_SCHEMA if type(self).__name__ == "Param" else set())
        assert not unknown, f"{type(self).__name__} does not take {unknown}"
        self.args, self.values = args, kwargs
        self.below: list[Recorder] = []
        type(self).made.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __rshift__(self, other: Recorder) -> Recorder:
        self.below.append(other)
        return other


def modules_of(release: str, made: list[Recorder]) -> dict[str, types.ModuleType]:
    """Return stand-ins for the modules of a release."""
    pendulum = types.ModuleType("pendulum")
    pendulum.datetime = lambda *day, tz: (day, tz)  # type: ignore[attr-defined]
    modules = {"pendulum": pendulum}
    for name, keywords in RECORDED[release]["keywords"].items():
        package, _, kind = name.rpartition(".")
        parts = package.split(".")
        for end in range(1, len(parts) + 1):
            whole = ".".join(parts[:end])
            modules.setdefault(whole, types.ModuleType(whole)).__path__ = []
        setattr(modules[package], kind, type(kind, (Recorder,), {"keywords": tuple(keywords), "made": made}))
    return modules


def load(text: str, release: str) -> tuple[dict[str, Any], dict[str, Recorder]]:
    """Execute a DAG file; return its names, and what it made by task or class."""
    made: list[Recorder] = []
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("airflow", "pendulum")}
    for name in kept:
        del sys.modules[name]
    stands = modules_of(release, made)
    sys.modules.update(stands)
    try:
        names: dict[str, Any] = {}
        exec(compile(text, "dag.py", "exec"), names)  # noqa: S102 - our own file is what is tested
    finally:
        for name in stands:
            del sys.modules[name]
        sys.modules.update(kept)
    return names, {each.values.get("task_id", type(each).__name__): each for each in made}


def rendered(value: Any) -> Any:
    """Return what Airflow makes of a templated field that holds nothing but text or one string literal.

    Jinja: a literal is decoded like this (lexer, TOKEN_STRING); of other text the last newline goes.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("{{ ") and value.endswith(" }}"):
        literal = value[3:-3]
        assert literal[0] == literal[-1]
        assert literal[0] in "'\""
        inner = literal[1:-1]
        assert literal[0] not in inner.replace("\\\\", "").replace("\\" + literal[0], "")
        return inner.encode("ascii", "backslashreplace").decode("unicode-escape")
    assert "{" not in value
    return value.removesuffix("\n")


@pytest.mark.parametrize("release", RECORDED)
def test_dry_run_then_notebook_then_sealing(ask: Callable[..., Asked], release: str) -> None:
    names, made = load(airflow.dag(ask(GUARDED, ticket="CHG-1"), Path("/srv/credscale")), release)
    dag, plan, run, seal = made["DAG"].values, made["plan"].values, made["run"].values, made["seal"].values
    assert dag["dag_id"] == "credscale-prod-shard-migrate"
    assert (dag["schedule"], dag["catchup"], dag["max_active_runs"]) == (None, False, 1)
    assert dag["default_args"] == {"retries": 0, "pre_execute": names["enter"]}
    assert dag["start_date"][1] == "Europe/Berlin"
    assert made["plan"].below == [made["run"]]
    assert made["run"].below == [made["seal"]]
    assert seal["trigger_rule"] == "all_done"
    assert "trigger_rule" not in plan | run
    assert run["input_nb"].endswith("}}/input.ipynb")
    assert run["output_nb"] == run["input_nb"].replace("input.ipynb", "output.ipynb")
    assert (
        run["parameters"]["run_folder"] == seal["op_kwargs"]["folder"] == run["input_nb"].removesuffix("/input.ipynb")
    )
    assert "task_ids='plan'" in run["input_nb"]


def test_a_person_types_ticket_and_confirmation(ask: Callable[..., Asked]) -> None:
    _, made = load(airflow.dag(ask(GUARDED, ticket="CHG-1"), Path("/srv")), "3.3.2")
    fields = {name: each.args[0] for name, each in made["DAG"].values["params"].items()}
    assert fields == {"ticket": "CHG-1", "confirm": ""}
    given = made["run"].values["parameters"]
    assert (given["ticket"], given["confirm"]) == ("{{ params.ticket }}", "{{ params.confirm }}")
    assert "required" in made["DAG"].values["params"]["ticket"].values["description"]
    _, made = load(airflow.dag(ask(cron="0 2 * * 6"), Path("/srv")), "3.3.2")
    assert list(made["DAG"].values["params"]) == ["ticket"]
    assert made["run"].values["parameters"]["confirm"] == ""
    assert made["DAG"].values["schedule"] == "0 2 * * 6"


def test_the_notebook_has_every_parameter_that_the_file_gives(ask: Callable[..., Asked]) -> None:
    from credscale.frontends.notebook import build, check_parameters

    asked = ask()
    _, made = load(airflow.dag(asked, Path("/srv")), "3.3.2")
    check_parameters(build(asked.runbook), made["run"].values["parameters"])
    assert made["run"].values["parameters"]["chunk_size_mb"] == 32  # the environment's own, which a notebook has not


@pytest.mark.parametrize("release", RECORDED)
def test_hostile_values_arrive_as_they_are(ask: Callable[..., Asked], release: str) -> None:
    asked = ask(ticket=HOSTILE, settings=[f"main_query={HOSTILE}"], command=f"invoke {HOSTILE}")
    text = airflow.dag(asked, Path("/srv/it's ü"))
    assert text.isascii()
    names, made = load(text, release)
    assert names["PARAMETERS"] == asked.params
    assert names["PROJECT"] == "/srv/it's ü"
    given = made["run"].values["parameters"]
    assert rendered(given["main_query"]) == asked.params["main_query"] == HOSTILE
    assert {name: rendered(given[name]) for name in asked.params} == asked.params
    assert made["DAG"].values["params"]["ticket"].args == (HOSTILE,)


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("{}%#\\'\"\n\r")))
def test_every_text_survives_templating(value: str) -> None:
    assert rendered(airflow.untemplated(value)) == value


@pytest.mark.parametrize("value", [0, 1.5, True])
def test_other_values_keep_their_type(value: float) -> None:
    assert airflow.untemplated(value) is value


def test_a_project_that_papermill_would_take_for_a_pattern(ask: Callable[..., Asked]) -> None:
    for project in ("relative", "/srv/{x}"):
        with pytest.raises(EnvironmentInvalid, match="--project"):
            airflow.dag(ask(), Path(project))


def test_an_environment_of_the_project_is_named_as_the_worker_finds_it(
    ask: Callable[..., Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask()
    assert airflow.environment_file(asked) == str(asked.environment.path)
    monkeypatch.chdir(tmp_path)
    assert airflow.environment_file(asked) == "environment.yaml"


def test_no_secret_enters_the_file(ask: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDSCALE_TEST_URI", "mongodb://u:hunter2hunter2@h:1")
    text = "name: test\npolicy: {confirm: none}\nmongo: {uri: env:CREDSCALE_TEST_URI}\n"
    assert "hunter2" not in airflow.dag(ask(text), Path("/srv"))


def test_tasks_run_in_the_project(ask: Callable[..., Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path.resolve() / "project"
    project.mkdir()
    names, _ = load(airflow.dag(ask(), project), "3.3.2")
    monkeypatch.chdir(tmp_path)
    names["enter"]({})
    assert os.getcwd() == str(project)  # noqa: PTH109 - what it changes
