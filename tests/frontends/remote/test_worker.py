"""The run on the host: what it tells its terminals, and what it asks them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from credscale.core.errors import Refused
from credscale.frontends.remote import worker
from credscale.frontends.remote.worker import Distant, Stream


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)


def distant(folder: Path, *, answers: bool = True) -> Distant:
    stream = Stream(folder / "stream.jsonl", lambda text: text.replace("hunter2", "********"))
    return Distant(stream, folder, width=100, answers=answers)


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stream.jsonl").read_text().splitlines() if line]


def test_everything_becomes_records(tmp_path: Path) -> None:
    front = distant(tmp_path)
    with front.view("Run: example") as view:
        view.update({"event": "note", "text": "ü\n"})
    front.console.print("[bold]done[/]", "[yes/no]")
    records = told(tmp_path)
    assert records[:3] == [{"title": "Run: example"}, {"event": {"event": "note", "text": "ü\n"}}, {"close": True}]
    assert "".join(record["said"] for record in records[3:]).startswith("done ")


def test_an_answer_is_waited_for(tmp_path: Path) -> None:
    front = distant(tmp_path)
    assert front.ask is not None
    threading.Timer(0.05, (tmp_path / "answer").write_text, ["prod"]).start()
    assert front.ask("Type prod: ") == "prod"
    assert told(tmp_path) == [{"ask": "Type prod: "}, {"answered": True}]


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ANSWER_SECONDS", 0.03)
    front = distant(tmp_path)
    assert front.ask is not None
    with pytest.raises(Refused, match="nobody answered .* Nothing was changed"):
        front.ask("Type prod: ")
    assert told(tmp_path)[-1] == {"answered": True}


def test_stopped_instead_of_answered(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    front = distant(tmp_path)
    assert front.ask is not None
    with pytest.raises(Refused, match="stopped before anything was confirmed"):
        front.ask("Type prod: ")


def test_nobody_is_there_to_be_asked(tmp_path: Path) -> None:
    assert distant(tmp_path, answers=False).ask is None


def test_a_stop_that_came_before_anything_began(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with pytest.raises(Refused, match="stopped before it began"):
        distant(tmp_path).view("Plan")


def test_no_secret_reaches_the_disk(tmp_path: Path) -> None:
    distant(tmp_path).console.print("the password is hunter2")
    assert told(tmp_path) == [{"said": "the password is ********\n"}]


def test_a_full_disk_leaves_out_what_only_shows(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "stream.jsonl", str)
    assert stream.write(said="before")
    (tmp_path / "stream.jsonl").write_bytes((tmp_path / "stream.jsonl").read_bytes() + b'{"said": "cut o')
    assert stream.write(said="after")
    lines = (tmp_path / "stream.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"said": "after"}
    assert not Stream(Path("/dev/full"), str).write(said="nowhere")
