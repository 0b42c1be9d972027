from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from credscale.evidence import manifest
from credscale.evidence.manifest import load_or_create_key, sign, verify, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def signed(folder: Path, new_run: Any) -> Path:
    new_run(folder)
    (folder / "plan.json").write_text('{"changes": []}')
    (folder / "sub").mkdir()
    (folder / "sub" / "dump.bin").write_bytes(bytes(range(64)))
    write_manifest(folder, {"extra": 1})
    sign(folder, load_or_create_key())
    return folder


def _rewrite_line(folder: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines()
    event = json.loads(lines[number - 1])
    change(event)
    lines[number - 1] = json.dumps(event, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")


def test_manifest_tells_files_versions_and_origin(signed: Path) -> None:
    content = json.loads((signed / "manifest.json").read_text())
    assert set(content["files"]) == {"journal.jsonl", "plan.json", "sub/dump.bin"}
    assert content["files"]["sub/dump.bin"]["bytes"] == 64
    expected = {"operator": "ana", "host": "ops1", "engine": "simulated", "run": "ab12cd", "extra": 1}
    assert expected.items() <= content.items()
    assert {"python", "credscale", "pymongo", "papermill", "invoke"} <= set(content["versions"])
    assert set(content["git"]) == {"commit", "dirty"}
    lines, head = manifest.journal_head(signed / "journal.jsonl")
    assert content["journal"] == {"lines": lines, "head": head}


def test_outside_git_the_commit_is_unknown(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write_manifest(signed, {})
    content = json.loads((signed / "manifest.json").read_text())
    assert content["git"] == {"commit": "unknown", "dirty": "unknown"}


def test_untouched_evidence_is_ok_and_its_signer_known(signed: Path) -> None:
    found = verify(signed)
    assert (found.ok, found.problems, found.files, found.journal_lines) == (True, [], 3, 14)
    assert found.signer_known is True
    assert found.fingerprint == load_or_create_key().fingerprint
    assert "known here" in found.signer


def test_names_the_first_broken_journal_line(signed: Path) -> None:
    _rewrite_line(signed, 6, lambda event: event.update(summary="all fine"))
    found = verify(signed)
    assert found.problems[0].startswith("journal.jsonl: line 7: does not follow from the line before it")
    assert found.problems[1].startswith("journal.jsonl: was changed")
    assert found.journal_lines == 6


def test_names_a_changed_last_line(signed: Path) -> None:
    _rewrite_line(signed, 14, lambda event: event.update(text="fine"))
    assert verify(signed).problems[0].startswith("journal.jsonl: line 14: is not the last line that was signed")


def test_names_a_line_cut_off_at_the_end(signed: Path) -> None:
    path = signed / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    problems = verify(signed).problems
    assert "has no run_finished line; it belongs to a process that was killed" in problems[0]
    assert problems[1] == "journal.jsonl: line 13: is the last line, but 14 lines were signed"


def test_a_line_that_is_no_event_is_told(signed: Path) -> None:
    (signed / "journal.jsonl").write_text("[1]\n")
    assert verify(signed).problems[0] == "journal.jsonl: line 1: is not a JSON object"


def test_a_request_to_stop_that_comes_while_or_after_it_is_sealed_breaks_nothing(signed: Path) -> None:
    stop = signed / "stop"
    stop.touch()
    assert verify(signed).ok
    stop.write_text("hidden")
    assert verify(signed).problems == ["stop: was added; the manifest does not list it"]
    stop.unlink()
    stop.symlink_to("plan.json")
    assert verify(signed).problems == ["stop: was added; the manifest does not list it"]


def test_names_missing_added_and_changed_files(signed: Path) -> None:
    (signed / "plan.json").unlink()
    (signed / "manifest.txt").write_text("new")
    (signed / "sub" / "dump.bin").write_bytes(b"other")
    assert verify(signed).problems == [
        "plan.json: is missing",
        "manifest.txt: was added; the manifest does not list it",
        "sub/dump.bin: was changed; its sha256 is not the one in manifest.json",
    ]


def test_a_file_replaced_by_a_link_to_its_copy_shows(signed: Path, tmp_path: Path) -> None:
    shutil.move(signed / "plan.json", tmp_path / "plan.json")
    (signed / "plan.json").symlink_to(tmp_path / "plan.json")
    assert verify(signed).problems[0].startswith("plan.json: was changed")


def test_a_rewritten_manifest_does_not_fit_the_signature(signed: Path) -> None:
    (signed / "plan.json").write_text("{}")
    write_manifest(signed, {})
    assert verify(signed).problems == [
        "manifest.sig: the signature does not fit manifest.json; one of the two was changed after signing"
    ]


def test_a_killed_run_is_told(folder: Path, new_run: Any) -> None:
    new_run(folder, "killed")
    problems = verify(folder).problems
    assert "manifest.json: is missing; there is nothing to compare the files with" in problems
    assert "manifest.sig: is missing; nobody signed this folder" in problems
    assert "journal.jsonl: has no run_finished line; it belongs to a process that was killed" in problems


def test_signed_anew_by_somebody_else(signed: Path, key_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    own = load_or_create_key().fingerprint
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(tmp_path / "other"))
    write_manifest(signed, {"operator": "mallory"})
    other = load_or_create_key()
    sign(signed, other)
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(key_folder))
    found = verify(signed)
    assert (found.ok, found.signer_known) == (True, False)
    assert "this alone says nothing about who signed" in found.signer
    (key_folder / "trusted_keys").write_text(f"{own}\n")
    found = verify(signed)
    assert (found.ok, found.signer_known) == (False, False)
    assert found.problems == [f"manifest.sig: signed with {other.fingerprint}, which is none of the trusted keys"]
    assert verify(signed, [other.fingerprint]).ok
    assert not verify(signed, [own]).ok


def test_without_any_key_the_signer_stays_open(signed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CREDSCALE_KEY_DIR", str(tmp_path / "nobody"))
    found = verify(signed)
    assert (found.ok, found.signer_known) == (True, None)
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "journal.jsonl"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"files": 1}', b"[" * 100_000, None])
def test_broken_evidence_is_never_an_exception(signed: Path, name: str, content: bytes | None) -> None:
    (signed / name).unlink()
    if content is None:
        (signed / name).mkdir()
    else:
        (signed / name).write_bytes(content)
    found = verify(signed)
    assert not found.ok
    assert any(problem.startswith(name) for problem in found.problems)


def test_no_folder_is_a_problem(tmp_path: Path) -> None:
    assert verify(tmp_path / "gone").problems == [f"{tmp_path / 'gone'}: is not a folder"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(signed: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in signed.rglob("*") if path.is_file())))
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(before)
    changed[position] ^= 1 << bit
    path.write_bytes(bytes(changed))
    try:
        assert not verify(signed).ok
    finally:
        path.write_bytes(before)
