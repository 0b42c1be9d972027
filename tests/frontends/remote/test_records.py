"""What this machine remembers of the runs it sent away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import UnknownTarget
from credscale.frontends.remote.records import Sent, away, chosen, forget, remember

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "20261123T220000Z-aaaaaa", "20261123T230000Z-aabbbb"


@pytest.fixture(autouse=True)
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in (OLD, NEW):
        remember(Sent(run, "shard-migrate", "prod", "prod", "bastion", {"yes": True, "params": {"namespace": "a.b"}}))


def test_found_by_the_beginning_or_as_the_last() -> None:
    assert [sent.run for sent in away()] == [NEW, OLD]
    found = chosen("last", away())
    assert found is not None
    assert (found.run, found.flags["params"]) == (NEW, {"namespace": "a.b"})
    for wanted in (OLD, "20261123T22", "aaaa"):
        found = chosen(wanted, away())
        assert found is not None
        assert found.run == OLD
    with pytest.raises(UnknownTarget, match="2 runs begin with 'aa'"):
        chosen("aa", away())
    assert chosen("bb", away()) is None
    assert chosen("", away()) is None


def test_forgotten_once_it_is_back() -> None:
    forget(NEW)
    forget(NEW)
    assert [sent.run for sent in away()] == [OLD]
    assert str(away()[0].folder) == f"artifacts/prod/shard-migrate/{OLD}"
