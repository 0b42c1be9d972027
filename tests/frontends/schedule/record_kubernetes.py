"""Record the schemas of Job, CronJob and ConfigMap from the package kubernetes-validate, without descriptions.

    pip install kubernetes-validate && python tests/frontends/schedule/record_kubernetes.py

The strict ones: a key that the API has not got is an error.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

RELEASE = "v1.34.0"
KINDS = {"Job": "job-batch-v1", "CronJob": "cronjob-batch-v1", "ConfigMap": "configmap-v1"}
TARGET = Path(__file__).parents[2] / "cases/schedule/kubernetes_schema.json"


def trimmed(value: Any) -> Any:
    """Return a schema without its prose, and with references into the one file."""
    if isinstance(value, list):
        return [trimmed(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: trimmed(item) for key, item in value.items() if not (key == "description" and isinstance(item, str))}
    kept = {key: item for key, item in kept.items() if not key.startswith(("x-kubernetes", "$schema"))}
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = "#/definitions/" + kept["$ref"].rpartition("/")[2]
    return kept


def references(value: Any) -> set[str]:
    """Return the names of the definitions that a schema refers to."""
    if isinstance(value, list):
        return {name for item in value for name in references(item)}
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"].rpartition("/")[2]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*(references(item) for item in value.values()))


def main() -> None:
    """Write the file."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"{RELEASE}-local-strict"
    read = {name: json.loads((folder / f"{file}.json").read_text()) for name, file in KINDS.items()}
    known = json.loads((folder / "_definitions.json").read_text())["$defs"]
    kinds = {name: trimmed(schema) for name, schema in read.items()}
    definitions: dict[str, Any] = {}
    wanted = references(kinds)
    while wanted:
        definitions |= {name: trimmed(known[name]) for name in wanted}
        wanted = references(definitions) - definitions.keys()
    source = f"kubernetes-validate {version('kubernetes-validate')} (PyPI), Kubernetes {RELEASE}, strict"
    content = {"source": source, "kinds": kinds, "definitions": dict(sorted(definitions.items()))}
    TARGET.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
