"""The view shows each step once, its changes, and how far it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from credscale.frontends import progress
from credscale.frontends.progress import RunView, Tracker, human_bytes, human_seconds

EVENTS = [
    {"event": "step_started", "step": "backup"},
    {"event": "change_started", "step": "backup", "what": "dump [credibility_prod.analyses]"},
    {"event": "progress", "step": "backup", "done": 512, "total": 2048, "unit": "bytes"},
    {"event": "change_finished", "step": "backup", "what": "dump", "status": "done"},
    {"event": "note", "step": "backup", "text": "a note"},
    {"event": "step_finished", "step": "backup", "status": "changed", "summary": "20,000 documents", "duration": 1.5},
]


def drawn(*, terminal: bool, upto: int) -> str:
    out = io.StringIO()
    view = RunView(Console(file=out, force_terminal=terminal, width=100), "Run x")
    if terminal:
        for event in EVENTS[:upto]:
            view.update(event)
        view._console.print(view.render())
    else:
        with view:
            for event in EVENTS[:upto]:
                view.update(event)
    return out.getvalue()


def test_terminal_shows_the_open_step_with_its_change_and_bar() -> None:
    text = drawn(terminal=True, upto=3)
    assert "backup" in text
    assert "dump [credibility_prod.analyses]" in text
    assert "512 B of 2.0 KB" in text


def test_terminal_shows_finished_steps() -> None:
    text = drawn(terminal=True, upto=6)
    assert "20,000 documents" in text
    assert "a note" in text


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1.0)
    lines = drawn(terminal=False, upto=6).splitlines()
    assert lines[0] == "Run x"
    assert lines[1] == "  ✎ dump [credibility_prod.analyses]"
    assert lines[2].startswith("  … 512 B of 2.0 KB")
    assert lines[-1] == "✎ backup: 20,000 documents"


def test_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, 10.0))
    tracker = Tracker()
    tracker.update({"done": 0, "total": 100, "unit": "chunks"})
    tracker.update({"done": 50, "total": 100, "unit": "chunks"})
    assert tracker.text == "50 of 100 chunks · 5/s · 10 s left"


def test_an_eta_of_the_step_itself_wins_and_shards_are_shown() -> None:
    tracker = Tracker()
    shards = {"s1": {"chunks": 30, "bytes": 2048}, "s2": {"chunks": 10}}
    tracker.update({"done": 10, "total": 20, "unit": "chunks", "eta": 7200, "shards": shards})
    assert tracker.text == "10 of 20 chunks · 2 h 00 min left · s1 30 chunks 2.0 KB  s2 10 chunks"


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.0 MB"), (5e15, "4547.5 TB")])
def test_bytes(value: float, text: str) -> None:
    assert human_bytes(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3661, "1 h 01 min")])
def test_seconds(value: float, text: str) -> None:
    assert human_seconds(value) == text
