"""Record which keywords Airflow's classes take, with a Python that has Airflow and its papermill provider.

    $CREDSCALE_AIRFLOW_PYTHON tests/frontends/schedule/record_airflow.py

What is recorded for another release is kept: the generated file must suit them all.
"""

from __future__ import annotations

import inspect
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[2] / "cases/schedule/airflow_signatures.json"
PACKAGES = ("apache-airflow-providers-papermill", "apache-airflow-providers-standard")


def keywords(kind: type) -> list[str]:
    """Return the keywords that a class and those it inherits from take."""
    found = {
        name
        for base in kind.__mro__
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    return sorted(found - {"self", "args", "kwargs"})


def classes() -> dict[str, type]:
    """Return the classes by the names that the generated file imports them by."""
    from airflow.providers.papermill.operators.papermill import PapermillOperator

    found: dict[str, Any] = {"airflow.providers.papermill.operators.papermill.PapermillOperator": PapermillOperator}
    try:
        from airflow.providers.standard.operators.python import PythonOperator
        from airflow.sdk import DAG, Param

        found |= {"airflow.sdk.DAG": DAG, "airflow.sdk.Param": Param}
        found["airflow.providers.standard.operators.python.PythonOperator"] = PythonOperator
    except ImportError:
        from airflow import DAG
        from airflow.models.param import Param
        from airflow.operators.python import PythonOperator

        found |= {"airflow.DAG": DAG, "airflow.models.param.Param": Param}
        found["airflow.operators.python.PythonOperator"] = PythonOperator
    return found


def main() -> None:
    """Write the file."""
    kept = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    release = version("apache-airflow")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    kept[release] = {"packages": versions, "keywords": {name: keywords(kind) for name, kind in classes().items()}}
    TARGET.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
