"""Tasks come from signatures; the catalogue is only a cache of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from invoke import Exit, Program
from invoke.parser import Parser, ParserContext

from credscale.core.runbook import Runbook
from credscale.frontends import catalogue, cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[catalogue.Entry]:
    monkeypatch.chdir(tmp_path)
    return catalogue.entries()


def entry(entries: list[catalogue.Entry], name: str) -> catalogue.Entry:
    return next(each for each in entries if each.name == name)


def test_runbooks_stand_at_the_top_and_steps_in_their_technology(entries: list[catalogue.Entry]) -> None:
    names = cli.namespace(entries).task_names
    assert {"shard-migrate", "mongo.stop-balancer", "mongo.preflight"} <= set(names)


def test_flags_come_from_the_signature_with_their_help(entries: list[catalogue.Entry]) -> None:
    flags = {argument.name: argument for argument in cli.task_of(entry(entries, "shard-migrate")).get_arguments()}
    assert {"env", "dry_run", "yes", "ticket", "on", "in_process", "json", "namespace", "chunk_size_mb"} <= set(flags)
    assert "default: 64" in (flags["chunk_size_mb"].help or "")
    assert all(len(argument.names) == 1 for argument in flags.values()), "no automatic short flags"


def test_the_cache_gives_the_same_and_is_dropped_when_a_source_changes(
    entries: list[catalogue.Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.loads(catalogue.CACHE.read_text())
    assert [catalogue.Entry(*each) for each in kept["entries"]] == entries
    catalogue.CACHE.write_text(json.dumps(kept | {"entries": []}))
    assert catalogue.entries() == []
    monkeypatch.setattr(catalogue, "_fingerprint", lambda: "another")
    assert catalogue.entries() == entries


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sources": 1}'])
def test_a_broken_cache_is_made_anew(entries: list[catalogue.Entry], content: str) -> None:
    catalogue.CACHE.write_text(content)
    assert catalogue.entries() == entries


def test_a_step_becomes_a_runbook_with_the_runbooks_defaults(entries: list[catalogue.Entry]) -> None:
    runbook = catalogue.runbook_behind(entry(entries, "set-chunk-size"))
    assert isinstance(runbook, Runbook)
    assert (runbook.name, runbook.has_notebook) == ("mongo.set-chunk-size", False)
    assert runbook.coerce({}) == {"chunk_size_mb": 64}
    assert runbook.inherited == {"chunk_size_mb"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["shard-migrate", "--dry-rnu"], "Did you mean --dry-run?"),
        (["shard-migrat"], "Did you mean shard-migrate?"),
        (["xyz"], "invoke --list"),
    ],
)
def test_usage_errors_exit_2_and_name_the_nearest(
    entries: list[catalogue.Entry], words: list[str], expected: str
) -> None:
    class Ours(Program):
        pass

    cli.answer_usage_errors_with_2(Ours)
    program = Ours(namespace=cli.namespace(entries))
    program.create_config()
    program.parse_core(["invoke", *words])
    program.collection = program.namespace
    program.parse_collection()
    with pytest.raises(Exit) as caught:
        program.parse_tasks()
    assert caught.value.code == 2
    assert expected in str(caught.value.message)
    assert "Nothing was changed" in str(caught.value.message)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--accept-scatter-gather"], True),
        (["--accept-scatter-gather", "--yes"], True),
        (["--accept-scatter-gather", "false"], "false"),
        (["--accept-scatter-gather=true", "--yes"], "true"),
        ([], None),
    ],
)
def test_a_switch_may_stand_without_a_value(
    entries: list[catalogue.Entry], words: list[str], value: str | bool | None
) -> None:
    task = cli.task_of(entry(entries, "shard-migrate"))
    parser = Parser(contexts=[ParserContext(name="shard-migrate", args=task.get_arguments())])
    (found,) = parser.parse_argv(["shard-migrate", *words])
    assert found.args["accept-scatter-gather"].value == value
