"""Notebooks are built from runbooks: same source, same bytes; every statement a cell."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import EnvironmentInvalid
from credscale.core.journal import Journal
from credscale.core.runbook import Runbook
from credscale.frontends import catalogue, notebook

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '''
from __future__ import annotations

from credscale.core.runbook import runbook
from credscale.core.step import Finding, step


@step()
def look(ctx, *, depth):
    """Look."""
    return Finding("seen")


@runbook()
def example(ctx, *, depth: int = 3, name: str = "it's") -> None:
    """Do an example.

    Because examples help.

    Args:
        depth: how deep
    """
    # ## First
    #
    # Prose about *this* step.
    found = look(ctx, depth=depth)
    look(
        ctx,
        depth=depth + 1,
    )
'''


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runbook:
    (tmp_path / "example.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "example", raising=False)
    module = importlib.import_module("example")
    assert isinstance(module.example, Runbook)
    return module.example


def test_cells(example: Runbook) -> None:
    cells = json.loads(notebook.build(example))["cells"]
    text = ["".join(cell["source"]) for cell in cells]
    assert text[0].startswith("# Do an example.\n\nBecause examples help.")
    assert "Args" not in text[0]
    assert cells[1]["metadata"]["tags"] == ["parameters"]
    assert 'depth = 3\nname = "it\'s"' in text[1]
    assert "from credscale.core.step import Finding, step" in text[2]
    assert text[2].endswith(
        "ctx = open_run(example, environment, ticket, confirm, run_folder, dict(depth=depth, name=name))"
    )
    assert text[3] == "## First\n\nProse about *this* step."
    assert text[4] == "found = look(ctx, depth=depth)\nfound"
    assert cells[4]["metadata"]["credscale"] == {"step": "look"}
    assert text[5] == "look(\n    ctx,\n    depth=depth + 1,\n)"
    assert text[6] == "close_run(ctx, example)"
    for cell in cells:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")


def test_a_parameter_that_must_be_given_is_none_until_it_is(example: Runbook) -> None:
    example.parameters["depth"] = example.parameters["depth"].replace(default=inspect.Parameter.empty)
    assert "depth = None\n" in notebook._parameters(example)["source"]


def test_building_twice_gives_the_same_bytes(example: Runbook) -> None:
    assert notebook.build(example) == notebook.build(example)


def test_stale_until_built_and_again_after_an_edit(example: Runbook) -> None:
    path = notebook.path_of(example)
    assert notebook.stale([example]) == [path]
    path.parent.mkdir()
    path.write_text(notebook.build(example))
    assert notebook.stale([example]) == []
    path.write_text(path.read_text().replace("Prose", "Edited by hand"))
    assert notebook.stale([example]) == [path]


def test_a_parameter_the_notebook_lacks_is_refused(example: Runbook) -> None:
    built = notebook.build(example)
    notebook.check_parameters(built, {"depth": 1, "run_folder": "x"})
    with pytest.raises(EnvironmentInvalid, match="no parameter 'dpeth'"):
        notebook.check_parameters(built, {"dpeth": 1})


def test_tail_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tail = notebook.Tail(path)
    assert tail.read() == []
    journal = Journal(path)
    journal.append("note", text="1")
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"torn')
    assert [event["text"] for event in tail.read()] == ["1"]
    assert tail.read() == []


@pytest.mark.parametrize(
    ("events", "interrupts", "status", "words"),
    [
        ([("step_started", {})], 0, "aborted", "during backup"),
        (
            [("step_started", {}), ("step_finished", {"status": "failed", "error": "disk full"})],
            0,
            "failed",
            "disk full",
        ),
        ([("step_started", {}), ("step_finished", {"status": "ok", "error": None})], 0, "aborted", "without finishing"),
        ([("step_started", {})], 1, "interrupted", "operator"),
    ],
)
def test_endings(
    tmp_path: Path, events: list[tuple[str, dict[str, object]]], interrupts: int, status: str, words: str
) -> None:
    journal = Journal(tmp_path / "j")
    for event, data in events:
        journal.append(event, step="backup", **data)
    journal.close()
    found, text = notebook._ending(tmp_path / "j", RuntimeError("Kernel died"), interrupts)
    assert found == status
    assert words in text


def test_every_notebook_is_python() -> None:
    for runbook in catalogue.runbooks():
        for number, cell in enumerate(json.loads(notebook.build(runbook))["cells"]):
            if cell["cell_type"] == "code":
                compile("".join(cell["source"]), f"{runbook.name}, cell {number}", "exec")
