"""An Airflow DAG: dry run, the runbook's notebook through PapermillOperator, sealing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.frontends.schedule.asked import Asked

# The same file serves Airflow 3 and 2.10: only the imports differ. A value goes into it as a Python literal. Papermill
# and the kernel resolve ".credscale" and "artifacts" in the folder that they start in, hence pre_execute.
_TEMPLATE = """\
# {title}
#
# Runbook {runbook} on {environment}, for Airflow 3 and 2.10 with apache-airflow-providers-papermill. Secrets are
# references in the environment file; the worker resolves them. Write this file again rather than edit it:
# {command}

from __future__ import annotations

import os

import pendulum
from airflow.providers.papermill.operators.papermill import PapermillOperator

try:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG, Param
except ImportError:  # Airflow 2.10
    from airflow import DAG
    from airflow.models.param import Param
    from airflow.operators.python import PythonOperator

PROJECT = {project}  # on the worker: runbooks/, notebooks/ and tasks.py
RUNBOOK = {runbook_literal}
ENVIRONMENT = {environment_file}
PARAMETERS = {parameters}
FOLDER = "{{{{ ti.xcom_pull(task_ids='plan') or '' }}}}"  # of this run's evidence; the task plan makes it


def enter(context):
    os.chdir(PROJECT)


def plan(ticket):
    from credscale.frontends.schedule import worker

    return worker.plan(RUNBOOK, ENVIRONMENT, ticket, PARAMETERS)


def seal(folder):
    from credscale.frontends.schedule import worker

    worker.seal(folder)


with DAG(
    dag_id={dag_id},
    description={description},
    schedule={schedule},
    start_date=pendulum.datetime(2025, 1, 1, tz={timezone}),
    catchup=False,
    max_active_runs=1,
    default_args={{"retries": 0, "pre_execute": enter}},  # running it again is the resume, but a person decides
    params={{
{params}
    }},
    tags=["credscale", {environment_literal}],
) as dag:
    planned = PythonOperator(
        task_id="plan",
        python_callable=plan,
        op_kwargs={{"ticket": "{{{{ params.ticket }}}}"}},
    )
    ran = PapermillOperator(
        task_id="run",
        input_nb=FOLDER + "/input.ipynb",  # the committed notebook, as the task plan found it
        output_nb=FOLDER + "/output.ipynb",
        parameters={{
            "environment": ENVIRONMENT,
            "ticket": "{{{{ params.ticket }}}}",
            "confirm": {confirm},
            "run_folder": FOLDER,
            **PARAMETERS,{escaped}
        }},
        do_xcom_push=False,
    )
    sealed = PythonOperator(
        task_id="seal",
        python_callable=seal,
        op_kwargs={{"folder": FOLDER}},
        trigger_rule="all_done",  # a failed run leaves evidence too; this task then fails, and with it the DAG run
    )
    planned >> ran >> sealed
"""


def dag(asked: Asked, project: Path) -> str:
    """Return a DAG as Python source; it is ASCII, whatever the values are.

    Args:
        asked: what is to be run.
        project: the absolute path of the checkout on the worker.

    Raises:
        EnvironmentInvalid: the path holds braces, which papermill takes for a pattern.
    """
    if not project.is_absolute() or set("{}") & set(str(project)):
        raise EnvironmentInvalid(
            f"--project {str(project)!r}: give an absolute path without braces; papermill takes them for a pattern"
        )
    environment = asked.environment
    return _TEMPLATE.format(
        title=_comment(asked.runbook.title),
        runbook=asked.runbook.name,
        environment=environment.name,
        command=_comment(asked.command),
        project=ascii(str(project)),
        runbook_literal=ascii(asked.runbook.name),
        environment_literal=ascii(environment.name),
        environment_file=ascii(environment_file(asked)),
        parameters=_mapping(asked.params),
        dag_id=ascii(f"credscale-{environment.name}-{asked.runbook.name}"),
        description=ascii(asked.runbook.title),
        schedule=ascii(asked.cron) if asked.cron else "None",
        timezone=ascii(asked.timezone),
        params=_params(asked),
        confirm='"{{ params.confirm }}"' if asked.confirms else '""',
        escaped="".join(
            f"\n            {name!a}: {untemplated(value)!a},  # arrives as it is above"
            for name, value in asked.params.items()
            if untemplated(value) != value
        ),
    )


def environment_file(asked: Asked) -> str:
    """Return how the worker names the environment: relative to the project where it lies in it.

    Raises:
        EnvironmentInvalid: Airflow would take a part of the path for a template.
    """
    from pathlib import Path

    path = asked.environment.path
    text = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    if untemplated(text) != text:
        raise EnvironmentInvalid(f"the environment's path {text!r} must not hold braces or line breaks")
    return text


def untemplated(value: Any) -> Any:
    """Return a value for a templated field of Airflow, where it arrives as it is here.

    Jinja would evaluate braces, drop a last newline and turn every kind of newline into one.
    """
    if not isinstance(value, str) or (value.isprintable() and "{" not in value):
        return value
    return "{{ " + ascii(value) + " }}"  # Jinja reads a string with Python's escapes


def _params(asked: Asked) -> str:
    """Return the fields of the trigger form."""
    texts = {"ticket": (asked.ticket, "change ticket" + _required(asked))}
    if asked.confirms:
        wanted = f"type {asked.environment.name} to allow changes; without it the run is refused after the dry run"
        texts["confirm"] = ("", wanted)
    return "\n".join(
        f"        {name!a}: Param({default!a}, type='string', description={text!a}),"
        for name, (default, text) in texts.items()
    )


def _required(asked: Asked) -> str:
    needed = asked.environment.policy.require_ticket and not asked.runbook.reads_only
    return " (required)" if needed else ""


def _mapping(values: dict[str, Any]) -> str:
    return "\n".join(["{", *(f"    {name!a}: {value!a}," for name, value in values.items()), "}"])


def _comment(text: str) -> str:
    """Return a text that stays within its comment."""
    return re.sub(r"[^ -~]", lambda match: ascii(match[0])[1:-1], text)
