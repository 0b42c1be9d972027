"""The tasks of the collection ``schedule``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Collection, task

from credscale.frontends.tools import _sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from invoke import Context

_HELP = {
    "runbook": "task name of the runbook, such as shard-migrate (required)",
    "env": "environment: a name in runbooks/environments, or a path to a YAML file (required)",
    "set": "a parameter of the runbook as name=value; may stand several times",
    "cron": "when, as five cron fields in the time zone of the maintenance window; without it a person starts each run",
    "force": "replace a file that differs",
}


@task(
    auto_shortflags=False,
    iterable=["set_"],
    help=_HELP
    | {
        "ticket": "change ticket; the trigger form's default",
        "project": "absolute path of the checkout on the worker (default: this folder)",
        "out": "folder of DAGs to write to, such as dags; without it the DAG is printed",
    },
)
@_sentences
def airflow(
    c: Context,  # noqa: ARG001 - invoke passes its context
    runbook: str,
    env: str,
    ticket: str = "",
    cron: str = "",
    set_: Sequence[str] | None = None,
    project: str = "",
    out: str = "",
    force: bool = False,
) -> None:
    """Write a runbook as an Airflow DAG: dry run, the notebook through PapermillOperator, sealed evidence.

    For Airflow 3 and 2.10 with apache-airflow-providers-papermill. The worker needs the checkout, credscale in its
    Python, and what the environment's secret references name. Where the environment wants runs confirmed, its name
    is to be typed when the DAG is triggered: a schedule cannot confirm by itself, so --cron is refused.
    """
    from credscale.frontends.schedule import airflow as dags
    from credscale.frontends.schedule.asked import ask, write

    asked = ask(runbook, env, ticket, cron, set_ or (), _command())
    text = dags.dag(asked, Path(project) if project else Path.cwd())
    if not out:
        sys.stdout.write(text)
        return
    path = Path(out) / f"credscale_{asked.environment.name}_{asked.runbook.name}.py".replace("-", "_")
    sys.stdout.write(f"{write(path, text, force=force)}\n")


@task(
    auto_shortflags=False,
    iterable=["set_"],
    help=_HELP
    | {
        "image": "container image with the checkout, credscale installed in it (required)",
        "claim": "PersistentVolumeClaim that keeps evidence, state and the signing key (required)",
        "secret": "Secret with the values behind the environment's secret references",
        "namespace": "namespace (default: that of whoever applies it)",
        "ticket": "change ticket; required where the environment's policy says so",
        "project": "absolute path of the checkout in the image (default: '/credscale')",
        "out": "file to write to, such as job.yaml; without it the YAML is printed",
    },
)
@_sentences
def kubernetes(
    c: Context,  # noqa: ARG001
    runbook: str,
    env: str,
    image: str,
    claim: str,
    secret: str = "",
    namespace: str = "",
    ticket: str = "",
    cron: str = "",
    set_: Sequence[str] | None = None,
    project: str = "/credscale",
    out: str = "",
    force: bool = False,
) -> None:
    """Write a runbook as a Kubernetes Job, or with --cron as a CronJob, with the environment file in a ConfigMap.

    Whoever applies it confirms its changes. It is never started twice by itself, has no deadline, and gets five
    minutes to put back what it changed when its pod is told to end. References env:NAME become variables and
    file:PATH files from the Secret; keyring: is refused.
    """
    from credscale.frontends.schedule import kubernetes as jobs
    from credscale.frontends.schedule.asked import ask, write

    asked = ask(runbook, env, ticket, cron, set_ or (), _command())
    text = jobs.manifest(asked, jobs.Cluster(image, claim, secret, namespace, project))
    sys.stdout.write(f"{write(Path(out), text, force=force)}\n" if out else text)


def _command() -> str:
    return shlex.join(["invoke", *sys.argv[1:]])


schedule = Collection("schedule", airflow, kubernetes)
