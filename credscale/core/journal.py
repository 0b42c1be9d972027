"""The journal: hash-chained JSON lines, written as things happen.

Every line carries the sha256 of the bytes of the line before it, so that a line changed, lost or inserted later shows.
A line is on disk before the change it announces is made; progress lines alone are not forced to disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from credscale.core.errors import JournalBroken
from credscale.core.signals import uninterrupted

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = frozenset(
    {
        "run_started",
        "step_started",
        "change_planned",
        "change_started",
        "change_finished",
        "progress",
        "note",
        "hold",
        "step_finished",
        "run_finished",
    }
)
FIRST = "0" * 64

Event = dict[str, Any]
Listener = Callable[[Event], None]


def utc_now() -> str:
    """Return the time as UTC ISO-8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(value: object) -> str:
    """Serialize compactly; what JSON lacks becomes its string."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Apply a text mask to every string inside a JSON-compatible value."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(str(key)): masked(item, mask) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, mask) for item in value]
    return value


class Journal:
    """Append events to a file, or keep them in memory when there is no path (a plan).

    Args:
        path: the file; an existing one is continued, its torn last line (a killed writer) cut off first.
        mask: hides secrets in every string before a line is hashed.
    """

    def __init__(self, path: Path | None, mask: Callable[[str], str] = lambda text: text) -> None:
        self.path = path
        self.mask = mask
        self.events: list[Event] = []  # in memory only without a path: a week of progress would fill it
        self._count = 0
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._previous = FIRST
        self._file = None
        if path is not None:
            self._continue(path)
            self._file = path.open("ab")

    def _continue(self, path: Path) -> None:
        if not path.exists():
            return
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        if whole:
            self._count = whole.count(b"\n") + 1
            self._previous = hashlib.sha256(whole.split(b"\n")[-1]).hexdigest()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with every event from now on."""
        self._listeners.append(listener)

    def append(self, event: str, **data: Any) -> Event:
        """Write one event and return it as written.

        Args:
            event: one of ``EVENTS``.
            data: the event's own keys, JSON-compatible.
        """
        if event not in EVENTS:
            raise ValueError(f"unknown journal event {event!r}")
        with uninterrupted(), self._lock:  # a line half-accounted for would look like a forged one
            entry = {"seq": self._count + 1, "time": utc_now(), "event": event, "prev": self._previous}
            entry |= masked(data, self.mask)
            line = to_json(entry).encode()
            if self._file is not None:
                self._file.write(line + b"\n")
                self._file.flush()
                if event != "progress":
                    os.fsync(self._file.fileno())
            elif self.path is None:
                self.events.append(json.loads(line))
            self._previous = hashlib.sha256(line).hexdigest()
            self._count += 1
        for listener in self._listeners:
            listener(entry)
        return entry

    def changes_made(self) -> int:
        """Return how many changes were finished, also by a process that wrote this journal before."""
        events = read_journal(self.path) if self.path is not None else iter(self.events)
        return sum(event["event"] == "change_finished" and event["status"] == "done" for event in events)

    def close(self) -> None:
        """Close the file; the journal can still be read."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_journal(path: Path) -> Iterator[Event]:
    """Yield the whole lines of a journal, without checking the chain; a torn last line is left out.

    Raises:
        JournalBroken: a whole line is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _parse(path, number, line)


def verify_journal(path: Path) -> int:
    """Check the chain and return the number of lines.

    Raises:
        JournalBroken: names the first line that does not follow from the one before it.
    """
    previous, number = FIRST, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                raise JournalBroken(path, number, "is cut off in the middle")
            event = _parse(path, number, line)
            if event.get("prev") != previous:
                raise JournalBroken(path, number, "does not follow from the line before it; a line was changed or lost")
            if event.get("seq") != number:
                raise JournalBroken(path, number, f"is numbered {event.get('seq')}")
            previous = hashlib.sha256(line[:-1]).hexdigest()
    return number


def _parse(path: Path, number: int, line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise JournalBroken(path, number, f"is not JSON ({error})") from None
    if not isinstance(event, dict):
        raise JournalBroken(path, number, "is not a JSON object")
    return event


def run_status(events: Iterable[Event]) -> str:
    """Return ``ok``, ``failed``, ``aborted`` or ``interrupted``; ``killed`` when the journal has no end."""
    finished = [event["status"] for event in events if event["event"] == "run_finished"]
    return str(finished[-1]) if finished else "killed"
