"""What of the lab is started for which run: nothing waits for a cluster that it does not need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from credscale import Context, lab, runbook
from credscale.core.environment import Environment
from credscale.core.errors import PreconditionFailed
from credscale.frontends import lab_view
from credscale.frontends.lab_view import raise_lab, status_table
from credscale.lab.processes import Plan, Process

if TYPE_CHECKING:
    from pathlib import Path

    from credscale.core.runbook import Runbook

NODES = [f"127.0.0.1:{port}" for port in range(10701, 10707)]


@runbook()
def migrate(ctx: Context) -> None:
    """Change MongoDB."""


@runbook(target="redis")
def failover(ctx: Context) -> None:
    """Change Redis."""


@runbook(reads_only=True, keep_going=True)
def status(ctx: Context) -> None:
    """Look at both."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(lab, "up", lambda *_: made.append("mongo"))
    monkeypatch.setattr(lab_view, "seed_with_bar", lambda *_: made.append("seed"))
    monkeypatch.setattr(lab, "redis_up", lambda *given: made.append(f"redis {len(given[1])}"))
    return made


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_view, "load", lambda _path: None)


def environment(*without: str) -> Environment:
    data: dict[str, Any] = {"name": "lab", "lab": {}, "mongo": {"uri": "file:uri"}, "redis": {"nodes": NODES}}
    return Environment.model_validate({name: value for name, value in data.items() if name not in without})


def raised(book: Runbook, *without: str) -> str:
    console = Console(record=True, width=160, quiet=False)
    with console.capture() as said:
        raise_lab(environment(*without), book, console)
    return said.get()


@pytest.mark.parametrize(
    ("book", "without", "started"),
    [
        (migrate, (), ["mongo", "seed"]),
        (failover, (), ["redis 6"]),
        (status, (), ["mongo", "seed", "redis 6"]),
        (status, ("redis",), ["mongo", "seed"]),
        (status, ("mongo",), ["redis 6"]),
        (migrate, ("lab",), []),
    ],
)
def test_what_is_started(calls: list[str], book: Runbook, without: tuple[str, ...], started: list[str]) -> None:
    raised(book, *without)
    assert calls == started


def test_that_redis_was_left_out_is_said_once(calls: list[str]) -> None:
    assert raised(migrate).count("Redis nodes are not needed") == 1
    assert raised(migrate, "redis") == ""
    assert raised(failover) == ""


def test_a_cluster_that_cannot_start_hides_nothing_of_a_look(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> None:
        raise PreconditionFailed("redis1 needs port 10701")

    monkeypatch.setattr(lab, "redis_up", taken)
    assert "redis1 needs port 10701" in raised(status)
    assert calls == ["mongo", "seed"]
    with pytest.raises(PreconditionFailed):
        raised(failover)
    raised(migrate)


def test_table_shows_both(tmp_path: Path) -> None:
    gone = Process(Plan("redis1", "redis", "", 10701, ("redis-server",), tmp_path / "log", tmp_path), 2**22 + 1, 1.0)
    console = Console(width=160)
    with console.capture() as said:
        console.print(status_table(None, [gone]))
    assert "MongoDB is down" in said.get()
    assert "127.0.0.1:10701" in said.get()
    assert "dead" in said.get()
