"""The docs say what the code does: commands exist, pages are fresh, versions agree, examples run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from invoke.parser import Parser, ParserContext

import credscale
from credscale.frontends import catalogue, reference

if TYPE_CHECKING:
    from invoke import Collection

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = re.compile(r"`(invoke [a-z][^`\n]*)`")


def commands(page: Path) -> list[str]:
    """Return the commands of a page's console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def mentioned() -> list[str]:
    """Return every invoke command that any page shows or names."""
    found = {command for page in PAGES for command in commands(page)}
    found |= {command for page in PAGES for command in WRITTEN.findall(page.read_text(encoding="utf-8"))}
    return sorted(command for command in found if command.startswith("invoke ") and "NAME" not in command)


@pytest.fixture(scope="module")
def namespace() -> Collection:
    import tasks

    return tasks.ns


@pytest.mark.parametrize("command", [command for command in mentioned() if not command.startswith("invoke --")])
def test_every_command_in_the_docs_parses(command: str, namespace: Collection) -> None:
    parser = Parser(contexts=namespace.to_contexts(), initial=ParserContext(), ignore_unknown=False)
    assert parser.parse_argv(shlex.split(command)[1:])


def test_the_reference_is_fresh() -> None:
    text = reference.build(catalogue.runbooks(), list(catalogue.steps()))
    assert (ROOT / reference.PAGE).read_text(encoding="utf-8") == text


def test_every_step_is_in_the_reference() -> None:
    text = (ROOT / reference.PAGE).read_text(encoding="utf-8")
    assert all(f"### `{catalogue.collection_of(step)}`: `{step.name}`\n" in text for step in catalogue.steps())


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert credscale.__version__ == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_public_names_are_sorted_and_there() -> None:
    assert credscale.__all__ == sorted(credscale.__all__)
    assert all(getattr(credscale, name) is not None for name in credscale.__all__)


@pytest.mark.scenario
@pytest.mark.timeout(600)
def test_the_tutorial_and_the_readme_run_as_written(tmp_path: Path) -> None:
    """In a copy of the checkout, with a smaller lab, every console line of both pages succeeds in order."""
    for name in ("runbooks", "notebooks", "tasks.py", "credscale"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    lab = tmp_path / "runbooks/environments/lab.yaml"
    lab.write_text(lab.read_text().replace("documents: 20000", "documents: 2000"))
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    try:
        for command in [*commands(ROOT / "docs/tutorial.md"), *commands(ROOT / "README.md")]:
            done = subprocess.run(
                shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
                stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    finally:
        subprocess.run(
            ["invoke", "lab.down", "--wipe"], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
