"""Seal a run's folder: redact, correct, render, hash, sign; in this order, so that what is hashed stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import CredscaleError
from credscale.core.journal import read_journal
from credscale.evidence import html, manifest, notebook, redact

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.secrets import Secrets
    from credscale.core.step import Result
    from credscale.evidence.manifest import SigningKey


def seal(folder: Path, secrets: Secrets, key: SigningKey, results: list[Result] | None = None) -> None:
    """Turn a finished run's folder into evidence.

    Args:
        folder: the artifact folder with its journal.
        secrets: hides the secrets; none of them may be left.
        key: signs the manifest.
        results: the results of a run without a kernel; they become the executed notebook's outputs.
    """
    events = list(read_journal(folder / "journal.jsonl"))
    _finish_notebook(folder, events, results)
    redact.redact_folder(folder, secrets.mask)
    html.render(folder)
    leaking = redact.find_secrets(folder, secrets.values)
    if leaking:
        names = ", ".join(path.name for path in leaking)
        raise CredscaleError(f"a secret stands in {names} of {folder}. It was not signed; do not pass it on")
    manifest.write_manifest(folder, {})
    manifest.sign(folder, key)


def _finish_notebook(folder: Path, events: list[dict[str, Any]], results: list[Result] | None) -> None:
    import nbformat

    executed = folder / "output.ipynb"
    source = executed if executed.exists() else folder / "input.ipynb"
    if not source.exists():
        return
    content = nbformat.read(source, as_version=4)
    if results is not None:
        content = notebook.fill_outputs(content, results)
    nbformat.write(notebook.correct_statuses(content, events), executed)
