"""What is asked for, as the command line would give it, on environments of a temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from credscale.frontends.schedule import asked as asking

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.frontends.schedule.asked import Asked

ROOT = Path(__file__).parents[3]
PLAIN = """\
name: plain
policy: {confirm: none}
mongo: {uri: "mongodb://mongos1:27017"}
runbooks: {shard-migrate: {chunk_size_mb: 32}}
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """Return a function that asks for a runbook on an environment given as YAML."""
    monkeypatch.chdir(ROOT)

    def run(text: str = PLAIN, runbook: str = "shard-migrate", **given: Any) -> Asked:
        path = tmp_path / "environment.yaml"
        path.write_text(text, encoding="utf-8")
        values: dict[str, Any] = {"ticket": "", "cron": "", "settings": (), "command": "invoke schedule.x"} | given
        return asking.ask(runbook, str(path), **values)

    return run
