"""The journal chains, survives a torn end, and shows any change."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credscale.core.errors import JournalBroken
from credscale.core.journal import FIRST, Journal, masked, read_journal, run_status, verify_journal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("run_started", run="r1")
    journal.append("note", text="größer\n»zitiert«")
    journal.append("progress", done=1, total=2, unit="chunks")
    journal.append("run_finished", status="ok", text="done", changes=0)
    journal.close()
    return path


def test_lines_follow_the_contract(written: Path) -> None:
    events = list(read_journal(written))
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert events[0]["prev"] == FIRST
    assert all(set(event) >= {"seq", "time", "event", "prev"} for event in events)
    assert verify_journal(written) == 4
    assert run_status(events) == "ok"


def test_without_a_last_line_the_process_was_killed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("run_started")
    journal.close()
    assert run_status(read_journal(tmp_path / "j")) == "killed"


def test_unknown_event_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown journal event"):
        Journal(None).append("step_begun")


@pytest.mark.parametrize("cut", [1, 20, 90])
def test_continues_after_a_torn_line(written: Path, cut: int) -> None:
    written.write_bytes(written.read_bytes()[:-cut])
    journal = Journal(written)
    journal.append("run_finished", status="aborted", text="", changes=0)
    journal.close()
    assert verify_journal(written) == 4
    assert run_status(read_journal(written)) == "aborted"


def test_continues_a_file_whose_only_line_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"seq":1,"ti')
    journal = Journal(path)
    journal.append("note", text="x")
    journal.close()
    assert verify_journal(path) == 1


@settings(max_examples=60)
@given(st.data())
def test_any_changed_byte_is_found_with_its_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    journal = Journal(path)
    for number in range(5):
        journal.append("note", text=f"line {number}")
    journal.close()
    content = bytearray(path.read_bytes())
    ends = [index for index, byte in enumerate(content) if byte == 10]
    position = data.draw(st.integers(0, ends[-2]))  # the last line is held by the manifest, not by the chain
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    line = sum(end < position for end in ends) + 1
    with pytest.raises(JournalBroken) as caught:
        verify_journal(path)
    assert caught.value.line in (line, line + 1)


def test_a_removed_line_is_found(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(JournalBroken, match="line 2"):
        verify_journal(written)


def test_masks_before_hashing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", lambda text: text.replace("hunter2", "***"))
    journal.append("note", text="password hunter2", deep=[{"hunter2": ("hunter2", 5)}])
    journal.close()
    assert "hunter2" not in (tmp_path / "j").read_text()
    assert verify_journal(tmp_path / "j") == 1


def test_masked_leaves_other_values_alone() -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "x"}}
    assert json.dumps(masked(value, str.upper)) == json.dumps({"A": [1, 2.5, None, True], "B": {"C": "X"}})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_writing_waits_for_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("note", text="1")
    monkeypatch.setattr("credscale.core.journal.os.fsync", lambda _: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        journal.append("note", text="2")
    monkeypatch.undo()
    journal.append("note", text="3")
    journal.close()
    assert verify_journal(tmp_path / "j") == 3


def test_changes_are_counted_across_processes(tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal(tmp_path / "j")
        journal.append("change_finished", status="done")
        journal.append("change_finished", status="failed")
        journal.close()
        assert journal.changes_made() in (1, 2)
    assert journal.changes_made() == 2
