from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from credscale.core.errors import UnknownTarget
from credscale.evidence.runs import find_run, list_runs


@pytest.fixture
def root(tmp_path: Path, new_run: Any) -> Path:
    root = tmp_path / "artifacts"
    new_run(root / "lab" / "shard-migrate" / "20260101T000000Z-aaaa11")
    new_run(root / "lab" / "shard-migrate" / "20260101T000001Z-aaab22", "failed", ticket="")
    new_run(root / "prod" / "redis-deploy" / "20260101T000002Z-cccc33", "killed", environment="prod")
    return root


def test_lists_newest_first(root: Path) -> None:
    runs = list_runs(root)
    assert [run.run for run in runs] == ["cccc33", "aaab22", "aaaa11"]
    assert [run.status for run in runs] == ["killed", "failed", "ok"]
    assert [run.changes for run in runs] == [1, 1, 2]
    assert [run.ticket for run in runs] == ["CHG-1042", None, "CHG-1042"]
    assert runs[0].duration is None
    assert runs[2].duration is not None
    assert (runs[2].environment, runs[2].runbook, runs[2].engine) == ("lab", "shard-migrate", "simulated")
    assert [run.run for run in list_runs(root, "prod")] == ["cccc33"]
    assert list_runs(root / "nowhere") == []


def test_what_is_still_on_its_way_is_no_run(root: Path) -> None:
    (root / "lab" / "shard-migrate" / ".20261123T220000Z-abcdef-x1").mkdir()
    assert len(list_runs(root)) == 3


@pytest.mark.parametrize("content", [None, b"", b"nonsense\n", b'{"event":"note"}\n', b'{"event":"run_started"}\n'])
def test_a_broken_folder_is_listed_as_broken(root: Path, content: bytes | None) -> None:
    folder = root / "lab" / "shard-migrate" / "20260102T030405Z-dddd44"
    folder.mkdir()
    if content is not None:
        (folder / "journal.jsonl").write_bytes(content)
    broken = next(run for run in list_runs(root) if run.run == "dddd44")
    assert (broken.status, broken.started, broken.changes) == ("broken", "2026-01-02T03:04:05.000Z", 0)


def test_an_end_outside_of_the_tail_is_found(root: Path) -> None:
    journal = root / "lab" / "shard-migrate" / "20260101T000000Z-aaaa11" / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"event":"note","time":"2026-01-01T00:00:00.000Z","text":"' + "x" * 70_000 + '"}\n')
    assert list_runs(root)[-1].status == "ok"


@pytest.mark.parametrize("wanted", ["cccc33", "c", "20260101T000002Z-cccc33", "last"])
def test_finds_by_id_beginning_folder_name_and_last(root: Path, wanted: str) -> None:
    assert find_run(root, wanted).name == "20260101T000002Z-cccc33"


def test_finds_by_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "prod" / "redis-deploy" / "20260101T000002Z-cccc33"
    assert find_run(root, folder) == folder
    assert find_run(root, f"{folder}/") == folder
    assert find_run(root, str(folder / "journal.jsonl")) == folder
    monkeypatch.chdir(folder.parent)
    assert find_run(Path("artifacts"), folder.name) == Path(folder.name)


def test_an_ambiguous_beginning_names_the_candidates(root: Path) -> None:
    with pytest.raises(
        UnknownTarget, match="2 runs begin with 'aaa': 20260101T000001Z-aaab22, 20260101T000000Z-aaaa11"
    ):
        find_run(root, "aaa")


@pytest.mark.parametrize("wanted", ["aaax11", "artifacts/lab/shard-migrate/20260101T000000Z-aaax11/", ""])
def test_an_unknown_run_comes_with_the_nearest(root: Path, wanted: str) -> None:
    with pytest.raises(UnknownTarget, match=r"The nearest is .*invoke report\.list"):
        find_run(root, wanted)


def test_without_runs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownTarget, match="there are no runs under"):
        find_run(tmp_path, "last")
