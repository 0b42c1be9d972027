"""Search an application's source for writes that a shard key breaks."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from credscale.core.errors import EnvironmentInvalid
from credscale.mongo.advice.calls import Call, belongs
from credscale.mongo.advice.shapes import filter_text, redact_filter, redact_update
from credscale.mongo.advice.source_javascript import javascript_calls
from credscale.mongo.advice.source_python import python_calls
from credscale.mongo.advice.targeting import SIMPLE
from credscale.mongo.advice.writes import Judgement, Write, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from credscale.mongo.cluster.facts import Key

Certainty = Literal["works", "depends", "breaks", "can't tell"]

SKIPPED = frozenset(
    {
        "node_modules", ".git", ".hg", ".venv", "venv", "env", "__pycache__", "dist", "build", ".next", "coverage",
        "site-packages", ".tox", ".mypy_cache", "vendor", "bower_components",
    }
)  # fmt: skip
JAVASCRIPT = frozenset({".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx"})
OTHER_LANGUAGES = frozenset({".java", ".kt", ".scala", ".go", ".rb", ".php", ".cs", ".rs", ".swift", ".cpp", ".ipynb"})
LARGEST_FILE = 1 << 20
MOST_FILES = 20_000
SECONDS = 120.0
BUILT_ELSEWHERE = "can't tell: filter is built elsewhere"
OPTIONS_ELSEWHERE = "can't tell: the options are built elsewhere, and as an upsert it would fail"


@dataclass(frozen=True)
class SourceFinding:
    """One write in the source and what becomes of it."""

    call: Call
    outcome: Certainty
    error: str
    note: str
    fields: str

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        return {
            "where": f"{self.call.file}:{self.call.line}",
            "call": f"{self.call.collection}.{self.call.name}" if self.call.collection else self.call.name,
            "filter": self.fields,
            "outcome": self.outcome,
            "error": self.error,
            "note": self.note,
        }


@dataclass
class Scan:
    """What was read, and what was not."""

    calls: list[Call] = field(default_factory=list)
    files: int = 0
    not_checked: list[str] = field(default_factory=list)


def scan_source(path: str, *, seconds: float = SECONDS) -> Scan:
    """Collect the writes in a file, or in all files below a folder.

    Args:
        path: file or folder; packages and builds in it are left out, symbolic links are not followed.
        seconds: after which the search ends and says so.

    Raises:
        EnvironmentInvalid: there is nothing at the path.
        MissingExtra: there is JavaScript or TypeScript and no parser for it.
    """
    root = Path(path)
    if not root.exists():
        raise EnvironmentInvalid(f"source: there is nothing at {path}")
    found, deadline = Scan(), time.monotonic() + seconds
    skipped: Counter[str] = Counter()
    for file in _files(root):
        if time.monotonic() > deadline or found.files >= MOST_FILES:
            found.not_checked.append(f"the search of {path} ended after {found.files} files; give a smaller folder")
            break
        if file.suffix in OTHER_LANGUAGES:
            skipped[file.suffix] += 1
        elif file.suffix in JAVASCRIPT or file.suffix == ".py":
            _read(file, str(file.relative_to(root)) if root.is_dir() else file.name, found)
    if skipped:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        found.not_checked.append(f"files in languages that are not read here: {listed}")
    return found


def _files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder in order."""
    if root.is_file():
        yield root
        return
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name not in SKIPPED)
        for name in sorted(names):
            file = Path(folder) / name
            if not file.is_symlink():
                yield file


def _read(file: Path, name: str, found: Scan) -> None:
    """Add the writes of one file."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            found.not_checked.append(f"{name} is larger than {LARGEST_FILE >> 10} KB")
            return
        text = file.read_text(encoding="utf-8")
        calls, whole = (
            (python_calls(text, name), True) if file.suffix == ".py" else javascript_calls(text, name, file.suffix)
        )
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        found.not_checked.append(f"{name} can't be read: {type(error).__name__}")
        return
    found.files += 1
    found.calls += calls
    if not whole:
        found.not_checked.append(f"{name} has syntax errors; writes in them are missing")


def judge_calls(
    calls: Sequence[Call], key: Key, version: Sequence[int], collection: str, *, collation: str = SIMPLE
) -> tuple[list[SourceFinding], dict[str, int]]:
    """Judge the writes on a collection.

    Args:
        calls: the writes found.
        key: the shard key.
        version: of mongos.
        collection: its name; a write that may be on another one is judged, but only as far as "can't tell".
        collation: its default collation.

    Returns:
        the findings, worst first; and the number of writes left out because they are on other collections, by name.
    """
    found, others = [], Counter[str]()
    for call in calls:
        ours = belongs(call.collection, call.certain, collection)
        if ours == "no":
            others[call.collection] += 1
        else:
            found.append(_judge(call, key, version, collation, sure=ours == "yes"))
    order = {"breaks": 0, "can't tell": 1, "depends": 2, "works": 3}
    return sorted(found, key=lambda each: order[each.outcome]), dict(others)


def _judge(call: Call, key: Key, version: Sequence[int], collation: str, *, sure: bool) -> SourceFinding:
    """Judge one write."""
    if call.filter is None:
        return SourceFinding(call, "can't tell", "", BUILT_ELSEWHERE, "")
    query, update = redact_filter(call.filter), None if call.update is None else redact_update(call.update)
    text = filter_text(query)
    plain, inserting = (
        judge(Write(call.operation, query, update, upsert), key, version, default_collation=collation)
        for upsert in (bool(call.upsert), True)
    )
    if call.upsert is None and plain.outcome != "breaks" and inserting.outcome == "breaks":
        return SourceFinding(call, "can't tell", inserting.text, OPTIONS_ELSEWHERE, text)
    if not sure and plain.outcome == "breaks":
        note = "can't tell: fails if it is on this collection, which the code does not show"
        return SourceFinding(call, "can't tell", plain.text, note, text)
    return SourceFinding(call, plain.outcome, plain.text, _notes(plain), text)


def _notes(judgement: Judgement) -> str:
    return "; ".join(judgement.notes)
