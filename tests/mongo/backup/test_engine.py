"""The engine is the one asked for, or the best that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.mongo.backup.engine import Tool, choose_engine, find_mongodump, parse_version

if TYPE_CHECKING:
    from pathlib import Path

FIT, OLD = Tool("/usr/bin/mongodump", (100, 3, 0)), Tool("/usr/bin/mongodump", (100, 2, 1))


@pytest.mark.parametrize(
    ("engine", "external", "host", "simulated", "tool", "chosen"),
    [
        ("auto", "", "", False, FIT, "mongodump"),
        ("auto", "", "", False, OLD, "native"),
        ("auto", "", "", False, None, "native"),
        ("auto", "", "", True, FIT, "native"),
        ("mongodump", "", "", True, FIT, "mongodump"),
        ("native", "", "", False, FIT, "native"),
        ("auto", "pbm:x", "", False, FIT, "external"),
        ("external", "pbm:x", "", False, None, "external"),
        ("auto", "", "backup1:/srv", False, None, "mongodump"),
        ("mongodump", "", "backup1:/srv", False, None, "mongodump"),
    ],
)
def test_choice(engine: str, external: str, host: str, simulated: bool, tool: Tool | None, chosen: str) -> None:
    assert choose_engine(engine, external=external, host=host, simulated=simulated, tool=tool) == chosen


@pytest.mark.parametrize(
    ("engine", "external", "host"),
    [
        ("dump", "", ""), ("", "", ""), ("external", "", ""), ("native", "pbm:x", ""), ("mongodump", "pbm:x", ""),
        ("native", "", "backup1:/srv"), ("auto", "pbm:x", "backup1:/srv"), ("external", "", "backup1:/srv"),
    ],
)  # fmt: skip
def test_contradictions(engine: str, external: str, host: str) -> None:
    with pytest.raises(EnvironmentInvalid):
        choose_engine(engine, external=external, host=host, simulated=False, tool=FIT)


@pytest.mark.parametrize(("tool", "reason"), [(None, "is not on this machine's PATH"), (OLD, r"before 100\.3")])
def test_a_mongodump_that_is_asked_for_and_no_good(tool: Tool | None, reason: str) -> None:
    with pytest.raises(PreconditionFailed, match=reason):
        choose_engine("mongodump", external="", host="", simulated=False, tool=tool)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mongodump version: 100.9.5\ngit version: 90481484c1\nGo version: go1.21.11\n", (100, 9, 5)),
        ("mongodump version: r4.2.8\ngit version: x\n", (4, 2, 8)),
        ("mongodump version: built-without-version-string\n", ()),
        ("", ()),
    ],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def test_a_program_that_does_not_run_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_mongodump() is None
    program = tmp_path / "mongodump"
    program.write_text("#!/nonexistent\n")
    program.chmod(0o755)
    found = find_mongodump()
    assert found == Tool(str(program), ())
    assert not found.fits
